"""The judge of fairness can count: by hand, without a queue."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from tests.faults.queue_fairness import ROUNDS, turns, unfair

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GREEDY, MODEST = uuid4(), uuid4()


def at(seconds: float) -> datetime:
    """Give an instant."""
    return NOON + timedelta(seconds=seconds)


def attempt(user_id: UUID, *, accepted: float, ended: float, succeeded: bool = True) -> dict[str, Any]:
    """Give an accepted retry's attempt."""
    captured_at = at(ended) if succeeded else None
    return {"user_id": user_id, "accepted_at": at(accepted), "closed_at": at(ended), "captured_at": captured_at}


def begins(*users: UUID) -> list[dict[str, Any]]:
    """Let attempts begin, one a second."""
    return [{"user_id": user_id, "at": at(second)} for second, user_id in enumerate(users, start=1)]


def test_user_who_waits_for_too_many_is_named() -> None:
    """Two users and one place each: the seventh attempt after the acceptance is too late for a first one."""
    attempts = [attempt(GREEDY, accepted=-1, ended=20), attempt(MODEST, accepted=0, ended=21)]
    most = ROUNDS * 2

    fair = turns(attempts, begins(*[GREEDY] * (most - 1), MODEST))
    late = turns(attempts, begins(*[GREEDY] * most, MODEST))

    assert list(unfair(fair, max_parallel=1)) == []
    assert [turn.place for turn in late] == [1, most + 1]
    assert len(list(unfair(late, max_parallel=1))) == 1


def test_others_count_while_they_wait() -> None:
    """Users whose retries have all ended before, or are accepted later, keep no user waiting."""
    early, later = uuid4(), uuid4()
    attempts = [
        attempt(early, accepted=-9, ended=-8),
        attempt(MODEST, accepted=0, ended=9),
        attempt(later, accepted=1.5, ended=9),
    ]

    found = turns(attempts, [{"user_id": early, "at": at(-8.5)}, *begins(MODEST, later)])

    assert [(turn.place, turn.waiting) for turn in found] == [(1, 1), (1, 1), (1, 2)]


def test_first_success_comes_with_what_was_before_it() -> None:
    """A first success has its place, the successes before the acceptance, and the user's own failed attempts."""
    attempts = [
        attempt(GREEDY, accepted=-5, ended=-1),
        attempt(GREEDY, accepted=-5, ended=2),
        attempt(MODEST, accepted=0, ended=3, succeeded=False),
        attempt(MODEST, accepted=0, ended=4),
        attempt(MODEST, accepted=0, ended=5, succeeded=False),
    ]

    turn = turns(attempts, begins(GREEDY, MODEST))[1]

    assert (turn.success, turn.accepted_after, turn.failed) == (3, 1, 1)
