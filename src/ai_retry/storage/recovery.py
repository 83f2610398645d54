"""The ``RecoveryStorage`` port over the SQL functions of its migration, as a part of every storage over SQL.

All of it may be repeated, so that a lost reply means no more than that the database was away.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from ai_retry.domain.errors import NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.model import Outcome, QuotaRule
from ai_retry.domain.recovery import CallEstimate, Cursor, Filter, FoundPage, FoundRow, LastError, PlanAttempt
from ai_retry.storage.rows import (
    Json,
    instant,
    maybe_instant,
    read_snapshot,
    read_usage,
    rule_arguments,
    understood,
)

_FIRST_ID = UUID(int=0)
_LAST_ID = UUID(int=2**128 - 1)


class RecoveryFunctions:
    """Implements ``ai_retry.domain.recovery.RecoveryStorage`` over a transport."""

    _call: Callable[[str, Json], Any]

    def find(self, wanted: Filter, *, before: Cursor | None, page: int, quota_rule: QuotaRule) -> FoundPage:
        """See the port."""
        start = before or Cursor(at=wanted.until, id=_LAST_ID)
        arguments = {
            "p_since": wanted.since.isoformat() if wanted.since else None,
            "p_statuses": _texts(wanted.statuses),
            "p_codes": _texts(wanted.codes),
            "p_models": _texts(wanted.models),
            "p_user_id": str(wanted.user_id) if wanted.user_id else None,
            "p_before_at": start.at.isoformat(),
            "p_before_id": str(start.id),
            "p_page": page,
            **rule_arguments(quota_rule),
        }
        return understood(_page, self._ask("ai_retry_find", arguments))

    def find_one(self, generation_id: UUID, quota_rule: QuotaRule) -> FoundRow | None:
        """See the port."""
        arguments = {"p_generation_id": str(generation_id), **rule_arguments(quota_rule)}
        row = self._ask("ai_retry_find_one", arguments)
        return None if row is None else understood(_found, row)

    def find_attempts(self, key: str, *, after: UUID | None, page: int) -> Sequence[PlanAttempt]:
        """See the port."""
        arguments = {"p_key": key, "p_after": str(after or _FIRST_ID), "p_page": page}
        return [_plan_attempt(row) for row in self._ask("ai_retry_find_attempts", arguments)]

    def estimate(self) -> Mapping[str | None, CallEstimate]:
        """See the port."""
        return {
            row["model"]: CallEstimate(tokens=_decimal(row["tokens"]), cost=_decimal(row["cost"]))
            for row in self._ask("ai_retry_estimate", {})
        }

    def record_recovery(
        self, run_id: UUID, *, plan_id: str, operator: str, plan: Mapping[str, Any], counts: Mapping[str, Any] | None
    ) -> str | None:
        """See the port."""
        arguments = {
            "p_run_id": str(run_id),
            "p_plan_id": plan_id,
            "p_operator": operator,
            "p_plan": json.dumps(plan),
            "p_counts": None if counts is None else json.dumps(counts),
        }
        refused_by: str | None = self._ask("ai_retry_record_recovery", arguments)
        return refused_by

    def _ask(self, function: str, arguments: Json) -> Any:
        try:
            return self._call(function, arguments)
        except StorageOutcomeUnknown as error:
            failure: Exception = StorageUnavailable(error.reason, retry_after=error.retry_after)
        except (ValueError, RecursionError):
            failure = NotConfigured("prompt_data, or a session, is nested too deeply or holds too large a number")
        raise failure


def _texts(values: frozenset[Any] | None) -> str | None:
    return None if values is None else json.dumps(sorted(values))


def _page(row: Json) -> FoundPage:
    after = row["next"]
    return FoundPage(
        as_of=instant(row["as_of"]),
        rows=[_found(each) for each in row["rows"]],
        next=Cursor(at=instant(after["at"]), id=UUID(after["id"])) if after else None,
    )


def _found(row: Json) -> FoundRow:
    error = row["error"]
    return FoundRow(
        failed_at=instant(row["failed_at"]),
        snapshot=read_snapshot(row["snapshot"]),
        error=None
        if error is None
        else LastError(
            code=error["code"] or "UNKNOWN",
            at=maybe_instant(error["at"]),
            reason=error["reason"],
            ours=error["ours"],
        ),
    )


def _plan_attempt(row: Json) -> PlanAttempt:
    return PlanAttempt(
        generation_id=UUID(row["generation_id"]),
        number=row["number"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        code=row["code"],
        started_at=instant(row["started_at"]),
        closed_at=maybe_instant(row["closed_at"]),
        next_attempt_at=maybe_instant(row["next_attempt_at"]),
        usage=read_usage(row["usage"]) if row["usage"] else None,
        was_turned_away=row["was_turned_away"],
    )


def _decimal(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))
