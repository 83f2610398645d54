"""The storage port in memory: the executable reference of what its methods do.

Every method takes one lock and reads its clock once, as a verb in SQL does. What a verb compares is a method of its
own, so that a test can leave it out and see that it is missed. No decision belongs here.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from ai_retry.domain.change import (
    Acceptance,
    Amend,
    Begin,
    CloseOver,
    Discard,
    Keep,
    Open,
    Postpone,
    PutBack,
    Renew,
    Reply,
    Run,
    Running,
    Taken,
)
from ai_retry.domain.errors import NotConfigured, RetryPoisoned
from ai_retry.domain.model import Generation, GenerationStatus, Installation, QuotaRule
from ai_retry.domain.queue_model import QueueState, RouteNote, RouteState
from ai_retry.testing.memory.operating import MemoryOperating
from ai_retry.testing.memory.rows import Row, in_time, is_due, is_out_of_time, running, with_call

OLDEST_SNAPSHOT = timedelta(seconds=10)


class MemoryStorage(MemoryOperating):
    """The port; see ``MemoryTables`` for its arguments and attributes."""

    # Beginning

    def begin(self, change: Begin | CloseOver) -> Reply:
        """Compare, close what is over, count, then open."""
        if isinstance(change, CloseOver):
            with self._lock:
                self._close_over(change.user_id, now := self._clock.now())
                self._fill_line(change.user_id, now)
                return Reply(applied=True, closed=self._reported())
        with self._lock:
            now = self._clock.now()
            if isinstance(change.attempt.start, Acceptance) and not self.has_queue:
                raise NotConfigured("there is no queue")
            self.app.lock(change.generation_id)
            applied = self._is_fresh(change, now)
            if applied:
                self._close_over(change.user_id, now, change.generation_id)
                applied = self._has_room(change, now) and self._create(change, now) and self._start(change, now)
            rule, proposal = change.expected.quota_rule, self._proposal(change, now)
            snapshot = self._snapshot(change.generation_id, rule, change.token, now, proposal)
            return Reply(applied=applied, snapshot=snapshot, closed=self._reported())

    def _is_fresh(self, change: Begin, now: datetime) -> bool:
        found, proposal = self.app.read(change.generation_id), self._proposal(change, now)
        generation = proposal if found is None else found if proposal is None else None
        if generation is None or generation.user_id != change.user_id or generation.id in self.app.hidden:
            return False
        return self._is_young(change, now) and self._is_same_version(change, generation)

    def _is_young(self, change: Begin, now: datetime) -> bool:
        return now - change.expected.as_of <= OLDEST_SNAPSHOT

    def _is_same_version(self, change: Begin, generation: Generation) -> bool:
        return change.expected.version == self._version(generation)

    def _has_room(self, change: Begin, now: datetime) -> bool:
        has_room = self._is_below_max_live(change) and self._is_below_max_used(change, now)
        return has_room and self._route_is_open(change.attempt.start, now)

    def _is_below_max_live(self, change: Begin) -> bool:
        running = [row for row in self._open_of(change.user_id) if not row.is_queued]
        return change.expected.max_live is None or len(running) < change.expected.max_live

    def _is_below_max_used(self, change: Begin, now: datetime) -> bool:
        if change.expected.max_used is None:
            return True
        captured = self._captured(change.user_id, self._rule_of(change.user_id, change.expected.quota_rule), now)
        return len(captured) + self._held(change.user_id) < change.expected.max_used

    def _route_is_open(self, start: Running | Acceptance, now: datetime) -> bool:
        if not isinstance(start, Running) or start.route is None:
            return True
        return self.routes.is_open(start.route, self._running_on(start.route), now)

    def _start(self, change: Begin, now: datetime) -> bool:
        queued = self._open_row(change.generation_id)
        if isinstance(change.attempt, Run):
            runs = queued is not None and queued.is_queued and queued.user_id == change.user_id
            if queued is None or not runs or queued.number != change.attempt.number:
                return False
            self._add(running(queued, change.attempt.start, change.token, now))
        else:
            if queued is not None:
                return False
            self._open(change, change.attempt, now)
        is_running = isinstance(change.attempt.start, Running)
        status = GenerationStatus.PROCESSING if is_running else GenerationStatus.QUEUED
        self.app.write(change.generation_id, now, status)
        return True

    def _open(self, change: Begin, attempt: Open, now: datetime) -> None:
        row = Row(
            user_id=change.user_id,
            generation_id=change.generation_id,
            number=1 if attempt.create is not None else self._highest(change.generation_id) + 1,
            request_digest=attempt.create.digest if attempt.create is not None else None,
            token=change.token,
            started_at=now,
            charge=attempt.charge,
            waived=attempt.waived,
            operator=attempt.operator,
            idempotency_key=attempt.idempotency_key,
            origin=attempt.origin,
        )
        if isinstance(attempt.start, Running):
            self._add(running(row, attempt.start, change.token, now))
            return
        start = attempt.start
        self._add(
            replace(
                row,
                next_attempt_at=max(change.expected.as_of + start.wait, now),
                accepted_at=now,
                expires_at=now + start.expires_after,
                status_before=start.status_before,
                in_line=start.in_line,
                context_reader=start.context_reader,
            )
        )
        self._fill_line(change.user_id, now)

    # The last resort

    def keep(self, change: Keep) -> None:
        """Store the answer with the open attempt and end its lease, or store it late."""
        with self._lock:
            now = self._clock.now()
            row = self._by_token(change)
            if row is None or row.outcome is not None:
                self._store_with_closed(change, row, change.answer, change.call, now)
            elif row.kept_cause is None:
                self.answers[row.generation_id, row.number] = change.answer
                self._add(
                    replace(
                        row,
                        kept_cause=change.cause,
                        lease_expires_at=now,
                        next_attempt_at=now + change.wait,
                        counted=False,
                        call=with_call(row, change.call),
                    )
                )

    def installation(self) -> Installation:
        """Return a constant: nothing in memory has a copy."""
        return Installation(id="memory", database="memory")

    # Amending

    def amend(self, change: Amend) -> Reply:
        """Change an open attempt, or a stored answer; close nothing."""
        with self._lock:
            now = self._clock.now()
            match change:
                case PutBack():
                    return Reply(applied=self._put_back(change, now))
                case Postpone():
                    return Reply(applied=self._postpone(change, now))
                case Renew():
                    return Reply(applied=self._renew(change, now))
                case Discard():
                    return Reply(applied=self._discard(change))

    def _put_back(self, change: PutBack, now: datetime) -> bool:
        row = self._by_token(change)
        if row is None or row.outcome is not None or row.accepted_at is None or row.kept_cause is not None:
            return False
        self.app.lock(change.generation_id)
        back = replace(
            row,
            token=uuid4(),
            lease_expires_at=None,
            next_attempt_at=in_time(row, now + change.wait, now),
            route=row.route if change.outage is not None else None,
            call=replace(
                row.call,
                provider_outcome=change.provider_outcome,
                wire_requests=row.call.wire_requests + change.wire_requests,
            ),
        )
        self._add(back)
        self.line.hide(back.message_id, back.next_attempt_at or now)
        generation = self._owned(row)
        if generation is not None and generation.status is GenerationStatus.PROCESSING:
            self.app.write(generation.id, now, GenerationStatus.QUEUED)
        ours = [RouteNote(route=row.route, outage=change.outage)] if change.outage is not None and row.route else []
        self._note_routes([*ours, *sorted(change.elsewhere, key=lambda note: note.route)], row.started_at, now)
        return True

    def _postpone(self, change: Postpone, now: datetime) -> bool:
        message = change.message
        row = next((row for row in self._open_of(message.user_id) if row.message_id == message.id), None)
        if row is None or row.generation_id != message.generation_id:
            self.line.delete(message.id)
            return False
        if row.is_queued:
            due_at = in_time(row, max(row.next_attempt_at or now, now + change.wait), now)
            self._add(replace(row, next_attempt_at=due_at, route=change.route))
            self.line.hide(message.id, in_time(row, due_at + change.spread, now))
        else:
            self.line.hide(message.id, max(row.lease_expires_at or now, now + change.wait))
        return True

    def _renew(self, change: Renew, now: datetime) -> bool:
        row = self._open_row(change.generation_id)
        if row is None or row.token != change.token or row.kept_cause is not None:
            return False
        if row.lease_expires_at is None or row.renewable_until is None or row.next_attempt_at is None:
            return False  # it is queued
        prolonged = max(row.lease_expires_at, min(now + change.lease, row.renewable_until))
        next_attempt_at = row.next_attempt_at + (prolonged - row.lease_expires_at)
        self._add(replace(row, lease_expires_at=prolonged, next_attempt_at=next_attempt_at))
        return True

    def _discard(self, change: Discard) -> bool:
        generation, rows = self.app.read(change.generation_id), self._rows_of(change.generation_id)
        if generation is None or generation.user_id != change.user_id:
            return False
        stored = [row for row in rows if (row.generation_id, row.number) in self.answers]
        used = [row for row in rows if row.outcome is None and (row.answer_from is not None or row in stored)]
        if used or not stored:
            return False
        for row in stored:
            del self.answers[row.generation_id, row.number]
            self._add(replace(row, discarded_by=change.operator))
        return True

    # Working

    def take(self, limit: int, visibility: timedelta, rule: QuotaRule) -> Sequence[Taken]:
        """Take messages that can be seen, with the snapshots of what they are about."""
        with self._lock:
            if not self.has_queue:
                raise NotConfigured("there is no queue")
            now = self._clock.now()
            messages = self.line.take(limit, now + visibility, now)
            return [
                Taken(message=each, snapshot=self._snapshot(each.generation_id, rule, None, now)) for each in messages
            ]

    def overdue(self, limit: int) -> Sequence[UUID]:
        """List users for whom a ``CloseOver`` has something to do."""
        with self._lock:
            now = self._clock.now()
            rows = [row for row in self.rows.values() if self._is_overdue(row, now)]
            return list(dict.fromkeys(row.user_id for row in rows))[:limit]

    def state(self) -> QueueState:
        """Count what waits and what runs for accepted retries."""
        with self._lock:
            now = self._clock.now()
            rows = [row for row in self.rows.values() if row.outcome is None and row.accepted_at is not None]
            queued = [row for row in rows if row.is_queued]
            ended = [row.closed_at for row in self.rows.values() if row.code == RetryPoisoned.code]
            return QueueState(
                as_of=now,
                configured=self.has_queue,
                queued=len(queued),
                due=sum(row.route is None and is_due(row, now) for row in queued),
                parked=sum(row.route is not None for row in queued),
                running=len(rows) - len(queued),
                held=sum(row.outcome is None and row.charge for row in self.rows.values()),
                kept=len(self.answers),
                oldest_accepted_at=min((row.accepted_at for row in rows if row.accepted_at), default=None),
                poisoned=sum(at is not None and at > now - timedelta(hours=24) for at in ended),
                outages=[
                    RouteState(route=each.route, not_before=each.not_before, failures=each.failures, slots=each.slots)
                    for each in self.routes.states(self._running_on, self._waiting_for, now)
                ],
            )

    def _is_overdue(self, row: Row, now: datetime) -> bool:
        if row.outcome is not None:
            return row.unreported and row.generation_id not in self.app.locked
        if not row.is_queued:
            return not row.is_live(now)
        if self._owned(row) is None or is_out_of_time(row, now):
            return row.generation_id not in self.app.locked
        return is_due(row, now) and self._next_in_line(row.user_id, now) is not None
