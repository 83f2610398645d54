"""Apps that ai-retry is tried on: small ones, with traits of real ones, and others composed of such traits."""
