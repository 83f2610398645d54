"""Prometheus metrics of events, and of what the database knows.

Labels are bounded: a model that is not in the list is ``other``, and so is the code or provider that comes after many.
With several processes, set ``PROMETHEUS_MULTIPROC_DIR`` (prometheus_client's multiprocess mode): each then exposes the
sum of all.
"""

import os
from collections.abc import Callable, Collection
from time import time
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from ai_retry.domain.errors import ContextMissing, NotConfigured, SessionRejected
from ai_retry.domain.model import ProviderOutcome
from ai_retry.domain.queue_model import QueueState
from ai_retry.events import (
    AnswerKept,
    AttemptAbandoned,
    AttemptBegan,
    AttemptCancelled,
    AttemptEvent,
    AttemptFailed,
    AttemptPutBack,
    AttemptSucceeded,
    Event,
    GenerationAccepted,
    ProviderCalled,
    Refused,
    RenewalFailed,
    RequestFailed,
    RouteClosed,
    Settled,
    Spooled,
    TidyFailed,
    WebhookDelivered,
    WebhookFailed,
    WebhookGivenUp,
    WorkerFailed,
    WorkerPolled,
    WorkerWaits,
)
from ai_retry.telemetry.bounded import Bounded
from ai_retry.telemetry.database import DatabaseCollector

OTHER: Final = "other"
NONE: Final = "none"  # of a code: there was none, it went well
_CALL_BUCKETS: Final = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 900, 3600)
_STEP_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)
_OF_AN_END: Final = ("outcome", "code", "accepted", "provider_outcome")
_OF_A_CALL: Final = ("provider", "model", "code", "provider_outcome")
_OUTCOMES: Final = {
    AttemptSucceeded: "succeeded",
    AttemptFailed: "failed",
    AttemptAbandoned: "abandoned",
    AttemptCancelled: "cancelled",
    AttemptPutBack: "put_back",
}


class Exposition:
    """What ``GET /metrics`` answers: call it with the request's ``Accept``, and get the content type and the body.

    Args:
        registry: to expose; in multiprocess mode, what all processes have written instead.
        collector: reads the database, once for all processes.
    """

    def __init__(self, registry: CollectorRegistry, collector: DatabaseCollector | None) -> None:
        self._registry, self._collector = registry, collector

    def __call__(self, accept: str = "") -> tuple[str, bytes]:
        """Collect and encode."""
        encode, content_type = _encoder(accept)
        body: bytes = b"".join(encode(each) for each in self._registries())
        return content_type, body

    def _registries(self) -> list[CollectorRegistry]:
        """Return one registry, which holds everything."""
        shown = CollectorRegistry()
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            MultiProcessCollector(shown)  # type: ignore[no-untyped-call]
        else:
            shown.register(_Of(self._registry))
        if self._collector is not None:
            shown.register(self._collector)
        return [shown]


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """Choose a format; an ``Accept`` that prometheus_client can't read gets plain text."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        return choose_encoder("")


class PrometheusEvents:
    """A hook that counts events: ``connect(on_event=PrometheusEvents())``. Safe to share between threads.

    Args:
        registry: where its metrics are registered; one of its own when None.
        models: that have a label of their own; any other is ``other``.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, models: Collection[str] = ()) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._models = frozenset(models)
        self._codes, self._providers = Bounded(OTHER), Bounded(OTHER)
        self._make_attempts()
        self._make_others()
        self._begin_at_zero()

    def __call__(self, event: Event) -> None:
        """Count it."""
        match event:
            case ProviderCalled():
                self._count_call(event)
            case AttemptBegan():
                self._claims.observe(event.claim_seconds or 0.0)
            case AttemptSucceeded() | AttemptFailed() | AttemptAbandoned() | AttemptCancelled() | AttemptPutBack():
                self._count_end(event)
            case Refused():
                self._refusals.labels(event.action, self._codes(event.code)).inc()
            case RequestFailed():
                self._failures.labels(event.action, self._codes(event.code)).inc()
            case WorkerPolled():
                self._polled.set(time())
            case WorkerFailed() | WorkerWaits() | TidyFailed() | RenewalFailed():
                self._worker_failures.labels(event.name, self._codes(event.code)).inc()
            case _:
                self._count_other(event)

    def exposition(
        self, state: Callable[[], QueueState] | None = None, *, spool_files: Callable[[], int] | None = None
    ) -> Exposition:
        """Return what answers ``GET /metrics``: ``create_blueprint(…, metrics=events.exposition(client.queue_state))``.

        Args:
            state: reads what no process knows, at most every 10 s; None: nothing does.
            spool_files: counts the answers that wait on this machine; None: there is no spool.
        """
        collector = DatabaseCollector(state, spool_files) if state is not None else None
        return Exposition(self.registry, collector)

    def _make_attempts(self) -> None:
        named: dict[str, Any] = {"registry": self.registry}
        self._ends = Counter(
            "ai_retry_attempts",
            "Attempts that ended here",
            ["outcome", "code", "accepted", "provider_outcome"],
            **named,
        )
        self._calls = Counter(
            "ai_retry_provider_calls",
            "Requests to providers",
            ["provider", "model", "code", "provider_outcome"],
            **named,
        )
        self._durations = Histogram(
            "ai_retry_provider_call_duration_seconds",
            "How long requests to providers took",
            ["provider", "model"],
            buckets=_CALL_BUCKETS,
            **named,
        )
        self._tokens = Counter("ai_retry_tokens", "Tokens that providers reported", ["model", "kind"], **named)
        self._cost = Counter(
            "ai_retry_cost", "Cost by the providers' word, in US dollars as a rule", ["model"], **named
        )
        self._claims = Histogram(
            "ai_retry_claim_duration_seconds", "How long it took to begin", buckets=_STEP_BUCKETS, **named
        )
        self._settles = Histogram(
            "ai_retry_settle_duration_seconds", "How long it took to close an attempt", buckets=_STEP_BUCKETS, **named
        )

    def _make_others(self) -> None:
        named: dict[str, Any] = {"registry": self.registry}
        self._accepted = Counter("ai_retry_accepted", "Retries that were accepted for later", **named)
        self._kept = Counter("ai_retry_answers_kept", "Paid answers that were stored without a session", **named)
        self._spooled = Counter("ai_retry_spool_answers", "Answers spooled, and sent from the spool", ["end"], **named)
        self._refusals = Counter("ai_retry_refusals", "Requests that were refused", ["action", "code"], **named)
        self._failures = Counter(
            "ai_retry_request_failures", "Requests that failed, and not by an attempt", ["action", "code"], **named
        )
        self._closures = Counter("ai_retry_route_closures", "Outages that this process learned of", **named)
        self._webhooks = Counter("ai_retry_webhooks", "Tries to deliver a message to the webhook", ["end"], **named)
        self._worker_failures = Counter("ai_retry_worker_failures", "Failures of workers", ["event", "code"], **named)
        self._polled = Gauge(
            "ai_retry_worker_last_poll_timestamp_seconds",
            "When a worker last looked for messages",
            multiprocess_mode="mostrecent",
            **named,
        )

    def _begin_at_zero(self) -> None:
        """Show what alerts ask about before it happens: of a series that begins at 1, no increase is seen."""
        for accepted in ("false", "true"):
            self._ends.labels(_OUTCOMES[AttemptAbandoned], NONE, accepted, NONE)
            for said in (NONE, ProviderOutcome.GENERATED):
                self._ends.labels(_OUTCOMES[AttemptFailed], SessionRejected.code, accepted, said)
        for code in (NotConfigured.code, "INTERNAL"):
            for action in ("retry", "enqueue", "generate"):
                self._failures.labels(action, code)
        for code in (NotConfigured.code, ContextMissing.code, "INTERNAL"):
            self._worker_failures.labels("worker_failed", code)

    def _count_call(self, event: ProviderCalled) -> None:
        provider, model = self._providers(event.provider or NONE), self._model(event.asked_model or event.model)
        self._calls.labels(provider, model, self._codes(event.code or NONE), event.provider_outcome).inc()
        if event.call_seconds is not None:
            self._durations.labels(provider, model).observe(event.call_seconds)
        for kind, count in (("prompt", event.prompt_tokens), ("completion", event.completion_tokens)):
            if count is not None and count >= 0:
                self._tokens.labels(model, kind).inc(count)
        if event.cost is not None and event.cost.is_finite() and event.cost >= 0:
            self._cost.labels(model).inc(float(event.cost))

    def _count_other(self, event: Event) -> None:
        match event:
            case GenerationAccepted():
                self._accepted.inc()
            case AnswerKept():
                self._kept.inc()
            case Spooled():
                self._spooled.labels("spooled").inc()
            case Settled():
                self._spooled.labels("settled").inc()
            case RouteClosed():
                self._closures.inc()
            case WebhookDelivered() | WebhookFailed() | WebhookGivenUp() if event.message is not None:
                self._webhooks.labels(event.name.removeprefix("webhook_")).inc()

    def _count_end(self, event: AttemptEvent) -> None:
        accepted = "true" if event.is_accepted else "false"
        code = self._codes(getattr(event, "code", None) or NONE)
        said = getattr(event, "provider_outcome", None) or NONE
        self._ends.labels(_OUTCOMES[type(event)], code, accepted, said).inc()
        if isinstance(event, AttemptSucceeded | AttemptFailed) and event.settle_seconds is not None:
            self._settles.observe(event.settle_seconds)

    def _model(self, name: str | None) -> str:
        return name if name in self._models else OTHER


class _Of:
    """Shows a registry within another one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.collect = registry.collect
