"""``ai-retry find``: what failed, and what can be done about it."""

import json
from dataclasses import asdict
from typing import Any

import click

from ai_retry.cli.commands._selection import selection_options, wanted
from ai_retry.cli.commands._shared import as_json_option, connected, plain


@click.command()
@selection_options
@as_json_option
def find(*, as_json: bool, **options: Any) -> None:
    """Find failed generations of all users: the newest of them, and counts. Reads only.

    With --json all of them are printed, newest first, one JSON object a line.
    """
    with connected() as client:
        found = client.find(**wanted(**options))
        if as_json:
            for each in found:
                click.echo(json.dumps(asdict(each), default=plain))
            return
        click.echo(f"{found!r}\n")  # at once; counting takes a while where there are many
        click.echo(repr(found.summary()))
