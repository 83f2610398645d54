"""One module per engine that ``benchmarks.late_finisher`` compares: ``python -m benchmarks.engines.NAME URL ORDER``.

Each plays the same scenario with its engine's own API on an empty database and prints a ``Report`` as its last line.
Peers live in an environment of their own, so nothing but ``ledger`` is shared, and ``ours`` alone imports ``ai_retry``.
"""
