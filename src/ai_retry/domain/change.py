"""What a decision wants to become true, as values: the storage applies one in one transaction, or not at all.

A change carries durations, never instants of this machine: the storage's time decides. It names what it expects to
find, which the storage compares before it writes; one whose snapshot is no longer true is *stale*, and the reply
carries the fresh one to decide again. No rule may live here: ``decide`` makes changes, storages apply them.

::

    Begin    closes what is over for a user (CloseOver: only that); then opens an attempt, or runs a queued one
    Settle   closes one attempt: with its session, or without; an accepted retry's next attempt follows
    Amend    changes an open attempt, or a stored answer: put back, postpone, renew, discard; closes nothing
    Keep     the last resort: stores a paid answer, whatever the app has locked
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeAlias
from uuid import UUID

from ai_retry.domain.model import (
    UNKNOWN_ORIGIN,
    Answer,
    ClosedOver,
    GenerationStatus,
    Origin,
    Outcome,
    ProviderCall,
    ProviderOutcome,
    QuotaRule,
    Snapshot,
    Usage,
    Waiver,
)
from ai_retry.domain.queue_model import Message, Outage, RouteNote

ABANDONED: Final = "The attempt was not finished in time."  # for the app's error log


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a begin must find: the snapshot's version, and room below the ceilings.

    The ceilings are counted under the user's lock, after everything that is over was closed.
    """

    as_of: datetime  # of the snapshot; ten seconds later it is too old
    version: str  # of the snapshot
    quota_rule: QuotaRule  # which units count as captured; an override of the user's, as it is then, goes before it
    max_live: int | None = None  # running attempts of the user must be fewer; None: not asked
    max_used: int | None = None  # units that are captured or held must be fewer; None: not asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How an attempt runs."""

    lease: timedelta  # from now until others may close the attempt; a renewal prolongs it
    longest: timedelta  # from now until the instant that no renewal exceeds
    abandoned_wait: timedelta  # after the lease, before the next attempt, if the attempt is abandoned
    answer_from: int | None  # number of the attempt whose stored answer is used; None: the provider is called
    route: str | None  # the provider and model that are asked; None: no outage of theirs matters


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A retry that is accepted for later."""

    wait: timedelta  # from the snapshot's ``as_of`` until its first attempt is due
    expires_after: timedelta  # from now; then it is not tried any more
    status_before: GenerationStatus  # what the generation says again if it is cancelled
    in_line: int  # messages of one user that the queue holds at once
    context_reader: str | None = None  # the name of what read the context; no other reader may judge it


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGeneration:
    """A generation that a begin creates through the app's binding, for its first call: attempt number 1."""

    prompt_data: Any = field(repr=False)  # JSON as the app stores it
    model: str | None
    columns: Mapping[str, Any] = field(repr=False)  # whatever else the binding's app_create_generation asks for
    digest: str  # of the request, as a rule of all of it: the same one again is recognised


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A new attempt: it runs at once, or it is accepted for later."""

    start: Running | Acceptance
    create: NewGeneration | None = None  # in the same transaction, before the attempt; None: the generation is there
    charge: bool = True  # False: it holds no unit
    idempotency_key: str | None = None
    waived: frozenset[Waiver] = frozenset()
    operator: str | None = None
    origin: Origin = UNKNOWN_ORIGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The generation's queued attempt turns to running."""

    number: int  # of the attempt; one that follows it has another, and its own wait
    start: Running


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Close every attempt of the user that is over; then open an attempt, or run the queued one.

    Over is an attempt whose lease has run out (abandoned: an accepted retry goes on with its next attempt), or whose
    accepted retry is out of time. An attempt of the same generation that is over is closed, too, even if it is another
    user's: the app may have moved the generation. The app is informed, or later if it locks its row just then.

    Stale, before that, when the version or the age is not as expected; after that, when a ceiling is reached, another
    attempt is open, the route is unavailable, or a generation to be created is there. What is refused leaves nothing.
    """

    user_id: UUID
    generation_id: UUID
    token: UUID = field(repr=False)  # of the attempt
    attempt: Open | Run
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOver:
    """Close what is over for a user, and begin nothing; the part of a begin that needs no snapshot. Never stale.

    Queued attempts whose generation is gone, or is another user's, are cancelled, too.
    """

    user_id: UUID


class Found(StrEnum):
    """What a settle expects of the generation. A deletion, a move and a success are all that can interfere."""

    READY = "ready"  # it can get its session
    SUCCEEDED = "succeeded"  # it has its session, or its status says so
    FOREIGN = "foreign"  # it is hidden, or another user's now
    GONE = "gone"  # there is no such row


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """What is known of an attempt's provider call, or calls; true whatever becomes of the attempt."""

    provider_outcome: ProviderOutcome
    duration: timedelta | None = None
    model: str | None = None
    usage: Usage | None = None
    provider_id: str | None = None
    wire_requests: int = 0
    calls: Sequence[ProviderCall] = ()  # each request


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """How the attempt is closed instead, in the same transaction, if the session is rejected; the answer is stored."""

    message: str  # for the app's error log
    wait: timedelta  # before the next attempt
    again_wait: timedelta  # the same, when the same cause rejected the attempt before


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """Create the session from the answer, and capture the unit."""

    answer: Answer
    answer_from: int | None  # number of the attempt whose stored answer it is; None: this attempt paid for it
    if_rejected: Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Close the attempt without a session, and release its unit.

    A generation that is hidden, or another user's, gets the status only if it says that an attempt works on it.
    """

    outcome: Outcome  # failed or cancelled
    code: str | None
    counted: bool  # whether it uses up one of the attempts
    wait: timedelta | None  # before the next attempt; None: the wait that the attempt has already stays
    status: GenerationStatus | None = None  # what the generation says then; None: what it said before the acceptance
    message: str | None = None  # for the app's error log, with an event; None: the app is not informed
    reason: str | None = None  # for operators
    transient: bool | None = None  # the failure's; None: it did not fail with one
    operator_fault: bool = False  # the failure's
    goes_on: bool = False  # an accepted retry's next attempt follows, due after the wait
    answer: Answer | None = None  # paid and stored, since no session can be created now


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Close one attempt, by its token.

    Stale when the generation is not as expected. A token whose attempt is closed already changes nothing, but that an
    answer which this attempt paid for is stored with it, once: a late answer.
    """

    user_id: UUID
    generation_id: UUID
    token: UUID = field(repr=False)
    found: Found
    end: Success | Closing
    quota_rule: QuotaRule  # for the snapshot of the reply
    call: CallRecord | None = None  # None: the provider was not called in this attempt
    outage: Outage | None = None  # what the call showed of its route
    answered: bool = False  # the route answered
    elsewhere: Sequence[RouteNote] = ()  # what its calls showed of other routes


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """Turn a running accepted attempt back to queued, under a token that no process knows."""

    user_id: UUID
    generation_id: UUID
    token: UUID = field(repr=False)
    wait: timedelta
    reason: str
    wire_requests: int
    outage: Outage | None
    provider_outcome: ProviderOutcome = ProviderOutcome.NOT_GENERATED  # unknown: its call may have generated
    elsewhere: Sequence[RouteNote] = ()  # what its calls showed of other routes


@dataclass(frozen=True, slots=True, kw_only=True)
class Postpone:
    """Put a message back, and its queued attempt with it; one that belongs to no open attempt is deleted."""

    message: Message
    wait: timedelta  # until the attempt is due
    spread: timedelta = timedelta(0)  # so much later the message comes, unless an answer of the route wakes it
    route: str | None = None  # that it waits for; None: another reason
    code: str | None = None  # why, for events; no storage is given it


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Prolong the lease of a running attempt, even of one that is over; never shorten it.

    Stale when the attempt is closed, or its answer is kept.
    """

    generation_id: UUID
    token: UUID = field(repr=False)
    lease: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    """Drop the generation's stored answers; stale while an open attempt has or uses one, or when there are none."""

    user_id: UUID
    generation_id: UUID
    operator: str


Amend: TypeAlias = PutBack | Postpone | Renew | Discard


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Store a paid answer with its attempt, by one write to only a table of ours, and end the lease.

    For the case that settling fails for as long as it is repeated. The attempt is not counted. The close that follows
    records a rejected session, by this cause; a settle that arrives before it still creates the session. A closed
    attempt gets a late answer. A repeat changes nothing.
    """

    user_id: UUID
    generation_id: UUID
    token: UUID = field(repr=False)
    answer: Answer
    cause: str
    wait: timedelta  # from now, whenever the attempt is closed, before the next one
    call: CallRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What became of a change."""

    applied: bool  # False: stale; nothing was written but what is true anyway: attempts that are over, a late answer
    snapshot: Snapshot | None = None  # as it is now, of a begin or settle; None: there is no such generation
    known: bool = True  # of a settle: the storage has an attempt under the token, open or closed
    closed: Sequence[ClosedOver] = ()  # in passing


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A message, and what it is about."""

    message: Message
    snapshot: Snapshot | None
