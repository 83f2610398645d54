"""What operators do and read, as values, and what that needs of a storage. See ``ai_retry.operate``.

No prompt and no answer is in any of them, but for the one that ``ReadAnswer`` asks for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol, TypeAlias
from uuid import UUID

from ai_retry.domain.model import ProviderCall, Quota, QuotaRule, Usage
from ai_retry.domain.queue_model import QueueState
from ai_retry.domain.recovery import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who does what, and why; recorded."""

    id: UUID  # chosen by the caller, so that recording can be repeated
    operator: str
    role: str
    action: str  # such as ``retry`` or ``hold_route``
    target: str  # such as ``generation:<id>``, ``user:<id>``, ``route:<name>``, ``plan:<id>``
    reason: str
    user_id: UUID | None = None  # whom it concerns; the record goes with that user


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What an operator did; ``outcome`` is None while it is under way, or if its process died."""

    id: UUID
    operator: str
    role: str
    action: str
    target: str
    reason: str
    at: datetime
    user_id: UUID | None = None
    ended_at: datetime | None = None
    outcome: str | None = None  # ``done``, ``nothing`` (there was nothing to do), or the code of an error


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRoute:
    """Call a route by no attempt, for so long from now on; a repeat replaces how long."""

    route: str
    duration: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRoute:
    """Forget that a route is held or unavailable, and let what waits for it go on."""

    route: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota:
    """Give a user a quota of their own."""

    user_id: UUID
    limit: int
    window: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetQuota:
    """Give a user the usual quota again."""

    user_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswer:
    """Read the answer that is kept for a generation of this user."""

    user_id: UUID
    generation_id: UUID


Deed: TypeAlias = HoldRoute | OpenRoute | SetQuota | ResetQuota | ReadAnswer
"""What a storage does for an operator, in the transaction that records it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a deed."""

    applied: bool  # False: there was nothing to do, and only that is recorded
    answer: str | None = field(default=None, repr=False)  # of ``ReadAnswer``: its output, as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Attempts that ended within a time, counted; where they are too many to be counted, the newest of them."""

    span: timedelta
    succeeded: int
    failed: int
    abandoned: int
    cancelled: int
    codes: Mapping[str, int]  # of those without a session that have one
    operator_faults: int  # failures that an operator has to cure
    calls: int  # requests that were sent to providers
    tokens: Decimal | None  # as far as providers reported them
    cost: Decimal | None
    is_whole: bool  # False: there were more than were counted

    @property
    def attempts(self) -> int:
        """All of them."""
        return self.succeeded + self.failed + self.abandoned + self.cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteReport:
    """A provider and model that are unavailable, held, or coming back."""

    route: str
    not_before: datetime  # no call goes there before
    began_at: datetime | None  # since when; None: not known
    failures: int  # in a row
    slots: int  # calls that may run at once when it opens; from 64 on any number
    running: int
    waiting: int  # accepted retries
    held_until: datetime | None = None  # an operator holds it
    held_by: str | None = None
    code: str | None = None  # of the last attempt there that failed within a day


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """How things are now: what ended lately, what waits, which routes are unavailable."""

    as_of: datetime
    last_10_minutes: Period
    last_15_minutes: Period
    last_hour: Period
    last_day: Period
    queue: QueueState
    routes: Sequence[RouteReport]
    oldest_due_at: datetime | None  # of the accepted retries that a worker could begin now
    oldest_kept_at: datetime | None  # of the paid answers that have no session
    spool_files: int | None = None  # answers that wait on this machine's disk; None: it has no spool


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """How many failed generations a search finds, counted no further than a bound."""

    count: int
    is_whole: bool  # False: there may be more
    codes: Mapping[str, int]  # by the last error's code


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """All that is recorded of an attempt, but its answer."""

    number: int
    started_at: datetime  # while it is queued: since when
    outcome: str | None = None  # None: open
    closed_at: datetime | None = None
    code: str | None = None
    reason: str | None = None  # one line without prompt, answer or key
    cause: str | None = None  # what rejected its session
    counted: bool = True
    transient: bool | None = None
    operator_fault: bool | None = None
    next_attempt_at: datetime | None = None
    due_at: datetime | None = None  # while it is queued
    lease_expires_at: datetime | None = None
    accepted_at: datetime | None = None
    expires_at: datetime | None = None
    session_id: str | None = None
    charge: bool = True
    captured_at: datetime | None = None
    waived: Sequence[str] = ()
    operator: str | None = None
    idempotency_key: str | None = None
    request_id: str | None = None
    answer_from: int | None = None
    route: str | None = None
    provider_outcome: str | None = None
    wire_requests: int = 0
    model: str | None = None
    usage: Usage | None = None
    duration: timedelta | None = None
    calls: Sequence[ProviderCall] = ()
    stored_at: datetime | None = None  # since when its paid answer is kept; None: none is
    discarded_at: datetime | None = None
    discarded_by: str | None = None

    @property
    def is_queued(self) -> bool:
        """Whether it waits for a worker."""
        return self.outcome is None and self.lease_expires_at is None

    @property
    def plan_id(self) -> str | None:
        """The recovery plan that made it."""
        key = self.idempotency_key or ""
        return key.removeprefix("plan:") if key.startswith("plan:") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A user's own quota."""

    limit: int
    window: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class UserQuota:
    """A user's quota, what is used of it, and whether it is the user's own."""

    as_of: datetime
    quota: Quota
    override: Override | None
    live: int  # attempts that run
    queued: int  # accepted retries that wait


class OperatorStorage(Protocol):
    """What operators need of a storage, beyond ``Storage`` and ``RecoveryStorage``. One method is one transaction.

    Reads are bounded in rows whatever the size. All methods may be repeated.

    Raises:
        StorageFailure: safe to repeat.
        NotConfigured: the storage lacks its schema.
    """

    def overview(self) -> Overview:
        """Count what ended lately and what waits; list routes that are unavailable or held."""
        ...

    def count_failures(self, wanted: Filter) -> FailureCount:
        """Count what a search finds, up to a bound."""
        ...

    def attempt_records(self, generation_id: UUID) -> Sequence[AttemptRecord]:
        """Return what is recorded of a generation's newest 200 attempts, by number."""
        ...

    def user_quota(self, user_id: UUID, rule: QuotaRule) -> UserQuota:
        """Return a user's quota, also of one who has nothing yet."""
        ...

    def actions(self, *, target: str | None, before: datetime | None, limit: int) -> Sequence[Action]:
        """List what operators did, the newest first."""
        ...

    def record(self, order: Order, outcome: str | None) -> None:
        """Record what is about to be done or, with its outcome, what was done. The first outcome stays."""
        ...

    def act(self, order: Order, deed: Deed) -> Done:
        """Do it, and record it with its outcome, in one transaction; a repeat with the same id does nothing more."""
        ...
