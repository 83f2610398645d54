"""Values of the domain as JSON objects, and back: the fields of a dataclass say what the members are.

A member has its field's name, a duration's with ``_seconds`` after it; absent is None. A value that may be of several
types has its type's name: an attempt is ``open`` or ``run``. The tables below say which fields differ from that.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, get_args, get_origin
from uuid import UUID

from ai_retry.domain.change import Begin, Open, Postpone, PutBack, Run
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import (
    Answer,
    Attempt,
    ClosedOver,
    GenerationStatus,
    ProviderCall,
    StoredAnswer,
    Usage,
)
from ai_retry.domain.recovery import Filter, PlanAttempt

Json: TypeAlias = Mapping[str, Any]
_Convert: TypeAlias = Callable[[Any], Any] | None  # None: it is JSON as it is
_T = TypeVar("_T")
_MILLISECONDS: Final = "duration_ms"
_LARGEST: Final = 2**63

# What the member of a field is called. Classes have their names here: what only operators read is not imported for it.
_NAMES: Final[Mapping[tuple[str, str], str]] = {
    ("AttemptRecord", "duration"): _MILLISECONDS,
    ("CallRecord", "duration"): _MILLISECONDS,
    ("Expected", "quota_rule"): "rule",
    ("Generation", "duration"): _MILLISECONDS,
    ("Message", "id"): "message_id",
    ("ProviderCall", "duration"): _MILLISECONDS,
    ("Settle", "quota_rule"): "rule",
}

# Fields whose members are members of the enclosing object.
_SPREAD: Final[frozenset[tuple[Any, str]]] = frozenset(
    {
        (Attempt, "origin"),
        (Begin, "expected"),
        (ClosedOver, "origin"),
        (Open, "origin"),
        (Open, "start"),
        (PlanAttempt, "attempt"),
        (Postpone, "message"),
        (Run, "start"),
        (StoredAnswer, "answer"),
    }
)

# Fields without a member, and what they are when they are read.
_LEFT_OUT: Final[Mapping[tuple[Any, str], Any]] = {
    (Answer, "calls"): (),
    (Answer, "wire_requests"): 0,
    (Filter, "until"): None,
    (ProviderCall, "ended"): None,
    (ProviderCall, "failure"): None,
    (Postpone, "code"): None,
    (PutBack, "reason"): "",
}


class NotOurs(Exception):
    """A reply is not of the shape that the function returns; something in between has answered."""


def write(value: Any) -> dict[str, Any]:
    """Write a value as a JSON object."""
    kind: Any = type(value)
    row: dict[str, Any] = _writer(kind)(value)
    return row


def write_tagged(value: Any) -> Json:
    """Write a value as the only member of a JSON object, whose name says what it is."""
    kind: Any = type(value)
    return {_tag(kind): write(value)}


def read(kind: type[_T], row: Any) -> _T:
    """Read a value of this type.

    Raises:
        NotOurs: it is no object.
        NotConfigured: it holds a status that ai-retry does not know.
        Exception: of whatever type, where a member is absent or can't be read.
    """
    of_kind: Any = kind
    value: _T = _reader(of_kind)(row)
    return value


def listed(reply: Any) -> Sequence[Any]:
    """Return a reply that is an array.

    Raises:
        NotOurs: it is not.
    """
    if not isinstance(reply, list):
        raise NotOurs
    return reply


def instant(text: str) -> datetime:
    """Read an instant; the database writes them with their offset."""
    return datetime.fromisoformat(text).astimezone(UTC)


def of_milliseconds(number: float) -> timedelta:
    """Read a duration."""
    return timedelta(milliseconds=float(number))


# A type is compiled to one expression, as it would be written by hand: a loop over its fields takes longer, and a retry
# spends most of this process's time with JSON. So each member is looked up once, and a nested value is read by its own
# expression, without a call in between. The names in an expression are those of our own fields.


@cache
def _writer(kind: Any) -> Callable[[Any], Any]:
    """Compile ``lambda value: {"member": value.name, …}``."""
    parts, members = _parts(kind), []
    for part in parts:
        found = _converted(f"value.{part.name}", part, part.write)
        members.append(f"{part.member!r}: {found}" if part.member is not None else f"**{found}")
    compiled: Callable[[Any], Any] = eval(  # noqa: S307 (see above)
        f"lambda value: {{{', '.join(members)}}}", {f"convert_{part.name}": part.write for part in parts}
    )
    return compiled


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """Compile ``lambda row: kind(name=row["member"], …)``."""
    parts, values = _parts(kind), []
    for part in parts:
        found = f"row.get({part.member!r})" if part.is_optional else f"row[{part.member!r}]"
        values.append(f"{part.name}={_converted(found if part.member is not None else 'row', part, part.read)}")
    left_out = {name: value for (owner, name), value in _LEFT_OUT.items() if owner is kind}
    values += [f"{name}=without_{name}" for name in left_out]
    compiled: Callable[[Any], Any] = eval(  # noqa: S307 (see above)
        f"lambda row: kind({', '.join(values)}) if isinstance(row, dict) else refuse()",
        {
            "kind": kind,
            "refuse": _refuse,
            **{f"without_{name}": value for name, value in left_out.items()},
            **{f"convert_{part.name}": part.read for part in parts},
        },
    )
    return compiled


def _refuse() -> NoReturn:
    raise NotOurs


@dataclass(frozen=True)
class _Part:
    """A field, and how it is written and read."""

    name: str
    member: str | None  # None: the object of the whole says what it is
    write: _Convert
    read: _Convert
    is_optional: bool


def _converted(found: str, part: _Part, convert: _Convert) -> str:
    if convert is None:
        return found
    if part.is_optional:
        return f"None if (found := {found}) is None else convert_{part.name}(found)"
    return f"convert_{part.name}({found})"


def _parts(kind: Any) -> Sequence[_Part]:
    return [_part(kind, each.name, each.type) for each in fields(kind) if (kind, each.name) not in _LEFT_OUT]


def _part(owner: Any, name: str, annotation: Any) -> _Part:
    types = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kind, *others = (one for one in types if one is not NoneType)
    if (owner, name) in _SPREAD:
        return _Part(name, None, write, _reader(kind), is_optional=False)
    if others:
        return _Part(name, None, write_tagged, partial(_read_tagged, types), is_optional=False)
    member = _NAMES.get((owner.__name__, name), f"{name}_seconds" if kind is timedelta else name)
    to_json, of_json = (_milliseconds, of_milliseconds) if member == _MILLISECONDS else _converts(kind)
    return _Part(name, member, to_json, of_json, is_optional=NoneType in types or kind is Any)


def _converts(kind: Any) -> tuple[_Convert, _Convert]:
    """How a value of this type is written, and read."""
    if kind in _CONVERTS:
        return _CONVERTS[kind]
    if get_origin(kind) is Sequence and is_dataclass(get_args(kind)[0]):
        return _write_each, partial(_read_each, *get_args(kind))
    if get_origin(kind) is frozenset:
        return sorted, None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return None, _word_of(kind)
    is_value = is_dataclass(kind)
    return (_writer(kind), _reader(kind)) if is_value else (None, None)


def _word_of(kind: type[Enum]) -> Callable[[Any], Enum]:
    """Read a word of an enumeration; its own call takes several times as long, and names what is unknown."""
    known = {each.value: each for each in kind}
    return lambda word: known[word] if word in known else kind(word)


def _write_each(values: Sequence[Any]) -> Sequence[Json]:
    return list(map(write, values))


def _read_each(kind: type[_T], rows: Any) -> Sequence[_T]:
    return tuple(read(kind, row) for row in listed(rows))


def _read_tagged(kinds: Sequence[Any], row: Json) -> Any:
    (kind,) = (kind for kind in kinds if _tag(kind) in row)
    return read(kind, row[_tag(kind)])


@cache
def _tag(kind: Any) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def _write_usage(usage: Usage) -> Json:
    """Leave out what can't be written as a number: an answer is not lost for what its provider says that it cost."""
    cost = float(usage.cost) if usage.cost is not None and usage.cost.is_finite() else None
    return {
        "prompt_tokens": _number(usage.prompt_tokens),
        "completion_tokens": _number(usage.completion_tokens),
        "total_tokens": _number(usage.total_tokens),
        "cost": _number(cost),
    }


def _number(number: float | None) -> float | None:
    return number if number is not None and -_LARGEST < number < _LARGEST else None


def _storable(text: str) -> str:
    """Replace what PostgreSQL's ``text`` can't hold: NUL and lone surrogates."""
    return text if text.isprintable() else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _milliseconds(duration: timedelta) -> int:
    """Round to whole milliseconds, as ``generations.duration_ms`` keeps them."""
    return round(duration / timedelta(milliseconds=1))


def _status(word: str) -> GenerationStatus:
    try:
        return GenerationStatus(word)
    except ValueError:
        known = ", ".join(GenerationStatus)
        raise NotConfigured(f"generations.status holds a word that is not one of {known}") from None


_CONVERTS: Final[Mapping[Any, tuple[_Convert, _Convert]]] = {
    Decimal: (None, lambda number: Decimal(str(number))),
    GenerationStatus: (None, _status),
    UUID: (str, UUID),
    Usage: (_write_usage, partial(read, Usage)),
    datetime: (datetime.isoformat, instant),
    str: (_storable, None),
    timedelta: (timedelta.total_seconds, lambda number: timedelta(seconds=number)),
}
