"""The nouns of a retry: plain, immutable values.

No rule lives here (see ``policy``) and nothing here reads a clock, a network or a database. Instants are aware
and in UTC; durations are ``timedelta``. Prompts and answers are kept out of every ``repr``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID


class GenerationStatus(StrEnum):
    """What ``generations.status`` says."""

    QUEUED = "queued"  # accepted, not begun
    PROCESSING = "processing"  # an attempt works on it
    SUCCESS = "success"  # it has its session; never retried again
    ERROR = "error"  # the last attempt failed
    TIMEOUT = "timeout"  # the last attempt got no answer in time


class Outcome(StrEnum):
    """How an attempt was closed."""

    SUCCEEDED = "succeeded"  # its session exists
    FAILED = "failed"  # it was settled without a session
    ABANDONED = "abandoned"  # its lease ran out
    CANCELLED = "cancelled"  # it was queued, and its user took it back


class ProviderOutcome(StrEnum):
    """What is known of the provider's side of an attempt, and so of possible cost."""

    GENERATED = "generated"  # tokens were produced
    NOT_GENERATED = "not_generated"  # positive evidence that none were
    UNKNOWN = "unknown"  # the request was sent, and its outcome is unknown


class FailureCode(StrEnum):
    """Why an attempt has no usable answer."""

    TIMEOUT = "AI_TIMEOUT"  # no complete answer within the time allowed
    RATE_LIMITED = "AI_RATE_LIMITED"  # turned away for pace; passes by itself
    UNAVAILABLE = "AI_UNAVAILABLE"  # cannot be reached, broken or overloaded
    REJECTED = "AI_REJECTED"  # permanent for this request and account
    INVALID_OUTPUT = "AI_INVALID_OUTPUT"  # answered, but not what the schema asks
    INCOMPLETE = "AI_INCOMPLETE"  # the answer was cut off
    LEASE_LOST = "LEASE_LOST"  # the time was up before the call; nothing was sent


class ResponseFormat(StrEnum):
    """How a provider is asked for an output under a schema; whatever it answers is validated here."""

    JSON_SCHEMA = "json_schema"  # in the field response_format, with the schema
    JSON_OBJECT = "json_object"  # in the field response_format, and the schema in the system message
    NONE = "none"  # not at all: the app's own prompt says it


class Purpose(StrEnum):
    """What ``admit`` is asked about."""

    RETRY = "retry"  # to try again now, and wait for it
    ENQUEUE = "enqueue"  # to have it tried later
    RUN_QUEUED = "run_queued"  # a worker: to begin an attempt that was accepted for later


class Waiver(StrEnum):
    """A limit that an operator may lift for one attempt."""

    BACKOFF = "backoff"
    QUOTA = "quota"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One AI result that a user asked for: a row of the app's ``generations``."""

    id: UUID
    user_id: UUID
    status: GenerationStatus
    model: str | None
    prompt_data: Any = field(repr=False)  # JSON as the app stored it
    session_id: str | None
    duration: timedelta | None
    created_at: datetime
    updated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is needed to ask the provider again."""

    messages: Sequence[Mapping[str, Any]] = field(repr=False)
    model: str | None  # None: the provider adapter's configured default
    parameters: Mapping[str, Any] = field(default_factory=dict)  # sampling parameters, such as temperature
    response_schema: Mapping[str, Any] | None = field(default=None, repr=False)  # JSON Schema of the output
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)  # from code: further fields of the request
    fallbacks: Sequence[str] | None = None  # from code: models to ask when this one fails; None: the configured ones
    unavailable: frozenset[str] = frozenset()  # routes that are not asked now: what decides to begin knows outages
    recovering: Mapping[str, int] = field(default_factory=dict)  # so many calls at once to a route
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)  # by route, where it is not the attempt's own one


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and money that the provider says it used; None where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cost: Decimal | None = None  # in the provider's currency, US dollars as a rule


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidAnswer:
    """What a model answered where it should have answered JSON under a schema, and what is wrong with it."""

    content: str = field(repr=False)
    problems: Sequence[str]  # JSON pointer and rule of each


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCall:
    """One request of an attempt to a provider, and what came of it."""

    provider: str | None = None  # its name
    model: str | None = None  # the model that answered, else the one that was asked
    code: FailureCode | None = None  # None: it answered
    http_status: int | None = None  # None: there was no HTTP answer
    usage: Usage | None = None
    duration: timedelta | None = None
    route: str | None = field(default=None, compare=False)  # that was asked
    outcome: ProviderOutcome | None = field(default=None, compare=False)  # on the record; see ``provider_outcome``
    failure: "Failure | None" = field(default=None, repr=False, compare=False)  # only in the process that called
    ended: float | None = field(default=None, repr=False, compare=False)  # the same; by its monotonic clock

    @property
    def counted(self) -> bool:
        """Whether it uses up one of the user's attempts, should none of them answer; in doubt it does."""
        return self.failure.counted if self.failure is not None else self.code is not None

    @property
    def provider_outcome(self) -> ProviderOutcome:
        """What is known of the provider's side of it."""
        if self.failure is not None:
            return self.failure.provider_outcome
        if self.outcome is not None:
            return self.outcome
        return ProviderOutcome.GENERATED if self.code is None else ProviderOutcome.UNKNOWN


def _outcome_of(calls: Sequence[ProviderCall]) -> ProviderOutcome:
    """What is known of several calls: unknown if one of them is, else generated if one of them has."""
    outcomes = {each.provider_outcome for each in calls}
    in_doubt = (ProviderOutcome.UNKNOWN, ProviderOutcome.GENERATED)
    return next((each for each in in_doubt if each in outcomes), ProviderOutcome.NOT_GENERATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer, valid under the context's schema. Providers build nothing less."""

    output: Any = field(repr=False)  # JSON
    model: str | None = None  # the model that answered
    usage: Usage | None = None
    provider_id: str | None = None  # the provider's id of the request or answer
    wire_requests: int = 1  # requests put on the wire for it, in-call repeats included
    calls: Sequence[ProviderCall] = field(default=(), compare=False)  # made for it; the last one brought it

    @property
    def provider_outcome(self) -> ProviderOutcome:
        """What the attempt row says about possible cost: also of calls that failed before."""
        return _outcome_of(self.calls) if self.calls else ProviderOutcome.GENERATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a provider adapter knows of a call that gave no usable answer."""

    code: FailureCode
    reason: str  # one cleaned line for the error log: no prompt, no answer, no key
    transient: bool  # the identical request may succeed later
    certainly_not_generated: bool  # positive evidence that no token was produced
    operator_fault: bool = False  # no credit, bad key, model missing: not the user's doing
    overloaded: bool = False  # it takes no requests now, whatever is asked
    retry_after: timedelta | None = None  # what the provider asked to wait
    model: str | None = None
    usage: Usage | None = None
    provider_id: str | None = None
    wire_requests: int = 1
    refused: bool = False  # by moderation, or by the model: the request itself, and for good
    calls: Sequence[ProviderCall] = field(default=(), compare=False)  # made in vain; the last one is this failure's
    invalid: InvalidAnswer | None = field(default=None, repr=False, compare=False)  # for a re-ask; recorded nowhere

    @property
    def counted(self) -> bool:
        """Whether it uses up one of the user's attempts; not where the request can't have caused the failure."""
        if self.calls:
            return any(each.counted for each in self.calls)
        return not (self.certainly_not_generated or self.operator_fault or self.overloaded)

    @property
    def passes(self) -> bool:
        """Whether waiting cures it: the identical request may succeed later, and no operator has to act first."""
        return self.transient and not self.operator_fault

    @property
    def provider_outcome(self) -> ProviderOutcome:
        """What the attempt row says about possible cost."""
        if self.calls:
            return _outcome_of(self.calls)
        if self.certainly_not_generated:
            return ProviderOutcome.NOT_GENERATED
        if self.usage is not None or self.code in (FailureCode.INVALID_OUTPUT, FailureCode.INCOMPLETE):
            return ProviderOutcome.GENERATED
        return ProviderOutcome.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The request that asked for an attempt, for logs and traces; no decision looks at it."""

    request_id: str | None = None
    traceparent: str | None = None  # W3C Trace Context


UNKNOWN_ORIGIN = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One of our calls for a generation, as decisions see it. The first call, ours or the app's, is number 1."""

    number: int
    started_at: datetime  # while it is queued: since when
    lease_expires_at: datetime | None  # None: it was queued and never run
    outcome: Outcome | None = None  # None: open
    closed_at: datetime | None = None
    code: str | None = None
    counted: bool = True
    next_attempt_at: datetime | None = None  # queued: when it is due itself; running: should it be abandoned
    idempotency_key: str | None = None
    refused_constraint: str | None = None  # what refused its session
    provider_outcome: ProviderOutcome = ProviderOutcome.UNKNOWN
    accepted_at: datetime | None = None  # when its retry was accepted for later; None: its caller waits for it
    expires_at: datetime | None = None  # until when an accepted retry goes on trying
    transient: bool | None = None  # its failure's; None: it did not fail with one, or that was not recorded
    operator_fault: bool = False  # its failure's
    context_reader: str | None = None  # the reader with which its retry was accepted; None: any may read its context
    answer_from: int | None = None  # number of the attempt whose stored answer it uses; None: it calls the provider
    in_doubt: Sequence[str | None] | None = None  # routes of its calls whose outcome is unknown; None: not known which
    request_digest: str | None = None  # of the request that created the generation, with a first call of ours
    origin: Origin = UNKNOWN_ORIGIN

    @property
    def passes(self) -> bool:
        """Whether waiting may cure its failure; also True where it has none, or nothing is known of it."""
        return self.transient is not False and not self.operator_fault

    @property
    def was_turned_away(self) -> bool:
        """Whether its provider took no request just then, or it was not called: as if the attempt had not been."""
        return self.outcome is Outcome.FAILED and self.transient is True and not (self.counted or self.operator_fault)

    @property
    def is_queued(self) -> bool:
        """Whether it waits for a worker."""
        return self.outcome is None and self.lease_expires_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedOver:
    """An attempt that was over, and was closed in passing."""

    user_id: UUID
    generation_id: UUID
    number: int
    outcome: Outcome
    code: str | None
    is_accepted: bool
    origin: Origin = UNKNOWN_ORIGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """A valid, paid answer that has no session yet; the next retry uses it instead of calling."""

    number: int  # of the attempt that paid for it
    answer: Answer
    stored_at: datetime | None = None  # None: unknown, so that it never is too old


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRule:
    """How much a user may generate: ``limit`` units in any ``window``, unless the user has an override."""

    limit: int = 5  # units; 0: none
    window: timedelta = timedelta(hours=24)  # rolling: a unit comes back when it is this old
    count_own_successes: bool = True  # the app's successes that no attempt of ours made


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A user's quota at the snapshot's ``as_of``."""

    limit: int
    window: timedelta
    captured: int  # units spent in the window; counted no further than the limit
    held: int  # units set aside by open attempts
    resets_at: datetime | None  # when the next unit comes back; None: nothing is used, or nothing ever will

    @property
    def remaining(self) -> int:
        """Units that a new attempt could hold."""
        return max(0, self.limit - self.captured - self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A provider and model that are unavailable, or coming back."""

    route: str
    not_before: datetime
    failures: int  # in a row
    slots: int  # calls that may run at once when it opens
    running: int = 0  # calls that run
    waiting: int = 0  # queued attempts that wait for it
    held_until: datetime | None = None  # an operator holds it


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What ``load`` read in one statement, with the storage's own time."""

    as_of: datetime
    version: str  # opaque; ``begin`` compares it with what it finds
    generation: Generation
    attempts: Sequence[Attempt]  # by number, ascending
    live: int  # the user's open attempts with a valid lease, all generations
    live_until: datetime | None  # the earliest end of those leases
    quota: Quota
    stored_answer: StoredAnswer | None  # the newest that its user has paid for
    session: Mapping[str, Any] | None = field(repr=False)  # the generation's session, as it is now
    can_create_session: bool  # the app's session function is in place
    session_conflict: str | None = None  # why no session could be created now, in the app's words; None: it could
    hidden: bool = False  # the app hides it from its user
    mine: int | None = None  # number of the attempt that has the token which ``load`` was given
    open_token: UUID | None = field(default=None, repr=False)  # of the open attempt
    open_is_foreign: bool = False  # the open attempt is of a user who had the generation before
    routes: Sequence[Route] = ()  # unavailable, or coming back
    exists: bool = True  # False: there is no such generation, and this is what a begin finds that creates it

    @property
    def my_attempt(self) -> Attempt | None:
        """The attempt that has the token which ``load`` was given, open or closed."""
        return next((attempt for attempt in self.attempts if attempt.number == self.mine), None)

    @property
    def last_attempt(self) -> Attempt | None:
        """The latest attempt of ours, whatever became of it."""
        return self.attempts[-1] if self.attempts else None

    @property
    def first_call(self) -> Attempt | None:
        """The first call, if it was ours; None: it was the app's, or there was none yet."""
        return next((attempt for attempt in self.attempts if attempt.number == 1), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Which database it is. A copy has the same id, and as a rule another name."""

    id: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The rules agree, as long as what was decided upon is still true: how to begin."""

    number: int  # of the attempt to run
    max_live: int  # the begin must find fewer live attempts of the user
    max_used: int | None  # the begin must find fewer captured and held units; None: lifted, or held already
    abandoned_wait: timedelta  # the wait that follows should this attempt be abandoned
    context: Context | None  # None: the stored answer is used
    stored_answer: StoredAnswer | None
    due_at: datetime | None  # when the wait after the last attempt ends; None: there is none, or it is lifted


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryResult:
    """A retry, or a first call, that ended with a session."""

    generation: Generation
    session: Mapping[str, Any] = field(repr=False)
    quota: Quota
    attempt: int  # its number; the first call is 1
    replayed: bool = False  # an earlier request with the same idempotency key achieved it
    usage: Usage | None = None  # of this retry's own call; None: there was none, or the provider did not say

    @property
    def session_id(self) -> str:
        """The session's id; a UUID, or whatever the app's sessions have, as a string."""
        return str(self.session.get("id") or self.generation.session_id)
