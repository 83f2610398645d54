"""Runnable entry points of this repository; the wheel does without them."""
