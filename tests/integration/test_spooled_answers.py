"""A paid answer outlives its process: it is on disk from before its first settle until the database has decided.

On a real PostgreSQL and the real Data API.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from ai_retry.bootstrap import connect
from ai_retry.config import Settings
from ai_retry.domain.errors import AlreadySucceeded, GenerationNotFound, SessionRejected
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.spool import Spool, SpoolReport
from ai_retry.storage.transport import failure_of_sqlstate
from ai_retry.testing.provider import ScriptedServer, chat
from tests.faults.gateway import Gateway
from tests.helpers.payer import Payer
from tests.helpers.world import owner_of
from tools.stack import Stack
from tools.waiting import eventually

SETTLE = "ai_retry_settle"
INTERNAL = (
    "create or replace function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)"
    " returns jsonb language plpgsql set search_path = '' as $$"
    " begin raise exception 'a defect in C' using errcode = 'XX000'; end $$"
)


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing of it runs any more."""


class Machine:
    """A database, a spool directory, and processes that come and go.

    Attributes:
        calls: functions that were called, in order, repeats too.
        before: is run before each call of a function; what it raises is the call's failure.
    """

    def __init__(self, url: str, connection: psycopg.Connection, directory: Path) -> None:
        self.directory, self.connection = directory, connection
        self.postgres = PostgresStorage(url)
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}

    def process(self, **budgets: Any) -> Payer:
        """Start a process."""
        spool = Spool(self.directory)
        storage = FunctionStorage(self._call, spool=spool, **budgets)
        return Payer(storage, self.connection, spool)

    def _call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        self.calls.append(function)
        self.before.get(function, lambda: None)()
        return self.postgres._transport(function, arguments)

    def kill_before(self, function: str) -> None:
        """Let the next process be killed before it calls a function, once."""

        def kill() -> None:
            del self.before[function]
            raise Killed

        self.before[function] = kill

    @property
    def files(self) -> list[Path]:
        """What is in the spool."""
        return sorted(self.directory.iterdir())


@pytest.fixture
def machine(core_database: str, tmp_path: Path) -> Iterator[Machine]:
    """A database with an app, and a directory."""
    with owner_of(core_database) as connection:
        machine = Machine(core_database, connection, tmp_path / "spool")
        yield machine
        machine.postgres.close()


def killed(machine: Machine) -> Payer:
    """A process that was killed after its answer was written, and before its settle."""
    payer = machine.process()
    machine.kill_before(SETTLE)
    with pytest.raises(Killed):
        payer.retry()
    return payer


def test_answer_is_on_disk_during_its_first_settle(machine: Machine) -> None:
    """Before the first settle is sent the whole answer is on disk, with what it belongs to; after it nothing is."""
    payer = machine.process()
    seen: list[dict[str, Any]] = []
    machine.before[SETTLE] = lambda: seen.extend(json.loads(path.read_text()) for path in machine.files)

    payer.retry()

    (document,) = seen
    assert document["version"] == 1
    assert document["installation"]["database"] == machine.connection.info.dbname
    assert document["settle"]["success"]["answer"]["output"] == "paid"
    assert machine.files == []


def test_killed_process_loses_no_answer(machine: Machine) -> None:
    """The next process settles what the killed one has paid for, once."""
    payer = killed(machine)

    reports = [machine.process().client.settle() for _ in range(2)]

    assert reports == [SpoolReport(settled=1), SpoolReport()]
    assert (payer.outcomes, payer.contents) == (["succeeded"], ["paid"])
    assert machine.files == []


def test_retry_of_a_killed_process_sends_its_answer_first(machine: Machine) -> None:
    """A process that holds an answer does not pay for another one, however often its user clicks."""
    payer = killed(machine)
    payer.world.advance(DEFAULT_POLICY.lease)

    with pytest.raises(AlreadySucceeded):
        payer.retry()

    assert (payer.provider.calls, payer.contents, payer.outcomes) == (1, ["paid"], ["succeeded"])


def test_late_answer_of_a_killed_process_is_used_by_the_next_attempt(machine: Machine) -> None:
    """The attempt was closed meanwhile: its answer is stored first, and then needs no call."""
    payer = killed(machine)
    payer.world.advance(DEFAULT_POLICY.lease)
    other = payer.world.new_generation(payer.user_id)
    first, payer.generation_id = payer.generation_id, other
    payer.retry()  # of the same user: closes what is over
    payer.generation_id = first

    assert payer.retry().session["content"] == "paid"
    assert payer.provider.calls == 2
    assert payer.outcomes == ["abandoned", "succeeded"]


def test_only_a_call_of_its_own_is_held(machine: Machine) -> None:
    """A stored answer is safe where it is, and a failure has none."""
    payer = machine.process()
    payer.world.refuse_sessions("no_more")
    with pytest.raises(SessionRejected):
        payer.retry()
    payer.world.refuse_sessions(None)
    seen: list[Path] = []
    machine.before[SETTLE] = lambda: seen.extend(machine.files)

    payer.retry()

    assert seen == []
    assert payer.provider.calls == 1


def test_generation_that_vanishes_is_decided(machine: Machine) -> None:
    """The user deletes the generation during the call: the storage decides, and nothing stays on disk."""
    payer = machine.process()
    payer.provider.before = lambda: payer.world.delete_generation(payer.generation_id)

    with pytest.raises(GenerationNotFound):
        payer.retry()

    assert machine.files == []


def test_installation_is_asked_once(machine: Machine) -> None:
    """A process asks which database it is before its first begin, and never again."""
    payer = machine.process()
    for _ in range(3):
        payer.retry()
        payer.start_anew()

    assert machine.calls.count("ai_retry_installation") == 1
    assert machine.calls.index("ai_retry_installation") < machine.calls.index("ai_retry_begin")


def test_nothing_is_asked_without_a_spool(machine: Machine) -> None:
    """Two commits and one read are all that an attempt needs."""
    storage = FunctionStorage(machine._call)

    Payer(storage, machine.connection).retry()

    assert machine.calls == ["ai_retry_load", "ai_retry_begin", SETTLE]


@pytest.mark.parametrize("spools", [True, False], ids=["spool", "no-spool"])
def test_internal_error_of_the_app_is_its_rejection(machine: Machine, *, spools: bool) -> None:
    """XX000 from the app's session function: the third in one settle is its rejection, and the answer is stored."""
    payer = machine.process() if spools else Payer(FunctionStorage(machine._call), machine.connection)
    definition = machine.connection.execute(
        "select pg_get_functiondef(p.oid) from pg_proc p where p.proname = 'ai_retry_create_session'"
    ).fetchone()
    assert definition is not None
    machine.connection.execute(INTERNAL.encode())
    try:
        with pytest.raises(SessionRejected) as first:
            payer.retry()
        with pytest.raises(SessionRejected) as again:
            payer.retry()
    finally:
        machine.connection.execute(definition[0].encode())
    result = payer.retry()

    assert [each.value.details["constraint"] for each in (first, again)] == ["XX000", "XX000"]
    assert (machine.calls.count(SETTLE), machine.calls.count("ai_retry_keep")) == (3 + 1 + 1, 1)
    assert (result.session["content"], payer.provider.calls) == ("paid", 1)
    assert payer.outcomes == ["failed", "failed", "succeeded"]
    assert not spools or machine.files == []


def test_internal_error_of_the_link_loses_no_answer(machine: Machine) -> None:
    """XX000 from a pooler in between, for settle and last resort alike: the last resort is repeated until it passes."""
    payer = Payer(FunctionStorage(machine._call), machine.connection)
    left = {SETTLE: 3, "ai_retry_keep": 4}

    def fail(function: str) -> None:
        if left[function]:
            left[function] -= 1
            raise failure_of_sqlstate("XX000")

    machine.before = {function: partial(fail, function) for function in left}
    with pytest.raises(SessionRejected):
        payer.retry()

    assert payer.retry().session["content"] == "paid"
    assert payer.provider.calls == 1


class TestRestored:
    """A file belongs to one database."""

    @pytest.fixture
    def copy(self, stack: Stack) -> Iterator[str]:
        """The URL of another database with our migrations, that knows the users and generations, but no attempt."""
        name = f"copy_{uuid4().hex}"
        yield stack.create_database(name, migrated=True)
        stack.drop_database(name)

    @staticmethod
    def settle(url: str, machine: Machine, *, adopt: bool = False) -> SpoolReport:
        """Send the spool to a database."""
        with closing(PostgresStorage(url)) as storage:
            return Spool(machine.directory).send_again(storage, adopt=adopt)

    @staticmethod
    def restore(url: str, payer: Payer) -> None:
        """Give the database the payer's user and generation, as a backup has them."""
        with owner_of(url) as connection:
            connection.execute("insert into auth.users (id) values (%s)", [payer.user_id])
            connection.execute(
                "insert into public.generations (id, user_id, status) values (%s, %s, 'error')",
                [payer.generation_id, payer.user_id],
            )

    def test_another_database_gets_nothing(self, machine: Machine, copy: str) -> None:
        """An empty or restored database of another installation or name decides nothing: every file stays."""
        killed(machine)

        assert self.settle(copy, machine) == SpoolReport(foreign=1)
        assert len(machine.files) == 1

    def test_copy_of_another_name_gets_nothing(self, machine: Machine, copy: str) -> None:
        """A copy has the same id: only its name says that it is not the database that was paid for."""
        killed(machine)
        row = machine.connection.execute("select id from public.ai_retry_installation").fetchone()
        assert row is not None
        with owner_of(copy) as connection:
            connection.execute("update public.ai_retry_installation set id = %s", row)

        assert self.settle(copy, machine) == SpoolReport(foreign=1)

    def test_adopted_by_a_database_that_knows_nothing_it_stays(self, machine: Machine, copy: str) -> None:
        """Even then a token that is unknown is never removed by itself."""
        killed(machine)

        assert self.settle(copy, machine, adopt=True) == SpoolReport(unknown=1)
        assert len(machine.files) == 1

    def test_adopted_by_a_restored_database_it_is_a_late_answer(self, machine: Machine, copy: str) -> None:
        """The restored generation gets its answer, and needs no second call."""
        payer = killed(machine)
        self.restore(copy, payer)

        assert self.settle(copy, machine, adopt=True) == SpoolReport(decided=1)
        with closing(PostgresStorage(copy)) as storage:
            snapshot = storage.load(payer.user_id, payer.generation_id, DEFAULT_POLICY.quota, None)
        assert snapshot is not None
        assert snapshot.stored_answer is not None
        assert snapshot.stored_answer.answer.output == "paid"
        assert machine.files == []


def test_two_processes_send_one_directory(machine: Machine, core_database: str) -> None:
    """`ai-retry settle` twice at once: each answer has one session, and no file is left."""
    payers = [killed(machine) for _ in range(20)]
    command = [str(Path(sys.executable).parent / "ai-retry"), "settle"]
    env = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | {
        "DATABASE_URL": core_database,
        "AI_BASE_URL": "http://127.0.0.1:9/v1",
        "AI_RETRY_SPOOL_DIR": str(machine.directory),
    }

    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in running]

    assert [process.returncode for process in running] == [0, 0], outputs
    assert {(*payer.outcomes, *payer.contents) for payer in payers} == {("succeeded", "paid")}
    assert machine.files == []


@pytest.mark.parametrize("is_closed", [False, True], ids=["unreachable", "closed"])
def test_database_that_cannot_be_asked_gets_nothing(machine: Machine, *, is_closed: bool) -> None:
    """Without a server, or after the client was closed, every file stays where it is."""
    killed(machine)
    storage = PostgresStorage("postgresql://postgres@127.0.0.1:9/postgres", pool_timeout=0.1)
    if is_closed:
        storage.close()

    with closing(storage):
        assert Spool(machine.directory).send_again(storage) == SpoolReport(left=1)


def test_spool_is_settled_beside_serving(stack: Stack, tmp_path: Path) -> None:
    """A start whose spooled settles get no reply for as long as it serves: the first answer does not wait for them."""
    directory = tmp_path / "spool"
    arrived, served = threading.Event(), threading.Event()

    def hold_the_first(function: str) -> None:
        if function == SETTLE and not arrived.is_set():
            arrived.set()
            assert served.wait(timeout=60)

    with owner_of(stack.database_url) as connection:
        machine = Machine(stack.database_url, connection, directory)
        payers = [killed(machine) for _ in range(3)]
        clicker = Payer(machine.postgres, connection)
        with (
            Gateway(urlsplit(stack.url).port or 0, hold_the_first) as gateway,
            ScriptedServer(chat("served")) as provider,
        ):
            env = stack.env() | {"SUPABASE_URL": f"http://127.0.0.1:{gateway.port}", "AI_BASE_URL": provider.base_url}
            env |= {"AI_RETRY_SPOOL_DIR": str(directory)}
            settings = replace(Settings.from_env(env), database_url=None)
            with connect(settings) as client:
                assert arrived.wait(timeout=60)
                clicker.world.advance(DEFAULT_POLICY.backoff_cap)
                result = client.retry_generation(clicker.user_id, clicker.generation_id)
                assert len(machine.files) == 3
                served.set()
                eventually(lambda: machine.files == [])
        machine.postgres.close()
        assert result.session["content"] == "served"
        assert [payer.outcomes for payer in payers] == [["succeeded"]] * 3
