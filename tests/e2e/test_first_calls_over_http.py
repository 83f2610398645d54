"""First calls of many clients at once, over real HTTP, on the real stack: none twice, none above the limit."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests

from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, reply
from tests.helpers.attempts import ATTEMPTS
from tests.helpers.endpoint import SECRET_PROMPT, bearer
from tools.app_server import running_app
from tools.stack import SignedInUser, Stack

SETTINGS = {"AI_RETRY_MAX_PARALLEL": "100", "AI_RETRY_MAX_CALLS": "100", "AI_RETRY_BACKOFF_BASE_SECONDS": "0.5"}
APP = "tests.helpers.first_calls_app:create_app()"
HELD = 20.0  # seconds that a call waits for the others, at most


class Provider:
    """Answers each call; ``gate`` lets it wait, ``fails`` lets it fail; ``calls`` counts them."""

    def __init__(self) -> None:
        self.gate, self.fails, self.calls = threading.Event(), False, 0
        self.gate.set()
        self._lock = threading.Lock()

    def __call__(self, _: Request) -> Script:
        """Answer."""
        with self._lock:
            self.calls += 1
        self.gate.wait(HELD)
        return reply(503, json={}) if self.fails else chat({"title": "Easy run"})


@dataclass(frozen=True)
class App:
    """A running app, and what is around it."""

    url: str
    stack: Stack
    provider: Provider
    database: psycopg.Connection

    def sign_up(self) -> SignedInUser:
        """Make a user."""
        return self.stack.sign_up(f"{uuid4()}@example.com", "correct horse battery staple")

    def post(self, user: SignedInUser, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
        """Make a first call."""
        body = {"wish": SECRET_PROMPT, **body}
        return requests.post(f"{self.url}/sessions/ai", json=body, headers=bearer(user) | (headers or {}), timeout=60)

    def at_once(self, count: int, user: SignedInUser, headers: dict[str, str]) -> list[requests.Response]:
        """Make so many, all at the same time."""
        start = threading.Barrier(count)

        def one(_: int) -> requests.Response:
            start.wait()
            return self.post(user, headers)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))

    def count(self, query: str, user: SignedInUser) -> int:
        """Count rows of the user."""
        row = self.database.execute(f"select count(*) from {query}".encode(), [user.id]).fetchone()
        assert row is not None
        return int(row[0])

    def counts(self, user: SignedInUser) -> tuple[int, int, int, int]:
        """The user's generations, attempts, captured units and sessions."""
        return (
            self.count("public.generations where user_id = %s", user),
            self.count(f"{ATTEMPTS} a where a.user_id = %s", user),
            self.count("public.ai_retry_attempts where user_id = %s and captured_at is not null", user),
            self.count("public.sessions where user_id = %s", user),
        )


@pytest.fixture(scope="module", params=["data_api", "postgres"])
def app(request: pytest.FixtureRequest, stack: Stack) -> Iterator[App]:
    """The app on each of its storages."""
    env = {name: value for name, value in stack.env().items() if request.param == "postgres" or name != "DATABASE_URL"}
    provider = Provider()
    with ExitStack() as cleanup:
        server = cleanup.enter_context(ScriptedServer(default=provider))
        settings = SETTINGS | {"AI_BASE_URL": server.base_url, "AI_MODEL": "small"}
        url = cleanup.enter_context(running_app(env | settings, threads=100, app=APP))
        database = cleanup.enter_context(psycopg.connect(stack.database_url, autocommit=True))
        yield App(url, stack, provider, database)


def code(response: requests.Response) -> str | None:
    """The error's code; None: there is none."""
    found: str | None = response.json().get("error", {}).get("code")
    return found


def test_hundred_at_once_hold_exactly_the_limit(app: App) -> None:
    """A new user's hundred first calls, limit 5: five sessions, and ninety-five that were refused before any call."""
    user, calls = app.sign_up(), app.provider.calls

    codes = Counter(code(each) for each in app.at_once(100, user, {}))

    assert codes == {None: 5, "QUOTA_EXHAUSTED": 95}
    assert app.counts(user) == (5, 5, 5, 5)
    assert app.provider.calls - calls == 5


def test_twenty_under_one_key_are_one(app: App) -> None:
    """Whoever comes first makes it; the others learn its id while it runs, and its session afterwards."""
    user, calls = app.sign_up(), app.provider.calls
    headers = {"Idempotency-Key": str(uuid4())}

    answers = app.at_once(20, user, headers)
    last = app.post(user, headers)

    assert {code(each) for each in answers} <= {None, "RETRY_IN_PROGRESS"}
    assert len({each.headers["Location"] for each in (*answers, last)}) == 1
    assert (last.status_code, last.headers["Idempotency-Replayed"]) == (200, "true")
    assert len({each.json()["data"]["session"]["id"] for each in (*answers, last) if each.status_code == 200}) == 1
    assert app.counts(user) == (1, 1, 1, 1)
    assert app.provider.calls - calls == 1


def test_key_while_it_runs_names_the_generation(app: App) -> None:
    """429 with the id and the place, as long as the first one's call lasts; its state can be read there."""
    user, headers = app.sign_up(), {"Idempotency-Key": str(uuid4())}
    app.provider.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(app.post, user, headers)
        try:
            while app.counts(user)[0] == 0:
                pass
            second = app.post(user, headers)
        finally:
            app.provider.gate.set()

    assert (second.status_code, code(second)) == (429, "RETRY_IN_PROGRESS")
    assert int(second.headers["Retry-After"]) >= 1
    assert second.headers["Location"] == first.result().headers["Location"]
    state = requests.get(app.url + second.headers["Location"], headers=bearer(user), timeout=30).json()
    assert state["data"]["generation"]["id"] == second.json()["error"]["details"]["generationId"]


def test_failure_is_retried_at_its_place(app: App) -> None:
    """502 names the generation; the same key makes no further call; the retry endpoint does."""
    user, headers = app.sign_up(), {"Idempotency-Key": str(uuid4())}
    app.provider.fails = True
    try:
        first, second = app.post(user, headers), app.post(user, headers)
    finally:
        app.provider.fails = False
    other = app.post(user, headers, wish="another")

    assert [(each.status_code, code(each)) for each in (first, second)] == [(502, "AI_UNAVAILABLE")] * 2
    assert first.headers["Location"] == second.headers["Location"]
    assert (other.status_code, code(other)) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert app.counts(user) == (1, 1, 0, 0)
    listed = requests.get(f"{app.url}/sessions/ai?status=error", headers=bearer(user), timeout=30).json()
    (item,) = listed["data"]["generations"]
    assert item["generation"]["id"] == first.json()["error"]["details"]["generationId"]
    app.database.execute("update public.ai_retry_attempts set next_attempt_at = now() where user_id = %s", [user.id])
    app.database.execute("delete from public.ai_retry_outages")
    retried = requests.post(f"{app.url}{first.headers['Location']}/retry", headers=bearer(user), timeout=30)
    assert retried.status_code == 200
    assert app.counts(user) == (1, 2, 1, 1)


@pytest.mark.parametrize(("length", "status"), [(65_536, 200), (65_537, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_longest_body(app: App, length: int, status: int, *, chunked: bool) -> None:
    """64 KiB, and not a byte more, with and without a Content-Length."""
    user = app.sign_up()
    head, tail = b'{"wish": "run", "minutes": 20', b"}"
    data = head + b" " * (length - len(head) - len(tail)) + tail
    sent = iter([data[:40_000], data[40_000:]]) if chunked else data

    response = requests.post(
        f"{app.url}/sessions/ai",
        data=sent,
        headers=bearer(user) | {"Content-Type": "application/json"},
        timeout=60,
    )

    assert response.status_code == status
    assert app.counts(user)[0] == (1 if status == 200 else 0)
