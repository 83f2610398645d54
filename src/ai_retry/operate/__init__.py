"""What operators do and read, by role and on record: one set of functions for console, command line and code."""
