"""The story of a retry over real HTTP: gunicorn, Auth, the Data API or PostgreSQL, and a provider on a socket."""

import re
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests

from ai_retry.flask.openapi import HEALTH_PATH, LIST_PATH, OPENAPI_PATH, RETRY_PATH, STATUS_PATH
from ai_retry.testing.provider import Script, chat, reply, stall
from tests.helpers.attempts import ATTEMPTS
from tests.helpers.endpoint import AI_KEY, SECRET_ANSWER, SECRET_PROMPT, SESSION, Endpoint
from tools.waiting import eventually

GOOD = chat(SESSION)
BAD = chat({"title": SECRET_ANSWER})  # the schema asks for minutes too
WRITTEN_BY_US = (
    f"select to_jsonb(t) from {ATTEMPTS} t where user_id = %s",
    "select to_jsonb(t) from public.ai_retry_attempts t where user_id = %s",
    "select to_jsonb(t) from public.ai_retry_open t where user_id = %s",
    "select to_jsonb(t) from public.generation_error_logs t where user_id = %s",
    "select to_jsonb(t) from public.events t where user_id = %s",
)
CAPTURED = f"select count(*), count(captured_at) from {ATTEMPTS} a where generation_id = %s"


def error_of(response: requests.Response) -> tuple[int, str, int | None]:
    """Return an error's status, code and wait, after checking that the body repeats the wait."""
    error = response.json()["error"]
    wait = response.headers.get("Retry-After")
    assert error["details"].get("retryAfterSeconds") == (None if wait is None else int(wait))
    return response.status_code, error["code"], None if wait is None else int(wait)


def quota_of(response: requests.Response) -> dict[str, Any]:
    """Read the quota of an answer."""
    quota: dict[str, Any] = response.json()["meta"]["quota"]
    return quota


# At the door


@pytest.mark.parametrize("authorization", [None, "Bearer not-a-token", "Bearer {tampered}", "Basic dXNlcjpwYXNz"])
def test_stranger_is_unauthenticated(endpoint: Endpoint, authorization: str | None) -> None:
    """Without a valid token nothing is disclosed, whichever part of it is wrong."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    head, _, signature = user.access_token.rpartition(".")
    header = authorization and authorization.format(tampered=f"{head}.{signature[::-1]}")

    response = endpoint.retry(generation_id, None, {"Authorization": header} if header else None)

    assert error_of(response) == (401, "UNAUTHENTICATED", None)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Cache-Control"] == "no-store"
    assert endpoint.rows(CAPTURED, generation_id) == [(0, 0)]


def test_malformed_id_is_400(endpoint: Endpoint) -> None:
    """What is not a UUID is refused as such, for those who are signed in."""
    assert error_of(endpoint.retry("session-7", endpoint.sign_up())) == (400, "INVALID_GENERATION_ID", None)


def test_absent_and_foreign_look_the_same(endpoint: Endpoint) -> None:
    """Another user's generation and one that was never there differ only in their ids."""
    ada, bob = endpoint.sign_up(), endpoint.sign_up()
    theirs, absent = endpoint.failed_generation(bob), uuid4()

    def answer(generation_id: UUID) -> tuple[int, set[str], str]:
        response = endpoint.retry(generation_id, ada, {"X-Request-Id": "same"})
        return response.status_code, set(response.headers), response.text.replace(str(generation_id), "")

    assert answer(theirs) == answer(absent)
    assert error_of(endpoint.retry(theirs, ada)) == (404, "GENERATION_NOT_FOUND", None)
    assert endpoint.status(theirs, ada).status_code == 404


def test_generation_without_context_is_404(endpoint: Endpoint) -> None:
    """Where there is nothing to ask again, that is the answer before anything is written."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, prompt_data={})

    assert error_of(endpoint.retry(generation_id, user)) == (404, "CONTEXT_MISSING", None)
    assert endpoint.rows(CAPTURED, generation_id) == [(0, 0)]


# A failure, a wait, a success


@pytest.mark.parametrize(
    ("script", "code", "counted"),
    [
        (chat(SESSION, finish_reason="length"), "AI_INCOMPLETE", True),
        (chat("Plan for", finish_reason="SAFETY"), "AI_REJECTED", True),
        (chat(None, message={"refusal": "I'd rather not"}), "AI_REJECTED", True),
        (reply(401, json={"error": {"message": "No", "code": "invalid_api_key"}}), "AI_REJECTED", False),
        (reply(429, json={"error": "Your team has used all available credits."}), "AI_REJECTED", False),
        (reply(body="<!DOCTYPE html><html>Log in</html>"), "AI_REJECTED", False),
        (reply(400, json={"error": {"message": "No", "param": "response_format"}}), "AI_REJECTED", False),
    ],
    ids=["cut", "SAFETY", "refusal", "key", "credit", "web page", "parameter"],
)
def test_no_answer_sends_back_in_vain(endpoint: Endpoint, script: Script, code: str, counted: bool) -> None:
    """Where the identical request would fail again, no answer names a wait, and one click is one call."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, script)

    failed, again = endpoint.retry(generation_id, user), endpoint.retry(generation_id, user)
    retry = endpoint.status(generation_id, user).json()["data"]["retry"]

    assert error_of(failed) == (502, code, None)
    assert (again.status_code, error_of(again)[2]) == (429, None)
    assert "retryAfterSeconds" not in retry["refusal"]["details"] if retry["refusal"] else retry["possible"]
    assert retry["possibleAt"] is None
    assert endpoint.calls(generation_id) == 1
    assert endpoint.rows(f"select counted from {ATTEMPTS} a where generation_id = %s", generation_id) == [(counted,)]


def test_failure_costs_nothing_and_success_once(endpoint: Endpoint) -> None:
    """A failed attempt is recorded and free; after its wait the next one brings the session and costs one unit."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, BAD, GOOD)

    failed = endpoint.retry(generation_id, user)
    eventually(lambda: endpoint.may_retry(generation_id, user))
    between = endpoint.status(generation_id, user)
    done = endpoint.retry(generation_id, user, {"X-Request-Id": "click-2"})
    after = endpoint.status(generation_id, user)

    assert error_of(failed) == (502, "AI_INVALID_OUTPUT", 1)
    assert between.json()["data"]["generation"]["status"] == "error"
    assert quota_of(between) == {"limit": 2, "remaining": 2, "resetsAt": None}
    assert done.status_code == 200
    assert (quota_of(done)["limit"], quota_of(done)["remaining"]) == (2, 1)
    assert done.json()["meta"]["requestId"] == done.headers["X-Request-Id"] == "click-2"
    data = done.json()["data"]
    assert data["session"]["content"] == SESSION
    assert data["session"]["user_id"] == str(user.id)
    assert data["generation"]["id"] == str(generation_id)
    assert (data["generation"]["status"], data["generation"]["attempt"]) == ("success", 3)
    assert data["generation"]["sessionId"] == data["session"]["id"]
    assert data["generation"]["durationMs"] >= 0
    assert after.json()["data"] | {"retry": None} == data | {"retry": None}
    assert after.json()["data"]["retry"]["refusal"]["code"] == "ALREADY_SUCCEEDED"
    assert quota_of(after) == quota_of(done)
    assert endpoint.rows(CAPTURED, generation_id) == [(2, 1)]


def test_second_success_is_409(endpoint: Endpoint) -> None:
    """What has its session is not generated again, nor charged again."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, GOOD)
    done = endpoint.retry(generation_id, user)

    again = endpoint.retry(generation_id, user)

    assert error_of(again) == (409, "ALREADY_SUCCEEDED", None)
    assert again.json()["error"]["details"]["sessionId"] == done.json()["data"]["session"]["id"]
    assert endpoint.calls(generation_id) == 1
    assert endpoint.rows(CAPTURED, generation_id) == [(1, 1)]


def test_retry_before_its_time_is_429(endpoint: Endpoint) -> None:
    """The wait that a provider asked for is handed on, kept, and counted down."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, reply(429, headers={"Retry-After": "30"}, json={}))

    limited, early = endpoint.retry(generation_id, user), endpoint.retry(generation_id, user)

    assert error_of(limited) == (502, "AI_RATE_LIMITED", 30)
    status, code, wait = error_of(early)
    assert (status, code) == (429, "RETRY_TOO_SOON")
    assert wait is not None
    assert 20 < wait <= 30
    assert endpoint.calls(generation_id) == 1


def test_click_during_an_outage_is_429(endpoint: Endpoint) -> None:
    """While a provider asks to be left alone no other click reaches it: each learns when to come back, at no cost."""
    user = endpoint.sign_up()
    away = endpoint.failed_generation(user, reply(429, headers={"Retry-After": "30"}, json={}))
    [(model,)] = endpoint.rows("select model from public.generations where id = %s", away)
    other = endpoint.failed_generation(user, model=model)
    elsewhere = endpoint.failed_generation(user, GOOD)
    assert endpoint.retry(away, user).status_code == 502

    refused = endpoint.retry(other, user)

    status, code, wait = error_of(refused)
    assert (status, code) == (429, "ROUTE_UNAVAILABLE")
    assert wait is not None
    assert 20 < wait <= 30
    assert (endpoint.calls(other), endpoint.rows(CAPTURED, other)) == (0, [(0, 0)])
    assert endpoint.status(other, user).json()["data"]["retry"]["refusal"]["code"] == "ROUTE_UNAVAILABLE"
    assert endpoint.retry(elsewhere, user).status_code == 200


def test_silent_provider_is_a_timeout(endpoint: Endpoint) -> None:
    """A provider that says nothing is given up at the deadline, and the app's row says so."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, stall())

    response = endpoint.retry(generation_id, user)

    assert error_of(response)[:2] == (502, "AI_TIMEOUT")
    assert 2 <= response.elapsed.total_seconds() < 6
    assert endpoint.status(generation_id, user).json()["data"]["generation"]["status"] == "timeout"
    logged = "select error_type from public.generation_error_logs where generation_id = %s"
    assert endpoint.rows(logged, generation_id) == [("AI_TIMEOUT",)]


def test_last_attempt_leaves_no_wait(endpoint: Endpoint) -> None:
    """When the attempts are used up there is nothing to wait for, and no call is made any more."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, BAD, BAD)

    first = endpoint.retry(generation_id, user)
    eventually(lambda: endpoint.may_retry(generation_id, user))
    last, refused = endpoint.retry(generation_id, user), endpoint.retry(generation_id, user)

    assert error_of(first) == (502, "AI_INVALID_OUTPUT", 1)
    assert error_of(last) == (502, "AI_INVALID_OUTPUT", None)
    assert error_of(refused) == (429, "RETRY_LIMIT_REACHED", None)
    assert endpoint.calls(generation_id) == 2


def test_used_up_quota_is_429(endpoint: Endpoint) -> None:
    """Beyond the limit no call is made, and the answer says when the next unit comes back."""
    user = endpoint.sign_up()
    for _ in range(2):
        assert endpoint.retry(endpoint.failed_generation(user, GOOD), user).status_code == 200
    one_too_many = endpoint.failed_generation(user)

    refused = endpoint.retry(one_too_many, user)

    status, code, wait = error_of(refused)
    assert (status, code) == (429, "QUOTA_EXHAUSTED")
    assert wait is not None
    assert 86_000 < wait <= 86_400
    assert endpoint.calls(one_too_many) == 0
    assert endpoint.status(one_too_many, user).json()["data"]["generation"]["status"] == "error"


# Repeats


def test_same_key_replays_the_success(endpoint: Endpoint) -> None:
    """A click whose answer was lost is answered again with the same session, and charged once."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, GOOD)

    first, again = (endpoint.retry(generation_id, user, {"Idempotency-Key": '"click-1"'}) for _ in range(2))
    other = endpoint.retry(generation_id, user, {"Idempotency-Key": '"click-2"'})

    assert (first.status_code, again.status_code) == (200, 200)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["data"] == first.json()["data"]
    assert quota_of(again) == quota_of(first)
    assert error_of(other)[:2] == (409, "ALREADY_SUCCEEDED")
    assert endpoint.calls(generation_id) == 1


def test_malformed_key_is_400(endpoint: Endpoint) -> None:
    """A malformed key is refused before anything is done."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)

    response = endpoint.retry(generation_id, user, {"Idempotency-Key": "two words"})

    assert error_of(response) == (400, "INVALID_IDEMPOTENCY_KEY", None)
    assert endpoint.calls(generation_id) == 0


# What needs no token


def test_document_and_health_are_open(endpoint: Endpoint) -> None:
    """The OpenAPI document names every route that is served, and neither it nor health needs a token."""
    document = requests.get(endpoint.url + OPENAPI_PATH, timeout=10).json()
    health = requests.get(endpoint.url + HEALTH_PATH, timeout=10)

    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {LIST_PATH, RETRY_PATH, STATUS_PATH, OPENAPI_PATH, HEALTH_PATH}
    assert (health.status_code, health.json()["data"]) == (200, {"status": "ok"})


# The log


def test_log_shows_refusals_and_no_secret(endpoint: Endpoint) -> None:
    """Refusals and failures are lines with code and ids; no key, token, prompt or answer is there or in a row."""
    user = endpoint.sign_up()
    echo = {"error": {"message": f"Incorrect API key provided: {AI_KEY}; you said {SECRET_PROMPT}"}}
    bad = endpoint.failed_generation(user, BAD)
    refused_key = endpoint.failed_generation(user, reply(401, json=echo))
    good = endpoint.failed_generation(user, GOOD)
    for generation_id in (bad, refused_key, good, good, uuid4(), "session-7"):
        endpoint.retry(generation_id, user, {"X-Request-Id": f"log-{generation_id}"})
    endpoint.retry(good, None, {"Authorization": f"Bearer {user.access_token}x", "X-Request-Id": "log-stranger"})

    log = endpoint.log.read_text()
    rows = [endpoint.rows(query, user.id) for query in WRITTEN_BY_US]

    lines = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in log.splitlines() if "request_id=log-" in line]
    answered = {tuple(each.get(name) for name in ("event", "code", "user_id", "generation_id")) for each in lines}
    assert answered >= {
        ("attempt_failed", "AI_INVALID_OUTPUT", str(user.id), str(bad)),
        ("attempt_failed", "AI_REJECTED", str(user.id), str(refused_key)),
        ("refused", "ALREADY_SUCCEEDED", str(user.id), str(good)),
        ("refused", "INVALID_GENERATION_ID", str(user.id), None),
        ("refused", "UNAUTHENTICATED", None, None),
    }
    stack = endpoint.stack
    secrets = [AI_KEY, SECRET_PROMPT, SECRET_ANSWER, stack.secret_key, stack.publishable_key, stack.jwt_secret]
    assert [each for each in [*secrets, *endpoint.tokens] if each in log or each in str(rows)] == []
    assert "Traceback" not in log
