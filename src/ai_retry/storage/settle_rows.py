"""A settle as the JSON that the SQL verb reads, and back: what a file of the spool holds is sent again as it was."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from ai_retry.domain.change import CallRecord, Closing, Found, Rejection, Settle, Success
from ai_retry.domain.model import ProviderOutcome, QuotaRule
from ai_retry.domain.queue_model import Outage, RouteNote
from ai_retry.storage.call_rows import call_rows, read_calls
from ai_retry.storage.rows import (
    Json,
    answer_row,
    milliseconds,
    read_answer,
    read_usage,
    rule_row,
    storable,
    usage_row,
)


def settle_members(change: Settle) -> dict[str, Any]:
    """Write a settle."""
    end: dict[str, Any] = (
        {"success": _success(change.end)} if isinstance(change.end, Success) else {"closing": _closing(change.end)}
    )
    return {
        "user_id": str(change.user_id),
        "generation_id": str(change.generation_id),
        "token": str(change.token),
        "found": change.found,
        "rule": rule_row(change.quota_rule),
        "call": call_row(change.call) if change.call is not None else None,
        "outage": outage_row(change.outage) if change.outage is not None else None,
        "answered": change.answered,
        "elsewhere": elsewhere_rows(change.elsewhere),
        **end,
    }


def call_row(call: CallRecord) -> Json:
    """Write what is known of a call."""
    return {
        "provider_outcome": call.provider_outcome,
        "duration_ms": milliseconds(call.duration),
        "model": storable(call.model),
        "usage": usage_row(call.usage) if call.usage is not None else None,
        "provider_id": storable(call.provider_id),
        "wire_requests": call.wire_requests,
        "calls": call_rows(call.calls),
    }


def elsewhere_rows(notes: Sequence[RouteNote]) -> Sequence[Json] | None:
    """Write what calls showed of other routes; None: nothing."""
    rows = [{"route": each.route, "outage": outage_row(each.outage) if each.outage else None} for each in notes]
    return rows or None


def outage_row(outage: Outage) -> Json:
    """Write what a call showed of its route."""
    return {"wait_seconds": outage.wait.total_seconds(), "failures": outage.failures, "doubts": outage.doubts}


def read_settle(row: Json) -> Settle:
    """Read what ``settle_members`` wrote of an answer that its attempt paid for.

    Raises:
        Exception: of whatever type, where something is not as it was written.
    """
    rule, call, success = row["rule"], row["call"], row["success"]
    rejection, duration = success["if_rejected"], call["duration_ms"]
    return Settle(
        user_id=UUID(row["user_id"]),
        generation_id=UUID(row["generation_id"]),
        token=UUID(row["token"]),
        found=Found(row["found"]),
        end=Success(
            answer=read_answer(success["answer"], wire_requests=call["wire_requests"]),
            answer_from=success["answer_from"],
            if_rejected=Rejection(
                message=rejection["message"],
                wait=timedelta(seconds=rejection["wait_seconds"]),
                again_wait=timedelta(seconds=rejection["again_wait_seconds"]),
            ),
        ),
        quota_rule=QuotaRule(
            limit=rule["limit"],
            window=timedelta(seconds=rule["window_seconds"]),
            count_own_successes=rule["count_own_successes"],
        ),
        call=CallRecord(
            provider_outcome=ProviderOutcome(call["provider_outcome"]),
            duration=None if duration is None else timedelta(milliseconds=duration),
            model=call["model"],
            usage=None if call["usage"] is None else read_usage(call["usage"]),
            provider_id=call["provider_id"],
            wire_requests=call["wire_requests"],
            calls=read_calls(call.get("calls")),
        ),
        answered=row["answered"],
    )


def _success(success: Success) -> Json:
    return {
        "answer": answer_row(success.answer),
        "answer_from": success.answer_from,
        "if_rejected": _rejection(success.if_rejected),
    }


def _rejection(rejection: Rejection) -> Json:
    return {
        "message": rejection.message,
        "wait_seconds": rejection.wait.total_seconds(),
        "again_wait_seconds": rejection.again_wait.total_seconds(),
    }


def _closing(closing: Closing) -> Json:
    return {
        "outcome": closing.outcome,
        "code": closing.code,
        "counted": closing.counted,
        "wait_seconds": None if closing.wait is None else closing.wait.total_seconds(),
        "status": closing.status,
        "message": closing.message,
        "reason": storable(closing.reason),
        "transient": closing.transient,
        "operator_fault": closing.operator_fault,
        "goes_on": closing.goes_on,
        "answer": answer_row(closing.answer) if closing.answer is not None else None,
    }
