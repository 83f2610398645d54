"""Manual recovery: what is looked for, what may be done about what was found, and what a plan has done already.

The rules of a single retry stay in ``policy``: here they are asked about many generations before any call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Protocol
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import (
    AiRetryError,
    AttemptsExhausted,
    GenerationNotFound,
    NotConfigured,
    QuotaExhausted,
    RetryRefused,
)
from ai_retry.domain.model import Attempt, GenerationStatus, Outcome, ProviderCall, QuotaRule, Snapshot, Usage, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.reader import ContextFrom

FAILED = frozenset({GenerationStatus.ERROR, GenerationStatus.TIMEOUT})
FINDABLE = frozenset(GenerationStatus) - {GenerationStatus.SUCCESS}
_SETTLED = (Outcome.SUCCEEDED, Outcome.FAILED)


class Decision(StrEnum):
    """What can be done about a generation."""

    NOW = "now"  # a retry would be admitted
    LATER = "later"  # a rule refuses it, and will not for ever
    NEVER = "never"  # only an operator can change that


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which failed generations are looked for; None: any."""

    until: datetime  # made before; never after the search began, so that later ones don't slip in
    since: datetime | None = None  # made then, or after
    statuses: frozenset[GenerationStatus] = FAILED
    codes: frozenset[str] | None = None  # of the last error
    models: frozenset[str] | None = None  # that the generation names
    user_id: UUID | None = None

    @property
    def narrows(self) -> bool:
        """Whether it leaves out what failed long ago, elsewhere or of another cause.

        An end does not (all that was before it stays), and a status does not (each of them is a failure).
        """
        return not (self.since is None and self.codes is None and self.models is None and self.user_id is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastError:
    """What went wrong last: of our last attempt that failed, else what the app recorded."""

    code: str
    at: datetime | None
    reason: str | None = None  # one cleaned line; the app's own messages are left out, since they may hold a prompt
    ours: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRow:
    """A generation as a search finds it: all that ``admit`` needs, and its last error.

    The snapshot has neither a session nor the output of a stored answer.
    """

    failed_at: datetime
    snapshot: Snapshot
    error: LastError | None
    calls: Sequence[ProviderCall] = ()  # the requests of the last attempt of ours that sent some


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRow:
    """A generation that can't be understood: something in it is beyond what can be read, or the binding fails on it.

    The other columns are what could be read of it.
    """

    generation_id: UUID
    column: str | None  # None: it is not known which
    reason: str  # without the content
    user_id: UUID | None = None
    status: str | None = None
    model: str | None = None
    failed_at: datetime | None = None
    error: LastError | None = None

    @property
    def problem(self) -> str:
        """The column and the reason, for people."""
        return f"{self.column or 'the row'} {self.reason}"

    # What a list of generations asks of an ``Outlook``, too.
    can_retry: ClassVar[bool] = False
    code: ClassVar[str] = NotConfigured.code
    retry_at: ClassVar[None] = None
    queued: ClassVar[None] = None

    @property
    def refusal(self) -> NotConfigured:
        """What a retry would raise."""
        return NotConfigured(f"generation {self.generation_id} can't be read: {self.problem}")

    @property
    def verdict(self) -> "Verdict":
        """What a retry would be answered."""
        return Verdict(Decision.NEVER, self.refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place in the order of a search: made later, then greater id, comes first; last, those without an instant."""

    at: str | None  # as the storage writes it: an app's instants may be beyond what Python can hold
    id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPage:
    """Some of what was found, newest first; perhaps none although more follow."""

    as_of: datetime
    rows: Sequence[FoundRow | UnreadableRow]
    next: Cursor | None  # where the next page begins; None: this was the last


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAttempt:
    """The last attempt that a plan made at a generation."""

    generation_id: UUID
    attempt: Attempt
    usage: Usage | None
    calls: Sequence[ProviderCall] = ()  # its requests

    @property
    def settled(self) -> bool:
        """Whether the plan is done with the generation: see ``settled_attempt``."""
        return _is_settled(self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEstimate:
    """What a call took in the past, on average; None: unknown."""

    tokens: Decimal | None
    cost: Decimal | None


class RecoveryStorage(Protocol):
    """What recovery needs of a storage, beyond ``Storage``. One method is one transaction; all are safe to repeat.

    Raises:
        StorageFailure: safe to repeat, whatever it says.
        NotConfigured: the storage lacks its schema.
    """

    def find(
        self, wanted: Filter, *, before: Cursor | None, page: int, quota_rule: QuotaRule, most: int | None = None
    ) -> FoundPage:
        """Read a page of at most ``page`` failed generations, newest first; it may be short, since no read is long.

        With ``most`` it ends once so many are found that have the codes, too.

        Pages follow each other by ``before``: no generation comes twice, and one that stays as it is is not left out.
        A page is bounded in bytes, too, and a row that can't be understood keeps its place. With a page of 0 it
        returns only its time.
        """
        ...

    def find_one(self, generation_id: UUID, quota_rule: QuotaRule) -> FoundRow | UnreadableRow | None:
        """Read one generation of whatever user and status; None when there is none."""
        ...

    def find_attempts(self, key: str, *, after: UUID | None, page: int) -> Sequence[PlanAttempt]:
        """Read the last attempt with this idempotency key of each generation, by the generations' ids."""
        ...

    def estimate(self) -> Mapping[str | None, CallEstimate]:
        """Return what calls took in the past, for each model that generations name (None: the default)."""
        ...

    def books(self, rule: QuotaRule | None = None, *, since: datetime | None = None) -> Sequence[Mapping[str, Any]]:
        """List what contradicts the promises; nothing when the books balance.

        Args:
            rule: the limit above which no unit may be spent, and its window; None: no limit is asked about.
            since: only attempts that ended then or later; all when None.
        """
        ...

    def record_recovery(
        self, run_id: UUID, *, plan_id: str, operator: str, plan: Mapping[str, Any], counts: Mapping[str, Any] | None
    ) -> str | None:
        """Record that a run began or, with its counts, that it ended: then also an event for each user concerned.

        Returns:
            The name of what refused those events, if the app did; they are left out then, and that is recorded.
        """
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``admit`` says of a generation, and why."""

    decision: Decision
    refusal: AiRetryError | None = None

    @property
    def code(self) -> str | None:
        """The refusal's code; None: a retry would be admitted."""
        return self.refusal.code if self.refusal else None


def judge(
    snapshot: Snapshot,
    policy: RetryPolicy,
    *,
    context_from: ContextFrom = stored_context,
    waive: frozenset[Waiver] = frozenset(),
    charge: bool = True,
    set_aside: int = 0,
) -> Verdict:
    """Ask ``admit`` whether the generation could be retried now; one that the app hides can't be.

    Args:
        snapshot: what the storage holds.
        policy: the numbers.
        context_from: reads the context.
        waive: limits that an operator lifts.
        charge: False: the quota is not asked.
        set_aside: units of the user's quota that a plan means to hold for other generations of theirs.
    """
    if snapshot.hidden:
        return Verdict(Decision.NEVER, GenerationNotFound(snapshot.generation.id))
    quota = replace(snapshot.quota, held=snapshot.quota.held + set_aside)
    try:
        rules.admit(replace(snapshot, quota=quota), policy, context_from=context_from, waive=waive, charge=charge)
    except AiRetryError as refusal:
        return Verdict(_kind(refusal, quota.limit), refusal)
    return Verdict(Decision.NOW)


def _kind(refusal: AiRetryError, limit: int) -> Decision:
    """A rule that refuses for a while does so whether or not it pays to come back."""
    passes = limit > 0 if isinstance(refusal, QuotaExhausted) else not _is_final(refusal)
    return Decision.LATER if passes and isinstance(refusal, RetryRefused) else Decision.NEVER


def _is_final(refusal: AiRetryError) -> bool:
    return isinstance(refusal, AttemptsExhausted) and refusal.wait is None


def settled_attempt(snapshot: Snapshot, key: str) -> Attempt | None:
    """Return the attempt with which a plan's work at this generation is done; None: it is still to be done.

    A plan makes one settled attempt at each generation. Of its last attempt (by the plan's key) after a kill:

    - succeeded or failed: done, whatever came of it; another plan may try again;
    - turned away by a provider that takes no requests: the plan goes on with it, as if the attempt had not been;
    - open under a valid lease: it is being worked on; ``admit`` refuses until it is settled, or its lease is over;
    - open beyond its lease, or abandoned: its worker died. It is unknown what the provider did, and the user has
      nothing, so the plan goes on with it: with the answer, if it came late and was stored, else with another call
      under the same provider key.
    """
    attempts = [each for each in snapshot.attempts if each.idempotency_key == key]
    last = attempts[-1] if attempts else None
    return last if last is not None and _is_settled(last) else None


def _is_settled(attempt: Attempt) -> bool:
    return attempt.outcome in _SETTLED and not attempt.was_turned_away
