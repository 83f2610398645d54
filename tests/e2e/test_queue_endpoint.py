"""Retries that are accepted for later, over real HTTP: 202 and what it promises, status, taking back, the worker."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import requests
from flask import Flask

from ai_retry.bootstrap import connect
from ai_retry.config import Settings
from ai_retry.flask import create_blueprint
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import chat, reply
from tests.helpers.attempts import ATTEMPTS
from tests.helpers.endpoint import SECRET_ANSWER, SESSION, Endpoint, bearer
from tests.helpers.queue_steps import run
from tests.helpers.world import SqlWorld, empty_queue
from tools.stack import SignedInUser
from tools.waiting import eventually

GOOD = chat(SESSION)
BAD = chat({"title": SECRET_ANSWER})  # the schema asks for minutes too
ASYNC = {"Prefer": "respond-async"}
NUMBERS = f"""
select a.number, case when a.outcome is not null then 'closed' when a.lease_expires_at is null then 'queued'
  else 'running' end, a.outcome
from {ATTEMPTS} a where a.generation_id = %s order by a.number
"""
MESSAGES = "select count(*) from pgmq.q_ai_retry where message ->> 'generation_id' = %s"


@pytest.fixture(autouse=True)
def queue_is_empty(endpoint: Endpoint) -> None:
    """Leave nothing of earlier tests to this one's worker."""
    empty_queue(endpoint.database)


def enqueue(
    endpoint: Endpoint, generation_id: UUID, user: SignedInUser, headers: dict[str, str] | None = None
) -> requests.Response:
    """POST the retry, for later."""
    return endpoint.retry(generation_id, user, {**ASYNC, **(headers or {})})


def take_back(endpoint: Endpoint, generation_id: UUID | str, user: SignedInUser | None) -> requests.Response:
    """DELETE the retry."""
    return requests.delete(f"{endpoint.url}/sessions/ai/{generation_id}/retry", headers=bearer(user), timeout=30)


def attempts(endpoint: Endpoint, generation_id: UUID) -> list[tuple[Any, ...]]:
    """Rows of its attempts: number, state, outcome."""
    return endpoint.rows(NUMBERS, generation_id)


def messages(endpoint: Endpoint, generation_id: UUID) -> int:
    """Count the messages that hint at it."""
    return int(endpoint.rows(MESSAGES, str(generation_id))[0][0])


def data_of(response: requests.Response) -> dict[str, Any]:
    """Read the data of an answer."""
    data: dict[str, Any] = response.json()["data"]
    return data


def error_of(response: requests.Response) -> tuple[int, str]:
    """Read the code of an error."""
    return response.status_code, response.json()["error"]["code"]


def remaining(response: requests.Response) -> int:
    """Read what is left of the quota."""
    return int(response.json()["meta"]["quota"]["remaining"])


@contextmanager
def working(endpoint: Endpoint) -> Iterator[None]:
    """Run a worker of the app's own parts, with the app's provider, until the block ends."""
    stop = threading.Event()
    with connect(Settings.from_env(endpoint.env)) as client:
        thread = threading.Thread(target=client.worker(concurrency=4).run, args=[stop])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def begin(endpoint: Endpoint, generation_id: UUID, user: SignedInUser) -> None:
    """Begin a queued attempt, as a worker that takes its time."""
    with closing(PostgresStorage(endpoint.stack.database_url, max_connections=1)) as storage:
        run(SqlWorld(storage, endpoint.database), user.id, generation_id)


def ended(endpoint: Endpoint, generation_id: UUID, user: SignedInUser) -> Callable[[], bool]:
    """Ask whether nothing waits or runs any more."""
    return lambda: data_of(endpoint.status(generation_id, user))["generation"]["status"] not in ("queued", "processing")


# 202


def test_accepted_with_a_promise(endpoint: Endpoint) -> None:
    """202 says what was accepted, where to look, when, and that the preference was applied; no call is made."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)

    response = enqueue(endpoint, generation_id, user, {"X-Request-Id": "click-1"})

    assert response.status_code == 202
    assert response.headers["Location"] == f"/sessions/ai/{generation_id}"
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Preference-Applied"] == "respond-async"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Request-Id"] == response.json()["meta"]["requestId"] == "click-1"
    assert data_of(response)["session"] is None
    generation = data_of(response)["generation"]
    assert (generation["id"], generation["status"], generation["attempt"]) == (str(generation_id), "queued", 2)
    assert remaining(response) == 1
    assert endpoint.calls(generation_id) == 0
    assert attempts(endpoint, generation_id) == [(2, "queued", None)]
    assert (
        requests.get(endpoint.url + response.headers["Location"], headers=bearer(user), timeout=10).status_code == 200
    )


def test_accepted_retry_ends_in_its_session(endpoint: Endpoint) -> None:
    """A worker makes the session, for one unit, and the queue is empty afterwards."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, GOOD)
    assert enqueue(endpoint, generation_id, user).status_code == 202

    with working(endpoint):
        eventually(ended(endpoint, generation_id, user))

    status = endpoint.status(generation_id, user)
    assert data_of(status)["generation"]["status"] == "success"
    assert data_of(status)["session"]["content"] == SESSION
    assert remaining(status) == 1
    assert attempts(endpoint, generation_id) == [(2, "closed", "succeeded")]
    assert messages(endpoint, generation_id) == 0


def test_accepted_retry_goes_on_after_a_failure(endpoint: Endpoint) -> None:
    """A failed attempt is followed by the next one without a click."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, BAD, GOOD)
    enqueue(endpoint, generation_id, user)

    with working(endpoint):
        eventually(ended(endpoint, generation_id, user))

    assert attempts(endpoint, generation_id) == [(2, "closed", "failed"), (3, "closed", "succeeded")]
    assert endpoint.calls(generation_id) == 2
    assert remaining(endpoint.status(generation_id, user)) == 1


def test_accepted_retry_ends_in_its_error(endpoint: Endpoint) -> None:
    """When its attempts are used up it ends in error with the reason, and costs nothing."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, BAD, BAD)
    enqueue(endpoint, generation_id, user)

    with working(endpoint):
        eventually(ended(endpoint, generation_id, user))

    status = endpoint.status(generation_id, user)
    assert data_of(status)["generation"]["status"] == "error"
    assert data_of(status)["retry"]["refusal"]["code"] == "RETRY_LIMIT_REACHED"
    assert remaining(status) == 2
    logged = "select error_type from public.generation_error_logs where generation_id = %s"
    assert endpoint.rows(logged, generation_id) == [("AI_INVALID_OUTPUT",)] * 2
    assert messages(endpoint, generation_id) == 0


def test_second_click_gets_the_same_answer(endpoint: Endpoint) -> None:
    """A second click gets 202 with the same state; nothing is held, opened or sent twice."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)

    first, second = (enqueue(endpoint, generation_id, user) for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 202)
    assert data_of(first) == data_of(second)
    assert remaining(first) == remaining(second) == 1
    assert attempts(endpoint, generation_id) == [(2, "queued", None)]
    assert messages(endpoint, generation_id) == 1


def test_running_retry_is_answered_with_202(endpoint: Endpoint) -> None:
    """A request for later is answered with what runs now, here or in a worker."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    enqueue(endpoint, generation_id, user)
    begin(endpoint, generation_id, user)

    response = enqueue(endpoint, generation_id, user)

    assert response.status_code == 202
    assert data_of(response)["generation"]["status"] == "processing"
    assert attempts(endpoint, generation_id) == [(2, "running", None)]


def test_wait_is_waited_out(endpoint: Endpoint) -> None:
    """During a provider's wait a retry is accepted, and due when the wait is over: Retry-After says when."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, reply(429, headers={"Retry-After": "30"}, json={}))
    assert endpoint.retry(generation_id, user).status_code == 502

    response = enqueue(endpoint, generation_id, user)
    queued = data_of(endpoint.status(generation_id, user))["retry"]["queued"]

    assert response.status_code == 202
    assert 20 < int(response.headers["Retry-After"]) <= 30
    due_in = datetime.fromisoformat(queued["nextAttemptAt"]) - datetime.now(UTC)
    assert timedelta(seconds=20) < due_in <= timedelta(seconds=30)


@pytest.mark.parametrize(
    "prefer",
    [
        "respond-async",
        "Respond-Async",
        "respond-async, wait=10",
        "wait=10,respond-async",
        "return=minimal;foo=bar , respond-async",
        "respond-async; wait=10",
        'respond-async=""',
        'foo="a, b";bar, respond-async',
    ],
)
def test_preference_in_any_spelling(endpoint: Endpoint, prefer: str) -> None:
    """RFC 7240's spellings of the preference are all understood."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)

    response = endpoint.retry(generation_id, user, {"Prefer": prefer})

    assert (response.status_code, response.headers.get("Preference-Applied")) == (202, "respond-async")


@pytest.mark.parametrize(
    "prefer",
    [
        "",
        "wait=10",
        "respond-asynchronously",
        "x-respond-async",
        "handling=lenient; respond-async",
        'foo="respond-async"',
        'foo="a, respond-async, b"',
        "return=respond-async",
    ],
)
def test_other_preferences_are_ignored(endpoint: Endpoint, prefer: str) -> None:
    """What only looks like the preference, and every other one, changes nothing: the session is waited for."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, GOOD)

    response = endpoint.retry(generation_id, user, {"Prefer": prefer})

    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers


# What is refused


def test_queued_retry_refuses_to_be_waited_for(endpoint: Endpoint) -> None:
    """A click that would wait for a queued one learns that it is in progress, and when to come back."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    enqueue(endpoint, generation_id, user)

    response = endpoint.retry(generation_id, user)

    assert error_of(response) == (429, "RETRY_IN_PROGRESS")
    assert 1 <= int(response.headers["Retry-After"]) <= 5
    assert endpoint.calls(generation_id) == 0


def test_rules_refuse_at_the_door(endpoint: Endpoint) -> None:
    """Success, exhausted attempts, a used-up quota and a missing context are refused at once, not after a 202."""
    user, other = endpoint.sign_up(), endpoint.sign_up()
    done = endpoint.failed_generation(user, status="success")
    empty = endpoint.failed_generation(user, prompt_data={})
    for _ in range(2):
        assert enqueue(endpoint, endpoint.failed_generation(other), other).status_code == 202
    one_too_many = endpoint.failed_generation(other)

    assert error_of(enqueue(endpoint, done, user)) == (409, "ALREADY_SUCCEEDED")
    assert error_of(enqueue(endpoint, empty, user)) == (404, "CONTEXT_MISSING")
    assert error_of(enqueue(endpoint, one_too_many, other)) == (429, "QUOTA_EXHAUSTED")
    assert error_of(enqueue(endpoint, uuid4(), user)) == (404, "GENERATION_NOT_FOUND")
    assert [attempts(endpoint, each) for each in (done, empty, one_too_many)] == [[], [], []]


def test_success_by_another_hand_is_no_promise(endpoint: Endpoint) -> None:
    """When the app itself succeeded meanwhile, a click learns it although an attempt is still queued."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    enqueue(endpoint, generation_id, user)
    endpoint.database.execute("update public.generations set status = 'success' where id = %s", [generation_id])

    assert error_of(enqueue(endpoint, generation_id, user)) == (409, "ALREADY_SUCCEEDED")


def test_without_a_queue_nothing_is_promised(endpoint: Endpoint, migrated_database: str) -> None:
    """In a project without pgmq 202 is refused as NOT_CONFIGURED, and nothing is written."""
    user_id = endpoint.sign_up().id
    generation_id = uuid4()
    with psycopg.connect(migrated_database, autocommit=True) as database:
        database.execute("drop schema pgmq cascade")
        database.execute("insert into auth.users (id) values (%s)", [user_id])
        database.execute(
            "insert into public.generations (id, user_id, status, prompt_data)"
            """ values (%s, %s, 'error', '{"messages": [{"role": "user", "content": "x"}]}')""",
            [generation_id, user_id],
        )
        ai = {"AI_BASE_URL": "http://127.0.0.1:9/v1", "AI_MODEL": "small"}
        settings = Settings.from_env({"DATABASE_URL": migrated_database, **ai})
        app = Flask(__name__)
        with closing(connect(settings)) as client:
            app.register_blueprint(create_blueprint(client, lambda _: user_id))
            path = f"/sessions/ai/{generation_id}/retry"
            response = app.test_client().post(path, headers={**ASYNC, "Authorization": "Bearer x"})
            taken_back = app.test_client().delete(path, headers={"Authorization": "Bearer x"})

        assert response.status_code == 500
        assert response.get_json()["error"]["code"] == "NOT_CONFIGURED"
        assert "Retry-After" not in response.headers
        assert taken_back.status_code == 200
        written = f"select count(*) + (select count(*) from public.events) from {ATTEMPTS} a"
        assert database.execute(written.encode()).fetchone() == (0,)
        assert database.execute("select status from public.generations").fetchone() == ("error",)


def test_same_key_replays_the_success(endpoint: Endpoint) -> None:
    """A key that led to a session, queued or not, gives it again, whether the click waits or not."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, GOOD)
    key = {"Idempotency-Key": '"click-1"'}
    first, second = (enqueue(endpoint, generation_id, user, key) for _ in range(2))
    with working(endpoint):
        eventually(ended(endpoint, generation_id, user))

    later, now = enqueue(endpoint, generation_id, user, key), endpoint.retry(generation_id, user, key)
    other = enqueue(endpoint, generation_id, user, {"Idempotency-Key": '"click-2"'})

    assert (first.status_code, second.status_code) == (202, 202)
    for response in (later, now):
        assert (response.status_code, response.headers["Idempotency-Replayed"]) == (200, "true")
        assert data_of(response)["session"]["content"] == SESSION
    assert "Preference-Applied" not in later.headers
    assert error_of(other) == (409, "ALREADY_SUCCEEDED")
    assert endpoint.calls(generation_id) == 1


def test_host_may_queue_everything(endpoint: Endpoint) -> None:
    """With mode="queue" every retry is accepted for later; no preference is said to be applied that was not sent."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    app = Flask(__name__)
    with closing(connect(Settings.from_env(endpoint.env))) as client:
        blueprint = create_blueprint(client, lambda _: user.id, mode="queue")
        app.register_blueprint(blueprint, url_prefix="/api")
        path = f"/api/sessions/ai/{generation_id}"
        response = app.test_client().post(f"{path}/retry", headers=bearer(user))

    assert response.status_code == 202
    assert response.headers["Location"] == path
    assert "Preference-Applied" not in response.headers
    assert attempts(endpoint, generation_id) == [(2, "queued", None)]


# Where it is placed


def test_status_says_what_is_queued(endpoint: Endpoint) -> None:
    """While it waits the status says queued, since when, until when, and when the attempt is due; then no more."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    before = data_of(endpoint.status(generation_id, user))
    enqueue(endpoint, generation_id, user)
    queued = data_of(endpoint.status(generation_id, user))
    take_back(endpoint, generation_id, user)
    after = data_of(endpoint.status(generation_id, user))

    assert before["retry"]["queued"] is after["retry"]["queued"] is None
    assert queued["generation"]["status"] == "queued"
    said = {name: datetime.fromisoformat(queued["retry"]["queued"][name]) for name in ("acceptedAt", "nextAttemptAt")}
    assert said["acceptedAt"] <= said["nextAttemptAt"] <= datetime.now(UTC) + timedelta(minutes=5)
    expires_at = datetime.fromisoformat(queued["retry"]["queued"]["expiresAt"])
    assert expires_at - said["acceptedAt"] == timedelta(hours=24)
    assert (queued["retry"]["possible"], queued["retry"]["refusal"]["code"]) == (False, "RETRY_IN_PROGRESS")


# Taking back


def test_taken_back_is_as_before(endpoint: Endpoint) -> None:
    """The generation says again what it said, the unit is free, and a repeat changes nothing."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, status="timeout")
    enqueue(endpoint, generation_id, user)

    first, second = (take_back(endpoint, generation_id, user) for _ in range(2))

    for response in (first, second):
        assert response.status_code == 200
        assert data_of(response)["generation"]["status"] == "timeout"
        assert data_of(response)["retry"]["possible"]
        assert remaining(response) == 2
        assert response.headers["Cache-Control"] == "no-store"
    assert attempts(endpoint, generation_id) == [(2, "closed", "cancelled")]
    assert messages(endpoint, generation_id) == 0


def test_taken_back_can_be_retried_now(endpoint: Endpoint) -> None:
    """Afterwards the user may wait for it instead."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, GOOD)
    enqueue(endpoint, generation_id, user)
    take_back(endpoint, generation_id, user)

    response = endpoint.retry(generation_id, user)

    assert (response.status_code, remaining(response)) == (200, 1)


def test_nothing_to_take_back_is_no_error(endpoint: Endpoint) -> None:
    """Where nothing is queued the answer is the state, and nothing is written."""
    user = endpoint.sign_up()
    failed, done = (endpoint.failed_generation(user, status=each) for each in ("error", "success"))

    assert [take_back(endpoint, each, user).status_code for each in (failed, done)] == [200, 200]
    assert attempts(endpoint, failed) == attempts(endpoint, done) == []


def test_running_retry_is_not_taken_back(endpoint: Endpoint) -> None:
    """Once a worker has begun, taking back is refused with the time to come back, and nothing is changed."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    enqueue(endpoint, generation_id, user)
    begin(endpoint, generation_id, user)

    response = take_back(endpoint, generation_id, user)

    assert error_of(response) == (429, "RETRY_IN_PROGRESS")
    assert 1 <= int(response.headers["Retry-After"]) <= 5
    assert attempts(endpoint, generation_id) == [(2, "running", None)]


def test_another_users_retry_stays(endpoint: Endpoint) -> None:
    """Taking back another user's retry looks as if it were not there, and changes nothing."""
    ada, bob = endpoint.sign_up(), endpoint.sign_up()
    theirs = endpoint.failed_generation(bob)
    enqueue(endpoint, theirs, bob)

    foreign, absent = (take_back(endpoint, each, ada) for each in (theirs, uuid4()))

    assert error_of(foreign) == error_of(absent) == (404, "GENERATION_NOT_FOUND")
    assert set(foreign.headers) == set(absent.headers)
    assert attempts(endpoint, theirs) == [(2, "queued", None)]


def test_stranger_takes_nothing_back(endpoint: Endpoint) -> None:
    """Without a token nothing is disclosed and nothing changes; what is not an id is refused as such."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user)
    enqueue(endpoint, generation_id, user)

    stranger = take_back(endpoint, generation_id, None)

    assert error_of(stranger) == (401, "UNAUTHENTICATED")
    assert stranger.headers["WWW-Authenticate"] == "Bearer"
    assert error_of(take_back(endpoint, "session-7", user)) == (400, "INVALID_GENERATION_ID")
    assert attempts(endpoint, generation_id) == [(2, "queued", None)]
