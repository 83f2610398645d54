"""``ai-retry books``: proves that the quota books balance."""

import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._shared import as_json_option, print_json, print_table, told
from ai_retry.config import Settings
from ai_retry.domain.model import QuotaRule
from ai_retry.recovery.when import read_duration, read_instant

_SECONDS = 65.0  # longer than the function's own timeout


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help="Units that a user may spend in the window; AI_RETRY_QUOTA_LIMIT, or its default, if not given.",
)
@click.option("--window", metavar="DURATION", help="90m, 24h, 7d; AI_RETRY_QUOTA_WINDOW_SECONDS if not given.")
@click.option("--since", metavar="WHEN", help="Only what was closed since: 90m, 24h, 7d (ago), or an instant.")
@as_json_option
def books(*, limit: int | None, window: str | None, since: str | None, as_json: bool) -> None:
    """List whatever contradicts what is promised: a unit above the limit, a success that is taken back, and more.

    Users with a limit of their own are judged by that. Reads only, and may run at any time; a monitor that runs each
    hour asks --since 2h. Exit code 0: the books balance; 1: they don't.
    """
    with told():
        settings = Settings.from_env()
        rule = _rule(settings.policy.quota, limit, window)
        start = read_instant(since, "since", datetime.now(UTC))
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
    """Take the client's rule, but for what is given."""
    duration = usual.window if window is None else read_duration(window)
    if not duration:
        raise ValueError("window must be a duration: 90m, 24h, 7d")
    return replace(usual, limit=usual.limit if limit is None else limit, window=duration)
