"""``ai-retry settle``: paid answers that wait in the spool."""

import sys
from dataclasses import asdict

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._shared import told


@click.command()
@click.option("--adopt", is_flag=True, help="Send answers of another database, too: this one is a copy of it.")
def settle(*, adopt: bool) -> None:
    """Settle paid answers that wait in the spool (AI_RETRY_SPOOL_DIR).

    A repeat is safe at any time, also beside a running app. What can't be settled stays where it is, and is named in
    the log. Exit code 1: some answers are left, of another database, unknown to this one, or can't be read.
    """
    with told():
        report = bootstrap.settle(adopt=adopt)
    for name, count in asdict(report).items():
        click.echo(f"{name:<11} {count}")
    if not report.is_done:
        sys.exit(1)
