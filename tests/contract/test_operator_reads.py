"""What operators read of attempts and failures, counted and listed the same in memory and over SQL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from ai_retry.domain.listing import NEWEST
from ai_retry.domain.model import Answer, FailureCode, Usage
from ai_retry.domain.operation import Overview, Period
from ai_retry.domain.recovery import Filter
from tests.helpers.operating import desk, records
from tests.helpers.queue_steps import cancel, end, new_accepted, new_running
from tests.helpers.steps import (
    FAILURE,
    POLICY,
    abandon,
    answer_too_late,
    begin,
    begin_new,
    discard,
    fail,
    new_generation,
    succeed,
)
from tests.helpers.world import SqlWorld
from tests.helpers.worlds import World

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _nothing_ended(world: World) -> None:
    """No attempt of earlier tests is counted, or stops being counted meanwhile."""
    if isinstance(world, SqlWorld):
        world.forget_attempts()


def counts(before: Period, after: Period) -> tuple[int, ...]:
    """What came to be: worlds over SQL share their attempts."""
    names = ("succeeded", "failed", "abandoned", "cancelled", "operator_faults", "calls")
    return tuple(getattr(after, name) - getattr(before, name) for name in names)


def codes(before: Period, after: Period) -> dict[str, int]:
    """The same, by code."""
    return {code: n - before.codes.get(code, 0) for code, n in after.codes.items() if n > before.codes.get(code, 0)}


def test_overview_counts_what_ended(world: World) -> None:
    """Ends, codes, requests, tokens and cost of the last hour."""
    before = desk(world).overview()
    usage = Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7, cost=Decimal("0.25"))
    answer = Answer(output={"title": "x"}, model="small", usage=usage, wire_requests=2)
    succeed(world, begin(world, *new_generation(world)), answer)
    fail(world, begin(world, *new_generation(world)))
    fail(world, begin(world, *new_generation(world)), replace(FAILURE, operator_fault=True, code=FailureCode.REJECTED))
    abandon(world, begin(world, *new_generation(world)))
    cancel(world, *new_accepted(world))

    after = desk(world).overview()

    for name in ("last_10_minutes", "last_15_minutes", "last_hour", "last_day"):
        one, two = getattr(before, name), getattr(after, name)
        assert counts(one, two) == (1, 2, 1, 1, 1, 4), name
        assert codes(one, two) == {"AI_UNAVAILABLE": 1, "AI_REJECTED": 1, "LEASE_LOST": 1}
        assert (two.tokens or 0) - (one.tokens or 0) == 7
        assert (two.cost or 0) - (one.cost or 0) == Decimal("0.25")
        assert two.attempts - one.attempts == 5
        assert two.is_whole
    assert after.last_day.span == timedelta(days=1)


def test_overview_forgets_what_ended_long_ago(world: World) -> None:
    """Each period has its own end."""
    before = desk(world).overview()
    fail(world, begin(world, *new_generation(world)))

    def seen(after: Overview) -> list[bool]:
        pairs = [
            (before.last_10_minutes, after.last_10_minutes),
            (before.last_15_minutes, after.last_15_minutes),
            (before.last_hour, after.last_hour),
            (before.last_day, after.last_day),
        ]
        return [two.codes.get("AI_UNAVAILABLE", 0) > one.codes.get("AI_UNAVAILABLE", 0) for one, two in pairs]

    looks = [seen(desk(world).overview())]
    for wait in (11 * MINUTE, 5 * MINUTE, HOUR, 24 * HOUR):
        world.advance(wait)
        looks.append(seen(desk(world).overview()))

    assert [each.count(True) for each in looks] == [4, 3, 2, 1, 0]


def test_overview_knows_the_queue(world: World) -> None:
    """The queue's state is the one that is read alone; with since when a retry is due, and an answer is kept."""
    nothing = desk(world).overview()
    new_accepted(world)
    world.advance(2 * MINUTE)
    new_accepted(world)
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    world.advance(MINUTE)

    overview, state = desk(world).overview(), world.storage.state()

    assert nothing.oldest_due_at is None
    assert replace(overview.queue, as_of=state.as_of) == state
    assert overview.oldest_due_at is not None
    assert 3 * MINUTE <= overview.as_of - overview.oldest_due_at < 5 * MINUTE
    assert overview.oldest_kept_at is not None
    assert overview.as_of - overview.oldest_kept_at >= MINUTE


def test_failures_are_counted_by_code(world: World) -> None:
    """A count is a search's, by the last error's code, with all that narrows the search."""
    user_id = world.new_user()
    for code in (FailureCode.UNAVAILABLE, FailureCode.UNAVAILABLE, FailureCode.INVALID_OUTPUT):
        fail(world, begin_new(world, user_id), replace(FAILURE, code=code))
    succeed(world, begin_new(world, user_id))
    world.new_generation(user_id, age=2 * HOUR)

    def count(**columns: object) -> tuple[int, dict[str, int], bool]:
        far = datetime(9999, 1, 1, tzinfo=UTC)
        wanted = Filter(**{"until": far, "user_id": user_id, **columns})  # type: ignore[arg-type]
        found = desk(world).count_failures(wanted)
        return found.count, dict(found.codes), found.is_whole

    now = desk(world).overview().as_of
    assert count() == (4, {"AI_UNAVAILABLE": 2, "AI_INVALID_OUTPUT": 1, "UNKNOWN": 1}, True)
    assert count(codes=frozenset({"AI_INVALID_OUTPUT"})) == (1, {"AI_INVALID_OUTPUT": 1}, True)
    assert count(models=frozenset({"large"})) == (0, {}, True)
    assert count(since=now - HOUR)[0] == 3
    assert count(until=now - HOUR)[0] == 1


def test_search_ends_when_enough_is_found(world: World) -> None:
    """A search with ``most`` returns so many with the code, however many others are between, and goes on after them."""
    user_id = world.new_user()
    for code in (FailureCode.TIMEOUT, FailureCode.UNAVAILABLE, FailureCode.TIMEOUT, FailureCode.TIMEOUT):
        fail(world, begin_new(world, user_id), replace(FAILURE, code=code))
        world.advance(MINUTE)
    far = datetime(9999, 1, 1, tzinfo=UTC)
    wanted = Filter(until=far, user_id=user_id, codes=frozenset({"AI_TIMEOUT"}))

    first = records(world).find(wanted, before=NEWEST, page=100, quota_rule=POLICY.quota, most=2)
    rest = records(world).find(wanted, before=first.next, page=100, quota_rule=POLICY.quota, most=2)

    assert [len(first.rows), len(rest.rows), rest.next] == [2, 1, None]
    assert len({row.snapshot.generation.id for row in (*first.rows, *rest.rows)}) == 3  # type: ignore[union-attr]


def test_attempts_are_recorded_in_full(world: World) -> None:
    """Every attempt is listed by number, with what it asked, what came of it and what of it is kept; no answer."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id, route="p/small"))
    answer_too_late(world, user_id, generation_id)
    discard(world, user_id, generation_id, operator="bob")
    answer_too_late(world, user_id, generation_id)
    open_one = begin(world, user_id, generation_id, charge=False, operator="ada", idempotency_key="k")

    listed = desk(world).attempt_records(generation_id)

    assert [each.number for each in listed] == [2, 3, 4, 5]
    failed, dropped, kept, running = listed
    assert (failed.outcome, failed.code, failed.route, failed.reason) == (
        *("failed", "AI_UNAVAILABLE", "p/small"),
        FAILURE.reason,
    )
    assert failed.duration == timedelta(milliseconds=800)
    assert (failed.wire_requests, failed.counted, failed.is_queued, failed.plan_id) == (1, True, False, None)
    assert (dropped.outcome, dropped.stored_at, dropped.discarded_by) == ("abandoned", None, "bob")
    assert kept.stored_at is not None
    assert (running.outcome, running.operator, running.charge) == (None, "ada", False)
    assert (running.idempotency_key, running.lease_expires_at) == ("k", open_one.lease_expires_at)
    assert "Easy run" not in repr(listed)


def test_queued_attempt_says_when_it_is_due(world: World) -> None:
    """A queued attempt has no lease, and its end; one that ended without a call says why."""
    user_id, generation_id = new_accepted(world)
    (queued,) = desk(world).attempt_records(generation_id)
    end(world, user_id, generation_id, None)

    (ended,) = desk(world).attempt_records(generation_id)
    running = new_running(world)

    assert (queued.is_queued, queued.due_at, queued.lease_expires_at) == (True, queued.accepted_at, None)
    assert queued.expires_at is not None
    assert (ended.outcome, ended.is_queued, ended.due_at) == ("cancelled", False, None)
    assert not desk(world).attempt_records(running.generation_id)[0].is_queued
    assert desk(world).attempt_records(user_id) == []
