"""``ai-retry settle``: paid answers that wait in the spool."""

import sys
from dataclasses import asdict

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._shared import reported


@click.command(
    short_help="Settle paid answers that wait on disk.",
    epilog=examples("ai-retry settle", "ai-retry settle --adopt"),
)
@click.option("--adopt", is_flag=True, help="Also settle answers of another database, of which this one is a copy.")
def settle(*, adopt: bool) -> None:
    """Settle paid answers that wait in the spool (AI_RETRY_SPOOL_DIR), such as after an outage of the database.

    A repeat is safe at any time, also beside a running app. An answer that can't be settled stays in the spool, and the
    log names it. Exit code 1: some answers are left, belong to another database, are unknown to this one, or can't be
    read.
    """
    with reported():
        report = bootstrap.settle(adopt=adopt)
    for name, count in asdict(report).items():
        click.echo(f"{name:<11} {count}")
    if not report.is_done:
        sys.exit(1)
