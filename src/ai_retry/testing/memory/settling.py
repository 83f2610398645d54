"""Settling in memory: session, rejection, failure, cancellation, late answer."""

from dataclasses import replace
from datetime import datetime

from ai_retry.domain.change import CallRecord, Closing, Found, Keep, PutBack, Reply, Settle, Success
from ai_retry.domain.errors import LeaseLost, SessionConflict, SessionRejected, StorageUnavailable
from ai_retry.domain.model import Answer, Generation, GenerationStatus, Outcome, ProviderOutcome
from ai_retry.testing.memory.app import SessionRefused
from ai_retry.testing.memory.closing import IN_PROGRESS, MemoryClosing
from ai_retry.testing.memory.rows import Row, with_call

_SESSION_REUSED = "session_reused"


class MemorySettling(MemoryClosing):
    """Closes one attempt as a change says."""

    # Settling

    def settle(self, change: Settle) -> Reply:
        """Close the attempt that has the token, or store the late answer of one that is closed."""
        with self._lock:
            now = self._clock.now()
            row, generation = self._by_token(change), self.app.read(change.generation_id)
            applied = False
            if row is None or row.outcome is not None:
                self._store_late(change, row, now)
            elif self._find(change, generation) is change.found:
                applied = True
                self.app.lock(change.generation_id)
                match change.end:
                    case Success():
                        self._succeed(row, change, change.end, now)
                    case Closing():
                        self._fail(row, change, change.end, now)
            snapshot = self._snapshot(change.generation_id, change.quota_rule, change.token, now)
            return Reply(applied=applied, snapshot=snapshot, known=self._by_token(change) is not None)

    def _by_token(self, change: Settle | PutBack | Keep) -> Row | None:
        return next((row for row in self._rows_of(change.generation_id) if row.token == change.token), None)

    def _find(self, change: Settle, generation: Generation | None) -> Found:
        if generation is None:
            return Found.GONE
        if generation.user_id != change.user_id or generation.id in self.app.hidden:
            return Found.FOREIGN
        return Found.SUCCEEDED if self._is_success(generation) else Found.READY

    def _succeed(self, row: Row, change: Settle, success: Success, now: datetime) -> None:
        generation = self.app.generations[row.generation_id]
        try:
            session = self.app.create_session(generation, success.answer.output)
        except SessionRefused as refused:
            self._reject(row, change, success, refused, now)
            return
        if self._is_reused(session["id"]):
            self._reject(row, change, success, SessionRefused(_SESSION_REUSED), now)
            return
        self.app.sessions[session["id"]] = session
        self.app.write(
            generation.id,
            now,
            GenerationStatus.SUCCESS,
            duration=change.call.duration if change.call else None,
            session_id=session["id"],
        )
        self.app.record_event(generation, now, "ai_generation_succeeded")
        closed = self._close(
            row,
            now,
            Outcome.SUCCEEDED,
            None,
            next_attempt_at=None,
            session_id=session["id"],
            captured_at=now if row.charge else None,
            call=with_call(row, change.call),
        )
        for key in [key for key in self.answers if key[0] == row.generation_id]:
            del self.answers[key]
        self._follow(closed, now, goes_on=False, change=change)

    def _is_reused(self, session_id: str) -> bool:
        return any(each.session_id == session_id for each in self.rows.values())

    def _reject(self, row: Row, change: Settle, success: Success, refused: SessionRefused, now: datetime) -> None:
        code = (SessionConflict if refused.conflict else SessionRejected).code
        before = [each for each in self._rows_of(row.generation_id) if each.refused_constraint is not None]
        again = bool(before) and before[-1].refused_constraint == refused.constraint
        wait = success.if_rejected.again_wait if again else success.if_rejected.wait
        same_answer = again and success.answer_from is not None
        self._write_rejection(row, change, now, code, message=None if same_answer else success.if_rejected.message)
        if success.answer_from is None:
            self.answers[row.generation_id, row.number] = success.answer
        closed = self._close(
            row,
            now,
            Outcome.FAILED,
            code,
            counted=False,
            next_attempt_at=now + wait,
            refused_constraint=refused.constraint,
            call=with_call(row, change.call),
        )
        self._follow(closed, now, goes_on=True, change=change)

    def _write_rejection(self, row: Row, change: Settle, now: datetime, code: str, *, message: str | None) -> None:
        generation = self.app.generations[row.generation_id]
        status = GenerationStatus.ERROR if row.accepted_at is None else GenerationStatus.QUEUED
        self.app.write(generation.id, now, status, duration=change.call.duration if change.call else None)
        if message is not None:
            self.app.log_failure(generation, now, code, message)

    def _fail(self, row: Row, change: Settle, closing: Closing, now: datetime) -> None:
        generation = self.app.read(row.generation_id)
        goes_on = closing.goes_on and row.accepted_at is not None
        status = GenerationStatus.QUEUED if goes_on else closing.status or row.status_before
        if change.found is Found.READY and generation is not None:
            duration = change.call.duration if change.call else None
            self.app.write(generation.id, now, status, duration=duration)
            if closing.message is not None:
                self.app.log_failure(generation, now, closing.code or "", closing.message)
        elif change.found is Found.FOREIGN and generation is not None and generation.status in IN_PROGRESS:
            self.app.write(generation.id, now, status)  # hidden, or another user's: no attempt works on it any more
        if closing.answer is not None:
            self.answers[row.generation_id, row.number] = closing.answer
        closed = self._close(
            row,
            now,
            closing.outcome,
            closing.code,
            counted=closing.counted,
            next_attempt_at=row.next_attempt_at if closing.wait is None else now + closing.wait,
            reason=closing.reason,
            transient=closing.transient,
            operator_fault=closing.operator_fault,
            call=with_call(row, change.call),
        )
        closed = replace(closed, status_before=closing.status or row.status_before)
        self._follow(closed, now, goes_on=goes_on, change=change)

    def _store_late(self, change: Settle, row: Row | None, now: datetime) -> None:
        """Record a late call; store its answer, also that of an attempt which a fail-over lost."""
        answer = paid(change.end)
        if answer is not None and change.call is not None:
            self._store_with_closed(change, row, answer, change.call, now)
        elif row is not None and row.outcome is Outcome.ABANDONED and change.call is not None:
            self._record_late(row, change.call)

    def _store_with_closed(
        self, change: Settle | Keep, row: Row | None, answer: Answer, call: CallRecord, now: datetime
    ) -> None:
        if row is not None:
            row = self._record_late(row, call)
        generation = self.app.read(change.generation_id)
        if generation is None or any(each.outcome is Outcome.SUCCEEDED for each in self._rows_of(generation.id)):
            return
        row = row or self._open_of_owner(change) or self._file(change, call, now)
        key = (row.generation_id, row.number)
        if key in self.answers or row.discarded_by is not None:
            return
        self.answers[key] = answer
        if row.outcome is not None:
            self.stored_at[key] = now

    def _record_late(self, row: Row, call: CallRecord) -> Row:
        """Record what a late call cost, once, whatever became of it."""
        if row.call.provider_outcome is ProviderOutcome.UNKNOWN and not row.call.calls:
            row = replace(row, call=with_call(row, call))
            self._add(row)
        return row

    def _open_of_owner(self, change: Settle | Keep) -> Row | None:
        row = self._open_row(change.generation_id)
        if row is not None and row.user_id != change.user_id:
            raise StorageUnavailable("55P03")  # until it is closed no attempt can be filed
        return row

    def _file(self, change: Settle | Keep, call: CallRecord, now: datetime) -> Row:
        """Record an attempt that a fail-over lost, so that its answer has a place; it charges nothing."""
        row = Row(
            user_id=change.user_id,
            generation_id=change.generation_id,
            number=self._highest(change.generation_id) + 1,
            token=change.token,
            started_at=now,
            charge=False,
            waived=frozenset(),
            operator=None,
            idempotency_key=None,
            outcome=Outcome.ABANDONED,
            closed_at=now,
            code=LeaseLost.code,
            counted=False,
            call=call,
        )
        self._add(row)
        return row


def paid(end: Success | Closing) -> Answer | None:
    """Return the answer that the attempt to be closed paid for."""
    if isinstance(end, Success):
        return end.answer if end.answer_from is None else None
    return end.answer
