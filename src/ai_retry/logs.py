"""The log, which is a consumer of events: one line each, in logfmt, and the same facts in the record for other formats.

::

    event=attempt_failed attempt=2 code=AI_TIMEOUT user_id=… reason="no answer in time" call_seconds=15.02

A value is quoted, as a JSON string, where it is empty, or holds a blank, a quote, an equals sign or what can't be
printed.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ai_retry.events import Event

LOGGER: Final = "ai_retry"
_FIRST: Final = ("action", "code", "attempt")
_LAST: Final = ("user_id", "generation_id", "request_id")  # of every event
_LEFT_OUT: Final = frozenset({"ended_seconds_ago", "stack", "traceparent"})
_NUMBERS: Final = (bool, int, float)
_QUOTED: Final = re.compile('[ "=]')
_log = logging.getLogger(LOGGER)


class LogEvents:
    """Writes each event to the logger ``ai_retry``; every client has one.

    A record's ``ai_retry`` holds the facts, with instants and ids as strings and numbers as numbers.
    """

    def __call__(self, event: "Event") -> None:
        """Write it, if anything listens at its level."""
        level = event.level
        if _log.isEnabledFor(level):
            said: dict[str, Any] = {"event": event.name}
            for name, fact in zip(*_read(event), strict=True):
                if fact is not None:
                    said[name] = plain(fact)
            _write(level, said, getattr(event, "stack", None))


LOG: Final = LogEvents()
_encode: Final = json.JSONEncoder(default=str).encode


def write_line(level: int, name: str, *, stack: str | None = None, **facts: Any) -> None:
    """Write a line; facts that are None are left out.

    A filter or a handler of the app's that raises loses the line, and nothing else: an error stream that works says so.

    Args:
        level: of the line.
        name: of the event.
        stack: follows the line; it holds no exception's text.
        facts: by name.
    """
    if _log.isEnabledFor(level):
        _write(level, {"event": name, **{each: plain(fact) for each, fact in facts.items() if fact is not None}}, stack)


def _write(level: int, said: Mapping[str, Any], stack: str | None) -> None:
    """Hand a record to the logger, without looking for its caller, which takes longer than the rest."""
    try:
        line = _Line(said, stack)
        _log.handle(_log.makeRecord(LOGGER, level, __file__, 0, line, (), None, "write", {LOGGER: said}))
    except Exception as error:  # noqa: BLE001 (the app's filters and handlers: what is logged must not end for them)
        _say_lost(said["event"], type(error).__qualname__)


def _say_lost(name: str, error: str) -> None:
    if logging.lastResort is not None:
        lost = _Line({"event": "log_failed", "of": name, "error": error}, None)
        logging.lastResort.handle(logging.LogRecord(LOGGER, logging.ERROR, __file__, 0, lost, (), None))


def facts_of(event: "Event") -> Mapping[str, Any]:
    """Return what an event says, without what is None, what it is about first."""
    return {name: fact for name, fact in zip(*_read(event), strict=True) if fact is not None}


def _read(event: "Event") -> tuple[Sequence[str], Sequence[Any]]:
    names, facts = _fields(type(event))  # type: ignore[arg-type]  # a class can be hashed
    return names, facts(event)


def plain(fact: Any) -> Any:
    """Make a fact JSON: numbers and truths stay, instants are in UTC, and all else is a string."""
    if isinstance(fact, _NUMBERS) or type(fact) is str:
        return fact
    if isinstance(fact, datetime):
        return fact.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(fact)


def logfmt(facts: Mapping[str, Any]) -> str:
    """Write facts as ``name=value`` pairs, on one line."""
    return " ".join(f"{name}={_word(fact)}" for name, fact in facts.items())


class _Line:
    """A record's message, which is only written out where a handler asks for it."""

    __slots__ = ("facts", "stack")

    def __init__(self, facts: Mapping[str, Any], stack: str | None) -> None:
        self.facts, self.stack = facts, stack

    def __str__(self) -> str:
        return f"{logfmt(self.facts)}\n{self.stack}" if self.stack else logfmt(self.facts)


class JsonFormatter(logging.Formatter):
    """Writes a record of any logger as one JSON object: time, level, logger, and the facts, or else the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Write it; a stack, or an exception's, is a member of its own."""
        line = record.msg
        row = {"time": plain(datetime.fromtimestamp(record.created, UTC)), "level": record.levelname}
        row |= {"logger": record.name, **(line.facts if isinstance(line, _Line) else {"message": record.getMessage()})}
        stack = line.stack if isinstance(line, _Line) else None
        if record.exc_info:
            stack = self.formatException(record.exc_info)
        return _encode({**row, "stack": stack} if stack else row)


def _word(fact: Any) -> str:
    match fact:
        case bool():
            return "true" if fact else "false"
        case float():
            return f"{fact:.6g}"
    word = str(fact)
    if word and word.isprintable() and _QUOTED.search(word) is None:
        return word
    return json.dumps(word, ensure_ascii=not word.isprintable())


@cache
def _fields(kind: "type[Event]") -> tuple[list[str], "Callable[[Event], Sequence[Any]]"]:
    """List the fields of a kind of event, what happened first, whom and what it is about last; and what reads them."""
    names = [each.name for each in fields(kind) if each.name not in _LEFT_OUT]
    first = [name for name in _FIRST if name in names]
    listed = [*first, *(name for name in names if name not in {*first, *_LAST}), *_LAST]
    return listed, attrgetter(*listed)
