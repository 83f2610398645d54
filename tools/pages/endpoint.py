"""The reference of the endpoint, from its OpenAPI document."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ai_retry.flask.openapi import openapi_document
from tools.pages.markdown import code, notice, page, table

_INTRODUCTION = f"""# HTTP

{notice("the OpenAPI document")}

The app also serves all this as an OpenAPI document, at `/sessions/ai/openapi.json` below its prefix.

Every answer is JSON, with `Cache-Control: no-store` and `X-Request-Id`. Names are in camelCase, instants in UTC.
[Errors](errors.md) says what to do about each error.
"""


def render() -> str:
    """Render the page."""
    document = openapi_document(first_calls=True)
    operations = (
        line
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for line in _operation(path, method, operation)
    )
    objects = document["components"]["schemas"]
    return page(
        [
            _INTRODUCTION,
            *operations,
            "## Headers of answers",
            "",
            *_headers(document["components"]["headers"]),
            "## Objects",
            "",
            *(line for name in sorted(objects) for line in _object(name, objects[name])),
        ]
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"## {method.upper()} {path}",
        "",
        f"**{operation['summary']}.** {operation.get('description', '')}",
        "",
    )
    yield "Needs an access token of the user." if operation["security"] else "Needs no access token."
    yield ""
    if parameters := operation.get("parameters"):
        yield from table(
            ("parameter", "in", "required", "meaning"),
            (
                (code(each["name"]), each["in"], "yes" if each["required"] else "", each.get("description", ""))
                for each in parameters
            ),
        )
    yield from table(
        ("status", "when", "body", "codes", "headers"),
        (_answer(status, answer) for status, answer in operation["responses"].items()),
    )


def _answer(status: str, answer: Mapping[str, Any]) -> tuple[str, ...]:
    (content,) = answer["content"].values()
    schema = content["schema"]
    base, *more = schema.get("allOf", [schema])
    codes = [name for each in more for name in each["properties"]["error"]["properties"]["code"]["enum"]]
    linked = ", ".join(f"[`{name}`](errors.md#{name.lower()})" for name in codes)
    headers = ", ".join(code(name) for name in answer["headers"] if name != "X-Request-Id")
    return status, answer["description"], _type(base), linked, headers


def _headers(headers: Mapping[str, Any]) -> list[str]:
    return table(("header", "meaning"), ((code(name), each["description"]) for name, each in headers.items()))


def _object(name: str, schema: Mapping[str, Any]) -> Iterable[str]:
    required = schema.get("required", [])
    rows = (
        (code(member), _type(each), "yes" if member in required else "", each.get("description", ""))
        for member, each in schema.get("properties", {}).items()
    )
    return [f"### {name}", "", *table(("member", "type", "always there", "meaning"), rows)]


def _type(schema: Mapping[str, Any]) -> str:
    """Name a schema's type in a few words, objects by a link."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "allOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(each) for each in schema[several])
    if "enum" in schema:
        return ", ".join("null" if each is None else code(str(each)) for each in schema["enum"])
    kinds = schema.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    return f"{text} ({schema['format']})" if "format" in schema else str(text)
