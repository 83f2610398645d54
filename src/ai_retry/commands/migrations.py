"""``ai-retry migrations``: the SQL that ships with the package."""

from pathlib import Path

import click

from ai_retry import _shipped


@click.group()
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
