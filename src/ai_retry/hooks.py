"""Gives events to hooks, and says for which request something is done.

A hook is called at once, in the thread where it happened: what it does takes time of the attempt. What it raises is
logged, and changes nothing.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from logging import ERROR
from typing import TYPE_CHECKING, Final

from ai_retry.domain.model import UNKNOWN_ORIGIN, Origin
from ai_retry.logs import LOG, write_line

if TYPE_CHECKING:
    from ai_retry.events import Event, Hook, OnEvent

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,200})?")


@dataclass(slots=True)
class Request:
    """A request that is being answered."""

    origin: Origin
    is_reported: bool = False  # an event says how it ended badly


_current: ContextVar[Request | None] = ContextVar("ai_retry_request", default=None)


class Events:
    """Calls hooks: the log first, then those that were given, in their order. Safe to share between threads.

    Args:
        on_event: one hook, or several.
    """

    def __init__(self, on_event: "OnEvent" = ()) -> None:
        self._hooks: Sequence[Hook] = (LOG, *([on_event] if callable(on_event) else on_event))

    def without_log(self) -> "Events":
        """Return the same hooks without the log: a run with a report of its own needs none."""
        unlogged = Events(self._hooks)
        unlogged.end_log()
        return unlogged

    def end_log(self) -> None:
        """Write no more to the log: a command reports to whoever runs it."""
        self._hooks = [hook for hook in self._hooks if hook is not LOG]

    def __call__(self, event: "Event") -> None:
        """Call every hook, whatever one of them raises."""
        if event.ends_badly and (request := _current.get()) is not None:
            request.is_reported = True
        for hook in self._hooks:
            try:
                hook(event)
            except (Exception, SystemExit) as error:  # noqa: BLE001 (a hook is the app's, and watches: it decides nothing)
                write_line(
                    ERROR,
                    "hook_failed",
                    hook=getattr(hook, "__qualname__", type(hook).__qualname__),
                    error=type(error).__qualname__,
                    of=event.name,
                )


@contextmanager
def request(*, request_id: str | None = None, traceparent: str | None = None) -> Iterator[Request]:
    """Say for which request the retries in this block are: their events carry its id, in a worker, too.

    The blueprint does it for its own. Views of an app's own, and jobs, may.

    Args:
        request_id: up to 128 of ``A-Za-z0-9._-``; anything else is left out.
        traceparent: as the header of W3C Trace Context; anything else is left out.
    """
    origin = Origin(
        request_id=request_id if request_id and REQUEST_ID.fullmatch(request_id) else None,
        traceparent=traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None,
    )
    asked = Request(origin)
    reset = _current.set(asked)
    try:
        yield asked
    finally:
        _current.reset(reset)


def current_origin() -> Origin:
    """Return the request that this block answers; an empty one outside of any."""
    found = _current.get()
    return found.origin if found is not None else UNKNOWN_ORIGIN
