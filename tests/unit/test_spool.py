"""The spool: what was paid for stands on disk until the storage has decided."""

import json
import stat
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.errors import (
    AiRetryError,
    GenerationNotFound,
    LeaseLost,
    NotConfigured,
    StorageOutcomeUnknown,
    StorageUnavailable,
)
from ai_retry.domain.model import Answer, Claim, Settled, Usage
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.storage.spool import PendingSettle, Spool
from ai_retry.storage.repeating import RepeatingStorage
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.contract import MemoryWorld, claim_of, new_generation

SOON = timedelta(milliseconds=1)


def pending(claim: Claim, output: Any = "the answer") -> PendingSettle:
    """A settle with every field set."""
    return PendingSettle(
        claim=claim,
        answer=Answer(
            output={"text": output, "list": [1, 2.5, None, True]},
            model="m",
            usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, cost=Decimal("0.00123")),
            provider_id="gen-1",
            wire_requests=2,
        ),
        answer_from=None,
        duration=timedelta(seconds=1.5),
        quota_rule=DEFAULT_POLICY.quota,
        rejected_wait=timedelta(seconds=2),
        rejected_again_wait=timedelta(minutes=5),
    )


def a_claim() -> Claim:
    """A claim of nothing in particular."""
    return Claim(user_id=uuid4(), generation_id=uuid4(), number=2, token=uuid4(), lease_expires_at=ManualClock().now())


class FailingWorld(MemoryWorld):
    """A world whose storage fails ``succeed`` as often as told."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[AiRetryError] = []
        self.seen: list[list[str]] = []
        real = self.tables.succeed
        self.directory: Path | None = None

        def succeed(*arguments: Any, **named: Any) -> Settled:
            if self.directory is not None:
                self.seen.append(sorted(path.name for path in self.directory.iterdir()))
            if self.failures:
                raise self.failures.pop(0)
            return real(*arguments, **named)

        self.tables.succeed = succeed  # type: ignore[method-assign]


def settle(world: FailingWorld, spool: Spool, claim: Claim, **named: Any) -> Settled:
    """Settle by way of the repeating storage."""
    return pending(claim).send(RepeatingStorage(world.storage, spool, settle_for=timedelta(milliseconds=200), **named))


@pytest.fixture
def world(tmp_path: Path) -> FailingWorld:
    """A world that looks into the spool's directory whenever it settles."""
    world = FailingWorld()
    world.directory = tmp_path
    return world


def test_spooled_settle_comes_back_as_it_was(tmp_path: Path) -> None:
    """What is read back equals what was kept, to the last decimal."""
    kept = pending(a_claim())

    Spool(tmp_path).keep(kept)

    assert list(Spool(tmp_path).pending()) == [kept]


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """Nobody else may read an answer that waits, or list the directory."""
    directory = tmp_path / "spool"

    Spool(directory).keep(pending(a_claim()))

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()] == [0o600]


def test_first_settle_that_works_leaves_disk_alone(world: FailingWorld, tmp_path: Path) -> None:
    """Without a failure nothing is ever written to the spool."""
    settle(world, Spool(tmp_path), claim_of(world, *new_generation(world)))

    assert world.seen == [[]]


def test_answer_is_on_disk_before_second_try(world: FailingWorld, tmp_path: Path) -> None:
    """After the first failure the answer stands in the spool, and after the success no longer."""
    claim = claim_of(world, *new_generation(world))
    world.failures = [StorageOutcomeUnknown("cut", retry_after=SOON)]

    settle(world, Spool(tmp_path), claim)

    assert world.seen == [[], [f"{claim.token}.settle.json"]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "failure",
    [
        StorageUnavailable("gone", retry_after=SOON),
        StorageUnavailable("22P05"),
        StorageOutcomeUnknown("cut", retry_after=SOON),
        NotConfigured("the functions are gone"),
    ],
    ids=lambda error: f"{error.code}-{error.retry_after}",
)
def test_answer_stays_when_storage_does_not_come_back(
    world: FailingWorld, tmp_path: Path, failure: AiRetryError
) -> None:
    """However the storage fails, the answer is in the spool afterwards, and a later start settles it once."""
    user_id, generation_id = new_generation(world)
    claim = claim_of(world, user_id, generation_id)
    world.failures = [failure] * 1000

    with pytest.raises(type(failure)):
        settle(world, Spool(tmp_path), claim)
    world.failures = []
    report = Spool(tmp_path).send_again(world.storage)

    assert (report.settled, report.left) == (1, 0)
    assert list(tmp_path.iterdir()) == []
    assert [row["outcome"] for row in world.attempts(generation_id)] == ["succeeded"]
    assert len(world.sessions(user_id)) == 1


@pytest.mark.parametrize("decision", [LeaseLost(answer_kept=True), GenerationNotFound(uuid4())], ids=lambda e: e.code)
def test_answer_goes_when_storage_has_decided(world: FailingWorld, tmp_path: Path, decision: AiRetryError) -> None:
    """An answer that the storage keeps, or that nobody needs any more, does not stay in the spool."""
    world.failures = [StorageOutcomeUnknown("cut", retry_after=SOON), decision]

    with pytest.raises(type(decision)):
        settle(world, Spool(tmp_path), claim_of(world, *new_generation(world)))

    assert list(tmp_path.iterdir()) == []


def test_sending_stops_at_first_failure_of_storage(world: FailingWorld, tmp_path: Path) -> None:
    """While the storage is away, one try is made and everything is left where it is."""
    spool = Spool(tmp_path)
    for _ in range(3):
        spool.keep(pending(claim_of(world, *new_generation(world))))
    world.failures = [StorageUnavailable("gone", retry_after=SOON)]

    report = spool.send_again(world.storage)

    assert (report.settled, report.left) == (0, 3)
    assert len(world.seen) == 1


def test_foreign_and_torn_files_are_left_alone(world: FailingWorld, tmp_path: Path) -> None:
    """A file that is not whole is counted, told in the log, and neither sent nor removed."""
    (tmp_path / f"{uuid4()}.settle.json").write_text('{"version": 1, "cla')
    (tmp_path / f"{uuid4()}.settle.json").write_text(json.dumps(["not", "ours"]))

    report = Spool(tmp_path).send_again(world.storage)

    assert report.unreadable == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_broken_spool_breaks_no_settle(world: FailingWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that became unusable is told in the log, and the settle is repeated all the same."""
    user_id, generation_id = new_generation(world)
    spool = Spool(tmp_path / "spool")
    (tmp_path / "spool").rmdir()
    (tmp_path / "spool").touch()
    world.failures = [StorageOutcomeUnknown("cut", retry_after=SOON)]

    settle(world, spool, claim_of(world, user_id, generation_id))

    assert len(world.sessions(user_id)) == 1
    assert {each.getMessage().split()[0] for each in caplog.records} == {"event=spool_failed"}


def test_second_keep_changes_nothing(tmp_path: Path) -> None:
    """The first answer kept for a token stays the one."""
    claim = a_claim()
    spool = Spool(tmp_path)

    spool.keep(pending(claim, "first"))
    spool.keep(pending(claim, "second"))

    assert [each.answer.output["text"] for each in spool.pending()] == ["first"]


def test_stored_answer_needs_no_spool(world: FailingWorld, tmp_path: Path) -> None:
    """An answer that the storage holds already is not written to disk."""
    claim = claim_of(world, *new_generation(world))
    world.failures = [StorageOutcomeUnknown("cut", retry_after=SOON)]

    replace(pending(claim), answer_from=2).send(RepeatingStorage(world.storage, Spool(tmp_path)))

    assert world.seen[-1] == []


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A spool below a file is refused at the start, in words."""
    (tmp_path / "file").touch()

    with pytest.raises(NotConfigured, match="spool directory"):
        Spool(tmp_path / "file" / "spool")


def test_tokens_name_files_and_nothing_else(tmp_path: Path) -> None:
    """Removing an unknown token touches nothing."""
    spool = Spool(tmp_path)
    spool.keep(pending(a_claim()))

    spool.remove(UUID(int=0))

    assert len(list(tmp_path.iterdir())) == 1


def test_file_settled_by_another_process_is_not_unreadable(
    world: FailingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process settles between the listing and the reading is neither an error nor counted."""
    spool = Spool(tmp_path)
    monkeypatch.setattr(spool, "_files", lambda: [tmp_path / f"{uuid4()}.settle.json"])

    report = spool.send_again(world.storage)

    assert (report.unreadable, report.left) == (0, 0)
