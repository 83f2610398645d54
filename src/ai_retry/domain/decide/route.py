"""May a call go to this provider and model? What is known of outages decides."""

from collections.abc import Callable
from dataclasses import dataclass

from ai_retry.domain.errors import RouteUnavailable
from ai_retry.domain.model import Context, Snapshot
from ai_retry.domain.policy import BUSY_WAIT
from ai_retry.domain.reader import ContextFrom


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How a process reads what to ask."""

    context_from: ContextFrom  # reads it out of a generation, or raises ContextMissing
    route_of: Callable[[Context], str] | None = None  # names the provider and model; None: outages don't matter

    def route(self, context: Context | None) -> str | None:
        """Name the route that a context asks; None without one: a stored answer asks no provider."""
        return self.route_of(context) if self.route_of is not None and context is not None else None


def refuse_unavailable(snapshot: Snapshot, route: str | None) -> None:
    """Refuse a call to a route that is closed, or that as many calls probe as may.

    When a route opens one call probes it; after each answer twice as many may run.

    Raises:
        RouteUnavailable: with the time until it opens.
    """
    known = next((each for each in snapshot.routes if each.route == route), None)
    if known is None:
        return
    if known.not_before > snapshot.as_of:
        raise RouteUnavailable(wait=known.not_before - snapshot.as_of)
    if known.running >= known.slots:
        raise RouteUnavailable(wait=BUSY_WAIT)
