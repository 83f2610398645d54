"""What operators do: each action asks the role, does what the client's own method does, and is recorded.

The record comes first, so that nothing is done unrecorded; what a storage does by itself is recorded in the same
transaction.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from logging import WARNING
from typing import Final, Literal
from uuid import UUID, uuid4

from ai_retry.domain.errors import AiRetryError, GenerationNotFound
from ai_retry.domain.model import RetryResult
from ai_retry.domain.names import WaiverWord, as_uuid, as_waivers, check_readable
from ai_retry.domain.operation import Deed, Done, HoldRoute, OpenRoute, Order, ReadAnswer, ResetQuota, SetQuota
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.logs import write_line
from ai_retry.operate.desk import Desk
from ai_retry.operate.operator import Operator, Role
from ai_retry.recovery.plan import Plan
from ai_retry.recovery.progress import OnProgress
from ai_retry.recovery.report import Report

LONGEST_HOLD: Final = timedelta(hours=24)
LONGEST_REASON: Final = 500  # characters
LARGEST_LIMIT: Final = 1_000_000  # units
LONGEST_WINDOW: Final = timedelta(days=3650)


@dataclass(slots=True)
class _Ending:
    """How an action ends, unless something is raised."""

    outcome: str = "done"


class Actions:
    """The actions; ``Operations`` has them all.

    Each raises ``NotAllowed`` where the role does not allow it, ``ValueError`` for an argument that can't be used (also
    a reason that is blank, longer than 500 characters or not one printable line), and ``StorageFailure`` where it could
    not be recorded: nothing was done then.
    """

    def __init__(self, operator: Operator, desk: Desk) -> None:
        self.operator = operator
        self._desk = desk

    # What an operator may do

    def retry(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        reason: str,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
    ) -> RetryResult:
        """Retry a generation now: see ``Client.retry_generation``. The attempt carries the operator's name."""
        waivers = as_waivers(waive)
        with self._recorded("operator", "retry", reason, user_id, generation_id):
            return self._desk.client.retry_generation(
                user_id, generation_id, waive=waivers, charge=charge, operator=self.operator.name
            )

    def enqueue(
        self,
        user_id: UUID | str,
        generation_id: UUID | str,
        *,
        reason: str,
        waive: Collection[WaiverWord] = (),
        charge: bool = True,
    ) -> QueuedRetry:
        """Accept a retry for later: see ``Client.enqueue``. The attempt carries the operator's name."""
        waivers = as_waivers(waive)
        with self._recorded("operator", "enqueue", reason, user_id, generation_id):
            return self._desk.client.enqueue(
                user_id, generation_id, waive=waivers, charge=charge, operator=self.operator.name
            )

    def cancel(self, user_id: UUID | str, generation_id: UUID | str, *, reason: str) -> None:
        """Take a queued retry back: see ``Client.cancel``."""
        with self._recorded("operator", "cancel", reason, user_id, generation_id):
            self._desk.client.cancel(user_id, generation_id)

    def discard_answer(self, user_id: UUID | str, generation_id: UUID | str, *, reason: str) -> bool:
        """Drop a paid answer that can never become a session: see ``Client.discard_answer``."""
        with self._recorded("operator", "discard_answer", reason, user_id, generation_id) as ending:
            dropped = self._desk.client.discard_answer(user_id, generation_id, operator=self.operator.name)
            ending.outcome = "done" if dropped else "nothing"
        return dropped

    def hold_route(self, route: str, *, seconds: float, reason: str) -> None:
        """Let no attempt call this provider and model for so long, at most 24 hours; then it opens by itself.

        Clicks are refused, accepted retries and plans wait, and calls fall back, as in an outage. No probe is sent, and
        no answer ends it. A repeat replaces how long. Calls that run go on.
        """
        check_readable(route, "route")
        if not 1 <= seconds <= LONGEST_HOLD.total_seconds():
            raise ValueError(f"seconds must be from 1 to {LONGEST_HOLD.total_seconds():.0f}")
        deed = HoldRoute(route=route, duration=timedelta(seconds=seconds))
        self._act("operator", "hold_route", f"route:{route}", reason, deed)

    def open_route(self, route: str, *, reason: str) -> bool:
        """Forget that a provider and model are held or unavailable: calls may start at once, and what waits goes on.

        Returns:
            Whether anything was known of it.
        """
        check_readable(route, "route")
        return self._act("operator", "open_route", f"route:{route}", reason, OpenRoute(route=route)).applied

    def run_plan(
        self,
        plan: Plan,
        *,
        reason: str,
        max_workers: int = 8,
        rate: str | None = None,
        on_outage: Literal["pause", "stop"] = "pause",
        on_progress: OnProgress | None = None,
    ) -> Report:
        """Run a recovery plan: see ``Plan.run``. Its attempts carry the operator's name."""
        with self._recorded("operator", "run_plan", reason, target=f"plan:{plan.id}") as ending:
            report = plan.run(
                max_workers=max_workers,
                rate=rate,
                on_outage=on_outage,
                operator=self.operator.name,
                on_progress=on_progress,
            )
            ending.outcome = report.stopped or "done"
        return report

    # What only an admin may do

    def set_quota(self, user_id: UUID | str, *, limit: int, per: timedelta, reason: str) -> None:
        """Give a user a quota of their own: so many units in any such time. What is spent already counts."""
        user_id = as_uuid(user_id, "user_id")
        if not 0 <= limit <= LARGEST_LIMIT:
            raise ValueError(f"limit must be from 0 to {LARGEST_LIMIT}")
        if not timedelta(seconds=1) <= per <= LONGEST_WINDOW:
            raise ValueError("per must be from a second to 3650 days")
        deed = SetQuota(user_id=user_id, limit=limit, window=per)
        if not self._act("admin", "set_quota", f"user:{user_id}", reason, deed, user_id).applied:
            raise ValueError("user_id must be the id of a user; there is none with this one")

    def reset_quota(self, user_id: UUID | str, *, reason: str) -> bool:
        """Give a user the usual quota again.

        Returns:
            Whether it was another one.
        """
        user_id = as_uuid(user_id, "user_id")
        deed = ResetQuota(user_id=user_id)
        return self._act("admin", "reset_quota", f"user:{user_id}", reason, deed, user_id).applied

    def kept_answer(self, user_id: UUID | str, generation_id: UUID | str, *, reason: str) -> str:
        """Read the paid answer that is kept for a generation, as JSON. That it was read is recorded.

        Raises:
            GenerationNotFound: none is kept for this generation of this user.
        """
        user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
        deed = ReadAnswer(user_id=user_id, generation_id=generation_id)
        done = self._act("admin", "kept_answer", f"generation:{generation_id}", reason, deed, user_id)
        if done.answer is None:
            raise GenerationNotFound(generation_id)
        return done.answer

    # Recording

    def _order(self, needed: Role, action: str, target: str, reason: str, user_id: UUID | None) -> Order:
        self.operator.check(needed)
        return Order(
            id=uuid4(),
            operator=self.operator.name,
            role=self.operator.role,
            action=action,
            target=target,
            reason=checked_reason(reason),
            user_id=user_id,
        )

    def _act(
        self, needed: Role, action: str, target: str, reason: str, deed: Deed, user_id: UUID | None = None
    ) -> Done:
        return self._desk.storage.act(self._order(needed, action, target, reason, user_id), deed)

    @contextmanager
    def _recorded(
        self,
        needed: Role,
        action: str,
        reason: str,
        user_id: UUID | str | None = None,
        generation_id: UUID | str | None = None,
        *,
        target: str = "",
    ) -> Iterator[_Ending]:
        """Record an action before it is done, and its outcome after."""
        owner = None if user_id is None else as_uuid(user_id, "user_id")
        if generation_id is not None:
            target = f"generation:{as_uuid(generation_id, 'generation_id')}"
        order, ending = self._order(needed, action, target, reason, owner), _Ending()
        self._desk.storage.record(order, None)
        try:
            yield ending
        except BaseException as error:
            self._end(order, _outcome_of(error))
            raise
        self._end(order, ending.outcome)

    def _end(self, order: Order, outcome: str) -> None:
        """Record the outcome; where that fails, the action is on record without one."""
        try:
            self._desk.storage.record(order, outcome)
        except AiRetryError as error:
            write_line(WARNING, "outcome_not_recorded", action=order.action, outcome=outcome, code=error.code)


def checked_reason(reason: str) -> str:
    """Return a reason without blanks around it.

    Raises:
        ValueError: it is blank, too long, or not one printable line.
    """
    text = reason.strip() if isinstance(reason, str) else ""
    if not (text.isprintable() and 1 <= len(text) <= LONGEST_REASON):
        raise ValueError(f"reason must be one printable line of 1 to {LONGEST_REASON} characters")
    return text


def _outcome_of(error: BaseException) -> str:
    if isinstance(error, AiRetryError):
        return error.code
    if isinstance(error, ValueError):
        return "INVALID_ARGUMENT"
    return AiRetryError.code if isinstance(error, Exception) else "INTERRUPTED"
