"""``browse`` lists a user's own generations, page by page, with what decisions need, and writes nothing."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.listing import NEWEST
from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.recovery import Cursor, FoundPage, FoundRow
from tests.helpers.steps import POLICY, begin, begin_new, fail, load, new_generation, succeed
from tests.helpers.worlds import World

EVERY = frozenset(GenerationStatus)
HOUR = timedelta(hours=1)


def browse(world: World, user_id: UUID, before: Cursor = NEWEST, limit: int = 100, statuses: Any = EVERY) -> FoundPage:
    """Read a page."""
    return world.storage.browse(user_id, statuses, before, limit, POLICY.quota)


def ids(page: FoundPage) -> list[UUID]:
    """The generations of a page."""
    return [row.snapshot.generation.id for row in page.rows if isinstance(row, FoundRow)]


def test_browse_lists_the_users_own(world: World) -> None:
    """No other user's are listed, and an unknown user has none."""
    user_id, other_id = world.new_user(), world.new_user()
    older, newer = (world.new_generation(user_id, age=age) for age in (2 * HOUR, HOUR))
    world.new_generation(other_id)

    assert ids(browse(world, user_id)) == [newer, older]
    assert (ids(browse(world, uuid4())), browse(world, uuid4()).next) == ([], None)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_are_all_of_them_in_their_order(world: World, limit: int) -> None:
    """Each is on one page, the newest first, of those with the same instant the greatest id first."""
    user_id = world.new_user()
    found = [world.new_generation(user_id, age=number * HOUR) for number in range(6)]
    at = world.generation(found[0])["created_at"]
    for each in found[:4]:
        world.set_generation(each, created_at=at)

    pages, before = [browse(world, user_id, limit=limit)], None
    while (before := pages[-1].next) is not None:
        pages.append(browse(world, user_id, before, limit))

    assert [each for page in pages for each in ids(page)] == [*sorted(found[:4], reverse=True), *found[4:]]
    assert all(len(page.rows) <= limit for page in pages)


def test_browse_lists_the_statuses_asked_for(world: World) -> None:
    """One, several or all."""
    user_id = world.new_user()
    by_status = {each: world.new_generation(user_id, status=each.value, age=HOUR) for each in GenerationStatus}

    for asked in ({GenerationStatus.ERROR}, {GenerationStatus.ERROR, GenerationStatus.TIMEOUT}, EVERY, set()):
        page = browse(world, user_id, statuses=frozenset(asked))
        assert set(ids(page)) == {by_status[each] for each in asked}


def test_browse_gives_what_a_decision_needs(world: World) -> None:
    """The snapshot is the one that load gives, but without the session."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id))
    done = begin_new(world, user_id)
    succeed(world, done)

    rows = {
        row.snapshot.generation.id: row.snapshot for row in browse(world, user_id).rows if isinstance(row, FoundRow)
    }

    assert set(rows) == {generation_id, done.generation_id}
    for each, snapshot in rows.items():
        loaded = load(world, user_id, each)
        assert (snapshot.generation, snapshot.attempts) == (loaded.generation, loaded.attempts)
        assert (snapshot.version, snapshot.quota.captured, snapshot.live) == (loaded.version, 1, 0)
        assert snapshot.as_of <= loaded.as_of


def test_next_page_begins_after_one_that_is_gone(world: World) -> None:
    """A generation that is deleted between two pages takes no other one with it."""
    user_id = world.new_user()
    newest, middle, oldest = (world.new_generation(user_id, age=number * HOUR) for number in range(3))
    first = browse(world, user_id, limit=2)
    world.delete_generation(middle)

    assert first.next is not None
    assert ids(first) == [newest, middle]
    assert ids(browse(world, user_id, first.next, limit=2)) == [oldest]
