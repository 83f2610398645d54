"""Crashes, cut links, locks, bad gateways and races on the real stack, and the checkers that read what they left.

``python -m tests.faults run`` kills and cuts, ``gateway`` answers nonsense, ``queue`` and ``outage`` do it to workers;
``python -m tests.faults.race`` lets many click at once.
"""
