"""The verbs at once: clicks, workers, tidies, renewals, kept answers, beside an app that locks, deletes and moves rows.

No call meets an error but a refusal or a lock, no statement of the app waits for us or fails, no paid answer is lost,
and no sample of the books shows more units or attempts than the ceilings.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from operator import methodcaller
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.domain.change import CallRecord, CloseOver, Discard, Keep, Renew
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    RetryRefused,
    SessionRejected,
    StorageUnavailable,
)
from ai_retry.domain.loop import Loop, Setting, retrying
from ai_retry.domain.model import Answer, Context, ProviderOutcome, QuotaRule, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_loop import accepting, cancelling, working
from ai_retry.storage._function_connection import CallFailed, FunctionConnection
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.transport import failure_of_sqlstate
from tests.helpers.builders import a_failure
from tests.helpers.lock_watch import watching_locks
from tests.helpers.neighbour import AN_APP, AppSession, Role
from tools.push import apply_migrations
from tools.stack import MIGRATIONS

THREADS = 32
SECONDS = 8.0
PATIENCE = 0.1  # seconds that a statement of the app may wait for us, when we do not wait for the processor
ROUTE = "small at provider"
LIMIT = 12
MILLISECOND = timedelta(milliseconds=1)
POLICY = RetryPolicy(
    max_attempts=10**6,
    hard_cap=10**6,
    backoff_base=MILLISECOND,
    backoff_cap=MILLISECOND,
    outage_cap=timedelta(milliseconds=50),
    lease=timedelta(seconds=1),
    deadline=timedelta(milliseconds=800),
    settle_margin=timedelta(milliseconds=200),
    max_parallel=3,
    max_queued=timedelta(seconds=4),
    quota=QuotaRule(limit=LIMIT, window=timedelta(days=1)),
)
EXPECTED = (GenerationFailed, RetryRefused, AlreadySucceeded, GenerationNotFound, LeaseLost, SessionRejected)
ROLES: tuple[Role, Role] = ("authenticated", "service_role")
LOCKS = ("55P03", "40P01", "40001")  # nothing was written, and the same change is sent again
TRIES = 40
ABOVE_A_CEILING = """
select u.id from auth.users u cross join lateral (
  select count(*) filter (where o.charge) as held, count(*) filter (where o.lease_expires_at is not null) as running
  from public.ai_retry_open o where o.user_id = u.id) o
cross join lateral (
  select count(*) as captured from public.ai_retry_attempts c where c.user_id = u.id and c.captured_at is not null) c
where o.held + c.captured > %s or o.running > %s
"""
LOST = """
select g.id, p.output from unnest(%s::uuid[], %s::uuid[], %s::text[]) p (user_id, id, output)
join public.generations g using (id) join auth.users u on u.id = p.user_id  -- attempts go with their user
where not exists (select from public.ai_retry_attempts c where c.generation_id = g.id
    and (c.outcome = 'succeeded' or c.discarded_at is not null))
  and not exists (
    select from public.ai_retry_answers a where a.generation_id = g.id and a.answer ->> 'output' = p.output)
  and not exists (select from public.ai_retry_open o where o.generation_id = g.id and o.answer ->> 'output' = p.output)
"""
_IS_OURS = methodcaller("startswith", "ai_retry ")
TWO_SESSIONS = """
select c.generation_id from public.ai_retry_attempts c where c.session_id is not null
group by c.generation_id having count(*) > 1
"""


@dataclass
class Run:
    """What the threads share, and what became of what they did."""

    url: str
    apps: list[AppSession]
    endings: Counter[str] = field(default_factory=Counter)
    locks: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    paid: list[tuple[UUID, UUID, str]] = field(default_factory=list)
    tokens: list[tuple[UUID, UUID, UUID]] = field(default_factory=list)

    def pick(self, choice: random.Random) -> tuple[UUID, UUID]:
        """Choose a generation; it may be gone by the time it is used."""
        while True:
            rows = [(user, ids) for app in self.apps for user, ids in list(app.generations.items()) if ids]
            if rows:
                user_id, ids = choice.choice(rows)
                return user_id, choice.choice(ids)
            time.sleep(0.01)


class Transport:
    """Calls over one connection; what a lock has refused is sent again."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._connection: FunctionConnection = FunctionConnection.connect(
            f"{run.url}?application_name=ai_retry&options=-c%20role%3Dservice_role", autocommit=True
        )

    def __call__(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a verb until it is let through; now and then a settle gives up at once."""
        for _ in range(TRIES):
            try:
                return self._connection.call(function, arguments)
            except CallFailed as failed:
                state = str(failed.sqlstate)
                self._run.locks[f"{function} {state}"] += 1
                if state not in LOCKS:
                    self._run.surprises.append(f"{function} {state}")
                    raise failure_of_sqlstate(state) from None
                if function == "ai_retry_settle" and random.random() < 0.3:
                    break
        raise StorageUnavailable("55P03")

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


class Provider:
    """Answers or fails, now and then after the lease, and remembers what was paid for."""

    def __init__(self, run: Run, functions: FunctionStorage, choice: random.Random, asked: Asked) -> None:
        self._run, self._functions, self._choice, self._asked = run, functions, choice, asked

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Take a while, then answer or fail."""
        time.sleep(self._choice.choice((0.0, 0.0, 0.0, 0.01, 0.05, 1.2)))
        self._run.tokens.append((self._asked.user_id, self._asked.generation_id, self._asked.token))
        fate = self._choice.random()
        if fate < 0.45:
            raise GenerationFailed(a_failure(certainly_not_generated=fate < 0.2))
        answer = Answer(output=str(uuid4()), model="small")
        self._run.paid.append((self._asked.user_id, self._asked.generation_id, answer.output))
        if fate < 0.55:
            self._functions.keep(
                Keep(
                    user_id=self._asked.user_id,
                    generation_id=self._asked.generation_id,
                    token=self._asked.token,
                    answer=answer,
                    cause="55P03",
                    wait=MILLISECOND,
                    call=CallRecord(provider_outcome=ProviderOutcome.GENERATED, wire_requests=1),
                )
            )
        return answer


class Client:
    """One thread of clicks, workers, tidies and operators."""

    def __init__(self, run: Run, seed: int) -> None:
        self._run, self._choice = run, random.Random(seed)
        self._transport = Transport(run)
        self._functions = FunctionStorage(self._transport)
        self._setting = Setting(
            policy=POLICY,
            reader=Reader(context_from=stored_context, route_of=(lambda _context: ROUTE) if seed % 4 == 0 else None),
            monotonic=time.monotonic,
            fraction=self._choice.random,
        )

    def work(self, until: Callable[[], bool]) -> None:
        """Do one thing after the other."""
        acts = [*[self._click] * 8, *[self._accept] * 4, *[self._take] * 6]
        acts += [self._tidy, self._renew, self._renew, self._cancel, self._discard]
        with closing(self._transport):
            while not until():
                act = self._choice.choice(acts)
                user_id, generation_id = self._run.pick(self._choice)
                try:
                    act(user_id, generation_id)
                    self._run.endings[act.__name__] += 1
                except EXPECTED as error:
                    self._run.endings[error.code] += 1
                except AiRetryError as error:
                    self._run.endings[error.code] += 1
                except Exception as error:  # noqa: BLE001 (that is what is looked for)
                    self._run.surprises.append(f"{act.__name__}: {error!r}")

    def _drive(self, loop: Loop[Any], asked: Asked) -> Any:
        provider = Provider(self._run, self._functions, self._choice, asked)
        return drive(loop, storage=self._functions, ai=provider, rule=POLICY.quota)

    def _asked(self, user_id: UUID, generation_id: UUID) -> Asked:
        waive = frozenset({Waiver.BACKOFF})
        return Asked(user_id=user_id, generation_id=generation_id, token=uuid4(), waive=waive)

    def _click(self, user_id: UUID, generation_id: UUID) -> None:
        asked = self._asked(user_id, generation_id)
        self._drive(retrying(asked, self._setting), asked)

    def _accept(self, user_id: UUID, generation_id: UUID) -> None:
        asked = self._asked(user_id, generation_id)
        self._drive(accepting(asked, self._setting.reader, self._setting.policy), asked)

    def _take(self, _user_id: UUID, _generation_id: UUID) -> None:
        for taken in self._functions.take(2, timedelta(seconds=3), POLICY.quota):
            asked = self._asked(taken.message.user_id, taken.message.generation_id)
            self._drive(working(taken, asked.token, self._setting), asked)

    def _tidy(self, _user_id: UUID, _generation_id: UUID) -> None:
        for user_id in self._functions.overdue(4):
            self._functions.begin(CloseOver(user_id=user_id))

    def _renew(self, _user_id: UUID, _generation_id: UUID) -> None:
        if self._run.tokens:
            _, begun_id, token = self._choice.choice(self._run.tokens[-64:])
            self._functions.amend(Renew(generation_id=begun_id, token=token, lease=POLICY.lease))

    def _cancel(self, user_id: UUID, generation_id: UUID) -> None:
        self._drive(cancelling(user_id, generation_id, self._setting.policy), self._asked(user_id, generation_id))

    def _discard(self, user_id: UUID, generation_id: UUID) -> None:
        if self._choice.random() < 0.1:
            self._functions.amend(Discard(user_id=user_id, generation_id=generation_id, operator="ann"))


def hold(run: Run, until: Callable[[], bool]) -> None:
    """Hold rows, tables and users for a while, move generations, and drop the queue, as an app or its operator does."""
    choice = random.Random(7)
    with psycopg.connect(f"{run.url}?application_name=holder", autocommit=True) as connection:
        while not until():
            user_id, generation_id = run.pick(choice)
            other, _ = run.pick(choice)
            ids = {"user": user_id, "generation": generation_id, "other": other}
            try:
                with connection.transaction():
                    match choice.randrange(7):
                        case 0:
                            connection.execute("select from auth.users where id = %(user)s for update", ids)
                        case 1:
                            connection.execute("set local lock_timeout = '50ms'")
                            table = choice.choice(("events", "sessions", "generation_error_logs"))
                            connection.execute(f"lock table public.{table} in exclusive mode".encode())
                        case 2:
                            connection.execute(
                                "update public.generations set user_id = %(other)s where id = %(generation)s"
                                " and exists (select from auth.users where id = %(other)s)",
                                ids,
                            )
                        case 3:
                            connection.execute(
                                "select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"ai_retry:{user_id}"]
                            )
                        case 4:
                            connection.execute("set local lock_timeout = '50ms'")
                            connection.execute("select pgmq.drop_queue('ai_retry')")
                            connection.execute("select pgmq.create('ai_retry')")
                            connection.execute("grant all on pgmq.q_ai_retry to service_role")
                        case _:
                            connection.execute(
                                "select from public.generations where id = %(generation)s for update", ids
                            )
                    time.sleep(choice.choice((0.0, 0.01, 0.1)))
            except psycopg.Error as error:
                run.endings[f"holder {error.sqlstate}"] += 1
            time.sleep(0.02)


@pytest.mark.timeout(300)
def test_verbs_hold_together_under_load(bare_database: str) -> None:
    """No error but refusals and locks, no unit or answer too many or too few, no statement of the app delayed."""
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute(AN_APP)
    apply_migrations(bare_database, MIGRATIONS)
    with psycopg.connect(bare_database, autocommit=True) as connection, ExitStack() as stack:
        apps = [
            stack.enter_context(closing(AppSession(bare_database, role, users=12, seed=seed)))
            for seed, role in enumerate(ROLES)
        ]
        run = Run(bare_database, list(apps))
        ends_at = time.monotonic() + SECONDS
        done = threading.Event()

        def until() -> bool:
            return done.is_set() or time.monotonic() > ends_at

        above = []
        with watching_locks(bare_database, [app.pid for app in apps]) as watch, ThreadPoolExecutor(THREADS + 8) as pool:
            threads = [pool.submit(Client(run, seed).work, until) for seed in range(THREADS)]
            threads += [pool.submit(app.work, until) for app in apps]
            threads += [pool.submit(hold, run, until)]
            while not until():
                above += connection.execute(ABOVE_A_CEILING.encode(), [LIMIT, POLICY.max_parallel]).fetchall()
                time.sleep(0.05)
            done.set()
            for each in threads:
                each.result()
        paid = [list(column) for column in zip(*run.paid, strict=True)]
        lost = connection.execute(LOST.encode(), paid).fetchall()
        twice = connection.execute(TWO_SESSIONS.encode()).fetchall()

    ours = [each for each in watch.waits if each.holders and all(map(_IS_OURS, each.holders))]
    longest = max((each.seconds for each in ours), default=0.0)
    idle = [each for each in ours if each.seconds * each.idle > PATIENCE]
    failed = Counter(each.error for app in apps for each in app.said if each.error)
    print(f"endings: {dict(run.endings)}\nlocks: {dict(run.locks)}\nsurprises: {Counter(run.surprises)}")
    print(
        f"paid: {len(run.paid)}, the longest wait of the app for us: {longest * 1000:.0f} ms of {len(ours)}; {failed}"
    )
    assert (run.surprises, above, lost, twice) == ([], [], [], [])
    assert idle == []
    assert failed == Counter()
