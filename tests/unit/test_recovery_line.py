"""Whose turn it is in a recovery: none twice at once, no user above their limit, none before its time."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ai_retry.recovery.line import Line, Task

ADA, BOB = UUID(int=1), UUID(int=2)


def tasks(*users: UUID) -> list[Task]:
    """Make a task of each user, numbered."""
    return [Task(user, UUID(int=100 + place)) for place, user in enumerate(users)]


def test_user_never_has_more_than_allowed() -> None:
    """Who has enough running waits, and others go first; the next of them comes when one has ended."""
    first, second, third, other = made = tasks(ADA, ADA, ADA, BOB)
    line = Line(made, max_of_user=2)

    assert [line.next(0.0) for _ in range(4)] == [first, second, other, None]
    assert line.wait(0.0) is None

    line.ended(first)
    assert line.next(0.0) == third


def test_refused_one_waits_its_time() -> None:
    """A refusal that passes puts a generation back until it is due; others of its user go on meanwhile."""
    first, second = made = tasks(ADA, ADA)
    line = Line(made, max_of_user=1)
    assert line.next(0.0) == first

    assert line.put_back(first, 0.0, after=5.0)

    assert line.next(1.0) == second
    assert line.wait(1.0) == 4.0
    line.ended(second)
    assert line.next(4.9) is None
    assert line.next(5.0) == first
    assert not line


def test_waits_of_one_generation_are_a_minute_together() -> None:
    """A generation whose refusals would take longer than a minute is left."""
    (task,) = made = tasks(ADA)
    line = Line(made, max_of_user=1)
    line.next(10.0)

    assert not line.put_back(task, 10.0, after=60.1)
    assert line.put_back(task, 10.0, after=30.0)
    line.next(40.0)
    assert not line.put_back(task, 40.0, after=30.1)
    assert line.put_back(task, 40.0, after=30.0)


def test_rest_is_all_that_waits() -> None:
    """What waits in whatever way is listed, so that a run that is stopped can say what it left."""
    made = tasks(ADA, ADA, BOB, BOB)
    line = Line(made, max_of_user=1)
    line.next(0.0)
    line.next(0.0)
    line.put_back(made[0], 0.0, after=5.0)

    assert {task.generation_id for task in line.rest()} == {made[each].generation_id for each in (0, 1, 3)}


@given(
    users=st.lists(st.sampled_from([ADA, BOB, UUID(int=3)]), max_size=20),
    max_of_user=st.integers(1, 3),
    choices=st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=200, max_size=200),
)
def test_every_user_gets_a_turn(users: list[UUID], max_of_user: int, choices: list[tuple[int, bool]]) -> None:
    """Whatever ends when, and is refused how often: each is done exactly once, and no user is above the limit."""
    made, running, done, now = tasks(*users), [], [], 0.0
    line = Line(made, max_of_user=max_of_user)
    for which, refused in choices:
        now += 1.0
        while task := line.next(now):
            running.append(task)
        assert all(sum(each.user_id == user for each in running) <= max_of_user for user in users)
        if running:
            task = running.pop(which % len(running))
            if not (refused and line.put_back(task, now, after=3.0)):
                line.ended(task)
                done.append(task)

    left = [*done, *running, *line.rest()]
    assert sorted(each.generation_id for each in left) == [each.generation_id for each in made]
