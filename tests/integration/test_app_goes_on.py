"""The app goes on: while retries run, none of its statements fails or waits long because of us.

The app's tables are as unkind as an app's may be: a unique ``session_id``, so that settling changes a key, and foreign
keys that cascade from users to everything.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.bootstrap import connect
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.errors import AiRetryError, AlreadySucceeded, GenerationFailed, GenerationNotFound, RetryRefused
from ai_retry.domain.model import QuotaRule
from ai_retry.domain.policy import RetryPolicy
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, pause
from tests.helpers.lock_watch import LockWatch, watching_locks
from tests.helpers.neighbour import AN_APP, PROMPT_DATA, AppSession, Pace, Said
from tools.push import apply_migrations
from tools.stack import MIGRATIONS
from tools.waiting import eventually

THREADS = 16
PATIENCE = 0.1  # seconds that a statement of the app may wait because of us
MILLISECOND = timedelta(milliseconds=1)
POLICY = RetryPolicy(
    max_attempts=10**6, hard_cap=10**6, backoff_base=MILLISECOND, backoff_cap=MILLISECOND, quota=QuotaRule(limit=10**6)
)
ENDINGS = (GenerationFailed, RetryRefused, AlreadySucceeded, GenerationNotFound)
KINDS = {"insert", "update one", "update many", "lock", "delete", "log an error", "delete sessions", "delete user"}
# A claim gives way after a few milliseconds: only the server itself can see it wait, and delete just then.
DELETE_AMID_CLAIMS = """
create function pg_temp.delete_amid_claims(p_user uuid) returns void language plpgsql as $$
begin
  while not exists (
    select from pg_locks l join pg_stat_activity a using (pid)
    where a.application_name = 'ai_retry' and a.datname = current_database()
      and not l.granted and l.locktype <> 'advisory')
  loop
    if clock_timestamp() > statement_timestamp() + interval '60 seconds' then
      raise exception 'no claim came';
    end if;
    perform pg_stat_clear_snapshot(), pg_sleep(0.001);
  end loop;
  delete from auth.users where id = p_user;
end
$$;
"""
DELETE: dict[str, LiteralString] = {
    "settling": "delete from auth.users where id = %s",
    "claiming": "select pg_temp.delete_amid_claims(%s)",
}
SETTLED = "select from public.ai_retry_attempts"
OURS = "select user_id from public.ai_retry_open union all select user_id from public.ai_retry_attempts"
OPEN_OR_CAPTURED_TWICE = """
select generation_id from public.ai_retry_open
union all
select generation_id from public.ai_retry_attempts group by generation_id having count(captured_at) > 1
"""


def succeed_or_fail(request: Request) -> Script:
    """Answer after a while: now and then with a session, mostly with one that was cut off."""
    return (*pause(0.01), *chat({"title": "Easy run"}, finish_reason=random.choice(["stop", *["length"] * 5])))


@pytest.fixture
def app_database(bare_database: str) -> str:
    """The URL of a database of an app that has our migrations."""
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute(AN_APP)
    apply_migrations(bare_database, MIGRATIONS)
    return bare_database


@pytest.fixture
def client(app_database: str) -> Iterator[Client]:
    """What a service has: the composed library on a direct connection, as the service role."""
    with ScriptedServer(default=succeed_or_fail) as provider:
        settings = Settings(
            database_url=f"{app_database}?application_name=ai_retry&options=-c%20role%3Dservice_role",
            ai_base_url=provider.base_url,
            policy=POLICY,
        )
        with connect(settings) as client:
            yield client


class Retriers:
    """Threads that retry as fast as they can; the app keeps their pace.

    Attributes:
        pace: of the app, so that generations live long enough to be claimed, however busy the machine is.
        endings: how often a retry ended how.
        surprises: what no retry should have met.
    """

    def __init__(self, client: Client, pick: Callable[[random.Random], tuple[UUID, UUID]]) -> None:
        self.endings: Counter[str] = Counter()
        self.surprises: list[AiRetryError] = []
        self.pace = Pace(rounds=1, most=THREADS)
        self._client = client
        self._pick = pick

    def work(self, seed: int, until: Callable[[], bool]) -> None:
        """Retry what is picked, again and again."""
        choice = random.Random(seed)
        while not until():
            try:
                self._client.retry_generation(*self._pick(choice))
                self.endings["success"] += 1
            except ENDINGS as error:
                self.endings[error.code] += 1
                time.sleep(0.01)  # no client asks again at once; busy threads would measure this machine
            except AiRetryError as error:
                self.surprises.append(error)
            finally:
                self.pace.worked()


def a_generation_of(sessions: Sequence[AppSession]) -> Callable[[random.Random], tuple[UUID, UUID]]:
    """Choose among what the app's sessions have now; it may be gone by the time it is used."""

    def pick(choice: random.Random) -> tuple[UUID, UUID]:
        rows = [(user_id, each) for session in sessions for user_id, each in session.generations.items() if each]
        user_id, generations = choice.choice(rows)
        return user_id, choice.choice(generations)

    return pick


def kinds(sessions: Sequence[AppSession]) -> set[str]:
    """Name the kinds of statements that were executed."""
    return {each.kind for session in sessions for each in session.said}


def check_patience(said: Sequence[Said], watch: LockWatch) -> None:
    """Print how long statements took and waited; assert that none failed, or had to wait longer than is bearable.

    Waits for locks count, added up per statement: time by the clock holds what the machine's other work costs as well.
    On a busy machine that may also keep a holder of ours from running, so a few statements may wait longer for one that
    works. For one that waits itself, or has nothing to do, none may wait twice as long: such a holder waits 25 ms at
    most, but several may follow each other, and a busy machine wakes each of them late.
    """
    waits = {each: watch.waited(each.pid, each.began, each.ended) for each in said}
    waited = {each: sum(wait.seconds for wait in waits[each]) for each in said}
    idle = {each: sum(wait.seconds * wait.idle for wait in waits[each]) for each in said}
    slowest = max(each.ended - each.began for each in said)
    print(f"statements of the app: {dict(Counter(each.kind for each in said))}")
    print(
        f"the longest took {slowest * 1000:.0f} ms; waits for locks: {len(watch.waits)}, in one statement at most",
        end="",
    )
    print(f" {max(waited.values()) * 1000:.0f} ms, of which {max(idle.values()) * 1000:.0f} ms while no work was done")

    long_waits = [(each, waits[each]) for each in said if waited[each] > PATIENCE]
    assert [each for each in said if each.error] == []
    assert [(each, waits[each]) for each in said if idle[each] > 2 * PATIENCE] == []
    assert len(long_waits) <= 1 + len(said) / 200, long_waits


def query(url: str, statement: LiteralString) -> list[tuple[Any, ...]]:
    """Ask the database as its owner."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchall()


def test_app_neither_fails_nor_waits(app_database: str, client: Client) -> None:
    """While 16 threads retry, whatever an app writes, in whatever order, succeeds without a wait of 100 ms."""
    least = time.monotonic() + 7
    most = least + 80  # of a test that would else never end; no machine is that busy

    def is_over() -> bool:
        now = time.monotonic()
        return now > most or (now > least and retriers.endings["success"] > 20 and kinds(sessions) == KINDS)

    with ExitStack() as cleanup:
        sessions = [
            cleanup.enter_context(closing(AppSession(app_database, "authenticated", users=4, seed=1))),
            cleanup.enter_context(closing(AppSession(app_database, "service_role", users=4, seed=2))),
        ]
        retriers = Retriers(client, a_generation_of(sessions))
        watch = cleanup.enter_context(watching_locks(app_database, [session.pid for session in sessions]))
        with ThreadPoolExecutor(THREADS + len(sessions)) as threads:
            works = [threads.submit(session.work, is_over, retriers.pace) for session in sessions]
            works += [threads.submit(retriers.work, seed, is_over) for seed in range(THREADS)]
        for work in works:
            work.result()
    said = [each for session in sessions for each in session.said]

    print(f"retries: {dict(retriers.endings)}")
    check_patience(said, watch)
    assert retriers.surprises == []
    assert retriers.endings["success"] > 20
    assert kinds(sessions) == KINDS
    assert query(app_database, OPEN_OR_CAPTURED_TWICE) == []


@pytest.mark.parametrize("busy_with", ["settling", "claiming"])
def test_deleted_user_leaves_no_attempt(app_database: str, client: Client, busy_with: str) -> None:
    """A user who is deleted in the midst of 16 threads' retries is gone at once, and so are their attempts."""
    said = []
    ended = threading.Event()
    theirs: list[tuple[UUID, UUID]] = []
    retriers = Retriers(client, lambda choice: choice.choice(theirs or [(uuid4(), uuid4())]))
    with (
        psycopg.connect(app_database, autocommit=True, application_name="auth") as auth,
        watching_locks(app_database, [auth.info.backend_pid]) as watch,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        auth.execute(DELETE_AMID_CLAIMS)
        works = [threads.submit(retriers.work, seed, ended.is_set) for seed in range(THREADS)]
        try:
            for _ in range(10):
                new = a_new_user(auth)
                with auth.transaction():
                    if busy_with == "claiming":
                        auth.execute("select from auth.users where id = %s for update", [new[0][0]])
                    theirs = new
                    if busy_with == "settling":
                        eventually(lambda: query(app_database, SETTLED))
                    began = time.time()
                    auth.execute(DELETE[busy_with], [new[0][0]])
                    said.append(Said(auth.info.backend_pid, "delete user", began, time.time(), None))
        finally:
            ended.set()
        for work in works:
            work.result()

    print(f"retries: {dict(retriers.endings)}")
    check_patience(said, watch)
    assert retriers.surprises == []
    assert query(app_database, OURS) == []


def a_new_user(connection: psycopg.Connection) -> list[tuple[UUID, UUID]]:
    """Add a user with six failed generations; give these, each with its user."""
    user_id = uuid4()
    connection.execute("insert into auth.users (id) values (%s)", [user_id])
    return [
        (user_id, row[0])
        for row in connection.execute(
            "insert into public.generations (user_id, model, status, prompt_data)"
            " select %s, 'small', 'error', %s from generate_series(1, 6) returning id",
            [user_id, PROMPT_DATA],
        )
    ]
