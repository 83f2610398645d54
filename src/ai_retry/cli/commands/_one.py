"""What commands about one generation share: its id and its user, given or looked up."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import click

from ai_retry.cli.commands import _ids
from ai_retry.client import Client

_F = TypeVar("_F", bound=Callable[..., Any])


def one_generation(command: _F) -> _F:
    """Add the argument ID and the option ``--user``."""
    command = click.option(
        "--user",
        "user_id",
        metavar="ID",
        callback=_ids.checked,
        help="Its user; looked up if not given, checked if given.",
    )(command)
    return click.argument("generation_id", metavar="ID", callback=_ids.checked)(command)


def found(client: Client, generation_id: str, user_id: str | None) -> tuple[UUID | str, str]:
    """Return the user and the whole id of a generation.

    Raises:
        GenerationNotFound: there is none.
        click.ClickException: its row can't be read, or a short id is no one's, or several generations'.
    """
    whole = _ids.generation_id(client, generation_id)
    if user_id is not None:
        return _ids.user_id(client, user_id) or user_id, whole
    explanation = client.why(whole)
    if explanation.user_id is None:
        raise click.ClickException(explanation.text)
    return explanation.user_id, whole
