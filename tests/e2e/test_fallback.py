"""Several calls in one attempt, over real HTTP: another model, another provider, one re-ask, and what is recorded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests

from ai_retry.bootstrap import connect
from ai_retry.config import Settings
from ai_retry.testing.provider import ScriptedServer, chat, reply
from tests.helpers.attempts import ATTEMPTS
from tests.helpers.endpoint import SECRET_ANSWER, SESSION, Endpoint, bearer, running_endpoint
from tests.helpers.world import empty_queue
from tools.stack import SignedInUser, Stack
from tools.waiting import eventually

NUMBERS = {"AI_RETRY_BACKOFF_BASE_SECONDS": "0.5", "AI_RETRY_DEADLINE_SECONDS": "8", "AI_RETRY_QUOTA_LIMIT": "3"}
BUSY = reply(503, json={"error": {"message": "overloaded"}})
PATIENCE = reply(429, json={"error": {"message": "slow down"}}, headers={"Retry-After": "120"})
INVALID = chat({"title": SECRET_ANSWER}, model="small-1")  # the schema asks for minutes too
GOOD = chat(SESSION, model="large-1")
ROW = f"""
select a.outcome, a.captured_at is not null as captured, a.provider_outcome, a.wire_requests, a.model,
  a.usage ->> 'total_tokens' as tokens, a.calls from {ATTEMPTS} a where a.generation_id = %s order by a.number
"""


@pytest.fixture(scope="module", params=["data_api", "postgres"])
def endpoint(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    """The app on each of its storages, with a model to fall back on."""
    log = tmp_path_factory.mktemp("app") / "app.log"
    settings = NUMBERS | {"AI_FALLBACK_MODELS": "large"}
    with running_endpoint(stack, settings, log, direct=request.param == "postgres") as endpoint:
        yield endpoint
        assert endpoint.miscounted() == {}


@pytest.fixture(autouse=True)
def nothing_is_known(endpoint: Endpoint) -> None:
    """Forget the outages and messages of earlier tests."""
    empty_queue(endpoint.database)
    endpoint.database.execute("delete from public.ai_retry_outages")


def attempts(endpoint: Endpoint, generation_id: UUID) -> list[tuple[Any, ...]]:
    """Read the rows of its attempts."""
    return endpoint.rows(ROW, generation_id)


def ends(calls: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Read how requests ended."""
    return [(each["model"], each["code"], each["http_status"]) for each in calls]


@contextmanager
def working(endpoint: Endpoint) -> Iterator[None]:
    """Run a worker of the app's own settings until the block ends."""
    stop = threading.Event()
    with connect(Settings.from_env(endpoint.env)) as client:
        thread = threading.Thread(target=client.worker(concurrency=2).run, args=[stop])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def accepted(endpoint: Endpoint, user: SignedInUser, *answers: Any, model: str) -> UUID:
    """Accept a retry of a new generation for later."""
    generation_id = endpoint.failed_generation(user, *answers, model=model)
    assert endpoint.retry(generation_id, user, {"Prefer": "respond-async"}).status_code == 202
    return generation_id


def test_second_model_answers(endpoint: Endpoint) -> None:
    """The first is overloaded: one session, one unit, two requests on the record, and the model that answered."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, BUSY, GOOD, model="first")

    response = endpoint.retry(generation_id, user)

    assert response.status_code == 200
    assert response.json()["meta"]["quota"]["remaining"] == 2
    ((outcome, captured, known, requests, model, tokens, calls),) = attempts(endpoint, generation_id)
    assert (outcome, captured, known, requests, model, tokens) == ("succeeded", True, "unknown", 2, "large-1", "18")
    assert ends(calls) == [("first", "AI_UNAVAILABLE", 503), ("large-1", None, 200)]
    assert all(each["provider"].startswith("127.0.0.1:") and each["duration_ms"] >= 0 for each in calls)


def test_invalid_answer_is_asked_about_once(endpoint: Endpoint) -> None:
    """The model corrects it: one session, one unit, the tokens of both, and no prompt or answer in the log."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, INVALID, GOOD, model="first")

    response = endpoint.retry(generation_id, user)

    assert response.status_code == 200
    ((outcome, captured, known, requests, model, tokens, calls),) = attempts(endpoint, generation_id)
    assert (outcome, captured, known, requests, model, tokens) == ("succeeded", True, "generated", 2, "large-1", "36")
    assert ends(calls) == [("small-1", "AI_INVALID_OUTPUT", 200), ("large-1", None, 200)]
    assert SECRET_ANSWER not in endpoint.log.read_text()


def test_model_that_can_t_be_corrected_is_replaced(endpoint: Endpoint) -> None:
    """Invalid output falls back after its re-ask."""
    user = endpoint.sign_up()
    generation_id = endpoint.failed_generation(user, INVALID, INVALID, GOOD, model="first")

    assert endpoint.retry(generation_id, user).status_code == 200

    ((*_, tokens, calls),) = attempts(endpoint, generation_id)
    assert tokens == "54"
    assert [each["code"] for each in calls] == ["AI_INVALID_OUTPUT", "AI_INVALID_OUTPUT", None]


def test_known_outage_is_skipped(endpoint: Endpoint) -> None:
    """The first call learns of it; the next one goes to the second model at once, and nothing is parked."""
    user = endpoint.sign_up()
    first = endpoint.failed_generation(user, PATIENCE, GOOD, model="first")
    second = endpoint.failed_generation(user, GOOD, model="first")

    assert endpoint.retry(first, user).status_code == 200
    assert endpoint.may_retry(second, user)
    assert endpoint.retry(second, user).status_code == 200

    assert ends(attempts(endpoint, first)[0][-1]) == [("first", "AI_RATE_LIMITED", 429), ("large-1", None, 200)]
    assert ends(attempts(endpoint, second)[0][-1]) == [("large-1", None, 200)]


def test_with_all_unavailable_it_parks(endpoint: Endpoint) -> None:
    """The accepted retry waits, and uses up nothing; the next one is not even asked for, and a click is refused."""
    user = endpoint.sign_up()
    first = accepted(endpoint, user, PATIENCE, PATIENCE, model="first")

    with working(endpoint):
        eventually(lambda: endpoint.calls(first) == 2)
        eventually(lambda: endpoint.rows("select count(*) from public.ai_retry_outages") == [(2,)])
        second = accepted(endpoint, user, model="first")
        waits = "select count(*) from public.ai_retry_open where route is not null and lease_expires_at is null"
        eventually(lambda: endpoint.rows(f"{waits} and user_id = %s", user.id) == [(2,)])

    click = endpoint.retry(endpoint.failed_generation(user, model="first"), user)
    assert (click.status_code, click.json()["error"]["code"]) == (429, "ROUTE_UNAVAILABLE")
    assert 60 < int(click.headers["Retry-After"]) <= 120
    assert endpoint.calls(second) == 0
    for each in (first, second):
        url = f"{endpoint.url}/sessions/ai/{each}/retry"
        assert requests.delete(url, headers=bearer(user), timeout=30).status_code == 200
    assert [(row[0], row[3]) for row in attempts(endpoint, first)] == [("cancelled", 2)]


def test_another_provider_answers(stack: Stack, tmp_path: Path, endpoint: Endpoint) -> None:
    """The first can't be reached; the second has an address, a key and a model of its own."""
    keys: list[str] = []

    def answer(request: Any) -> Any:
        keys.append(request.headers["authorization"])
        return chat(SESSION, model=request.json()["model"])

    with ScriptedServer(default=answer) as other:
        settings = NUMBERS | {
            "AI_BASE_URL": "http://127.0.0.1:9/v1",
            "AI_FALLBACK_1_BASE_URL": other.base_url,
            "AI_FALLBACK_1_API_KEY": "other-key",
            "AI_FALLBACK_1_MODEL": "own",
        }
        with running_endpoint(stack, settings, tmp_path / "app.log", direct=True) as app:
            user = app.sign_up()
            generation_id = app.failed_generation(user, model="first")
            assert app.retry(generation_id, user).status_code == 200

    ((_, _, known, requests, model, _, calls),) = attempts(endpoint, generation_id)
    assert (known, requests, model, keys) == ("generated", 1, "own", ["Bearer other-key"])
    assert {each["code"] for each in calls[:-1]} == {"AI_UNAVAILABLE"}
    assert (calls[-1]["provider"], calls[-1]["model"]) == (other.base_url.split("/")[2], "own")
    with connect(Settings.from_env(endpoint.env)) as client:
        why = str(client.why(generation_id))
    assert "The last attempt that called asked first at 127.0.0.1:9 (AI_UNAVAILABLE, " in why
    assert f"then own at {calls[-1]['provider']} (ok, HTTP 200, 18 tokens, " in why
