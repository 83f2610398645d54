"""Messages and routes in memory: what ``memory`` has instead of pgmq and the table of outages. It takes no lock."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from ai_retry.domain.model import Route
from ai_retry.domain.queue_model import Message, Outage
from ai_retry.testing.memory.rows import Row

ALL_SLOTS: Final = 64  # the answer to one of so many calls opens the route for good
ALL_WHO_WAIT: Final = 1000  # are woken then; so many at once are no burden
_REMEMBERED: Final = timedelta(days=1)  # what is known of a route, after the last instant it was unavailable
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class Line:
    """Messages, the oldest first, some of them hidden for a while.

    Attributes:
        messages: by id.
    """

    def __init__(self) -> None:
        self.messages: dict[int | None, Message] = {}
        self.visible_at: dict[int | None, datetime] = {}
        self._sent = 0

    def send(self, user_id: UUID, generation_id: UUID, visible_at: datetime) -> int:
        """Put a message at the end; return its id."""
        self._sent += 1
        self.messages[self._sent] = Message(id=self._sent, user_id=user_id, generation_id=generation_id)
        self.visible_at[self._sent] = visible_at
        return self._sent

    def take(self, limit: int, visible_again_at: datetime, now: datetime) -> Sequence[Message]:
        """Take messages that can be seen, and hide them."""
        taken = [each for each in self.messages.values() if self.visible_at[each.id] <= now][:limit]
        for each in taken:
            self.hide(each.id, visible_again_at)
        return taken

    def hide(self, message_id: int | None, until: datetime) -> None:
        """Hide a message, if it is still there."""
        if message_id in self.messages:
            self.visible_at[message_id] = until

    def delete(self, message_id: int | None) -> None:
        """Drop a message, if it is still there."""
        self.messages.pop(message_id, None)

    def wake(self, waiting: Iterable[Row], count: int, now: datetime) -> None:
        """Show the messages of so many that wait, once they are due: every user's first before any user's second."""
        places = Counter[UUID]()
        ordered = []
        for row in sorted(waiting, key=lambda row: row.accepted_at or now):
            due_at = max(row.next_attempt_at or now, now)
            if row.message_id in self.messages and self.visible_at[row.message_id] > due_at:
                places[row.user_id] += 1
                ordered.append((places[row.user_id], row.accepted_at or now, row.message_id, due_at))
        for _, _, message_id, due_at in sorted(ordered)[: max(0, count)]:
            self.hide(message_id, due_at)


@dataclass(frozen=True, slots=True)
class _Route:
    not_before: datetime
    failures: int
    slots: int
    since: datetime  # when the latest failure was noted; answers to older calls prove nothing
    doubts: int = 0  # failures in a row that each may have been the fault of one request
    began_at: datetime | None = None  # since when it is unavailable
    held_until: datetime | None = None  # an operator holds it

    def is_held(self, now: datetime) -> bool:
        """Whether an operator holds it."""
        return self.held_until is not None and self.held_until > now

    def is_known(self, now: datetime) -> bool:
        """Whether a failure has closed it, less than a day ago, or an operator holds it."""
        return self.is_held(now) or (self.since > _LONG_AGO and self.not_before > now - _REMEMBERED)

    @property
    def opens_at(self) -> datetime:
        """When calls may go there."""
        return self.not_before if self.held_until is None else max(self.not_before, self.held_until)


class Routes:
    """Routes that are unavailable, or coming back; the others have no row."""

    def __init__(self) -> None:
        self._rows: dict[str, _Route] = {}

    def forget(self, now: datetime) -> None:
        """Forget what was unavailable a day ago: users may invent models."""
        self._rows = {route: row for route, row in self._rows.items() if row.opens_at > now - _REMEMBERED}

    def known(self) -> Collection[str]:
        """List the routes that have a row."""
        return self._rows.keys()

    def closed(self) -> Mapping[str, datetime]:
        """List the routes that have failed, and not answered since, with the instants until which no call is made."""
        return {route: row.not_before for route, row in self._rows.items() if row.failures > 0}

    def note_outage(self, route: str, outage: Outage, now: datetime) -> None:
        """Close a route for a while, once that is believed; failures of calls that ran side by side count as one."""
        self.forget(now)
        before = self._rows.get(route)
        if outage.doubts > 1 and not self._is_believed(route, outage, now):
            return
        until = now + outage.wait
        goes_on = before is not None and before.since > _LONG_AGO and before.failures > 0
        self._rows[route] = _Route(
            not_before=max(before.not_before, until) if before else until,
            failures=max(before.failures, outage.failures) if before else outage.failures,
            slots=1,
            since=now,
            began_at=before.began_at if before is not None and goes_on else now,
            held_until=before.held_until if before is not None else None,
        )

    def _is_believed(self, route: str, outage: Outage, now: datetime) -> bool:
        row = self._rows.get(route) or _Route(not_before=now, failures=0, slots=ALL_SLOTS, since=_LONG_AGO)
        self._rows[route] = row = replace(row, doubts=row.doubts + 1)
        return row.doubts >= outage.doubts

    def note_answer(self, route: str, asked_at: datetime, now: datetime) -> int:
        """Let twice as many calls run, in the end any number; return how many, 0 when the route was available."""
        row = self._rows.get(route)
        if row is None or row.since > asked_at or row.is_held(now):
            return 0
        if row.slots >= ALL_SLOTS:
            del self._rows[route]
            return ALL_WHO_WAIT
        self._rows[route] = replace(row, slots=row.slots * 2, failures=0, doubts=0)
        return row.slots * 2

    def hold(self, route: str, duration: timedelta, now: datetime) -> None:
        """Send no call there for so long; what else is known of it stays."""
        row = self._rows.get(route) or _Route(not_before=now, failures=0, slots=ALL_SLOTS, since=_LONG_AGO)
        self._rows[route] = replace(row, held_until=now + duration)

    def open(self, route: str) -> bool:
        """Forget what is known of a route; whether anything was."""
        return self._rows.pop(route, None) is not None

    def began_at(self, route: str) -> datetime | None:
        """Since when it is unavailable; None: it is only held."""
        return self._rows[route].began_at

    def is_open(self, route: str, running: int, now: datetime) -> bool:
        """Whether one more call may run."""
        row = self._rows.get(route)
        return row is None or not row.is_known(now) or (row.opens_at <= now and running < row.slots)

    def states(
        self, running_on: Callable[[str], int], waiting_for: Callable[[str], int], now: datetime
    ) -> tuple[Route, ...]:
        """Describe the routes that a failure has closed, or an operator holds, by name."""
        return tuple(
            Route(
                route=route,
                not_before=row.opens_at,
                failures=row.failures,
                slots=row.slots,
                running=running_on(route),
                waiting=waiting_for(route),
                held_until=row.held_until if row.is_held(now) else None,
            )
            for route, row in sorted(self._rows.items())
            if row.is_known(now)
        )
