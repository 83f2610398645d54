"""A short race, and the proof that its judge can count."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ai_retry.domain.model import QuotaRule
from ai_retry.domain.policy import RetryPolicy
from tests.faults.race import Race, exceeded
from tests.faults.stage import Stage, a_stage
from tools.stack import Stack
from tools.waiting import skipping_without_stack

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = RetryPolicy(max_parallel=2, quota=QuotaRule(limit=3))


@pytest.fixture
def stage(stack: Stack, migrated_database: str) -> Iterator[Stage]:
    """A database of one's own."""
    with skipping_without_stack(), a_stage(replace(stack, database_url=migrated_database), 1) as stage:
        yield stage


def attempt(begins: float, ends: float, *, captured: bool = False) -> dict[str, Any]:
    """Give an attempt's times, in seconds after noon."""
    closed_at = NOON + timedelta(seconds=ends)
    return {
        "started_at": NOON + timedelta(seconds=begins),
        "lease_expires_at": NOON + timedelta(seconds=begins + 35),
        "closed_at": closed_at,
        "captured_at": closed_at if captured else None,
    }


def test_clicks_of_many_break_no_promise(stage: Stage) -> None:
    """Ten processes that click at the same generations exceed no limit and see no fault of ours."""
    race = Race(stage, seed=1, processes=10, seconds=3)

    race.run()

    assert race.violations == []
    assert race.successes > 0


def test_judge_finds_one_too_many_at_once() -> None:
    """Three attempts that share an instant are one too many; three in a row are not."""
    assert exceeded([attempt(0, 2), attempt(1, 3), attempt(2, 4)], POLICY) == []
    assert exceeded([attempt(0, 3), attempt(1, 3), attempt(2, 4)], POLICY) == [
        f"3 ran at once at {attempt(2, 4)['started_at']}"
    ]


def test_judge_finds_one_unit_too_many() -> None:
    """A unit that is held counts like one that was captured, and one that was given back does not."""
    spent = [attempt(second, second + 0.5, captured=True) for second in (0, 1)]

    assert exceeded([*spent, attempt(2, 3), attempt(4, 5, captured=True)], POLICY) == []
    assert exceeded([*spent, attempt(2, 5), attempt(4, 5)], POLICY) == [
        f"4 units used at {attempt(4, 5)['started_at']}"
    ]
