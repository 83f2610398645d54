"""The ``RecoveryStorage`` port, and what operators read, over SQL functions; a part of every storage over SQL.

All of it can be repeated, so that a lost reply means no more than that the database was unavailable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from ai_retry.domain.model import QuotaRule
from ai_retry.domain.recovery import CallEstimate, Cursor, Filter, FoundPage, FoundRow, PlanAttempt, UnreadableRow
from ai_retry.storage.calling import Calls
from ai_retry.storage.codec import Json, listed, read
from ai_retry.storage.documents import document, shaped
from ai_retry.storage.found_rows import read_found, read_page

_PRUNED_AT_ONCE = 500  # attempts that are looked at; their users wait no longer than it takes to remove them
_FIRST_ID = UUID(int=0)
_LAST_ID = UUID(int=2**128 - 1)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What one page of pruning removed, or would have."""

    attempts: int
    answers: int  # stored ones, of generations that are gone
    actions: int  # of operators
    next: UUID | None  # where the next page begins; None: this was the last one


class RecoveryFunctions(Calls):
    """Implements ``ai_retry.domain.recovery.RecoveryStorage`` over a transport."""

    def find(
        self, wanted: Filter, *, before: Cursor | None, page: int, quota_rule: QuotaRule, most: int | None = None
    ) -> FoundPage:
        """See the port."""
        start = before or Cursor(at=wanted.until.isoformat(), id=_LAST_ID)
        request = document(wanted, before=start, page=page, rule=quota_rule, most=most)
        return self._find("ai_retry_find", {"p_request": request}, read_page)

    def find_one(self, generation_id: UUID, quota_rule: QuotaRule) -> FoundRow | UnreadableRow | None:
        """See the port."""
        request = document(generation_id=generation_id, rule=quota_rule)
        return self._find("ai_retry_find_one", {"p_request": request}, _maybe_found)

    def find_attempts(self, key: str, *, after: UUID | None, page: int) -> Sequence[PlanAttempt]:
        """See the port."""
        request = document(key=key, after=after or _FIRST_ID, page=page)
        return self._find("ai_retry_find_attempts", {"p_request": request}, _plan_attempts)

    def estimate(self) -> Mapping[str | None, CallEstimate]:
        """See the port."""
        return self._find("ai_retry_estimate", {}, _estimates)

    def record_recovery(
        self, run_id: UUID, *, plan_id: str, operator: str, plan: Mapping[str, Any], counts: Mapping[str, Any] | None
    ) -> str | None:
        """See the port."""
        request = document(run_id=run_id, plan_id=plan_id, operator=operator, plan=plan, counts=counts)
        return self._find("ai_retry_record_recovery", {"p_request": request}, _refused_by)

    def prune(self, *, older_than: timedelta, window: timedelta, after: UUID | None, dry_run: bool) -> Pruned:
        """Remove one page of history that no decision needs any more: see ``ai_retry_prune``.

        Args:
            older_than: how long ago an attempt was closed, at least.
            window: the longest of the policy; nothing that is younger is removed.
            after: ``next`` of the page before; None: the first one.
            dry_run: count only.
        """
        request = document(
            older_than_seconds=older_than.total_seconds(),
            window_seconds=window.total_seconds(),
            after=after,
            page=_PRUNED_AT_ONCE,
            dry_run=dry_run,
        )
        return self._find("ai_retry_prune", {"p_request": request}, partial(read, Pruned))

    def inspect(self) -> Json:
        """Return what is in the database: see ``ai_retry_inspect``. Reads only."""
        return self._find("ai_retry_inspect", {}, _facts)

    def books(self, rule: QuotaRule | None = None, *, since: datetime | None = None) -> Sequence[Json]:
        """List what contradicts the promises, nothing when the books balance: see ``ai_retry_books``. Reads only.

        Args:
            rule: the limit above which no unit may be spent, and its window; None: no limit is asked about.
            since: of closed attempts, only those that were closed since; None: all.
        """
        arguments: dict[str, Any] = {"p_since": since.isoformat() if since is not None else None}
        if rule is not None:
            arguments |= {"p_limit": rule.limit, "p_window_seconds": rule.window.total_seconds()}
        return self._find("ai_retry_books", arguments, _violations)

    def _find(self, function: str, arguments: Json, read: Callable[[Any], _T]) -> _T:
        return self._look(function, arguments, read, self._searching)


def _maybe_found(reply: Any) -> FoundRow | UnreadableRow | None:
    return None if reply is None else read_found(reply)


def _plan_attempts(reply: Any) -> Sequence[PlanAttempt]:
    return [read(PlanAttempt, row) for row in listed(reply)]


def _estimates(reply: Any) -> Mapping[str | None, CallEstimate]:
    return {shaped(row, "model")["model"]: read(CallEstimate, row) for row in listed(reply)}


def _refused_by(reply: Any) -> str | None:
    refused_by: str | None = shaped(reply, "events_refused_by")["events_refused_by"]
    return refused_by


def _facts(reply: Any) -> Json:
    return shaped(reply, "as_of", "functions")


def _violations(reply: Any) -> Sequence[Json]:
    return [shaped(row, "violation", "generation_id") for row in listed(reply)]
