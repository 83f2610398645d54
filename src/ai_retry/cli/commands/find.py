"""``ai-retry find``: what failed, and what can be done about it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._ids import user_id
from ai_retry.cli.commands._selection import checked, selection_options, wanted
from ai_retry.cli.commands._shared import as_json_option, columns, connected, plain, reported
from ai_retry.recovery.found import Found
from ai_retry.recovery.generation import FoundGeneration
from ai_retry.recovery.listing import text_listing
from ai_retry.recovery.summary import Summary
from ai_retry.recovery.wording import search_in_words
from ai_retry.tables import hanging


@click.command(
    short_help="List failed generations, with a summary.",
    epilog=examples(
        "ai-retry find --since yesterday",
        "ai-retry find --since 24h --code AI_UNAVAILABLE --limit 50",
        "ai-retry find --user 1f0c9a7e --wide",
        "ai-retry find --json | jq -r .generation_id",
    ),
)
@selection_options
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="List at most this many.")
@click.option("--wide", is_flag=True, help="Show whole ids and all columns, however long the lines are.")
@as_json_option
def find(*, limit: int, wide: bool, as_json: bool, **options: Any) -> None:
    """List failed generations of all users, newest first, below a summary. Reads only.

    Times are in UTC. The short ids are accepted wherever a command takes an ID. --json prints all of them, one JSON
    object a line, with whole ids.
    """
    selection = wanted(**options)
    with reported():
        checked(selection)
    with connected() as client:
        found = client.find(**selection | {"user_id": user_id(client, selection["user_id"])})
        if as_json:
            for each in found:
                click.echo(json.dumps(asdict(each), default=plain))
            return
        summary, newest = found.overview(limit)
    width = None if wide else columns()
    click.echo(shown(summary, newest, width) if summary.total else hanging("", _none(found), width))


def _none(found: Found) -> str:
    return f"No failed generations: {'; '.join(f'{name} {value}' for name, value in search_in_words(found.filter))}."


def shown(summary: Summary, newest: Sequence[FoundGeneration], width: int | None) -> str:
    """Write the summary, and below it the list in its order."""
    if not newest:
        return summary.text(width)
    title = "" if summary.total == len(newest) else f"The newest {len(newest)} of {summary.total}:\n"
    return f"{summary.text(width)}\n\n{title}{text_listing(newest, width=width)}"
