"""One outage on the real stack, as whoever is on call sees it: metrics, health, log and traces of a real worker."""

import json
import re
import shlex
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from ai_retry import hooks
from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.domain.policy import RetryPolicy
from ai_retry.providers.http import HttpAiProvider
from ai_retry.telemetry import OpenTelemetryEvents
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, reply
from tests.helpers.world import SqlWorld
from tests.integration.test_worker import AI_KEY, SECRET_ANSWER, SECRET_PROMPT, Site, site_of
from tools.log_scan import SCAN
from tools.processes import free_port
from tools.stack import Stack
from tools.waiting import eventually
from tools.worker_process import running_worker

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def site(stack: Stack, migrated_database: str, tmp_path: Path) -> Iterator[Site]:
    """A database of one's own, to which the worker goes straight."""
    with site_of(stack, migrated_database, tmp_path / "worker.log", direct=True) as site:
        yield site


class Provider:
    """Takes no request until it is back."""

    def __init__(self) -> None:
        self.is_back = Event()

    def __call__(self, _: Request) -> Script:
        """Answer, or ask to come back."""
        if self.is_back.is_set():
            return chat({"title": SECRET_ANSWER})
        return reply(503, json={"error": {"message": SECRET_PROMPT}}, headers={"Retry-After": "1"})


class Watched:
    """What a worker's port answers."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def metrics(self) -> dict[str, float]:
        """Scrape: each series with its value."""
        with urlopen(f"{self._base}/metrics", timeout=10) as response:
            text = response.read().decode()
        SCAN.read_sink("metrics of a worker", text)
        return {
            f"{each.name}{json.dumps(each.labels, sort_keys=True)}": each.value
            for family in text_string_to_metric_families(text)
            for each in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Add up the series that have these labels."""
        wanted = labels.items()
        split = ((each.partition("{"), value) for each, value in self.metrics().items())
        return sum(
            value for (found, _, rest), value in split if found == name and json.loads("{" + rest).items() >= wanted
        )

    def health(self) -> tuple[int, dict[str, Any]]:
        """Ask whether it is well."""
        try:
            with urlopen(f"{self._base}/healthz", timeout=10) as response:
                return response.status, json.loads(response.read())
        except HTTPError as error:
            return error.code, json.loads(error.read())


def lines_of(log: Path) -> list[dict[str, str]]:
    """Parse logfmt as any reader of it does."""
    found = re.findall(r"event=.*", log.read_text())
    return [dict(word.partition("=")[::2] for word in shlex.split(line)) for line in found]


def test_outage_is_seen_and_its_end_too(site: Site) -> None:
    """Gauges rise and fall with it, counters equal the books, and the log alone answers what is asked at night."""
    provider, port = Provider(), free_port()
    ids = [site.queued()[1] for _ in range(4)]

    with (
        ScriptedServer(default=provider) as server,
        running_worker(
            site.ask(server),
            site.log,
            options=["--metrics-port", str(port), "--health-port", str(port)],
        ) as worker,
    ):
        seen = Watched(port)
        eventually(lambda: seen.total("ai_retry_attempts_total", outcome="put_back") >= 1)
        eventually(lambda: seen.total("ai_retry_parked") >= 1, within=60.0)
        status, health = seen.health()
        assert (status, health["status"]) == (200, "ok")

        provider.is_back.set()
        eventually(lambda: site.statuses(*ids) == {"success"}, within=60.0)
        eventually(lambda: seen.total("ai_retry_queued") == seen.total("ai_retry_closed_routes") == 0, within=60.0)

        books = Counter(outcome for each in ids for outcome in site.outcomes(each))
        assert seen.total("ai_retry_attempts_total", outcome="succeeded") == books["succeeded"] == 4
        assert seen.total("ai_retry_attempts_total", outcome="failed") == books["failed"]
        assert seen.total("ai_retry_provider_calls_total", code="none") == 4
        assert seen.total("ai_retry_provider_calls_total") == len(server.requests)
        assert seen.total("ai_retry_provider_call_duration_seconds_count", model="small") == len(server.requests)
        assert seen.total("ai_retry_held_units") == 0
        assert seen.total("ai_retry_database_up") == 1
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0

    lines = lines_of(site.log)
    of_one = [each["event"] for each in lines if each.get("generation_id") == str(ids[0])]
    assert of_one[-1] == "attempt_succeeded"
    assert Counter(each["code"] for each in lines if each["event"] == "attempt_failed") == {
        code: count for code, count in Counter({"AI_UNAVAILABLE": books["failed"]}).items() if count
    }
    routes = [each for each in lines if each["event"] in ("route_closed", "route_opened")]
    assert (routes[0]["event"], routes[-1]["event"]) == ("route_closed", "route_opened")
    assert len({each["route"] for each in routes}) == 1
    waits = [each for each in lines if each["event"] in ("attempt_put_back", "retry_postponed")]
    assert all(each["code"] and each["route"] and each["until"] for each in waits)
    assert SECRET_PROMPT not in site.log.read_text()
    assert SECRET_ANSWER not in site.log.read_text()


def test_trace_spans_app_and_worker(site: Site) -> None:
    """The app's acceptance and the worker's attempt are tied by a link, through the database."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    world: SqlWorld = site.world
    with ScriptedServer(chat({"title": SECRET_ANSWER})) as server:
        provider = HttpAiProvider(base_url=server.base_url, api_key=AI_KEY, model="small", clock=SystemClock())
        parts: dict[str, Any] = {"storage": world.storage, "queue_storage": world.storage, "ai": provider}
        app, worker = (Client(**parts, policy=RetryPolicy(), on_event=OpenTelemetryEvents(tracers)) for _ in range(2))
        user_id = world.new_user()
        generation_id = world.new_generation(user_id)
        with hooks.request(request_id="req-7", traceparent=TRACE):
            app.enqueue(user_id, generation_id)

        stop = Event()
        thread = Thread(target=worker.worker(concurrency=1).run, args=[stop])
        thread.start()
        eventually(lambda: site.statuses(generation_id) == {"success"})
        stop.set()
        thread.join()
        provider.close()

    spans = {each.name: each for each in exporter.get_finished_spans()}
    accepted, attempt = spans["ai_retry.accept"], spans["ai_retry.attempt"]
    assert accepted.parent is not None
    assert f"{accepted.parent.trace_id:032x}" == TRACE.split("-")[1]
    (link,) = attempt.links
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == "-".join(TRACE.split("-")[1:3])
    assert {"ai_retry.claim", "ai_retry.settle"} <= spans.keys()
    assert [name for name in spans if name.startswith("chat ")] == [f"chat {world.generation(generation_id)['model']}"]
    query = "select request_id, traceparent from public.ai_retry_attempts where generation_id = %s"
    assert site.connection.execute(query, [generation_id]).fetchall() == [("req-7", TRACE)]
    tracers.shutdown()
