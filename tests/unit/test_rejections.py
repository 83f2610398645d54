"""Sessions that the app's tables reject, whatever the user: noticed after three users in a row (row 2.4)."""

from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain.change import Begin, Reply
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.domain.retry import retry_generation
from ai_retry.rejections import Rejections
from ai_retry.testing.ai import ScriptedAiProvider
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.scene import Hooked, hooked
from tests.helpers.steps import close_over

CAUSE = "completed_at_is_set"


class Case:
    """A world whose retries are all looked at."""

    def __init__(self) -> None:
        self.world = MemoryWorld(Hooked)
        self.rejections = Rejections()

    def retry(self, user_id: UUID | None = None, generation_id: UUID | None = None, *, step: Any = None) -> None:
        """Retry a generation; a new user's when none is given."""
        user_id = user_id or self.world.new_user()
        with suppress(AiRetryError):
            retry_generation(
                user_id,
                generation_id or self.world.new_generation(user_id),
                storage=self.world.storage,
                ai=ScriptedAiProvider(default=an_answer() if step is None else step),
                clock=self.world.clock,
                watches=[self.rejections],
            )

    def rejected(self, times: int, cause: str = CAUSE, *, conflict: bool = False) -> None:
        """Let this cause reject the sessions of so many users."""
        self.world.refuse_sessions(cause, conflict=conflict)
        for _ in range(times):
            self.retry()
        self.world.refuse_sessions(None)


@pytest.fixture
def case() -> Case:
    """A new one for every test."""
    return Case()


def test_three_users_in_a_row_are_a_cause(case: Case) -> None:
    """One or two may be the users' own doing."""
    seen = [case.rejections.cause]
    for _ in range(4):
        case.rejected(1)
        seen.append(case.rejections.cause)

    assert seen == [None, None, None, CAUSE, CAUSE]


def test_one_user_is_not_a_cause(case: Case) -> None:
    """However many of a user's sessions are rejected."""
    user_id = case.world.new_user()
    case.world.refuse_sessions(CAUSE)

    for _ in range(3):
        case.retry(user_id)

    assert case.rejections.cause is None


def test_session_that_is_created_ends_the_row(case: Case) -> None:
    """Then the tables accept some."""
    case.rejected(3)
    case.retry()
    assert case.rejections.cause is None

    case.rejected(2)
    assert case.rejections.cause is None
    case.rejected(1)
    assert case.rejections.cause == CAUSE


def test_another_cause_begins_a_new_row(case: Case) -> None:
    """Three users by one cause, and not by two."""
    case.rejected(2)
    case.rejected(2, "title_is_short")
    assert case.rejections.cause is None

    case.rejected(1, "title_is_short")
    assert case.rejections.cause == "title_is_short"


def test_conflict_is_its_users_to_cure(case: Case) -> None:
    """However many users have one."""
    case.rejected(4, "one_planned_session", conflict=True)

    assert case.rejections.cause is None


def test_failed_call_ends_no_row(case: Case) -> None:
    """It says nothing of the app's tables."""
    case.rejected(2)
    case.retry(step=a_failure())
    case.rejected(1)

    assert case.rejections.cause == CAUSE


def test_late_answer_says_nothing(case: Case) -> None:
    """An answer whose attempt was closed before was not offered to the app's tables."""
    case.rejected(2)

    def close(change: Begin) -> Reply:
        reply = MemoryStorage.begin(case.world.storage, change)
        case.world.advance(DEFAULT_POLICY.lease)
        close_over(case.world, change.user_id)
        return reply

    hooked(case.world).hooks = {"begin": close}
    case.world.refuse_sessions(CAUSE)
    case.retry()
    hooked(case.world).hooks = {}

    assert case.rejections.cause is None


def test_deleted_generation_says_nothing(case: Case) -> None:
    """Its session was not rejected: there is none to create."""
    case.rejected(3)
    user_id = case.world.new_user()
    generation_id = case.world.new_generation(user_id)

    def delete(_: object) -> object:
        case.world.delete_generation(generation_id)
        return an_answer()

    case.retry(user_id, generation_id, step=delete)

    assert case.rejections.cause == CAUSE
