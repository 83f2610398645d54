"""Messages for the webhook in memory: what ``memory`` has instead of the table of the outbox."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from ai_retry.domain.errors import RetryExpired
from ai_retry.domain.model import Outcome
from ai_retry.domain.outbox import Announcement, Delivery, MessageType
from ai_retry.testing.memory.rows import Row
from ai_retry.testing.memory.tables import MemoryTables

_WRITTEN_FOR: Final = timedelta(days=7)  # after a look of a process that delivers messages
_ENDS: Final[Mapping[Outcome | None, MessageType]] = {
    Outcome.SUCCEEDED: MessageType.SUCCEEDED,
    Outcome.FAILED: MessageType.FAILED,
    Outcome.CANCELLED: MessageType.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A message that waits, and what it is about."""

    message: Announcement
    subject: object
    due_at: datetime


class MemoryOutbox(MemoryTables):
    """Keeps messages until they are delivered; none is written before a process has looked for them."""

    _waiting: Sequence[_Waiting] = ()  # in their order
    _written_until: datetime | None = None

    def drain(self, limit: int, lease: timedelta, results: Sequence[Delivery]) -> Sequence[Announcement]:
        """Record what became of messages, then take those that are due."""
        with self._lock:
            now = self._clock.now()
            self._written_until = now + _WRITTEN_FOR
            for each in results:
                self._note_delivery(each, now)
            first = {each.subject: each for each in reversed(self._waiting)}.values()
            due = sorted((each for each in first if each.due_at <= now), key=lambda each: each.due_at)[:limit]
            taken = {each.message.id for each in due}
            self._waiting = [_taken(each, now + lease) if each.message.id in taken else each for each in self._waiting]
            return [each.message for each in self._waiting if each.message.id in taken]

    def _note_delivery(self, result: Delivery, now: datetime) -> None:
        kept = []
        for each in self._waiting:
            if each.message.id != result.id:
                kept.append(each)
            elif result.wait is not None:
                is_latest = each.message.tries == result.tries
                kept.append(replace(each, due_at=now + result.wait) if is_latest else each)
        self._waiting = kept

    def _announce(self, kind: MessageType, subject: object, data: Mapping[str, Any], now: datetime) -> None:
        if self._written_until is None or self._written_until <= now:
            return
        message = Announcement(id=uuid4(), type=kind.value, happened_at=now, data=data, tries=0)
        self._waiting = [*self._waiting, _Waiting(message=message, subject=subject, due_at=now)]

    def _announce_end(self, row: Row, now: datetime) -> None:
        """Announce how an accepted retry ended."""
        kind = MessageType.EXPIRED if row.code == RetryExpired.code else _ENDS[row.outcome]
        data = {
            "user_id": str(row.user_id),
            "generation_id": str(row.generation_id),
            "attempt": row.number,
            "session_id": row.session_id,
            "code": row.code,
            "request_id": row.origin.request_id,
            "accepted_at": row.accepted_at.isoformat() if row.accepted_at is not None else None,
        }
        self._announce(kind, row.generation_id, data, now)

    def _watching_routes(self, act: Callable[[], int | None], now: datetime) -> int:
        """Do something, and announce the routes that it closes and opens."""
        before = self.routes.closed()
        done = act()
        after = self.routes.closed()
        for route in sorted(after.keys() - before.keys()):
            data = {"route": route, "not_before": after[route].isoformat()}
            self._announce(MessageType.ROUTE_CLOSED, route, data, now)
        for route in sorted(before.keys() - after.keys()):
            answered = route in self.routes.known()
            self._announce(MessageType.ROUTE_OPENED, route, {"route": route, "answered": answered}, now)
        return done or 0


def _taken(waiting: _Waiting, until: datetime) -> _Waiting:
    message = replace(waiting.message, tries=waiting.message.tries + 1)
    return replace(waiting, message=message, due_at=until)
