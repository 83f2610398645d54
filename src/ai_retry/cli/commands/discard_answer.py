"""``ai-retry discard-answer``: drops a paid answer that can never become a session."""

import sys

import click

from ai_retry.cli.commands._acting import BY_COMMAND, acting
from ai_retry.cli.commands._ask import agreed
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._one import found, one_generation
from ai_retry.cli.commands._shared import connected


@click.command(
    "discard-answer",
    short_help="Drop a paid answer that no session can use.",
    epilog=examples("ai-retry discard-answer 6f1c2f0e --operator ada"),
)
@one_generation
@click.option("--operator", required=True, metavar="NAME", help="Who drops it; recorded.")
@click.option("--reason", metavar="TEXT", default=BY_COMMAND, help="Why; recorded.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def discard_answer(generation_id: str, *, user_id: str | None, operator: str, reason: str, yes: bool) -> None:
    """Drop the paid answer of generation ID that can never become a session. The next retry calls and pays again.

    Exit code 1: there was no such answer, or you said no.
    """
    with connected() as client:
        owner, whole = found(client, generation_id, user_id)
        if not yes:
            agreed("The paid answer is lost then. Drop it?")
        dropped = acting(client, operator).discard_answer(owner, whole, reason=reason)
    click.echo("The answer is dropped; the next retry calls the provider." if dropped else "No answer of it is kept.")
    if not dropped:
        sys.exit(1)
