"""Strict JSON, schemas, and what may be said of an output that fails."""

import contextlib
import json
import socket
import time
from typing import Any

import pytest

from ai_retry.domain.errors import ContextMissing
from ai_retry.providers.response_schema import schema_of
from ai_retry.providers.validation import InvalidOutput, parse, storable, validate

TITLE = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"title": "é"}', {"title": "é"}),
        (' \n[1, 2.5, -0, 1e3, true, null, ""]\n', [1, 2.5, 0, 1000.0, True, None, ""]),
        ('"\\ud83d\\ude00"', "😀"),
        (str(2**53 - 1), 2**53 - 1),
        ("-" + str(2**53 - 1), -(2**53) + 1),
        ("null", None),
        ("[" * 99 + "]" * 99, json.loads("[" * 99 + "]" * 99)),
    ],
)
def test_strict_json_is_read(content: str, expected: Any) -> None:
    """Any single JSON value that can be stored without loss is read."""
    assert parse(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        "NaN",
        '{"a": Infinity}',
        "-Infinity",
        "1e999",
        str(2**53),
        "-" + str(2**53),
        "9" * 5000,
        '{"a": 1, "a": 1}',
        '[{"a": {"b": 1, "b": 2}}]',
        r'"\u0000"',
        r'{"\u0000": 1}',
        r'"\ud800"',
        '"\ud800"',
        "[" * 101 + "]" * 101,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
    ],
)
def test_unstorable_json_is_refused(content: str) -> None:
    """Values that a database or a browser would refuse, change or choke on are no answers."""
    with pytest.raises(InvalidOutput) as caught:
        parse(content)

    assert len(str(caught.value)) < 60


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"a": 1,}', "{} {}", "Here: {}", "```json\n{}\n```", "{'a': 1}", "[1, 2", '"a\nb"', "01", "tru"],
)
def test_other_text_is_broken_json(content: str) -> None:
    """Prose, fences, second documents, trailing commas and halves are not JSON, and distinguished from bad values."""
    with pytest.raises(InvalidOutput) as caught:
        parse(content)

    assert caught.value.broken


def test_storable_refuses_what_postgres_refuses() -> None:
    """A plain text is taken as it is unless PostgreSQL could not store it."""
    assert storable("a\nb") == "a\nb"
    with pytest.raises(InvalidOutput):
        storable("a\0b")


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ({"title": 5}, "/title: type"),
        ({}, "/title: required"),
        ([], "the root: type"),
        ({"title": "x", "secret": 1}, "the root: additionalProperties"),
    ],
)
def test_what_failed_is_named_by_pointer(output: Any, problem: str) -> None:
    """The place and the keyword are named."""
    with pytest.raises(InvalidOutput) as caught:
        validate(output, TITLE)

    assert str(caught.value) == problem


def test_the_models_words_are_not_shown() -> None:
    """A property name that is not in the schema is the model's, so a pointer shows a star in its place."""
    schema = {"type": "object", "additionalProperties": {"items": {"type": "integer"}}}

    with pytest.raises(InvalidOutput) as caught:
        validate({"my secret plan": [1, "my secret"]}, schema)

    assert str(caught.value) == "/*/1: type"


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2, "1", True, [1], {"a": 1}, None, ["bool", 1], [True], {"a": True}], True),
        ([1, 1.0], False),
        ([{"a": [1, {"b": 2}]}, {"a": [1.0, {"b": 2}]}], False),
        ([[1], [True]], True),
        ([{}, []], True),
    ],
)
def test_unique_items_are_distinguished(items: list[Any], unique: bool) -> None:
    """Numbers are equal by value, and a boolean is no number."""
    with contextlib.nullcontext() if unique else pytest.raises(InvalidOutput, match="/days: uniqueItems"):
        validate({"days": items}, {"properties": {"days": {"uniqueItems": True}}})


def test_many_unique_items_take_no_time() -> None:
    """A hundred thousand items are compared in seconds at most, where comparing each with each takes hours."""
    items = [{"a": number} for number in range(100_000)]
    started = time.monotonic()

    validate(items, {"uniqueItems": True})

    assert time.monotonic() - started < 10


def test_pointers_are_one_line() -> None:
    """A name that can't be printed is not shown, even if it is the schema's own."""
    with pytest.raises(InvalidOutput) as caught:
        validate({"a\nb": 1}, {"properties": {"a\nb": {"type": "string"}}})

    assert str(caught.value) == "/*: type"


def test_pointers_are_escaped() -> None:
    """Slashes and tildes in names are escaped as RFC 6901 wants."""
    with pytest.raises(InvalidOutput) as caught:
        validate({"a/b~c": 1}, {"properties": {"a/b~c": {"type": "string"}}})

    assert str(caught.value) == "/a~1b~0c: type"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        TITLE,
        {"$defs": {"day": {"type": "integer"}}, "items": {"$ref": "#/$defs/day"}},
        {"definitions": {"day": {"type": "integer"}}, "items": {"$ref": "#/definitions/day"}},
        {"type": "object", "properties": {"sub": {"$ref": "#"}}},
        {"$id": "https://app.example/plan", "$defs": {"a": {"$anchor": "a"}}, "$ref": "#a"},
        {"enum": [{"$ref": "not a reference"}], "properties": {"$ref": {"type": "string"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
        {"pattern": "^[a-z]+$"},
    ],
)
def test_good_schemas_are_accepted(schema: dict[str, Any]) -> None:
    """Schemas whose references stay within them are accepted, and can be used."""
    schema_of(schema)

    with contextlib.suppress(InvalidOutput):
        validate({"title": "x"}, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "text"},
        {"properties": []},
        {"$ref": "#/$defs/absent"},
        {"items": {"$ref": "https://elsewhere.example/schema"}},
        {"items": {"$ref": "http://127.0.0.1:9/schema"}},
        {"items": {"$ref": "file:///etc/passwd"}},
        {"items": {"$dynamicRef": "other.json#x"}},
        {"$defs": {"a": {"$ref": "b.json"}}, "$ref": "#/$defs/a"},
        {"definitions": {"a": {"items": {"$ref": "b.json"}}}, "$ref": "#/definitions/a"},
        {"properties": {"type": {}}, "$ref": "#/properties"},
        {"pattern": "("},
        {"pattern": "a{99999999999999999999}"},
        {"patternProperties": {"(": {}}},
        {"items": {"pattern": "*"}},
        {"$id": "http://[", "$ref": "x"},
        {"minLength": -1},
        {"minimum": "5"},
    ],
)
def test_bad_schemas_are_refused(schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that could not be applied is a clear error before any call, and looking at it opens no connection."""
    monkeypatch.setattr(socket, "socket", _no_socket)

    with pytest.raises(ContextMissing) as caught:
        schema_of(schema)

    assert caught.value.details["problem"].startswith("response_schema: ")


def test_deep_schemas_do_not_crash() -> None:
    """A schema nested a hundred thousand levels deep is refused like any other bad one."""
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"not": schema}

    with pytest.raises(ContextMissing):
        schema_of(schema)

    while schema:  # piecemeal, since freeing it at once would recurse as deeply
        schema = schema.pop("not")


def test_endless_schemas_do_not_crash() -> None:
    """A schema that refers to itself without end fails the output instead of the process."""
    schema = {"properties": {"a": {"$ref": "#/properties/a"}}}
    schema_of(schema)

    with pytest.raises(InvalidOutput):
        validate({"a": 1}, schema)


def _no_socket(*_: Any, **__: Any) -> None:
    raise AssertionError("a schema caused I/O")


class TestPatterns:
    """Patterns may come from users: none can hold the interpreter."""

    def test_catastrophic_pattern_is_matched_in_linear_time(self) -> None:
        """A pattern that takes Python's engine for ever is decided at once, and rightly."""
        schema = {"type": "string", "pattern": "^(a|a)*$"}
        schema_of(schema)

        validate("a" * 5000, schema)
        with pytest.raises(InvalidOutput, match="pattern"):
            validate("a" * 5000 + "b", schema)

    @pytest.mark.parametrize(
        "schema",
        [
            {"pattern": "(?=x)"},
            {"properties": {"a": {"items": {"pattern": r"(a)\1"}}}},
            {"pattern": "((a{1000}){1000}){1000}"},
            {"patternProperties": {"^(a|a)*$": {}}, "additionalProperties": False},
        ],
        ids=["look-ahead", "back-reference", "enormous", "names"],
    )
    def test_pattern_beyond_linear_time_is_refused(self, schema: dict[str, Any]) -> None:
        """What can't be matched in linear time is refused before any call."""
        with pytest.raises(ContextMissing, match="response_schema"):
            schema_of(schema)

    def test_pattern_reached_by_reference_alone_matches_nothing(self) -> None:
        """A pattern that only a reference into an unknown keyword reaches, and that RE2 refuses, lets nothing pass."""
        schema = {"$ref": "#/x-own", "x-own": {"pattern": "(?=x)"}}

        with pytest.raises(InvalidOutput, match="pattern"):
            validate("x", schema)
