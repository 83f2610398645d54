"""Which schemas may be sent with ``strict: true``.

The subset is that of OpenAI's guide "Structured model outputs", section "Supported schemas" (2026). What the guide does
not list is outside, ``minLength`` and ``maxLength`` too: OpenAI accepts them by now (pydantic-ai, issue 7315), and
others refuse them (pydantic-ai, pull request 7400). To be outside is no fault: the schema is sent with
``strict: false``, and every answer is validated here in any case.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ai_retry.providers.dialect import Path, pointer, subschemas

_KEYWORDS = frozenset(
    {
        *("type", "enum", "const", "anyOf", "$ref", "$defs", "definitions"),
        *("properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
        *("pattern", "format", "multipleOf", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
        *("title", "description", "$schema"),  # OpenAI's own SDKs send them
    }
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_TYPED = ("type", "enum", "const", "anyOf", "$ref")  # one of them says what a value is
_MOST_LEVELS = 10  # of objects and arrays within each other
_MOST_ENUM_VALUES = 1000  # in all; names and values of a schema can't exceed their limit of 120,000 characters here
_LONG_ENUM = 250  # from so many strings on, they may have 15,000 characters together
_MOST_ENUM_CHARACTERS = 15_000


def first_outside(schema: Mapping[str, Any]) -> str | None:
    """Name the first thing outside the subset by JSON pointer; None: the schema is in it.

    The pointer leads to a keyword that is unknown there, is missing, or has another value than it must have.

    Args:
        schema: one that ``dialect.fault`` finds nothing wrong with.
    """
    if schema.get("type") != "object":
        return "/type"
    if "anyOf" in schema:
        return "/anyOf"
    found = next(_outside(schema, (), 0), None) or next(_too_many_values(schema), None)
    return None if found is None else pointer(found)


def _outside(schema: Any, path: Path, level: int) -> Iterator[Path]:
    if not isinstance(schema, Mapping):  # true or false
        yield path
        return
    yield from ((*path, keyword) for keyword in _faults(schema, root=not path))
    types = schema.get("type", ())
    level += not {"object", "array"}.isdisjoint([types] if isinstance(types, str) else types)
    if level > _MOST_LEVELS:
        yield (*path, "type")
        return
    for keyword in ("properties", "$defs", "definitions"):
        for name, each in schema.get(keyword, {}).items():
            yield from _outside(each, (*path, keyword, name), level if keyword == "properties" else 0)
    for index, each in enumerate(schema.get("anyOf", ())):
        yield from _outside(each, (*path, "anyOf", index), level)
    if "items" in schema:
        yield from _outside(schema["items"], (*path, "items"), level)


def _faults(schema: Mapping[str, Any], *, root: bool) -> Iterator[str]:
    """Name keywords of one subschema: those that are unknown, are missing, or have another value than they must."""
    yield from (keyword for keyword in schema if keyword not in _KEYWORDS)
    types = schema.get("type", ())
    if schema.keys().isdisjoint(_TYPED):
        yield "type"
    if "$ref" in schema and len(schema) > 1 and not root:
        yield "$ref"  # it must be the only keyword
    if schema.get("format", "date") not in _FORMATS:
        yield "format"
    if "object" in types or "properties" in schema:
        yield from _faults_of_object(schema)
    if "array" in types and "items" not in schema:
        yield "items"


def _faults_of_object(schema: Mapping[str, Any]) -> Iterator[str]:
    """An object must have properties, all of them required, and no others."""
    if "properties" not in schema:
        yield "properties"
    elif set(schema.get("required", ())) != set(schema["properties"]):
        yield "required"
    if schema.get("additionalProperties") is not False:
        yield "additionalProperties"


def _too_many_values(schema: Any) -> Iterator[Path]:
    count = 0
    for path, each in subschemas(schema):
        values = each.get("enum", ()) if isinstance(each, Mapping) else ()
        count += len(values)
        characters = sum(len(value) for value in values if isinstance(value, str))
        if count > _MOST_ENUM_VALUES or (len(values) > _LONG_ENUM and characters > _MOST_ENUM_CHARACTERS):
            yield (*path, "enum")
