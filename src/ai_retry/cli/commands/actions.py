"""``ai-retry actions``: what operators did."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC

import click

from ai_retry.cli.commands._acting import reading
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._ids import generation_id, user_id
from ai_retry.cli.commands._shared import as_json_option, columns, connected, print_json
from ai_retry.client import Client
from ai_retry.domain.operation import Action
from ai_retry.tables import fits, text_table, under_days

_HEADER = ("time", "operator", "action", "target", "outcome", "reason")

_KINDS = ("generation", "user", "route", "plan")


def _target(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and text.partition(":")[0] not in _KINDS:
        raise click.BadParameter(f"must begin with {', '.join(f'{each}:' for each in _KINDS[:-1])} or {_KINDS[-1]}:")
    return text


def _completed(client: Client, target: str) -> str:
    kind, _, its_id = target.partition(":")
    if kind == "generation":
        return f"{kind}:{generation_id(client, its_id)}"
    return f"{kind}:{user_id(client, its_id)}" if kind == "user" else target


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
    """List what operators did, the newest first: when, who, what to what, why, and what came of it. Reads only.

    Times are in UTC. Ids are shortened; --json has the whole ones.
    """
    with connected() as client:
        target = None if target is None else _completed(client, target)
        found = reading(client).actions(target=target, limit=limit)
    if as_json:
        print_json([asdict(each) for each in found])
    elif found:
        click.echo(_listed(found, columns()))
    else:
        click.echo(f"No action of an operator is recorded{'' if target is None else f' on {target}'}.")


def _listed(found: Sequence[Action], width: int) -> str:
    rows = [_row(each) for each in found]
    if not fits(_HEADER, rows, width):
        return text_table(
            ("day", *_HEADER), [(_day(each), *row) for each, row in zip(found, rows, strict=True)], width=width
        )
    return under_days(text_table(_HEADER, rows, width=width), [f"{_day(each)} (UTC)" for each in found])


def _day(action: Action) -> str:
    return f"{action.at.astimezone(UTC):%Y-%m-%d}"


def _row(action: Action) -> tuple[object, ...]:
    outcome = action.outcome or "under way, or its process died"
    kind, _, its_id = action.target.partition(":")
    target = f"{kind}:{its_id[:8]}" if kind in ("generation", "user") else action.target
    return f"{action.at.astimezone(UTC):%H:%M:%S}", action.operator, action.action, target, outcome, action.reason
