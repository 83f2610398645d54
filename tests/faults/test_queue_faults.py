"""Small, fixed parts of ``make faults`` for workers, and the proof that their checker can find something."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.faults.queue_campaign import QueueCampaign
from tests.faults.queue_checker import violations
from tests.faults.queue_outage import SMALL_OUTAGE, Outage
from tests.faults.queue_plan import MAX_ATTEMPTS, SMALL, SMALL_OVER_API
from tests.faults.queue_provider import QueueCall
from tools.stack import Stack, running_stack
from tools.waiting import skipping_without_stack

SEED = 20261123
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GENERATION = UUID("6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11")
SESSION = UUID("0b54ad2c-73b0-4a52-8d6c-0f6f0a1d3c11")


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack that is killed with its workers."""
    with skipping_without_stack(), running_stack() as stack:
        yield stack


@pytest.fixture
def empty_stack(own_stack: Stack) -> Stack:
    """The same without users, and so without anything of theirs."""
    with psycopg.connect(own_stack.database_url) as owner:
        owner.execute("truncate auth.users cascade")
        owner.execute("truncate pgmq.q_ai_retry, public.ai_retry_outages")
    return own_stack


@pytest.mark.timeout(300)
def test_faults_under_workers_break_no_promise(empty_stack: Stack, tmp_path: Path) -> None:
    """Every accepted retry ends as promised, whatever is killed, restarted, lost and doubled; each success once."""
    campaign = QueueCampaign(empty_stack, SMALL, tmp_path, seed=SEED)
    campaign.run()

    assert campaign.violations == []
    assert len(campaign.crowd.accepted) == SMALL.generations
    assert campaign.fleet.kills == campaign.restarts == 1
    assert campaign.lost > 0 < campaign.duplicated


@pytest.mark.timeout(300)
def test_gateway_over_workers_breaks_no_promise(empty_stack: Stack, tmp_path: Path) -> None:
    """Nor does a gateway that answers one request of twelve with nonsense, while a worker is killed."""
    empty_stack.restart_data_api()  # it lost its connections when PostgreSQL was restarted
    campaign = QueueCampaign(empty_stack, SMALL_OVER_API, tmp_path, seed=SEED)
    campaign.run()

    assert campaign.violations == []
    assert len(campaign.crowd.accepted) == SMALL_OVER_API.generations
    assert campaign.nonsense > 0


def test_outage_uses_up_no_attempt(empty_stack: Stack, tmp_path: Path) -> None:
    """While the provider is unavailable few calls are made, and none counts; when it is back everything succeeds."""
    outage = Outage(empty_stack, SMALL_OUTAGE, tmp_path, seed=SEED)
    outage.run()

    assert outage.violations == []
    assert len(outage.successes) == SMALL_OUTAGE.generations


class History:
    """A generation that failed once and then succeeded; each mistake changes a part of it."""

    def __init__(self) -> None:
        self.generation: dict[str, Any] = {"status": "success"}
        self.attempts = [self.attempt(2, "failed", code="AI_UNAVAILABLE"), self.attempt(3, "succeeded")]
        self.attempts[1] |= {"captured_at": NOON, "session_id": str(SESSION)}
        self.sessions: list[dict[str, Any]] = [{"id": SESSION, "content": {"serial": 7}}]
        self.errors: list[dict[str, Any]] = []
        self.calls = [self.call(0.5, "error", None), self.call(2.5, "answer", 7)]

    @staticmethod
    def attempt(number: int, outcome: str | None, **columns: Any) -> dict[str, Any]:
        """Give an attempt's row: each begins two seconds after the one before, and takes one."""
        began = NOON + timedelta(seconds=2 * (number - 2))
        row = {"generation_id": GENERATION, "number": number, "outcome": outcome, "code": None, "counted": True}
        row |= {"started_at": began, "closed_at": began + timedelta(seconds=1), "captured_at": None}
        return (
            row | {"lease_expires_at": began + timedelta(seconds=3), "session_id": None, "wire_requests": 1} | columns
        )

    @staticmethod
    def call(at: float, behaviour: str, serial: int | None) -> QueueCall:
        """Give a call of half a second."""
        began = NOON.timestamp() + at
        return QueueCall(generation_id=GENERATION, began=began, ended=began + 0.4, behaviour=behaviour, serial=serial)

    def fail(self) -> None:
        """Let it end in an error instead, its attempts used up and the app informed."""
        self.generation["status"] = "error"
        self.attempts = [self.attempt(number, "failed", code="AI_UNAVAILABLE") for number in range(2, MAX_ATTEMPTS + 1)]
        self.sessions, self.errors = [], [{"generation_id": GENERATION}]
        self.calls = [self.call(2 * place + 0.5, "error", None) for place in range(MAX_ATTEMPTS - 1)]

    def findings(self) -> list[str]:
        """Ask the checker."""
        return list(
            violations(
                [GENERATION], {GENERATION: self.generation}, self.attempts, self.sessions, self.errors, self.calls
            )
        )


def _charged_twice(history: History) -> None:
    history.attempts[0] |= {"outcome": "succeeded", "captured_at": NOON, "session_id": str(uuid4())}


def _lost(history: History) -> None:
    history.attempts[1] |= {"outcome": None, "captured_at": None}


def _given_up_early(history: History) -> None:
    history.fail()
    history.attempts.pop()


def _failed_silently(history: History) -> None:
    history.fail()
    history.errors.clear()


def _failed_and_charged(history: History) -> None:
    history.fail()
    history.attempts[-1]["captured_at"] = NOON


def _called_unrecorded(history: History) -> None:
    history.calls.append(history.call(5.0, "error", None))


def _called_side_by_side(history: History) -> None:
    history.calls[1] = history.call(0.7, "answer", 7)


def _made_up(history: History) -> None:
    history.sessions[0]["content"] = {"serial": 8}


def _begun_before_the_other_ended(history: History) -> None:
    history.attempts[1]["started_at"] = NOON


def _abandoned_alive(history: History) -> None:
    history.attempts[0] |= {"outcome": "abandoned", "code": "LEASE_LOST"}


@pytest.mark.parametrize(
    ("mistake", "finding"),
    [
        (_charged_twice, "2 successes and 2 captured units"),
        (_lost, "it has not ended"),
        (_given_up_early, f"{MAX_ATTEMPTS - 1} of {MAX_ATTEMPTS} attempts used up"),
        (_failed_silently, "the app has no reason"),
        (_failed_and_charged, "it failed, and a unit was captured"),
        (_called_unrecorded, "3 calls, but 2 recorded"),
        (_called_side_by_side, "two calls at once"),
        (_made_up, "sessions of answer 8"),
        (_begun_before_the_other_ended, "attempt 3 began before 2 was closed"),
        (_abandoned_alive, "attempt 2 was abandoned before its lease ended"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_checker_finds_each_mistake(mistake: Callable[[History], None], finding: str) -> None:
    """A history that breaks one promise is found out by its name."""
    history = History()
    mistake(history)

    assert any(finding in said for said in history.findings()), history.findings()


@pytest.mark.parametrize("ending", [lambda _: None, History.fail], ids=["success", "error"])
def test_checker_finds_nothing_in_a_good_history(ending: Callable[[History], None]) -> None:
    """A success after a failure, and an error after the last attempt, keep what was promised."""
    history = History()
    ending(history)

    assert history.findings() == []
