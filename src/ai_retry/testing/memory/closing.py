"""What ends an attempt in memory, and what follows: the app is informed, the next attempt, message and route."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from ai_retry.domain.change import ABANDONED, Settle
from ai_retry.domain.errors import LeaseLost, RetryExpired, SessionRejected
from ai_retry.domain.model import ClosedOver, Generation, GenerationStatus, Outcome
from ai_retry.domain.queue_model import RouteNote
from ai_retry.testing.memory.line import ALL_WHO_WAIT
from ai_retry.testing.memory.outbox import MemoryOutbox
from ai_retry.testing.memory.rows import Row, follower, is_due, is_out_of_time

IN_PROGRESS = (GenerationStatus.QUEUED, GenerationStatus.PROCESSING)
_MOST_IN_LINE = 8  # times as many messages of one user as attempts of theirs may run


class MemoryClosing(MemoryOutbox):
    """Closes attempts."""

    # Closing what is over

    def _close_over(self, user_id: UUID, now: datetime, begun_id: UUID | None = None) -> None:
        """Close what is over for a user, and whoever's attempt the generation to be begun has."""
        begun = self._open_row(begun_id) if begun_id is not None else None
        others = [begun] if begun is not None and begun.user_id != user_id else []
        for row in sorted([*self._open_of(user_id), *others], key=lambda row: row.lease_expires_at or now):
            if not row.is_queued and not row.is_live(now):
                self._abandon(row, now)
        for each in sorted(self._open_of(user_id), key=lambda row: row.expires_at or now):
            row = self.rows[each.generation_id, each.number]  # the end of the one before may have sent its message
            if row.is_queued and (is_out_of_time(row, now) or (begun_id is None and self._owned(row) is None)):
                self._end_queued(row, now)
        for row in [row for row in self.rows.values() if row.user_id == user_id and row.unreported]:
            self._inform(replace(row, unreported=False), now)

    def _abandon(self, row: Row, now: datetime) -> None:
        """Close an attempt whose lease ran out: as a rejected session when its answer was kept."""
        outcome, code = Outcome.ABANDONED, LeaseLost.code
        if row.kept_cause is not None:
            outcome, code = Outcome.FAILED, SessionRejected.code
        closed = self._close(row, now, outcome, code, refused_constraint=row.kept_cause)
        self.passed.append(closed)
        self._follow(closed, now, goes_on=True)
        self._inform(closed, now)

    def _inform(self, closed: Row, now: datetime) -> None:
        """Report an attempt that was closed in passing to its app, now or, while the app holds the row, later."""
        generation = self.app.read(closed.generation_id)
        locked = generation is not None and closed.generation_id in self.app.locked
        self._add(replace(closed, unreported=locked))
        if locked or generation is None or generation.status is not GenerationStatus.PROCESSING:
            return  # what the app has decided meanwhile stays
        follower = self._open_row(closed.generation_id)
        if follower is None:
            rejected = closed.refused_constraint is not None
            self.app.write(generation.id, now, GenerationStatus.ERROR if rejected else GenerationStatus.TIMEOUT)
        elif follower.is_queued:
            self.app.write(generation.id, now, GenerationStatus.QUEUED)
        if generation.user_id == closed.user_id:
            message = SessionRejected.summary if closed.refused_constraint else ABANDONED
            self.app.log_failure(generation, now, closed.code or LeaseLost.code, message)

    def _reported(self) -> Sequence[ClosedOver]:
        """Give back, once, what was closed in passing."""
        passed, self.passed = self.passed, []
        return [
            ClosedOver(
                user_id=row.user_id,
                generation_id=row.generation_id,
                number=row.number,
                outcome=row.outcome or Outcome.ABANDONED,
                code=row.code,
                is_accepted=row.accepted_at is not None,
                origin=row.origin,
            )
            for row in passed
        ]

    def _owned(self, row: Row) -> Generation | None:
        generation = self.app.read(row.generation_id)
        return generation if generation is not None and generation.user_id == row.user_id else None

    def _end_queued(self, row: Row, now: datetime) -> None:
        """End an accepted retry that is out of time, or whose generation is gone."""
        generation = self.app.read(row.generation_id)
        if generation is not None and row.generation_id in self.app.locked:
            return  # a later begin ends it
        owned = self._owned(row) is not None
        outcome, code = (Outcome.FAILED, RetryExpired.code) if owned else (Outcome.CANCELLED, None)
        if generation is not None and owned and not self._is_success(generation):
            self.app.write(generation.id, now, row.status_before)
            self.app.log_failure(generation, now, RetryExpired.code, str(RetryExpired()))
        elif generation is not None and generation.status in IN_PROGRESS:
            self.app.write(generation.id, now, row.status_before)
        closed = self._close(row, now, outcome, code, counted=False)
        self.passed.append(closed)
        self._follow(closed, now, goes_on=False)

    # What follows the end of an attempt

    def _close(self, row: Row, now: datetime, outcome: Outcome, code: str | None, **columns: Any) -> Row:
        closed = replace(row, outcome=outcome, closed_at=now, code=code, **columns)
        self._add(closed)
        self.stored_at[row.generation_id, row.number] = now  # its answer, if it has one
        return closed

    def _follow(self, closed: Row, now: datetime, *, goes_on: bool, change: Settle | None = None) -> None:
        """Open an accepted retry's next attempt, pass its message on, and note what its route did."""
        if closed.accepted_at is not None:
            if goes_on:
                self._add(follower(closed, now))
            else:
                self._announce_end(closed, now)
            self.line.delete(closed.message_id)
            self._fill_line(closed.user_id, now)
        if change is None:
            return
        notes = sorted(change.elsewhere, key=lambda note: note.route)
        if closed.route is not None and (change.outage is not None or change.answered):
            notes.insert(0, RouteNote(route=closed.route, outage=change.outage))
        self._note_routes(notes, closed.started_at, now)

    def _note_routes(self, notes: Sequence[RouteNote], started_at: datetime, now: datetime) -> None:
        """Note what calls showed of their routes; an answer wakes attempts that wait."""
        for note in notes:
            if note.outage is not None:
                self._watching_routes(partial(self.routes.forget, now), now)
                self._watching_routes(partial(self.routes.note_outage, note.route, note.outage, now), now)
                continue
            slots = self._watching_routes(partial(self.routes.note_answer, note.route, started_at, now), now)
            waiting = [row for row in self._waiting_rows(note.route) if slots == ALL_WHO_WAIT or is_due(row, now)]
            self.line.wake(waiting, slots - self._running_on(note.route), now)

    def _fill_line(self, user_id: UUID, now: datetime) -> None:
        """Send messages for those that are due first, as many as the user may have in line."""
        while (row := self._next_in_line(user_id, now)) is not None:
            message_id = self.line.send(user_id, row.generation_id, max(row.next_attempt_at or now, now))
            self._add(replace(row, message_id=message_id))

    def _next_in_line(self, user_id: UUID, now: datetime) -> Row | None:
        """The queued attempt without a message that is due first, if there is room.

        As many messages of one user are due as attempts of theirs may run. Some more may wait for their time.
        """
        rows = self._open_of(user_id)
        without = [row for row in rows if row.is_queued and row.message_id not in self.line.messages]
        if not without:
            return None
        first = min(without, key=lambda row: (row.next_attempt_at or now, row.accepted_at or now))
        at = max(first.next_attempt_at or now, now)
        in_line = [row for row in rows if row.message_id in self.line.messages]
        due = [row for row in in_line if not row.is_queued or is_due(row, at)]
        return first if len(due) < first.in_line and len(in_line) < _MOST_IN_LINE * first.in_line else None
