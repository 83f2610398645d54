"""What a retry costs the database: two writing transactions, and one read before them.

On a server of its own, on which nothing else happens: no autovacuum, and no full pages in the log.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.ports import Storage
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from benchmarks.app_rows import AT_ONCE, failed_generations
from tests.helpers.steps import ANSWER, FAILURE
from tests.helpers.worlds import PROMPT_DATA
from tools.stack import Stack, running_stack
from tools.waiting import eventually, skipping_without_stack

pytestmark = pytest.mark.stack

STORAGES: dict[str, Callable[[Stack], Any]] = {
    "postgres": lambda stack: PostgresStorage(stack.database_url),
    "data_api": lambda stack: SupabaseStorage(stack.url, stack.secret_key),
}


@pytest.fixture(scope="module")
def quiet_stack() -> Iterator[Stack]:
    """A stack whose server does nothing by itself."""
    with ExitStack() as cleanup:
        with skipping_without_stack():
            settings = {"autovacuum": "off", "full_page_writes": "off"}
            stack = cleanup.enter_context(running_stack(postgres_settings=settings))
        yield stack


@pytest.fixture
def database(quiet_stack: Stack) -> Iterator[psycopg.Connection]:
    """A connection of the owner, who looks on."""
    with psycopg.connect(quiet_stack.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, quiet_stack: Stack) -> Iterator[Storage]:
    """Each storage that has transactions."""
    with closing(STORAGES[request.param](quiet_stack)) as storage:
        yield storage


@dataclass(frozen=True)
class Cost:
    """What one call of the storage cost the server."""

    call: str
    commits: int  # COMMIT records in the write-ahead log
    ids: int  # transaction ids, those of subtransactions included
    wal_bytes: int


class Meter:
    """A storage that notes what each call costs."""

    def __init__(self, storage: Storage, database: psycopg.Connection) -> None:
        self.costs: list[Cost] = []
        self._storage = storage
        self._database = database

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Give the storage's method, metered."""

        def metered(*arguments: Any, **options: Any) -> Any:
            id_before, lsn_before = self._position()
            result = getattr(self._storage, name)(*arguments, **options)
            id_after, lsn_after = self._position()
            size = self._database.execute("select %s::pg_lsn - %s::pg_lsn", [lsn_after, lsn_before]).fetchone()
            assert size is not None
            commits = commits_between(self._database, lsn_before, lsn_after)
            self.costs.append(Cost(name, commits, id_after - id_before, int(size[0])))
            return result

        return metered

    def _position(self) -> tuple[int, str]:
        """Read the next transaction id and the end of the log. Reading takes no id."""
        row = self._database.execute(
            "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_wal_lsn()::text"
        ).fetchone()
        assert row is not None
        return row


def commits_between(database: psycopg.Connection, start: str, end: str) -> int:
    """Count the COMMIT records in a part of the write-ahead log, with the server's own tool."""
    if start == end:
        return 0
    row = database.execute(
        "select (select setting from pg_config where name = 'BINDIR'), current_setting('data_directory')"
    ).fetchone()
    assert row is not None
    command = [f"{row[0]}/pg_waldump", "--path", str(Path(row[1]) / "pg_wal"), "--rmgr", "Transaction"]
    dump = subprocess.run([*command, "--start", start, "--end", end], capture_output=True, text=True, check=False)
    assert dump.returncode == 0, dump.stderr
    return dump.stdout.count("desc: COMMIT")


def metered_retry(storage: Storage, database: psycopg.Connection, ending: AiStep) -> list[Cost]:
    """Retry a new generation twice, the first time to warm up; return what the second one cost."""
    meter = Meter(storage, database)
    client = Client(storage=meter, ai=ScriptedAiProvider(ending, ending))
    for _ in range(2):
        user_id, generation_id = a_failed_generation(database)
        meter.costs.clear()
        try_again(client, user_id, generation_id)
    for cost in meter.costs:
        print(f"{cost.call}: {cost.commits} COMMIT, {cost.ids} transaction ids, {cost.wal_bytes} bytes of WAL")
    return meter.costs


def a_failed_generation(database: psycopg.Connection) -> tuple[UUID, UUID]:
    """Add a new user with a generation of the app that failed."""
    user_id, generation_id = uuid4(), uuid4()
    database.execute("insert into auth.users (id) values (%s)", [user_id])
    database.execute(
        "insert into public.generations (id, user_id, status, prompt_data) values (%s, %s, 'error', %s)",
        [generation_id, user_id, Jsonb(PROMPT_DATA)],
    )
    return user_id, generation_id


def try_again(client: Client, user_id: UUID, generation_id: UUID) -> None:
    """Retry, whatever the end."""
    try:
        client.retry_generation(user_id, generation_id)
    except GenerationFailed:
        return


def test_success_takes_two_writing_transactions(storage: Storage, database: psycopg.Connection) -> None:
    """A retry that succeeds commits twice, after one read that writes nothing.

    The settle takes two more ids, for the blocks that catch what rejects the session, or refuses the event.
    """
    costs = metered_retry(storage, database, ANSWER)

    ids, wal_bytes = sum(cost.ids for cost in costs), sum(cost.wal_bytes for cost in costs)
    print(f"a retry that succeeds: {sum(cost.commits for cost in costs)} writing transactions,", end=" ")
    print(f"{ids} transaction ids (2 of subtransactions), {wal_bytes} bytes of WAL")
    assert [(cost.call, cost.commits, cost.ids) for cost in costs] == [
        ("load", 0, 0),
        ("begin", 1, 1),
        ("settle", 1, 3),
    ]


def test_failure_takes_two_writing_transactions(storage: Storage, database: psycopg.Connection) -> None:
    """A retry that fails commits twice as well: the failure is recorded at once with its log and its event.

    The settle takes three more ids, for the blocks that catch what refuses the status, or the event, or locks the note
    of an outage.
    """
    costs = metered_retry(storage, database, FAILURE)

    assert [(cost.call, cost.commits, cost.ids) for cost in costs] == [
        ("load", 0, 0),
        ("begin", 1, 1),
        ("settle", 1, 4),
    ]


OTHERS = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
OURS = ["ai_retry_attempts", "ai_retry_open", "ai_retry_answers"]
READS = """
select (select sum(idx_tup_read) from pg_stat_user_indexes where relname = any (%(ours)s))
  + (select sum(seq_tup_read) from pg_stat_user_tables where relname = any (%(ours)s))
"""


def test_idle_transaction_makes_no_attempt_read_more(quiet_stack: Stack) -> None:
    """What an idle transaction keeps from being cleaned up is read by its own user's attempts, not by all."""
    url = quiet_stack.create_database("idle", migrated=True)
    with psycopg.connect(url, autocommit=True) as database, psycopg.connect(url) as idle:
        database.execute("analyze")  # while nothing is open: the planner takes every partial index for empty
        idle.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        idle.execute("select count(*) from public.generations")

        def reads_of(attempts: int) -> int:
            before = database.execute(READS, {"ours": OURS}).fetchone()
            with closing(PostgresStorage(url)) as storage:
                for row in failed_generations(database, attempts):
                    retry_generation(*row, storage=storage, ai=AT_ONCE, clock=SystemClock())
            eventually(lambda: database.execute(OTHERS).fetchone() == (1,))  # counted when its connection ended
            after = database.execute(READS, {"ours": OURS}).fetchone()
            assert before is not None
            assert after is not None
            return int(after[0] - before[0]) // attempts

        first, later = reads_of(10), [reads_of(300), reads_of(10)][-1]

    quiet_stack.drop_database("idle")
    assert later <= 2 * first
