"""Messages and routes in memory: what ``memory_queue`` has instead of pgmq and the table of outages. No lock here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ai_retry.domain.queue_model import Outage, RouteState

_ALL_SLOTS = 64  # the answer to one of so many calls opens the route for good
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message of the queue."""

    id: int
    payload: Any = field(repr=False)
    visible_at: datetime


class Messages:
    """Messages, the oldest first, some of them hidden for a while."""

    def __init__(self) -> None:
        self.rows: dict[int, MessageRow] = {}
        self._sent = 0

    def send(self, payload: Any, visible_at: datetime) -> int:
        """Put a message at the end; return its id."""
        self._sent += 1
        self.rows[self._sent] = MessageRow(self._sent, payload, visible_at)
        return self._sent

    def read(self, limit: int, visible_again_at: datetime, now: datetime) -> Sequence[MessageRow]:
        """Take messages that can be seen, and hide them."""
        read = [row for row in self.rows.values() if row.visible_at <= now][:limit]
        for row in read:
            self.hide(row.id, visible_again_at)
        return read

    def hide(self, message_id: int | None, until: datetime) -> None:
        """Hide a message, if it is still there."""
        if message_id in self.rows:
            self.rows[message_id] = replace(self.rows[message_id], visible_at=until)

    def delete(self, message_id: int) -> None:
        """Drop a message, if it is still there."""
        self.rows.pop(message_id, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRow(RouteState):
    """A route that is away, or coming back."""

    since: datetime  # when the latest failure said so; answers to older calls prove nothing
    doubts: int = 0  # failures in a row that each may have been the fault of one request


class Routes:
    """Routes that are away, or coming back; the others have no row."""

    def __init__(self) -> None:
        self.rows: dict[str, RouteRow] = {}

    def close(self, route: str, outage: Outage, now: datetime) -> None:
        """Close a route for a while, once that is believed; failures of calls that ran side by side count as one."""
        before = self.rows.get(route)
        if outage.doubts > 1 and not self._is_believed(route, outage, now):
            return
        until = now + outage.wait
        self.rows[route] = RouteRow(
            route=route,
            not_before=max(before.not_before, until) if before else until,
            failures=max(before.failures, outage.failures) if before else outage.failures,
            slots=1,
            since=now,
        )

    def _is_believed(self, route: str, outage: Outage, now: datetime) -> bool:
        row = self.rows.get(route) or RouteRow(
            route=route, not_before=now, failures=0, slots=_ALL_SLOTS, since=_LONG_AGO
        )
        self.rows[route] = row = replace(row, doubts=row.doubts + 1)
        return row.doubts >= outage.doubts

    def answered(self, route: str | None, asked_at: datetime) -> int:
        """Let twice as many run, or as many as like in the end; tell how many, 0 when the route was not away."""
        row = self.rows.get(route) if route is not None else None
        if row is None or row.since > asked_at:
            return 0
        slots = min(_ALL_SLOTS, row.slots * 2)
        if row.slots >= _ALL_SLOTS:
            del self.rows[row.route]
        else:
            self.rows[row.route] = replace(row, slots=slots, failures=0, doubts=0)
        return slots

    def away(self) -> Sequence[RouteState]:
        """Routes that a failure has closed, by name."""
        return [row for _, row in sorted(self.rows.items()) if row.since > _LONG_AGO]

    def wait(self, route: str | None, running: int, now: datetime) -> timedelta | None:
        """How long a route stays closed; zero when as many run as may; None when it is open."""
        row = self.rows.get(route) if route is not None else None
        if row is None:
            return None
        if row.not_before > now:
            return row.not_before - now
        return timedelta(0) if running >= row.slots < _ALL_SLOTS else None

    def failures(self, route: str | None) -> int:
        """Failures in a row, as far as known."""
        row = self.rows.get(route) if route is not None else None
        return row.failures if row is not None else 0
