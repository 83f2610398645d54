"""For tests of the library and of apps that use it: a clock, providers, and a storage in memory."""
