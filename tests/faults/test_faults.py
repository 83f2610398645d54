"""A small, fixed part of ``make faults``, and the proof that its checker can find something."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults.campaign import Campaign
from tests.faults.gateway_kinds import GATEWAY_KINDS
from tests.faults.kinds import BROKEN, KINDS, Kind
from tests.faults.stage import Stage, a_stage
from tools.stack import Stack
from tools.waiting import skipping_without_stack

SEED = 20261123
KILLED = tuple(kind for kind in KINDS if kind.name.startswith("killed"))
FIRST = tuple(kind for kind in KINDS if kind.first)
OTHERS = tuple(kind for kind in KINDS if kind not in (*KILLED, *FIRST) and kind.event is None)


@pytest.fixture
def stage(stack: Stack) -> Iterator[Stage]:
    """The session's stack, which no fault of these tests restarts."""
    with skipping_without_stack(), a_stage(stack, SEED) as stage:
        yield stage


def findings(stage: Stage, *kinds: Kind) -> list[str]:
    """Make one run of each kind; a fault that did not happen would prove nothing."""
    campaign = Campaign(stage, seed=SEED, at_once=4)  # other tests run beside it
    campaign.run(kinds, runs=len(kinds), seconds=60)
    sure = [history for history in campaign.histories if history.kind.rival != "at once"]  # else the rival may be first
    assert len(campaign.histories) == len(kinds)
    assert [history.kind.name for history in sure if not history.hit] == []
    return campaign.violations


def test_killed_at_named_points_breaks_no_promise(stage: Stage) -> None:
    """Killed at every second of the named points, a worker leaves a generation charged once, with one session."""
    assert findings(stage, *KILLED[::2]) == []


def test_killed_first_call_breaks_no_promise(stage: Stage) -> None:
    """A generation that exists can be retried, one that does not was never charged, and no paid answer is lost."""
    assert findings(stage, *(kind for kind in FIRST if "killed" in kind.name)) == []


def test_first_call_that_meets_faults_breaks_none(stage: Stage) -> None:
    """Nor does, of each three, one that meets cut links, lost replies, a rival, or an app that refuses its session."""
    assert findings(stage, *[kind for kind in FIRST if "killed" not in kind.name][::3]) == []


def test_faults_of_links_and_providers_break_none(stage: Stage) -> None:
    """Nor do, of each five, one: cut links, lost replies, locks, sleeping processes and failing providers."""
    assert findings(stage, *OTHERS[::5]) == []


def test_gateway_that_answers_nonsense_breaks_none(stage: Stage) -> None:
    """Nor does, of each twelve, one: no answer is lost that has a place, and none is paid for twice."""
    assert findings(stage, *GATEWAY_KINDS[::12]) == []


@pytest.mark.parametrize(
    ("mistake", "finding"),
    [
        ("calls twice", "2 calls, but 1 recorded"),
        ("no fence", "2 units captured for 2 successes"),
        ("no spool", "1 paid answers lost"),
    ],
)
def test_checker_finds_each_mistake(stack: Stack, migrated_database: str, mistake: str, finding: str) -> None:
    """A worker that calls twice, climbs over the fence or keeps no answer is found out, in a database of its own."""
    kind = next(kind for kind in BROKEN if kind.broken == mistake)

    with a_stage(replace(stack, database_url=migrated_database), SEED) as stage:
        found = findings(stage, kind)

    assert any(finding in each for each in found), found
