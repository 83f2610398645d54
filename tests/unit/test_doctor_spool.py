"""What doctor says of the spool: whether answers can wait there, and what waits or can't be sent."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ai_retry.cli.doctor import Check, Finding, Level
from ai_retry.cli.doctor.spool import spool
from ai_retry.domain.change import Found
from ai_retry.domain.errors import StorageUnavailable
from ai_retry.domain.model import Installation
from ai_retry.storage.documents import document
from ai_retry.storage.spool import Spool
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.steps import ANSWER, begin, new_generation

WORLD = MemoryWorld()
HERE = WORLD.storage.installation()


def found(directory: Path | None, storage: MemoryStorage | None = WORLD.storage) -> list[tuple[Level, str, str]]:
    """What is found, each of the check."""
    findings: list[Finding] = list(spool(directory, storage))
    assert {each.check for each in findings} <= {Check.SPOOL}
    return [(each.level, each.problem, each.remedy) for each in findings]


def held(directory: Path, installation: Installation = HERE) -> str:
    """Put an answer there; return its file's name."""
    begun = begin(WORLD, *new_generation(WORLD))
    change = begun.ending.answered(Found.READY, ANSWER, None, timedelta(seconds=1))
    Spool(directory).hold(change, document(change), installation)
    return f"{change.generation_id}.{change.token}.settle.json"


def test_nothing_to_say(tmp_path: Path) -> None:
    """Without a spool, with one that is still to be created, and with an empty one, all is well."""
    Spool(tmp_path / "empty")

    assert found(None) == found(tmp_path / "new" / "spool") == found(tmp_path / "empty") == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["file/spool", "x" * 300, "file"])
def test_directory_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    """A spool below a file, or where this user can't even look, could keep no answer."""
    (tmp_path / "file").touch()

    ((level, problem, remedy),) = found(tmp_path / place)

    assert level is Level.PROBLEM
    assert "AI_RETRY_SPOOL_DIR" in problem
    assert "create it" in remedy


def test_directory_that_others_can_use(tmp_path: Path) -> None:
    """Another user who can write there can have sessions created."""
    Spool(tmp_path / "spool")
    (tmp_path / "spool").chmod(0o777)

    ((level, problem, remedy),) = found(tmp_path / "spool")

    assert (level, "077" in problem, "chmod 700" in remedy) == (Level.PROBLEM, True, True)


def test_file_that_was_not_written_to_its_end(tmp_path: Path) -> None:
    """What a crash has left is named."""
    Spool(tmp_path / "spool")
    (tmp_path / "spool" / "torn.partial").touch()
    os.utime(tmp_path / "spool" / "torn.partial", (0, 0))

    ((level, problem, _),) = found(tmp_path / "spool")

    assert (level, problem) == (Level.HINT, "not written to the end: torn.partial")


@pytest.mark.parametrize("storage", [WORLD.storage, None])
def test_answers_that_wait(tmp_path: Path, storage: MemoryStorage | None) -> None:
    """What waits is counted, with what settles it; whose it is, where the database can be asked."""
    held(tmp_path / "spool")

    assert found(tmp_path / "spool", storage) == [
        (Level.HINT, "1 paid answers wait in the spool", "run ai-retry settle")
    ]


def test_answers_of_another_database(tmp_path: Path) -> None:
    """They are named, with both ways out: the first three."""
    names = sorted(held(tmp_path / "spool", Installation(id="another", database="other")) for _ in range(4))

    ((level, problem, remedy),) = found(tmp_path / "spool")

    assert level is Level.PROBLEM
    assert problem == f"4 paid answers in the spool belong to another database: {', '.join(names[:3])} and 1 more"
    assert "settle --adopt" in remedy


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is named; nothing of it is shown."""
    name = held(tmp_path / "spool")
    (tmp_path / "spool" / name).write_text("secret")

    ((level, problem, _),) = found(tmp_path / "spool")

    assert (level, problem) == (Level.PROBLEM, f"1 files in the spool can't be read: {name}")


def test_database_that_does_not_say_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another check says why; what waits is counted all the same."""

    def installation(_: MemoryStorage) -> Installation:
        raise StorageUnavailable("no connection")

    held(tmp_path / "spool", Installation(id="another", database="other"))
    monkeypatch.setattr(MemoryStorage, "installation", installation)

    ((level, problem, _),) = found(tmp_path / "spool")

    assert (level, problem) == (Level.HINT, "1 paid answers wait in the spool")


def test_file_that_is_settled_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that goes between the listing and the reading is not reported."""
    held(tmp_path / "spool")
    read: Callable[[Spool, str], None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr("ai_retry.storage.spool_files.SpoolFiles.read", read)

    assert found(tmp_path / "spool") == []
