"""``ai-retry worker``: runs accepted retries until it is stopped."""

import logging
import os
import sys
from datetime import timedelta

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._observing import Observed
from ai_retry.cli.commands._shared import reported
from ai_retry.cli.commands._stopping import stopped_by_signals
from ai_retry.config import DEFAULT_CONCURRENCY, Settings

_PORT = click.IntRange(1, 65535)


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
@click.option("--metrics-port", type=_PORT, metavar="PORT", help="Answer GET /metrics here, for Prometheus.")
@click.option("--health-port", type=_PORT, metavar="PORT", help="Answer GET /healthz here: 200, or 503.")
@click.option("--listen", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where both ports listen.")
def worker(
    *, concurrency: int, grace: float | None, metrics_port: int | None, health_port: int | None, listen: str
) -> None:
    """Run retries that were accepted for later. Start as many workers as you like, on any machines.

    After SIGTERM or Ctrl-C a worker starts nothing new, lets running calls end within their deadline, and exits with 0.
    After --grace, or at a second signal, it stops at once: another worker takes over when the lease ends, and the call
    may have been paid for.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ai_retry").setLevel(logging.INFO)
    with reported():
        settings = Settings.from_env()
        observed = Observed(settings, metrics_port=metrics_port, health_port=health_port)
        with (
            bootstrap.worker(settings, concurrency=concurrency, on_event=observed.hooks) as running,
            observed.answering(running.storage.state, listen),
        ):
            seconds = timedelta(seconds=grace) if grace is not None else None
            if not running.run(stopped_by_signals(), grace=seconds):
                os._exit(0)  # else the threads of calls that go on would be waited for, and their leases renewed
