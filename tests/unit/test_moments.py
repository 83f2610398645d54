"""What happened to a generation, in words and in the order of time; what is still to come is last."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from ai_retry.domain.operation import Action, AttemptRecord
from ai_retry.operate.moments import moments

AT = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
QUEUED = AttemptRecord(number=2, started_at=AT, accepted_at=AT, due_at=AT + 9 * SECOND, route="p/small")
RUNNING = AttemptRecord(number=2, started_at=AT, lease_expires_at=AT + 35 * SECOND, route="p/small")
FAILED = replace(
    RUNNING,
    outcome="failed",
    closed_at=AT + SECOND,
    code="SESSION_REJECTED",
    cause="km_is_positive",
    reason="It was refused.",
    next_attempt_at=AT + 20 * SECOND,
)


def described(*attempts: AttemptRecord, actions: tuple[Action, ...] = ()) -> list[tuple[str, str, bool]]:
    """Words and texts of what happened, without the creation."""
    return [(each.what, each.text, each.is_expected) for each in moments(None, attempts, actions)]


def test_nothing_happened() -> None:
    """Without attempts there is the creation, where it is known."""
    assert moments(None, [], []) == []
    assert [each.what for each in moments(AT, [], [])] == ["created"]


def test_accepted_attempt_waits() -> None:
    """An accepted retry is due, and waits for its route; the attempt that follows another one was queued."""
    follower = replace(QUEUED, number=3, started_at=AT + SECOND, route=None)

    assert described(QUEUED) == [
        ("accepted", "Attempt 2 was accepted for later.", False),
        ("due", "Attempt 2 is due, and waits for p/small.", True),
    ]
    assert described(follower) == [("queued", "Attempt 3 was queued.", False), ("due", "Attempt 3 is due.", True)]


def test_attempt_runs() -> None:
    """One that runs holds its lease; it asks a route, or uses an answer that was kept."""
    assert described(RUNNING) == [
        ("began", "Attempt 2 began, asking p/small.", False),
        ("lease", "Attempt 2 holds its lease until then.", True),
    ]
    assert described(replace(RUNNING, answer_from=1))[0][1] == "Attempt 2 began with the answer of attempt 1."
    assert described(replace(RUNNING, route=None))[0][1] == "Attempt 2 began."


def test_attempt_ended() -> None:
    """An end has its code, cause and reason; the wait that follows is described of the last one only."""
    kept = replace(FAILED, stored_at=AT + 2 * SECOND)
    success = replace(RUNNING, number=3, outcome="succeeded", closed_at=AT + 30 * SECOND, captured_at=AT + 30 * SECOND)

    assert described(kept)[1:] == [
        ("failed", "Attempt 2 failed (SESSION_REJECTED), rejected by km_is_positive: It was refused.", False),
        ("kept", "Attempt 2 has a paid answer that is kept for the next one.", False),
        ("wait", "Attempt 2 may be followed by the next one.", True),
    ]
    assert [what for what, *_ in described(kept, success)] == [
        "began",
        "began",
        "failed",
        "kept",
        "succeeded",
        "charged",
    ]
    abandoned = replace(FAILED, outcome="abandoned", code="LEASE_LOST", cause=None, reason=None)
    assert described(abandoned)[1][1] == "Attempt 2 was abandoned: its lease ran out."


def test_what_operators_did_has_its_place() -> None:
    """An action is described with who, what came of it and why; what can't be printed is replaced."""
    discarded = replace(FAILED, discarded_at=AT + 3 * SECOND, discarded_by="bob", next_attempt_at=None)
    action = Action(
        id=UUID(int=1),
        operator="ada",
        role="admin",
        action="discard_answer",
        target="x",
        reason="a\x1b[2Jb",
        at=AT + 2 * SECOND,
        outcome="done",
    )

    assert described(discarded, actions=(action, replace(action, at=AT + 4 * SECOND, outcome=None)))[2:] == [
        ("action", "ada: discard answer (done). Reason: a\N{REPLACEMENT CHARACTER}[2Jb", False),
        ("discarded", "Attempt 2 lost its paid answer, which bob dropped.", False),
        ("action", "ada: discard answer. Reason: a\N{REPLACEMENT CHARACTER}[2Jb", False),
    ]
