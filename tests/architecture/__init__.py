"""Tests of how the code is cut."""
