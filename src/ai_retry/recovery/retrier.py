"""One generation of a plan: a retry under the plan's terms, and what its end means for the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from ai_retry.domain.change import Begin, Reply
from ai_retry.domain.decide.queue import HELD_LOOK
from ai_retry.domain.drive import Watch
from ai_retry.domain.errors import (
    AiRetryError,
    GenerationFailed,
    LeaseLost,
    NotConfigured,
    RetryRefused,
    RouteUnavailable,
    SessionRejected,
    StorageFailure,
)
from ai_retry.domain.loop import Call, Load, Step, has_begun
from ai_retry.domain.model import UNKNOWN_ORIGIN, Answer, Failure, FailureCode, Outcome, Snapshot, Usage
from ai_retry.domain.names import PlanKey
from ai_retry.domain.pace import CallEnd
from ai_retry.domain.recovery import settled_attempt
from ai_retry.domain.retry import retry_generation
from ai_retry.recovery.line import Task
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan_file import Terms
from ai_retry.recovery.report import Left
from ai_retry.rejections import Rejections
from ai_retry.slots import CallSlot
from ai_retry.watching.loop_events import LoopEvents

_CALL_ENDS: Final[Mapping[FailureCode, CallEnd]] = {
    FailureCode.RATE_LIMITED: CallEnd.TOO_FAST,
    FailureCode.UNAVAILABLE: CallEnd.UNAVAILABLE,
    FailureCode.TIMEOUT: CallEnd.UNAVAILABLE,
    FailureCode.LEASE_LOST: CallEnd.NOTHING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a task ended."""

    task: Task
    started_in: int  # the round of the pace
    outcome: str  # succeeded, failed or left
    call_end: CallEnd = CallEnd.NOTHING
    retry_after: float = 0.0  # what the provider asked to wait, in seconds
    again_after: float | None = None  # seconds after which the refusal may have passed; None: it does not pass
    met_outage: bool = False  # the provider takes no requests: it is waited for as long as it takes
    left: Left | None = None
    cost: Decimal = Decimal(0)
    crash: BaseException | None = None  # no error of ours: a defect, perhaps of the app's ``context_from``


class _SettledBefore(Exception):
    """The plan has made its attempt at this generation, in another run."""

    def __init__(self, outcome: Outcome | None) -> None:
        super().__init__()
        self.outcome = outcome


class _Look:
    """Looks at one retry of a plan: whether it was settled before, whether it was begun, and what its call used."""

    def __init__(self, key: str) -> None:
        self.as_of: datetime | None = None
        self.begun = False
        self.usage: Usage | None = None
        self._key = key

    def before(self, step: Step) -> None:
        """Let every step be done."""

    def after(self, step: Step, result: Any) -> None:
        """Note what it shows.

        Raises:
            _SettledBefore: before anything was begun.
        """
        match step, result:
            case Load(), Snapshot():
                self._look(result)
            case Begin(), Reply():
                self.begun = has_begun(result)
                if not self.begun and result.snapshot is not None:  # it is decided again on this one
                    self._look(result.snapshot)
            case Call(), Answer() | Failure():
                self.usage = result.usage

    def _look(self, snapshot: Snapshot) -> None:
        self.as_of = snapshot.as_of
        if (attempt := settled_attempt(snapshot, self._key)) is not None:
            raise _SettledBefore(attempt.outcome)


class Retrier:
    """Retries under a plan's terms. Safe to share between threads."""

    def __init__(self, parts: Parts, terms: Terms, *, key: PlanKey, operator: str) -> None:
        self._parts, self._terms, self._key, self._operator = parts, terms, key, operator
        self._rejections = Rejections()

    @property
    def rejected_by(self) -> str | None:
        """What rejected the sessions of the last three users, in a row; None: nothing did."""
        return self._rejections.cause

    def retry(self, task: Task, started_in: int, report: Callable[[Ended], None]) -> None:
        """Retry, and report the end: exactly one, whatever happens."""
        try:
            ended = self._retry(task, started_in)
        except BaseException as error:  # noqa: BLE001 - the run raises it
            ended = Ended(task=task, started_in=started_in, outcome="left", left=Left("INTERNAL"), crash=error)
        report(ended)

    def _retry(self, task: Task, started_in: int) -> Ended:
        look = _Look(self._key)
        with CallSlot(self._parts.slots) as slot:
            try:
                self._drive(task, [look, slot, self._rejections])
            except _SettledBefore as before:
                ended = Ended(task=task, started_in=started_in, outcome=str(before.outcome))
            except AiRetryError as error:
                ended = _end_of(error, look, Ended(task=task, started_in=started_in, outcome="left"))
            else:
                ended = Ended(task=task, started_in=started_in, outcome="succeeded", call_end=CallEnd.WELL)
        cost = look.usage.cost if look.usage else None
        return replace(ended, cost=cost or Decimal(0))

    def _drive(self, task: Task, watches: Sequence[Watch]) -> None:
        parts, terms = self._parts, self._terms
        ids: dict[str, Any] = {"user_id": task.user_id, "generation_id": task.generation_id}
        with LoopEvents(parts.reports, "recover", parts.clock.monotonic, **ids, origin=UNKNOWN_ORIGIN) as events:
            retry_generation(
                **ids,
                storage=parts.storage,
                ai=parts.ai,
                clock=parts.clock,
                policy=terms.policy,
                context_from=parts.context_from,
                route_of=parts.route_of,
                idempotency_key=self._key,
                waive=terms.waive,
                charge=terms.charge,
                operator=self._operator,
                renewing=parts.renewing,
                watches=[*watches, events],
            )


def _end_of(error: AiRetryError, look: _Look, end: Ended) -> Ended:
    """Say what an error means: the attempt failed, the refusal passes, or the generation is left as it is."""
    if isinstance(error, GenerationFailed):
        failure = error.failure
        asked = failure.retry_after.total_seconds() if failure.retry_after else 0.0
        call_end = CallEnd.REFUSING if failure.operator_fault else _CALL_ENDS.get(failure.code, CallEnd.WELL)
        end = replace(end, call_end=call_end, retry_after=asked)
        if failure.counted or error.retry_after is None:
            return replace(end, outcome="failed")
        return replace(end, left=Left(error.code), again_after=error.retry_after.total_seconds(), met_outage=True)
    if isinstance(error, SessionRejected) and look.begun:
        return replace(end, outcome="failed", call_end=CallEnd.WELL)
    wait = error.retry_after
    left = Left(error.code, look.as_of + wait if look.as_of and wait is not None else None)
    if isinstance(error, NotConfigured):
        return replace(end, left=left, call_end=CallEnd.REFUSING)
    call_end = CallEnd.UNAVAILABLE if isinstance(error, StorageFailure) else CallEnd.NOTHING
    # After a begin it is not known yet what became of the attempt: the next run of the plan goes on with it.
    if isinstance(error, RetryRefused):
        wait = error.wait  # an operator means to retry it, whether or not waiting is enough
    passes = wait is not None and not look.begun and not isinstance(error, LeaseLost)
    again = wait.total_seconds() if wait is not None and passes else None
    met_outage = isinstance(error, RouteUnavailable)
    if isinstance(error, RouteUnavailable) and error.is_held and again is not None:
        again = min(again, HELD_LOOK.total_seconds())
    return replace(end, left=left, call_end=call_end, again_after=again, met_outage=met_outage)
