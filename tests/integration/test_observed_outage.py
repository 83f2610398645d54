"""One outage on the real stack, as whoever is on call sees it: metrics, alerts, health, log, traces, webhook."""

import json
import logging
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from psycopg.types.json import Jsonb

from ai_retry import hooks
from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.domain.model import Answer, Context
from ai_retry.domain.policy import RetryPolicy
from ai_retry.providers.http import HttpAiProvider
from ai_retry.telemetry import OpenTelemetryEvents
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, reply
from tests.helpers.webhook import Inbox, settings_of
from tests.helpers.world import SqlWorld
from tests.integration.test_worker import AI_KEY, SECRET_ANSWER, SECRET_PROMPT, Site, site_of
from tools.alerts import Scrape, evaluated, played
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

    def metrics(self) -> Sequence[Sample]:
        """Scrape."""
        with urlopen(f"{self._base}/metrics", timeout=10) as response:
            text = response.read().decode()
        SCAN.read_sink("metrics of a worker", text)
        return [each for family in text_string_to_metric_families(text) for each in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Add up the series that have these labels."""
        wanted = labels.items()
        return sum(each.value for each in self.metrics() if each.name == name and each.labels.items() >= wanted)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Ask whether it is well."""
        try:
            with urlopen(f"{self._base}/healthz", timeout=10) as response:
                return response.status, json.loads(response.read())
        except HTTPError as error:
            return error.code, json.loads(error.read())


class Recorder:
    """Scrapes twice a second until its block ends.

    Attributes:
        recorded: what was scraped.
    """

    def __init__(self, seen: Watched) -> None:
        self.recorded: list[Scrape] = []
        self._seen, self._ended = seen, Event()
        self._thread = Thread(target=self._record)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _record(self) -> None:
        while not self._ended.wait(0.5):
            try:
                at, samples = time.time(), self._seen.metrics()
            except OSError:
                return  # the worker has stopped
            values = {_series(each): each.value for each in samples if not each.name.endswith(("_bucket", "_created"))}
            self.recorded.append(Scrape(at, values))

    def last(self, name: str, count: int) -> list[float | None]:
        """Give the newest values of a series without labels."""
        return [each.values.get(name) for each in self.recorded[-count:]]


def _series(sample: Sample) -> str:
    labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def lines_of(log: Path) -> list[dict[str, str]]:
    """Parse logfmt as any reader of it does."""
    found = re.findall(r"^(\S+ \S+) \w+ (event=.*)", log.read_text(), re.MULTILINE)
    return [{"at": at, **dict(word.partition("=")[::2] for word in shlex.split(line))} for at, line in found]


class Asked:
    """What is asked at night, of the log alone: see "Questions that the log answers" in the how-to."""

    def __init__(self, log: Path) -> None:
        self._lines = lines_of(log)

    def what_happened_to(self, request_id: str) -> list[str]:
        """What happened to this request?"""
        return [each["event"] for each in self._lines if each.get("request_id") == request_id]

    def failures_by_code(self) -> Counter[str]:
        """How many attempts failed, by code?"""
        return Counter(each["code"] for each in self._lines if each["event"] == "attempt_failed")

    def is_unavailable(self, route: str) -> bool:
        """Is the provider unavailable?"""
        about = [each["event"] for each in self._lines if each.get("route") == route]
        return [each for each in about if each in ("route_closed", "route_opened")][-1] == "route_closed"

    def oldest_accepted(self) -> tuple[str, datetime] | None:
        """Which accepted retry is the oldest, and since when?"""
        ended = {each["generation_id"] for each in self._lines if self._ends(each)}
        accepted = [each for each in self._lines if each["event"] == "generation_accepted"]
        left = [each for each in accepted if each["generation_id"] not in ended]
        return (left[0]["generation_id"], datetime.fromisoformat(left[0]["at"])) if left else None

    @staticmethod
    def _ends(line: dict[str, str]) -> bool:
        is_over = line["event"] == "attempt_failed" and line["goes_on"] == "false"
        return line["event"] in ("attempt_succeeded", "attempt_cancelled") or is_over


@contextmanager
def app_logs_to(path: Path) -> Iterator[None]:
    """Let the app in this process log to the file in which the worker logs, as the page has it."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("ai_retry")
    before = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)
        handler.close()


def accepted(site: Site, count: int) -> list[UUID]:
    """Let the app accept retries in requests whose ids are req-0, req-1 and so on."""
    client = Client(storage=site.world.storage, queue_storage=site.world.storage, ai=NoProvider())
    ids = []
    for number in range(count):
        user_id = site.world.new_user()
        ids.append(site.world.new_generation(user_id))
        prompt_data = {"messages": [{"role": "user", "content": SECRET_PROMPT}]}
        site.world.set_generation(ids[-1], prompt_data=Jsonb(prompt_data))
        with hooks.request(request_id=f"req-{number}"):
            client.enqueue(user_id, ids[-1])
    return ids


class NoProvider:
    """The app calls nothing."""

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Be asked by nothing."""
        raise AssertionError


class Doubting(Inbox):
    """A receiver that takes each message, and answers the first delivery of it as if it had not."""

    def __call__(self, request: Request) -> Script:
        """Take it."""
        script = super().__call__(request)
        return script if self.deliveries.count(request.headers["webhook-id"]) > 1 else reply(503)


def test_outage_is_seen_and_its_end_too(site: Site, tmp_path: Path) -> None:
    """Gauges rise and fall with it, the alert fires and clears, counters equal the books, the log answers questions.

    The webhook's receiver gets each end once, after duplicates are dropped.
    """
    provider, port, inbox = Provider(), free_port(), Doubting()
    with app_logs_to(site.log):
        ids = accepted(site, 4)

    with (
        ScriptedServer(default=provider) as server,
        ScriptedServer(default=inbox) as receiver,
        running_worker(
            {**site.ask(server), **settings_of(receiver)},
            site.log,
            options=["--metrics-port", str(port), "--health-port", str(port)],
        ) as worker,
        Recorder(seen := Watched(port)) as recorder,
    ):
        eventually(lambda: seen.total("ai_retry_attempts_total", outcome="put_back") >= 1)
        eventually(lambda: seen.total("ai_retry_parked") >= 1, within=60.0)
        eventually(lambda: recorder.last("ai_retry_closed_routes", 8) == [1.0] * 8, within=60.0)
        status, health = seen.health()
        assert (status, health["status"]) == (200, "ok")
        route = next(each["route"] for each in lines_of(site.log) if each["event"] == "route_closed")
        asked, during = Asked(site.log), len(recorder.recorded) - 1
        assert asked.is_unavailable(route)
        assert (oldest := asked.oldest_accepted()) is not None
        assert oldest[0] == str(ids[0])

        provider.is_back.set()
        eventually(lambda: site.statuses(*ids) == {"success"}, within=60.0)
        eventually(lambda: seen.total("ai_retry_queued") == seen.total("ai_retry_closed_routes") == 0, within=60.0)
        eventually(lambda: recorder.last("ai_retry_closed_routes", 2) == [0.0] * 2)
        eventually(lambda: inbox.types()["generation.succeeded"] == 4, within=60.0)
        eventually(lambda: inbox.types()["route.opened"] == inbox.types()["route.closed"] >= 1, within=60.0)
        eventually(lambda: seen.total("ai_retry_webhooks_total", end="delivered") == len(inbox.messages), within=60.0)

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

    _judge_log(site, ids, books)
    assert sorted(inbox.ends()) == sorted((each, "succeeded") for each in ids)
    assert len(inbox.deliveries) > len(inbox.messages)
    _judge_alerts(recorder.recorded, during, tmp_path)


def _judge_log(site: Site, ids: Sequence[UUID], books: Counter[str | None]) -> None:
    asked, lines = Asked(site.log), lines_of(site.log)
    story = asked.what_happened_to("req-0")
    attempts = [each for each in story if not each.startswith("webhook_")]
    assert (attempts[0], attempts[-1], story[-1]) == ("generation_accepted", "attempt_succeeded", "webhook_delivered")
    assert "provider_called" in story
    assert {"attempt_failed", "attempt_put_back", "retry_postponed"} & {*story}
    assert sum(asked.failures_by_code().values()) == books["failed"]
    assert asked.failures_by_code().keys() <= {"AI_UNAVAILABLE"}
    routes = [each for each in lines if each["event"] in ("route_closed", "route_opened")]
    assert (routes[0]["event"], routes[-1]["event"]) == ("route_closed", "route_opened")
    (route,) = {each["route"] for each in routes}
    assert not asked.is_unavailable(route)
    assert asked.oldest_accepted() is None
    waits = [each for each in lines if each["event"] in ("attempt_put_back", "retry_postponed")]
    assert all(each["code"] and each["route"] and each["until"] for each in waits)
    assert {each["generation_id"] for each in lines if "generation_id" in each} == set(map(str, ids))
    assert SECRET_PROMPT not in site.log.read_text()
    assert SECRET_ANSWER not in site.log.read_text()


def _judge_alerts(recorded: Sequence[Scrape], during: int, folder: Path) -> None:
    """Let promtool evaluate the example's rules over what was scraped; the run's summary says where it can't."""
    firing = {during: ["AiRetryProviderUnavailable"], len(recorded) - 1: []}
    # How many of the first failures a scrape sees as an increase, is chance.
    test = played(recorded, firing, unasked=["AiRetryAttemptsFail"])
    assert any(each["series"] == "ai_retry_closed_routes" for each in test["tests"][0]["input_series"])
    if (done := evaluated(test, folder)) is not None:
        assert done.returncode == 0, done.stdout + done.stderr


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
