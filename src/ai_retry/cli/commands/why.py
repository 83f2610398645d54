"""``ai-retry why``: one generation, explained."""

from dataclasses import asdict

import click

from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._ids import checked
from ai_retry.cli.commands._ids import generation_id as completed
from ai_retry.cli.commands._shared import as_json_option, columns, connected, print_json
from ai_retry.tables import hanging

_WIDEST = 100


@click.command(
    short_help="Explain why it failed and what to do next.",
    epilog=examples("ai-retry why 6f1c2f0e", "ai-retry why 6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11 --json"),
)
@click.argument("generation_id", metavar="ID", callback=checked)
@as_json_option
def why(generation_id: str, *, as_json: bool) -> None:
    """Explain why generation ID failed and what to do next, in a paragraph to send on. Reads only."""
    with connected() as client:
        explanation = client.why(completed(client, generation_id))
    if as_json:
        print_json(asdict(explanation))
    else:
        click.echo(hanging("", explanation.text, min(_WIDEST, columns())))
