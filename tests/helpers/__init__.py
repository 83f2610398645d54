"""What tests of several kinds share: worlds to run an attempt in, steps to take there, and builders of values."""
