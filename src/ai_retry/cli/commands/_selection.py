"""The options that choose failed generations."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ai_retry.cli.commands import _ids
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import FailureCode
from ai_retry.domain.recovery import FINDABLE, Filter
from ai_retry.recovery.found import criteria

_F = TypeVar("_F", bound=Callable[..., Any])
_ALIKE = 0.75  # from 0 to 1; a prefix may be missing
_MANY = " May be repeated."

_OPTIONS = (
    click.option(
        "--since", metavar="WHEN", help="Created then or later: 90m, 24h, 7d, yesterday, 2026-01-31, or an instant."
    ),
    click.option("--until", metavar="WHEN", help="Created before then; the default is now."),
    click.option("--code", multiple=True, metavar="CODE", help=f"Only with this last error: AI_UNAVAILABLE.{_MANY}"),
    click.option(
        "--status",
        multiple=True,
        type=click.Choice([each.value for each in sorted(FINDABLE)]),
        help=f"Only with this status; the default is error and timeout.{_MANY}",
    ),
    click.option("--user", "user_id", metavar="ID", callback=_ids.checked, help="Only this user's generations."),
    click.option("--model", multiple=True, metavar="NAME", help=f"Only generations that name this model.{_MANY}"),
)


def selection_options(command: _F) -> _F:
    """Add the options; the command gets them as ``find`` of a client takes them, after ``wanted``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _codes(kind: type[AiRetryError]) -> set[str]:
    """List the codes of a kind of errors; where an instance has to be asked, they are those of ``FailureCode``."""
    own = {kind.code} if isinstance(kind.code, str) else set(FailureCode)
    return own.union(*map(_codes, kind.__subclasses__()))


def _meant(code: str) -> str | None:
    """Return the code that was probably meant; None: it is one of ours, or like none, as apps write their own."""
    ours = _codes(AiRetryError)
    close = difflib.get_close_matches(code.upper(), ours, n=1, cutoff=_ALIKE)
    return close[0] if close and code not in ours else None


def wanted(
    *,
    since: str | None,
    until: str | None,
    code: Sequence[str],
    status: Sequence[str],
    user_id: str | None,
    model: Sequence[str],
) -> dict[str, Any]:
    """Turn the options into arguments of ``Client.find``; a code that looks misspelt is searched with a warning."""
    for each in code:
        if (close := _meant(each)) is not None:
            click.echo(f"Note: ai-retry has no code {each}; did you mean {close}?", err=True)
    return {
        "since": since,
        "until": until,
        "code": code or None,
        "status": status or None,
        "user_id": user_id,
        "model": model or None,
    }


def checked(selection: dict[str, Any]) -> Filter:
    """Check what ``wanted`` returned, before anything is read; a user's short id is completed later.

    Raises:
        ValueError: names the argument and what it may be.
    """
    short = _ids.is_short(selection["user_id"] or "")
    return criteria(**(selection | {"user_id": None} if short else selection))
