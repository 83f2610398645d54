"""``ai-retry actions``: what operators did."""

from dataclasses import asdict

import click

from ai_retry.cli.commands._acting import reading
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._shared import as_json_option, columns, connected, print_json
from ai_retry.domain.operation import Action
from ai_retry.tables import text_table

_HEADER = ("at (UTC)", "operator", "action", "target", "outcome", "reason")

_KINDS = ("generation", "user", "route", "plan")


def _target(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and text.partition(":")[0] not in _KINDS:
        raise click.BadParameter(f"must begin with {', '.join(f'{each}:' for each in _KINDS[:-1])} or {_KINDS[-1]}:")
    return text


@click.command(
    short_help="List what operators did, and why.",
    epilog=examples(
        "ai-retry actions",
        "ai-retry actions --target user:0b54ad2c-73b0-4a52-8d6c-0f6f0a1d3c11",
        "ai-retry actions --json",
    ),
)
@click.option(
    "--target",
    metavar="TARGET",
    callback=_target,
    help="Only on this: generation:<id>, user:<id>, route:<name>, plan:<id>.",
)
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many, the newest first.")
@as_json_option
def actions(*, target: str | None, limit: int, as_json: bool) -> None:
    """List what operators did, the newest first: when, who, what to what, why, and what came of it. Reads only."""
    with connected() as client:
        found = reading(client).actions(target=target, limit=limit)
    if as_json:
        print_json([asdict(each) for each in found])
    elif found:
        click.echo(text_table(_HEADER, [_row(each) for each in found], width=columns()))
    else:
        click.echo("No action of an operator is recorded.")


def _row(action: Action) -> tuple[object, ...]:
    outcome = action.outcome or "under way, or its process died"
    return f"{action.at:%Y-%m-%d %H:%M:%S}", action.operator, action.action, action.target, outcome, action.reason
