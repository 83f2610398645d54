"""Storages that break one promise each. A simulation that does not notice them would prove nothing."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ai_retry.domain.change import (
    Acceptance,
    Begin,
    CloseOver,
    Discard,
    Found,
    Keep,
    Open,
    Postpone,
    PutBack,
    Renew,
    Reply,
    Settle,
    Success,
)
from ai_retry.domain.model import Generation, Outcome
from ai_retry.testing.memory import MemoryStorage, Row, SessionRefused
from ai_retry.testing.memory.rows import is_due


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

    def _find(self, change: Settle, generation: Any) -> Found:
        return change.found if generation is not None else Found.GONE


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


class CreatesBeforeItCounts(MemoryStorage):
    """Leaves a generation behind where the begin that creates it is refused."""

    def _has_room(self, change: Begin, now: datetime) -> bool:
        self._created = super()._create(change, now)
        return super()._has_room(change, now)

    def _create(self, *_: Any) -> bool:
        return self._created


class IgnoresOverrides(MemoryStorage):
    """Counts by the limit that the decision brings, whatever the operator has set since."""

    def _version(self, generation: Generation) -> str:
        override = self.quotas.pop(generation.user_id, None)
        version = super()._version(generation)
        if override is not None:
            self.quotas[generation.user_id] = override
        return version


class BeginsForAnyone(MemoryStorage):
    """Begins although the app has hidden or moved the generation since."""

    def _is_fresh(self, change: Begin, now: datetime) -> bool:
        generation = self.app.read(change.generation_id)
        return generation is not None and self._is_young(change, now) and self._is_same_version(change, generation)


class RenewsWithoutEnd(MemoryStorage):
    """Prolongs a lease as often as it is asked."""

    def _renew(self, change: Renew, now: datetime) -> bool:
        row = self._open_row(change.generation_id)
        if row is not None and row.token == change.token and row.kept_cause is None:
            self._add(replace(row, lease_expires_at=now + change.lease))
        return row is not None


class RenewsWhatIsClosed(MemoryStorage):
    """Prolongs whatever attempt of the generation is the latest."""

    def _renew(self, change: Renew, now: datetime) -> bool:
        row = self._rows_of(change.generation_id)[-1:]
        for each in row:
            self._add(replace(each, outcome=None, lease_expires_at=now + change.lease, renewable_until=now))
        return bool(row)


class KeepsTwice(MemoryStorage):
    """Records the call of a kept answer with each repeat."""

    def keep(self, change: Keep) -> None:
        """Keep, as if for the first time."""
        row = self._by_token(change)
        if row is not None and row.outcome is None:
            self._add(replace(row, kept_cause=None))
        super().keep(change)


class ForgetsRejectedAnswers(MemoryStorage):
    """Stores no answer whose session the app refused."""

    def _reject(self, row: Row, change: Settle, success: Success, refused: SessionRefused, now: datetime) -> None:
        super()._reject(row, change, success, refused, now)
        self.answers.pop((row.generation_id, row.number), None)


class SharesSessions(MemoryStorage):
    """Takes one session for the success of two generations."""

    def _is_reused(self, _: str) -> bool:
        return False


class DiscardsWhatIsUsed(MemoryStorage):
    """Discards an answer while an attempt makes a session of it."""

    def _discard(self, change: Discard) -> bool:
        keys = [key for key in self.answers if key[0] == change.generation_id]
        for key in keys:
            del self.answers[key]
        return bool(keys)


class InformsNoApp(MemoryStorage):
    """Closes what is over, and leaves the app's row as it was."""

    def _inform(self, *_: Any) -> None:
        return


class InformsNoAppLater(MemoryStorage):
    """Forgets that an app whose row was locked has to be informed."""

    def _inform(self, closed: Row, now: datetime) -> None:
        super()._inform(closed, now)
        self._add(replace(self.rows[closed.generation_id, closed.number], unreported=False))


class InformsNotOfWhatItBegins(MemoryStorage):
    """Closes a dead attempt of the generation that is begun, and leaves its status to a begin that may be refused."""

    _begun: UUID | None = None

    def begin(self, change: Begin | CloseOver) -> Reply:
        """Begin."""
        self._begun = change.generation_id if isinstance(change, Begin) else None
        return super().begin(change)

    def _inform(self, closed: Row, now: datetime) -> None:
        before = self.app.read(closed.generation_id)
        super()._inform(closed, now)
        if before is not None and closed.generation_id == self._begun:
            self.app.generations[before.id] = before


class EndsWithItsWorker(MemoryStorage):
    """Ends an accepted retry when its worker dies."""

    def _abandon(self, row: Row, now: datetime) -> None:
        super()._abandon(row, now)
        self.rows.pop((row.generation_id, row.number + 1), None)


class LosesMessages(MemoryStorage):
    """Sends no message for an accepted retry."""

    def _fill_line(self, *_: Any) -> None:
        return


class ForgetsLostMessages(MemoryStorage):
    """Never sends a lost message again."""

    def _is_overdue(self, row: Row, now: datetime) -> bool:
        return super()._is_overdue(row, now) and not (row.is_queued and is_due(row, now))


class PostponesNothing(MemoryStorage):
    """Lets a message that is put back come again at once."""

    def _postpone(self, change: Postpone, now: datetime) -> bool:
        done = super()._postpone(change, now)
        row = next((row for row in self.rows.values() if row.message_id == change.message.id), None)
        if row is not None and row.is_queued:
            self.line.hide(change.message.id, now)
        return done


class PutsBackUnderItsToken(MemoryStorage):
    """Queues an attempt again under the token that a worker knows."""

    def _put_back(self, change: PutBack, now: datetime) -> bool:
        done = super()._put_back(change, now)
        row = self._open_row(change.generation_id)
        if done and row is not None:
            self._add(replace(row, token=change.token))
        return done


class CapturesFreeOnes(MemoryStorage):
    """Charges an attempt that is free of charge."""

    def _close(self, row: Row, now: datetime, outcome: Outcome, code: str | None, **columns: Any) -> Row:
        if outcome is Outcome.SUCCEEDED:
            columns["captured_at"] = now
        return super()._close(row, now, outcome, code, **columns)


class ForgetsHolds(MemoryStorage):
    """Counts captured units only."""

    def _held(self, _: UUID) -> int:
        return 0


class ChargesLateAnswers(MemoryStorage):
    """Spends a unit for an answer whose attempt was abandoned."""

    def _store_with_closed(self, change: Settle | Keep, row: Row | None, *arguments: Any) -> None:
        super()._store_with_closed(change, row, *arguments)
        late = self._by_token(change)
        if late is not None and late.outcome is Outcome.ABANDONED:
            self._add(replace(late, captured_at=self._clock.now()))


class IgnoresStoredAnswers(MemoryStorage):
    """Lets a worker call although an answer has arrived since its decision."""

    def _version(self, generation: Generation) -> str:
        status, number, due, is_queued, _, override = super()._version(generation).split("/")
        return "/".join((status, number, due, is_queued, override))


class ClosesWhatIsValid(MemoryStorage):
    """Closes running attempts whose lease is valid."""

    def _close_over(self, user_id: UUID, now: datetime, begun_id: UUID | None = None) -> None:
        super()._close_over(user_id, now + timedelta(seconds=30), begun_id)


class StoresBesideSessions(MemoryStorage):
    """Leaves a stored answer beside the session that was created from it."""

    def _succeed(self, row: Row, change: Settle, success: Success, now: datetime) -> None:
        kept = dict(self.answers)
        super()._succeed(row, change, success, now)
        self.answers.update(kept)


class ForgetsWhoAsked(MemoryStorage):
    """Drops an accepted retry's key when it goes on."""

    def _follow(self, closed: Row, now: datetime, *, goes_on: bool, change: Settle | None = None) -> None:
        super()._follow(closed, now, goes_on=goes_on, change=change)
        after = self._open_row(closed.generation_id)
        if after is not None and closed.idempotency_key is not None:
            self._add(replace(after, idempotency_key=None))


class ReleasesWhatWaits(MemoryStorage):
    """Releases the unit of an attempt that is queued."""

    def _held(self, user_id: UUID) -> int:
        return sum(row.charge and not row.is_queued for row in self._open_of(user_id))


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
    IgnoresOverrides,
    BeginsForAnyone,
    RenewsWithoutEnd,
    RenewsWhatIsClosed,
    KeepsTwice,
    ForgetsRejectedAnswers,
    SharesSessions,
    DiscardsWhatIsUsed,
    InformsNoApp,
    InformsNoAppLater,
    InformsNotOfWhatItBegins,
    EndsWithItsWorker,
    LosesMessages,
    ForgetsLostMessages,
    PostponesNothing,
    PutsBackUnderItsToken,
    CapturesFreeOnes,
    ForgetsHolds,
    ChargesLateAnswers,
    IgnoresStoredAnswers,
    ClosesWhatIsValid,
    StoresBesideSessions,
    ForgetsWhoAsked,
    ReleasesWhatWaits,
    CreatesBeforeItCounts,
)

# Where the hunt begins for those that few histories show: the first seed that shows them. It may begin anywhere; should
# the simulation change, it only takes longer.
FIRST_SEEDS: Mapping[type[MemoryStorage], int] = {
    BeginsForAnyone: 51,
    ComparesNoStatus: 39,
    CountsNoUnits: 19,
    CreatesBeforeItCounts: 9,
    DiscardsWhatIsUsed: 93,
    ForgetsHolds: 19,
    ForgetsLostMessages: 14,
    IgnoresOverrides: 11,
    IgnoresStoredAnswers: 12,
    InformsNoAppLater: 63,
    InformsNotOfWhatItBegins: 42,
    KeepsTwice: 20,
    PostponesNothing: 47,
    PutsBackUnderItsToken: 36,
    ReleasesWhatWaits: 19,
    SharesSessions: 35,
}
