"""What recovery reads and records, in memory: see ``ai_retry.domain.recovery.RecoveryStorage``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ai_retry.domain.model import Generation, GenerationStatus, Outcome, QuotaRule
from ai_retry.domain.outbox import MessageType
from ai_retry.domain.recovery import (
    CallEstimate,
    Cursor,
    Filter,
    FoundPage,
    FoundRow,
    LastError,
    PlanAttempt,
    UnreadableRow,
)
from ai_retry.testing.memory.creating import MemoryCreating
from ai_retry.testing.memory.rows import Row

_LAST: Final = datetime.max.replace(tzinfo=UTC)
_LAST_ID: Final = UUID(int=2**128 - 1)
_FIRST_ID: Final = UUID(int=0)


class MemoryRecovering(MemoryCreating):
    """Finds failed generations; what a plan did is read from the attempts."""

    def find(
        self, wanted: Filter, *, before: Cursor | None, page: int, quota_rule: QuotaRule, most: int | None = None
    ) -> FoundPage:
        """Sort, and cut."""
        with self._lock:
            now = self._clock.now()
            start = before or Cursor(at=wanted.until.isoformat(), id=_LAST_ID)
            rows: list[FoundRow] = []
            looked: list[Generation] = []
            for generation in self._older(wanted, start):
                if len(looked) == page or len(rows) == (most or page):
                    break
                looked.append(generation)
                row = self._found(generation, quota_rule, now)
                if wanted.codes is None or (row.error is not None and row.error.code in wanted.codes):
                    rows.append(row)
            full = bool(looked) and (len(looked) == page or len(rows) == most)
            last = Cursor(at=looked[-1].created_at.isoformat(), id=looked[-1].id) if full else None
            return FoundPage(as_of=now, rows=rows, next=last)

    def find_one(self, generation_id: UUID, quota_rule: QuotaRule) -> FoundRow | UnreadableRow | None:
        """Read one of whatever status."""
        with self._lock:
            generation = self.app.read(generation_id)
            return None if generation is None else self._found(generation, quota_rule, self._clock.now())

    def find_attempts(self, key: str, *, after: UUID | None, page: int) -> Sequence[PlanAttempt]:
        """List the last attempt of each generation with this key."""
        with self._lock:
            newest: dict[UUID, Row] = {}
            for row in sorted(self.rows.values(), key=lambda row: row.number):
                if row.idempotency_key == key and row.generation_id > (after or _FIRST_ID):
                    newest[row.generation_id] = row
            return [
                PlanAttempt(
                    generation_id=generation_id,
                    attempt=newest[generation_id].as_attempt(),
                    usage=newest[generation_id].call.usage,
                    calls=newest[generation_id].call.calls,
                )
                for generation_id in sorted(newest)[:page]
            ]

    def estimate(self) -> Mapping[str | None, CallEstimate]:
        """Average over all attempts that recorded their tokens."""
        with self._lock:
            used: dict[str | None, list[Row]] = {}
            for row in self.rows.values():
                generation = self.app.read(row.generation_id)
                if row.outcome is not None and row.call.usage is not None and generation is not None:
                    used.setdefault(generation.model, []).append(row)
            return {
                model: CallEstimate(
                    tokens=_mean([row.call.usage.total_tokens for row in rows if row.call.usage]),
                    cost=_mean([row.call.usage.cost for row in rows if row.call.usage]),
                )
                for model, rows in used.items()
            }

    def books(self, rule: QuotaRule | None = None, *, since: datetime | None = None) -> Sequence[Mapping[str, Any]]:
        """List successes whose generation says otherwise; in memory nothing else can contradict a promise."""
        del rule  # no unit is admitted above a limit here
        with self._lock:
            return [
                {"violation": "a success whose generation says otherwise", "generation_id": str(row.generation_id)}
                for row in self.rows.values()
                if row.outcome is Outcome.SUCCEEDED
                and (since is None or (row.closed_at is not None and row.closed_at >= since))
                and (generation := self.app.read(row.generation_id)) is not None
                and generation.status is not GenerationStatus.SUCCESS
            ]

    def record_recovery(
        self, run_id: UUID, *, plan_id: str, operator: str, plan: Mapping[str, Any], counts: Mapping[str, Any] | None
    ) -> str | None:
        """Keep the record; the app's events of recoveries are left out."""
        with self._lock:
            record = self.recoveries.setdefault(run_id, {"plan_id": plan_id, "operator": operator, "plan": plan})
            if counts is not None and "counts" not in record:
                record["counts"] = counts
                ended = {"run_id": str(run_id), "plan_id": record["plan_id"], "counts": counts}
                self._announce(MessageType.RECOVERY_ENDED, run_id, ended, self._clock.now())
            return None

    def _older(self, wanted: Filter, start: Cursor) -> Iterator[Generation]:
        """List what was created before a place, and has one of the statuses and models, the newest first."""
        at = _LAST if start.at in (None, "infinity") else datetime.fromisoformat(start.at)
        places = sorted(((each.created_at, each.id) for each in self.app.generations.values()), reverse=True)
        for place in places:
            each = self.app.generations[place[1]]
            if place < (at, start.id) and each.id not in self.app.hidden and _is_wanted(each, wanted):
                yield each

    def _found(self, generation: Generation, rule: QuotaRule, now: datetime) -> FoundRow:
        snapshot = self._snapshot(generation.id, rule, None, now)
        assert snapshot is not None  # noqa: S101 (it was just read, under the lock)
        stored = snapshot.stored_answer
        if stored is not None:
            stored = replace(stored, answer=replace(stored.answer, output=None))
        error = self._last_error(generation)
        at = error.at if error is not None else None
        rows = [row for row in self._rows_of(generation.id) if row.outcome is not None and row.call.calls]
        return FoundRow(
            failed_at=at or generation.updated_at or generation.created_at,
            snapshot=replace(snapshot, session=None, stored_answer=stored),
            error=error,
            calls=rows[-1].call.calls if rows else (),
        )

    def _last_error(self, generation: Generation) -> LastError | None:
        failed = [row for row in self._rows_of(generation.id) if row.outcome in (Outcome.FAILED, Outcome.ABANDONED)]
        if failed:
            last = failed[-1]
            return LastError(code=last.code or "UNKNOWN", at=last.closed_at, reason=last.reason)
        logs = [log for log in self.app.error_logs if log["generation_id"] == generation.id]
        if not logs:
            return None
        newest = max(logs, key=lambda log: log["created_at"])
        return LastError(code=newest["error_type"], at=newest["created_at"], ours=False)


def _is_wanted(generation: Generation, wanted: Filter) -> bool:
    return (
        generation.status in wanted.statuses
        and (wanted.since is None or generation.created_at >= wanted.since)
        and (wanted.user_id is None or generation.user_id == wanted.user_id)
        and (wanted.models is None or generation.model in wanted.models)
    )


def _mean(values: Sequence[float | Decimal | None]) -> Decimal | None:
    known = [Decimal(str(value)) for value in values if value is not None]
    return sum(known, Decimal(0)) / len(known) if known else None
