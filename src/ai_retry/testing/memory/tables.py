"""The tables of the storage in memory, and everything that is read and counted in them."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from ai_retry.domain.model import (
    Answer,
    Generation,
    GenerationStatus,
    Outcome,
    Quota,
    QuotaRule,
    Snapshot,
    StoredAnswer,
)
from ai_retry.domain.operation import Action
from ai_retry.domain.ports import Clock
from ai_retry.domain.recovery import Cursor, FoundPage, FoundRow
from ai_retry.testing.memory.app import MemoryApp
from ai_retry.testing.memory.line import Line, Routes
from ai_retry.testing.memory.rows import Row, still_holds

_LAST: Final = datetime.max.replace(tzinfo=UTC)


class MemoryTables:
    """Attempts, stored answers and quotas in this process, in the clock's time.

    Args:
        clock: the storage's own time.
        app: the app's tables; new ones when None.

    Attributes:
        rows: attempts by generation and number.
        answers: stored answers by generation and attempt number.
        stored_at: since when those of closed attempts are stored.
        quotas: overrides; their limit and window replace the rule's.
        acted: what operators did, by id.
        recoveries: recorded runs of plans, by id.
    """

    def __init__(self, clock: Clock, app: MemoryApp | None = None) -> None:
        self.app = app or MemoryApp()
        self.rows: dict[tuple[UUID, int], Row] = {}
        self.answers: dict[tuple[UUID, int], Answer] = {}
        self.stored_at: dict[tuple[UUID, int], datetime] = {}
        self.quotas: dict[UUID, QuotaRule] = {}
        self.acted: dict[UUID, Action] = {}
        self.recoveries: dict[UUID, dict[str, Any]] = {}
        self.line = Line()
        self.routes = Routes()
        self.passed: list[Row] = []  # closed by the begin that runs, in passing
        self.has_queue = True  # False: there is no pgmq
        self._clock = clock
        self._lock = threading.RLock()

    # Reading

    def load(
        self, user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None, *, creating: bool = False
    ) -> Snapshot | None:
        """Read everything under the lock, and write nothing."""
        with self._lock:
            now = self._clock.now()
            proposal = proposed(generation_id, user_id, now) if creating else None
            return self._snapshot(generation_id, rule, token, now, proposal)

    def browse(
        self, user_id: UUID, statuses: frozenset[GenerationStatus], before: Cursor, limit: int, rule: QuotaRule
    ) -> FoundPage:
        """Sort, and cut."""
        with self._lock:
            now = self._clock.now()
            mine = [
                each
                for each in self.app.generations.values()
                if each.user_id == user_id and each.status in statuses and each.id not in self.app.hidden
            ]
            at = _LAST if before.at in (None, "infinity") else datetime.fromisoformat(before.at)
            places = sorted(((each.created_at, each.id) for each in mine), reverse=True)
            found = [each for each in places if each < (at, before.id)][:limit]
            rows = [
                FoundRow(failed_at=at, snapshot=snapshot, error=None)
                for at, generation_id in found
                if (snapshot := self._snapshot(generation_id, rule, None, now)) is not None
            ]
            last = Cursor(at=found[-1][0].isoformat(), id=found[-1][1]) if len(found) == limit else None
            return FoundPage(as_of=now, rows=rows, next=last)

    def _snapshot(
        self,
        generation_id: UUID,
        rule: QuotaRule,
        token: UUID | None,
        now: datetime,
        proposal: Generation | None = None,
    ) -> Snapshot | None:
        found = self.app.read(generation_id)
        generation = found or proposal
        if generation is None:
            return None
        rows = self._rows_of(generation_id)
        ours = next((row.session_id for row in rows if row.outcome is Outcome.SUCCEEDED), None)
        live = [row for row in self._open_of(generation.user_id) if row.is_live(now)]
        return Snapshot(
            as_of=now,
            version=self._version(generation),
            generation=generation,
            attempts=tuple(row.as_attempt() for row in rows),
            live=len(live),
            live_until=min((row.lease_expires_at for row in live if row.lease_expires_at), default=None),
            quota=self._quota(generation.user_id, rule, now),
            stored_answer=self._stored_answer(generation),
            session=self.app.session(ours or generation.session_id, generation.user_id),
            can_create_session=found is None or self.app.can_create_session,
            session_conflict=self.app.conflicts.get(generation.user_id),
            hidden=generation_id in self.app.hidden,
            mine=next((row.number for row in rows if row.token == token), None),
            open_token=next((row.token for row in rows if row.outcome is None), None),
            open_is_foreign=any(row.outcome is None and row.user_id != generation.user_id for row in rows),
            routes=self.routes.states(self._running_on, self._waiting_for, now),
            exists=found is not None,
        )

    # Counting

    def _rows_of(self, generation_id: UUID) -> list[Row]:
        return sorted(
            (row for row in self.rows.values() if row.generation_id == generation_id), key=lambda row: row.number
        )

    def _open_of(self, user_id: UUID) -> list[Row]:
        return [row for row in self.rows.values() if row.user_id == user_id and row.outcome is None]

    def _open_row(self, generation_id: UUID) -> Row | None:
        return next((row for row in self._rows_of(generation_id) if row.outcome is None), None)

    def _highest(self, generation_id: UUID) -> int:
        """The highest number; where there is no attempt of ours the app made the first call, if it has the row."""
        rows = self._rows_of(generation_id)
        return rows[-1].number if rows else int(self.app.read(generation_id) is not None)

    def _running_on(self, route: str) -> int:
        return sum(row.route == route and row.is_live(self._clock.now()) for row in self.rows.values())

    def _waiting_rows(self, route: str) -> list[Row]:
        return [row for row in self.rows.values() if row.is_queued and row.route == route]

    def _waiting_for(self, route: str) -> int:
        return len(self._waiting_rows(route))

    def _is_success(self, generation: Generation) -> bool:
        ours = any(row.outcome is Outcome.SUCCEEDED for row in self._rows_of(generation.id))
        return ours or generation.status is GenerationStatus.SUCCESS

    def _stored_answer(self, generation: Generation) -> StoredAnswer | None:
        """The newest that its user has paid for: no other user's, who had the id before."""
        keys = [key for key in self.answers if key[0] == generation.id]
        key = max((key for key in keys if self.rows[key].user_id == generation.user_id), default=None)
        if key is None:
            return None
        row = self.rows[key]  # while the attempt is open its answer waits there
        stored_at = row.started_at if row.outcome is None else self.stored_at[key]
        return StoredAnswer(number=row.number, answer=self.answers[key], stored_at=stored_at)

    def _version(self, generation: Generation) -> str:
        """Everything that a decision to begin rests on; closing what is over does not change what it says."""
        rows = self._rows_of(generation.id)
        last = rows[-1] if rows else None
        stored = self._stored_answer(generation)
        parts = (
            generation.status,
            self._highest(generation.id),
            last.next_attempt_at if last else None,
            last.is_queued if last else None,
            stored,
            self.quotas.get(generation.user_id),
        )
        return "/".join(map(str, parts))

    def _held(self, user_id: UUID) -> int:
        """Units of open attempts, over or not: what is over holds its unit until it is closed."""
        return sum(row.charge for row in self._open_of(user_id))

    def _captured(self, user_id: UUID, rule: QuotaRule, now: datetime) -> list[datetime]:
        """When the units in the window were spent, newest first."""
        ours = [row for row in self.rows.values() if row.user_id == user_id]
        spent = [row.captured_at for row in ours if row.captured_at is not None]
        if rule.count_own_successes:
            by_us = {row.generation_id for row in self.rows.values() if row.outcome is Outcome.SUCCEEDED}
            spent += [
                each.created_at
                for each in self.app.generations.values()
                if each.user_id == user_id and each.status is GenerationStatus.SUCCESS and each.id not in by_us
            ]
        return sorted((instant for instant in spent if instant > now - rule.window), reverse=True)

    def _rule_of(self, user_id: UUID, rule: QuotaRule) -> QuotaRule:
        override = self.quotas.get(user_id, rule)
        return replace(rule, limit=override.limit, window=override.window)

    def _quota(self, user_id: UUID, rule: QuotaRule, now: datetime) -> Quota:
        rule = self._rule_of(user_id, rule)
        captured = self._captured(user_id, rule, now)[: rule.limit]
        holding = [row for row in self._open_of(user_id) if row.charge and still_holds(row, now)]
        return Quota(
            limit=rule.limit,
            window=rule.window,
            captured=len(captured),
            held=len(holding),
            resets_at=resets_at(rule, captured, [row.lease_expires_at for row in holding]),
        )

    def _add(self, row: Row) -> None:
        self.rows[row.generation_id, row.number] = row


def proposed(generation_id: UUID, user_id: UUID, now: datetime) -> Generation:
    """What a begin finds that creates a generation: nothing but who asks, and for what id."""
    return Generation(
        id=generation_id,
        user_id=user_id,
        status=GenerationStatus.PROCESSING,
        model=None,
        prompt_data=None,
        session_id=None,
        duration=None,
        created_at=now,
        updated_at=None,
    )


def resets_at(rule: QuotaRule, captured: Sequence[datetime], held: Sequence[datetime | None]) -> datetime | None:
    """When the next unit comes back; ``captured`` is newest first, ``held`` are ends of leases, None while queued."""
    if rule.limit == 0:
        return None
    if len(held) >= rule.limit:
        return min((end for end in held if end is not None), default=None)
    if len(captured) + len(held) >= rule.limit:
        return captured[rule.limit - len(held) - 1] + rule.window
    return captured[-1] + rule.window if captured else None
