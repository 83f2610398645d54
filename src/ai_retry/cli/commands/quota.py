"""``ai-retry quota``: one user's quota, what is used of it, and their own one."""

from dataclasses import asdict
from datetime import timedelta

import click

from ai_retry.cli.commands._acting import acting, reading
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._ids import checked
from ai_retry.cli.commands._ids import user_id as completed
from ai_retry.cli.commands._shared import as_json_option, columns, connected, print_json
from ai_retry.domain.operation import Override
from ai_retry.operate.operations import Operations
from ai_retry.operate.views import UserState
from ai_retry.recovery.when import read_duration
from ai_retry.tables import hanging, printable


@click.command(
    short_help="Show a user's quota, or give them their own.",
    epilog=examples(
        "ai-retry quota 0b54ad2c",
        'ai-retry quota 0b54ad2c --limit 20 --operator ada --reason "an outage"',
        'ai-retry quota 0b54ad2c --reset --operator ada --reason "it is over"',
    ),
)
@click.argument("user_id", metavar="USER", callback=checked)
@click.option("--limit", type=int, help="Units that the user may spend in the time; 0: none.")
@click.option("--per", metavar="DURATION", help="The time: 90m, 24h or 7d; the default is the present one.")
@click.option("--reset", is_flag=True, help="Give the user the usual quota again.")
@click.option("--operator", metavar="NAME", help="Who changes it; recorded.")
@click.option("--reason", metavar="TEXT", help="Why; recorded.")
@as_json_option
def quota(
    user_id: str,
    *,
    limit: int | None,
    per: str | None,
    reset: bool,
    operator: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Show what USER may spend, has spent and holds; with --limit or --reset, change it, by name and with a reason."""
    changes = limit is not None or reset
    if (limit is not None and reset) or (per is not None and limit is None):
        raise click.UsageError("give --limit, perhaps with --per, or --reset")
    if changes and not (operator and reason):
        raise click.UsageError("a change needs --operator and --reason: both are recorded")
    with connected() as client:
        user = completed(client, user_id) or user_id
        if changes:
            _change(acting(client, str(operator)), user, limit, per, str(reason))
        state = reading(client).user(user)
    if as_json:
        print_json({"user_id": user, **_facts(state)})
        return
    facts = _facts(state)
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(hanging(f"{name.replace('_', ' '):<{width}}  ", printable(value), columns()))


def _change(operations: Operations, user_id: str, limit: int | None, per: str | None, reason: str) -> None:
    if limit is None:
        operations.reset_quota(user_id, reason=reason)
        return
    time = operations.user(user_id).quota.window if per is None else read_duration(per)
    if not time:
        raise ValueError("per must be a duration: 90m, 24h, 7d")
    operations.set_quota(user_id, limit=limit, per=time, reason=reason)


def _facts(state: UserState) -> dict[str, object]:
    used = state.quota
    return {
        "limit": used.limit,
        "per": _span(used.window),
        "spent": used.captured,
        "held": used.held,
        "remaining": used.remaining,
        "resets_at": used.resets_at,
        "own": _own(state.override),
        "running": state.live,
        "queued": state.queued,
    }


def _own(override: Override | None) -> str:
    return "no" if override is None else f"yes: {asdict(override)['limit']} per {_span(override.window)}"


def _span(window: timedelta) -> str:
    hours = window.total_seconds() / 3600
    return f"{hours:g} h"
