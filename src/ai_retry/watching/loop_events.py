"""Makes events of what one loop did: it looks at each step that was done, and at the error that it ended with.

The loop knows nothing of it, and it decides nothing. What a step wrote is read from the change and its reply.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.calls import noted
from ai_retry.domain.change import (
    Acceptance,
    Begin,
    CloseOver,
    Closing,
    Keep,
    Postpone,
    PutBack,
    Reply,
    Run,
    Running,
    Settle,
    Success,
)
from ai_retry.domain.errors import AiRetryError, GenerationFailed
from ai_retry.domain.loop import Call, Load, Step, has_begun
from ai_retry.domain.model import Answer, Attempt, Failure, Origin, Outcome, Snapshot
from ai_retry.events import (
    AnswerKept,
    AttemptBegan,
    AttemptCancelled,
    AttemptFailed,
    AttemptPutBack,
    AttemptSucceeded,
    Event,
    GenerationAccepted,
    ProviderCalled,
    Refused,
    RequestFailed,
    RetryPostponed,
    Spooled,
)
from ai_retry.problems import reason_of
from ai_retry.watching.reports import Reports, asked_model, facts_of, facts_of_call, since_ends

_INTERNAL = 500  # from this status on it is no refusal


class LoopEvents:
    """Watches one loop. Use it as a context manager around the driver, so that it learns how the loop ended.

    Args:
        reports: gets the events, and knows what this process has learned of routes.
        action: what was asked for: retry, enqueue, cancel; run, of a worker.
        monotonic: seconds, of a clock that never goes back.
        user_id: who asked.
        generation_id: about which generation; None: a first call chooses its id.
        origin: the request; that of the attempt goes before it.
        snapshot: that the loop begins with, if there is one.
    """

    def __init__(
        self,
        reports: Reports,
        action: str,
        monotonic: Callable[[], float],
        *,
        user_id: UUID,
        generation_id: UUID | None,
        origin: Origin,
        snapshot: Snapshot | None = None,
    ) -> None:
        self._emit, self._reports, self._action, self._monotonic = reports.emit, reports, action, monotonic
        self._about: dict[str, Any] = {"user_id": user_id, "generation_id": generation_id}
        self._origin = origin
        self._attempt: dict[str, Any] = {}  # of the attempt that runs
        self._started = self._claimed = self._stepped = monotonic()
        self.route: str | None = None  # of the attempt
        self.postponed_for: timedelta | None = None
        self._result: Answer | Failure | None = None
        self._is_ended = False
        self._last: Step | None = None
        self._see(snapshot)

    # As a watch

    def before(self, step: Step) -> None:
        """Note when it began."""
        self._last, self._stepped = step, self._monotonic()
        if isinstance(step, Load):
            self._about["generation_id"] = step.generation_id

    def after(self, step: Step, result: Any) -> None:
        """Report what the step did."""
        match step:
            case Load():
                self._see(result)
            case Begin():
                self._began(step, result)
            case CloseOver():
                self._reports.closed_over(result.closed)
            case Call():
                self._called(step, result)
            case Settle():
                self._settled(step, result)
            case PutBack() if result.applied:
                self._put_back(step)
            case Postpone() if result.applied:
                self._postponed(step)
            case Keep():
                self._ended(AnswerKept(**self._whose(), cause=step.cause))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Report an error of ours that no event has reported."""
        if not isinstance(error, AiRetryError) or self._is_ended or isinstance(error, GenerationFailed):
            return
        if isinstance(self._last, Keep) and self._reports.has_spool:
            self._emit(Spooled(**self._whose(), code=error.code))
        if self._action == "run":
            return  # the worker reports it
        event = Refused if error.http_status < _INTERNAL else RequestFailed
        wait = error.retry_after
        self._ended(
            event(
                **self.named(),
                action=self._action,
                code=error.code,
                reason=reason_of(error),
                retry_after_seconds=wait.total_seconds() if wait is not None else None,
            )
        )

    # Steps

    def _see(self, snapshot: Snapshot | None) -> None:
        self._snapshot, self._as_of = snapshot, self._monotonic()
        if snapshot is not None:
            self._reports.seen(snapshot)

    def _began(self, change: Begin, reply: Reply) -> None:
        self._reports.closed_over(reply.closed)
        if not has_begun(reply):
            self._see(reply.snapshot)
            return
        attempt, start, before = change.attempt, change.attempt.start, self._snapshot
        if isinstance(attempt, Run):
            queued = before.last_attempt if before is not None else None
            self._origin = queued.origin if queued is not None else self._origin
            self._attempt = {"attempt": attempt.number, "is_accepted": True}
        else:
            number = rules.next_number(before) if before is not None else 1
            self._attempt = {"attempt": number, "is_accepted": isinstance(start, Acceptance)}
        self._claimed = self._monotonic()
        if isinstance(start, Running):
            self.route = start.route
            self._emit(
                AttemptBegan(
                    **self._whose(),
                    route=start.route,
                    answer_from=start.answer_from,
                    claim_seconds=self._claimed - self._started,
                )
            )
        else:
            mine = reply.snapshot.last_attempt if reply.snapshot is not None else None
            due_at, expires_at = (mine.next_attempt_at, mine.expires_at) if mine is not None else (None, None)
            self._emit(GenerationAccepted(**self._whose(), due_at=due_at, expires_at=expires_at))

    def _called(self, step: Call, result: Answer | Failure) -> None:
        self._result = result
        now = self._monotonic()
        took = timedelta(seconds=now - self._stepped)
        calls = noted(result, duration=took, model=step.context.model, route=step.route).calls
        for each, ago in zip(calls, since_ends(calls, now), strict=True):
            facts = facts_of(each.model, each.duration, each.usage)
            self._emit(
                ProviderCalled(
                    **self._whose(),
                    **facts,
                    provider_outcome=each.provider_outcome,
                    provider=each.provider,
                    asked_model=asked_model(each) or step.context.model,
                    route=each.route,
                    code=each.code,
                    http_status=each.http_status,
                    ended_seconds_ago=ago,
                )
            )

    def _settled(self, change: Settle, reply: Reply) -> None:
        mine = reply.snapshot.my_attempt if reply.snapshot is not None else None
        if not reply.applied:
            if isinstance(change.end, Success) and change.call is not None and mine is not None and mine.outcome:
                self._ended(AnswerKept(**self._whose(), cause=mine.code or mine.outcome))  # late
            return
        self._routes(change)
        if mine is not None and mine.outcome is Outcome.SUCCEEDED and isinstance(change.end, Success):
            times: dict[str, Any] = {"seconds": self._monotonic() - self._started, "settle_seconds": self._took()}
            from_number = change.end.answer_from
            self._ended(
                AttemptSucceeded(**self._whose(mine), **facts_of_call(change.call), **times, answer_from=from_number)
            )
            return
        self._closed(change, mine)

    def _closed(self, change: Settle, mine: Attempt | None) -> None:
        end = change.end
        whose = self._whose(mine)
        if isinstance(end, Closing) and end.outcome is Outcome.CANCELLED:
            self._ended(AttemptCancelled(**whose))
            return
        cause = mine.refused_constraint if mine is not None else None
        is_kept = isinstance(end, Success) or end.answer is not None
        code = mine.code if mine is not None and mine.code else end.code if isinstance(end, Closing) else None
        reason = (end.reason or end.message) if isinstance(end, Closing) else cause
        self._ended(
            AttemptFailed(
                **whose,
                **facts_of_call(change.call),
                code=code or "UNKNOWN",
                reason=" ".join(reason.split()) if reason else None,
                counted=mine.counted if mine is not None else isinstance(end, Closing) and end.counted,
                goes_on=whose["is_accepted"] and (isinstance(end, Success) or end.goes_on),
                next_attempt_at=mine.next_attempt_at if mine is not None else None,
                seconds=self._monotonic() - self._started,
                settle_seconds=self._took(),
            )
        )
        if is_kept:
            self._ended(AnswerKept(**whose, cause=cause or code or "UNKNOWN"))

    def _put_back(self, change: PutBack) -> None:
        self._routes(change)
        self._ended(
            AttemptPutBack(
                **self._whose(),
                code=self._result.code if isinstance(self._result, Failure) else None,
                reason=change.reason,
                route=self.route,
                wait_seconds=change.wait.total_seconds(),
                until=self.until(change.wait),
            )
        )

    def _postponed(self, change: Postpone) -> None:
        self.postponed_for = wait = change.wait
        facts: dict[str, Any] = {"route": change.route, "wait_seconds": wait.total_seconds(), "until": self.until(wait)}
        self._emit(RetryPostponed(**self.named(), **facts, code=change.code))

    def _routes(self, change: Settle | PutBack) -> None:
        """Report the routes that this closed and opened."""
        begun = [(self.route, change.outage)] if change.outage or getattr(change, "answered", False) else []
        code = self._result.code if isinstance(self._result, Failure) else None
        for route, outage in [*begun, *((each.route, each.outage) for each in change.elsewhere)]:
            if route is None:
                continue
            if outage is None:
                self._reports.answered(route, self.named())
            else:
                self._reports.failed(route, outage, code, self.until(outage.wait), self.named())

    # What events have in common

    def _ended(self, event: Event) -> None:
        self._is_ended = True
        self._emit(event)

    def named(self) -> dict[str, Any]:
        """Name the user, the generation and the request."""
        return {**self._about, "request_id": self._origin.request_id, "traceparent": self._origin.traceparent}

    def _whose(self, mine: Attempt | None = None) -> dict[str, Any]:
        """Name the attempt: the one that runs, else the one that the step closed, or that was queued."""
        attempt = self._attempt
        if not attempt:
            found = mine or (self._snapshot.last_attempt if self._snapshot is not None else None)
            accepted = found is not None and found.accepted_at is not None
            attempt = {"attempt": found.number if found is not None else 1, "is_accepted": accepted}
            self._origin = found.origin if found is not None else self._origin
        return {**self.named(), **attempt}

    def _took(self) -> float:
        return self._monotonic() - self._stepped

    def until(self, wait: timedelta) -> datetime | None:
        """Return the instant, by the storage's time, that a wait from now ends at."""
        if self._snapshot is None:
            return None
        return self._snapshot.as_of + timedelta(seconds=self._monotonic() - self._as_of) + wait
