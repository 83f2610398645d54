"""What happens to generations, attempts, routes and workers, as values, and the hook that gets them.

``connect(on_event=…)`` and ``Client(on_event=…)`` take hooks: any callable with one argument. An event says what has
become true; it holds ids, codes, durations in seconds, tokens and cost, and never a prompt, an answer, a token or a
key. The log is a hook, too: ``logs.LogEvents``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from logging import DEBUG, ERROR, INFO, WARNING
from typing import ClassVar, TypeAlias
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something has happened.

    Attributes:
        level: of its line in the log.
        ends_badly: whether a request may have ended with it, without a session.
    """

    level: ClassVar[int] = INFO
    ends_badly: ClassVar[bool] = False

    user_id: UUID | None = None
    generation_id: UUID | None = None
    request_id: str | None = None  # of the request that asked for it, also where a worker does it later
    traceparent: str | None = None  # the trace that the request belonged to (W3C Trace Context)

    @property
    def name(self) -> str:
        """Name the kind of event, as logs have it: ``attempt_failed``."""
        return name_of(type(self).__name__)


@cache
def name_of(kind: str) -> str:
    """Name a kind of event: ``AttemptFailed`` is ``attempt_failed``."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEvent(Event):
    """Something has happened to an attempt."""

    attempt: int  # its number; the first call is number 1
    is_accepted: bool = False  # it is an accepted retry's, which a worker runs


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationAccepted(AttemptEvent):
    """A retry was accepted for later: it is recorded, and ends in a session or in an error with its reason."""

    due_at: datetime | None = None  # when its attempt is due
    expires_at: datetime | None = None  # until when it is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptBegan(AttemptEvent):
    """An attempt is open and runs; its unit is held. Unless this process dies, an event follows on how it ended."""

    level: ClassVar[int] = DEBUG

    route: str | None = None  # that is asked
    answer_from: int | None = None  # number of the attempt whose stored answer it uses; None: it calls
    claim_seconds: float | None = None  # how long it took to begin


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent(AttemptEvent):
    """What is known of a call, or of all calls of an attempt."""

    model: str | None = None  # that answered, else the one that was asked
    call_seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cost: Decimal | None = None  # in the provider's currency, US dollars as a rule
    provider_outcome: str | None = None  # generated, not_generated or unknown: whether it may have cost something


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCalled(CallEvent):
    """A request was sent to a provider, or could not be, and this came of it: one event for each, in their order."""

    provider: str | None = None  # its name
    asked_model: str | None = None  # ``model`` is the one that answered, if one did
    route: str | None = None
    code: str | None = None  # None: it answered
    http_status: int | None = None  # None: there was no HTTP answer
    ended_seconds_ago: float = 0.0  # events of several calls come together, after the last one


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded(CallEvent):
    """An attempt is closed: its session exists, and its unit is captured."""

    answer_from: int | None = None  # number of the attempt whose stored answer it used; None: it called
    seconds: float | None = None  # from its begin until it was closed
    settle_seconds: float | None = None  # of them, those that closing took


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(CallEvent):
    """An attempt is closed without a session, and its unit is released; or an accepted retry has ended so."""

    level: ClassVar[int] = WARNING
    ends_badly: ClassVar[bool] = True

    code: str
    reason: str | None = None  # one line for operators
    counted: bool = True  # it used up one of the attempts
    goes_on: bool = False  # an accepted retry's next attempt follows
    next_attempt_at: datetime | None = None
    seconds: float | None = None
    settle_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAbandoned(AttemptEvent):
    """An attempt whose lease had run out was closed: its process died, or the database was not reached for long."""

    level: ClassVar[int] = WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCancelled(AttemptEvent):
    """A queued attempt was taken back by its user, or its generation is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptPutBack(AttemptEvent):
    """A running attempt is queued again as if it had not begun: its provider took no request."""

    level: ClassVar[int] = WARNING
    ends_badly: ClassVar[bool] = True

    code: str | None = None
    reason: str | None = None
    route: str | None = None
    wait_seconds: float | None = None
    until: datetime | None = None  # when it is due, by the storage's time


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPostponed(Event):
    """A worker has put an accepted retry back before its attempt began."""

    level: ClassVar[int] = DEBUG

    code: str | None = None  # why; None: it only was not its time
    route: str | None = None  # that it waits for
    wait_seconds: float | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKept(AttemptEvent):
    """A paid answer that has no session is stored: the next attempt uses it instead of calling."""

    level: ClassVar[int] = WARNING
    ends_badly: ClassVar[bool] = True

    cause: str  # constraint, column, SQLSTATE or code that kept the session from being created


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled(AttemptEvent):
    """A paid answer could be neither settled nor kept: it waits in this machine's spool."""

    level: ClassVar[int] = ERROR

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    """An answer that waited in the spool was sent: its session exists (settled), or no file is needed (decided)."""

    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """What was asked for was refused before anything was written."""

    level: ClassVar[int] = WARNING
    ends_badly: ClassVar[bool] = True

    action: str  # retry, enqueue, cancel, ...
    code: str
    reason: str | None = None
    retry_after_seconds: float | None = None  # when coming back may help; None: it does not


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed(Event):
    """What was asked for failed for a reason that the user can't cure, and that no event of an attempt reports."""

    level: ClassVar[int] = ERROR
    ends_badly: ClassVar[bool] = True

    action: str
    code: str
    reason: str | None = None
    retry_after_seconds: float | None = None
    stack: str | None = None  # of a defect: types and places, without any text of an exception


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteClosed(Event):
    """A call has shown that a route is unavailable: it is not asked for a while."""

    level: ClassVar[int] = WARNING

    route: str
    code: str | None = None
    failures: int = 1  # in a row
    wait_seconds: float
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOpened(Event):
    """A route that was known to be unavailable has answered."""

    route: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteWaits(Event):
    """A route is still unavailable, or coming back: workers say so every half minute."""

    level: ClassVar[int] = WARNING

    route: str
    failures: int
    slots: int  # calls that may run at once when it opens
    parked: int  # queued attempts that wait for a route
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFailed(Event):
    """A lease could not be renewed; the next turn tries again."""

    level: ClassVar[int] = WARNING

    code: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A worker takes messages."""

    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPolled(Event):
    """A worker has looked for messages."""

    level: ClassVar[int] = DEBUG

    taken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerWaits(Event):
    """A worker takes no messages for so long: the storage fails, or every session is rejected."""

    level: ClassVar[int] = ERROR

    code: str
    cause: str | None = None  # what rejects the sessions
    wait_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailed(Event):
    """What a worker did with a message failed; the message comes again."""

    level: ClassVar[int] = ERROR

    code: str
    reason: str | None = None
    at: str | None = None  # the place in the app's reader
    route: str | None = None
    wait_seconds: float | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TidyFailed(Event):
    """What a worker does every half minute failed; the next turn tries again."""

    level: ClassVar[int] = ERROR

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopped(Event):
    """A worker has stopped; ``left`` attempts still run in threads of its process."""

    left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEvent(Event):
    """Something has happened to a message for the webhook."""

    message: str | None = None  # its type, such as ai_retry.generation.succeeded
    message_id: UUID | None = None
    tries: int | None = None  # deliveries so far


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivered(MessageEvent):
    """The webhook's receiver has taken a message."""

    seconds: float | None = None  # that the last delivery took


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookFailed(MessageEvent):
    """A message could not be delivered, or the outbox could not be read, where no message is named; both go on."""

    level: ClassVar[int] = WARNING

    code: str  # HTTP_500 and so on, GONE, TIMEOUT, UNREACHABLE, BROKEN_OFF, CERTIFICATE, or of the storage
    wait_seconds: float | None = None  # until the next try


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookGivenUp(MessageEvent):
    """A message was tried for about three days, and is deleted."""

    level: ClassVar[int] = ERROR

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookStopped(Event):
    """The webhook's receiver answers that it is gone (410): this process sends nothing more."""

    level: ClassVar[int] = ERROR

    code: str


Hook: TypeAlias = Callable[[Event], object]
Emit: TypeAlias = Callable[[Event], None]
OnEvent: TypeAlias = Hook | Sequence[Hook]
