"""The commands of ``ai-retry``: they parse, call and print, and decide nothing. One module each, listed here.

Exit codes: 0 it did what was asked; 1 it did not, or not all of it, and says why; 2 wrong usage; 3 ai-retry is not set
up here, or the database can't be reached; 130 interrupted, and safe to run again.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import click

from ai_retry.cli.commands import (
    books,
    doctor,
    find,
    init,
    migrations,
    prune,
    queue,
    recover,
    retry,
    settle,
    why,
    worker,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ai-retry"), prog_name="ai-retry")
def cli() -> None:
    """Retries failed AI generations on Supabase: nothing twice, nothing lost."""
    # So that AI_RETRY_CONTEXT_FROM is found where the app's server finds it. Last: no file there hides a library.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


for _command in (
    books.books,
    doctor.doctor,
    find.find,
    init.init,
    migrations.migrations,
    prune.prune,
    queue.queue,
    recover.recover,
    retry.retry,
    settle.settle,
    why.why,
    worker.worker,
):
    cli.add_command(_command)
