"""What is accepted without the library is what the library accepts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ai_retry.providers.plain_schema import acceptance_of

NAMES = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["", "a", "b", "abc"])
NUMBERS = st.integers(-2, 3) | st.sampled_from([-1.5, 0.0, 1.0, 2.5])
SIZES = st.integers(0, 3)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["array", "boolean", "integer", "null", "number", "object", "string"])


def rules(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Write a schema, of keywords that fit its types, and of others."""
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "title": TEXTS,
        "properties": st.dictionaries(NAMES, inner, max_size=3),
        "required": st.lists(NAMES, unique=True, max_size=2),
        "additionalProperties": inner,
        "items": inner,
        "enum": st.lists(TEXTS | st.none() | NUMBERS, min_size=1, max_size=3),
        "multipleOf": st.just(2),
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), SIZES),
        **dict.fromkeys(("minimum", "maximum"), NUMBERS),
    }
    typed = st.fixed_dictionaries({"type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True)})
    some = st.lists(st.sampled_from([*keywords]), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: keywords[name] for name in names})
    )
    return st.tuples(typed | st.just({}), some).map(lambda parts: {**parts[0], **parts[1]})


SCHEMAS = st.recursive(rules(st.booleans()), lambda inner: rules(st.booleans() | inner), max_leaves=6)


@given(SCHEMAS, VALUES)
def test_what_is_accepted_is_valid(schema: dict[str, Any], value: Any) -> None:
    """Nothing is accepted that the library finds anything wrong with."""
    accepts = acceptance_of(schema)
    if accepts is not None and accepts(value):
        assert Draft202012Validator(schema).is_valid(value)


@given(SCHEMAS, VALUES)
def test_what_is_valid_is_accepted(schema: dict[str, Any], value: Any) -> None:
    """A plain schema needs no library for a valid output, but for a float that is an integer."""
    accepts = acceptance_of(schema)
    if accepts is not None and Draft202012Validator(schema).is_valid(value):
        assert accepts(value) or ".0" in repr(value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}, "patternProperties": {}},
        {"type": "string", "pattern": "a"},
        {"type": "string", "minimum": 1},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        {"anyOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": ["string", "null"], "enum": ["a"]},
        {"enum": ["a"]},
        {},
    ],
)
def test_other_schemas_are_left_to_the_library(schema: dict[str, Any]) -> None:
    """A keyword that is not known, or not of the type, and alternatives for one value make a schema not plain."""
    assert acceptance_of(schema) is None
