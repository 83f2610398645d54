"""Reads what workers left behind, and names every broken promise of a 202.

Pure: rows and the provider's log are passed in. It knows nothing of the faults.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from tests.faults.queue_plan import LEASE, MAX_ATTEMPTS
from tests.faults.queue_provider import QueueCall
from tests.helpers.attempts import ATTEMPTS

Row = Mapping[str, Any]
GIVEN_UP = ("RETRY_POISONED", "RETRY_EXPIRED")  # reasons that need no used-up attempts
_TO_SETTLE = 1.0  # seconds, from the end of a call to its attempt's, on a busy machine
_CLAIM_TO_CALL = 1.0  # seconds by which a lease may have begun before its call, on a busy machine

# Each holds at every moment; a row is a violation.
ALWAYS = (
    f"""
    select format('%%s units are held or captured of %%s', count(*), q.quota_limit) as said
    from {ATTEMPTS} a join public.ai_retry_quotas q using (user_id)
    where a.outcome is null and a.charge or a.captured_at is not null
    group by a.user_id, q.quota_limit having count(*) > q.quota_limit
    """,
    """
    select format('%%s attempts of one user run at once', count(*)) as said
    from public.ai_retry_open o
    where o.lease_expires_at > clock_timestamp()
    group by o.user_id having count(*) > %(max_parallel)s
    """,
    """
    select 'an accepted retry neither waits, runs nor has ended' as said
    from public.generations g
    where g.status in ('queued', 'processing')
      and not exists (select from public.ai_retry_open o where o.generation_id = g.id)
      and not exists (select from public.ai_retry_attempts a where a.generation_id = g.id and a.unreported)
    """,
)


def violations(
    accepted: Sequence[UUID],
    generations: Mapping[UUID, Row],
    attempts: Sequence[Row],
    sessions: Sequence[Row],
    errors: Sequence[Row],
    calls: Sequence[QueueCall],
    left_at: Sequence[float] = (),
) -> Iterator[str]:
    """Name each promise that was broken, when everything has ended.

    ``left_at``: when the provider became unreachable; requests that were on their way it has never read.
    """
    by_generation: dict[UUID, list[Row]] = defaultdict(list)
    for row in sorted(attempts, key=lambda row: row["number"]):
        by_generation[row["generation_id"]].append(row)
    logged = {row["generation_id"] for row in errors}
    for each in accepted:
        yield from (
            f"{each}: {said}" for said in _ends_as_promised(generations[each], by_generation[each], each in logged)
        )
        yield from (f"{each}: {said}" for said in _one_after_the_other(by_generation[each]))
    yield from _sessions(attempts, sessions, calls)
    yield from _calls(by_generation, calls, left_at)


def _ends_as_promised(generation: Row, attempts: Sequence[Row], logged: bool) -> Iterator[str]:
    outcomes = Counter(row["outcome"] for row in attempts)
    captured = sum(row["captured_at"] is not None for row in attempts)
    if not attempts or outcomes[None]:
        yield f"it has not ended, with {len(attempts)} attempts"
    elif generation["status"] == "success":
        if (outcomes["succeeded"], captured) != (1, 1):
            yield f"{outcomes['succeeded']} successes and {captured} captured units"
    elif generation["status"] in ("error", "timeout"):
        yield from _ends_with_reason(attempts, captured, logged)
    else:
        yield f"it ended, and says {generation['status']}"


def _ends_with_reason(attempts: Sequence[Row], captured: int, logged: bool) -> Iterator[str]:
    last = attempts[-1]
    counted = 1 + sum(row["counted"] for row in attempts)
    if captured:
        yield "it failed, and a unit was captured"
    if not logged:
        yield "it failed, and the app has no reason"
    if last["outcome"] != "failed" or not last["code"]:
        yield f"its last attempt is {last['outcome']} for {last['code']}"
    elif counted < MAX_ATTEMPTS and last["code"] not in ("AI_REJECTED", *GIVEN_UP):
        yield f"it was given up for {last['code']} with {counted} of {MAX_ATTEMPTS} attempts used up"


def _one_after_the_other(attempts: Sequence[Row]) -> Iterator[str]:
    for earlier, later in pairwise(attempts):
        if earlier["closed_at"] is None or earlier["closed_at"] > later["started_at"]:
            yield f"attempt {later['number']} began before {earlier['number']} was closed"
    for row in attempts:
        if row["outcome"] == "abandoned" and row["closed_at"] < row["lease_expires_at"]:
            yield f"attempt {row['number']} was abandoned before its lease ended"


def _sessions(attempts: Sequence[Row], sessions: Sequence[Row], calls: Sequence[QueueCall]) -> Iterator[str]:
    successes = [row for row in attempts if row["outcome"] == "succeeded"]
    serials = Counter(row["content"].get("serial") for row in sessions)
    answered = {call.serial for call in calls if call.serial is not None}
    linked, made = {row["session_id"] for row in successes}, {str(row["id"]) for row in sessions}
    if linked != made or len(successes) != len(sessions):
        yield f"{len(sessions)} sessions of {len(successes)} successes"
    for serial, count in serials.items():
        if count > 1 or serial not in answered:
            yield f"{count} sessions of answer {serial}"


def _calls(
    by_generation: Mapping[UUID, Sequence[Row]], calls: Sequence[QueueCall], left_at: Sequence[float]
) -> Iterator[str]:
    of_generation: dict[UUID, list[QueueCall]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.began):
        of_generation[call.generation_id].append(call)
    for generation_id, made in of_generation.items():
        known = sum(row["wire_requests"] for row in by_generation[generation_id])
        unread = sum(_was_cut(row, left_at) for row in by_generation[generation_id])
        unknown = sum(row["outcome"] == "abandoned" for row in by_generation[generation_id])
        if (
            not known - unread <= len(made) <= known + 3 * unknown
        ):  # a call repeats what was certainly not generated, twice
            yield f"{generation_id}: {len(made)} calls, but {known} recorded and {unknown} abandoned"
        for earlier, later in pairwise(made):
            if later.began < min(earlier.ended, earlier.began + LEASE.total_seconds() - _CLAIM_TO_CALL):
                yield f"{generation_id}: two calls at once"


def _was_cut(row: Row, left_at: Sequence[float]) -> bool:
    """Whether the attempt's connection broke when the provider left."""
    ended = row["closed_at"].timestamp() if row["code"] == "AI_UNAVAILABLE" and row["closed_at"] else None
    return ended is not None and any(0 <= ended - at < _TO_SETTLE for at in left_at)


def ran_for(attempts: Sequence[Row]) -> timedelta:
    """From the first acceptance to the last end."""
    accepted = min(row["accepted_at"] for row in attempts)
    ended: timedelta = max(row["closed_at"] for row in attempts) - accepted
    return ended
