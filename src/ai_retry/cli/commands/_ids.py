"""Ids as people give them: whole, or the beginning that a list shows."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from uuid import UUID

import click

from ai_retry.client import Client
from ai_retry.domain.names import as_uuid
from ai_retry.domain.recovery import FINDABLE, FoundRow, UnreadableRow

_SHORT = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{0,27})?", re.IGNORECASE)
_WHOLE = 36  # characters
_FORMS = "a UUID such as 6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11, or its beginning of 8 characters or more"
_LOOKED_AT = 10_000  # generations, the newest that have no session


def is_short(text: str) -> bool:
    """Whether it is the beginning of an id: 8 hexadecimal digits or more."""
    return len(text) < _WHOLE and _SHORT.fullmatch(text) is not None


def checked(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Refuse what is neither an id nor the beginning of one, as wrong usage, before the database is asked."""
    try:
        if text is not None and not is_short(text):
            as_uuid(text, "it")
    except ValueError:
        shown = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.metavar
        raise click.UsageError(f"{shown} must be {_FORMS}", context) from None
    return text


def generation_id(client: Client, text: str) -> str:
    """Complete a generation's id that is given by its beginning; anything else is returned as it is.

    Raises:
        click.ClickException: none of the newest failed generations begins so, or several do.
    """
    return _completed(client, text, "generation", lambda row: _ids_of(row)[0])


def user_id(client: Client, text: str | None) -> str | None:
    """Complete a user's id that is given by its beginning; anything else is returned as it is.

    Raises:
        click.ClickException: no user of the newest failed generations begins so, or several do.
    """
    return None if text is None else _completed(client, text, "user", lambda row: _ids_of(row)[1])


def _completed(client: Client, text: str, what: str, id_of: Callable[[Any], UUID | None]) -> str:
    if not is_short(text):
        return text
    found = {each for each in map(id_of, _newest(client)) if each is not None and str(each).startswith(text.lower())}
    if len(found) == 1:
        return str(found.pop())
    if found:
        raise click.ClickException(
            f"{text} begins the ids of {len(found)} {what}s: {', '.join(map(str, sorted(found)[:5]))}. Give more of it."
        )
    raise click.ClickException(
        f"no {what} of a failed generation has an id that begins with {text}; give the whole id."
        if what == "user"
        else f"no failed generation has an id that begins with {text}; give the whole id."
    )


def _newest(client: Client) -> Iterator[FoundRow | UnreadableRow]:
    return islice(client.find(status=FINDABLE).rows(), _LOOKED_AT)


def _ids_of(row: FoundRow | UnreadableRow) -> tuple[UUID, UUID | None]:
    if isinstance(row, UnreadableRow):
        return row.generation_id, row.user_id
    return row.snapshot.generation.id, row.snapshot.generation.user_id
