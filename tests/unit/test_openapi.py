"""What the OpenAPI document promises: it is valid, complete, and says what the code does."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator

from ai_retry.domain.errors import AiRetryError
from ai_retry.flask.openapi import (
    LIST_PATH,
    RETRY_PATH,
    STATUS_PATH,
    create_codes,
    list_codes,
    openapi_document,
    retry_codes,
    status_codes,
)
from tests.unit.http_edge import edge

# Section 4 of the design, and the edge's own.
CODES = {
    400: {"INVALID_GENERATION_ID", "INVALID_IDEMPOTENCY_KEY"},
    401: {"UNAUTHENTICATED"},
    404: {"GENERATION_NOT_FOUND", "CONTEXT_MISSING"},
    409: {"ALREADY_SUCCEEDED", "SESSION_CONFLICT"},
    429: {
        "RETRY_TOO_SOON",
        "RETRY_IN_PROGRESS",
        "ROUTE_UNAVAILABLE",
        "TOO_MANY_PARALLEL_RETRIES",
        "QUOTA_EXHAUSTED",
        "RETRY_LIMIT_REACHED",
    },
    500: {
        "SESSION_REJECTED",
        "LEASE_LOST",
        "NOT_CONFIGURED",
        "STORAGE_UNAVAILABLE",
        "STORAGE_OUTCOME_UNKNOWN",
        "AUTH_UNAVAILABLE",
        "INTERNAL",
    },
    502: {
        "AI_TIMEOUT",
        "AI_RATE_LIMITED",
        "AI_UNAVAILABLE",
        "AI_REJECTED",
        "AI_INVALID_OUTPUT",
        "AI_INCOMPLETE",
    },
}

# The parts of the OpenAPI 3.1 structure that this document uses, after the specification's sections 4.8.1 to 4.8.30.
STRUCTURE: dict[str, Any] = {
    "type": "object",
    "required": ["openapi", "info", "paths"],
    "properties": {
        "openapi": {"pattern": r"^3\.1\.\d+$"},
        "info": {"required": ["title", "version"], "properties": {"license": {"required": ["name"]}}},
        "servers": {"type": "array", "items": {"required": ["url"]}},
        "paths": {"propertyNames": {"pattern": "^/"}, "additionalProperties": {"$ref": "#/$defs/path"}},
        "components": {
            "propertyNames": {"enum": ["schemas", "headers", "securitySchemes"]},
            "additionalProperties": {"propertyNames": {"pattern": "^[a-zA-Z0-9._-]+$"}},
        },
    },
    "unevaluatedProperties": False,
    "$defs": {
        "path": {
            "propertyNames": {"enum": ["delete", "get", "post"]},
            "additionalProperties": {"$ref": "#/$defs/operation"},
        },
        "operation": {
            "required": ["operationId", "responses"],
            "properties": {
                "operationId": {"type": "string"},
                "summary": {"type": "string"},
                "description": {"type": "string"},
                "security": {"type": "array", "items": {"type": "object"}},
                "parameters": {"type": "array", "items": {"$ref": "#/$defs/parameter"}},
                "requestBody": {
                    "required": ["content"],
                    "properties": {"required": {"const": True}, "content": {"required": ["application/json"]}},
                    "additionalProperties": False,
                },
                "responses": {
                    "minProperties": 1,
                    "propertyNames": {"pattern": "^[1-5][0-9][0-9]$"},
                    "additionalProperties": {"$ref": "#/$defs/response"},
                },
            },
            "unevaluatedProperties": False,
        },
        "parameter": {
            "required": ["name", "in", "schema"],
            "properties": {
                "name": {"type": "string"},
                "in": {"enum": ["path", "header", "query"]},
                "style": {"const": "form"},
                "explode": {"const": True},
                "description": {"type": "string"},
                "required": {"type": "boolean"},
                "schema": {"type": "object"},
            },
            "if": {"properties": {"in": {"const": "path"}}},
            "then": {"required": ["required"], "properties": {"required": {"const": True}}},
            "unevaluatedProperties": False,
        },
        "response": {
            "required": ["description"],
            "properties": {
                "description": {"type": "string"},
                "headers": {"additionalProperties": {"type": "object"}},
                "content": {"additionalProperties": {"required": ["schema"]}},
            },
            "unevaluatedProperties": False,
        },
    },
}


def walk(value: Any) -> Iterator[Any]:
    """Visit every value of a document."""
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(each)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """List path, method and operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolve(document: dict[str, Any], reference: str) -> Any:
    """Follow a reference into the document."""
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


@pytest.fixture(name="document")
def document_on_the_wire() -> dict[str, Any]:
    """The document as a client gets it."""
    response = edge(prompt_from=str).get("/sessions/ai/openapi.json")
    assert response.status_code == 200
    document: dict[str, Any] = response.get_json()
    return document


def test_document_has_the_structure_of_openapi(document: dict[str, Any]) -> None:
    """It is built as OpenAPI 3.1 says, and holds nothing besides."""
    Draft202012Validator.check_schema(STRUCTURE)

    Draft202012Validator(STRUCTURE).validate(document)


def test_schemas_are_json_schema(document: dict[str, Any]) -> None:
    """Every schema is valid in JSON Schema 2020-12, the dialect of OpenAPI 3.1."""
    schemas = list(document["components"]["schemas"].values())
    schemas += [each["schema"] for each in walk(document) if isinstance(each, dict) and "schema" in each]

    for schema in schemas:
        Draft202012Validator.check_schema(schema)
    assert len(schemas) > 20


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    """Every reference stays inside the document and finds an object; every component is referred to."""
    references = {each["$ref"] for each in walk(document) if isinstance(each, dict) and "$ref" in each}

    assert all(isinstance(resolve(document, each), dict) for each in references)
    components = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in document["components"][kind]
    }
    assert references == components


def test_operations_are_named_once_and_secured(document: dict[str, Any]) -> None:
    """Each operation has its own id and says whether it wants a token; the scheme it names exists."""
    found = list(operations(document))

    assert len({operation["operationId"] for _, _, operation in found}) == len(found)
    for path, _, operation in found:
        wants_token = any("accessToken" in each for each in operation["security"])
        assert wants_token == (path in (LIST_PATH, RETRY_PATH, STATUS_PATH))
        assert ("401" in operation["responses"]) == wants_token
    assert document["components"]["securitySchemes"]["accessToken"]["scheme"] == "bearer"


def test_path_parameters_are_declared(document: dict[str, Any]) -> None:
    """What is in braces is declared, and nothing else is."""
    for path, _, operation in operations(document):
        declared = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}

        assert declared == ({"generationId"} if "{" in path else set())


def test_every_status_and_code_is_documented(document: dict[str, Any]) -> None:
    """The retry's answers are those of the contract, no more and no fewer."""
    documented = {
        int(status): {
            code
            for part in walk(response)
            if isinstance(part, dict) and isinstance(part.get("code"), dict)
            for code in part["code"]["enum"]
        }
        for status, response in document["paths"][RETRY_PATH]["post"]["responses"].items()
    }

    assert documented.pop(200) == documented.pop(202) == set()
    assert documented == CODES
    assert {status: set(codes) for status, codes in retry_codes().items()} == CODES


def test_status_documents_a_part_of_the_codes() -> None:
    """Reading goes wrong in fewer ways, none of them its own."""
    assert all(set(codes) <= CODES[status] for status, codes in status_codes().items())
    assert set(status_codes()) == {400, 401, 404, 500}


def test_first_call_documents_the_codes_of_a_retry_and_its_own(document: dict[str, Any]) -> None:
    """All that a retry is answered, but for a path without an id; what it has come to; and bodies of any kind."""
    codes = {status: set(of_status) for status, of_status in create_codes().items()}

    assert codes.pop(413) == {"BODY_TOO_LARGE"}
    assert codes.pop(415) == {"UNSUPPORTED_MEDIA_TYPE"}
    assert codes.pop(422) == {"IDEMPOTENCY_KEY_REUSED"}
    assert codes.pop(400) == {"INVALID_REQUEST", "INVALID_IDEMPOTENCY_KEY"}
    assert codes.pop(409) == CODES[409] | {"RETRY_EXPIRED", "RETRY_POISONED", "RETRY_CANCELLED"}
    assert codes == {status: of_status for status, of_status in CODES.items() if status in codes}
    responses = document["paths"][LIST_PATH]["post"]["responses"]
    assert {status for status, each in responses.items() if "Location" in each["headers"]} == {
        *("200", "202", "404", "409", "422", "429", "500", "502")
    }


def test_list_documents_its_codes() -> None:
    """A query can be wrong; a generation that can't be found, or read, is no error of the list's."""
    codes = list_codes()

    assert codes[400] == ["INVALID_REQUEST"]
    assert all(set(of_status) <= CODES[status] for status, of_status in codes.items() if status != 400)
    assert set(codes) == {400, 401, 500}


def test_codes_of_others_errors_stay_out() -> None:
    """An app's own subclass of our error does not enter the contract."""
    before = retry_codes()

    type("AppsOwn", (AiRetryError,), {"code": "APPS_OWN", "http_status": 418})

    assert retry_codes() == before


def test_waits_are_documented_where_they_are_sent(document: dict[str, Any]) -> None:
    """Retry-After is named for refusals and failures, the request's id everywhere."""
    responses = document["paths"][RETRY_PATH]["post"]["responses"]

    assert {status for status, each in responses.items() if "Retry-After" in each["headers"]} == {
        *("202", "409", "429", "500", "502")
    }
    assert all("X-Request-Id" in each["headers"] for each in responses.values())
    assert "Idempotency-Replayed" in responses["200"]["headers"]


@pytest.mark.parametrize("first_calls", [True, False])
def test_routes_are_the_documented_ones(*, first_calls: bool) -> None:
    """Every route of the blueprint is in the document, with its methods, and every path has a route."""
    app: Flask = edge(prefix="", prompt_from=str if first_calls else None).app
    document = openapi_document(first_calls=first_calls)
    served = {
        (str(rule).replace("<generation_id>", "{generationId}"), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("ai_retry.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert served == {(path, method) for path, method, _ in operations(document)}


def test_document_is_json_and_stable() -> None:
    """Two builds are the same string, so that a client generated from it does not change without reason."""
    first, second = (json.dumps(openapi_document(prefix="/api")) for _ in range(2))

    assert first == second
