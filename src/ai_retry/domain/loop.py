"""One retry as a loop that does nothing itself: it yields what it wants done, and is sent what came of it.

``drive`` is the synchronous driver. An asynchronous one, and the simulator of the tests, drive the same loops.

A step is answered by its result; an error of the storage is thrown in. The loops repeat nothing blindly: repeats of a
change whose reply was lost are the driver's, and a change that was applied already is recognised by its token.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.calls import noted
from ai_retry.domain.change import Amend, Begin, CloseOver, Closing, Found, Keep, PutBack, Reply, Running, Settle
from ai_retry.domain.decide import begin
from ai_retry.domain.decide.begin import Asked, owned, replay
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.decide.settle import REJECTED_WAIT, Ending, found, is_recorded, verdict
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    GenerationFailed,
    LeaseLost,
    RetryInProgress,
    SessionRejected,
    StorageFailure,
)
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, RetryResult, Snapshot
from ai_retry.domain.policy import RetryPolicy

TRIES = 3  # a snapshot that is stale so often means that others are at work
SETTLE_TRIES = 5  # the app may change the generation while it is settled, but not without end


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Read a generation; the result is its snapshot, or None when it is absent."""

    user_id: UUID
    generation_id: UUID
    token: UUID | None = field(default=None, repr=False)  # of the attempt that the snapshot points out
    creating: bool = False  # read an absent one as a begin finds it that creates it


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Ask the provider; the result is an answer or a failure."""

    context: Context
    timeout: timedelta
    idempotency_key: str
    route: str | None = None  # of a call that names none


Step: TypeAlias = Load | Begin | CloseOver | Call | Settle | Amend | Keep
Result = TypeVar("Result")
_Result = TypeVar("_Result", Answer, Failure)
Loop: TypeAlias = Generator[Step, Any, Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all loops of a process have in common."""

    policy: RetryPolicy  # the numbers behind the rules
    reader: Reader  # how it reads what to ask
    monotonic: Callable[[], float]  # seconds on a clock that never goes back
    fraction: Callable[[], float]  # where in its range a wait is, in [0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended."""

    result: RetryResult | None = None  # it has its session
    error: AiRetryError | None = None  # it has none
    put_back: bool = False  # it is queued again, as if it had not begun
    goes_on: bool = False  # an accepted retry's next attempt follows


def retrying(asked: Asked, setting: Setting) -> Loop[RetryResult]:
    """Try a generation again, once, and return its session; raises what ``retry_generation`` does."""
    snapshot = yield Load(user_id=asked.user_id, generation_id=asked.generation_id, token=asked.token)
    for _ in range(TRIES):
        current = owned(snapshot, asked.user_id, asked.generation_id)
        if (replayed := replay(current, asked.idempotency_key)) is not None:
            return replayed
        if has_ended(current):
            return verdict(current, asked.user_id, asked.generation_id)
        began = setting.monotonic()
        change, context = begin.retry_now(current, asked, setting.reader, setting.policy)
        reply: Reply = yield change
        if has_begun(reply):
            return result_of((yield from RunningAttempt(current, change, began, setting).run(context)))
        snapshot = reply.snapshot
    raise RetryInProgress(wait=rules.SHORTEST_CALL)


def has_ended(snapshot: Snapshot) -> bool:
    """Whether an attempt was begun under the caller's token, and is closed: nothing may begin under it again."""
    mine = snapshot.my_attempt
    return mine is not None and mine.outcome is not None


def has_begun(reply: Reply) -> bool:
    """Whether a begin was applied, by this request or by one whose reply was lost."""
    if reply.applied or reply.snapshot is None:
        return reply.applied
    mine = reply.snapshot.my_attempt
    return mine is not None and mine.outcome is None


def result_of(ended: Ended) -> RetryResult:
    """Return how an attempt ended, or raise it."""
    if ended.result is None:
        assert ended.error is not None  # noqa: S101 (there is one or the other)
        raise ended.error
    return ended.result


class RunningAttempt:
    """An attempt from its begin to its end.

    Args:
        begun: the snapshot that it was begun on.
        change: the begin.
        began: by the setting's clock, before the begin was sent: the lease began no earlier.
        setting: of the process.
    """

    def __init__(self, begun: Snapshot, change: Begin, began: float, setting: Setting) -> None:
        self._begun, self._began, self._setting = begun, began, setting
        self._user_id, self._generation_id = change.user_id, change.generation_id
        self._ending = Ending(begun, change, setting.policy, setting.fraction())
        self._route = change.attempt.start.route if isinstance(change.attempt.start, Running) else None

    def run(self, context: Context | None) -> Loop[Ended]:
        """Call, or use the stored answer, and settle."""
        if context is None:
            stored = self._begun.stored_answer
            assert stored is not None  # noqa: S101 (admit gives one or the other)
            return (yield from self._answered(stored.answer, stored.number, None))
        setting, called = self._setting, self._setting.monotonic()
        timeout = rules.call_timeout(timedelta(seconds=called - self._began), setting.policy)
        if timeout < min(rules.SHORTEST_CALL, setting.policy.deadline / 2):
            return (yield from self._given_back())
        routes = setting.reader.routes(context)
        self._ask(routes)
        key = rules.provider_key(self._begun, context, self._route)
        result: Answer | Failure = yield Call(
            context=self._keyed(context, routes), timeout=timeout, idempotency_key=key, route=self._route
        )
        duration = timedelta(seconds=setting.monotonic() - called)
        if isinstance(result, Answer):
            if rules.storable(result.output):
                return (yield from self._answered(self._noted(result, context, duration), None, duration))
            result = _unstorable(result)
        failed = self._noted(replace(result, invalid=None), context, duration)
        return (yield from self._failed(failed, duration))

    def _ask(self, routes: Sequence[str]) -> None:
        """Blame and praise the routes that are asked, where the app has stored another question than was begun with."""
        if self._route is not None and routes and self._route not in routes:
            self._route = routes[0]
            self._ending.is_elsewhere()

    def _keyed(self, context: Context, routes: Sequence[str]) -> Context:
        """Name the questions of further routes: what came of each, only its own calls show."""
        others = [each for each in routes if each != self._route]
        if not others and not context.keys:
            return context
        return replace(context, keys={each: rules.provider_key(self._begun, context, each) for each in others})

    def _noted(self, result: _Result, context: Context, duration: timedelta) -> _Result:
        return noted(result, duration=duration, model=context.model, route=self._route)

    def end(self, decide: Callable[[Found], Settle], error: AiRetryError) -> Loop[Ended]:
        """Settle as decided, without a call."""
        yield from self._settle(decide)
        return Ended(error=error)

    def _answered(self, answer: Answer, answer_from: int | None, duration: timedelta | None) -> Loop[Ended]:
        def decide(now: Found) -> Settle:
            return self._ending.answered(now, answer, answer_from, duration)

        try:
            snapshot = yield from self._settle(decide)
        except AiRetryError as error:
            if answer_from is not None:
                raise
            cause = error.reason if isinstance(error, StorageFailure) else error.code
            yield self._ending.kept(answer, duration, cause)
            rejected = SessionRejected(cause, retry_after=REJECTED_WAIT)
            return Ended(error=rejected, goes_on=self._ending.is_accepted)
        try:
            usage = answer.usage if answer_from is None else None
            return Ended(result=verdict(snapshot, self._user_id, self._generation_id, usage=usage))
        except SessionRejected as rejected:
            return Ended(error=rejected, goes_on=self._ending.is_accepted)
        except AiRetryError as error:
            return Ended(error=error)

    def _failed(self, failure: Failure, duration: timedelta | None) -> Loop[Ended]:
        change = self._ending.failed(failure, duration)
        if isinstance(change, PutBack):
            yield change
            return Ended(put_back=True)

        def decide(now: Found) -> Settle:
            return change if now is Found.READY else self._ending.failed_without(now, failure, duration)

        snapshot = yield from self._settle(decide)
        if not is_recorded(snapshot, failure):
            return Ended(error=_error_of(snapshot, self._user_id, self._generation_id))
        goes_on = isinstance(change.end, Closing) and change.end.goes_on
        return Ended(error=GenerationFailed(failure, retry_after=self._ending.retry_after(failure)), goes_on=goes_on)

    def _given_back(self) -> Loop[Ended]:
        if self._ending.is_accepted:
            yield self._ending.put_back(_NO_TIME_TO_CALL, None)
            return Ended(put_back=True)
        yield from self._failed(_NO_TIME_TO_CALL, None)
        return Ended(error=LeaseLost(answer_kept=False, retry_after=self._ending.retry_after(_NO_TIME_TO_CALL)))

    def _settle(self, decide: Callable[[Found], Settle]) -> Loop[Snapshot | None]:
        """Send the change until the attempt is closed, deciding again when the generation is not as expected."""
        now = Found.READY
        for _ in range(SETTLE_TRIES):
            reply: Reply = yield decide(now)
            finds = found(reply.snapshot, self._user_id)
            if reply.applied or finds is now or (reply.snapshot is not None and has_ended(reply.snapshot)):
                return reply.snapshot
            now = finds
        raise StorageFailure("generation_changes")


def _error_of(snapshot: Snapshot | None, user_id: UUID, generation_id: UUID) -> AiRetryError:
    """Why an attempt that failed was not closed by its failure."""
    try:
        verdict(snapshot, user_id, generation_id)
    except AiRetryError as error:
        return error
    return AlreadySucceeded(generation_id)


def _unstorable(answer: Answer) -> Failure:
    failure = Failure(
        code=FailureCode.INVALID_OUTPUT,
        reason="the output is not JSON that a database can hold",
        transient=True,
        certainly_not_generated=False,
        model=answer.model,
        usage=answer.usage,
        provider_id=answer.provider_id,
        wire_requests=answer.wire_requests,
    )
    last = [replace(each, code=failure.code, failure=failure) for each in answer.calls[-1:]]
    return replace(failure, calls=(*answer.calls[:-1], *last))


_NO_TIME_TO_CALL = Failure(
    code=FailureCode.LEASE_LOST,
    reason="the begin took so long that no time was left for the call",
    transient=True,
    certainly_not_generated=True,
    wire_requests=0,
)
