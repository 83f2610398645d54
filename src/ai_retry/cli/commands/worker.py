"""``ai-retry worker``: runs accepted retries until it is told to stop."""

import logging
import os
import signal
import sys
import threading
from datetime import timedelta
from types import FrameType

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._shared import told
from ai_retry.worker import DEFAULT_CONCURRENCY


@click.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="Attempts at once.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to wait, once stopped, for what runs. Without it, until the calls have ended.",
)
def worker(*, concurrency: int, grace: float | None) -> None:
    """Run retries that were accepted for later (202), as many workers as you like, on any machines.

    SIGTERM or Ctrl-C stops reading, lets what runs end within its deadline, and exits with 0. After --grace, or at a
    second signal, it stops at once: what was running goes on elsewhere when its lease ends, and may have been paid for.
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
