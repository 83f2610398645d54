"""What counts as valid output: strict JSON, storable in PostgreSQL, valid under the schema.

Messages name the place by JSON pointer (RFC 6901) in words of the schema alone: never the content, nor a property name
that the model made up. Nothing here knows of providers or HTTP.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

if TYPE_CHECKING:
    from ai_retry.providers.response_schema import ResponseSchema

Wanted: TypeAlias = "Mapping[str, Any] | ResponseSchema"
"""A schema of an output, as it was given, or checked already."""

_DEEPEST = 100  # levels of nesting; more is no answer, and would trouble whoever stores or reads it
_LARGEST_INTEGER = 2**53 - 1  # RFC 7493 (I-JSON), section 2.2: beyond it, readers disagree about the value
_MOST_PROBLEMS = 10  # that are listed of one output
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL refuses them in jsonb


class InvalidOutput(ValueError):
    """The content is not valid; the message names the place and the rule, never the content.

    Attributes:
        broken: it is not JSON at all, as cut content is.
        problems: the first places and rules, this message's among them.
    """

    def __init__(self, problem: str, *, broken: bool = False, problems: Sequence[str] = ()) -> None:
        super().__init__(problem)
        self.broken = broken
        self.problems = tuple(problems) or (problem,)


def parse(content: str) -> Any:
    """Read ``content`` as exactly one JSON value (RFC 8259) that can be stored and read without loss.

    Refused beyond the RFC's grammar: duplicate names, ``NaN`` and ``Infinity``, numbers out of range, strings with
    U+0000 or lone surrogates, and nesting of more than 100 levels.

    Raises:
        InvalidOutput: with the reason.
    """
    try:
        value = _decode(content)
    except InvalidOutput:
        raise
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    else:
        if _may_be_unusual(content):
            _check_values(value)
        return value
    raise InvalidOutput(problem, broken=True)


def whole(output: Any) -> Any:
    """Return ``output`` if it is JSON that can be stored and read without loss, wherever it came from.

    Raises:
        InvalidOutput: it is not; with the reason.
    """
    try:
        text = json.dumps(output, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidOutput("it is not JSON") from None
    parse(text)
    return output


def validate(output: Any, schema: Wanted) -> None:
    """Check ``output`` under a schema.

    Raises:
        InvalidOutput: names the first place that fails and the keyword, as in ``/weeks/0/days: minItems``.
        ContextMissing: the schema can't be applied; see ``schema_of``.
    """
    from ai_retry.providers.response_schema import schema_of  # noqa: PLC0415 - imports jsonschema

    wanted = schema_of(schema) if isinstance(schema, Mapping) else schema
    problem = wanted.problem(output)
    if problem is not None:
        raise InvalidOutput(problem, problems=wanted.problems(output, most=_MOST_PROBLEMS))


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidOutput("NaN and Infinity are not JSON")


def _integer(digits: str) -> int:
    if len(digits) > len(str(-_LARGEST_INTEGER)) or abs(int(digits)) > _LARGEST_INTEGER:
        raise InvalidOutput("an integer is too large")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InvalidOutput("a number is too large")
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidOutput("an object has a duplicate name")
    return members


_decode: Final = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number, object_pairs_hook=_object
).decode


def _may_be_unusual(content: str) -> bool:
    """Whether a string may hold what can't be stored, or the nesting may be too deep: nearly always neither may."""
    is_deep = content.count("{") + content.count("[") >= _DEEPEST
    return is_deep or "\\u" in content or _UNSTORABLE.search(content) is not None


def _check_values(value: Any) -> None:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(_DEEPEST):
        if not level:
            return
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                storable(item)
        level = below
    if level:
        raise InvalidOutput("it is nested too deeply")


def storable(text: str) -> str:
    """Return ``text`` if PostgreSQL can store it.

    Raises:
        InvalidOutput: it holds U+0000 or a lone surrogate.
    """
    if _UNSTORABLE.search(text):
        raise InvalidOutput("a string holds U+0000 or a lone surrogate")
    return text
