"""``ai-retry webhooks``: delivers what waits for the webhook."""

import logging
import sys
from contextlib import closing
from dataclasses import asdict

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._shared import reported
from ai_retry.cli.commands._stopping import stopped_by_signals
from ai_retry.config import Settings
from ai_retry.domain.errors import NotConfigured
from ai_retry.logs import LOG


@click.command(
    short_help="Deliver messages to the webhook.",
    epilog=examples("ai-retry webhooks --once", "ai-retry webhooks"),
)
@click.option("--once", is_flag=True, help="Deliver what is due now, and end.")
def webhooks(*, once: bool) -> None:
    """Deliver what waits for the webhook (AI_RETRY_WEBHOOK_URL), until it is stopped.

    Workers do the same beside their work: this is for where none runs. Messages are written from the first run on, for
    seven days after each. Exit code 1: some were not taken by the receiver. They are tried again later, for about three
    days.
    """
    from ai_retry.webhooks.deliveries import Deliveries  # noqa: PLC0415 - imports requests
    from ai_retry.webhooks.running import receiver_of  # noqa: PLC0415

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    with reported():
        settings = Settings.from_env(asks_provider=False)
        if settings.webhook_url is None:
            raise NotConfigured("AI_RETRY_WEBHOOK_URL and AI_RETRY_WEBHOOK_SECRET are missing")
        with closing(bootstrap.open_storage(settings)) as storage, closing(receiver_of(settings)) as receiver:
            deliveries = Deliveries(storage, receiver, LOG)
            if not once:
                logging.getLogger("ai_retry").setLevel(logging.INFO)
                deliveries.run(stopped_by_signals())
                return
            tally = deliveries.once()
    for name, count in asdict(tally).items():
        click.echo(f"{name.replace('_', ' '):<9} {count}")
    if tally.failed or tally.given_up:
        sys.exit(1)
