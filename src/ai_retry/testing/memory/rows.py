"""Rows of attempts in memory, and what a row says of itself."""

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.change import CallRecord, Running
from ai_retry.domain.model import Attempt, GenerationStatus, Outcome, ProviderOutcome, Waiver

_NO_CALL = CallRecord(provider_outcome=ProviderOutcome.NOT_GENERATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Attempt):
    """An attempt, open while it has no outcome, with what decisions don't see of it."""

    user_id: UUID
    generation_id: UUID
    token: UUID = field(repr=False)
    charge: bool
    waived: frozenset[Waiver]
    operator: str | None
    lease_expires_at: datetime | None = None
    renewable_until: datetime | None = None
    route: str | None = None
    status_before: GenerationStatus = GenerationStatus.TIMEOUT
    in_line: int = 1
    message_id: int | None = None
    kept_cause: str | None = None  # why its answer, which is stored, could not be settled
    reason: str | None = None
    session_id: str | None = None
    captured_at: datetime | None = None
    call: CallRecord = _NO_CALL
    discarded_by: str | None = None
    unreported: bool = False  # the app holds the generation's row, and is informed later

    def is_live(self, now: datetime) -> bool:
        """Whether it runs under a valid lease; a lease that ends now has ended."""
        return self.outcome is None and self.lease_expires_at is not None and self.lease_expires_at > now

    def as_attempt(self) -> Attempt:
        """What decisions see of it."""
        seen: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Attempt)}
        doubtful = [each.route for each in self.call.calls if each.outcome is ProviderOutcome.UNKNOWN]
        in_doubt = doubtful if self.outcome is not None and self.call.calls else None
        return Attempt(**seen | {"provider_outcome": self.call.provider_outcome, "in_doubt": in_doubt})


def running(row: Row, start: Running, token: UUID, now: datetime) -> Row:
    """Turn a row to running, under this token."""
    called = start.answer_from is None
    return replace(
        row,
        token=token,
        started_at=now,
        lease_expires_at=now + start.lease,
        renewable_until=now + start.longest,
        next_attempt_at=now + start.lease + start.abandoned_wait,
        answer_from=start.answer_from,
        route=start.route,
        counted=called,  # an attempt that uses a stored answer calls no provider: abandoned, it has cost nothing
        call=replace(row.call, provider_outcome=ProviderOutcome.UNKNOWN if called else row.call.provider_outcome),
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
        next_attempt_at=in_time(closed, closed.next_attempt_at or now, now),
        accepted_at=closed.accepted_at,
        expires_at=closed.expires_at,
        status_before=closed.status_before if closed.outcome is Outcome.FAILED else GenerationStatus.TIMEOUT,
        in_line=closed.in_line,
        context_reader=closed.context_reader,
        origin=closed.origin,
    )


def in_time(row: Row, due_at: datetime, now: datetime) -> datetime:
    """Not after the accepted retry's end, if that is still to come."""
    return min(due_at, row.expires_at) if row.expires_at is not None and row.expires_at > now else due_at


def is_out_of_time(row: Row, now: datetime) -> bool:
    """Whether the accepted retry is not tried any more."""
    return row.expires_at is not None and row.expires_at <= now


def is_due(row: Row, now: datetime) -> bool:
    """Whether a queued attempt may run."""
    return row.next_attempt_at is not None and row.next_attempt_at <= now


def still_holds(row: Row, now: datetime) -> bool:
    """Whether the unit stays held when what is over is closed: an accepted retry keeps it."""
    return row.accepted_at is not None or row.is_live(now)


def with_call(row: Row, call: CallRecord | None) -> CallRecord:
    """The call, with the requests that were sent before the attempt was put back; a kept answer's is known already."""
    if call is None or row.kept_cause is not None:
        return row.call
    return replace(call, wire_requests=row.call.wire_requests + call.wire_requests)
