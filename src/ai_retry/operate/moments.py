"""What happened to a generation, and what is still to come, in the order of time."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from ai_retry.domain.operation import Action, AttemptRecord
from ai_retry.operate.views import Moment
from ai_retry.tables import printable

_ENDS: Final = {
    "succeeded": "succeeded",
    "failed": "failed",
    "abandoned": "was abandoned: its lease ran out",
    "cancelled": "was cancelled",
}


def moments(
    created_at: datetime | None, attempts: Sequence[AttemptRecord], actions: Sequence[Action]
) -> Sequence[Moment]:
    """Put together when what happened; what an attempt waits for comes last."""
    found = [] if created_at is None else [Moment(at=created_at, what="created", text="The generation was created.")]
    for attempt in attempts:
        found += [*_begun(attempt), *_ended(attempt), *_expected(attempt, is_last=attempt is attempts[-1])]
    found += [Moment(at=each.at, what="action", text=_action(each)) for each in actions]
    return sorted(found, key=lambda moment: (moment.is_expected, moment.at))


def _moment(attempt: AttemptRecord, at: datetime, what: str, text: str, *, is_expected: bool = False) -> Moment:
    words = f"Attempt {attempt.number} {text}."
    return Moment(at=at, what=what, text=words, number=attempt.number, is_expected=is_expected)


def _begun(attempt: AttemptRecord) -> Iterator[Moment]:
    if attempt.accepted_at is not None and attempt.accepted_at == attempt.started_at:
        yield _moment(attempt, attempt.accepted_at, "accepted", "was accepted for later")
    elif attempt.is_queued:
        yield _moment(attempt, attempt.started_at, "queued", "was queued")
    if attempt.lease_expires_at is not None:
        yield _moment(attempt, attempt.started_at, "began", f"began{_asking(attempt)}")


def _ended(attempt: AttemptRecord) -> Iterator[Moment]:
    if attempt.closed_at is not None:
        yield _moment(attempt, attempt.closed_at, str(attempt.outcome), _end(attempt))
    if attempt.captured_at is not None:
        yield _moment(attempt, attempt.captured_at, "charged", "spent a unit of the quota")
    if attempt.stored_at is not None:
        yield _moment(attempt, attempt.stored_at, "kept", "has a paid answer that is kept for the next one")
    if attempt.discarded_at is not None:
        lost = f"lost its paid answer, which {printable(attempt.discarded_by)} dropped"
        yield _moment(attempt, attempt.discarded_at, "discarded", lost)


def _expected(attempt: AttemptRecord, *, is_last: bool) -> Iterator[Moment]:
    if attempt.is_queued and attempt.due_at is not None:
        yield _moment(attempt, attempt.due_at, "due", f"is due{_waiting(attempt)}", is_expected=True)
    elif attempt.outcome is None and attempt.lease_expires_at is not None:
        yield _moment(attempt, attempt.lease_expires_at, "lease", "holds its lease until then", is_expected=True)
    elif is_last and attempt.next_attempt_at is not None and attempt.outcome in ("failed", "abandoned"):
        text = "may be followed by the next one"
        yield _moment(attempt, attempt.next_attempt_at, "wait", text, is_expected=True)


def _asking(attempt: AttemptRecord) -> str:
    if attempt.answer_from is not None:
        return f" with the answer of attempt {attempt.answer_from}"
    return f", asking {printable(attempt.route)}" if attempt.route is not None else ""


def _waiting(attempt: AttemptRecord) -> str:
    return f", and waits for {printable(attempt.route)}" if attempt.route is not None else ""


def _end(attempt: AttemptRecord) -> str:
    end = _ENDS.get(str(attempt.outcome), str(attempt.outcome))
    code = f" ({printable(attempt.code)})" if attempt.code is not None and attempt.outcome == "failed" else ""
    cause = f", rejected by {printable(attempt.cause)}" if attempt.cause is not None else ""
    reason = f": {printable(attempt.reason).rstrip('.')}" if attempt.reason else ""
    return f"{end}{code}{cause}{reason}"


def _action(action: Action) -> str:
    outcome = f" ({printable(action.outcome)})" if action.outcome is not None else ""
    name = action.action.replace("_", " ")
    return f"{printable(action.operator)}: {name}{outcome}. Reason: {printable(action.reason)}"
