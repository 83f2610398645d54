"""Crashes, cut links and races on the real stack, and the checker that reads what they left behind.

``python -m tests.faults run`` kills and cuts; ``python -m tests.faults.race`` lets many click at once.
"""
