"""What to do when the storage fails: try again for a while, and keep a paid answer safe meanwhile.

Works for any storage, since the port's methods may be repeated: the writing ones by their token. It adds no rule and
reads no error's text; ``retry_after`` on a storage's failure says that another try may go better.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_random_exponential,
)

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure, StorageOutcomeUnknown
from ai_retry.domain.model import Admission, Answer, Claim, Failure, QuotaRule, Settled, Snapshot
from ai_retry.domain.ports import Storage
from ai_retry.spool import PendingSettle, Spool

_T = TypeVar("_T")
READ_FOR = timedelta(seconds=3)  # a user is waiting, and an admission is stale after ten seconds
SETTLE_FOR = timedelta(seconds=20)  # something was paid for; about what the lease still lasts


class RepeatingStorage:
    """A ``Storage`` that repeats another one's calls while they fail for passing reasons.

    When an early try may have been committed and the last one was not, the failure raised is the unknown outcome.

    Args:
        storage: does the work.
        spool: keeps an answer on this machine from the first settle that fails until it is settled; None: nowhere.
        read_for: how long a call is repeated that is no settle, twice at least.
        settle_for: how long a settle is repeated, twice at least.
    """

    def __init__(
        self,
        storage: Storage,
        spool: Spool | None = None,
        *,
        read_for: timedelta = READ_FOR,
        settle_for: timedelta = SETTLE_FOR,
    ) -> None:
        self._storage = storage
        self._spool = spool
        self._read_for = read_for
        self._settle_for = settle_for

    def __repr__(self) -> str:
        return f"RepeatingStorage({self._storage!r})"

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """See the port."""
        return repeat(lambda: self._storage.load(user_id, generation_id, quota_rule), self._read_for)

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """See the port."""
        return repeat(lambda: self._storage.claim(admission, token=token, lease=lease), self._read_for)

    def succeed(
        self,
        claim: Claim,
        answer: Answer,
        *,
        answer_from: int | None,
        duration: timedelta | None,
        quota_rule: QuotaRule,
        rejected_wait: timedelta,
        rejected_again_wait: timedelta,
    ) -> Settled:
        """See the port. The answer stands in the spool before the second try, and until the storage has decided."""
        settle = PendingSettle(
            claim=claim,
            answer=answer,
            answer_from=answer_from,
            duration=duration,
            quota_rule=quota_rule,
            rejected_wait=rejected_wait,
            rejected_again_wait=rejected_again_wait,
        )
        spool = self._spool if answer_from is None else None  # a stored answer is safe where it is
        if spool is None:
            return repeat(lambda: settle.send(self._storage), self._settle_for)
        try:
            settled = repeat(
                lambda: settle.send(self._storage), self._settle_for, on_failure=lambda: spool.keep(settle)
            )
        except (StorageFailure, NotConfigured):
            spool.keep(settle)
            raise
        except AiRetryError:
            spool.remove(claim.token)
            raise
        spool.remove(claim.token)
        return settled

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """See the port."""
        repeat(lambda: self._storage.fail(claim, failure, duration=duration, delay=delay), self._settle_for)

    def discard_answer(self, user_id: UUID, generation_id: UUID, *, operator: str) -> bool:
        """See the port."""
        return repeat(lambda: self._storage.discard_answer(user_id, generation_id, operator=operator), self._read_for)


def repeat(call: Callable[[], _T], budget: timedelta, *, on_failure: Callable[[], None] = lambda: None) -> _T:
    """Call until it answers, or fails for good, or the budget is spent; a lost reply outweighs what came after it."""
    unknown: list[StorageOutcomeUnknown] = []

    def remember(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, StorageFailure):
            on_failure()
        if isinstance(error, StorageOutcomeUnknown):
            unknown.append(error)

    repeating = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_all(stop_after_delay(budget), stop_after_attempt(2)),  # a lost reply is asked for again
        wait=wait_random_exponential(multiplier=0.05, max=1),
        after=remember,
        reraise=True,
    )
    try:
        return repeating(call)
    except StorageFailure as error:
        raise (unknown[-1] if unknown else error) from None


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, StorageFailure) and error.retry_after is not None
