"""An answer that was paid for while the database was away is settled by the next start, or by `ai-retry settle`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from ai_retry.testing.contract import claim_of, new_generation

from ai_retry.bootstrap import connect, settle
from ai_retry.config import Settings
from ai_retry.domain.errors import NotConfigured, StorageFailure
from ai_retry.domain.model import Answer
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.repeating import RepeatingStorage
from ai_retry.storage.spool import PendingSettle, Spool
from tests.support.stack import Stack
from tests.support.world import SqlWorld, owner_of


@pytest.fixture
def world(stack: Stack) -> Iterator[SqlWorld]:
    """The stack's database and the app around it."""
    storage = PostgresStorage(stack.database_url, max_connections=2)
    with owner_of(stack.database_url) as connection:
        yield SqlWorld(storage, connection)
    storage.close()


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """The settings of an app with a spool."""
    env = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}
    return env | {"AI_RETRY_SPOOL_DIR": str(tmp_path / "spool"), "AI_BASE_URL": "http://127.0.0.1:9/v1"}


def spooled(world: SqlWorld, spool_dir: Path) -> UUID:
    """Let a settle fail, so that its answer waits in the spool; return the generation's id."""
    user_id, generation_id = new_generation(world)
    pending = PendingSettle(
        claim=claim_of(world, user_id, generation_id),
        answer=Answer(output={"title": "paid"}),
        answer_from=None,
        duration=None,
        quota_rule=DEFAULT_POLICY.quota,
        rejected_wait=DEFAULT_POLICY.backoff_base,
        rejected_again_wait=DEFAULT_POLICY.backoff_cap,
    )
    nobody = PostgresStorage("postgresql://postgres@127.0.0.1:9/postgres", pool_timeout=0.1)
    away = RepeatingStorage(nobody, Spool(spool_dir), settle_for=DEFAULT_POLICY.backoff_base / 20)
    with pytest.raises(StorageFailure):
        pending.send(away)
    nobody.close()
    assert len(list(spool_dir.iterdir())) == 1
    return generation_id


def run_settle(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "ai-retry"), "settle"],
        check=False,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_settles_what_waits(world: SqlWorld, environment: dict[str, str]) -> None:
    """`ai-retry settle` turns a spooled answer into its session, once, says so, and shows no answer."""
    spool_dir = Path(environment["AI_RETRY_SPOOL_DIR"])
    generation_id = spooled(world, spool_dir)

    first, again = run_settle(environment), run_settle(environment)

    assert (first.returncode, again.returncode) == (0, 0)
    assert first.stdout.split()[:2] == ["settled", "1"]
    assert again.stdout.split()[:2] == ["settled", "0"]
    assert "paid" not in first.stdout + first.stderr
    assert world.generation(generation_id)["status"] == "success"
    assert list(spool_dir.iterdir()) == []


def test_command_tells_what_is_left(world: SqlWorld, environment: dict[str, str]) -> None:
    """While the database is away the command leaves the answer where it is and exits with 1."""
    spool_dir = Path(environment["AI_RETRY_SPOOL_DIR"])
    spooled(world, spool_dir)

    done = run_settle(environment | {"SUPABASE_URL": "http://127.0.0.1:9"})

    assert done.returncode == 1
    assert len(list(spool_dir.iterdir())) == 1


def test_start_settles_what_waits(world: SqlWorld, environment: dict[str, str]) -> None:
    """The next start of an app settles what its predecessor could not."""
    generation_id = spooled(world, Path(environment["AI_RETRY_SPOOL_DIR"]))

    with connect(Settings.from_env(environment)) as client:
        report = client.settle()

    assert world.generation(generation_id)["status"] == "success"
    assert (report.settled, report.left) == (0, 0)


@pytest.mark.parametrize("directory", ["relative/spool", ""], ids=["relative", "missing"])
def test_spool_directory_is_checked(environment: dict[str, str], directory: str) -> None:
    """A spool that is asked for must be named by an absolute path; the command needs one."""
    variables = environment | {"AI_RETRY_SPOOL_DIR": directory}

    with pytest.raises(NotConfigured, match="AI_RETRY_SPOOL_DIR"):
        settle(Settings.from_env(variables))
