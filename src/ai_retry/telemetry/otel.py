"""Spans and metrics for OpenTelemetry, of events: a span for each attempt, and in it its claim, its calls, its settle.

Calls follow the semantic conventions for generative AI (``gen_ai.*``), as they are in version 1.37.0; content is never
recorded. Spans are made when their end is known, with the instants at which they began. A request's span is the parent
of its attempt; a worker's attempt is a trace of its own, with a link to the request that was accepted.
"""

import time
from collections.abc import Callable, Mapping
from threading import Lock, get_ident
from typing import Any, Final
from uuid import UUID

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ai_retry.events import (
    AnswerKept,
    AttemptBegan,
    AttemptEvent,
    AttemptFailed,
    AttemptPutBack,
    AttemptSucceeded,
    Event,
    GenerationAccepted,
    ProviderCalled,
    RequestFailed,
    WorkerFailed,
)
from ai_retry.telemetry.bounded import Bounded

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
_NAME: Final = "ai_retry"
_OTHER: Final = "_OTHER"  # as the conventions have it
_UNBOUNDED: Final = ("gen_ai.provider.name", "gen_ai.request.model", "server.address", "error.type")
_SECOND: Final = 1_000_000_000  # nanoseconds
_MOST_OPEN: Final = 10_000  # attempts whose end is waited for: more are forgotten, the oldest first
_DURATION_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKEN_BUCKETS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class OpenTelemetryEvents:
    """A hook that makes spans and metrics: ``connect(on_event=OpenTelemetryEvents())``. Safe to share between threads.

    Args:
        tracer_provider: the global one when None.
        meter_provider: the global one when None.
        now: nanoseconds since 1970.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider, schema_url=SCHEMA_URL)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider, schema_url=SCHEMA_URL)
        self._durations = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKEN_BUCKETS,
        )
        self._bounds = {name: Bounded(_OTHER) for name in _UNBOUNDED}
        self._now = now
        self._open: dict[tuple[UUID | None, int], tuple[Span, int]] = {}  # and the thread that it began in
        self._lock = Lock()

    def __call__(self, event: Event) -> None:
        """Make its spans."""
        match event:
            case GenerationAccepted():
                self._leaf("ai_retry.accept", _parent(event), 0.0, _named(event))
            case AttemptBegan():
                self._begin(event)
            case ProviderCalled():
                self._call(event)
            case AttemptSucceeded() | AttemptFailed() | AttemptPutBack() | AnswerKept():
                self._end(event)
            case RequestFailed() | WorkerFailed():
                self._forget(event)

    def _begin(self, event: AttemptBegan) -> None:
        """Begin the attempt's span when its claim began, and end that of the claim now."""
        began = self._now() - _nanoseconds(event.claim_seconds)
        asked = trace.get_current_span(_parent(event)).get_span_context()
        is_elsewhere = event.is_accepted and asked.is_valid
        span = self._tracer.start_span(
            "ai_retry.attempt",
            context=context.Context() if is_elsewhere else _parent(event),
            links=[Link(asked)] if is_elsewhere else None,
            start_time=began,
            attributes={
                **_named(event),
                **_known({"ai_retry.route": event.route, "ai_retry.answer_from": event.answer_from}),
            },
        )
        with self._lock:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))[0].end()
            self._open[event.generation_id, event.attempt] = span, get_ident()
        self._leaf("ai_retry.claim", trace.set_span_in_context(span), event.claim_seconds, {})

    def _call(self, event: ProviderCalled) -> None:
        facts = _call_facts(event)
        used = {"gen_ai.usage.input_tokens": event.prompt_tokens, "gen_ai.usage.output_tokens": event.completion_tokens}
        more = {"http.response.status_code": event.http_status, "gen_ai.response.model": event.model, **used}
        asked = event.asked_model or event.model
        name = f"chat {asked}" if asked else "chat"
        span, _ = self._open.get((event.generation_id, event.attempt), (None, 0))
        parent = trace.set_span_in_context(span) if span is not None else _parent(event)
        ended = self._now() - _nanoseconds(event.ended_seconds_ago)
        attributes = {**facts, **_known(more)}
        self._leaf(name, parent, event.call_seconds, attributes, kind=SpanKind.CLIENT, code=event.code, ended=ended)
        labels = self._bounded(facts)
        if event.call_seconds is not None:
            self._durations.record(event.call_seconds, labels, context=parent)
        for kind, count in (("input", event.prompt_tokens), ("output", event.completion_tokens)):
            if count is not None and count >= 0:
                self._tokens.record(count, {**labels, "gen_ai.token.type": kind}, context=parent)

    def _bounded(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Bound what metrics are labelled with; spans have all of it."""
        return {name: self._bounds[name](fact) if name in self._bounds else fact for name, fact in facts.items()}

    def _end(self, event: AttemptEvent) -> None:
        """End the attempt's span, as its first event of an end says."""
        with self._lock:
            span, _ = self._open.pop((event.generation_id, event.attempt), (None, 0))
        if span is None:
            return  # it ended before, or without a begin in this process
        took = getattr(event, "settle_seconds", None)
        if took is not None:
            self._leaf("ai_retry.settle", trace.set_span_in_context(span), took, {})
        span.set_attribute("ai_retry.end", event.name)
        _fail(span, getattr(event, "code", None) or getattr(event, "cause", None))
        span.end(self._now())

    def _forget(self, event: RequestFailed | WorkerFailed) -> None:
        """End what this thread began of this generation, and of which it is not known how it ended.

        What fails in another thread, such as a look at the status, is not about an attempt that runs meanwhile.
        """
        mine = (event.generation_id, get_ident())
        with self._lock:
            left = [key for key, (_, thread) in self._open.items() if (key[0], thread) == mine]
            spans = [self._open.pop(key)[0] for key in left]
        for span in spans:
            span.set_attribute("ai_retry.end", event.name)
            _fail(span, event.code)
            span.end(self._now())

    def _leaf(
        self,
        name: str,
        parent: context.Context,
        seconds: float | None,
        attributes: Mapping[str, Any],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        code: str | None = None,
        ended: int | None = None,
    ) -> None:
        """Make a span that ended then, or ends now."""
        end = self._now() if ended is None else ended
        span = self._tracer.start_span(
            name, context=parent, kind=kind, attributes=attributes, start_time=end - _nanoseconds(seconds)
        )
        _fail(span, code)
        span.end(end)


def _parent(event: Event) -> context.Context:
    """Return the span that is active, else that of the request."""
    if trace.get_current_span().get_span_context().is_valid or event.traceparent is None:
        return context.get_current()
    carrier = {"traceparent": event.traceparent}
    return TraceContextTextMapPropagator().extract(carrier, context=context.Context())


def _call_facts(event: ProviderCalled) -> dict[str, Any]:
    provider = event.provider
    facts = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider or _OTHER,
        "gen_ai.request.model": event.asked_model or event.model,
        "server.address": provider,
        "error.type": event.code,
    }
    return _known(facts)


def _named(event: AttemptEvent) -> dict[str, Any]:
    facts = {
        "ai_retry.generation_id": str(event.generation_id),
        "ai_retry.attempt": event.attempt,
        "ai_retry.is_accepted": event.is_accepted,
        "ai_retry.request_id": event.request_id,
        "ai_retry.user_id": str(event.user_id),
    }
    return _known(facts)


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(fact) if isinstance(fact, str) else fact for name, fact in facts.items() if fact is not None}


def _fail(span: Span, code: str | None) -> None:
    if code is not None:
        span.set_attribute("error.type", str(code))
        span.set_status(Status(StatusCode.ERROR))


def _nanoseconds(seconds: float | None) -> int:
    return round((seconds or 0.0) * _SECOND)
