"""The OpenAPI 3.1 document, generated from the schemas and the error classes, so that it can't differ from them.

Texts for readers are here; shapes are in ``schemas``, codes and statuses in the errors themselves.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from ai_retry.domain import errors
from ai_retry.domain.model import FailureCode
from ai_retry.flask.list_schemas import ListQuery, ListResponse
from ai_retry.flask.schemas import (
    CreateHeaders,
    ErrorResponse,
    GenerationPath,
    HealthResponse,
    QueuedResponse,
    RetryHeaders,
    RetryResponse,
    StatusResponse,
)
from ai_retry.problems import (
    BODY_TOO_LARGE,
    EDGE_PROBLEMS,
    INVALID_GENERATION_ID,
    INVALID_IDEMPOTENCY_KEY,
    INVALID_REQUEST,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
)

LIST_PATH: Final = "/sessions/ai"
RETRY_PATH: Final = "/sessions/ai/{generationId}/retry"
STATUS_PATH: Final = "/sessions/ai/{generationId}"
OPENAPI_PATH: Final = "/sessions/ai/openapi.json"
HEALTH_PATH: Final = "/healthz"

_ABOUT: Final = """\
Tries failed AI generations again: nothing twice, nothing lost. Each error has a code; `details.retryAfterSeconds`
repeats the `Retry-After` header for browsers on other origins. Every request is safe to repeat."""
_ABOUT_RETRY: Final = """\
Asks the AI provider again with the context that is stored with the generation, creates the session, and answers with
both. The quota is held while the attempt runs, spent by its success, and given back by any other end.
A body is ignored. With `Prefer: respond-async` the retry is accepted with 202, and tried by a worker until it ends in a
session, or in an error with its reason; `Location` is where its state can be read. Asked again, it answers the same."""
_ABOUT_CANCEL: Final = """\
The generation says again what it said, and the quota held for it is free. Nothing happens when none is queued."""
_ABOUT_STATUS: Final = "Decided by the same rules as a retry, without trying."
_ABOUT_CREATE: Final = """\
Creates a generation, and makes its first call, by all the rules of a retry. The app says what the body holds. A failure
leaves a generation that can be retried: `details.generationId` and `Location` name it. With the same `Idempotency-Key`
the same body makes no second call: it is answered what became of the first one. Another body is refused with 422.
Mounted where the app says how a body becomes a prompt."""
_ABOUT_LIST: Final = """\
The newest first, page by page: a page is bounded in bytes, too. Each outlook is decided by the same rules as a retry. A
generation that can't be read is listed with what is wrong with it."""
_MEANINGS: Final = {
    400: "The request is malformed.",
    401: "The access token is missing or was refused.",
    404: "There is no such generation for this user, or its stored context can't be used.",
    409: "The generation has its session already, or its session conflicts with another one, which its user can cure.",
    413: "The body is too large.",
    415: "The body is not plain JSON.",
    422: "The idempotency key was used for another body.",
    429: "A rule refuses the retry now. Nothing was written, and no provider was called.",
    500: "The service could not do its part; the code says which, and none of them spends quota.",
    502: "The AI provider gave no usable answer; the attempt is recorded and no quota is spent.",
}
_NAMING: Final = ("404", "409", "422", "429", "500", "502")  # where the answer may name the generation
_HEADERS: Final = {
    "X-Request-Id": ("The request's id: the one sent along, when it is sane.", {"type": "string"}),
    "Retry-After": ("Seconds to wait before the next try.", {"type": "integer", "minimum": 1}),
    "WWW-Authenticate": ("How to authenticate.", {"const": "Bearer"}),
    "Location": ("Where the generation's state can be read.", {"type": "string", "format": "uri-reference"}),
    "Preference-Applied": ("The preference that was honoured.", {"const": "respond-async"}),
    "Idempotency-Replayed": ("An earlier request with the same key created this session.", {"const": "true"}),
}

Codes = dict[int, list[str]]
_OF_BODIES: Final = (INVALID_REQUEST, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE)


def openapi_document(*, prefix: str = "", first_calls: bool = False) -> dict[str, Any]:
    """Build the document; ``prefix`` is where the routes are mounted, ``first_calls`` whether one makes them."""
    spec = APISpec(
        title="ai-retry",
        version=version("ai-retry"),
        openapi_version="3.1.0",
        info={"description": _ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": prefix or "/"}],
        plugins=[MarshmallowPlugin(schema_name_resolver=_component_name)],
    )
    spec.components.security_scheme(
        "accessToken", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "Of Supabase Auth."}
    )
    for header, (about, schema) in _HEADERS.items():
        spec.components.header(header, {"description": about, "schema": schema})
    spec.path(RETRY_PATH, operations={"post": _retry(), "delete": _cancel()})
    spec.path(STATUS_PATH, operations={"get": _status()})
    spec.path(LIST_PATH, operations={"get": _list()} | ({"post": _create()} if first_calls else {}))
    spec.path(OPENAPI_PATH, operations={"get": _open("describeApi", "This document", {"type": "object"})})
    spec.path(HEALTH_PATH, operations={"get": _open("checkHealth", "The process answers", HealthResponse)})
    document: dict[str, Any] = spec.to_dict()
    return document


def retry_codes() -> Codes:
    """Every error code of a retry, by HTTP status."""
    return _by_status([*_domain_codes(), *_edge_codes(*_OF_BODIES)])


def create_codes() -> Codes:
    """Every error code of a first call, by HTTP status: those of a retry, of what it has come to, and of a body."""
    ended = (errors.IdempotencyConflict, errors.RetryExpired, errors.RetryPoisoned, errors.RetryCancelled)
    own = ((each.http_status, each.code) for each in (*ended, *_OF_BODIES))
    retried = ((status, code) for status, code in _pairs(retry_codes()) if code != INVALID_GENERATION_ID.code)
    return _by_status([*retried, *own])


def status_codes() -> Codes:
    """Every error code of the status, by HTTP status: reading can't go wrong in more ways."""
    reading = (errors.GenerationNotFound, errors.NotConfigured, errors.StorageUnavailable)
    edge = _edge_codes(INVALID_IDEMPOTENCY_KEY, *_OF_BODIES)
    return _by_status([*((each.http_status, each.code) for each in reading), *edge])


def list_codes() -> Codes:
    """Every error code of the list, by HTTP status: one that can't be read is listed as such."""
    reading = (errors.NotConfigured, errors.StorageUnavailable)
    edge = _edge_codes(INVALID_GENERATION_ID, INVALID_IDEMPOTENCY_KEY, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE)
    return _by_status([*((each.http_status, each.code) for each in reading), *edge])


def cancel_codes() -> Codes:
    """Every error code of taking a queued retry back, by HTTP status."""
    writing = (errors.RetryInProgress, errors.StorageOutcomeUnknown)
    return _by_status([*((each.http_status, each.code) for each in writing), *_pairs(status_codes())])


def _edge_codes(*others: Problem) -> Iterator[tuple[int, str]]:
    """Collect what the edge answers by itself, but for what other operations are answered; of a token, always."""
    yield from ((each.http_status, each.code) for each in EDGE_PROBLEMS if each not in others)
    yield from ((each.http_status, each.code) for each in (errors.Unauthenticated, errors.AuthUnavailable))


def _pairs(codes: Codes) -> Iterator[tuple[int, str]]:
    return ((status, code) for status, of_status in codes.items() for code in of_status)


def _domain_codes() -> Iterator[tuple[int, str]]:
    """Collect what the error classes say; those without a code of their own only group others."""
    for each in vars(errors).values():
        if not isinstance(each, type) or not issubclass(each, errors.AiRetryError):
            continue
        elsewhere = issubclass(each, errors.RetryEnded | errors.IdempotencyConflict)  # a worker's, and a first call's
        if isinstance(vars(each).get("code"), str) and not elsewhere:
            yield each.http_status, each.code
    for code in FailureCode:
        if code is not FailureCode.LEASE_LOST:  # answered as the error of that name
            yield errors.GenerationFailed.http_status, code.value


def _by_status(codes: Iterable[tuple[int, str]]) -> Codes:
    grouped: defaultdict[int, set[str]] = defaultdict(set)
    for status, code in codes:
        grouped[status].add(code)
    return {status: sorted(grouped[status]) for status in sorted(grouped)}


def _retry() -> dict[str, Any]:
    success = _json("The session, and its generation.", RetryResponse, "Idempotency-Replayed")
    accepted = _json("Accepted for later.", QueuedResponse, "Location", "Retry-After", "Preference-Applied")
    return {
        "operationId": "retryGeneration",
        "summary": "Try a failed generation again",
        "description": _ABOUT_RETRY,
        "security": [{"accessToken": []}],
        "parameters": [{"in": "path", "schema": GenerationPath}, {"in": "header", "schema": RetryHeaders}],
        "responses": {"200": success, "202": accepted, **_problems(retry_codes())},
    }


def _create() -> dict[str, Any]:
    success = _json("The session, and its generation.", RetryResponse, "Location", "Idempotency-Replayed")
    accepted = _json("Accepted for later.", QueuedResponse, "Location", "Retry-After", "Preference-Applied")
    problems = _problems(create_codes())
    for status in _NAMING:
        problems[status]["headers"]["Location"] = "Location"
    return {
        "operationId": "createGeneration",
        "summary": "Generate something new",
        "description": _ABOUT_CREATE,
        "security": [{"accessToken": []}],
        "parameters": [{"in": "header", "schema": CreateHeaders}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {"200": success, "202": accepted, **problems},
    }


def _cancel() -> dict[str, Any]:
    return {
        "operationId": "cancelRetry",
        "summary": "Take a queued retry back",
        "description": _ABOUT_CANCEL,
        "security": [{"accessToken": []}],
        "parameters": [{"in": "path", "schema": GenerationPath}],
        "responses": {"200": _json("Its state now.", StatusResponse), **_problems(cancel_codes())},
    }


def _status() -> dict[str, Any]:
    return {
        "operationId": "getGeneration",
        "summary": "Read a generation's state, and whether a retry is possible",
        "description": _ABOUT_STATUS,
        "security": [{"accessToken": []}],
        "parameters": [{"in": "path", "schema": GenerationPath}],
        "responses": {"200": _json("Its state.", StatusResponse), **_problems(status_codes())},
    }


def _list() -> dict[str, Any]:
    return {
        "operationId": "listGenerations",
        "summary": "List one's own generations, and whether a retry of each is possible",
        "description": _ABOUT_LIST,
        "security": [{"accessToken": []}],
        "parameters": [{"in": "query", "schema": ListQuery}],
        "responses": {"200": _json("One page.", ListResponse), **_problems(list_codes())},
    }


def _open(operation_id: str, summary: str, schema: Any) -> dict[str, Any]:
    """Describe an operation that asks for no token."""
    return {
        "operationId": operation_id,
        "summary": summary,
        "security": [],
        "responses": {"200": _json(f"{summary}.", schema), "500": _problems({500: ["INTERNAL"]})["500"]},
    }


def _problems(codes: Codes) -> dict[str, Any]:
    return {str(status): _problem(HTTPStatus(status), of_status) for status, of_status in codes.items()}


def _problem(status: HTTPStatus, codes: list[str]) -> dict[str, Any]:
    waits = status in (HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS) or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    headers = ["Retry-After"] if waits else ["WWW-Authenticate"] if status is HTTPStatus.UNAUTHORIZED else []
    answer = _json(_MEANINGS[status], ErrorResponse, *headers)
    one_of_these = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    content = answer["content"]["application/json"]
    content["schema"] = {"allOf": [content["schema"], one_of_these]}
    return answer


def _json(description: str, schema: Any, *headers: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {name: name for name in ("X-Request-Id", *headers)},
        "content": {"application/json": {"schema": schema}},
    }


def _component_name(schema: Any) -> str:
    name = schema.__name__ if isinstance(schema, type) else type(schema).__name__
    return str(name).removesuffix("Schema")
