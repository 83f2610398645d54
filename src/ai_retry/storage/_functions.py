"""The ``Storage`` port over the SQL functions of ``supabase/migrations``: rows to model and back.

One method, one function, one transaction. How a function is called is the transport's business and is passed in; what
a failure of the call means (``failure_of_sqlstate``) stands here, once for all transports. Repeats: ``repeating``.
"""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    NotConfigured,
    SessionRejected,
    StorageOutcomeUnknown,
    StorageUnavailable,
)
from ai_retry.domain.model import (
    Admission,
    Answer,
    Claim,
    Failure,
    FailureCode,
    GenerationStatus,
    QuotaRule,
    Settled,
    Snapshot,
)
from ai_retry.domain.queue_model import Parked
from ai_retry.storage._rows import (
    Json,
    admission_arguments,
    answer_row,
    claim_arguments,
    instant,
    milliseconds,
    read_generation,
    read_quota,
    read_snapshot,
    rule_arguments,
    storable,
    understood,
    usage_row,
)

Transport: TypeAlias = Callable[[str, Json], Any]
"""Calls ``public.<name>`` with named arguments and returns its JSON; raises ``StorageFailure`` or ``NotConfigured``."""

_SOON = timedelta(seconds=1)
_TRANSIENT = (
    *("40001", "40P01", "55P03", "57014", "53"),  # undone by a conflict, a lock, a timeout; out of resources
    *("42804", "0A000"),  # a column's type was changed under a plan: another connection has another one
)
_UNKNOWN = ("08", "57P", "XX", "58")  # the link or the server went away, perhaps after the commit
_FOR_OPERATORS = (
    (
        ("42883", "42P01", "42703", "3F000"),
        "the database does not know what ai-retry asks for: apply the migrations of this version",
    ),
    (("42501", "28"), "the database refused ai-retry's role: use the service role, or grant it what it needs"),
    (("25000", "25006"), "ai-retry's role must be able to write, in read committed transactions"),
    (("23", "P0"), "the app's tables refuse what ai-retry writes: the database's log says why"),
)


class FunctionStorage:
    """Implements ``ai_retry.domain.ports.Storage`` over a transport."""

    def __init__(self, call: Transport) -> None:
        self._call = call

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """See the port."""
        arguments = {"p_user_id": str(user_id), "p_generation_id": str(generation_id), **rule_arguments(quota_rule)}
        try:
            row = self._call("ai_retry_load", arguments)
        except StorageOutcomeUnknown as error:
            failure: AiRetryError = StorageUnavailable(error.reason, retry_after=error.retry_after)  # it writes nothing
        except (ValueError, RecursionError):
            failure = NotConfigured("prompt_data, or a session, is nested too deeply or holds too large a number")
        else:
            return None if row is None else understood(read_snapshot, row)
        raise failure

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """See the port."""
        claim = self._claim("ai_retry_claim", admission, token, lease, {})
        assert not isinstance(claim, Parked)  # noqa: S101 - only what names a route is parked
        return claim

    def _claim(
        self, function: str, admission: Admission, token: UUID, lease: timedelta, queued: Json
    ) -> Claim | Parked | None:
        answer = self._call(
            function,
            {
                **admission_arguments(admission),
                "p_token": str(token),
                "p_lease_seconds": lease.total_seconds(),
                "p_abandoned_wait_seconds": admission.abandoned_wait.total_seconds(),
                "p_answer_from": admission.stored_answer.number if admission.stored_answer else None,
                **queued,
            },
        )
        if answer["status"] == "not_found":
            raise GenerationNotFound(admission.generation_id)
        if answer["status"] == "stale":
            return None
        if answer["status"] == "parked":
            return Parked(retry_after=timedelta(seconds=answer["retry_after_seconds"]))
        return Claim(
            user_id=admission.user_id,
            generation_id=admission.generation_id,
            number=answer["number"],
            token=token,
            lease_expires_at=instant(answer["lease_expires_at"]),
            outage_failures=answer.get("outage_failures", 0),
        )

    def succeed(
        self,
        claim: Claim,
        answer: Answer,
        *,
        answer_from: int | None,
        duration: timedelta | None,
        quota_rule: QuotaRule,
        rejected_wait: timedelta,
        rejected_again_wait: timedelta,
    ) -> Settled:
        """See the port."""
        result = self._call(
            "ai_retry_succeed",
            {
                **claim_arguments(claim),
                "p_answer": json.dumps(answer_row(answer), allow_nan=False),
                "p_answer_from": answer_from,
                "p_wire_requests": 0 if answer_from else answer.wire_requests,
                "p_duration_ms": milliseconds(duration),
                "p_rejected_message": SessionRejected.summary,
                "p_rejected_wait_seconds": rejected_wait.total_seconds(),
                "p_rejected_again_wait_seconds": rejected_again_wait.total_seconds(),
                **rule_arguments(quota_rule),
            },
        )
        if result["status"] != "succeeded":
            _raise_unsettled(claim, result)
        return understood(_settled, result)

    def discard_answer(self, user_id: UUID, generation_id: UUID, *, operator: str) -> bool:
        """See the port."""
        discarded: int = self._call(
            "ai_retry_discard_answer",
            {"p_user_id": str(user_id), "p_generation_id": str(generation_id), "p_operator": operator},
        )
        return discarded > 0

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """See the port."""
        nothing_follows = {
            "p_requeue": False,
            "p_outage_wait_seconds": None,
            "p_outage_failures": None,
            "p_outage_doubts": None,
        }
        self._close(claim, failure, duration, delay, nothing_follows)

    def _close(
        self, claim: Claim, failure: Failure, duration: timedelta | None, delay: timedelta, follows: Json
    ) -> None:
        timed_out = failure.code is FailureCode.TIMEOUT
        result = self._call(
            "ai_retry_close",
            {
                **claim_arguments(claim),
                "p_status": GenerationStatus.TIMEOUT if timed_out else GenerationStatus.ERROR,
                "p_code": failure.code,
                "p_message": str(GenerationFailed(failure)),
                "p_reason": storable(failure.reason),
                "p_counted": failure.counted,
                "p_provider_outcome": failure.provider_outcome,
                "p_delay_seconds": delay.total_seconds(),
                "p_duration_ms": milliseconds(duration),
                "p_model": storable(failure.model),
                "p_usage": json.dumps(usage_row(failure.usage)) if failure.usage else None,
                "p_provider_id": storable(failure.provider_id),
                "p_wire_requests": failure.wire_requests,
                "p_transient": failure.transient,
                "p_operator_fault": failure.operator_fault,
                **follows,
            },
        )
        if result["status"] != "failed":
            _raise_unsettled(claim, result)

    def inspect(self) -> Json:
        """Tell what stands in the database: see ``ai_retry_inspect``. Reads only."""
        facts: Json = self._call("ai_retry_inspect", {})
        return facts

    def books(self) -> Sequence[Json]:
        """List what contradicts the promises, nothing when the books balance: see ``ai_retry_books``. Reads only."""
        violations: Sequence[Json] = self._call("ai_retry_books", {})
        return violations


def _settled(result: Json) -> Settled:
    return Settled(
        generation=read_generation(result["generation"]),
        session=result["session"] or {},  # empty: the app removed it since
        quota=read_quota(result["quota"]),
    )


def failure_of_sqlstate(sqlstate: str) -> AiRetryError:
    """Say what a SQLSTATE means for the caller (PostgreSQL documentation, appendix A); the message is never read.

    Safe to repeat in every case: functions that write are idempotent by token.
    """
    if sqlstate.startswith(_TRANSIENT):
        return StorageUnavailable(sqlstate, retry_after=_SOON)
    if sqlstate.startswith(_UNKNOWN):
        return StorageOutcomeUnknown(sqlstate, retry_after=_SOON)
    for classes, problem in _FOR_OPERATORS:
        if sqlstate.startswith(classes):
            return NotConfigured(f"{problem} ({sqlstate})")
    return StorageUnavailable(sqlstate)


def unreachable(reason: str) -> StorageUnavailable:
    """Build the failure of a call that never reached the database."""
    return StorageUnavailable(reason, retry_after=_SOON)


def reply_lost(reason: str) -> StorageOutcomeUnknown:
    """Build the failure of a call whose reply never came."""
    return StorageOutcomeUnknown(reason, retry_after=_SOON)


def _raise_unsettled(claim: Claim, result: Json) -> NoReturn:
    status = result["status"]
    if status == "session_rejected":
        wait = timedelta(seconds=result["retry_after_seconds"])
        raise SessionRejected(result["constraint"], retry_after=wait)
    if status == "already_succeeded":
        session_id = result["session_id"]
        raise AlreadySucceeded(claim.generation_id, UUID(session_id) if session_id else None)
    if status == "closed":
        raise LeaseLost(answer_kept=result["answer_kept"])
    raise GenerationNotFound(claim.generation_id)
