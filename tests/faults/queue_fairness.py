"""How long does a user wait for others? Judged by how many attempts begin meanwhile, not by the clock.

Pure: rows are passed in.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

Row = Mapping[str, Any]
ROUNDS = 3  # in which every user has a turn; within them a user's first attempt begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One user's first turn."""

    user_id: UUID
    place: int  # among the attempts that began after its first acceptance
    waiting: int  # users who had accepted retries meanwhile, this one included
    accepted_after: int  # successes of all users
    success: int | None  # place of the first one among the successes of all users
    failed: int  # of the user's own attempts, before that

    def most(self, max_parallel: int) -> int:
        """The last place that is fair."""
        return ROUNDS * self.waiting * max_parallel


def turns(attempts: Sequence[Row], begins: Sequence[Row]) -> list[Turn]:
    """Work out each user's turn, in the order of their acceptance.

    Args:
        attempts: of accepted retries, all of which have ended.
        begins: of attempts, in order.
    """
    accepted, ended = _spans(attempts)
    starts = [row["at"] for row in begins]
    first: dict[UUID, datetime] = {}
    for row in begins:
        first.setdefault(row["user_id"], row["at"])
    successes = sorted(row["captured_at"] for row in attempts if row["captured_at"] is not None)
    found = []
    for user_id in sorted(accepted, key=accepted.__getitem__):
        began = first.get(user_id, ended[user_id])
        own = [row for row in attempts if row["user_id"] == user_id]
        won = min((row["captured_at"] for row in own if row["captured_at"] is not None), default=None)
        found.append(
            Turn(
                user_id=user_id,
                place=bisect_right(starts, began) - bisect_left(starts, accepted[user_id]),
                waiting=sum(accepted[each] <= began and ended[each] >= accepted[user_id] for each in accepted),
                accepted_after=bisect_left(successes, accepted[user_id]),
                success=None if won is None else bisect_left(successes, won) + 1,
                failed=sum(row["captured_at"] is None and (won is None or row["closed_at"] < won) for row in own),
            )
        )
    return found


def _spans(attempts: Sequence[Row]) -> tuple[dict[UUID, datetime], dict[UUID, datetime]]:
    """When each user's first retry was accepted, and when the last one had ended."""
    instants: dict[UUID, list[datetime]] = defaultdict(list)
    ends: dict[UUID, list[datetime]] = defaultdict(list)
    for row in attempts:
        instants[row["user_id"]].append(row["accepted_at"])
        ends[row["user_id"]].append(row["closed_at"])
    return {each: min(found) for each, found in instants.items()}, {each: max(found) for each, found in ends.items()}


def unfair(found: Iterable[Turn], max_parallel: int) -> Iterator[str]:
    """Name each user who had to wait for too many."""
    for turn in found:
        if turn.place > turn.most(max_parallel):
            yield (
                f"user {turn.user_id} began at place {turn.place} after its acceptance, while {turn.waiting} users"
                f" waited: at most {turn.most(max_parallel)}"
            )


def lines(found: Sequence[Turn], max_parallel: int, latest: int = 5) -> Iterator[str]:
    """Print how late the first turns came, and the latest first successes with what was before them."""
    worst = max(found, key=lambda turn: turn.place / turn.most(max_parallel))
    yield (
        f"fairness: first attempts began at place {min(turn.place for turn in found)} to"
        f" {max(turn.place for turn in found)} after their acceptance; the worst at {worst.place} of at most"
        f" {worst.most(max_parallel)}, while {worst.waiting} users waited"
    )
    won = sorted((turn for turn in found if turn.success is not None), key=lambda turn: turn.success or 0)
    yield "latest first successes: " + "; ".join(
        f"place {turn.success}, accepted after {turn.accepted_after}, {turn.failed} failed before"
        for turn in won[-latest:]
    )
