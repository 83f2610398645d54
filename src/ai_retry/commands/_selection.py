"""The options that say which failed generations are meant."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ai_retry.domain.recovery import FAILED, FINDABLE

_F = TypeVar("_F", bound=Callable[..., Any])
_MANY = " May be given several times."

_OPTIONS = (
    click.option("--since", metavar="WHEN", help="Made then or later: 90m, 24h, 7d (ago), or 2026-01-31T02:00+00:00."),
    click.option("--until", metavar="WHEN", help="Made before; now if not given."),
    click.option("--code", multiple=True, metavar="CODE", help=f"Of the last error, such as AI_UNAVAILABLE.{_MANY}"),
    click.option(
        "--status",
        multiple=True,
        type=click.Choice([each.value for each in sorted(FINDABLE)]),
        help=f"{' and '.join(sorted(FAILED))} if not given; processing finds what a dead worker left.{_MANY}",
    ),
    click.option("--user", "user_id", metavar="ID", help="Whose."),
    click.option("--model", multiple=True, metavar="NAME", help=f"That the generation names.{_MANY}"),
)


def selection_options(command: _F) -> _F:
    """Add the options; the command gets them as ``find`` of a client takes them, after ``wanted``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wanted(
    *,
    since: str | None,
    until: str | None,
    code: Sequence[str],
    status: Sequence[str],
    user_id: str | None,
    model: Sequence[str],
) -> dict[str, Any]:
    """Turn the options into arguments of ``Client.find``."""
    return {
        "since": since,
        "until": until,
        "code": code or None,
        "status": status or None,
        "user_id": user_id,
        "model": model or None,
    }
