"""One module per engine whose queue ``benchmarks.bench_queue`` compares: ``python -m benchmarks.queues.NAME URL ROLE``.

``drive`` is a process that enqueues what it is asked for and waits for it; ``work`` is a worker that stays until stdin
ends. Peers live in an environment of their own, so nothing but ``protocol`` is shared, and ``ours`` alone imports
``ai_retry``.
"""
