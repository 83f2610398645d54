"""The ``Storage`` port over dictionaries: the executable reference of its semantics, for tests and examples.

Every method takes one lock and reads its clock once, as the SQL functions do. The public attributes are the tables;
tests and examples fill and read them directly. No rule of ``policy`` belongs here, and nothing survives the process.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeAlias
from uuid import UUID, uuid4

from ai_retry.domain.errors import (
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    SessionRejected,
)
from ai_retry.domain.model import (
    Admission,
    Answer,
    Attempt,
    Claim,
    Failure,
    FailureCode,
    Generation,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    Quota,
    QuotaRule,
    Settled,
    Snapshot,
    StoredAnswer,
    Usage,
    Waiver,
)
from ai_retry.domain.ports import Clock

OLDEST_ADMISSION = timedelta(seconds=10)

Session: TypeAlias = Mapping[str, Any]
CreateSession: TypeAlias = Callable[[Generation, Any], Session]  # may raise SessionRefused; ``id`` is a UUID's text


class SessionRefused(Exception):
    """What the seam raises when a constraint refuses the session."""

    def __init__(self, constraint: str) -> None:
        super().__init__(constraint)
        self.constraint = constraint


def new_session(generation: Generation, output: Any) -> Session:
    """Create a session that keeps the output as its content."""
    return {"id": str(uuid4()), "user_id": str(generation.user_id), "content": output}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow(Attempt):
    """An attempt with what only the storage knows of it."""

    user_id: UUID
    generation_id: UUID
    token: UUID = field(repr=False)
    charge: bool
    waived: frozenset[Waiver]
    operator: str | None
    captured_at: datetime | None = None
    stored_answer: Answer | None = field(default=None, repr=False)
    model: str | None = None
    usage: Usage | None = None
    wire_requests: int = 0
    discarded_at: datetime | None = None
    discarded_by: str | None = None
    status_before: GenerationStatus | None = None  # of a queued one: what the generation says if it is taken back
    message_id: int | None = None
    route: str | None = None

    def as_attempt(self) -> Attempt:
        """The part that the domain sees."""
        return Attempt(**{column.name: getattr(self, column.name) for column in fields(Attempt)})


class InMemoryStorage:
    """Generations, attempts and quotas in this process, in the clock's time.

    Args:
        clock: the storage's own time.
        create_session: the app's seam.
    """

    def __init__(self, clock: Clock, *, create_session: CreateSession = new_session) -> None:
        self.generations: dict[UUID, Generation] = {}
        self.sessions: dict[UUID, Session] = {}
        self.attempts: dict[UUID, AttemptRow] = {}  # by token, in the order in which they were opened
        self.events: list[dict[str, Any]] = []
        self.error_logs: list[dict[str, Any]] = []
        self.quotas: dict[UUID, QuotaRule] = {}  # overrides: their limit and window replace the rule's
        self.create_session = create_session
        self.can_create_session = True  # False stands for a seam that is not set up
        self._clock = clock
        self._lock = threading.RLock()

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """Read everything under the lock, and write nothing."""
        with self._lock:
            now = self._clock.now()
            generation = self._find(user_id, generation_id)
            if generation is None:
                return None
            live = self._live(user_id, now)
            return Snapshot(
                as_of=now,
                version=self._version(generation),
                generation=generation,
                attempts=tuple(row.as_attempt() for row in self._attempts_of(generation_id)),
                live=len(live),
                live_until=min((row.lease_expires_at for row in live if row.lease_expires_at), default=None),
                quota=self._quota(user_id, quota_rule, now),
                stored_answer=self._stored_answer(generation),
                session=self._session_of(generation),
                can_create_session=self.can_create_session,
            )

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """Compare with what the admission was decided upon, then open the attempt."""
        with self._lock:
            now = self._clock.now()
            if token in self.attempts:
                row = self.attempts[token]
                return claim_of(row) if row.generation_id == admission.generation_id else None
            if now - admission.as_of > OLDEST_ADMISSION:
                return None
            generation = self._find(admission.user_id, admission.generation_id)
            if generation is None:
                raise GenerationNotFound(admission.generation_id)
            self._close_expired(generation, now)
            if not self._still_admitted(admission, generation, now):
                return None
            called = admission.stored_answer is None
            row = AttemptRow(
                user_id=admission.user_id,
                generation_id=admission.generation_id,
                number=admission.number,
                token=token,
                started_at=now,
                lease_expires_at=now + lease,
                next_attempt_at=now + lease + admission.abandoned_wait,
                idempotency_key=admission.idempotency_key,
                charge=admission.charge,
                waived=admission.waived,
                operator=admission.operator,
                # Who uses a stored answer calls nobody: should it be abandoned, it has cost nothing.
                counted=called,
                provider_outcome=ProviderOutcome.UNKNOWN if called else ProviderOutcome.NOT_GENERATED,
            )
            self.attempts[token] = row
            self._update(generation, now, GenerationStatus.PROCESSING)
            return claim_of(row)

    def succeed(
        self,
        claim: Claim,
        answer: Answer,
        *,
        answer_from: int | None,
        duration: timedelta | None,
        quota_rule: QuotaRule,
        rejected_wait: timedelta,
        rejected_again_wait: timedelta,
    ) -> Settled:
        """Create the session first: whatever else the seam raises leaves everything as it was."""
        with self._lock:
            now = self._clock.now()
            called = answer_from is None
            row, generation = self._to_settle(claim, now, _facts(answer, called=called), counted=called)
            if row.outcome is Outcome.SUCCEEDED:
                return self._settled(generation, quota_rule, now)
            if self._is_success(generation) and not self._has_success(generation.id):
                self._keep(row, answer, answer_from)  # by another hand, which may take it back
            self._refuse_succeeded(self.attempts[row.token], generation, now, counted=called)
            if row.outcome is not None:
                self._refuse_late(row, answer, answer_from, now)
            try:
                session = self.create_session(generation, answer.output)
            except SessionRefused as refused:
                again = self._refused_before(generation.id, refused.constraint)
                wait = rejected_again_wait if again else rejected_wait
                row = self._close(
                    row, now, SessionRejected.code, next_attempt_at=now + wait, refused_constraint=refused.constraint
                )
                self._keep(row, answer, answer_from)
                self._record_failure(
                    generation, now, GenerationStatus.ERROR, duration, SessionRejected.code, SessionRejected.summary
                )
                raise SessionRejected(refused.constraint, retry_after=wait) from refused
            return self._link(row, generation, session, quota_rule, duration, now)

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """Close by token; a repeat is told apart by the outcome that stands."""
        with self._lock:
            now = self._clock.now()
            row, generation = self._to_settle(claim, now, _facts(failure), counted=failure.counted)
            self._refuse_succeeded(row, generation, now, counted=failure.counted)
            if row.outcome is Outcome.FAILED:
                return
            if row.outcome is not None:
                raise LeaseLost(answer_kept=False)
            self._close(
                row,
                now,
                failure.code.value,
                counted=failure.counted,
                next_attempt_at=now + delay,
                transient=failure.transient,
                operator_fault=failure.operator_fault,
            )
            status = GenerationStatus.TIMEOUT if failure.code is FailureCode.TIMEOUT else GenerationStatus.ERROR
            message = str(GenerationFailed(failure))
            self._record_failure(generation, now, status, duration, failure.code.value, message)

    def discard_answer(self, user_id: UUID, generation_id: UUID, *, operator: str) -> bool:
        """Clear it and record who did."""
        with self._lock:
            now = self._clock.now()
            stored = [
                row
                for row in self._attempts_of(generation_id)
                if row.user_id == user_id and row.stored_answer is not None
            ]
            for row in stored:
                self.attempts[row.token] = replace(row, stored_answer=None, discarded_at=now, discarded_by=operator)
            return bool(stored)

    # What stands

    def _find(self, user_id: UUID, generation_id: UUID) -> Generation | None:
        generation = self.generations.get(generation_id)
        return generation if generation is not None and generation.user_id == user_id else None

    def _attempts_of(self, generation_id: UUID) -> list[AttemptRow]:
        rows = (row for row in self.attempts.values() if row.generation_id == generation_id)
        return sorted(rows, key=lambda row: row.number)

    def _live(self, user_id: UUID, now: datetime) -> list[AttemptRow]:
        return [row for row in self.attempts.values() if row.user_id == user_id and is_live(row, now)]

    def _holds(self, user_id: UUID, now: datetime) -> list[AttemptRow]:
        """Who holds a unit: what may still succeed."""
        ours = (row for row in self.attempts.values() if row.user_id == user_id)
        return [row for row in ours if row.charge and (row.is_queued or is_live(row, now))]

    def _stored_answer(self, generation: Generation) -> StoredAnswer | None:
        for row in reversed(self._attempts_of(generation.id)):
            if row.stored_answer is not None and row.user_id == generation.user_id:
                return StoredAnswer(number=row.number, answer=row.stored_answer)
        return None

    def _session_of(self, generation: Generation) -> Session | None:
        return self.sessions.get(generation.session_id) if generation.session_id else None

    def _is_success(self, generation: Generation) -> bool:
        return generation.status is GenerationStatus.SUCCESS or self._has_success(generation.id)

    def _has_success(self, generation_id: UUID) -> bool:
        return any(row.outcome is Outcome.SUCCEEDED for row in self._attempts_of(generation_id))

    def _version(self, generation: Generation) -> str:
        """Everything that ``admit`` rests on; closing an attempt as abandoned does not change it."""
        last = next(reversed(self._attempts_of(generation.id)), None)
        stored = self._stored_answer(generation)
        return "/".join(
            (
                str(last.number if last else 1),
                generation.status,
                str(last.next_attempt_at if last else None),
                str(stored.number if stored else None),
            )
        )

    def _quota(self, user_id: UUID, rule: QuotaRule, now: datetime) -> Quota:
        override = self.quotas.get(user_id, rule)
        rule = replace(rule, limit=override.limit, window=override.window)
        captured = self._captured(user_id, rule, now)[: rule.limit]
        held = [row.lease_expires_at for row in self._holds(user_id, now)]
        return Quota(
            limit=rule.limit,
            window=rule.window,
            captured=len(captured),
            held=len(held),
            resets_at=_resets_at(rule, captured, held),
        )

    def _captured(self, user_id: UUID, rule: QuotaRule, now: datetime) -> list[datetime]:
        """When the units in the window were spent, newest first."""
        ours = [row for row in self.attempts.values() if row.user_id == user_id]
        spent = [row.captured_at for row in ours if row.captured_at is not None]
        if rule.count_own_successes:
            made_by_us = {row.generation_id for row in ours if row.outcome is Outcome.SUCCEEDED}
            spent += [
                generation.created_at
                for generation in self.generations.values()
                if generation.user_id == user_id
                and generation.status is GenerationStatus.SUCCESS
                and generation.id not in made_by_us
            ]
        return sorted((instant for instant in spent if instant > now - rule.window), reverse=True)

    # What a claim must find

    def _close_expired(self, generation: Generation, now: datetime) -> None:
        for row in list(self.attempts.values()):
            its = row.user_id == generation.user_id or row.generation_id == generation.id
            if its:
                self._abandon(row, now)

    def _abandon(self, row: AttemptRow, now: datetime) -> None:
        """Close an attempt if its lease ran out, and tell the app."""
        if row.outcome is not None or row.is_queued or is_live(row, now):
            return
        generation = self.generations.get(row.generation_id)
        if generation is not None and generation.status is GenerationStatus.PROCESSING:
            status = GenerationStatus.TIMEOUT if row.accepted_at is None else GenerationStatus.QUEUED
            self._record_failure(generation, now, status, None, LeaseLost.code, "The attempt was not finished in time.")
        self._close(
            row,
            now,
            LeaseLost.code,
            outcome=Outcome.ABANDONED,
            counted=row.counted,
            next_attempt_at=row.next_attempt_at,
        )

    def _still_admitted(self, admission: Admission, generation: Generation, now: datetime) -> bool:
        if admission.version != self._version(generation):
            return False
        if any(row.outcome is None for row in self._attempts_of(generation.id)):
            return False
        if len(self._live(admission.user_id, now)) >= admission.max_live:
            return False
        return self._has_unit(admission, now)

    def _has_unit(self, admission: Admission, now: datetime) -> bool:
        if admission.max_used is None:
            return True
        captured = self._captured(admission.user_id, admission.quota_rule, now)
        return len(captured) + len(self._holds(admission.user_id, now)) < admission.max_used

    # What a settle does

    def _to_settle(
        self, claim: Claim, now: datetime, facts: dict[str, Any], *, counted: bool
    ) -> tuple[AttemptRow, Generation]:
        """Find both by the token; what the provider did is true whatever became of the attempt."""
        row = self.attempts.get(claim.token)
        generation = self._find(claim.user_id, claim.generation_id)
        if row is not None and row.outcome is not Outcome.SUCCEEDED and row.stored_answer is None:
            asked = row.wire_requests  # before it was given back, or what a late answer told already
            wire_requests = facts["wire_requests"] + asked if row.outcome is None else facts["wire_requests"]
            facts = {**facts, "wire_requests": max(asked, wire_requests)}
            row = self.attempts[row.token] = replace(row, **facts)
        if row is not None and generation is not None:
            return row, generation
        if row is not None and row.outcome is None:
            self._close(row, now, GenerationNotFound.code, counted=counted, next_attempt_at=row.next_attempt_at)
        raise GenerationNotFound(claim.generation_id)

    def _refuse_succeeded(self, row: AttemptRow, generation: Generation, now: datetime, *, counted: bool) -> None:
        """Charge nothing for a generation that has its session by another hand, and save no attempt or wait."""
        if self._is_success(generation):
            if row.outcome is None:
                self._close(row, now, AlreadySucceeded.code, counted=counted, next_attempt_at=row.next_attempt_at)
            raise AlreadySucceeded(generation.id, generation.session_id)

    def _refuse_late(self, row: AttemptRow, answer: Answer, answer_from: int | None, now: datetime) -> NoReturn:
        """Keep the answer of an attempt that was closed before; a repeat is told what it was told then."""
        if row.code == SessionRejected.code:
            wait = max((row.next_attempt_at or now) - now, timedelta(0))
            raise SessionRejected(row.refused_constraint, retry_after=wait)
        self._keep(row, answer, answer_from)
        raise LeaseLost(answer_kept=True)

    def _keep(self, row: AttemptRow, answer: Answer, answer_from: int | None) -> None:
        """Store a paid answer with the attempt that paid; one that came from the store still stands there."""
        if answer_from is None and row.discarded_at is None:
            self.attempts[row.token] = replace(row, stored_answer=answer)

    def _link(
        self,
        row: AttemptRow,
        generation: Generation,
        session: Session,
        rule: QuotaRule,
        duration: timedelta | None,
        now: datetime,
    ) -> Settled:
        """Make the session the generation's, and capture the held unit."""
        session_id = UUID(session["id"])
        self.sessions[session_id] = session
        self._close(
            row, now, None, outcome=Outcome.SUCCEEDED, counted=row.counted, captured_at=now if row.charge else None
        )
        for used in self._attempts_of(generation.id):
            self.attempts[used.token] = replace(used, stored_answer=None)
        generation = self._update(generation, now, GenerationStatus.SUCCESS, duration, session_id=session_id)
        self._record_event(generation, now, "ai_generation_succeeded")
        return self._settled(generation, rule, now)

    def _refused_before(self, generation_id: UUID, constraint: str) -> bool:
        rows = [row for row in self._attempts_of(generation_id) if row.code == SessionRejected.code]
        return bool(rows) and rows[-1].refused_constraint == constraint

    def _close(
        self,
        row: AttemptRow,
        now: datetime,
        code: str | None,
        *,
        outcome: Outcome = Outcome.FAILED,
        counted: bool = False,
        next_attempt_at: datetime | None = None,
        **columns: Any,
    ) -> AttemptRow:
        columns |= {"outcome": outcome, "counted": counted, "next_attempt_at": next_attempt_at}
        self.attempts[row.token] = closed = replace(row, closed_at=now, code=code, **columns)
        return closed

    def _update(
        self,
        generation: Generation,
        now: datetime,
        status: GenerationStatus,
        duration: timedelta | None = None,
        **columns: Any,
    ) -> Generation:
        columns |= {"status": status, "duration": generation.duration if duration is None else duration}
        self.generations[generation.id] = updated = replace(generation, updated_at=now, **columns)
        return updated

    def _settled(self, generation: Generation, rule: QuotaRule, now: datetime) -> Settled:
        session = self._session_of(generation) or {}  # empty: the app removed it since
        quota = self._quota(generation.user_id, rule, now)
        return Settled(generation=generation, session=session, quota=quota)

    def _record_failure(
        self,
        generation: Generation,
        now: datetime,
        status: GenerationStatus,
        duration: timedelta | None,
        code: str,
        message: str,
    ) -> None:
        self._update(generation, now, status, duration)
        log = {"error_type": code, "error_message": message, "created_at": now}
        self.error_logs.append({"generation_id": generation.id, **log})
        self._record_event(generation, now, "ai_generation_failed")

    def _record_event(self, generation: Generation, now: datetime, event_type: str) -> None:
        ids = {"user_id": generation.user_id, "generation_id": generation.id}
        self.events.append({**ids, "event_type": event_type, "created_at": now})


def is_live(row: AttemptRow, now: datetime) -> bool:
    """Whether it is open under a valid lease; one that ends now has ended."""
    return row.outcome is None and row.lease_expires_at is not None and row.lease_expires_at > now


def claim_of(row: AttemptRow) -> Claim:
    """What its worker was given."""
    assert row.lease_expires_at is not None  # noqa: S101 (whoever's token it is has claimed)
    return Claim(
        user_id=row.user_id,
        generation_id=row.generation_id,
        number=row.number,
        token=row.token,
        lease_expires_at=row.lease_expires_at,
    )


def _resets_at(rule: QuotaRule, captured: Sequence[datetime], held: Sequence[datetime | None]) -> datetime | None:
    """When the next unit comes back; ``captured`` is newest first, ``held`` are ends of leases, None while queued."""
    if rule.limit == 0:
        return None
    if len(held) >= rule.limit:
        return min((end for end in held if end is not None), default=None)
    if len(captured) + len(held) >= rule.limit:
        return captured[rule.limit - len(held) - 1] + rule.window
    return captured[-1] + rule.window if captured else None


def _facts(result: Answer | Failure, *, called: bool = True) -> dict[str, Any]:
    """What the provider did in an attempt: nothing, when a stored answer was used."""
    outcome = result.provider_outcome if isinstance(result, Failure) else ProviderOutcome.GENERATED
    return {
        "provider_outcome": outcome if called else ProviderOutcome.NOT_GENERATED,
        "model": result.model,
        "usage": result.usage if called else None,
        "wire_requests": result.wire_requests if called else 0,
    }
