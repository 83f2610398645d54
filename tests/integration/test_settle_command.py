"""`ai-retry settle`, and every start, settle what a killed process has paid for."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_retry.bootstrap import connect, settle
from ai_retry.config import Settings
from ai_retry.domain.errors import NotConfigured
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.spool import Spool
from tests.helpers.payer import Payer
from tests.helpers.world import owner_of
from tools.stack import Stack
from tools.waiting import eventually


class Killed(BaseException):
    """The process ends here."""


class Machine:
    """A database and a machine with a spool, on which processes are killed before their settles."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self.directory = directory
        self.env = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}
        self.env |= {"AI_RETRY_SPOOL_DIR": str(directory), "AI_BASE_URL": "http://127.0.0.1:9/v1"}
        self.postgres = PostgresStorage(stack.database_url)

    def killed(self, connection: object) -> Payer:
        """Let a process pay for an answer, and be killed before its settle."""

        def call(function: str, arguments: object) -> object:
            if function == "ai_retry_settle":
                raise Killed
            return self.postgres._transport(function, arguments)  # type: ignore[arg-type]

        payer = Payer(FunctionStorage(call, spool=Spool(self.directory)), connection)  # type: ignore[arg-type]
        with pytest.raises(Killed):
            payer.retry()
        return payer

    def run(self, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a person does."""
        inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return subprocess.run(
            [str(Path(sys.executable).parent / "ai-retry"), "settle", *options],
            check=False,
            env={**inherited, **self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def files(self) -> list[str]:
        """What is in the spool."""
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def machine(stack: Stack, tmp_path: Path) -> Iterator[Machine]:
    """A machine with an empty spool."""
    machine = Machine(stack, tmp_path / "spool")
    yield machine
    machine.postgres.close()


@pytest.fixture
def payer(stack: Stack, machine: Machine) -> Iterator[Payer]:
    """What a killed process has paid for."""
    with owner_of(stack.database_url) as connection:
        yield machine.killed(connection)


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """What the command printed that is not 0."""
    words = done.stdout.split()
    return {name: int(count) for name, count in zip(words[::2], words[1::2], strict=True) if count != "0"}


def test_command_settles_what_waits(machine: Machine, payer: Payer) -> None:
    """`ai-retry settle` turns a spooled answer into its session, once, says so, and shows no answer."""
    first, again = machine.run(), machine.run()

    assert (first.returncode, counts(first)) == (0, {"settled": 1})
    assert (again.returncode, counts(again)) == (0, {})
    assert "paid" not in first.stdout + first.stderr
    assert payer.contents == ["paid"]
    assert machine.files == []


def test_command_says_what_is_left(machine: Machine, payer: Payer) -> None:
    """While the database is unavailable the command leaves the answer where it is and exits with 1."""
    done = machine.run(SUPABASE_URL="http://127.0.0.1:9")

    assert (done.returncode, counts(done)) == (1, {"left": 1})
    assert "event=spool_waits" in done.stderr
    assert len(machine.files) == 1
    assert payer.contents == []


def test_command_names_what_belongs_elsewhere(machine: Machine, payer: Payer) -> None:
    """Another database's answer is left and named, with exit code 1; an operator can adopt it for this one."""
    (name,) = machine.files
    path = machine.directory / name
    path.write_text(path.read_text().replace('"database": "postgres"', '"database": "original"'))

    left = machine.run()
    assert (left.returncode, counts(left)) == (1, {"foreign": 1})
    assert f"event=spool_foreign database=original file={name}" in left.stderr
    assert payer.contents == []

    adopted = machine.run("--adopt")
    assert (adopted.returncode, counts(adopted)) == (0, {"settled": 1})
    assert payer.contents == ["paid"]


def test_command_names_what_the_database_does_not_know(machine: Machine, payer: Payer) -> None:
    """The account is gone, or this is an older state of the database: the file is for an operator to decide about."""
    payer.world.delete_user(payer.user_id)

    done = machine.run()

    assert (done.returncode, counts(done)) == (1, {"unknown": 1})
    assert f"event=spool_unknown file={machine.files[0]}" in done.stderr


def test_command_passes_over_what_it_cannot_read(machine: Machine, payer: Payer) -> None:
    """One bad file is named; the good ones are settled, and the exit code is 1."""
    (machine.directory / "0.settle.json").write_text("torn")
    os.mkfifo(machine.directory / "1.settle.json")

    done = machine.run()

    assert (done.returncode, counts(done)) == (1, {"settled": 1, "unreadable": 2})
    assert machine.files == ["0.settle.json", "1.settle.json"]
    assert payer.contents == ["paid"]


def test_command_reports_a_directory_that_others_can_use(machine: Machine, payer: Payer) -> None:
    """It settles all the same."""
    machine.directory.chmod(0o777)

    done = machine.run()

    assert (done.returncode, counts(done)) == (0, {"settled": 1, "exposed": 1})
    assert "event=spool_exposed others=077" in done.stderr
    assert payer.contents == ["paid"]


def test_start_settles_what_waits(machine: Machine, payer: Payer) -> None:
    """The next start of an app settles what its predecessor could not, without being asked."""
    with connect(Settings.from_env(machine.env)):
        eventually(lambda: machine.files == [])

    assert payer.contents == ["paid"]


@pytest.mark.parametrize("trouble", ["torn", "fifo", "closed"])
def test_start_bears_what_it_cannot_read(machine: Machine, payer: Payer, trouble: str) -> None:
    """No file of the spool keeps an app from starting, or from ending."""
    if trouble == "torn":
        (machine.directory / "0.settle.json").write_text("[" * 100_000)
    elif trouble == "fifo":
        os.mkfifo(machine.directory / "0.settle.json")

    with connect(Settings.from_env(machine.env)) as client:
        if trouble != "closed":
            eventually(lambda: len(machine.files) == 1)
            assert client.settle().unreadable == 1

    assert trouble == "closed" or payer.contents == ["paid"]


@pytest.mark.parametrize("directory", ["relative/spool", ""], ids=["relative", "missing"])
def test_spool_directory_is_checked(machine: Machine, directory: str) -> None:
    """A spool that is asked for must be named by an absolute path; the command needs one."""
    variables = machine.env | {"AI_RETRY_SPOOL_DIR": directory}

    with pytest.raises(NotConfigured, match="AI_RETRY_SPOOL_DIR"):
        settle(Settings.from_env(variables))
