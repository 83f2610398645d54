"""``ai-retry status``: what a retry of a generation would be answered now."""

import click

from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._one import found, one_generation
from ai_retry.cli.commands._shared import as_json_option, columns, connected, print_json
from ai_retry.tables import hanging, printable


@click.command(
    short_help="Show whether and when a retry is possible.",
    epilog=examples("ai-retry status 6f1c2f0e", "ai-retry status 6f1c2f0e --json"),
)
@one_generation
@as_json_option
def status(generation_id: str, *, user_id: str | None, as_json: bool) -> None:
    """Show what generation ID's user would be answered now, as the HTTP endpoint shows it. Reads only."""
    with connected() as client:
        outlook = client.status(*found(client, generation_id, user_id))
    facts = outlook.facts
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        click.echo(hanging(f"{name.replace('_', ' '):<{width}}  ", printable(shown), columns()))
