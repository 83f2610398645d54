"""``ai-retry books``: checks that every success was charged exactly once."""

import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._reach import reached
from ai_retry.cli.commands._shared import as_json_option, print_json, print_table, reported
from ai_retry.config import Settings
from ai_retry.domain.model import QuotaRule
from ai_retry.recovery.when import read_duration, read_instant

_SECONDS = 65.0  # longer than the function's own timeout


@click.command(
    short_help="Check that each success was charged once.",
    epilog=examples("ai-retry books", "ai-retry books --since 2h --json"),
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help="Units that a user may spend in the window; the default is AI_RETRY_QUOTA_LIMIT.",
)
@click.option(
    "--window", metavar="DURATION", help="Such as 90m, 24h or 7d; the default is AI_RETRY_QUOTA_WINDOW_SECONDS."
)
@click.option(
    "--since", metavar="WHEN", help="Only attempts that ended then or later: 90m, 24h, 7d, yesterday, 2026-01-31."
)
@as_json_option
def books(*, limit: int | None, window: str | None, since: str | None, as_json: bool) -> None:
    """Check that every success was charged exactly once, and list whatever contradicts that.

    A user with a limit of their own is judged by that. It only reads, and may run at any time; a monitor that runs it
    each hour passes --since 2h. Exit code 0: the books balance; 1: they don't.
    """
    with reported():
        settings = Settings.from_env()
        rule = _rule(settings.policy.quota, limit, window)
        start = read_instant(since, "since", datetime.now(UTC))
        reached(settings)
        with closing(bootstrap.open_storage(settings, timeout=_SECONDS)) as storage:
            violations = storage.books(rule, since=start)
    if as_json:
        print_json(violations)
    elif violations:
        print_table(("violation", "generation"), [(each["violation"], each["generation_id"]) for each in violations])
    else:
        click.echo("The books balance.")
    if violations:
        sys.exit(1)


def _rule(usual: QuotaRule, limit: int | None, window: str | None) -> QuotaRule:
    """Take the client's rule, with what is given in its place."""
    duration = usual.window if window is None else read_duration(window)
    if not duration:
        raise ValueError("window must be a duration: 90m, 24h, 7d")
    return replace(usual, limit=usual.limit if limit is None else limit, window=duration)
