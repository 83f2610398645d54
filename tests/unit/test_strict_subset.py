"""Which schemas are sent with ``strict: true``, and what is named of the others."""

import ast
import json
from functools import reduce
from typing import Any

import pytest

from ai_retry.providers.response_schema import schema_of
from ai_retry.providers.strict_subset import first_outside
from tools.examples import PAGES, examples
from tools.npm import REPOSITORY


def closed(**properties: Any) -> dict[str, Any]:
    """Make a closed object, all of whose properties are required."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


TEXT = {"type": "string"}
TREE = closed(name=TEXT, below={"type": "array", "items": {"$ref": "#"}})


def nested(levels: int) -> dict[str, Any]:
    """Nest closed objects."""
    return reduce(lambda inner, _: closed(a=inner), range(levels - 1), closed())


@pytest.mark.parametrize(
    "schema",
    [
        closed(),
        closed(title=TEXT, minutes={"type": "integer", "minimum": 1, "exclusiveMaximum": 500, "multipleOf": 5}),
        closed(at={"type": ["string", "null"], "format": "date-time"}, code={"type": "string", "pattern": "^[A-Z]+$"}),
        closed(weeks={"type": "array", "items": closed(days={"type": "integer"}), "minItems": 1, "maxItems": 4}),
        closed(kind={"enum": ["run", "rest", None]}, version={"const": 1}, one={"anyOf": [TEXT, {"type": "null"}]}),
        {**closed(step={"$ref": "#/$defs/step"}), "$defs": {"step": closed(title=TEXT)}, "title": "Plan"},
        TREE,
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "description": "A plan.", **closed(type=TEXT)},
        nested(10),
        closed(kind={"enum": [f"{number}" for number in range(1000)]}),
    ],
)
def test_schema_in_the_subset_is_strict(schema: dict[str, Any]) -> None:
    """What OpenAI's guide lists is in the subset."""
    assert first_outside(schema) is None
    assert schema_of(schema).strict


@pytest.mark.parametrize(
    ("schema", "outside"),
    [
        ({"type": "array", "items": TEXT}, "/type"),
        ({"anyOf": [closed()]}, "/type"),
        ({**closed(), "anyOf": [closed()]}, "/anyOf"),
        ({}, "/type"),
        ({"type": "object", "required": ["title"]}, "/properties"),
        ({"type": "object", "properties": {"a": TEXT}, "required": ["a"]}, "/additionalProperties"),
        ({**closed(a=TEXT), "additionalProperties": TEXT}, "/additionalProperties"),
        ({**closed(a=TEXT, b=TEXT), "required": ["a"]}, "/required"),
        ({"type": "object", "properties": {"a": TEXT}, "additionalProperties": False}, "/required"),
        ({**closed(a=TEXT), "required": ["a", "b"]}, "/required"),
        (closed(plan={"type": "object"}), "/properties/plan/properties"),
        (closed(plan={"type": ["object", "null"], "properties": {}}), "/properties/plan/additionalProperties"),
        (closed(title={"type": "string", "maxLength": 60}), "/properties/title/maxLength"),
        (closed(at={"type": "string", "format": "uri"}), "/properties/at/format"),
        (closed(at={"type": "string", "default": "x"}), "/properties/at/default"),
        (closed(days={"type": "array"}), "/properties/days/items"),
        (closed(days={"type": "array", "items": TEXT, "uniqueItems": True}), "/properties/days/uniqueItems"),
        (closed(days={"type": "array", "items": {}}), "/properties/days/items/type"),
        (closed(day={"type": "array", "prefixItems": [TEXT], "items": TEXT}), "/properties/day/prefixItems"),
        (closed(any=True), "/properties/any"),
        (closed(any={"description": "x"}), "/properties/any/type"),
        (closed(one={"oneOf": [TEXT]}), "/properties/one/oneOf"),
        (closed(one={"anyOf": [TEXT, {"type": "object"}]}), "/properties/one/anyOf/1/properties"),
        ({**closed(a={"$ref": "#/$defs/b"}), "$defs": {"b": {"not": {}}}}, "/$defs/b/not"),
        ({**closed(a={"$ref": "#/$defs/b", "description": "x"}), "$defs": {"b": TEXT}}, "/properties/a/$ref"),
        ({**closed(), "if": {}}, "/if"),
        (nested(11), "/properties/a" * 10 + "/type"),
        (closed(kind={"enum": [f"{number}" for number in range(1001)]}), "/properties/kind/enum"),
        (closed(kind={"enum": [f"{number:070}" for number in range(251)]}), "/properties/kind/enum"),
    ],
)
def test_first_thing_outside_is_named(schema: dict[str, Any], outside: str) -> None:
    """The pointer leads to the keyword that is unknown, is missing, or has another value than it must."""
    assert first_outside(schema) == outside
    assert not schema_of(schema).strict


def test_keyword_like_a_prompt_is_hidden() -> None:
    """What a user wrote in a keyword's place is hidden when it is longer than a name."""
    assert first_outside(
        closed(a={"type": "string", "my secret prompt, in place of a keyword": 1})
    ) == "/properties/a/" + ("my secret prompt, in place of a keyword")
    assert (
        first_outside(closed(a={"type": "string", "my secret prompt, which is longer than a name": 1}))
        == "/properties/a/*"
    )


def in_python(code: str) -> list[Any]:
    """List the schemas that Python code writes down."""
    found: list[Any] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.keyword) and node.arg == "response_schema":
            found.append(node.value)
        elif isinstance(node, ast.Dict):
            found += [
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "response_schema"
            ]
    return [ast.literal_eval(each) for each in found if isinstance(each, ast.Dict)]


def in_json(code: str) -> list[Any]:
    """List the schemas in a JSON document: that of a prompt, or the document itself."""
    document = json.loads(code)
    if not isinstance(document, dict):
        return []
    schema = document.get("response_schema", document if "properties" in document else None)
    return [] if schema is None else [schema]


def documented() -> list[tuple[str, Any]]:
    """List every schema that the pages and the examples show."""
    readers = {"python": in_python, "json": in_json}
    found = [
        (each.page, schema)
        for page in PAGES
        if page.parent.name != "reference"  # generated, and without examples
        for each in examples(page)
        if each.language in readers
        for schema in readers[each.language](each.code)
    ]
    demo = REPOSITORY / "examples" / "demo_app.py"
    return found + [(demo.name, schema) for schema in in_python(demo.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "schema"), documented(), ids=lambda each: each if isinstance(each, str) else "")
def test_documented_schema_is_strict(page: str, schema: dict[str, Any]) -> None:
    """What a reader copies from a page is in the subset."""
    assert schema_of(schema).outside is None


def test_every_page_with_a_schema_is_read() -> None:
    """The pages that show one are found: the test above has something to read."""
    assert {page for page, _ in documented()} >= {
        "docs/how-to/flask-app.md",
        "docs/how-to/prompts.md",
        "docs/how-to/sessions-table.md",
        "docs/tutorial.md",
        "demo_app.py",
    }
