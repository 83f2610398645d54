"""Each example for a framework runs as it is on the page: a failure, a refusal, a session."""

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ai_retry.testing.provider import ScriptedServer, chat, reply
from tools.examples import example, execute
from tools.npm import REPOSITORY
from tools.stack import SignedInUser, Stack

PAGE = REPOSITORY / "docs" / "how-to" / "frameworks.md"
BROKEN = reply(500, json={"error": {"message": "broken"}})

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are theirs


@pytest.fixture
def user(stack: Stack) -> SignedInUser:
    """A new user."""
    return stack.sign_up(f"{uuid4()}@example.com", "correct horse battery staple")


@pytest.fixture
def generation_id(stack: Stack, user: SignedInUser) -> UUID:
    """A generation of theirs that failed."""
    with psycopg.connect(stack.database_url) as connection:
        query = "insert into public.generations (user_id, status, prompt_data) values (%s, 'error', %s) returning id"
        row = connection.execute(
            query, [user.id, Jsonb({"messages": [{"role": "user", "content": "plan"}]})]
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


@pytest.fixture
def provider(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A provider that fails once, and answers then; the environment names it."""
    for name, value in stack.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AI_MODEL", "scripted")
    monkeypatch.setenv("AI_RETRY_BACKOFF_BASE_SECONDS", "0.5")
    with ScriptedServer(BROKEN, chat("Easy run")) as provider:
        monkeypatch.setenv("AI_BASE_URL", provider.base_url)
        yield provider


def test_fastapi_example_answers(provider: ScriptedServer, user: SignedInUser, generation_id: UUID) -> None:
    """The app answers a failure, a refusal and an unknown caller as the blueprint does, and then the session."""
    names: dict[str, Any] = execute(example(PAGE, "python", "FastAPI("))
    app, path = import_module("fastapi.testclient").TestClient(names["app"]), f"/sessions/ai/{generation_id}/retry"
    token = {"Authorization": f"Bearer {user.access_token}"}

    failed, early, unknown = app.post(path, headers=token), app.post(path, headers=token), app.post(path)

    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "AI_UNAVAILABLE")
    assert (early.status_code, early.json()["error"]["code"]) == (429, "RETRY_TOO_SOON")
    assert early.headers["Retry-After"] == str(early.json()["error"]["details"]["retryAfterSeconds"])
    assert (unknown.status_code, unknown.headers["WWW-Authenticate"]) == (401, "Bearer")
    names["client"].retry_generation(user.id, generation_id, waive={"backoff"}, operator="ada")
    assert app.post(path, headers=token).status_code == 409
    names["client"].close()
    assert len(provider.requests) == 2


def test_celery_example_comes_back(
    provider: ScriptedServer, user: SignedInUser, generation_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task comes back after the wait that the failure names, and returns the session's id."""
    names: dict[str, Any] = execute(example(PAGE, "python", "from celery import"))
    app = names["app"]
    app.conf.update(broker_url="memory://", result_backend="cache+memory://")

    # It logs its broker's address, password masked.
    monkeypatch.setattr(logging.getLogger("celery.worker.consumer.connection"), "disabled", True)
    with import_module("celery.contrib.testing.worker").start_worker(app, perform_ping_check=False):
        session_id = names["retry"].delay(str(user.id), str(generation_id)).get(timeout=60)

    assert UUID(session_id)
    assert len(provider.requests) == 2
