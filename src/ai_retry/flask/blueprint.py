"""The retry over HTTP, as a Flask blueprint: parse, call, render.

A host app mounts it under any prefix. Nothing here touches the host: no error handler, no CORS, no session, no app-wide
hook; routes and methods that don't exist stay the host's to answer. No rule belongs here.
"""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID, uuid4

from flask import Blueprint, Response, request, url_for
from marshmallow import ValidationError

from ai_retry import events, hooks
from ai_retry.client import Client
from ai_retry.domain.model import RetryResult
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.flask.first_calls import (
    MAX_BODY_BYTES,
    MAX_PROMPT_BYTES,
    PromptFrom,
    prompt_of,
    read_body,
)
from ai_retry.flask.incoming import access_token, body, prefers_async
from ai_retry.flask.list_schemas import list_response, read_query
from ai_retry.flask.openapi import HEALTH_PATH, LIST_PATH, OPENAPI_PATH, RETRY_PATH, STATUS_PATH, openapi_document
from ai_retry.flask.schemas import (
    RETRY_HEADERS,
    GenerationPath,
    error_response,
    health_response,
    queued_response,
    retry_response,
    status_response,
)
from ai_retry.problems import (
    INTERNAL,
    INVALID_GENERATION_ID,
    INVALID_IDEMPOTENCY_KEY,
    Problem,
    Refused,
    problem_of,
    reason_of,
    stack_of,
    wire_value,
)

Verify: TypeAlias = Callable[[str], UUID]
Metrics: TypeAlias = Callable[[str], tuple[str, bytes]]

METRICS_PATH: Final = "/metrics"

_GENERATION_ID: Final = GenerationPath().fields["generation_id"]


def create_blueprint(
    client: Client,
    verify: Verify,
    *,
    mode: Literal["sync", "queue"] = "sync",
    prompt_from: PromptFrom | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    metrics: Metrics | None = None,
    name: str = "ai_retry",
) -> Blueprint:
    """Make the blueprint; register it with any ``url_prefix``.

    - ``POST /sessions/ai/{generationId}/retry`` tries a failed generation again; with ``Prefer: respond-async``
      (RFC 7240) it is accepted with 202, and a worker tries it;
    - ``DELETE /sessions/ai/{generationId}/retry`` takes back one that was accepted and is not yet begun;
    - ``GET /sessions/ai/{generationId}`` returns its state, and whether, and when, a retry is possible;
    - ``GET /sessions/ai`` lists the user's generations, each with that;
    - ``POST /sessions/ai`` makes a first call, where there is ``prompt_from``;
    - ``GET /sessions/ai/openapi.json`` describes them; ``GET /healthz`` says that the process answers.

    How many provider calls run at once is the client's ``max_calls``. A slot is taken after every rule has agreed and
    before anything is written, so refusals, status and health are answered while all calls are slow.

    Args:
        client: does the work.
        verify: returns the user of an access token, or raises ``ai_retry.auth.Unauthenticated`` (401) or
            ``AuthUnavailable`` (500); ``TokenVerifier.verify`` is one.
        mode: ``"queue"`` accepts every retry and first call for later, asked for or not.
        prompt_from: turns the JSON object of a first call into a prompt: what ``Client.generate`` takes, or a
            ``Prompt`` with a model and further columns. It raises marshmallow's ``ValidationError`` where the object
            can't be used: 400, with the fields. None: first calls are not made here.
        max_body_bytes: of a first call; a longer one is refused with 413.
        metrics: answers ``GET /metrics``, without a token; None: there is no such address. Given the request's
            ``Accept``, it returns content type and body: ``PrometheusEvents.exposition``.
        name: of the blueprint, for apps that mount two.
    """
    client.prepare()
    blueprint = Blueprint(name, __name__)
    views = _Views(client, verify, mode, prompt_from, max_body_bytes)
    blueprint.post(_flask_rule(RETRY_PATH), endpoint="retry")(_answering(client, "retry", views.retry))
    blueprint.delete(_flask_rule(RETRY_PATH), endpoint="cancel")(_answering(client, "cancel", views.cancel))
    blueprint.get(_flask_rule(STATUS_PATH), endpoint="status")(_answering(client, "status", views.status))
    blueprint.get(LIST_PATH, endpoint="list")(_answering(client, "list", views.list))
    if prompt_from is not None:
        blueprint.post(LIST_PATH, endpoint="create")(_answering(client, "create", partial(views.create, prompt_from)))
    blueprint.get(OPENAPI_PATH, endpoint="openapi")(_answering(client, "openapi", views.openapi))
    blueprint.get(HEALTH_PATH, endpoint="health")(_answering(client, "health", views.health))
    if metrics is not None:
        blueprint.get(METRICS_PATH, endpoint="metrics")(lambda: _exposed(metrics))
    return blueprint


@dataclass(slots=True)
class _Exchange:
    """One request as far as it is understood: what its answer and its log line are labelled with."""

    path: Mapping[str, Any]  # its variables: ours, and those of the prefix that the host chose
    request_id: str
    user_id: UUID | None = None
    generation_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Views:
    """Parse, call, render. Whatever they raise is answered by ``_answering``."""

    client: Client
    verify: Verify
    mode: Literal["sync", "queue"]
    prompt_from: PromptFrom | None
    max_body_bytes: int

    def retry(self, exchange: _Exchange) -> Response:
        user_id, generation_id = self._identify(exchange)
        asked = prefers_async()
        retry = self.client.enqueue if asked or self.mode == "queue" else self.client.retry_generation
        result = retry(user_id, generation_id, idempotency_key=_idempotency_key())
        return _answer(result, exchange, asked=asked)

    def create(self, prompt_from: PromptFrom, exchange: _Exchange) -> Response:
        exchange.user_id = user_id = self.verify(access_token())
        asked, key = prefers_async(), _idempotency_key()
        said = read_body(body(self.max_body_bytes))
        prompt = prompt_of(prompt_from, deepcopy(said))
        make = self.client.enqueue_generation if asked or self.mode == "queue" else self.client.generate
        result = make(
            user_id,
            prompt.prompt,
            model=prompt.model,
            columns=prompt.columns,
            idempotency_key=key,
            max_prompt_bytes=MAX_PROMPT_BYTES,
            request=said,
        )
        exchange.generation_id = result.generation.id
        return _answer(result, exchange, asked=asked)

    def cancel(self, exchange: _Exchange) -> Response:
        user_id, generation_id = self._identify(exchange)
        self.client.cancel(user_id, generation_id)
        return _json(status_response(self.client.status(user_id, generation_id), exchange.request_id))

    def status(self, exchange: _Exchange) -> Response:
        user_id, generation_id = self._identify(exchange)
        return _json(status_response(self.client.status(user_id, generation_id), exchange.request_id))

    def list(self, exchange: _Exchange) -> Response:
        exchange.user_id = user_id = self.verify(access_token())
        query = read_query(request.args.to_dict(flat=False))
        return _json(list_response(self.client.generations(user_id, **query), exchange.request_id))

    def openapi(self, exchange: _Exchange) -> Response:
        prefix = url_for(".openapi", **exchange.path).removesuffix(OPENAPI_PATH)
        return _json(openapi_document(prefix=prefix, first_calls=self.prompt_from is not None))

    def health(self, exchange: _Exchange) -> Response:
        return _json(health_response(exchange.request_id))

    def _identify(self, exchange: _Exchange) -> tuple[UUID, UUID]:
        """Return who asks about what: first the one, so that an unknown caller learns no more than that."""
        exchange.user_id = user_id = self.verify(access_token())
        exchange.generation_id = generation_id = _generation_id(exchange.path["generation_id"])
        return user_id, generation_id


def _answering(client: Client, event: str, view: Callable[[_Exchange], Response]) -> Callable[..., Response]:
    """Wrap a view so that every request gets an answer in the envelope, and every error is reported once."""

    def answer(**path: Any) -> Response:
        exchange = _Exchange(path, _request_id())
        with hooks.request(request_id=exchange.request_id, traceparent=request.headers.get("traceparent")) as asked:
            try:
                response = view(exchange)
            except Exception as error:  # noqa: BLE001 - the outermost entry point: the host must not see our errors
                problem = problem_of(error)
                exchange.generation_id = problem.details.get("generation_id", exchange.generation_id)
                if problem is INTERNAL or not asked.is_reported:
                    client.events(_reported(event, exchange, problem, error))
                response = _json(
                    error_response(problem, exchange.request_id),
                    status=problem.http_status,
                    headers=_headers_of(problem, exchange),
                )
        response.headers["X-Request-Id"] = exchange.request_id
        response.headers["Cache-Control"] = "no-store"
        return response

    return answer


def _answer(result: RetryResult | QueuedRetry, exchange: _Exchange, *, asked: bool) -> Response:
    """Answer with a session, or with what was accepted; ``asked``: for that."""
    created = "generation_id" not in exchange.path
    match result:
        case (RetryResult() as done) | QueuedRetry(result=RetryResult() as done):
            headers = {"Location": _location(exchange)} if created else {}
            headers |= {"Idempotency-Replayed": "true"} if done.replayed else {}
            return _json(retry_response(done, exchange.request_id), headers=headers)
    document, wait = queued_response(result, exchange.request_id)
    applied = {"Preference-Applied": "respond-async"} if asked else {}
    headers = {"Location": _location(exchange), "Retry-After": str(wait), **applied}
    return _json(document, status=HTTPStatus.ACCEPTED, headers=headers)


def _location(exchange: _Exchange) -> str:
    return url_for(".status", **{"generation_id": exchange.generation_id, **exchange.path})


def _exposed(metrics: Metrics) -> Response:
    content_type, body = metrics(request.headers.get("Accept", ""))
    return Response(body, content_type=content_type, headers={"Cache-Control": "no-store"})


def _generation_id(text: str) -> UUID:
    try:
        generation_id: UUID = _GENERATION_ID.deserialize(text)
    except ValidationError:
        raise Refused(INVALID_GENERATION_ID) from None
    return generation_id


def _idempotency_key() -> str | None:
    if "Idempotency-Key" not in request.headers:
        return None
    try:
        key: str = RETRY_HEADERS.load({"Idempotency-Key": request.headers["Idempotency-Key"]})["idempotency_key"]
    except ValidationError:
        raise Refused(INVALID_IDEMPOTENCY_KEY) from None
    return key


def _request_id() -> str:
    """Take over a sane id, so that one request has one name in all logs; otherwise make one."""
    asked = request.headers.get("X-Request-Id", "")
    return asked if hooks.REQUEST_ID.fullmatch(asked) else str(uuid4())


def _headers_of(problem: Problem, exchange: _Exchange) -> Mapping[str, str]:
    headers = {}
    if "generation_id" in problem.details:  # a first call has created it
        headers["Location"] = _location(exchange)
    if problem.retry_after_seconds is not None:
        headers["Retry-After"] = str(problem.retry_after_seconds)
    if problem.http_status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _json(document: Any, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON of our own making: the host's JSON provider writes instants its own way."""
    return Response(
        json.dumps(document, default=wire_value), status=status, headers=headers, mimetype="application/json"
    )


def _reported(action: str, exchange: _Exchange, problem: Problem, error: Exception) -> events.Event:
    """Make the event of an error that nothing below has reported."""
    about: dict[str, Any] = {
        "user_id": exchange.user_id,
        "generation_id": exchange.generation_id,
        "request_id": exchange.request_id,
        "action": action,
        "code": problem.code,
        "reason": reason_of(error),
        "retry_after_seconds": problem.retry_after_seconds,
    }
    if problem.http_status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return events.Refused(**about)
    return events.RequestFailed(**about, stack=stack_of(error) if problem is INTERNAL else None)


def _flask_rule(path: str) -> str:
    return path.replace("{generationId}", "<generation_id>")
