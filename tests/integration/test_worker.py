"""The real `ai-retry worker`: it serves what was accepted, stops without losing anything, and is fair."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ai_retry.bootstrap import worker as bootstrap_worker
from ai_retry.config import Settings
from ai_retry.domain.change import Taken
from ai_retry.domain.context import stored_context
from ai_retry.domain.model import Context, Generation, QuotaRule
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.domain.queue import enqueue_generation
from ai_retry.domain.reader import ContextFrom, reader_name
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import ScriptedServer
from tests.helpers.books import violations
from tests.helpers.queue_steps import VISIBILITY, accept, is_queued, new_accepted, ready, waiting
from tests.helpers.steps import new_generation
from tests.helpers.world import SqlWorld, empty_queue, owner_of
from tools.app_server import clean
from tools.stack import Stack, running_stack
from tools.waiting import eventually, skipping_without_stack
from tools.worker_process import COMMAND, Provider, running_worker

AI_KEY = "sk-test-7c1d0e5f9a8b3c46"
SECRET_PROMPT = "worker-prompt-that-no-log-may-hold"
SECRET_ANSWER = "worker-answer-that-no-log-may-hold"
LOOKING = """
select 1 from pg_stat_activity
where state = 'active' and query like '%ai_retry_take%' and pid <> pg_backend_pid()
"""
LEASE_AND_WAITS = VISIBILITY + timedelta(minutes=10)


@dataclass(frozen=True)
class Site:
    """A database with its app around it, and what a worker needs to know."""

    world: SqlWorld
    connection: psycopg.Connection
    env: Mapping[str, str] = field(repr=False)
    log: Path

    def ask(self, provider: ScriptedServer, **numbers: str) -> dict[str, str]:
        """Give the settings of a worker that asks this provider."""
        ai = {"AI_BASE_URL": provider.base_url, "AI_API_KEY": AI_KEY, "AI_MODEL": "small"}
        return {**self.env, **ai, "AI_RETRY_BACKOFF_BASE_SECONDS": "0.1", **numbers}

    def queued(
        self, user_id: UUID | None = None, prompt: str = SECRET_PROMPT, reader: ContextFrom = stored_context
    ) -> tuple[UUID, UUID]:
        """Enqueue a generation that asks this, of this user or a new one, by an app with this reader; give both ids."""
        user_id = user_id or self.world.new_user()
        generation_id = self.world.new_generation(user_id)
        prompt_data = Jsonb({"messages": [{"role": "user", "content": prompt}]})
        self.world.set_generation(generation_id, prompt_data=prompt_data)
        enqueue_generation(user_id, generation_id, storage=self.world.storage, context_from=reader)
        return user_id, generation_id

    def statuses(self, *generation_ids: UUID) -> set[str]:
        """What the app's rows say."""
        return {self.world.generation(each)["status"] for each in generation_ids}

    def is_looked_at(self) -> bool:
        """Whether messages are taken just now, perhaps for a worker that was killed."""
        return self.connection.execute(LOOKING).fetchone() is not None

    def outlive(self) -> None:
        """Let leases, backoffs and visibilities of killed workers pass."""
        eventually(lambda: not self.is_looked_at())
        self.world.advance(LEASE_AND_WAITS)

    def outcomes(self, generation_id: UUID) -> list[str | None]:
        """The state of its attempts."""
        return [row["outcome"] for row in self.world.attempts(generation_id)]


@contextmanager
def site_of(stack: Stack, database_url: str, log: Path, *, direct: bool) -> Iterator[Site]:
    """Connect to a database; a worker goes straight there, or through the Data API."""
    env = {"DATABASE_URL": database_url} if direct else dict(stack.env())
    if not direct:
        del env["DATABASE_URL"]
    with (
        closing(PostgresStorage(database_url, max_connections=8)) as storage,
        owner_of(database_url) as connection,
    ):
        empty_queue(connection)
        yield Site(SqlWorld(storage, connection), connection, env, log)


@pytest.fixture
def site(stack: Stack, migrated_database: str, tmp_path: Path) -> Iterator[Site]:
    """A database of one's own, to which the worker goes straight."""
    with site_of(stack, migrated_database, tmp_path / "worker.log", direct=True) as site:
        yield site


@pytest.fixture(params=["postgres", "data_api"])
def any_site(request: pytest.FixtureRequest, stack: Stack, tmp_path: Path) -> Iterator[Site]:
    """The stack's database, on both ways to it."""
    direct = request.param == "postgres"
    with site_of(stack, stack.database_url, tmp_path / "worker.log", direct=direct) as site:
        yield site


# It works


def test_worker_serves_what_was_accepted(any_site: Site) -> None:
    """Every accepted retry gets its one session for one unit, by either way to the database, and the queue is empty."""
    site = any_site
    users = [site.world.new_user() for _ in range(3)]
    ids = [site.queued(user_id)[1] for user_id in users for _ in range(2)]

    with (
        ScriptedServer(default=Provider({"title": SECRET_ANSWER})) as provider,
        running_worker(site.ask(provider), site.log) as worker,
    ):
        eventually(lambda: site.statuses(*ids) == {"success"})
        later = site.queued(users[0])[1]
        eventually(lambda: site.statuses(later) == {"success"})
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0

    assert waiting(site.world) == []
    assert [len(site.world.sessions(user_id)) for user_id in users] == [3, 2, 2]
    assert len(provider.requests) == 7


def said(site: Site, event: str, *facts: str) -> list[str]:
    """The lines of an event in a worker's log that have these facts."""
    lines = site.log.read_text().splitlines()
    return [each for each in lines if f"event={event} " in each and all(fact in each for fact in facts)]


def test_log_shows_what_happened_and_no_secret(any_site: Site) -> None:
    """The log names generations and what became of them; no key, prompt, answer or address with a password."""
    site = any_site
    _, generation_id = site.queued()

    with (
        ScriptedServer(default=Provider({"title": SECRET_ANSWER})) as provider,
        running_worker(site.ask(provider), site.log) as worker,
    ):
        eventually(lambda: said(site, "attempt_succeeded", str(generation_id)))
        worker.signal(signal.SIGTERM)
        worker.exit_code()
        assert worker.has_told("event=worker_stopped")

    log = site.log.read_text()
    keys = [value for name, value in site.env.items() if name.endswith(("KEY", "SECRET"))]
    assert [each for each in (AI_KEY, SECRET_PROMPT, SECRET_ANSWER, *keys) if each in log] == []
    assert "Traceback" not in log


# It stops


def test_sigterm_lets_running_attempts_end(any_site: Site) -> None:
    """After SIGTERM what runs is settled, nothing new is begun, and the exit code is 0."""
    site, answers = any_site, Provider({"title": SECRET_ANSWER}, is_open=False)
    running = [site.queued()[1] for _ in range(2)]

    with (
        ScriptedServer(default=answers) as provider,
        running_worker(site.ask(provider), site.log, concurrency=2) as worker,
    ):
        eventually(lambda: len(answers.prompts) == 2)
        worker.signal(signal.SIGTERM)
        _, later = site.queued()
        answers.open()
        assert worker.exit_code() == 0

    assert site.statuses(*running) == {"success"}
    assert site.outcomes(later) == [None]
    assert ready(site.world) == [later]
    assert len(answers.prompts) == 2


class StopsOnReceipt(PostgresStorage):
    """Is stopped in the moment in which messages arrive."""

    def __init__(self, database_url: str, stop: threading.Event) -> None:
        super().__init__(database_url)
        self.stop = stop

    def take(self, limit: int, visibility: timedelta, rule: QuotaRule) -> Sequence[Taken]:
        """Take messages, and set the event."""
        taken = super().take(limit, visibility, rule)
        self.stop.set()
        return taken


def test_what_was_not_begun_is_given_back(site: Site) -> None:
    """Messages that arrive when the worker is stopping are another worker's at once; no call was made."""
    stop = threading.Event()
    generation_ids = [site.queued()[1] for _ in range(3)]

    with (
        ScriptedServer() as provider,
        bootstrap_worker(Settings.from_env(site.ask(provider))) as worker,
        closing(StopsOnReceipt(site.env["DATABASE_URL"], stop)) as storage,
    ):
        replace(worker, storage=storage).run(stop)

    assert ready(site.world) == generation_ids
    assert [site.outcomes(each) for each in generation_ids] == [[None]] * 3
    assert site.statuses(*generation_ids) == {"queued"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_second_signal_stops_at_once(site: Site, number: signal.Signals, code: int) -> None:
    """A second signal waits for nothing; what ran goes on in another worker when its lease ends, and costs one unit."""
    answers = Provider({"title": SECRET_ANSWER}, is_open=False)
    user_id, generation_id = site.queued()

    with ScriptedServer(default=answers) as provider:
        with running_worker(site.ask(provider), site.log) as worker:
            eventually(lambda: len(answers.prompts) == 1)

            def stopped() -> bool:
                if worker.process.poll() is None:
                    worker.signal(number)
                return worker.process.poll() is not None

            eventually(stopped)
            assert worker.exit_code() == code
        assert site.outcomes(generation_id) == [None]
        answers.open()
        site.outlive()
        with running_worker(site.ask(provider), site.log):
            eventually(lambda: site.statuses(generation_id) == {"success"})

    assert site.outcomes(generation_id) == ["abandoned", "succeeded"]
    assert len(site.world.sessions(user_id)) == 1


def test_sigkill_loses_nothing(any_site: Site) -> None:
    """Killed in the midst of its calls, a worker leaves nothing undone: another one ends all, each with one session."""
    site, answers = any_site, Provider({"title": SECRET_ANSWER}, is_open=False)
    queued = [site.queued() for _ in range(3)]
    ids = [generation_id for _, generation_id in queued]

    with ScriptedServer(default=answers) as provider:
        with running_worker(site.ask(provider), site.log, concurrency=2) as worker:
            eventually(lambda: len(answers.prompts) == 2)
            worker.signal(signal.SIGKILL)
            assert worker.exit_code() == -signal.SIGKILL
        answers.open()
        site.outlive()
        with running_worker(site.ask(provider), site.log):
            eventually(lambda: site.statuses(*ids) == {"success"})

    assert sorted(len(site.outcomes(each)) for each in ids) == [1, 2, 2]
    assert [len(site.world.sessions(user_id)) for user_id, _ in queued] == [1, 1, 1]
    assert waiting(site.world) == []


# What goes wrong around it


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A stack whose parts may be restarted."""
    with ExitStack() as cleanup:
        with skipping_without_stack():
            stack = cleanup.enter_context(running_stack())
        yield stack


@pytest.mark.parametrize("direct", [True, False], ids=["postgres", "data_api"])
def test_storage_that_goes_away_is_waited_for(own_stack: Stack, tmp_path: Path, *, direct: bool) -> None:
    """A database, or Data API, that is restarted under a waiting worker ends it not: it says so and goes on."""
    log = tmp_path / "worker.log"
    with ScriptedServer(default=Provider({"title": SECRET_ANSWER})) as provider, ExitStack() as opened:
        with site_of(own_stack, own_stack.database_url, log, direct=direct) as site:
            worker = opened.enter_context(running_worker(site.ask(provider), log))
            _, before = site.queued()
            eventually(lambda: site.statuses(before) == {"success"})
        if direct:
            own_stack.restart_postgres(immediate=True)
        else:
            own_stack.stop_data_api()
            eventually(lambda: worker.has_told("event=worker_waits"))
            own_stack.restart_data_api()
        with site_of(own_stack, own_stack.database_url, log, direct=direct) as site_again:
            _, generation_id = site_again.queued()
            eventually(lambda: site_again.statuses(generation_id) == {"success"}, within=45)
        assert worker.has_told("event=worker_waits")
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0


def test_context_that_raises_is_put_aside(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in the app's own function stops no other retry; its generation is looked at again later."""
    unreadable: set[UUID] = set()

    def context_from(generation: Generation) -> Context:
        if generation.id in unreadable:
            raise RuntimeError(SECRET_PROMPT)
        return stored_context(generation)

    _, broken = site.queued(prompt="broken", reader=context_from)
    _, sound = site.queued(reader=context_from)
    unreadable.add(broken)  # a defect that came after the retry was accepted

    stop = threading.Event()
    with ScriptedServer(default=Provider({"title": SECRET_ANSWER})) as provider:
        settings = Settings.from_env(site.ask(provider))
        with bootstrap_worker(settings, context_from=context_from, concurrency=2) as worker:
            thread = threading.Thread(target=worker.run, args=[stop])
            thread.start()
            eventually(lambda: site.statuses(sound) == {"success"})
            eventually(lambda: waiting(site.world) == [broken] and ready(site.world) == [])
            eventually(lambda: "event=worker_failed code=CONTEXT_MISSING" in caplog.text)
            stop.set()
            thread.join()

    (row,) = site.world.attempts(broken)
    assert (row["outcome"], row["lease_expires_at"]) == (None, None)
    assert row["next_attempt_at"] - row["accepted_at"] > timedelta(seconds=30)
    assert "at=test_worker.py:" in caplog.text
    assert f"generation_id={broken}" in caplog.text
    assert f"{reader_name(context_from)} raised RuntimeError" in caplog.text
    assert SECRET_PROMPT not in caplog.text


def the_apps(generation: Generation) -> Context:
    """Read as an app of its own does."""
    return stored_context(generation)


THE_APPS = f"{__name__}:the_apps"


def test_other_readers_retry_is_left_and_reported(site: Site) -> None:
    """A worker with another reader than the app's begins nothing, ends nothing, and names both and the remedy."""
    _, generation_id = site.queued(reader=the_apps)

    with ScriptedServer() as provider, running_worker(site.ask(provider), site.log) as worker:
        eventually(lambda: said(site, "worker_failed", "code=NOT_CONFIGURED", str(generation_id)))
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0

    (line,) = [each for each in site.log.read_text().splitlines() if str(generation_id) in each]
    assert " ERROR " in line
    assert f"accepted with the reader {THE_APPS}, and this worker has ai_retry.domain.context:stored_context" in line
    assert f"AI_RETRY_CONTEXT_FROM={THE_APPS}" in line
    (row,) = site.world.attempts(generation_id)
    assert (is_queued(row), site.world.error_logs(generation_id), provider.requests) == (True, [], [])
    assert timedelta(seconds=50) < row["next_attempt_at"] - row["accepted_at"] < timedelta(seconds=120)
    assert SECRET_PROMPT not in site.log.read_text()


def test_missing_context_is_logged_with_its_field(site: Site) -> None:
    """The right reader's word ends the accepted retry with its reason, and the log says which field it is about."""
    _, generation_id = site.queued()
    site.world.set_generation(generation_id, prompt_data=Jsonb({"messages": [{"role": 7, "content": SECRET_PROMPT}]}))

    with ScriptedServer() as provider, running_worker(site.ask(provider), site.log):
        eventually(lambda: site.statuses(generation_id) == {"error"})
        eventually(lambda: said(site, "attempt_failed"))

    (line,) = said(site, "attempt_failed")
    assert " WARNING " in line
    assert "code=CONTEXT_MISSING" in line
    assert f"generation_id={generation_id}" in line
    assert "prompt_data.messages[0] must be an object with a role" in line
    assert site.outcomes(generation_id) == ["failed"]
    assert SECRET_PROMPT not in line


def test_worker_without_a_queue_says_what_to_do(site: Site) -> None:
    """Where there is no pgmq a worker ends with the exit code of a missing set-up, and one line with the remedy."""
    site.connection.execute("drop schema pgmq cascade")

    with ScriptedServer() as provider, running_worker(site.ask(provider), site.log) as worker:
        code = worker.exit_code()

    assert code == 3
    assert worker.has_told("select public.ai_retry_create_queue()")
    assert not worker.has_told("Traceback")


# It is fair


def test_hundred_queued_starve_no_other_user(site: Site) -> None:
    """One user's many retries are in no other user's way: another's one is asked among the first."""
    hoarder = site.world.new_user()
    site.world.set_quota(hoarder, 100, timedelta(hours=24))
    many = [site.queued(hoarder, "many")[1] for _ in range(30)]
    _, one = site.queued(prompt="one")
    answers = Provider({"title": SECRET_ANSWER})

    with ScriptedServer(default=answers) as provider, running_worker(site.ask(provider), site.log, concurrency=2):
        eventually(lambda: site.statuses(one, *many) == {"success"}, within=60)

    assert answers.prompts.index("one") <= DEFAULT_POLICY.max_parallel + 2
    assert len(answers.prompts) == 31


def test_max_parallel_holds_across_workers(site: Site) -> None:
    """However many workers there are, no more of a user's attempts run at once than may; all are served."""
    user_id = site.world.new_user()
    site.world.set_quota(user_id, 100, timedelta(hours=24))
    ids = [site.queued(user_id)[1] for _ in range(12)]
    for user, generation_id in ((user_id, each) for each in ids):  # as if all of them had a message
        site.world.send_message({"user_id": str(user), "generation_id": str(generation_id)})
    answers = Provider({"title": SECRET_ANSWER})

    with (
        ScriptedServer(default=answers) as provider,
        running_worker(site.ask(provider), site.log),
        running_worker(site.ask(provider), site.log.with_name("second.log")),
    ):
        eventually(lambda: site.statuses(*ids) == {"success"}, within=90)

    assert answers.most <= DEFAULT_POLICY.max_parallel
    assert len(answers.prompts) == len(site.world.sessions(user_id)) == 12
    assert violations(site.connection) == []


# It is seen


def run(env: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a person does."""
    return subprocess.run(
        [COMMAND, *arguments],
        check=False,
        env=clean(os.environ) | dict(env),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_queue_command_shows_the_state(any_site: Site) -> None:
    """`ai-retry queue` prints what waits and runs, as a table for people and as JSON for programs."""
    site = any_site
    oldest = accept(site.world, *new_generation(site.world))
    new_accepted(site.world)
    site.connection.execute(
        "insert into public.ai_retry_outages (route, not_before, since, failures, slots)"
        " values ('away.example/small', clock_timestamp() + interval '1 minute', clock_timestamp(), 3, 1)"
    )
    with ScriptedServer() as provider:
        env = site.ask(provider)

        table, document = run(env, "queue"), run(env, "queue", "--json")

    state = json.loads(document.stdout)
    assert (table.returncode, document.returncode) == (0, 0)
    assert {name: state[name] for name in ("queued", "due", "parked", "running", "poisoned", "configured")} == {
        "queued": 2,
        "due": 2,
        "parked": 0,
        "running": 0,
        "poisoned": 0,
        "configured": True,
    }
    assert oldest.accepted_at is not None
    assert state["oldest_accepted_at"] == oldest.accepted_at.isoformat()
    assert [(each["route"], each["failures"], each["slots"]) for each in state["outages"]] == [
        ("away.example/small", 3, 1)
    ]
    assert re.search(r"^waiting +2 ", table.stdout, re.MULTILINE)
    assert re.search(r"^away\.example/small .* 3 +1$", table.stdout, re.MULTILINE)


def test_queue_command_without_a_database_says_so(site: Site) -> None:
    """An unreachable database is named first, then what to do; the exit code is that of a missing set-up."""
    with ScriptedServer() as provider:
        env = site.ask(provider) | {"DATABASE_URL": "postgresql://postgres@127.0.0.1:9/postgres"}

        done = run(env, "queue")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.splitlines()[-1].startswith("Check host and port in DATABASE_URL")
    assert "Traceback" not in done.stderr


OWN_PROVIDER = """
from ai_retry.providers.function import FunctionProvider


def make():
    return FunctionProvider(lambda context, seconds: {"title": "own"}, name="own", model="ours")
"""


def test_worker_asks_the_app_s_own_provider(site: Site, tmp_path: Path) -> None:
    """The command makes what AI_RETRY_PROVIDER names, as the app does; no key of an API is needed."""
    (tmp_path / "worker_ai.py").write_text(OWN_PROVIDER)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    _, generation_id = site.queued()

    with running_worker({**site.env, "AI_RETRY_PROVIDER": "worker_ai:make", "PYTHONPATH": path}, site.log):
        eventually(lambda: site.statuses(generation_id) == {"success"})

    (row,) = site.world.attempts(generation_id)
    assert [(each["provider"], each["code"]) for each in row["calls"]] == [("own", None)]
    assert row["route"].startswith("own/")
