"""A backup is restored as the how-to shows: paid answers are not lost, nothing is charged twice, the books balance."""

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from ai_retry import bootstrap
from ai_retry.domain.model import Waiver
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import ScriptedServer, chat
from tests.helpers.books import violations
from tests.helpers.payer import killed
from tests.helpers.queue_steps import accept, run
from tests.helpers.steps import POLICY, begin, new_generation, quota_of, succeed
from tests.helpers.world import SqlWorld, owner_of
from tests.integration.test_docs import HOW_TO
from tools.examples import example, shell
from tools.waiting import eventually

PAGE = HOW_TO / "restore.md"
BACK_UP, RESTORE, SETTLE = (example(PAGE, "sh", words) for words in ("pg_dump", "pg_restore", "ai-retry settle"))


class Project:
    """A database, a spool, and the shell of the operator.

    Attributes:
        url: of the database.
        folder: where the operator works.
        spool: where answers wait.
        world: the database around a storage; another one after each restore.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.spool = url, folder, folder / "spool"
        self._open()

    def _open(self) -> None:
        self._storage = PostgresStorage(self.url, max_connections=2)
        self._owner = owner_of(self.url)
        self.connection = self._owner.__enter__()
        self.world = SqlWorld(self._storage, self.connection)

    def back_up(self) -> None:
        """Do what the page says."""
        shell(BACK_UP, self.folder)

    def restore(self) -> None:
        """Stop every process, and do what the page says."""
        users = self.world._users
        self.close()
        shell(RESTORE, self.folder)
        self._open()
        self.world._users.extend(users)

    def killed(self, of: tuple[UUID, UUID] | None = None) -> tuple[UUID, UUID]:
        """Let a process be killed whose answer is in the spool."""
        user_id, generation_id = killed(self.url, self.connection, self.spool, of=of)
        self.world._users.append(user_id)
        return user_id, generation_id

    @property
    def files(self) -> list[str]:
        """What is in the spool."""
        return sorted(path.name for path in self.spool.iterdir())

    def close(self) -> None:
        """Give connections back."""
        self._owner.__exit__(None, None, None)
        self._storage.close()


@pytest.fixture
def provider() -> Iterator[ScriptedServer]:
    """A provider that gives every call the same answer."""
    with ScriptedServer(default=lambda _: chat({"title": "again"})) as provider:
        yield provider


@pytest.fixture
def project(
    migrated_database: str,
    folder: Path,
    provider: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Project]:
    """An operator's shell with the tools of this server's version."""
    with psycopg.connect(migrated_database) as connection:
        row = connection.execute("select setting from pg_config where name = 'BINDIR'").fetchone()
    assert row is not None
    for name, value in {
        "DATABASE_URL": migrated_database,
        "AI_BASE_URL": provider.base_url,
        "AI_MODEL": "small",
        "AI_RETRY_SPOOL_DIR": str(folder / "spool"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(row[0]), prepend=":")
    project = Project(migrated_database, folder)
    yield project
    project.close()


def contents(project: Project, user_id: UUID) -> list[object]:
    """What the user's sessions hold."""
    return [row["content"] for row in project.world.sessions(user_id)]


def captured(project: Project, user_id: UUID) -> int:
    """Units that the user has spent."""
    return quota_of(project.world, user_id).captured


def test_answers_in_the_spool_survive_a_restore(project: Project, provider: ScriptedServer) -> None:
    """One whose attempt the backup knows gets its session; one that began later is stored, and used without a call."""
    running = project.killed()
    failed = new_generation(project.world)
    done = new_generation(project.world)
    succeed(project.world, begin(project.world, *done))
    project.back_up()
    project.killed(failed)

    project.restore()
    assert len(project.files) == 2
    printed = shell(SETTLE, project.folder)

    assert "settled     1" in printed
    assert "decided     1" in printed
    assert project.files == []
    assert contents(project, running[0]) == ["paid"]
    with bootstrap.connect() as client:
        result = client.retry_generation(*failed, waive=frozenset({Waiver.BACKOFF}), operator="ada")
    assert result.session["content"] == "paid"
    assert provider.requests == []
    assert [captured(project, user_id) for user_id, _ in (running, failed, done)] == [1, 1, 1]
    assert violations(project.connection) == []


def test_what_was_settled_since_the_backup_may_be_retried(project: Project) -> None:
    """A session that the restore has undone has its unit back; its old attempt is abandoned and a new one succeeds."""
    world = project.world
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    project.back_up()
    succeed(world, begun)
    assert captured(project, user_id) == 1

    project.restore()
    world = project.world
    assert (captured(project, user_id), contents(project, user_id)) == (0, [])
    world.advance(POLICY.lease)
    succeed(world, begin(world, user_id, generation_id))

    assert [row["outcome"] for row in world.attempts(generation_id)] == ["abandoned", "succeeded"]
    assert captured(project, user_id) == 1
    assert violations(project.connection) == []


def test_answer_of_a_generation_that_the_backup_lacks_stays(project: Project) -> None:
    """The database that doesn't know the generation takes nothing: the file stays, and is named."""
    project.back_up()
    project.killed()

    project.restore()
    report = bootstrap.settle()

    assert report.unknown == 1
    assert len(project.files) == 1
    assert violations(project.connection) == []


@pytest.mark.parametrize("queue", ["of the same moment", "newer", "gone"])
def test_accepted_retries_run_again_after_a_restore(project: Project, provider: ScriptedServer, queue: str) -> None:
    """What was queued or ran at the backup ends in one session and one unit, whatever has become of its messages."""
    world = project.world
    queued, ran = new_generation(world), new_generation(world)
    for each in (queued, ran):
        accept(world, *each)
    begun = run(world, *ran)
    project.back_up()
    succeed(world, begun)
    succeed(world, run(world, *queued))

    project.restore()
    world = project.world
    world.advance(POLICY.lease)
    if queue == "newer":
        for _ in range(3):
            world.send_message({"user_id": str(ran[0]), "generation_id": str(ran[1])})
        for statement in example(PAGE, "sql", "message_id").split(";"):
            project.connection.execute(statement.encode())
    elif queue == "gone":
        world.lose_messages()
    stop = threading.Event()
    with bootstrap.worker() as worker:
        running = threading.Thread(target=worker.run, args=[stop])
        running.start()
        eventually(lambda: all(world.generation(each)["status"] == "success" for _, each in (queued, ran)), within=90)
        stop.set()
        running.join()

    assert len(provider.requests) == 2
    assert [len(contents(project, user_id)) for user_id, _ in (queued, ran)] == [1, 1]
    assert [captured(project, user_id) for user_id, _ in (queued, ran)] == [1, 1]
    assert violations(project.connection) == []
