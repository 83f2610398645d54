"""``ai-retry books``: proves that the quota books balance."""

import sys
from contextlib import closing

import click

from ai_retry import bootstrap
from ai_retry.commands._shared import as_json_option, print_json, print_table, told
from ai_retry.config import Settings

_SECONDS = 65.0  # longer than the function's own timeout


@click.command()
@as_json_option
def books(*, as_json: bool) -> None:
    """List whatever contradicts what is promised: two successes, a unit captured twice, and the like.

    Reads only, and may run at any time. Exit code 0: the books balance; 1: they don't.
    """
    with told(), closing(bootstrap.open_storage(Settings.from_env(), timeout=_SECONDS)) as storage:
        violations = storage.books()
    if as_json:
        print_json(violations)
    elif violations:
        print_table(("violation", "generation"), [(each["violation"], each["generation_id"]) for each in violations])
    else:
        click.echo("The books balance.")
    if violations:
        sys.exit(1)
