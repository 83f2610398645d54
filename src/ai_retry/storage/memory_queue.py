"""The ``QueueStorage`` port over dictionaries: ``memory`` with a queue, the executable reference of its semantics.

Every method takes the one lock, where the functions of the migration take their user's; nobody waits for it long.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.errors import (
    AiRetryError,
    GenerationNotFound,
    NotConfigured,
    RetryExpired,
    RetryPoisoned,
    SessionRejected,
)
from ai_retry.domain.model import (
    Admission,
    Answer,
    Claim,
    Failure,
    FailureCode,
    Generation,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    Settled,
)
from ai_retry.domain.ports import Clock
from ai_retry.domain.queue_model import Message, Outage, Parked, QueuedRetry, QueueState
from ai_retry.storage.memory import (
    OLDEST_ADMISSION,
    AttemptRow,
    CreateSession,
    InMemoryStorage,
    claim_of,
    is_live,
    new_session,
)
from ai_retry.storage.memory_line import Messages, Routes

_LOST_AFTER = timedelta(minutes=1)


class InMemoryQueueStorage(InMemoryStorage):
    """``InMemoryStorage`` that also keeps retries which were accepted for later.

    Args:
        clock: the storage's own time; ``receive`` sleeps by it.
        create_session: the app's seam.
    """

    def __init__(self, clock: Clock, *, create_session: CreateSession = new_session) -> None:
        super().__init__(clock, create_session=create_session)
        self.line = Messages()
        self.routes = Routes()
        self.has_queue = True  # False stands for a database without pgmq

    def enqueue(self, admission: Admission, *, token: UUID, expires_after: timedelta) -> QueuedRetry | None:
        """Compare with what the admission was decided upon, then open the attempt, under no lease."""
        self._require_queue()
        with self._lock:
            now = self._clock.now()
            generation = self._find(admission.user_id, admission.generation_id)
            if generation is None:
                raise GenerationNotFound(admission.generation_id)
            row = self.attempts.get(token)
            if row is None:
                self._close_expired(generation, now)
                if not self._is_acceptable(admission, generation, now):
                    return None
                row = self._accept(admission, generation, token, now, now + expires_after)
            return QueuedRetry(
                generation=self.generations[generation.id],
                quota=self._quota(admission.user_id, admission.quota_rule, now),
                attempt=row.number,
                accepted_at=row.accepted_at,
                next_attempt_at=row.next_attempt_at,
                expires_at=row.expires_at,
                as_of=now,
            )

    def claim_queued(
        self, admission: Admission, *, token: UUID, lease: timedelta, route: str | None, spread: timedelta
    ) -> Claim | Parked | None:
        """Give the queued attempt a lease and the worker's token."""
        with self._lock:
            now = self._clock.now()
            if token in self.attempts:
                return claim_of(self.attempts[token])
            generation = self._find(admission.user_id, admission.generation_id)
            if generation is None:
                raise GenerationNotFound(admission.generation_id)
            row = self._to_run(admission, generation, now)
            if row is None:
                return None
            wait = self.routes.wait(route, self._running_on(route, now), now)
            if wait is not None:
                self._put_off(replace(row, route=route), now + wait)
                wait += spread * len(self._parked(route))
                self.line.hide(row.message_id, min(now + wait, row.expires_at or now + wait))
                return Parked(retry_after=wait)
            called = admission.stored_answer is None
            del self.attempts[row.token]
            self.attempts[token] = row = replace(
                row,
                token=token,
                started_at=now,
                route=route,
                lease_expires_at=now + lease,
                next_attempt_at=now + lease + admission.abandoned_wait,
                counted=called,
                provider_outcome=ProviderOutcome.UNKNOWN if called else ProviderOutcome.NOT_GENERATED,
            )
            self._update(generation, now, GenerationStatus.PROCESSING)
            return replace(claim_of(row), outage_failures=self.routes.failures(route))

    def succeed(self, claim: Claim, answer: Answer, **options: Any) -> Settled:
        """Settle; an answer, whatever comes of it, says that its provider is there."""
        with self._lock, self._leaving(claim, GenerationStatus.ERROR, {SessionRejected.code}) as row:
            try:
                return super().succeed(claim, answer, **options)
            finally:
                self._note_answer(row)

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """Settle, and nothing goes on."""
        with self._lock, self._leaving(claim) as row:
            try:
                super().fail(claim, failure, duration=duration, delay=delay)
            finally:
                self._note_end(row, failure, None)

    def retry_later(
        self,
        claim: Claim,
        failure: Failure,
        *,
        duration: timedelta | None,
        delay: timedelta,
        outage: Outage | None,
    ) -> None:
        """Settle, and go on."""
        status = GenerationStatus.TIMEOUT if failure.code is FailureCode.TIMEOUT else GenerationStatus.ERROR
        with self._lock, self._leaving(claim, status, {failure.code.value}) as row:
            try:
                super().fail(claim, failure, duration=duration, delay=delay)
                if failure.overloaded and row is not None:
                    self.attempts[claim.token] = replace(self.attempts[claim.token], counted=False)
            finally:
                self._note_end(row, failure, outage)

    def give_back(
        self,
        claim: Claim,
        *,
        delay: timedelta,
        reason: str,  # noqa: ARG002
        wire_requests: int,
        outage: Outage | None,
    ) -> None:
        """Take lease and token away; reasons are not kept here."""
        with self._lock:
            now, row = self._clock.now(), self.attempts.get(claim.token)
            if row is None or row.outcome is not None or row.is_queued or row.accepted_at is None:
                return
            del self.attempts[row.token]
            row = replace(
                row,
                token=uuid4(),
                lease_expires_at=None,
                wire_requests=row.wire_requests + wire_requests,
                provider_outcome=ProviderOutcome.NOT_GENERATED,
                route=row.route if outage is not None else None,
            )
            self._put_off(row, now + delay)
            generation = self._find(claim.user_id, claim.generation_id)
            if generation is not None and generation.status is GenerationStatus.PROCESSING:
                self._update(generation, now, GenerationStatus.QUEUED)
            if outage is not None and row.route is not None:
                self.routes.close(row.route, outage, now)

    def cancel(self, user_id: UUID, generation_id: UUID, *, reason: AiRetryError | None) -> timedelta | None:
        """Close what is queued; what a dead worker left is queued, too."""
        with self._lock:
            now = self._clock.now()
            for row in self._attempts_of(generation_id):
                if row.user_id == user_id and row.accepted_at is not None:
                    self._abandon(row, now)
            for row in self._open(user_id):
                if row.generation_id == generation_id and row.lease_expires_at is not None:
                    return row.lease_expires_at - now if is_live(row, now) else None
                if row.generation_id == generation_id:
                    self._end(row, reason, now)
            return None

    def receive(self, *, limit: int, visibility: timedelta, poll: timedelta) -> Sequence[Message]:
        """Look; sleep for the whole poll when there is nothing, and look again."""
        self._require_queue()
        received = self._read(limit, visibility)
        if not received and poll:
            self._clock.sleep(poll.total_seconds())
            received = self._read(limit, visibility)
        return received

    def postpone(self, message: Message, *, delay: timedelta) -> None:
        """Find the attempt by its message."""
        with self._lock:
            now = self._clock.now()
            row = next((row for row in self._open(message.user_id) if row.message_id == message.id), None)
            if row is None or row.generation_id != message.generation_id:
                self.line.delete(message.id)
            elif row.is_queued:
                self._put_off(row, max(row.next_attempt_at or now, now + delay))
            else:
                lease = row.lease_expires_at if is_live(row, now) else None
                self.line.hide(message.id, lease or now + delay)

    def resend(self, *, max_live: int, limit: int) -> int:
        """Look for users with a due attempt that no message stands for, the longest due first."""
        with self._lock:
            now = self._clock.now()
            lost = [row for row in self.attempts.values() if self._is_lost(row, now)]
            users = dict.fromkeys(row.user_id for row in sorted(lost, key=lambda row: row.next_attempt_at or now))
            served = [each for each in users if self._has_room(each, max_live, now)][:limit]
            for user_id in served:
                for row in self._open(user_id):
                    self._abandon(row, now)
                for row in self._open(user_id):
                    if row.is_queued and row.message_id not in self.line.rows:
                        self.attempts[row.token] = replace(row, message_id=None)
                self._send_next(user_id, now)
            return len(served)

    def reap(self) -> bool:
        """End, or close, the one that is overdue for longest."""
        with self._lock:
            now = self._clock.now()
            rows = [row for row in self.attempts.values() if row.outcome is None and _ends_at(row, now) <= now]
            if not rows:
                return False
            row = min(rows, key=lambda row: _ends_at(row, now))
            if row.is_queued:
                self._end(row, RetryExpired(), now)
                return True
            self._abandon(row, now)
            return True

    def queue_state(self) -> QueueState:
        """Count."""
        with self._lock:
            now = self._clock.now()
            rows = [row for row in self.attempts.values() if row.outcome is None and row.accepted_at is not None]
            queued = [row for row in rows if row.is_queued]
            due = [row for row in queued if row.route is None and _is_due(row, now)]
            ended = [row.closed_at for row in self.attempts.values() if row.code == RetryPoisoned.code]
            return QueueState(
                as_of=now,
                configured=self.has_queue,
                queued=len(queued),
                due=len(due),
                parked=sum(row.route is not None for row in queued),
                running=len(rows) - len(queued),
                oldest_accepted_at=min((row.accepted_at for row in rows if row.accepted_at), default=None),
                poisoned=sum(at is not None and at > now - timedelta(hours=24) for at in ended),
                outages=tuple(self.routes.away()),
            )

    # What stands

    def _require_queue(self) -> None:
        if not self.has_queue:
            raise NotConfigured("there is no queue")

    def _open(self, user_id: UUID) -> list[AttemptRow]:
        return [row for row in self.attempts.values() if row.user_id == user_id and row.outcome is None]

    def _running_on(self, route: str | None, now: datetime) -> int:
        return sum(row.route == route and is_live(row, now) for row in self.attempts.values())

    def _parked(self, route: str | None) -> list[AttemptRow]:
        return [row for row in self.attempts.values() if row.is_queued and row.route == route is not None]

    def _wake(self, route: str | None, count: int, now: datetime) -> None:
        """Show the messages of so many who wait for a route: every user's first before anybody's second."""
        places = Counter[UUID]()
        ordered = []
        for row in sorted(self._parked(route), key=lambda row: row.accepted_at or now):
            message = self.line.rows.get(row.message_id or 0)
            if message is not None and message.visible_at > now and _is_due(row, now):
                places[row.user_id] += 1
                ordered.append((places[row.user_id], row.accepted_at or now, message.id))
        for _, _, message_id in sorted(ordered)[: max(0, count)]:
            self.line.hide(message_id, now)

    def _in_line(self, user_id: UUID, at: datetime, messages: Any = None) -> int:
        """Messages of the user that a worker has, or could have by then."""
        rows = [row for row in self._open(user_id) if row.message_id is not None and _is_due(row, at)]
        return len([row for row in rows if messages is None or row.message_id in messages])

    def _has_room(self, user_id: UUID, max_live: int, now: datetime) -> bool:
        """Whether few messages of the user stand in line; a few more may wait for a provider."""
        waiting = [row for row in self._open(user_id) if row.is_queued and row.message_id in self.line.rows]
        parked = sum(row.route is not None for row in waiting)
        return self._in_line(user_id, now, self.line.rows) < max_live and parked < 8 * max_live

    def _is_lost(self, row: AttemptRow, now: datetime) -> bool:
        since = row.next_attempt_at if row.is_queued else row.lease_expires_at if row.accepted_at else None
        overdue = row.outcome is None and since is not None and since <= now - _LOST_AFTER
        return overdue and row.message_id not in self.line.rows

    def _is_acceptable(self, admission: Admission, generation: Generation, now: datetime) -> bool:
        if now - admission.as_of > OLDEST_ADMISSION or admission.version != self._version(generation):
            return False
        return self._has_unit(admission, now) and not any(
            row.outcome is None for row in self._attempts_of(generation.id)
        )

    def _to_run(self, admission: Admission, generation: Generation, now: datetime) -> AttemptRow | None:
        """Find the queued attempt, unless what admitted it is no longer true."""
        if now - admission.as_of > OLDEST_ADMISSION:
            return None
        self._close_expired(generation, now)
        row = next((row for row in self._attempts_of(generation.id) if row.is_queued), None)
        if row is None or row.number != admission.number or admission.version != self._version(generation):
            return None
        in_time = row.expires_at is None or row.expires_at > now
        return row if in_time and len(self._live(admission.user_id, now)) < admission.max_live else None

    # What changes

    def _accept(
        self, admission: Admission, generation: Generation, token: UUID, now: datetime, expires_at: datetime
    ) -> AttemptRow:
        failed = generation.status in (GenerationStatus.ERROR, GenerationStatus.TIMEOUT)
        self.attempts[token] = AttemptRow(
            user_id=admission.user_id,
            generation_id=admission.generation_id,
            number=admission.number,
            token=token,
            started_at=now,
            lease_expires_at=None,
            next_attempt_at=max(admission.due_at or now, now),
            idempotency_key=admission.idempotency_key,
            charge=admission.charge,
            waived=admission.waived,
            operator=admission.operator,
            accepted_at=now,
            expires_at=expires_at,
            status_before=generation.status if failed else GenerationStatus.TIMEOUT,
            context_reader=admission.context_reader,
        )
        if self._in_line(admission.user_id, max(admission.due_at or now, now)) < admission.max_live:
            self._send_next(admission.user_id, now)
        self._update(generation, now, GenerationStatus.QUEUED)
        return self.attempts[token]

    @contextmanager
    def _leaving(
        self, claim: Claim, status: GenerationStatus | None = None, goes_on: set[str] | None = None
    ) -> Iterator[AttemptRow | None]:
        """After the attempt was closed: the next one, if its code says so, and the next message."""
        row = self.attempts.get(claim.token)
        if row is None or row.outcome is not None or row.accepted_at is None:
            yield None
            return
        try:
            yield row
        finally:
            closed, now = self.attempts[claim.token], self._clock.now()
            if closed.outcome is not None:
                generation = self._find(claim.user_id, claim.generation_id)
                if status is not None and goes_on and closed.code in goes_on and generation is not None:
                    self._requeue(closed, status, now)
                    self._update(generation, now, GenerationStatus.QUEUED)
                self._pass_message(row, now)

    def _close(self, row: AttemptRow, now: datetime, code: str | None, **columns: Any) -> AttemptRow:
        closed = super()._close(row, now, code, **columns)
        if closed.outcome is Outcome.ABANDONED and closed.accepted_at is not None:
            self._requeue(closed, GenerationStatus.TIMEOUT, now)
        return closed

    def _requeue(self, closed: AttemptRow, status_before: GenerationStatus, now: datetime) -> None:
        """Open the attempt after one that was closed; the accepted retry keeps its unit, and its message for now."""
        due_at = closed.next_attempt_at or now
        row = AttemptRow(
            user_id=closed.user_id,
            generation_id=closed.generation_id,
            number=closed.number + 1,
            token=uuid4(),
            started_at=now,
            lease_expires_at=None,
            next_attempt_at=min(due_at, closed.expires_at or due_at),
            idempotency_key=closed.idempotency_key,
            charge=closed.charge,
            waived=closed.waived,
            operator=closed.operator,
            accepted_at=closed.accepted_at,
            expires_at=closed.expires_at,
            status_before=status_before,
            message_id=closed.message_id,
            context_reader=closed.context_reader,
        )
        self.attempts[row.token] = row

    def _end(self, row: AttemptRow, reason: AiRetryError | None, now: datetime) -> None:
        """Close a queued attempt without a call."""
        generation, status = self._find(row.user_id, row.generation_id), row.status_before or GenerationStatus.TIMEOUT
        if generation is not None and not self._is_success(generation):
            if reason is None:
                self._update(generation, now, status)
            else:
                self._record_failure(generation, now, status, None, reason.code, str(reason))
        self._close(
            row,
            now,
            reason.code if reason else None,
            outcome=Outcome.FAILED if reason else Outcome.CANCELLED,
            next_attempt_at=row.next_attempt_at,
            provider_outcome=ProviderOutcome.NOT_GENERATED,
        )
        self._pass_message(row, now)

    def _put_off(self, row: AttemptRow, due_at: datetime) -> None:
        """Put a queued attempt and its message off, though not beyond its end."""
        end = row.expires_at if row.expires_at is not None and row.expires_at > self._clock.now() else due_at
        self.attempts[row.token] = replace(row, next_attempt_at=min(due_at, end))
        self.line.hide(row.message_id, min(due_at, end))

    # What is told

    def _send_next(self, user_id: UUID, now: datetime) -> None:
        """Send a message for who is due first and has none."""
        rows = [row for row in self._open(user_id) if row.is_queued and row.message_id is None]
        if rows:
            row = min(rows, key=lambda row: (row.next_attempt_at or now, row.accepted_at or now))
            payload = {"user_id": str(user_id), "generation_id": str(row.generation_id)}
            message_id = self.line.send(payload, max(row.next_attempt_at or now, now))
            self.attempts[row.token] = replace(row, message_id=message_id)

    def _pass_message(self, left: AttemptRow, now: datetime) -> None:
        """End a message; its place goes to the user's next."""
        if left.message_id is None:
            return
        self.line.delete(left.message_id)
        for row in self._open(left.user_id):
            if row.message_id == left.message_id:
                self.attempts[row.token] = replace(row, message_id=None)
        self._send_next(left.user_id, now)

    def _read(self, limit: int, visibility: timedelta) -> Sequence[Message]:
        """Read messages; drop what is none of ours."""
        with self._lock:
            now, received = self._clock.now(), []
            for row in self.line.read(limit, now + visibility, now):
                try:
                    user_id, generation_id = (UUID(row.payload[name]) for name in ("user_id", "generation_id"))
                except (TypeError, KeyError, ValueError, AttributeError):
                    self.line.delete(row.id)
                else:
                    received.append(Message(id=row.id, user_id=user_id, generation_id=generation_id))
            return received

    def _note_answer(self, row: AttemptRow | None) -> None:
        if row is not None and self.attempts[row.token].outcome is not None:
            now = self._clock.now()
            slots = self.routes.answered(row.route, row.started_at)
            self._wake(row.route, slots - self._running_on(row.route, now), now)

    def _note_end(self, row: AttemptRow | None, failure: Failure, outage: Outage | None) -> None:
        if outage is not None and row is not None and row.route is not None:
            self.routes.close(row.route, outage, self._clock.now())
        elif failure.provider_outcome is not ProviderOutcome.UNKNOWN:
            self._note_answer(row)


def _ends_at(row: AttemptRow, now: datetime) -> datetime:
    return row.lease_expires_at or row.expires_at or now


def _is_due(row: AttemptRow, now: datetime) -> bool:
    return not row.is_queued or (row.next_attempt_at is not None and row.next_attempt_at <= now)
