"""A host with the console in a process of its own, over a database of one's own, with an AI provider behind it."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from urllib.request import urlopen
from uuid import UUID

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, reply
from tests.console.host_app import PREFIX
from tests.helpers.world import SqlWorld, empty_queue, owner_of
from tools.app_server import running_app
from tools.log_scan import SCAN
from tools.outage import attempts

KEY = "the-key-of-a-host-in-tests"
AI_KEY = "sk-test-5b0f9e1d7c3a8642"
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "cost": 0.0003}
DOWN = reply(503, json={"error": {"message": "overloaded"}}, headers={"Retry-After": "1"})


class Provider:
    """Answers, unless it is down; may be slow until it is let go."""

    def __init__(self) -> None:
        self.is_up, self.goes = Event(), Event()
        self.is_up.set()
        self.goes.set()

    def __call__(self, _: Request) -> Script:
        """Answer one request."""
        if not self.is_up.is_set():
            return DOWN
        self.goes.wait(30)
        return chat({"title": "Sixty easy minutes"}, usage=USAGE)


@dataclass(frozen=True)
class Stage:
    """What the tests look at and reach behind."""

    app: str
    world: SqlWorld
    connection: psycopg.Connection
    provider: Provider
    server: ScriptedServer
    env: dict[str, str] = field(repr=False)

    @property
    def console(self) -> str:
        """The console's address."""
        return f"{self.app}{PREFIX}"

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask the database, as its owner."""
        return self.connection.execute(query.encode(), arguments).fetchall()

    def attempts(self) -> list[dict[str, Any]]:
        """All attempts."""
        return list(attempts(self.connection))

    def status(self, generation_id: UUID) -> str:
        """What the app's row says."""
        return str(self.world.generation(generation_id)["status"])

    def metrics(self) -> dict[tuple[str, str], float]:
        """What the host's process exposes: each series, by name and labels."""
        return metrics_at(f"{self.app}/metrics")


def metrics_at(address: str) -> dict[tuple[str, str], float]:
    """Scrape: each series with its value, by name and labels."""
    with urlopen(address, timeout=10) as response:
        text = response.read().decode()
    SCAN.read_sink("metrics", text)
    return {
        (each.name, json.dumps(each.labels, sort_keys=True)): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def total(series: dict[tuple[str, str], float], name: str, **labels: str) -> float:
    """Add up the series that have these labels."""
    return sum(
        value
        for (found, written), value in series.items()
        if found == name and json.loads(written).items() >= labels.items()
    )


@contextmanager
def stage_of(database_url: str, directory: Path) -> Iterator[Stage]:
    """Run the host, and the provider, around a database."""
    provider = Provider()
    with (
        closing(PostgresStorage(database_url, max_connections=4)) as storage,
        owner_of(database_url) as connection,
        ScriptedServer(default=provider) as server,
    ):
        empty_queue(connection)
        env = {
            "DATABASE_URL": database_url,
            "AI_BASE_URL": server.base_url,
            "AI_API_KEY": AI_KEY,
            "AI_MODEL": "small",
            "AI_RETRY_BACKOFF_BASE_SECONDS": "0.1",
        }
        own = {"CONSOLE_KEY": KEY, "CONSOLE_PLANS": str(directory / "plans")}
        app = "tests.console.host_app:create_app()"
        with running_app({**env, **own}, app=app, log=directory / "host.log") as url:
            yield Stage(url, SqlWorld(storage, connection), connection, provider, server, env)
