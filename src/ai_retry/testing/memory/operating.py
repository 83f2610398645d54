"""What operators read and do, in memory: see ``ai_retry.domain.operation.OperatorStorage``."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final
from uuid import UUID

from ai_retry.domain.model import Outcome, QuotaRule, Route
from ai_retry.domain.operation import (
    Action,
    AttemptRecord,
    Deed,
    Done,
    FailureCount,
    HoldRoute,
    OpenRoute,
    Order,
    Override,
    Overview,
    Period,
    ReadAnswer,
    ResetQuota,
    RouteReport,
    SetQuota,
    UserQuota,
)
from ai_retry.domain.queue_model import QueueState
from ai_retry.domain.recovery import Cursor, Filter
from ai_retry.testing.memory.line import ALL_WHO_WAIT
from ai_retry.testing.memory.recovering import MemoryRecovering
from ai_retry.testing.memory.rows import Row, is_due

_MOST_FAILURES: Final = 1000
_MOST_RECORDS: Final = 200
_LAST_ID: Final = UUID(int=2**128 - 1)


class MemoryOperating(MemoryRecovering, ABC):
    """Reads and acts for operators."""

    @abstractmethod
    def state(self) -> QueueState:
        """Count what waits and what runs for accepted retries."""
        ...

    def overview(self) -> Overview:
        """Count everything."""
        with self._lock:
            now, state = self._clock.now(), self.state()
            due = [
                row.next_attempt_at
                for row in self.rows.values()
                if row.is_queued and row.route is None and is_due(row, now) and row.next_attempt_at is not None
            ]
            routes = self.routes.states(self._running_on, self._waiting_for, now)
            return Overview(
                as_of=now,
                last_10_minutes=self._period(timedelta(minutes=10), now),
                last_15_minutes=self._period(timedelta(minutes=15), now),
                last_hour=self._period(timedelta(hours=1), now),
                last_day=self._period(timedelta(days=1), now),
                queue=state,
                routes=[self._report(each, now) for each in routes],
                oldest_due_at=min(due, default=None),
                oldest_kept_at=min(map(self._stored_since, self.answers), default=None),
            )

    def _stored_since(self, key: tuple[UUID, int]) -> datetime:
        row = self.rows[key]
        return row.started_at if row.outcome is None else self.stored_at[key]

    def _period(self, span: timedelta, now: datetime) -> Period:
        rows = [row for row in self.rows.values() if row.closed_at is not None and row.closed_at > now - span]
        ends = Counter(row.outcome for row in rows)
        codes = Counter(row.code for row in rows if row.code is not None)
        tokens = [row.call.usage.total_tokens for row in rows if row.call.usage is not None]
        costs = [row.call.usage.cost for row in rows if row.call.usage is not None]
        return Period(
            span=span,
            succeeded=ends[Outcome.SUCCEEDED],
            failed=ends[Outcome.FAILED],
            abandoned=ends[Outcome.ABANDONED],
            cancelled=ends[Outcome.CANCELLED],
            codes=dict(sorted(codes.items(), key=lambda each: (-each[1], each[0]))),
            operator_faults=sum(row.operator_fault for row in rows),
            calls=sum(row.call.wire_requests for row in rows),
            tokens=_sum(tokens),
            cost=_sum(costs),
            is_whole=True,
        )

    def _report(self, route: Route, now: datetime) -> RouteReport:
        failed = [
            row
            for row in self.rows.values()
            if row.route == route.route and row.code and row.closed_at and row.closed_at > now - timedelta(days=1)
        ]
        held = [
            each.operator
            for each in self.acted.values()
            if each.action == "hold_route" and each.target == f"route:{route.route}"
        ]
        return RouteReport(
            route=route.route,
            not_before=route.not_before,
            began_at=self.routes.began_at(route.route),
            failures=route.failures,
            slots=route.slots,
            running=route.running,
            waiting=route.waiting,
            held_until=route.held_until,
            held_by=held[-1] if held and route.held_until is not None else None,
            code=max(failed, key=lambda row: row.closed_at or now).code if failed else None,
        )

    def count_failures(self, wanted: Filter) -> FailureCount:
        """Count, up to a bound."""
        with self._lock:
            codes = Counter[str]()
            looked = 0
            for generation in self._older(wanted, Cursor(at=wanted.until.isoformat(), id=_LAST_ID)):
                if looked == _MOST_FAILURES:
                    break
                looked += 1
                error = self._last_error(generation)
                code = error.code if error is not None else "UNKNOWN"
                if wanted.codes is None or code in wanted.codes:
                    codes[code] += 1
            ranked = dict(sorted(codes.items(), key=lambda each: (-each[1], each[0])))
            return FailureCount(count=codes.total(), is_whole=looked < _MOST_FAILURES, codes=ranked)

    def attempt_records(self, generation_id: UUID) -> Sequence[AttemptRecord]:
        """Describe the newest ones."""
        with self._lock:
            return [self._record(row) for row in self._rows_of(generation_id)[-_MOST_RECORDS:]]

    def _record(self, row: Row) -> AttemptRecord:
        key, closed = (row.generation_id, row.number), row.outcome is not None
        return AttemptRecord(
            number=row.number,
            started_at=row.started_at,
            outcome=row.outcome,
            closed_at=row.closed_at,
            code=row.code,
            reason=row.reason,
            cause=row.refused_constraint,
            counted=row.counted,
            transient=row.transient,
            operator_fault=row.operator_fault if closed else None,
            next_attempt_at=row.next_attempt_at if closed else None,
            due_at=row.next_attempt_at if row.is_queued else None,
            lease_expires_at=row.lease_expires_at,
            accepted_at=row.accepted_at,
            expires_at=row.expires_at,
            session_id=row.session_id,
            charge=row.charge,
            captured_at=row.captured_at,
            waived=sorted(row.waived),
            operator=row.operator,
            idempotency_key=row.idempotency_key,
            request_id=row.origin.request_id,
            answer_from=row.answer_from,
            route=row.route,
            provider_outcome=row.call.provider_outcome,
            wire_requests=row.call.wire_requests,
            model=row.call.model,
            usage=row.call.usage,
            duration=row.call.duration,
            calls=row.call.calls,
            stored_at=self._stored_since(key) if key in self.answers else None,
            discarded_by=row.discarded_by,
        )

    def user_quota(self, user_id: UUID, rule: QuotaRule) -> UserQuota:
        """Count what is used."""
        with self._lock:
            now, own = self._clock.now(), self.quotas.get(user_id)
            rows = self._open_of(user_id)
            return UserQuota(
                as_of=now,
                quota=self._quota(user_id, rule, now),
                override=Override(limit=own.limit, window=own.window) if own is not None else None,
                live=sum(row.is_live(now) for row in rows),
                queued=sum(row.is_queued for row in rows),
            )

    def actions(self, *, target: str | None, before: datetime | None, limit: int) -> Sequence[Action]:
        """List them backwards."""
        with self._lock:
            found = [
                each
                for each in reversed(self.acted.values())
                if (target is None or each.target == target) and (before is None or each.at < before)
            ]
            return found[:limit]

    def record(self, order: Order, outcome: str | None) -> None:
        """Write it down, or how it ended."""
        with self._lock:
            now = self._clock.now()
            found = self.acted.setdefault(
                order.id,
                Action(
                    id=order.id,
                    operator=order.operator,
                    role=order.role,
                    action=order.action,
                    target=order.target,
                    reason=order.reason,
                    at=now,
                    user_id=order.user_id,
                ),
            )
            if outcome is not None and found.outcome is None:
                self.acted[order.id] = replace(found, ended_at=now, outcome=outcome)

    def act(self, order: Order, deed: Deed) -> Done:
        """Do it, and record it."""
        with self._lock:
            if order.id in self.acted and not isinstance(deed, ReadAnswer):
                return Done(applied=self.acted[order.id].outcome == "done")
            done = self._do(deed, self._clock.now())
            self.record(order, "done" if done.applied else "nothing")
            return done

    def _do(self, deed: Deed, now: datetime) -> Done:
        match deed:
            case HoldRoute():
                self.routes.hold(deed.route, deed.duration, now)
                return Done(applied=True)
            case OpenRoute():
                return Done(applied=self._open_route(deed.route, now))
            case SetQuota():
                self.quotas[deed.user_id] = QuotaRule(limit=deed.limit, window=deed.window)
                return Done(applied=True)
            case ResetQuota():
                return Done(applied=self.quotas.pop(deed.user_id, None) is not None)
            case ReadAnswer():
                return self._read_answer(deed)

    def _open_route(self, route: str, now: datetime) -> bool:
        """Forget it, and let those that wait for it look, every user's first before any user's second."""
        found = bool(self._watching_routes(partial(self.routes.open, route), now))
        waiting = self._waiting_rows(route)
        for row in waiting:
            self._add(replace(row, next_attempt_at=min(row.next_attempt_at or now, now)))
        self.line.wake(self._waiting_rows(route), ALL_WHO_WAIT, now)
        return found

    def _read_answer(self, deed: ReadAnswer) -> Done:
        keys = [key for key in self.answers if key[0] == deed.generation_id and self.rows[key].user_id == deed.user_id]
        if not keys:
            return Done(applied=False)
        return Done(applied=True, answer=json.dumps(self.answers[max(keys)].output))


def _sum(values: Sequence[float | Decimal | None]) -> Decimal | None:
    known = [Decimal(str(value)) for value in values if value is not None]
    return sum(known, Decimal(0)) if known else None
