"""A running attempt that nobody waits for: a failure leads to the next one, an outage to none at all."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, NoReturn

from ai_retry.domain import policy as rules
from ai_retry.domain.model import Failure
from ai_retry.domain.policy import SHORTEST_CALL
from ai_retry.domain.ports import QueueStorage
from ai_retry.domain.queue_model import Outage
from ai_retry.domain.retry import RunningAttempt

OUTAGE_SPREAD: Final = timedelta(seconds=5)  # over which those who were turned away come back
OUTAGE_PACE: Final = timedelta(milliseconds=200)  # so far apart look those who wait for a provider


class QueueOutcome(StrEnum):
    """What became of a message."""

    SUCCEEDED = "succeeded"  # the generation has its session
    GOES_ON = "goes_on"  # the attempt failed, and the next one is queued
    FAILED = "failed"  # the attempt failed, and none follows
    ENDED = "ended"  # the accepted retry ended without a call
    PARKED = "parked"  # its provider is unavailable; no attempt was used up
    POSTPONED = "postponed"  # it is not its time, or not its turn
    NOTHING = "nothing"  # nothing of its generation is queued


class GoesOn(Exception):
    """An attempt that ended without an answer, and is not the last one."""

    def __init__(self, outcome: QueueOutcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class QueuedAttempt(RunningAttempt):
    """An attempt that nobody waits for: a failure leads to the next one, an outage to none at all."""

    storage: QueueStorage

    def _fail(self, failure: Failure, duration: timedelta | None) -> timedelta | None:
        outage = self._outage(failure)
        if outage is not None and self._is_innocent(failure):
            self._park(failure, outage)
        wait = rules.wait_after(self.claim.number, failure, self.policy, fraction=self.jitter())
        if not self._goes_on(failure, wait, outage):
            self.storage.fail(self.claim, failure, duration=duration, delay=wait)
            return None
        self.storage.retry_later(self.claim, failure, duration=duration, delay=wait, outage=outage)
        raise GoesOn(QueueOutcome.GOES_ON)

    def _give_back(self) -> NoReturn:
        self._put_back(SHORTEST_CALL, "no time was left for the call", wire_requests=0, outage=None)

    def _park(self, failure: Failure, outage: Outage) -> NoReturn:
        delay = max(outage.wait, rules.asked_wait(failure, self.policy)) + OUTAGE_SPREAD * self.jitter()
        self._put_back(delay, failure.reason, wire_requests=failure.wire_requests, outage=outage)

    def _put_back(self, delay: timedelta, reason: str, *, wire_requests: int, outage: Outage | None) -> NoReturn:
        self.storage.give_back(self.claim, delay=delay, reason=reason, wire_requests=wire_requests, outage=outage)
        raise GoesOn(QueueOutcome.PARKED)

    def _is_innocent(self, failure: Failure) -> bool:
        """Whether the request itself can't have caused the failure: then the attempt is as if it had not begun."""
        turned_away = failure.certainly_not_generated and not failure.operator_fault
        return turned_away or self.claim.outage_failures > 0  # where nobody is answered

    def _goes_on(self, failure: Failure, wait: timedelta, outage: Outage | None) -> bool:
        """Whether the next attempt may succeed, and is in time."""
        queued = rules.queued_attempt(self.snapshot)
        expires_at = queued.expires_at if queued is not None else None
        in_time = expires_at is None or self.snapshot.as_of + wait < expires_at
        made = sum(queued is not None and each.accepted_at == queued.accepted_at for each in self.snapshot.attempts)
        return (
            (failure.transient or outage is not None)
            and in_time
            and made < self.policy.hard_cap  # also of those that an operator has to answer for
            and rules.attempts_left(self.snapshot, failure, self.policy, spared=failure.overloaded)
        )

    def _outage(self, failure: Failure) -> Outage | None:
        if not rules.is_outage(failure):
            return None
        before = self.claim.outage_failures
        failures = before + 1
        wait = rules.outage_wait(failures, failure, self.policy, fraction=self.jitter())
        return Outage(wait=wait, failures=failures, doubts=1 if before else rules.outage_doubts(failure))
