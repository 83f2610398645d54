"""``ai-retry settle``: paid answers that wait in the spool."""

import sys
from dataclasses import asdict

import click

from ai_retry import bootstrap
from ai_retry.commands._shared import told


@click.command()
def settle() -> None:
    """Settle paid answers that wait in the spool (AI_RETRY_SPOOL_DIR) because the database was away.

    A repeat is safe at any time, also beside a running app. Exit code 1: some are left, or can't be read.
    """
    with told():
        report = bootstrap.settle()
    for name, count in asdict(report).items():
        click.echo(f"{name:<11} {count}")
    if report.left or report.unreadable:
        sys.exit(1)
