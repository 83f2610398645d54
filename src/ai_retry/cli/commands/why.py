"""``ai-retry why``: one generation, explained."""

import textwrap
from dataclasses import asdict

import click

from ai_retry.cli.commands._shared import as_json_option, connected, print_json

_WIDTH = 100


@click.command()
@click.argument("generation_id", metavar="ID")
@as_json_option
def why(generation_id: str, *, as_json: bool) -> None:
    """Explain in a paragraph that can be sent on where generation ID stands, and what can be done. Reads only."""
    with connected() as client:
        explanation = client.why(generation_id)
    if as_json:
        print_json(asdict(explanation))
    else:
        click.echo(textwrap.fill(explanation.text, _WIDTH))
