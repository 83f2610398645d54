"""``ai-retry doctor``: what is wrong with a set-up, and what to do."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click

from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._reach import NotReady
from ai_retry.cli.commands._shared import as_json_option, print_json
from ai_retry.cli.doctor import Asked, Check, Examination, examine
from ai_retry.clock import SystemClock


@click.command(
    short_help="Find out what is wrong and what to do.",
    epilog=examples("ai-retry doctor", "ai-retry doctor --rehearse", "ai-retry doctor --json"),
)
@click.option("--rehearse", is_flag=True, help="Write what ai-retry writes, through the binding, and roll it back.")
@click.option(
    "--example-output",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="JSON as the provider answers it, to rehearse a session with.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="supabase",
    show_default=True,
    help="The project's directory, with its config.toml.",
)
@as_json_option
def doctor(*, rehearse: bool, example_output: TextIO | None, directory: Path, as_json: bool) -> None:
    """Check the configuration, the database behind it, binding, queue, contexts, clocks, spool and provider.

    The reader of contexts is tried on the newest failed generations.

    Reads only, unless a rehearsal is asked for; the provider is asked for its models, which costs nothing. NOT RUN
    means that nothing is known. Exit code 0: retries work (there may be hints); 1: a problem; 3: something could not be
    looked at, because the configuration, the connection or something else is at fault.
    """
    output = None if example_output is None else _example(example_output)
    asked = Asked(rehearse=rehearse or output is not None, output=output, project=directory)
    examination = examine(clock=SystemClock(), asked=asked)
    if as_json:
        print_json(_document(examination))
    else:
        click.echo(str(examination))
    if examination.skipped:
        sys.exit(NotReady.exit_code)
    if examination.problems:
        sys.exit(1)


def _example(file: TextIO) -> Any:
    try:
        return json.load(file)
    except ValueError:
        raise click.UsageError("--example-output must name a file with JSON in it") from None


def _document(examination: Examination) -> dict[str, Any]:
    return {
        "ok": not examination.problems and not examination.skipped,
        "checks": {check: examination.result(check) for check in Check},
        "not_run": {check: asdict(each) for check, each in examination.not_run.items()},
        "findings": [asdict(each) for each in examination.findings],
    }
