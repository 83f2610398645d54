"""What operators do is on record, once; what is a storage's alone is done and recorded in one transaction."""

import json
from datetime import timedelta
from uuid import uuid4

from ai_retry.domain.operation import Action, HoldRoute, ReadAnswer, ResetQuota, SetQuota
from tests.helpers.operating import act, desk, order
from tests.helpers.queue_steps import new_route
from tests.helpers.steps import ANSWER, POLICY, answer_too_late, begin, keep, load, new_generation, quota_of, succeed
from tests.helpers.worlds import World

HOUR = timedelta(hours=1)


def actions(world: World, target: str) -> list[Action]:
    """What is on record of a target, the newest first."""
    return list(desk(world).actions(target=target, before=None, limit=50))


def test_action_is_recorded_before_and_after(world: World) -> None:
    """An action is on record before it is done; its end is added, and the first outcome stays."""
    user_id = world.new_user()
    ordered = order(f"user:{user_id}", action="retry", user_id=user_id, reason="she asked")

    desk(world).record(ordered, None)
    desk(world).record(ordered, None)
    (before,) = actions(world, ordered.target)
    desk(world).record(ordered, "done")
    desk(world).record(ordered, "AI_TIMEOUT")
    (after,) = actions(world, ordered.target)

    assert (before.id, before.operator, before.role, before.reason) == (ordered.id, "ada", "admin", "she asked")
    assert (before.action, before.user_id, before.outcome, before.ended_at) == ("retry", user_id, None, None)
    assert (after.outcome, after.at) == ("done", before.at)
    assert after.ended_at is not None
    assert after.ended_at >= after.at


def test_outcome_alone_is_a_record(world: World) -> None:
    """An end whose beginning was lost, such as by a fail-over, is on record all the same."""
    ordered = order(f"plan:{uuid4()}")

    desk(world).record(ordered, "done")

    assert [each.outcome for each in actions(world, ordered.target)] == ["done"]


def test_user_who_is_gone_hinders_no_record(world: World) -> None:
    """What is done about a user who does not exist is on record."""
    ordered = order(f"user:{uuid4()}", user_id=uuid4())

    desk(world).record(ordered, "GENERATION_NOT_FOUND")

    assert len(actions(world, ordered.target)) == 1


def test_actions_are_listed_backwards_in_pages(world: World) -> None:
    """The newest comes first; a page ends where the next begins."""
    target = f"route:{new_route()}"
    for number in range(5):
        desk(world).record(order(target, reason=f"{number}"), "done")
        world.advance(timedelta(seconds=1))

    first = desk(world).actions(target=target, before=None, limit=3)
    rest = desk(world).actions(target=target, before=first[-1].at, limit=3)

    assert [each.reason for each in (*first, *rest)] == ["4", "3", "2", "1", "0"]
    assert first[0] in desk(world).actions(target=None, before=None, limit=50)


def test_repeat_of_a_deed_does_nothing_more(world: World) -> None:
    """A deed whose reply was lost is repeated by its id: it is not done again, and says what it said."""
    user_id = world.new_user()
    ordered = order(f"user:{user_id}", action="set_quota", user_id=user_id)
    deed = SetQuota(user_id=user_id, limit=9, window=HOUR)

    first = desk(world).act(ordered, deed)
    act(world, SetQuota(user_id=user_id, limit=2, window=HOUR), f"user:{user_id}", user_id=user_id)
    again = desk(world).act(ordered, deed)

    assert (first.applied, again.applied) == (True, True)
    assert quota_of(world, user_id).limit == 2
    assert len(actions(world, f"user:{user_id}")) == 2


def test_quota_is_set_and_reset(world: World) -> None:
    """A user's own quota counts at once, what was spent before included, and goes with a reset."""
    user_id = world.new_user()
    succeed(world, begin(world, user_id, world.new_generation(user_id)))
    usual = desk(world).user_quota(user_id, POLICY.quota)

    assert act(world, SetQuota(user_id=user_id, limit=2, window=HOUR), f"user:{user_id}").applied
    own, counted = desk(world).user_quota(user_id, POLICY.quota), quota_of(world, user_id)
    reset = act(world, ResetQuota(user_id=user_id), f"user:{user_id}").applied
    again = act(world, ResetQuota(user_id=user_id), f"user:{user_id}").applied
    after = desk(world).user_quota(user_id, POLICY.quota)

    assert (usual.override, usual.quota.limit, usual.quota.captured) == (None, 5, 1)
    assert own.override is not None
    assert (own.override.limit, own.override.window) == (2, HOUR)
    assert (own.quota.limit, own.quota.window, own.quota.captured, own.quota.remaining) == (2, HOUR, 1, 1)
    assert (counted.limit, counted.remaining) == (2, 1)
    assert (reset, again) == (True, False)
    assert (after.override, after.quota.limit) == (None, 5)
    assert [each.outcome for each in actions(world, f"user:{user_id}")] == ["nothing", "done", "done"]


def test_quota_of_any_user_is_known(world: World) -> None:
    """Also a user without anything has a quota; open attempts are counted."""
    fresh = desk(world).user_quota(uuid4(), POLICY.quota)
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)

    active = desk(world).user_quota(user_id, POLICY.quota)

    assert (fresh.quota.limit, fresh.quota.captured, fresh.live, fresh.queued) == (5, 0, 0, 0)
    assert (active.quota.held, active.live, active.queued) == (1, 1, 0)


def test_kept_answer_is_read_on_record(world: World) -> None:
    """The answer of a closed attempt is read as JSON by its user's id; each reading is on record."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    target = f"generation:{generation_id}"

    mine = act(world, ReadAnswer(user_id=user_id, generation_id=generation_id), target, user_id=user_id)
    other = act(world, ReadAnswer(user_id=uuid4(), generation_id=generation_id), target)

    assert json.loads(mine.answer or "") == ANSWER.output
    assert (other.applied, other.answer) == (False, None)
    assert [each.outcome for each in actions(world, target)] == ["nothing", "done"]
    assert str(ANSWER.output["title"]) not in repr(mine)


def test_answer_of_an_open_attempt_is_read(world: World) -> None:
    """An answer that waits with its open attempt is kept, too; without one nothing is read."""
    user_id, generation_id = new_generation(world)
    deed = ReadAnswer(user_id=user_id, generation_id=generation_id)
    before = act(world, deed, f"generation:{generation_id}")
    keep(world, begin(world, user_id, generation_id))

    after = act(world, deed, f"generation:{generation_id}")

    assert (before.applied, after.applied) == (False, True)
    assert json.loads(after.answer or "") == ANSWER.output


def test_deed_is_recorded_with_its_outcome(world: World) -> None:
    """What was done is on record with its end, at one instant."""
    route = new_route()

    act(world, HoldRoute(route=route, duration=HOUR), f"route:{route}", action="hold_route", reason="slow")

    (action,) = actions(world, f"route:{route}")
    assert (action.action, action.reason, action.outcome) == ("hold_route", "slow", "done")
    assert action.ended_at == action.at
    assert load(world, *new_generation(world)).routes
