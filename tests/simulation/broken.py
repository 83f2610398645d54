"""Storages that break one promise each. A simulation that does not notice them would prove nothing."""

from typing import Any
from uuid import UUID

from ai_retry.domain.change import Acceptance, Begin, CloseOver, Found, Keep, Open, PutBack, Reply, Settle
from ai_retry.testing.memory import MemoryStorage, Row


class ComparesNoVersion(MemoryStorage):
    """Begins on a snapshot that is no longer true."""

    def _is_same_version(self, *_: Any) -> bool:
        return True


class CountsNoUnits(MemoryStorage):
    """Admits above the user's limit."""

    def _is_below_max_used(self, *_: Any) -> bool:
        return True


class CountsNoRunning(MemoryStorage):
    """Admits more attempts at once than the user may have."""

    def _is_below_max_live(self, *_: Any) -> bool:
        return True


class ComparesNoToken(MemoryStorage):
    """Settles whatever attempt of the generation is open, as one does without fencing tokens."""

    def _by_token(self, change: Settle | PutBack | Keep) -> Row | None:
        return self._open_row(change.generation_id) or super()._by_token(change)


class ComparesNoStatus(MemoryStorage):
    """Creates a session for a generation that has succeeded, or that is another user's."""

    def _find(self, change: Settle, *_: Any) -> Found:
        return change.found


class DropsLateAnswers(MemoryStorage):
    """Forgets an answer whose attempt was closed before."""

    def _store_late(self, *_: Any) -> None:
        return


class DropsKeptAnswers(MemoryStorage):
    """Forgets an answer that could not be settled."""

    def keep(self, change: Keep) -> None:
        """Do nothing."""


class ComparesNoAge(MemoryStorage):
    """Begins on a snapshot of any age."""

    def _is_young(self, *_: Any) -> bool:
        return True


class _LeavesOver(MemoryStorage):
    """Leaves what is over open in one kind of begin."""

    def _leaves(self, change: Begin | CloseOver) -> bool:
        raise NotImplementedError

    def begin(self, change: Begin | CloseOver) -> Reply:
        """Begin, without closing what is over."""
        self._left = self._leaves(change)
        return super().begin(change)

    def _close_over(self, user_id: UUID, now: Any, begun_id: UUID | None = None) -> None:
        if not self._left:
            super()._close_over(user_id, now, begun_id)


class ClicksCloseNothing(_LeavesOver):
    """A click leaves attempts open that are over."""

    def _leaves(self, change: Begin | CloseOver) -> bool:
        return isinstance(change, Begin) and isinstance(change.attempt, Open) and not _is_accepted(change)


class AcceptancesCloseNothing(_LeavesOver):
    """An acceptance leaves attempts open that are over, and admits beside them."""

    def _leaves(self, change: Begin | CloseOver) -> bool:
        return isinstance(change, Begin) and _is_accepted(change)

    def _held(self, user_id: UUID) -> int:
        now = self._clock.now()
        return sum(row.charge and (row.is_queued or row.is_live(now)) for row in self._open_of(user_id))


class TidiesCloseNothing(_LeavesOver):
    """A tidy leaves attempts open that are over."""

    def _leaves(self, change: Begin | CloseOver) -> bool:
        return isinstance(change, CloseOver)


def _is_accepted(change: Begin) -> bool:
    return isinstance(change.attempt, Open) and isinstance(change.attempt.start, Acceptance)


BROKEN = (
    ComparesNoVersion,
    CountsNoUnits,
    CountsNoRunning,
    ComparesNoToken,
    ComparesNoStatus,
    DropsLateAnswers,
    DropsKeptAnswers,
    ComparesNoAge,
    ClicksCloseNothing,
    AcceptancesCloseNothing,
    TidiesCloseNothing,
)
