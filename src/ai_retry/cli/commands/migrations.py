"""``ai-retry migrations``: the SQL that ships with the package."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from ai_retry.cli import _shipped
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._shared import as_json_option, print_json


@click.group(short_help="Copy and check ai-retry's SQL.")
def migrations() -> None:
    """Copy the SQL that ai-retry needs into your project, and check it after an upgrade."""


@migrations.command(
    short_help="Copy the migrations into a directory.", epilog=examples("ai-retry migrations copy supabase/migrations")
)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite files of the same name that differ.")
def copy(directory: Path, *, force: bool) -> None:
    """Copy the migrations into DIRECTORY, as a rule supabase/migrations.

    Then apply them as your own: supabase db push. A repeat changes nothing.
    """
    with _files_reported():
        copied = _shipped.copy_migrations(directory, force=force)
    for each in copied:
        click.echo(f"{each.action:<11} {directory / each.name}")


@migrations.command(
    short_help="Compare a directory with this version.",
    epilog=examples("ai-retry migrations check supabase/migrations"),
)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@as_json_option
def check(directory: Path, *, as_json: bool) -> None:
    """Compare DIRECTORY with the migrations of this version, as a rule after an upgrade.

    Exit code 1: some are missing or different; `ai-retry migrations copy` copies them, or `ai-retry init` where it
    wrote the ones that are there. A binding that it wrote is yours, and is not compared. `ai-retry doctor`
    checks what is in the database.
    """
    with _files_reported():
        compared = _shipped.compare(directory)
    if as_json:
        print_json([asdict(each) for each in compared])
    else:
        for each in compared:
            click.echo(f"{each.state:<11} {directory / each.name}")
    if any(each.state in {"missing", "different"} for each in compared):
        sys.exit(1)


@contextmanager
def _files_reported() -> Iterator[None]:
    """Turn what is wrong with files into one line."""
    try:
        yield
    except _shipped.MigrationsDiffer as error:
        raise click.ClickException(f"{error}; nothing was copied. --force overwrites.") from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
