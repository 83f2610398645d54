"""The storage contract, on every adapter."""
