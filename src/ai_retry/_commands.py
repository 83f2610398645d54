"""The commands of ``ai-retry``: they parse, call and print, and decide nothing."""

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click

from ai_retry import _shipped
from ai_retry.domain.errors import AiRetryError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ai-retry"), prog_name="ai-retry")
def cli() -> None:
    """Retries failed AI generations on Supabase: nothing twice, nothing lost."""


@cli.command()
def settle() -> None:
    """Settle paid answers that wait in the spool (AI_RETRY_SPOOL_DIR) because the database was away.

    A repeat is safe at any time, also beside a running app. Exit code 1: some are left, or can't be read.
    """
    from ai_retry import bootstrap  # noqa: PLC0415 - `migrations` needs no configuration

    try:
        report = bootstrap.settle()
    except AiRetryError as error:
        raise click.ClickException(str(error)) from None
    for name, count in asdict(report).items():
        click.echo(f"{name:<11} {count}")
    if report.left or report.unreadable:
        sys.exit(1)


@cli.group()
def migrations() -> None:
    """The SQL that ai-retry needs in your project."""


@migrations.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite files of the same name that differ.")
def copy(directory: Path, *, force: bool) -> None:
    """Copy the migrations into DIRECTORY, as a rule supabase/migrations.

    Then apply them as your own: supabase db push. A repeat changes nothing.
    """
    try:
        copied = _shipped.copy_migrations(directory, force=force)
    except (_shipped.MigrationsDiffer, OSError) as error:
        hint = "; nothing was copied. --force overwrites." if isinstance(error, _shipped.MigrationsDiffer) else ""
        raise click.ClickException(f"{error}{hint}") from error
    for each in copied:
        click.echo(f"{each.action:<11} {directory / each.name}")
