"""``ai-retry cancel``: takes a queued retry back."""

import click

from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._one import found, one_generation
from ai_retry.cli.commands._shared import connected, refused


@click.command(short_help="Cancel its queued retry.", epilog=examples("ai-retry cancel 6f1c2f0e"))
@one_generation
def cancel(generation_id: str, *, user_id: str | None) -> None:
    """Cancel the queued retry of generation ID, and give its unit of quota back. A repeat changes nothing.

    Exit code 1: a worker has begun it; it goes on.
    """
    with connected() as client:
        owner, whole = found(client, generation_id, user_id)
        was_queued = client.status(owner, whole).queued is not None
        with refused():
            client.cancel(owner, whole)
    click.echo("The queued retry is cancelled." if was_queued else "No retry of it is queued.")
