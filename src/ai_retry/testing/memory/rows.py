"""Rows of attempts in memory, and what a row says of itself."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from ai_retry.domain.change import (
    CallRecord,
    Running,
)
from ai_retry.domain.model import (
    Attempt,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    Waiver,
)

_NO_CALL = CallRecord(provider_outcome=ProviderOutcome.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An attempt: open while it has no outcome, queued while it has no lease."""

    user_id: UUID
    generation_id: UUID
    number: int
    token: UUID = field(repr=False)
    started_at: datetime
    charge: bool
    waived: frozenset[Waiver]
    operator: str | None
    idempotency_key: str | None
    lease_expires_at: datetime | None = None
    renewable_until: datetime | None = None
    abandoned_wait: timedelta = timedelta(0)
    due_at: datetime | None = None  # queued: when it is due; closed: when the next attempt is
    answer_from: int | None = None
    route: str | None = None
    accepted_at: datetime | None = None
    expires_at: datetime | None = None
    status_before: GenerationStatus = GenerationStatus.TIMEOUT
    in_line: int = 1
    message_id: int | None = None
    kept_cause: str | None = None  # why its answer, which is stored, could not be settled
    outcome: Outcome | None = None
    closed_at: datetime | None = None
    code: str | None = None
    reason: str | None = None
    counted: bool = True
    cause: str | None = None  # what rejected its session
    transient: bool | None = None  # its failure's
    operator_fault: bool = False  # its failure's
    context_reader: str | None = None
    session_id: str | None = None
    captured_at: datetime | None = None
    call: CallRecord = _NO_CALL
    discarded_by: str | None = None
    untold: bool = False  # the app holds the generation's row, and is informed later

    @property
    def is_queued(self) -> bool:
        """Whether it waits for a worker."""
        return self.outcome is None and self.lease_expires_at is None

    def is_live(self, now: datetime) -> bool:
        """Whether it runs under a valid lease; a lease that ends now has ended."""
        return self.outcome is None and self.lease_expires_at is not None and self.lease_expires_at > now

    @property
    def next_attempt_at(self) -> datetime | None:
        """When the next attempt is due: of a running one, if it is abandoned."""
        if self.outcome is None and self.lease_expires_at is not None:
            return self.lease_expires_at + self.abandoned_wait
        return self.due_at

    def as_attempt(self) -> Attempt:
        """What decisions see of it."""
        return Attempt(
            number=self.number,
            started_at=self.started_at,
            lease_expires_at=self.lease_expires_at,
            outcome=self.outcome,
            closed_at=self.closed_at,
            code=self.code,
            counted=self.counted,
            next_attempt_at=self.next_attempt_at,
            idempotency_key=self.idempotency_key,
            refused_constraint=self.cause,
            provider_outcome=self.call.provider_outcome,
            accepted_at=self.accepted_at,
            expires_at=self.expires_at,
            transient=self.transient,
            operator_fault=self.operator_fault,
            context_reader=self.context_reader,
            answer_from=self.answer_from,
        )


def running(row: Row, start: Running, token: UUID, now: datetime) -> Row:
    """Turn a row to running, under this token."""
    called = start.answer_from is None
    return replace(
        row,
        token=token,
        started_at=now,
        lease_expires_at=now + start.lease,
        renewable_until=now + start.longest,
        abandoned_wait=start.abandoned_wait,
        answer_from=start.answer_from,
        route=start.route,
        counted=called,  # an attempt that uses a stored answer calls no provider: abandoned, it has cost nothing
        call=replace(row.call, provider_outcome=ProviderOutcome.UNKNOWN if called else ProviderOutcome.NOT_GENERATED),
    )


def follower(closed: Row, now: datetime) -> Row:
    """The queued attempt that follows one of an accepted retry; the unit stays held."""
    return Row(
        user_id=closed.user_id,
        generation_id=closed.generation_id,
        number=closed.number + 1,
        token=uuid4(),
        started_at=now,
        charge=closed.charge,
        waived=closed.waived,
        operator=closed.operator,
        idempotency_key=closed.idempotency_key,
        due_at=in_time(closed, closed.due_at or now, now),
        accepted_at=closed.accepted_at,
        expires_at=closed.expires_at,
        status_before=closed.status_before if closed.outcome is Outcome.FAILED else GenerationStatus.TIMEOUT,
        in_line=closed.in_line,
        context_reader=closed.context_reader,
    )


def in_time(row: Row, due_at: datetime, now: datetime) -> datetime:
    """Not after the accepted retry's end, if that is still to come."""
    return min(due_at, row.expires_at) if row.expires_at is not None and row.expires_at > now else due_at


def is_out_of_time(row: Row, now: datetime) -> bool:
    """Whether the accepted retry is not tried any more."""
    return row.expires_at is not None and row.expires_at <= now


def is_due(row: Row, now: datetime) -> bool:
    """Whether a queued attempt may run."""
    return row.due_at is not None and row.due_at <= now


def still_holds(row: Row, now: datetime) -> bool:
    """Whether the unit stays held when what is over is closed: an accepted retry keeps it."""
    return row.accepted_at is not None or row.is_live(now)


def with_call(row: Row, call: CallRecord | None) -> CallRecord:
    """The call, with the requests that were sent before the attempt was put back; a kept answer's is known already."""
    if call is None or row.kept_cause is not None:
        return row.call
    return replace(call, wire_requests=row.call.wire_requests + call.wire_requests)
