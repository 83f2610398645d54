"""The commands of ``ai-retry``: they parse, call and print, and decide nothing. One module each, listed here.

Exit codes: 0 it did what was asked; 1 it did not, or not all of it, and reports why; 2 wrong usage; 3 ai-retry is not
set up here, or the database can't be reached; 130 interrupted, and safe to run again.
"""

import sys
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path

import click

from ai_retry.cli.commands import (
    actions,
    books,
    cancel,
    console,
    discard_answer,
    doctor,
    find,
    init,
    migrations,
    prune,
    queue,
    quota,
    recover,
    retry,
    routes,
    settle,
    status,
    webhooks,
    why,
    worker,
)
from ai_retry.cli.commands._groups import Grouped
from ai_retry.cli.commands._reach import silenced_drivers


@click.group(
    cls=Grouped,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`ai-retry COMMAND --help` explains a command, with examples.",
)
@click.version_option(version("ai-retry"), prog_name="ai-retry")
@click.pass_context
def cli(context: click.Context) -> None:
    """Retry failed AI generations on Supabase: nothing twice, nothing lost."""
    context.with_resource(silenced_drivers())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character ends no command
    # So that AI_RETRY_CONTEXT_FROM is found where the app's server finds it. Last: no file there hides a library.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


for _command in (
    actions.actions,
    books.books,
    cancel.cancel,
    console.console,
    discard_answer.discard_answer,
    doctor.doctor,
    find.find,
    init.init,
    migrations.migrations,
    prune.prune,
    queue.queue,
    quota.quota,
    recover.recover,
    retry.retry,
    routes.routes,
    settle.settle,
    status.status,
    webhooks.webhooks,
    why.why,
    worker.worker,
):
    cli.add_command(_command)
