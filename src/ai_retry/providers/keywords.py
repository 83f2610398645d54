"""The keywords of JSON Schema, applied in bounded time and memory.

The library's own take as long as a schema wants, and keep a message, with the value in it, for each alternative that
does not fit: a schema of 2 kB and an answer of 20 kB can fill gigabytes. Here every keyword costs steps, of which one
validation has so many, and an alternative that does not fit leaves nothing behind.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

import re2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

_MOST_STEPS = 1_000_000  # of one validation: more than a real answer needs, and some seconds
_SIZE_OF_STEP = 64  # characters, items or members that are looked at, or written into a message, in one step

_Keyword: TypeAlias = Callable[[Any, Any, Any, Any], Any]
_left: ContextVar[list[int]] = ContextVar("_left")  # steps of the validation that runs


class TooMuchWork(Exception):
    """A validation takes more steps than a real answer under a real schema needs."""


@contextmanager
def bounded_work() -> Iterator[None]:
    """Give a validation its steps; the keywords must be applied within this, and raise ``TooMuchWork`` beyond them."""
    token = _left.set([_MOST_STEPS])
    try:
        yield
    finally:
        _left.reset(token)


def compile_pattern(pattern: str) -> Any:
    """Compile with RE2; None for what it doesn't take: look-around, back references, enormous counts."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


def _spend(steps: int) -> None:
    left = _left.get()
    left[0] -= steps
    if left[0] < 0:
        raise TooMuchWork


def _counted(apply: _Keyword) -> _Keyword:
    """Count a keyword's steps: references to references multiply, and large values are walked and written out."""

    def keyword(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        size = len(instance) if isinstance(instance, str | list | dict) else 0
        _spend(1 + (len(wanted) if isinstance(wanted, list | dict) else 0) + size // _SIZE_OF_STEP)
        for error in apply(validator, wanted, instance, schema) or ():
            if not error.relative_schema_path:  # it was found by this keyword, not below it
                _spend(len(error.message) // _SIZE_OF_STEP)
            yield error

    return keyword


def _fits(validator: Any, schema: Any, instance: Any) -> bool:
    return next(validator.descend(instance, schema), None) is None


def _any_of(validator: Any, wanted: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if not any(_fits(validator, each, instance) for each in wanted):
        yield ValidationError("fits none")


def _one_of(validator: Any, wanted: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    fitting = 0
    for each in wanted:
        fitting += _fits(validator, each, instance)
        if fitting > 1:
            break
    if fitting != 1:
        yield ValidationError("does not fit exactly one")


def _unique_items(validator: Any, wanted: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """``uniqueItems`` in linear time: the library compares each item with each, hours for a large answer."""
    if wanted and validator.is_type(instance, "array"):
        keys = [_key(item) for item in instance]
        if len(set(keys)) < len(keys):
            yield ValidationError("has items that are equal")


def _key(value: Any) -> Any:
    """Equal for values that are equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return frozenset((name, _key(item)) for name, item in value.items())
    if isinstance(value, list):
        return list, tuple(_key(item) for item in value)
    return (bool, value) if isinstance(value, bool) else value


def _pattern(validator: Any, pattern: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """``pattern`` in linear time: Python's engine can be made to run for ever."""
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError("does not match")


def _matches(pattern: str, text: str) -> bool:
    expression = compile_pattern(pattern)
    return expression is not None and expression.search(text) is not None


_OURS: dict[str, _Keyword] = {
    "anyOf": _any_of,
    "oneOf": _one_of,
    "pattern": _pattern,
    "uniqueItems": _unique_items,
}
KEYWORDS: Final = {name: _counted(apply) for name, apply in {**Draft202012Validator.VALIDATORS, **_OURS}.items()}
