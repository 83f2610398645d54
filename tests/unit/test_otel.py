"""Traces and metrics for OpenTelemetry, as the SDK's in-memory exporters have them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import SpanKind, StatusCode

from ai_retry.domain.errors import StorageUnavailable
from ai_retry.domain.model import FailureCode, ProviderCall, Usage
from ai_retry.events import AttemptBegan, AttemptSucceeded, ProviderCalled, RequestFailed
from ai_retry.telemetry import OpenTelemetryEvents
from ai_retry.testing.ai import AiStep
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.scene import raising
from tests.unit.test_events import TRACE, Case

NOW = 1_800_000_000_000_000_000  # nanoseconds
TRACE_ID = int(TRACE.split("-")[1], 16)
SPAN_ID = int(TRACE.split("-")[2], 16)
CALLS = (
    ProviderCall(
        provider="first.example",
        model="a",
        code=FailureCode.RATE_LIMITED,
        http_status=429,
        duration=timedelta(seconds=1),
        route="first.example/a",
    ),
    ProviderCall(
        provider="second.example",
        model="b-2026-01-01",
        route="second.example/b",
        http_status=200,
        duration=timedelta(seconds=2),
        usage=Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10),
    ),
)

# Of 1.37; the oldest package that is supported has an older version.
PROVIDER_NAME = getattr(gen_ai_attributes, "GEN_AI_PROVIDER_NAME", "gen_ai.provider.name")


class Traced:
    """A case whose spans and metrics stay in memory."""

    def __init__(self, *script: AiStep, default: AiStep | None = None, **clock: Any) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = (
            TracerProvider(shutdown_on_exit=False),
            MeterProvider([self._reader], shutdown_on_exit=False),
        )
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.hook = OpenTelemetryEvents(self.tracers, self.meters, **clock)
        self.case = Case(*script, default=default, on_event=self.hook)

    @property
    def spans(self) -> list[ReadableSpan]:
        """What has ended, in its order."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        (found,) = [each for each in self.spans if each.name == name]
        return found

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data: Any = self._reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def close(self) -> None:
        """End what the SDK runs."""
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def answered() -> Iterator[Traced]:
    """An attempt that took two requests, in a request with a trace."""
    traced = Traced(replace(an_answer(), calls=CALLS, wire_requests=2))
    traced.case.click()
    yield traced
    traced.close()


def test_attempt_belongs_to_the_trace_of_its_request(answered: Traced) -> None:
    """Its span is a child of the request's, and holds the claim, each call and the settle."""
    attempt = answered.named("ai_retry.attempt")

    assert attempt.context is not None
    assert attempt.parent is not None
    assert (attempt.parent.trace_id, attempt.parent.span_id) == (TRACE_ID, SPAN_ID)
    inner = [each for each in answered.spans if each is not attempt]
    assert [each.name for each in inner] == ["ai_retry.claim", "chat a", "chat b", "ai_retry.settle"]
    assert {each.parent.span_id for each in inner if each.parent is not None} == {attempt.context.span_id}
    assert attempt.attributes is not None
    assert attempt.attributes["ai_retry.request_id"] == "req-1"
    assert attempt.attributes["ai_retry.end"] == "attempt_succeeded"
    assert attempt.status.status_code is StatusCode.UNSET


def test_calls_follow_the_conventions(answered: Traced) -> None:
    """Names are those of the conventions for generative AI; durations and codes are those of each request."""
    first, second = answered.named("chat a"), answered.named("chat b")

    assert (first.kind, second.kind) == (SpanKind.CLIENT, SpanKind.CLIENT)
    assert first.attributes == {
        gen_ai_attributes.GEN_AI_OPERATION_NAME: "chat",
        PROVIDER_NAME: "first.example",
        gen_ai_attributes.GEN_AI_REQUEST_MODEL: "a",
        gen_ai_attributes.GEN_AI_RESPONSE_MODEL: "a",
        "server.address": "first.example",
        "http.response.status_code": 429,
        "error.type": "AI_RATE_LIMITED",
    }
    assert first.status.status_code is StatusCode.ERROR
    assert second.attributes is not None
    assert second.attributes[gen_ai_attributes.GEN_AI_REQUEST_MODEL] == "b"
    assert second.attributes[gen_ai_attributes.GEN_AI_RESPONSE_MODEL] == "b-2026-01-01"
    assert second.attributes[gen_ai_attributes.GEN_AI_USAGE_INPUT_TOKENS] == 7
    assert second.attributes[gen_ai_attributes.GEN_AI_USAGE_OUTPUT_TOKENS] == 3
    took = [(each.end_time or 0) - (each.start_time or 0) for each in (first, second)]
    assert took == [1_000_000_000, 2_000_000_000]
    scope: Any = first.instrumentation_scope
    assert scope.schema_url == "https://opentelemetry.io/schemas/1.37.0"


def test_call_s_span_lasts_as_long_as_its_request() -> None:
    """Each of several requests has its own begin and end, though their events come together, after the last one."""
    calls: list[ProviderCall] = []
    traced = Traced(lambda _: replace(an_answer(), calls=tuple(calls), wire_requests=2), now=lambda: NOW)
    now = traced.case.world.clock.monotonic()
    calls += [replace(CALLS[0], ended=now - 7.0), replace(CALLS[1], ended=now - 0.5)]
    traced.case.click()

    spans = [traced.named("chat a"), traced.named("chat b")]
    assert [(NOW - (each.start_time or 0), NOW - (each.end_time or 0)) for each in spans] == [
        (8_000_000_000, 7_000_000_000),
        (2_500_000_000, 500_000_000),
    ]
    traced.close()


def test_request_whose_end_is_unknown_ends_when_the_next_one_begins() -> None:
    """A provider that only says how long its requests took has made them one after the other."""
    traced = Traced(replace(an_answer(), calls=CALLS, wire_requests=2), now=lambda: NOW)
    traced.case.click()

    first, second = traced.named("chat a"), traced.named("chat b")
    assert first.end_time == second.start_time == NOW - 2_000_000_000
    traced.close()


def test_metrics_follow_the_conventions(answered: Traced) -> None:
    """Two durations, and the tokens of one call by their type."""
    durations = answered.points(gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION)
    tokens = answered.points(gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE)

    assert sorted(each.sum for each in durations) == [1, 2]
    assert {each.attributes["gen_ai.token.type"]: each.sum for each in tokens} == {"input": 7, "output": 3}


def test_worker_s_attempt_is_linked_to_the_request() -> None:
    """It is a trace of its own; the acceptance is a span of the request's."""
    traced = Traced(an_answer())
    traced.case.click("enqueue")
    traced.case.work()

    accepted, attempt = traced.named("ai_retry.accept"), traced.named("ai_retry.attempt")
    assert accepted.parent is not None
    assert accepted.parent.trace_id == TRACE_ID
    assert attempt.parent is None
    (link,) = attempt.links
    assert (link.context.trace_id, link.context.span_id) == (TRACE_ID, SPAN_ID)
    traced.close()


def test_active_span_goes_before_the_header() -> None:
    """Where the host traces its requests, the attempt is a child of the host's span."""
    traced = Traced(an_answer())
    with traced.tracers.get_tracer("host").start_as_current_span("request") as host:
        traced.case.click()

    parent = traced.named("ai_retry.attempt").parent
    assert parent is not None
    assert parent.span_id == host.get_span_context().span_id
    traced.close()


def test_failure_is_an_error_with_its_code() -> None:
    """On the attempt and on its call."""
    traced = Traced(a_failure(code=FailureCode.TIMEOUT))
    traced.case.click()

    attempt = traced.named("ai_retry.attempt")
    assert attempt.attributes is not None
    assert (attempt.status.status_code, attempt.attributes["error.type"]) == (StatusCode.ERROR, "AI_TIMEOUT")
    traced.close()


def test_attempt_whose_end_is_unknown_is_ended() -> None:
    """No span stays open for a storage that is gone."""
    traced = Traced(a_failure())
    traced.case.storage.hooks = {"settle": raising(StorageUnavailable("57P01"))}
    traced.case.click()

    attempt = traced.named("ai_retry.attempt")
    assert attempt.attributes is not None
    assert (attempt.attributes["ai_retry.end"], attempt.attributes["error.type"]) == (
        "request_failed",
        "STORAGE_UNAVAILABLE",
    )
    traced.close()


def test_spans_hold_no_content() -> None:
    """Neither prompt nor answer is in any span; the scan of the test run reads them, too."""
    traced = Traced(an_answer())
    traced.case.click()

    text = "".join(each.to_json() for each in traced.spans)
    assert "Plan an easy run" not in text
    assert "Easy run" not in text
    traced.close()


def test_models_that_users_invent_make_no_series_without_end() -> None:
    """Metrics have a bounded number of series, whatever models are asked for; each span names its own."""
    traced = Traced()
    for number in range(500):
        traced.hook(ProviderCalled(attempt=1, asked_model=f"invented-{number}", code=f"C{number}", call_seconds=1.0))

    points = traced.points("gen_ai.client.operation.duration")
    assert len(points) <= 65
    assert sum(point.count for point in points) == 500
    assert {each.name for each in traced.spans} == {f"chat invented-{number}" for number in range(500)}
    traced.close()


def test_look_that_fails_meanwhile_ends_no_span() -> None:
    """A status that can't be read says nothing of the attempt that runs in another thread: its span has its own end."""
    traced, generation_id = Traced(), uuid4()
    begun = Thread(target=traced.hook, args=[AttemptBegan(attempt=2, generation_id=generation_id)])
    begun.start()
    begun.join()

    traced.hook(RequestFailed(action="status", code="STORAGE_UNAVAILABLE", generation_id=generation_id))
    traced.hook(AttemptSucceeded(attempt=2, generation_id=generation_id))

    assert (traced.named("ai_retry.attempt").attributes or {})["ai_retry.end"] == "attempt_succeeded"
    traced.close()
