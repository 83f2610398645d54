"""May a call go to this provider and model? What is known of outages decides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeAlias

from ai_retry.domain.errors import RouteUnavailable
from ai_retry.domain.model import Context, Snapshot
from ai_retry.domain.policy import BUSY_WAIT
from ai_retry.domain.reader import ContextFrom

RouteOf: TypeAlias = Callable[[Context], str | Sequence[str]]
"""Names the provider and model that a context asks; where it falls back, all of them, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How a process reads what to ask."""

    context_from: ContextFrom  # reads it out of a generation, or raises ContextMissing
    route_of: RouteOf | None = None  # names the provider and model; None: outages don't matter

    def routes(self, context: Context | None) -> Sequence[str]:
        """Name the routes that a context asks, in their order; none without one: a stored answer asks no provider."""
        if self.route_of is None or context is None:
            return ()
        named = self.route_of(context)
        return (named,) if isinstance(named, str) else tuple(named)


def open_route(snapshot: Snapshot, routes: Sequence[str]) -> tuple[str | None, frozenset[str]]:
    """Find the first route that may be asked; with those that may not, which a fallback skips.

    When a route opens one call probes it; after each answer twice as many may run.

    Raises:
        RouteUnavailable: none of them may be asked; with the shortest time until one opens.
    """
    waits = {route: wait for route in routes if (wait := _wait_for(snapshot, route)) is not None}
    if not routes:
        return None, frozenset()
    first = next((route for route in routes if route not in waits), None)
    if first is None:
        soonest = min(routes, key=lambda route: waits[route])
        raise RouteUnavailable(wait=waits[soonest], route=soonest)
    return first, frozenset(waits)


def without(context: Context | None, unavailable: frozenset[str]) -> Context | None:
    """Give the context of a call that skips these routes."""
    return replace(context, unavailable=unavailable) if context is not None and unavailable else context


def _wait_for(snapshot: Snapshot, route: str) -> timedelta | None:
    """Return how long a route is closed, or busy with as many probes as may run; None: it is open."""
    known = next((each for each in snapshot.routes if each.route == route), None)
    if known is None:
        return None
    if known.not_before > snapshot.as_of:
        return known.not_before - snapshot.as_of
    return BUSY_WAIT if known.running >= known.slots else None
