"""``ai-retry doctor``: what is wrong with a set-up, and what to do."""

import sys
from dataclasses import asdict
from typing import Any

import click

from ai_retry.cli.commands._shared import NotReady, as_json_option, print_json
from ai_retry.cli.doctor import Check, Examination, examine
from ai_retry.clock import SystemClock
from ai_retry.tables import printable


@click.command()
@as_json_option
def doctor(*, as_json: bool) -> None:
    """Check the configuration, the database behind it, queue, contexts, clocks, spool and provider.

    The reader of contexts is tried on the newest failed generations.

    Reads only, the schemas of the newest failed generations too; the provider is asked for its models, which costs
    nothing. Exit code 0: retries work (there may be hints); 1: a problem; 3: the configuration or the connection is at
    fault, and what lies behind was not looked at.
    """
    examination = examine(clock=SystemClock())
    if as_json:
        print_json(_document(examination))
    else:
        _print(examination)
    if examination.problems:
        sys.exit(NotReady.exit_code if examination.skipped else 1)


def _document(examination: Examination) -> dict[str, Any]:
    return {
        "ok": not examination.problems,
        "checks": {check: examination.result(check) for check in Check},
        "findings": [asdict(each) for each in examination.findings],
    }


def _print(examination: Examination) -> None:
    for check in Check:
        click.echo(f"{examination.result(check):<8}  {check}")
        for finding in examination.of(check):
            click.echo(f"            {printable(finding.problem)}")
            click.echo(f"            -> {printable(finding.remedy)}")
