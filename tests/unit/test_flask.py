"""What the blueprint promises: every answer of the contract, and nothing done to its host."""

import atexit
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any, NoReturn
from uuid import UUID, uuid4

import pytest
from flask import Blueprint, Flask, jsonify
from werkzeug.test import TestResponse

import ai_retry
from adapters import flask_app
from ai_retry import logs
from ai_retry.auth import AuthUnavailable, Unauthenticated
from ai_retry.client import Client
from ai_retry.domain import errors
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Answer, FailureCode
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import Outage
from ai_retry.flask import create_blueprint
from ai_retry.testing.ai import ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.memory import MemoryStorage, SessionRefused
from tests.helpers.builders import a_failure
from tests.unit.http_edge import ANSWER, PROMPT, ROUTE, UNAVAILABLE, Edge, edge, verify

ID = UUID("6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11")
INSTANT = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
WAIT = timedelta(seconds=2, milliseconds=1)


class FailingStorage(MemoryStorage):
    """A storage whose reads raise the same error: whatever it is, the client lets it through."""

    def __init__(self, error: Exception) -> None:
        super().__init__(ManualClock())
        self.error = error

    def load(self, *_: object, **__: object) -> NoReturn:
        """Raise."""
        raise self.error


def failing_edge(error: Exception) -> Edge:
    """Build an edge whose client raises ``error``."""
    clock, storage, ai = ManualClock(), FailingStorage(error), ScriptedAiProvider()
    return Edge(client=Client(storage=storage, ai=ai), clock=clock, storage=storage, ai=ai)


def refusing_edge(error: Exception) -> Edge:
    """Build an edge whose verifier raises ``error``."""

    def refuse(_: str) -> UUID:
        raise error

    clock, storage, ai = ManualClock(), MemoryStorage(ManualClock()), ScriptedAiProvider()
    return Edge(client=Client(storage=storage, ai=ai), clock=clock, storage=storage, ai=ai, verify=refuse)


def failed(code: FailureCode, retry_after: timedelta | None = WAIT) -> errors.GenerationFailed:
    """Build what ``retry_generation`` raises for a failed call."""
    return errors.GenerationFailed(a_failure(code, reason="a reason for the log"), retry_after=retry_after)


# An error, and what section 4 of the design says of it: status, code, Retry-After and details on the wire.
CONTRACT: list[tuple[AiRetryError, int, str, int | None, dict[str, Any]]] = [
    (errors.GenerationNotFound(ID), 404, "GENERATION_NOT_FOUND", None, {}),
    (errors.ContextMissing("a problem"), 404, "CONTEXT_MISSING", None, {"problem": "a problem"}),
    (errors.AlreadySucceeded(ID, str(ID)), 409, "ALREADY_SUCCEEDED", None, {"sessionId": str(ID)}),
    (errors.AlreadySucceeded(ID), 409, "ALREADY_SUCCEEDED", None, {}),
    (
        errors.BackoffNotElapsed(INSTANT, wait=WAIT),
        429,
        "RETRY_TOO_SOON",
        3,
        {"nextAttemptAt": "2026-01-31T12:00:00.250000Z"},
    ),
    (errors.RetryInProgress(wait=timedelta(0)), 429, "RETRY_IN_PROGRESS", 1, {}),
    (errors.RouteUnavailable(wait=WAIT), 429, "ROUTE_UNAVAILABLE", 3, {}),
    (errors.TooManyParallel(2, wait=WAIT), 429, "TOO_MANY_PARALLEL_RETRIES", 3, {"maxParallel": 2}),
    (
        errors.QuotaExhausted(limit=5, resets_at=INSTANT, wait=timedelta(hours=1)),
        429,
        "QUOTA_EXHAUSTED",
        3600,
        {"limit": 5, "resetsAt": "2026-01-31T12:00:00.250000Z"},
    ),
    (
        errors.QuotaExhausted(limit=0, resets_at=None, wait=None),
        429,
        "QUOTA_EXHAUSTED",
        None,
        {"limit": 0, "resetsAt": None},
    ),
    (
        errors.AttemptsExhausted(attempts=4, max_attempts=4),
        429,
        "RETRY_LIMIT_REACHED",
        None,
        {"attempts": 4, "maxAttempts": 4},
    ),
    *(
        (failed(code), 502, code.value, 3, {"transient": True})
        for code in FailureCode
        if code is not FailureCode.LEASE_LOST
    ),
    (failed(FailureCode.TIMEOUT, retry_after=None), 502, "AI_TIMEOUT", None, {"transient": True}),
    (
        errors.SessionRejected("sessions_title_check", retry_after=WAIT),
        500,
        "SESSION_REJECTED",
        3,
        {"constraint": "sessions_title_check", "answerKept": True},
    ),
    (
        errors.SessionConflict("one_planned_session", retry_after=WAIT),
        409,
        "SESSION_CONFLICT",
        3,
        {"constraint": "one_planned_session", "answerKept": True},
    ),
    (errors.LeaseLost(answer_kept=True), 500, "LEASE_LOST", None, {"answerKept": True}),
    (errors.LeaseLost(answer_kept=False, retry_after=WAIT), 500, "LEASE_LOST", 3, {"answerKept": False}),
    (errors.NotConfigured("a migration"), 500, "NOT_CONFIGURED", None, {"missing": "a migration"}),
    (errors.Unauthenticated(), 401, "UNAUTHENTICATED", None, {}),
    (errors.AuthUnavailable("503"), 500, "AUTH_UNAVAILABLE", 1, {}),
    (errors.StorageUnavailable("40P01"), 500, "STORAGE_UNAVAILABLE", 1, {}),
    (errors.StorageUnavailable("55P03", retry_after=WAIT), 500, "STORAGE_UNAVAILABLE", 3, {}),
    (errors.StorageOutcomeUnknown("no reply"), 500, "STORAGE_OUTCOME_UNKNOWN", None, {}),
]


@pytest.mark.parametrize(
    ("error", "status", "code", "wait", "details"), CONTRACT, ids=lambda value: type(value).__name__
)
def test_domain_error_is_rendered_as_promised(
    error: AiRetryError, status: int, code: str, wait: int | None, details: dict[str, Any]
) -> None:
    """Each error has its status, code, message, details and wait, in header and body alike."""
    waited = {} if wait is None else {"retryAfterSeconds": wait}

    response = failing_edge(error).retry(ID)

    assert response.status_code == status
    assert response.json is not None
    assert response.json["error"] == {"code": code, "message": str(error), "details": details | waited}
    assert response.headers.get("Retry-After") == (None if wait is None else str(wait))


@pytest.mark.parametrize(
    ("error", "status", "code", "wait", "details"), CONTRACT, ids=lambda value: type(value).__name__
)
def test_problem_is_what_http_answers(
    error: AiRetryError, status: int, code: str, wait: int | None, details: dict[str, Any]
) -> None:
    """``ai_retry.problem`` gives views of one's own what the blueprint answers."""
    waited = {} if wait is None else {"retryAfterSeconds": wait}

    found = ai_retry.problem(error)

    assert (found.http_status, found.code, found.message) == (status, code, str(error))
    assert (found.retry_after_seconds, found.wire_details) == (wait, details | waited)


@pytest.mark.parametrize("error", [KeyError("a secret"), ValueError("a secret"), RuntimeError()])
def test_problem_of_a_foreign_exception_is_internal(error: Exception) -> None:
    """Its text, which may hold a row or a prompt, is left out."""
    found = ai_retry.problem(error)

    assert (found.http_status, found.code, found.retry_after_seconds, found.wire_details) == (500, "INTERNAL", None, {})
    assert "secret" not in repr(found)


def test_contract_forgets_no_error() -> None:
    """Every error class that has a code of its own, and every failure code, is in the table above."""
    classes = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, AiRetryError) and "code" in vars(each)
        if not issubclass(each, errors.RetryEnded | errors.IdempotencyConflict)  # no retry is answered with those
    }

    assert {type(error) for error, *_ in CONTRACT} == classes - {AiRetryError}
    assert {code for _, _, code, *_ in CONTRACT} >= {each.value for each in FailureCode}


class TestSuccess:
    """A retry that ends with a session."""

    def test_retry_answers_session_and_generation(self) -> None:
        """200 holds the session as the database returns it, the generation and the quota, in camelCase."""

        def slowly(_: object) -> Answer:
            api.clock.advance(timedelta(seconds=1.25))
            return ANSWER

        api = edge(slowly)
        generation_id = api.add_generation()

        response = api.retry(generation_id)

        assert response.status_code == 200
        assert response.json is not None
        (session,) = api.storage.app.sessions.values()
        assert response.json["data"] == {
            "session": session,
            "generation": {
                "id": str(generation_id),
                "status": "success",
                "model": "small",
                "durationMs": 1250,
                "attempt": 2,
                "sessionId": session["id"],
                "createdAt": "2025-12-31T23:00:00.000000Z",
                "updatedAt": "2026-01-01T00:00:01.250000Z",
            },
        }
        assert response.json["meta"]["quota"] == {
            "limit": 5,
            "remaining": 4,
            "resetsAt": "2026-01-02T00:00:01.250000Z",
        }
        assert "Idempotency-Replayed" not in response.headers

    def test_session_of_any_python_values_is_rendered(self) -> None:
        """A storage of one's own may hold instants and UUIDs; a paid success is not lost over them."""
        api = edge(ANSWER)
        session = {"id": str(ID), "owner": ID, "made_at": INSTANT, "took": WAIT, "price": Decimal("0.10")}
        api.storage.app.create_session = lambda *_: session

        response = api.retry(api.add_generation())

        assert response.get_json()["data"]["session"] == {
            "id": str(ID),
            "owner": str(ID),
            "made_at": "2026-01-31T12:00:00.250000Z",
            "took": 2.001,
            "price": "0.10",
        }

    def test_retry_with_known_key_is_replayed(self) -> None:
        """A repeat with the key of a success gets its session again and says so; nothing is called."""
        api = edge(ANSWER)
        generation_id = api.add_generation()
        first = api.retry(generation_id, {**api.authorization, "Idempotency-Key": "k-1"})

        second = api.retry(generation_id, {**api.authorization, "Idempotency-Key": '"k-1"'})

        assert (first.status_code, second.status_code) == (200, 200)
        assert first.json is not None
        assert second.json is not None
        assert second.json["data"] == first.json["data"]
        assert second.headers["Idempotency-Replayed"] == "true"
        assert len(api.ai.calls) == 1

    def test_uuid_is_accepted_in_upper_case(self) -> None:
        """The canonical form counts in either case (RFC 9562, section 4)."""
        api = edge(ANSWER)

        response = api.retry(str(api.add_generation()).upper())

        assert response.status_code == 200

    @pytest.mark.parametrize(
        "content_type", ["application/json", "text/plain", "multipart/form-data", "x/y; charset=z"]
    )
    def test_body_is_ignored(self, content_type: str) -> None:
        """What is sent along is not even read, whatever it says it is."""
        body = BytesIO(b"{not json" * 100_000)
        api = edge(ANSWER)

        response = api.retry(api.add_generation(), input_stream=body, content_type=content_type)

        assert response.status_code == 200
        assert body.tell() == 0  # codespell:ignore


class TestRefusal:
    """Requests that end before, or by, a rule."""

    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Basic dXNlcjpwYXNz",
            "Bearer a b",
            "Bearer é",
            "Bearer a,Bearer b",
            "Bearer not-a-user",
            "Token user.6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11",
        ],
    )
    def test_missing_token_is_401(self, authorization: str | None) -> None:
        """Without one good bearer token the answer is 401 and asks for one, before anything else is looked at."""
        headers = {} if authorization is None else {"Authorization": authorization.encode().decode("latin-1")}

        responses = [edge().retry("not-a-uuid", headers), edge().status("not-a-uuid", headers)]

        for response in responses:
            assert (response.status_code, code_of(response)) == (401, "UNAUTHENTICATED")
            assert response.headers["WWW-Authenticate"] == "Bearer"

    def test_two_authorization_headers_are_401(self) -> None:
        """Which of two tokens counts can't be guessed, even when both are good."""
        api = edge()
        good = api.authorization["Authorization"]

        response = api.app.test_client().post(
            f"/api/sessions/ai/{ID}/retry", headers=[("Authorization", good), ("Authorization", good)]
        )

        assert (response.status_code, code_of(response)) == (401, "UNAUTHENTICATED")

    def test_bearer_scheme_is_accepted_in_any_case(self) -> None:
        """Scheme names are case-insensitive (RFC 9110, section 11.1)."""
        api = edge(ANSWER)

        response = api.retry(api.add_generation(), {"Authorization": f"bEARER user.{api.user_id}"})

        assert response.status_code == 200

    def test_unverifiable_token_is_auth_unavailable(self) -> None:
        """When Auth can't be asked, nothing is known about the token: 500, safe to repeat in a second."""
        response = edge().retry(ID, {"Authorization": "Bearer auth-is-down"})

        assert (response.status_code, code_of(response)) == (500, "AUTH_UNAVAILABLE")
        assert response.headers["Retry-After"] == "1"
        assert "WWW-Authenticate" not in response.headers

    @pytest.mark.parametrize(
        "text",
        [
            "1",
            "not-a-uuid",
            ID.hex,
            f"{{{ID}}}",
            ID.urn,
            f"{ID}0",
            f" {ID}",
            str(ID).replace("6", "\uff16"),
            f"{ID}%0A",
            "%00",
            "a" * 10_000,
        ],
    )
    def test_malformed_uuid_is_400(self, text: str) -> None:
        """Only the canonical form names a generation."""
        api = edge()

        responses = [api.retry(text), api.status(text)]

        assert [(each.status_code, code_of(each)) for each in responses] == [(400, "INVALID_GENERATION_ID")] * 2

    def test_who_asks_is_checked_first(self) -> None:
        """A request that is wrong in every way is answered for its token, then its id, then its key."""
        api, key = edge(), {"Idempotency-Key": "two words"}

        answers = [api.retry("1", key), api.retry("1", api.authorization | key), api.retry(ID, api.authorization | key)]

        codes = ["UNAUTHENTICATED", "INVALID_GENERATION_ID", "INVALID_IDEMPOTENCY_KEY"]
        assert [code_of(each) for each in answers] == codes

    def test_someone_elses_generation_looks_unknown(self) -> None:
        """Someone else's generation and one that does not exist get the same answer, but for the id asked for."""
        api = edge()
        others, unknown = api.add_generation(user_id=uuid4()), uuid4()

        answers = [
            response.text.replace(str(asked), "ID").replace(response.headers["X-Request-Id"], "R")
            for asked in (others, unknown)
            for response in (api.retry(asked), api.status(asked))
        ]

        assert len(set(answers)) == 1
        assert "GENERATION_NOT_FOUND" in answers[0]

    def test_failed_call_is_502_with_its_wait(self) -> None:
        """A failed provider is 502 with the wait; at once again is 429 with what is left of it; then it succeeds."""
        api = edge(UNAVAILABLE, ANSWER)
        generation_id = api.add_generation()

        first, second = api.retry(generation_id), api.retry(generation_id)
        api.clock.advance(timedelta(seconds=int(first.headers["Retry-After"])))
        third = api.retry(generation_id)

        assert [(each.status_code, code_of(each)) for each in (first, second)] == [
            (502, "AI_UNAVAILABLE"),
            (429, "RETRY_TOO_SOON"),
        ]
        assert third.status_code == 200


class TestOutage:
    """A provider and model that are known to be unavailable."""

    @pytest.fixture
    def api(self) -> Edge:
        """An edge whose workers found the provider unavailable, for four minutes."""
        api = edge(ANSWER)
        api.storage.routes.note_outage(ROUTE, Outage(wait=timedelta(minutes=4), failures=1), api.clock.now())
        return api

    def test_click_is_429_with_the_outages_wait(self, api: Edge) -> None:
        """It is refused before anything is written or called, and says when the route opens."""
        response = api.retry(api.add_generation())

        assert (response.status_code, code_of(response)) == (429, "ROUTE_UNAVAILABLE")
        assert response.headers["Retry-After"] == "240"
        assert not api.storage.rows

    def test_status_foresees_it(self, api: Edge) -> None:
        """The same refusal, and the instant."""
        response = api.status(api.add_generation())

        assert response.json is not None
        outlook = response.json["data"]["retry"]
        assert (outlook["possible"], outlook["refusal"]["code"]) == (False, "ROUTE_UNAVAILABLE")
        assert outlook["possibleAt"] == "2026-01-01T00:04:00.000000Z"

    def test_other_model_is_answered(self, api: Edge) -> None:
        """What another provider or model does is no reason to refuse."""
        assert api.retry(api.add_generation(model="large")).status_code == 200

    def test_click_after_its_wait_is_answered(self, api: Edge) -> None:
        """Whoever obeys Retry-After probes the provider."""
        generation_id = api.add_generation()
        api.clock.advance(timedelta(seconds=int(api.retry(generation_id).headers["Retry-After"])))

        assert api.retry(generation_id).status_code == 200

    def test_retry_for_later_is_accepted(self, api: Edge) -> None:
        """With ``Prefer: respond-async`` it waits for its provider, and can be taken back."""
        generation_id = api.add_generation()

        accepted = api.retry(generation_id, api.authorization | {"Prefer": "respond-async"})
        status, cancelled = api.status(generation_id), api.cancel(generation_id)

        assert (accepted.status_code, accepted.headers["Preference-Applied"]) == (202, "respond-async")
        assert status.json is not None
        assert status.json["data"]["retry"]["queued"]["acceptedAt"] == "2026-01-01T00:00:00.000000Z"
        assert cancelled.json is not None
        assert (cancelled.status_code, cancelled.json["data"]["retry"]["queued"]) == (200, None)


def test_session_that_conflicts_is_409() -> None:
    """Its user can cure that; the answer is stored, and becomes the session without another call."""
    api = edge(ANSWER)
    generation_id, create_session = api.add_generation(), api.storage.app.create_session

    def conflict(*_: object) -> NoReturn:
        raise SessionRefused("one_planned_session", conflict=True)

    api.storage.app.create_session = conflict
    refused = api.retry(generation_id)
    api.storage.app.create_session = create_session
    api.clock.advance(timedelta(seconds=int(refused.headers["Retry-After"])))
    retried = api.retry(generation_id)

    assert (refused.status_code, code_of(refused)) == (409, "SESSION_CONFLICT")
    assert (retried.status_code, len(api.ai.calls)) == (200, 1)


def test_foreseen_conflict_is_409_without_a_call() -> None:
    """A session that the app knows to be impossible is refused in its words; nothing is called."""
    api = edge()
    generation_id = api.add_generation()
    api.storage.app.conflicts[api.storage.app.generations[generation_id].user_id] = (
        "You have a planned session already."
    )

    refused = api.retry(generation_id)

    assert (refused.status_code, code_of(refused)) == (409, "SESSION_CONFLICT")
    assert refused.json is not None
    assert refused.json["error"]["details"] == {
        "reason": "You have a planned session already.",
        "answerKept": False,
    }
    assert "Retry-After" not in refused.headers
    assert api.ai.calls == []


KEYS = {
    "k": "k",
    '"k"': "k",
    "6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11": "6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11",
    "".join(map(chr, range(0x23, 0x7F))): "".join(map(chr, range(0x23, 0x7F))),
    r'"a\"b\\c"': 'a"b\\c',
    "!" * 255: "!" * 255,
    '"' + r"\"" * 255 + '"': '"' * 255,
    "plan": "plan",
    "Plan:k": "Plan:k",
    "my-plan:k": "my-plan:k",
}
BAD_KEYS = [
    "",
    '""',
    '"',
    '"k',
    "k k",
    '"k k"',
    r'"a\b"',
    '"a"b"',
    '"k";p=1',
    "é",
    "k" * 256,
    f'"{"k" * 256}"',
    "k\x7f",
]


class TestIdempotencyKey:
    """The header of draft-ietf-httpapi-idempotency-key-header."""

    @pytest.mark.parametrize(("header", "key"), KEYS.items())
    def test_key_is_taken_bare_or_quoted(self, header: str, key: str) -> None:
        """The attempt carries the key itself, without its quotes and escapes."""
        api = edge(ANSWER)

        response = api.retry(api.add_generation(), {**api.authorization, "Idempotency-Key": header})

        assert response.status_code == 200
        assert [row.idempotency_key for row in api.storage.rows.values()] == [key]

    @pytest.mark.parametrize("header", BAD_KEYS)
    def test_malformed_key_is_400(self, header: str) -> None:
        """A key that is not 1 to 255 visible ASCII characters is refused before anything is read."""
        api = edge()

        response = api.retry(ID, {**api.authorization, "Idempotency-Key": header.encode().decode("latin-1")})

        assert (response.status_code, code_of(response)) == (400, "INVALID_IDEMPOTENCY_KEY")

    @pytest.mark.parametrize("header", ["plan:0123", '"plan:0123"', "plan:", '"plan:\\"k"'])
    @pytest.mark.parametrize("prefer", [{}, {"Prefer": "respond-async"}], ids=["now", "later"])
    def test_key_of_a_plan_is_400(self, header: str, prefer: dict[str, str]) -> None:
        """A user can't pass an attempt off as a recovery plan's; the answer says why, and nothing is written."""
        api = edge(ANSWER)

        response = api.retry(api.add_generation(), {**api.authorization, **prefer, "Idempotency-Key": header})

        assert (response.status_code, code_of(response)) == (400, "INVALID_IDEMPOTENCY_KEY")
        assert response.json is not None
        assert "must not begin with plan:" in response.json["error"]["message"]
        assert list(api.storage.rows.values()) == []


class TestStatus:
    """GET of a generation."""

    def test_failed_generation_can_be_retried(self) -> None:
        """It says that a retry is possible now, and what quota is left."""
        api = edge()

        response = api.status(api.add_generation())

        assert response.status_code == 200
        assert response.json is not None
        assert response.json["data"]["retry"] == {
            "possible": True,
            "possibleAt": "2026-01-01T00:00:00.000000Z",
            "refusal": None,
            "queued": None,
        }
        assert response.json["data"]["session"] is None
        assert response.json["data"]["generation"]["attempt"] == 1
        assert response.json["meta"]["quota"]["remaining"] == 5

    def test_refusal_is_the_one_of_a_retry(self) -> None:
        """While the wait lasts, the status has the very error that a retry gets, and when it ends."""
        api = edge(UNAVAILABLE)
        generation_id = api.add_generation()
        api.retry(generation_id)

        status, refused = api.status(generation_id), api.retry(generation_id)

        assert status.json is not None
        assert refused.json is not None
        outlook = status.json["data"]["retry"]
        assert outlook["possible"] is False
        assert outlook["refusal"] == refused.json["error"]
        assert outlook["possibleAt"] == refused.json["error"]["details"]["nextAttemptAt"]
        assert "Retry-After" not in status.headers

    def test_success_comes_with_its_session(self) -> None:
        """After the success the status holds the session, and no instant at which a retry would be possible."""
        api = edge(ANSWER)
        generation_id = api.add_generation()
        retried = api.retry(generation_id)

        status = api.status(generation_id)

        assert status.json is not None
        assert retried.json is not None
        assert status.json["data"]["session"] == retried.json["data"]["session"]
        assert status.json["data"]["generation"] == retried.json["data"]["generation"]
        assert status.json["data"]["retry"]["possibleAt"] is None
        assert status.json["data"]["retry"]["refusal"]["code"] == "ALREADY_SUCCEEDED"

    def test_status_writes_nothing(self) -> None:
        """Looking changes nothing."""
        api = edge()
        generation_id = api.add_generation()
        before = (dict(api.storage.app.generations), list(api.storage.app.events))

        api.status(generation_id)

        assert (api.storage.app.generations, api.storage.app.events) == before
        assert not api.storage.rows


class TestRequestId:
    """One request, one name in all logs."""

    @pytest.mark.parametrize("request_id", ["a", "req_1.A-9", "0" * 128])
    def test_sane_id_is_taken_over(self, request_id: str) -> None:
        """A sane id comes back in header and body."""
        response = edge().retry(ID, {"X-Request-Id": request_id})

        assert response.headers["X-Request-Id"] == request_id

    @pytest.mark.parametrize("request_id", ["", "a b", "a\tb", "a,b", "é", "<script>", "0" * 129])
    def test_insane_id_is_replaced(self, request_id: str) -> None:
        """Anything that could break a log line is replaced by a new UUID."""
        response = edge().retry(ID, {"X-Request-Id": request_id.encode().decode("latin-1")})

        assert str(UUID(response.headers["X-Request-Id"])) == response.headers["X-Request-Id"]


class TestHost:
    """The app that the blueprint is mounted into."""

    @pytest.mark.parametrize("prefix", [None, "", "/api", "/v1/deep/down"])
    def test_blueprint_mounts_under_any_prefix(self, prefix: str | None) -> None:
        """All routes are under the prefix, and the document says so."""
        app = Flask("host")
        app.register_blueprint(create_blueprint(edge().client, verify), url_prefix=prefix)
        http = app.test_client()

        health, document = http.get(f"{prefix or ''}/healthz"), http.get(f"{prefix or ''}/sessions/ai/openapi.json")

        assert health.status_code == 200
        assert document.json is not None
        assert document.json["servers"] == [{"url": prefix or "/"}]

    def test_prefix_may_have_variables_and_parents(self) -> None:
        """A prefix with a variable of the host's, in a blueprint of the host's, works as any other."""
        api = edge(ANSWER)
        host, parent = Flask("host"), Blueprint("tenants", __name__)
        parent.register_blueprint(create_blueprint(api.client, verify), url_prefix="/<tenant>")
        host.register_blueprint(parent, url_prefix="/tenants")
        http = host.test_client()

        retried = http.post(f"/tenants/acme/sessions/ai/{api.add_generation()}/retry", headers=api.authorization)
        document = http.get("/tenants/acme/sessions/ai/openapi.json")

        assert retried.status_code == 200
        assert document.get_json()["servers"] == [{"url": "/tenants/acme"}]

    def test_document_knows_where_the_app_is_mounted(self) -> None:
        """A WSGI mount point is part of the address too."""
        http = edge().app.test_client()

        document = http.get("/api/sessions/ai/openapi.json", base_url="http://localhost/mounted")

        assert document.json is not None
        assert document.json["servers"] == [{"url": "/mounted/api"}]

    def test_two_blueprints_work_side_by_side(self) -> None:
        """An app may mount two under different names."""
        app = Flask("host")
        for name in ("one", "two"):
            app.register_blueprint(create_blueprint(edge().client, verify, name=name), url_prefix=f"/{name}")

        documents = [app.test_client().get(f"/{name}/sessions/ai/openapi.json").json for name in ("one", "two")]

        assert [each["servers"] for each in documents if each] == [[{"url": "/one"}], [{"url": "/two"}]]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/api/nowhere", 404),
            ("GET", f"/api/sessions/ai/{ID}/retry", 405),
            ("DELETE", f"/api/sessions/ai/{ID}", 405),
            ("POST", "/api/healthz", 405),
            ("GET", "/host/broken", 500),
        ],
    )
    def test_host_keeps_its_error_handlers(self, method: str, path: str, status: int) -> None:
        """Routes that don't exist, methods that don't, and the host's own errors stay the host's to answer."""
        api = edge()

        @api.app.errorhandler(Exception)
        def answer(error: Exception) -> tuple[Any, int]:
            return jsonify(host=type(error).__name__), getattr(error, "code", 500)

        @api.app.get("/host/broken")
        def broken() -> NoReturn:
            raise ZeroDivisionError

        response = api.app.test_client().open(path, method=method)

        assert response.status_code == status
        assert response.json is not None
        assert list(response.json) == ["host"]

    def test_our_errors_stay_away_from_host(self) -> None:
        """Whatever goes wrong in a view is answered there, even where the host lets exceptions through."""
        api = failing_edge(RuntimeError("boom"))
        api.app.testing = True
        api.app.register_error_handler(Exception, lambda _: "the host's answer")

        response = api.retry(ID)

        assert (response.status_code, code_of(response)) == (500, "INTERNAL")

    def test_options_and_head_are_flasks_own(self) -> None:
        """OPTIONS lists the methods and HEAD answers like GET, as everywhere in the host."""
        api = edge()
        http = api.app.test_client()

        options = http.options(f"/api/sessions/ai/{ID}/retry")
        head = http.head(f"/api/sessions/ai/{api.add_generation()}", headers=api.authorization)

        assert set(options.headers["Allow"].split(", ")) == {"DELETE", "OPTIONS", "POST"}
        assert "Access-Control-Allow-Origin" not in options.headers
        assert (head.status_code, head.data) == (200, b"")


class Gate:
    """A slow provider: calls wait inside until the test opens the gate."""

    def __init__(self, calls: int) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.expected = calls

    def wait_inside(self, _: object) -> Answer:
        """Play a call of the provider."""
        self.entered.release()
        assert self.opened.wait(timeout=30)
        return ANSWER

    def await_calls(self) -> None:
        """Wait until the expected calls are inside."""
        for _ in range(self.expected):
            assert self.entered.acquire(timeout=30)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads of the server, as it were."""
    with ThreadPoolExecutor(max_workers=8) as executor:
        yield executor


class TestMaxCalls:
    """At most so many provider calls run in this process at once."""

    def test_one_call_too_many_is_refused_unwritten(self, threads: ThreadPoolExecutor) -> None:
        """With all slots taken a retry that every rule allows gets 429 for a second, and opens no attempt."""
        gate = Gate(2)
        api = edge(default=gate.wait_inside, max_calls=2, policy=RetryPolicy(max_parallel=9))
        slow = [threads.submit(api.retry, api.add_generation()) for _ in range(2)]
        gate.await_calls()

        refused = api.retry(api.add_generation())
        gate.opened.set()

        assert (refused.status_code, code_of(refused)) == (429, "TOO_MANY_PARALLEL_RETRIES")
        assert refused.headers["Retry-After"] == "1"
        assert [each.result(30).status_code for each in slow] == [200, 200]
        assert len(api.storage.rows) == 2

    def test_others_are_answered_while_full(self, threads: ThreadPoolExecutor) -> None:
        """While all calls are slow, refusals have their own reason, and status, health and replays are answered."""
        gate = Gate(1)
        api = edge(ANSWER, default=gate.wait_inside, max_calls=1)
        done, key = api.add_generation(), {"Idempotency-Key": "k"}
        api.retry(done, api.authorization | key)
        running = api.add_generation()
        slow = threads.submit(api.retry, running)
        gate.await_calls()

        answers = [
            api.retry(running),
            api.retry(done),
            api.retry(done, api.authorization | key),
            api.retry(ID),
            api.retry("not-a-uuid"),
            api.retry(ID, {}),
            api.status(running),
            api.get("/healthz"),
        ]
        gate.opened.set()

        assert [each.status_code for each in answers] == [429, 409, 200, 404, 400, 401, 200, 200]
        assert code_of(answers[0]) == "RETRY_IN_PROGRESS"
        assert slow.result(30).status_code == 200

    @pytest.mark.parametrize("step", [ANSWER, UNAVAILABLE, RuntimeError("boom")], ids=["answer", "failure", "error"])
    def test_slot_is_given_back(self, step: Any) -> None:
        """However a call ends, the next one finds its slot free."""
        api = edge(step, ANSWER, max_calls=1)

        api.retry(api.add_generation())
        response = api.retry(api.add_generation())

        assert response.status_code == 200


class TestLog:
    """The application log: one line per error answer, and nothing that is not for it."""

    def test_refusal_is_one_structured_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        """Each refusal names code, user, generation, request and wait, in the line and as data."""
        api = edge(UNAVAILABLE)
        generation_id = api.add_generation()
        api.retry(generation_id)
        caplog.clear()

        response = api.retry(generation_id)

        (record,) = caplog.records
        assert (record.name, record.levelno) == ("ai_retry", logging.WARNING)
        facts = vars(record)["ai_retry"]
        assert facts == {
            "event": "refused",
            "action": "retry",
            "code": "RETRY_TOO_SOON",
            "user_id": str(api.user_id),
            "generation_id": str(generation_id),
            "request_id": response.headers["X-Request-Id"],
            "retry_after_seconds": facts["retry_after_seconds"],
            "reason": code_and_message(response)[1],
        }
        assert math.ceil(facts["retry_after_seconds"]) == int(response.headers["Retry-After"])
        assert "event=refused action=retry code=RETRY_TOO_SOON " in record.getMessage()
        assert f"user_id={api.user_id} generation_id={generation_id}" in record.getMessage()

    @pytest.mark.parametrize(
        ("error", "level", "event", "reason"),
        [
            (errors.AlreadySucceeded(ID), logging.WARNING, "refused", f"Generation {ID} has already succeeded."),
            (errors.StorageUnavailable("40P01"), logging.ERROR, "request_failed", "The storage failed (40P01)."),
            (errors.NotConfigured("x\ny"), logging.ERROR, "request_failed", "ai-retry is not set up: x y."),
            (Unauthenticated("expired"), logging.WARNING, "refused", "expired"),
            (AuthUnavailable("HTTP 503"), logging.ERROR, "request_failed", "HTTP 503"),
        ],
    )
    def test_error_is_logged_once(
        self, error: Exception, level: int, event: str, reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Refusals are warnings, what an operator must look at is an error."""
        refuses = isinstance(error, Unauthenticated | AuthUnavailable)

        (refusing_edge if refuses else failing_edge)(error).retry(ID)

        (record,) = caplog.records
        assert record.levelno == level
        assert vars(record)["ai_retry"]["event"] == event
        assert vars(record)["ai_retry"]["reason"] == reason
        assert "\n" not in record.getMessage()

    def test_failed_provider_is_one_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        """It names the attempt, its code and reason, and the request."""
        api = edge(a_failure(code=FailureCode.TIMEOUT, reason="a reason for the log"))

        response = api.retry(api.add_generation())

        (record,) = caplog.records
        facts = vars(record)["ai_retry"]
        assert (record.levelno, facts["event"], facts["attempt"]) == (logging.WARNING, "attempt_failed", 2)
        assert (facts["code"], facts["reason"]) == ("AI_TIMEOUT", "a reason for the log")
        assert facts["request_id"] == response.headers["X-Request-Id"]

    def test_success_is_logged_and_no_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        """Who listens at INFO learns how each request ended; access logs are the server's."""
        caplog.set_level(logging.INFO, logger="ai_retry")
        api = edge(ANSWER)

        response = api.retry(api.add_generation())

        assert [vars(each)["ai_retry"]["event"] for each in caplog.records] == [
            "provider_called",
            "attempt_succeeded",
        ]
        assert {each.levelno for each in caplog.records} == {logging.INFO}
        assert {vars(each)["ai_retry"]["request_id"] for each in caplog.records} == {response.headers["X-Request-Id"]}

    def test_success_is_no_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        """At the level of a process that configures no log, it holds what went wrong."""
        api = edge(ANSWER)

        api.retry(api.add_generation())

        assert caplog.records == []

    def test_unexpected_error_shows_nothing_of_its_text(self, caplog: pytest.LogCaptureFixture) -> None:
        """The client sees code and request id; the log has types and places, not what the exceptions say."""

        def fail(_: object) -> NoReturn:
            try:
                int("a secret answer")
            except ValueError as error:
                raise KeyError("a secret token") from error
            raise AssertionError

        api = edge(fail)

        response = api.retry(api.add_generation())

        (record,) = caplog.records
        logged = record.getMessage()
        assert (response.status_code, code_of(response)) == (500, "INTERNAL")
        assert response.json is not None
        assert response.json["error"]["details"] == {}
        assert (record.levelno, record.exc_info) == (logging.ERROR, None)
        assert response.headers["X-Request-Id"] in logged
        assert all(word in logged for word in ("KeyError", "ValueError", "in fail"))
        assert "secret" not in re.sub(r"(raise|int\().*", "", logged) + response.text  # the test's own lines quote it

    def test_log_holds_no_token_prompt_or_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        """Through success, failure, refusal and crash, the log stays free of what users send and get."""
        caplog.set_level(logging.DEBUG)
        api = edge(UNAVAILABLE, ANSWER, RuntimeError(PROMPT))
        generation_id = api.add_generation()
        for _ in range(2):
            api.retry(generation_id, {**api.authorization, "Idempotency-Key": "a-private-key"})
            api.clock.advance(timedelta(minutes=10))
        api.retry(api.add_generation())

        assert caplog.records
        for word in (PROMPT, "Intervals", "user." + str(api.user_id), "a-private-key"):
            assert word not in caplog.text


class TestRunnableApp:
    """``adapters.flask_app``, which the environment configures."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Configure a project that no request reaches, and close what is left to the end of the process."""
        endings: list[Callable[[], None]] = []
        monkeypatch.setattr(atexit, "register", endings.append)
        for name in [name for name in os.environ if name.startswith(("AI_", "SUPABASE_", "DATABASE_URL"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("SUPABASE_URL", "https://abc.supabase.co")
        monkeypatch.setenv("SUPABASE_SECRET_KEY", "sb_secret_key")
        monkeypatch.setenv("AI_API_KEY", "provider-key")
        root, ours = logging.getLogger(), logging.getLogger("ai_retry")
        before = (list(root.handlers), root.level, ours.level)
        yield
        root.handlers[:], root.level, ours.level = before
        logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]
        for end in endings:
            end()

    def test_app_is_made_from_the_environment(self) -> None:
        """The app serves the blueprint without a prefix."""
        http = flask_app.create_app().test_client()

        assert http.get("/healthz").status_code == 200
        assert http.post(f"/sessions/ai/{ID}/retry").status_code == 401

    def test_log_has_time_level_and_event(self, capfd: pytest.CaptureFixture[str]) -> None:
        """A server such as gunicorn configures no logging for the app: the app does."""
        flask_app.create_app()
        logs.write_line(logging.INFO, "generation_accepted", attempt=2)

        said = capfd.readouterr().err.splitlines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO event=generation_accepted attempt=2", said[-1])

    def test_incomplete_environment_stops_the_app(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is missing is reported at the start, and not to the first user."""
        monkeypatch.delenv("AI_API_KEY")

        with pytest.raises(errors.NotConfigured, match="AI_API_KEY"):
            flask_app.create_app()


def code_of(response: TestResponse) -> str:
    """Read the error's code."""
    return code_and_message(response)[0]


def code_and_message(response: TestResponse) -> tuple[str, str]:
    """Read the error's code and message."""
    assert response.json is not None
    error = response.json["error"]
    return error["code"], error["message"]
