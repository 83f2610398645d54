"""Metrics: what they count, what bounds their labels, what is read from the database and how often."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from ai_retry.domain.errors import NotConfigured, StorageUnavailable
from ai_retry.domain.model import FailureCode, Usage
from ai_retry.domain.queue_model import QueueState, RouteState
from ai_retry.events import (
    AttemptAbandoned,
    AttemptFailed,
    ProviderCalled,
    Refused,
    RequestFailed,
    WebhookDelivered,
    WebhookFailed,
    WebhookGivenUp,
    WorkerFailed,
    WorkerPolled,
)
from ai_retry.flask import create_blueprint
from ai_retry.telemetry import PrometheusEvents
from ai_retry.telemetry.database import CACHED_FOR, DatabaseCollector
from ai_retry.telemetry.prometheus import Exposition
from tests.helpers.builders import a_failure, an_answer
from tests.unit.test_events import Case
from tools import log_scan
from tools.npm import REPOSITORY

OBSERVE = REPOSITORY / "examples" / "observe"

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
STATE = QueueState(
    as_of=NOW,
    configured=True,
    queued=3,
    due=1,
    parked=2,
    running=4,
    oldest_accepted_at=NOW - timedelta(seconds=90),
    held=7,
    kept=5,
    poisoned=0,
    outages=(
        RouteState(route="a", not_before=NOW + timedelta(seconds=9), failures=1, slots=1),
        RouteState(route="b", not_before=NOW, failures=1, slots=2),
    ),
)


def samples(shown: Exposition) -> dict[str, float]:
    """Read what Prometheus would: each series with its value."""
    content_type, body = shown()
    assert content_type.startswith("text/plain")
    return {
        f"{each.name}{{{','.join(f'{name}={value}' for name, value in sorted(each.labels.items()))}}}": each.value
        for family in text_string_to_metric_families(body.decode())
        for each in family.samples
    }


def test_attempts_calls_tokens_and_cost_are_counted() -> None:
    """By code, model and outcome; durations are histograms in seconds."""
    metrics = PrometheusEvents(models=["small"])
    usage = Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10, cost=Decimal("0.25"))
    case = Case(a_failure(code=FailureCode.TIMEOUT), replace(an_answer(), model="small", usage=usage), on_event=metrics)

    case.click()
    case.click()
    case.world.advance(timedelta(minutes=10))
    case.click()

    found = samples(metrics.exposition())
    assert found["ai_retry_attempts_total{accepted=false,code=AI_TIMEOUT,outcome=failed,provider_outcome=unknown}"] == 1
    assert found["ai_retry_attempts_total{accepted=false,code=none,outcome=succeeded,provider_outcome=generated}"] == 1
    assert found["ai_retry_refusals_total{action=retry,code=RETRY_TOO_SOON}"] == 1
    assert found["ai_retry_tokens_total{kind=prompt,model=small}"] == 7
    assert found["ai_retry_tokens_total{kind=completion,model=small}"] == 3
    assert found["ai_retry_cost_total{model=small}"] == 0.25
    assert found["ai_retry_provider_call_duration_seconds_count{model=small,provider=none}"] >= 1
    assert found["ai_retry_settle_duration_seconds_count{}"] == 2


def test_labels_are_bounded() -> None:
    """Users may name models, and providers are many: a series is made for a model of the list, and for 64 others."""
    metrics = PrometheusEvents(models=["small"])

    for number in range(500):
        metrics(
            ProviderCalled(
                attempt=2, model=f"model-{number}", provider=f"p{number}", code=f"C{number}", cost=Decimal("NaN")
            )
        )
        metrics(AttemptFailed(attempt=2, code=f"C{number}"))
        metrics(Refused(action="retry", code=f"C{number}"))

    found = samples(metrics.exposition())
    assert sum("_calls_total" in each for each in found) <= 65 * 2
    assert {each.split("model=")[1].split(",")[0].rstrip("}") for each in found if "model=" in each} == {"other"}
    assert sum("refusals_total" in each for each in found) <= 65


def test_database_is_read_every_ten_seconds() -> None:
    """Several scrapes and processes cost it one read; each gauge is what the state says."""
    now, reads = [100.0], []

    def state() -> QueueState:
        reads.append(now[0])
        return STATE

    metrics = PrometheusEvents()
    shown = Exposition(metrics.registry, DatabaseCollector(state, lambda: 6, clock=lambda: now[0]))
    first = samples(shown)
    now[0] += CACHED_FOR - 0.1
    samples(shown)
    assert reads == [100.0]
    now[0] += 0.1
    samples(shown)

    assert len(reads) == 2
    assert {name[:-2]: value for name, value in first.items() if name.endswith("{}")}.items() >= {
        "ai_retry_database_up": 1,
        "ai_retry_oldest_accepted_age_seconds": 90,
        "ai_retry_queued": 3,
        "ai_retry_due": 1,
        "ai_retry_parked": 2,
        "ai_retry_running": 4,
        "ai_retry_held_units": 7,
        "ai_retry_kept_answers": 5,
        "ai_retry_closed_routes": 1,
        "ai_retry_spool_files": 6,
    }.items()


def test_database_that_fails_is_down() -> None:
    """The scrape succeeds, and says so; no old number is shown as a new one."""

    def state() -> QueueState:
        raise StorageUnavailable("57P01")

    found = samples(PrometheusEvents().exposition(state))

    assert found["ai_retry_database_up{}"] == 0
    assert not any("queued" in each for each in found)


def test_blueprint_answers_metrics_when_asked_to() -> None:
    """With them it answers; without, there is no such address."""
    metrics = PrometheusEvents()
    case = Case(an_answer(), on_event=metrics)
    case.click()

    def answer(**options: object) -> tuple[int, str]:
        app = Flask("host")
        app.register_blueprint(create_blueprint(case.client, lambda _: case.user_id, **options))  # type: ignore[arg-type]
        response = app.test_client().get("/metrics")
        return response.status_code, response.text

    status, text = answer(metrics=metrics.exposition(case.client.queue_state))
    assert status == 200
    assert "ai_retry_attempts_total{" in text
    assert "ai_retry_database_up 1.0" in text
    assert answer()[0] == 404


@pytest.mark.parametrize("accept", ["text/plain; version=x", "application/openmetrics-text; version==;=", "\x00;,;"])
def test_odd_accept_gets_metrics(accept: str) -> None:
    """Whoever asks, in whatever words, gets metrics, and no error."""
    content_type, body = PrometheusEvents().exposition()(accept)

    assert content_type.partition(";")[0] in ("text/plain", "application/openmetrics-text")  # by the library's version
    assert b"ai_retry_attempts_total" in body


ONE_PROCESS = """
from ai_retry.events import AttemptSucceeded, ProviderCalled, WorkerPolled
from ai_retry.telemetry import PrometheusEvents
import sys
metrics = PrometheusEvents(models=["small"])
for _ in range(int(sys.argv[1])):
    metrics(ProviderCalled(attempt=2, model="small", call_seconds=1.0, provider_outcome="generated"))
    metrics(AttemptSucceeded(attempt=2, settle_seconds=0.01))
metrics(WorkerPolled(taken=0))
sys.stdout.write(metrics.exposition()()[1].decode())
"""


def test_processes_expose_the_sum_of_all(tmp_path: Path) -> None:
    """Two workers of one server, in prometheus_client's multiprocess mode: whichever is scraped says what both did."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(times: int) -> str:
        command = [sys.executable, "-c", ONE_PROCESS, str(times)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    run(3)
    text = run(4)

    counts = [line for line in text.splitlines() if line.startswith("ai_retry_attempts_total{")]
    assert [line.rpartition(" ")[2] for line in counts if 'outcome="succeeded"' in line] == ["7.0"]
    assert 'duration_seconds_count{model="small",provider="none"} 7.0' in text
    assert text.count("\nai_retry_worker_last_poll_timestamp_seconds ") == 1


def test_tries_of_messages_are_counted() -> None:
    """By what became of them; an outbox that can't be read is no try."""
    metrics = PrometheusEvents()
    about: dict[str, Any] = {"message": "ai_retry.generation.succeeded"}

    metrics(WebhookDelivered(**about))
    for _ in range(2):
        metrics(WebhookFailed(**about, code="HTTP_500"))
    metrics(WebhookGivenUp(**about, code="HTTP_500"))
    metrics(WebhookFailed(code="STORAGE_UNAVAILABLE"))

    found = samples(metrics.exposition())
    ends = ("delivered", "failed", "given_up")
    assert [found[f"ai_retry_webhooks_total{{end={each}}}"] for each in ends] == [1, 2, 1]


def test_polls_are_an_instant() -> None:
    """So that an alert can ask how long ago it was."""
    metrics = PrometheusEvents()

    metrics(WorkerPolled(taken=0))

    assert samples(metrics.exposition())["ai_retry_worker_last_poll_timestamp_seconds{}"] > 1_700_000_000


@pytest.mark.parametrize(
    "use", ["import ai_retry.client", "import ai_retry.flask", "import ai_retry.cli.commands.worker"]
)
def test_nothing_of_it_is_imported_unused(use: str) -> None:
    """Apps without metrics and traces load none of their libraries."""
    libraries = {"prometheus_client", "opentelemetry", "ai_retry.telemetry"}
    code = f"import sys; {use}; print(*sorted({libraries!r} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


def names_exposed() -> set[str]:
    """Every name that a series can have."""
    metrics = PrometheusEvents()
    shown = metrics.exposition(lambda: STATE, spool_files=lambda: 0)
    families = text_string_to_metric_families(shown()[1].decode())
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    named = [family for family in families if not family.name.endswith("_created")]  # the library's own
    return {f"{family.name}{ending}" for family in named for ending in endings[family.type]}


def queries() -> Iterator[tuple[str, str]]:
    """Each query of the examples, and where it is."""
    for group in yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    for panel in json.loads((OBSERVE / "dashboard.json").read_text())["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])


@pytest.mark.parametrize(("place", "query"), list(queries()))
def test_examples_ask_for_metrics_that_exist(place: str, query: str) -> None:
    """No alert and no panel is empty for ever."""
    asked = set(re.findall(r"ai_retry_\w+", query))

    assert asked
    assert asked <= names_exposed()


def test_every_metric_is_on_the_dashboard_or_in_the_page() -> None:
    """What is exposed is documented."""
    page = (REPOSITORY / "docs" / "how-to" / "observe.md").read_text()
    documented = set(re.findall(r"ai_retry_\w+", page))

    assert {re.sub("_(bucket|sum|count)$", "", name) for name in names_exposed()} <= documented


def test_there_are_ten_alerts_and_each_is_tested() -> None:
    """Each has a test that it fires, and what to do."""
    (group,) = yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"]
    tests = yaml.safe_load((OBSERVE / "alerts_test.yml").read_text())["tests"]
    cases = [case for each in tests for case in each["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    rests = {case["alertname"] for case in cases if not case.get("exp_alerts")}

    names = {rule["alert"] for rule in group["rules"]}
    assert len(names) == len(group["rules"]) == 10
    assert fires == rests == names
    assert all(rule["annotations"].keys() == {"summary", "action"} for rule in group["rules"])


def test_first_failure_is_seen_as_an_increase() -> None:
    """What an alert counts is exposed as 0 before it happens."""
    metrics = PrometheusEvents()
    before = samples(metrics.exposition())

    metrics(RequestFailed(action="retry", code=NotConfigured.code))
    metrics(WorkerFailed(code="INTERNAL"))
    metrics(AttemptAbandoned(attempt=2))
    metrics(AttemptFailed(attempt=2, code="SESSION_REJECTED", provider_outcome="generated"))

    after = samples(metrics.exposition())
    risen = {name for name, value in after.items() if value > before.get(name, -1) and not name.startswith("python")}
    assert {name for name in risen if "_created" not in name} <= before.keys()
    assert sum(name.split("{")[0].endswith("_total") for name in risen) == 4


def test_exposition_is_read_by_the_scan() -> None:
    """What is scraped in the test run is searched for secrets, like the log; so is what hooks are given."""
    metrics = PrometheusEvents(models=["small"])
    case = Case(an_answer(), a_failure(), on_event=metrics)
    before = log_scan.SCAN.records

    case.click(idempotency_key="a-private-key")
    metrics.exposition(case.client.queue_state)()

    assert log_scan.SCAN.records >= before + 4  # three events, and what was exposed
