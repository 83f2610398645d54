"""One module per engine whose rate ``benchmarks.measurements.attempts`` compares.

``python -m benchmarks.rates.NAME URL`` is a process that stays and does the attempts it is asked for. Peers live in
an environment of their own, so nothing but ``protocol`` is shared, and ``ours`` alone imports ``ai_retry``.
"""
