"""What all loops of a process report: attempts that were closed in passing, and routes as it learns of them."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, Final, TypeAlias

from ai_retry.domain.calls import DEFAULT_MODEL
from ai_retry.domain.change import CallRecord
from ai_retry.domain.model import ClosedOver, Outcome, ProviderCall, Snapshot, Usage
from ai_retry.domain.queue_model import Outage
from ai_retry.events import (
    AttemptAbandoned,
    AttemptCancelled,
    AttemptFailed,
    Event,
    RouteClosed,
    RouteOpened,
)

Emit: TypeAlias = Callable[[Event], None]
_MOST_ROUTES: Final = 64  # of a snapshot
_SAME: Final = timedelta(seconds=2)  # instants that differ by no more are of one outage


class Reports:
    """Gives events of a process. Safe to share between threads.

    Each process reports a route once when it learns that it is closed, again when that is prolonged, and once when it
    learns that it answers again.

    Args:
        emit: gets the events.
        has_spool: whether an answer that is neither settled nor kept waits in a spool.
    """

    def __init__(self, emit: Emit, *, has_spool: bool = False) -> None:
        self.emit, self.has_spool = emit, has_spool
        self._closed: dict[str, datetime | None] = {}  # until when
        self._lock = Lock()

    def closed_over(self, closed: Sequence[ClosedOver]) -> None:
        """Report attempts that a begin closed in passing."""
        for each in closed:
            about: dict[str, Any] = {
                "user_id": each.user_id,
                "generation_id": each.generation_id,
                "attempt": each.number,
                "is_accepted": each.is_accepted,
                "request_id": each.origin.request_id,
                "traceparent": each.origin.traceparent,
            }
            if each.outcome is Outcome.ABANDONED:
                self.emit(AttemptAbandoned(**about))
            elif each.outcome is Outcome.CANCELLED:
                self.emit(AttemptCancelled(**about))
            else:
                self.emit(AttemptFailed(**about, code=each.code or each.outcome, counted=False))

    def seen(self, snapshot: Snapshot) -> None:
        """Report what a whole snapshot shows of routes."""
        if not snapshot.routes and not self._closed:  # as nearly always
            return
        for each in snapshot.routes:
            if each.not_before > snapshot.as_of and self._is_news(each.route, each.not_before):
                wait = (each.not_before - snapshot.as_of).total_seconds()
                self.emit(
                    RouteClosed(route=each.route, failures=each.failures, wait_seconds=wait, until=each.not_before)
                )
        with self._lock:
            gone = set(self._closed) - {each.route for each in snapshot.routes}
        for route in gone if len(snapshot.routes) < _MOST_ROUTES else ():
            self.answered(route, {})

    def failed(self, route: str, outage: Outage, code: str | None, until: datetime | None, named: Any) -> None:
        """Report a route that a failure has closed; one that has to fail more often shows itself in a snapshot."""
        if outage.doubts == 1 and self._is_news(route, until):
            self.emit(
                RouteClosed(
                    **named,
                    route=route,
                    code=code,
                    failures=outage.failures,
                    wait_seconds=outage.wait.total_seconds(),
                    until=until,
                )
            )

    def answered(self, route: str, named: Any) -> None:
        """Report a route that was closed, and answers."""
        with self._lock:
            if route not in self._closed:
                return
            del self._closed[route]
        self.emit(RouteOpened(**named, route=route))

    def _is_news(self, route: str, until: datetime | None) -> bool:
        with self._lock:
            before = self._closed.get(route)
            if route in self._closed and (before is None or until is None or until <= before + _SAME):
                return False
            self._closed[route] = until
            return True


def asked_model(call: ProviderCall) -> str | None:
    """Read which model a call asked out of its route; None: the route does not say."""
    named = f"{call.provider}/"
    if call.route is None or not call.route.startswith(named):
        return None
    model = call.route.removeprefix(named)
    return model if model != DEFAULT_MODEL else None


def since_ends(calls: Sequence[ProviderCall], now: float) -> Sequence[float]:
    """Return how many seconds ago each call ended: where it does not say, the next one began then, or now."""
    found, later = list[float](), 0.0
    for call in reversed(calls):
        ago = max(0.0, now - call.ended) if call.ended is not None else later
        found.insert(0, ago)
        later = ago + (call.duration.total_seconds() if call.duration is not None else 0.0)
    return found


def facts_of_call(call: CallRecord | None) -> dict[str, Any]:
    """Return what an event says of an attempt's calls."""
    if call is None:
        return {}
    return {**facts_of(call.model, call.duration, call.usage), "provider_outcome": call.provider_outcome}


def facts_of(model: str | None, duration: timedelta | None, usage: Usage | None) -> dict[str, Any]:
    """Return what an event says of a call."""
    used = usage or Usage()
    return {
        "model": model,
        "call_seconds": duration.total_seconds() if duration is not None else None,
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.total_tokens,
        "cost": used.cost,
    }
