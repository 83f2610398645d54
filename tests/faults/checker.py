"""Reads what a run left behind, in the database and in the provider's own log, and names every broken promise.

Pure: what was read is passed in. It knows nothing of how the fault was made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.kinds import Kind
from tests.faults.plan import POLICY
from tests.faults.provider import Call

Row = Mapping[str, Any]
LONGEST_WAIT = POLICY.lease + timedelta(seconds=1)
_CLOCK = timedelta(milliseconds=20)  # between two readings of this machine's clock by two processes


@dataclass(kw_only=True)
class History:
    """One run, as it was seen from outside."""

    kind: Kind
    seed: int
    attempts: Sequence[Row] = ()
    sessions: Sequence[Row] = ()
    status: str = ""  # of the generation, at the end
    calls: Sequence[Call] = ()
    reports: list[Row] = field(default_factory=list)  # of workers that lived to report
    silent: int = 0  # workers that were not killed and reported nothing
    killed: int = 0
    waited: timedelta = timedelta(0)  # until it could be retried, or had succeeded
    last_retry: str = ""  # how the plain retry after it ended; empty: none was needed
    answer_stored_at: list[datetime] = field(default_factory=list)  # when an answer was seen to be stored
    left_in_spool: int = 0
    hit: bool = False  # the fault did happen
    never_created: bool = False  # of a first call: there was no generation before it was made again

    @property
    def paid(self) -> Sequence[Call]:
        """Calls that were answered."""
        return [call for call in self.calls if call.serial is not None]

    @property
    def lost_answers(self) -> int:
        """Answers that the provider gave in time and no attempt knows of."""
        known: int = sum(row["provider_outcome"] == "generated" and row["answer_from"] is None for row in self.attempts)
        too_late: int = sum(row["code"] == "AI_TIMEOUT" for row in self.attempts)
        return max(0, len(self.paid) - known - too_late)


def violations(history: History) -> list[str]:
    """Name each promise that the run broke."""
    return [
        *_ends_well(history),
        *_one_session(history),
        *_one_at_a_time(history),
        *_calls(history),
        *_stored_answers(history),
        *_first_call(history),
    ]


def _first_call(history: History) -> Iterator[str]:
    """What exists has its attempts from the first on; what was never created was never called for."""
    numbers = [row["number"] for row in history.attempts]
    if numbers != list(range(1 if history.kind.first else 2, (1 if history.kind.first else 2) + len(numbers))):
        yield f"attempts {numbers}"
    if history.never_created and len(numbers) > 1:
        yield "a generation that was not there had attempts"
    for report in history.reports:
        if history.kind.first and report["code"].startswith("AI_") and not report["names"]:
            yield f"{report['code']} does not name its generation"


def _ends_well(history: History) -> Iterator[str]:
    if history.waited > LONGEST_WAIT:
        yield f"neither retryable nor successful after {history.waited.total_seconds():.2f} s"
    if history.last_retry not in ("", "ok", "ALREADY_SUCCEEDED"):
        yield f"the plain retry after it ended with {history.last_retry}"
    if history.left_in_spool:
        yield f"{history.left_in_spool} answers left in the spool"
    if history.silent:
        yield f"{history.silent} workers ended without a word"
    for report in history.reports:
        if report["code"].startswith("unexpected"):
            yield f"a caller saw {report['code']}"


def _one_session(history: History) -> Iterator[str]:
    charged = [row for row in history.attempts if row["captured_at"] is not None]
    successes = [row for row in history.attempts if row["outcome"] == "succeeded"]
    serials = {call.serial for call in history.paid}
    if history.status != "success":
        yield f"the generation says {history.status}"
    if len(history.sessions) != 1:
        yield f"{len(history.sessions)} sessions"
    if (len(charged), len(successes)) != (1, 1):
        yield f"{len(charged)} units captured for {len(successes)} successes"
    for session in history.sessions:
        if session["content"].get("serial") not in serials:
            yield "a session that no answer of the provider made"


def _one_at_a_time(history: History) -> Iterator[str]:
    for earlier, later in zip(history.attempts, history.attempts[1:], strict=False):
        if earlier["closed_at"] is None or earlier["closed_at"] > later["started_at"]:
            yield f"attempt {later['number']} began before {earlier['number']} was closed"
    for row in history.attempts:
        if row["outcome"] is None:
            yield f"attempt {row['number']} is still open"
        if row["outcome"] == "abandoned" and row["closed_at"] < row["lease_expires_at"]:
            yield f"attempt {row['number']} was abandoned before its lease ended"


def _calls(history: History) -> Iterator[str]:
    known = sum(row["wire_requests"] for row in history.attempts)
    unknown = sum(row["outcome"] == "abandoned" and not row["wire_requests"] for row in history.attempts)
    if not known <= len(history.calls) <= known + unknown:
        yield f"{len(history.calls)} calls, but {known} recorded and {unknown} abandoned"
    for call in history.calls:
        at = datetime.fromtimestamp(call.at, UTC)
        leased = any(row["started_at"] - _CLOCK <= at <= row["lease_expires_at"] + _CLOCK for row in history.attempts)
        if not leased and not history.kind.may_call_late:
            yield "a call outside of every lease"
    if history.lost_answers > history.kind.may_lose_answer:
        yield f"{history.lost_answers} paid answers lost"
    if history.kind.pays_once and len(history.paid) > 1:
        yield f"{len(history.paid)} answers paid for"


def _stored_answers(history: History) -> Iterator[str]:
    stored_at = [row["closed_at"] for row in history.attempts if row["code"] == "SESSION_REJECTED"]
    stored_at += history.answer_stored_at
    stored_at += [datetime.fromtimestamp(report["at"], UTC) for report in history.reports if report["answer_kept"]]
    if not stored_at:
        return
    for row in history.attempts:
        if row["started_at"] > min(stored_at) and row["answer_from"] is None:
            yield f"attempt {row['number']} called although an answer was stored"
