"""``ai-retry cancel``: takes a queued retry back."""

import click

from ai_retry.cli.commands._acting import BY_COMMAND, acting
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._one import found, one_generation
from ai_retry.cli.commands._shared import connected, refused


@click.command(short_help="Cancel its queued retry.", epilog=examples("ai-retry cancel 6f1c2f0e"))
@one_generation
@click.option("--operator", metavar="NAME", help="Who cancels it; recorded, if given.")
@click.option("--reason", metavar="TEXT", default=BY_COMMAND, help="Why; recorded with --operator.")
def cancel(generation_id: str, *, user_id: str | None, operator: str | None, reason: str) -> None:
    """Cancel the queued retry of generation ID, and give its unit of quota back. A repeat changes nothing.

    Exit code 1: a worker has begun it; it goes on.
    """
    with connected() as client:
        owner, whole = found(client, generation_id, user_id)
        was_queued = client.status(owner, whole).queued is not None
        with refused():
            if operator is None:
                client.cancel(owner, whole)
            else:
                acting(client, operator).cancel(owner, whole, reason=reason)
    click.echo("The queued retry is cancelled." if was_queued else "No retry of it is queued.")
