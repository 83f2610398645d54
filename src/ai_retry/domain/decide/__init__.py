"""Decisions: a snapshot in, a change or a refusal out. Pure, and each exists once.

Endpoint, status page, dry run, worker and operator ask these functions; the numbers and conditions behind them are in
``policy``. A decision about an attempt that exists looks for its own token first: if an attempt has it, open or closed,
the change was applied, whatever became of the reply. That is the whole of idempotency.
"""
