"""Schemas that need no library to accept a valid output: most of those that apps write for answers.

The library takes sixty microseconds for ten properties, and nearly every answer is valid. Here a schema becomes a table
from the type of a value to what such a value must satisfy. It only ever says that an output is certainly valid:
whatever it does not accept, or a schema that holds anything else than the keywords below, is left to the library.

Each value is looked at under one subschema, once, so that the work grows with the output, and with nothing else.
"""

from collections.abc import Callable, Mapping
from math import inf
from types import NoneType
from typing import Any, Final, TypeAlias

Accepts: TypeAlias = Callable[[Any], bool]
_Table: TypeAlias = Mapping[type, Accepts | None]  # None: any value of the type; a type that is not there: none

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),  # 1.0 is one, too: the library says so
    "null": (NoneType,),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}
_RULES: Final[Mapping[str, frozenset[str]]] = {
    "array": frozenset({"items", "minItems", "maxItems"}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "string": frozenset({"enum", "minLength", "maxLength"}),
}
_ANNOTATIONS: Final = frozenset(
    {
        *("$comment", "$schema", "default", "deprecated", "description", "examples", "format", "readOnly", "title"),
        "writeOnly",
    }
)
_ANYTHING: Final[_Table] = dict.fromkeys((kind for kinds in _TYPES.values() for kind in kinds), None)
_NOTHING: Final[_Table] = {}


class _NotPlain(Exception):
    """The schema is left to the library."""


def acceptance_of(schema: Mapping[str, Any]) -> Accepts | None:
    """Compile a schema that ``dialect.fault`` finds nothing wrong with; None: it is not plain."""
    try:
        table = _table(schema)
    except _NotPlain:
        return None
    return lambda output: _fits(table, output)


def _fits(table: _Table, value: Any) -> bool:
    kind = type(value)
    if kind not in table:
        return False
    accepts = table[kind]
    return accepts is None or accepts(value)


def _table(schema: Any) -> _Table:
    if isinstance(schema, bool):
        return _ANYTHING if schema else _NOTHING
    rules = {keyword: value for keyword, value in schema.items() if keyword not in _ANNOTATIONS}
    if rules.keys() == {"anyOf"}:
        return _either([_table(each) for each in rules["anyOf"]])
    named = rules.pop("type", [])
    names = [named] if isinstance(named, str) else named
    ruled = frozenset().union(*(_RULES.get(name, frozenset()) for name in names))
    if not names or not rules.keys() <= ruled or ("enum" in rules and len(names) > 1):
        raise _NotPlain
    return {kind: _accepts(name, rules) for name in names for kind in _TYPES[name]}


def _either(tables: list[_Table]) -> _Table:
    """Join tables of which one at most says anything about a value."""
    joined: dict[type, Accepts | None] = {}
    for table in tables:
        if joined.keys() & table.keys():
            raise _NotPlain
        joined.update(table)
    return joined


def _accepts(name: str, rules: Mapping[str, Any]) -> Accepts | None:
    """Compile the rules for values of one type."""
    if rules.keys().isdisjoint(_RULES.get(name, ())):
        return None
    match name:
        case "array":
            return _of_array(rules)
        case "object":
            return _of_object(rules)
        case "string":
            return _of_string(rules)
        case _:
            least, most = rules.get("minimum", -inf), rules.get("maximum", inf)
            return lambda number: bool(least <= number <= most)


def _of_array(rules: Mapping[str, Any]) -> Accepts:
    item, least, most = _table(rules.get("items", True)), rules.get("minItems", 0), rules.get("maxItems", inf)
    return lambda items: least <= len(items) <= most and all(_fits(item, each) for each in items)


def _of_object(rules: Mapping[str, Any]) -> Accepts:
    known = {name: _table(each) for name, each in rules.get("properties", {}).items()}
    others, required = _table(rules.get("additionalProperties", True)), frozenset(rules.get("required", ()))
    return lambda members: (
        members.keys() >= required and all(_fits(known.get(name, others), each) for name, each in members.items())
    )


def _of_string(rules: Mapping[str, Any]) -> Accepts:
    least, most = rules.get("minLength", 0), rules.get("maxLength", inf)
    if "enum" not in rules:
        return lambda text: bool(least <= len(text) <= most)
    words = frozenset(each for each in rules["enum"] if isinstance(each, str))
    return lambda text: text in words and bool(least <= len(text) <= most)
