"""May a call go to this provider and model? What is known of outages decides."""

from collections.abc import Callable, Mapping, Sequence
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


def open_route(snapshot: Snapshot, routes: Sequence[str]) -> tuple[str | None, Mapping[str, int]]:
    """Find the first route that may be asked; with how many calls may fall back on each of those that are not as usual.

    When a route opens one call probes it; after each answer twice as many may run. Until any number may, each process
    sends there no more at once than have room now; 0 is a route that a fallback skips.

    Raises:
        RouteUnavailable: none of them may be asked; with the shortest time until one opens.
    """
    waits = {route: wait for route in routes if (wait := _wait_for(snapshot, route)) is not None}
    if not routes:
        return None, {}
    first = next((route for route in routes if route not in waits), None)
    if first is None:
        soonest = min(routes, key=lambda route: waits[route])
        held = {each.route for each in snapshot.routes if each.held_until is not None}
        raise RouteUnavailable(wait=waits[soonest], route=soonest, is_held=soonest in held)
    known = {each.route: max(each.slots - each.running, 0) for each in snapshot.routes if each.route in routes}
    return first, {route: 0 if route in waits else room for route, room in known.items() if route != first}


def with_care(context: Context | None, rooms: Mapping[str, int]) -> Context | None:
    """Give the context of a call that skips routes without room, and sends little to those that recover."""
    if context is None or not rooms:
        return context
    unavailable = frozenset(route for route, room in rooms.items() if not room)
    recovering = {route: room for route, room in rooms.items() if room}
    return replace(context, unavailable=unavailable, recovering=recovering)


def _wait_for(snapshot: Snapshot, route: str) -> timedelta | None:
    """Return how long a route is closed, or busy with as many probes as may run; None: it is open."""
    known = next((each for each in snapshot.routes if each.route == route), None)
    if known is None:
        return None
    if known.not_before > snapshot.as_of:
        return known.not_before - snapshot.as_of
    return BUSY_WAIT if known.running >= known.slots else None
