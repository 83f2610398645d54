"""What only a call needs is imported by the first call, or by ``prepare``, and not by ``connect``."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask

from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import Answer, Context
from ai_retry.flask import create_blueprint
from ai_retry.providers import wire
from ai_retry.providers.fallback import FallbackProvider
from ai_retry.providers.http import HttpAiProvider
from ai_retry.providers.reask import ReaskProvider
from ai_retry.storage import data_api
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.ai import ScriptedAiProvider
from ai_retry.testing.memory import MemoryApp, MemoryStorage
from ai_retry.testing.provider import ScriptedServer, chat
from ai_retry.watching import reports

ENVIRONMENT: Mapping[str, str] = {
    "AI_API_KEY": "key",
    "AI_MODEL": "small",
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_SECRET_KEY": f"sb_secret_{'k' * 22}",
}
DIRECT = {"DATABASE_URL": "postgresql://user:password@127.0.0.1:1/postgres"}
CONTEXT = Context(messages=[{"role": "user", "content": "Hello"}], model="small")

_PROGRAM = """
import json, sys
import ai_retry
known = {"cryptography", "httpx", "jsonschema", "jwt", "postgrest", "pydantic", "requests", "storage3", "supabase_auth"}
ours = {"ai_retry.domain.operation", "ai_retry.events", "ai_retry.watching.loop_events"}
client = ai_retry.connect()
before = sorted((known | ours) & set(sys.modules))
client.prepare()
print(json.dumps([before, sorted((known | ours) & set(sys.modules))]))
client.close()
"""


@dataclass
class Preparing:
    """A provider, or a storage, that notes that it was prepared."""

    prepared: int = 0

    def prepare(self) -> None:
        """Count."""
        self.prepared += 1

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Answer."""
        return Answer(output=f"{context.model} {timeout} {idempotency_key}")


def client_of(ai: Any) -> Client:
    """Make a client of a provider."""
    storage = MemoryStorage(SystemClock(), MemoryApp())
    return Client(storage=storage, queue_storage=storage, ai=ai)


PROVIDER = ["ai_retry.events", "ai_retry.watching.loop_events", "jsonschema", "requests"]
DATA_API = ["httpx", "postgrest", "pydantic"]


@pytest.mark.parametrize(
    ("database", "prepared"), [({}, [*PROVIDER, *DATA_API]), (DIRECT, PROVIDER)], ids=["Data API", "direct"]
)
def test_connect_imports_nothing_that_only_a_call_needs(database: Mapping[str, str], prepared: list[str]) -> None:
    """A program that calls nothing waits for no HTTP client; ``prepare`` imports both, and no more of supabase-py."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("AI_", "SUPABASE_", "DATABASE_"))
    }

    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**clean, **ENVIRONMENT, **database},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout) == [[], sorted(prepared)]


def test_wrapped_providers_are_prepared() -> None:
    """Whoever falls back or asks again passes it on, once to each; one that can't be prepared is left alone."""
    first, second = Preparing(), Preparing()

    FallbackProvider([ReaskProvider(first), second, ScriptedAiProvider()]).prepare()

    assert (first.prepared, second.prepared) == (1, 1)


def test_servers_and_workers_prepare_as_they_start() -> None:
    """A blueprint and a worker let the provider import what it needs before a user waits for it."""
    ai = Preparing()

    Flask("host").register_blueprint(create_blueprint(client_of(ai), lambda _: uuid4()))
    served = ai.prepared
    client_of(ai).worker()

    assert (served, ai.prepared) == (1, 2)


def test_client_prepares_its_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the storage needs for its first call is imported with what the provider needs."""
    storage, prepare = MemoryStorage(SystemClock(), MemoryApp()), Preparing()
    monkeypatch.setattr(storage, "prepare", prepare.prepare, raising=False)

    Client(storage=storage, ai=ScriptedAiProvider()).prepare()

    assert prepare.prepared == 1


def test_first_calls_at_once_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that make the first call at the same time use the same connections afterwards."""
    at_once, made = Barrier(4, timeout=30), []

    class Slow(wire.Wire):
        def __init__(self, **arguments: Any) -> None:
            at_once.wait()
            super().__init__(**arguments)
            made.append(self)

    monkeypatch.setattr(wire, "Wire", Slow)
    with ScriptedServer(default=chat("Hello")) as server:
        provider = HttpAiProvider(clock=SystemClock(), base_url=server.base_url)

        def call(number: int) -> Answer:
            return provider.generate(CONTEXT, timeout=timedelta(seconds=10), idempotency_key=str(number))

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(call, range(4)))
        call(5)
        provider.close()

    assert [each.output for each in answers] == ["Hello"] * 4
    assert len(made) == 4
    assert next(iter(provider._wires.values())) in made
    assert len(provider._wires) == 1


def test_first_calls_at_once_share_what_they_learn_of_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that watch at the same time, before any other, report through the same memory of routes afterwards."""
    at_once = Barrier(4, timeout=30)

    class Slow(reports.Reports):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            at_once.wait()
            super().__init__(*arguments, **more)

    monkeypatch.setattr(reports, "Reports", Slow)
    client = client_of(ScriptedAiProvider())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: client._reports, range(4)))

    assert {id(each) for each in found} == {id(client._reports)}


def test_first_calls_of_the_data_api_at_once_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that call a function at the same time, before any other, use the same connections afterwards."""
    at_once, made = Barrier(4, timeout=30), []

    def connect(*arguments: Any, **more: Any) -> data_api.DataApi:
        at_once.wait()
        made.append(data_api.DataApi(*arguments, **more))
        return made[-1]

    monkeypatch.setattr(data_api, "connect", connect)
    storage = SupabaseStorage("http://127.0.0.1:9", "sb_secret_x")
    with closing(storage), ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: storage.prepare(), range(4)))
        storage.prepare()
        used = list(storage._apis.values())

    assert (len(made), len(used)) == (4, 1)
    assert used[0] in made


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "carrier-pigeon://user:canary@proxy"),
        ("HTTP_PROXY", "http://canary:port"),
        ("SSL_CERT_FILE", "/canary/absent.pem"),
    ],
)
def test_environment_that_no_client_can_use_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy or a certificate that can't be used is a configuration to correct, and its value is in no error."""
    monkeypatch.setenv(variable, value)

    with closing(SupabaseStorage("http://127.0.0.1:9", "sb_secret_x")) as storage:
        with pytest.raises(NotConfigured, match=variable) as by_preparing:
            storage.prepare()
        with pytest.raises(NotConfigured, match=variable) as by_calling:
            storage.books()

    for caught in (by_preparing, by_calling):
        assert caught.value.__context__ is None
        assert "canary" not in str(caught.value)


def test_wrong_arguments_are_refused_at_once() -> None:
    """What can never work is refused when the provider is made, and not by the first call."""
    with pytest.raises(ValueError, match="the value of the header"):
        HttpAiProvider(clock=SystemClock(), api_key="a\nb")
