"""``ai-retry worker``: runs accepted retries until it is stopped."""

import logging
import os
import signal
import sys
import threading
from datetime import timedelta
from types import FrameType

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._shared import told
from ai_retry.worker import DEFAULT_CONCURRENCY


@click.command(
    short_help="Run accepted retries until it is stopped.",
    epilog=examples("ai-retry worker", "ai-retry worker --concurrency 16 --grace 30"),
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="Run this many attempts at once.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Once stopped, wait this long for running calls; without it, until they have ended.",
)
def worker(*, concurrency: int, grace: float | None) -> None:
    """Run retries that were accepted for later. Start as many workers as you like, on any machines.

    After SIGTERM or Ctrl-C a worker starts nothing new, lets running calls end within their deadline, and exits with 0.
    After --grace, or at a second signal, it stops at once: another worker takes over when the lease ends, and the call
    may have been paid for.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ai_retry").setLevel(logging.INFO)
    with told(), bootstrap.worker(concurrency=concurrency) as running:
        seconds = timedelta(seconds=grace) if grace is not None else None
        if not running.run(_stopped_by_signals(), grace=seconds):
            os._exit(0)  # else the threads of calls that go on would be waited for, and their leases renewed


def _stopped_by_signals() -> threading.Event:
    """Return what the first signal sets; the second ends the process."""
    stop = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop
