"""``ai-retry prune``: removes history that no rule needs any more."""

import re
from contextlib import closing
from datetime import timedelta
from typing import Any, Final

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._reach import reached
from ai_retry.cli.commands._shared import as_json_option, print_json, reported
from ai_retry.config import Settings

_DAYS: Final = re.compile(r"(\d{1,5})\s*d")


def _days(_context: click.Context, _parameter: click.Parameter, text: str) -> timedelta:
    days = _DAYS.fullmatch(text.strip())
    if days is None:
        raise click.BadParameter("must be a number of days, such as 90d")
    return timedelta(days=int(days[1]))


def _storage(settings: Settings) -> Any:
    reached(settings)
    return bootstrap.open_storage(settings)


@click.command(
    short_help="Remove old attempts that no rule needs.",
    epilog=examples("ai-retry prune --older-than 90d --dry-run", "ai-retry prune --older-than 90d"),
)
@click.option(
    "--older-than", required=True, metavar="AGE", callback=_days, help="Only attempts that ended so long ago: 90d."
)
@click.option("--dry-run", is_flag=True, help="Count what would be removed, and remove nothing.")
@as_json_option
def prune(*, older_than: timedelta, dry_run: bool, as_json: bool) -> None:
    """Remove old attempts that no rule needs any more, and stored answers of generations that are gone.

    It removes attempts of generations that your app has deleted, attempts that failed before a success, and the records
    of what operators did. It keeps the success, the last attempt, and all attempts of a generation that has no session.
    Nothing is removed that is younger than the longest window of quota and attempts. It may run at any time, and may be
    interrupted and repeated.
    """
    with reported(), closing(_storage(settings := Settings.from_env())) as storage:
        window = max(settings.policy.quota.window, settings.policy.hard_cap_window)
        if older_than < window:
            raise ValueError(f"older_than must be at least the longest window: {window}")
        attempts, answers, actions, after = 0, 0, 0, None
        while True:
            page = storage.prune(older_than=older_than, window=window, after=after, dry_run=dry_run)
            attempts, answers, after = attempts + page.attempts, answers + page.answers, page.next
            actions += page.actions
            if after is None:
                break
    if as_json:
        print_json({"attempts": attempts, "answers": answers, "actions": actions, "dry_run": dry_run})
    else:
        verb = "would be removed" if dry_run else "removed"
        records = f", {actions} records of what operators did" if actions else ""
        click.echo(f"{verb}: {attempts} attempts, {answers} stored answers{records}")
