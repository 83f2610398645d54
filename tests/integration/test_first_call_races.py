"""First calls on a real database: many at once, bindings that do odd things, and the books after all of it."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.client import Client
from ai_retry.domain.errors import (
    AiRetryError,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    NotConfigured,
    QuotaExhausted,
    RetryInProgress,
    SessionConflict,
    SessionRejected,
    StorageUnavailable,
    TooManyParallel,
)
from ai_retry.domain.model import Answer, QuotaRule, RetryResult, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from tests.helpers.attempts import ATTEMPTS
from tests.helpers.books import violations
from tests.helpers.builders import a_failure
from tests.helpers.world import SqlWorld

PROMPT = "Plan an easy run."
AT_ONCE = 100
KEYED = 20
LIMIT = 5
ROOMY = RetryPolicy(max_parallel=AT_ONCE, quota=QuotaRule(limit=LIMIT))
PATIENT = timedelta(seconds=60)  # many wait for one user's lock

A_ROW: LiteralString = "insert into public.generations (id, user_id, status, model, prompt_data) values"
BINDING: LiteralString = """
create or replace function ai_retry.app_create_generation(p_user_id uuid, p_generation_id uuid, p_request jsonb)
returns boolean language plpgsql as $$ begin %s return found; end $$;
"""


class Latch:
    """Opens when something has happened so many times."""

    def __init__(self, times: int) -> None:
        self._left, self._lock, self._opened = times, threading.Lock(), threading.Event()

    def count_down(self) -> None:
        """Note that it has happened once more."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._opened.set()

    def wait(self) -> None:
        """Wait until it is open."""
        assert self._opened.wait(60)


class Shop:
    """An app's database, one of its users, and a process that makes first calls."""

    def __init__(self, url: str, connection: psycopg.Connection, *script: AiStep, **parts: Any) -> None:
        self.connection = connection
        self._storage = PostgresStorage(url, read_for=PATIENT)
        self.ai = ScriptedAiProvider(*script, default=Answer(output={"title": "Easy run"}, model="small"))
        self.client = Client(storage=self._storage, queue_storage=self._storage, ai=self.ai, max_calls=AT_ONCE, **parts)
        self.world = SqlWorld(self._storage, connection)
        self.user_id = self.world.new_user()

    def bind(self, body: LiteralString) -> None:
        """Replace what the binding does to create a generation."""
        self.connection.execute(BINDING.encode() % body.encode())

    def failed(self, error: type[AiRetryError], **options: Any) -> AiRetryError:
        """Make a first call that fails like this."""
        with pytest.raises(error) as caught:
            self.client.generate(self.user_id, PROMPT, **options)
        return caught.value

    def retry(self, generation_id: UUID | None) -> RetryResult:
        """Retry it, the wait lifted."""
        assert generation_id is not None
        backoff = frozenset({Waiver.BACKOFF})
        return self.client.retry_generation(self.user_id, generation_id, waive=backoff, operator="ann")

    def count(self, table: LiteralString) -> int:
        """Rows of the user in a table."""
        query = f"select count(*) from {table} t where t.user_id = %s"
        (found,) = self.connection.execute(query.encode(), [self.user_id]).fetchone() or (0,)
        return int(found)

    def has_nothing(self) -> bool:
        """Whether nothing of the user's is there, and nothing of anybody's that is no failure."""
        tables: tuple[LiteralString, ...] = ("public.generations", "public.sessions", f"{ATTEMPTS}")
        return all(self.count(each) == 0 for each in tables)

    def close(self) -> None:
        """Give connections back."""
        self._storage.close()


@pytest.fixture
def shop(migrated_database: str, connection: psycopg.Connection) -> Iterator[Shop]:
    """A shop on a database of its own, whose books balance at the end."""
    with closing(Shop(migrated_database, connection)) as shop:
        yield shop
        assert list(violations(connection)) == []


def test_of_a_hundred_first_calls_at_once_the_limit_is_held(
    migrated_database: str, connection: psycopg.Connection
) -> None:
    """A new user posts a hundred times at one moment: exactly five are held, called and charged; nothing else is."""
    refused = Latch(AT_ONCE - LIMIT)

    def answer(_: AiCall) -> Answer:
        refused.wait()  # all others are refused while the five run
        return Answer(output={"title": "Easy run"}, model="small")

    shop = Shop(migrated_database, connection, *[answer] * LIMIT, policy=ROOMY)

    def post(number: int) -> str:
        try:
            shop.client.generate(shop.user_id, PROMPT, idempotency_key=f"key-{number}")
        except AiRetryError as error:
            refused.count_down()
            return error.code
        return "ok"

    with closing(shop), ThreadPoolExecutor(AT_ONCE) as threads:
        codes = Counter(threads.map(post, range(AT_ONCE)))

    assert codes == {"ok": LIMIT, QuotaExhausted.code: AT_ONCE - LIMIT}
    assert (len(shop.ai.calls), shop.count("public.generations"), shop.count("public.sessions")) == (LIMIT,) * 3
    assert shop.count(ATTEMPTS) == LIMIT
    assert list(violations(connection)) == []


def test_twenty_posts_under_one_key_are_one(migrated_database: str, connection: psycopg.Connection) -> None:
    """One row, one call, one session; the others learn that it runs, or what it has come to."""
    refused = Latch(KEYED - 1)

    def answer(_: AiCall) -> Answer:
        refused.wait()
        return Answer(output={"title": "Easy run"}, model="small")

    shop = Shop(migrated_database, connection, answer, policy=ROOMY)

    def post(_: int) -> tuple[str, UUID | None]:
        try:
            found = shop.client.generate(shop.user_id, PROMPT, idempotency_key="key")
        except RetryInProgress as error:
            refused.count_down()
            return error.code, error.generation_id
        return f"ok, replayed: {found.replayed}", found.generation.id

    with closing(shop), ThreadPoolExecutor(KEYED) as threads:
        answers = list(threads.map(post, range(KEYED)))
        again = shop.client.generate(shop.user_id, PROMPT, idempotency_key="key")

    assert Counter(code for code, _ in answers) == {RetryInProgress.code: KEYED - 1, "ok, replayed: False": 1}
    assert {generation_id for _, generation_id in answers} == {again.generation.id}
    assert again.replayed
    assert (len(shop.ai.calls), shop.count("public.generations"), shop.count("public.sessions")) == (1, 1, 1)


def test_first_call_goes_through_the_binding(shop: Shop) -> None:
    """Prompt, model and whatever else the columns need reach the app's own insert; retries read what it has stored."""
    shop.connection.execute("alter table public.generations add column color text not null default 'none'")
    shop.bind(
        "insert into public.generations (id, user_id, status, model, prompt_data, color) values (p_generation_id,"
        " p_user_id, 'processing', upper(p_request ->> 'model'), p_request -> 'prompt_data', p_request ->> 'color')"
        " on conflict (id) do nothing;"
    )

    result = shop.client.generate(shop.user_id, PROMPT, model="small", columns={"color": "red"})

    row = shop.world.generation(result.generation.id)
    assert (row["status"], row["model"], row["color"]) == ("success", "SMALL", "red")
    assert [call.context.model for call in shop.ai.calls] == ["SMALL"]


def test_another_status_of_the_apps_is_overwritten(shop: Shop) -> None:
    """An app that inserts another word sees its generation processing while the call runs, as in a retry."""
    seen: list[str] = []
    shop.bind(f"{A_ROW} (p_generation_id, p_user_id, 'queued', null, p_request -> 'prompt_data');")

    def answer(_: AiCall) -> Answer:
        (status,) = shop.connection.execute("select status from public.generations").fetchone() or ("",)
        seen.append(status)
        return Answer(output={}, model="small")

    shop.ai._script.append(answer)
    shop.client.generate(shop.user_id, PROMPT)

    assert seen == ["processing"]


@pytest.mark.rule("creation")
@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("return false;", RetryInProgress, "is being worked on"),  # it says that the row is there, and it is not
        (
            f"{A_ROW} (gen_random_uuid(), p_user_id, 'processing', null, p_request -> 'prompt_data');",
            NotConfigured,
            "under the id and for the user",
        ),
        ("perform 1;", NotConfigured, "under the id and for the user"),
        (
            "insert into auth.users (id) values ('00000000-0000-0000-0000-000000000001');"
            f"{A_ROW} (p_generation_id, '00000000-0000-0000-0000-000000000001', 'processing', null, '1');",
            NotConfigured,
            "under the id and for the user",
        ),
        ("raise exception 'secret';", NotConfigured, r"refuse it \(P0001\)"),
        ("raise exception 'secret' using errcode = 'PT409';", SessionConflict, "accepts no further generation"),
        ("raise exception 'secret' using errcode = '23P01';", TooManyParallel, "At most 1"),
        (f"{A_ROW} (p_generation_id, p_user_id, 'nonsense', null, '1');", NotConfigured, "23514, status_is_known"),
        (f"{A_ROW} (p_generation_id, null, 'processing', null, '1');", NotConfigured, "23502, user_id"),
        ("assert false, 'secret';", NotConfigured, r"refuse it \(P0004\)"),
    ],
)
def test_binding_that_does_not_do_as_asked_leaves_nothing(
    shop: Shop, body: LiteralString, error: type[AiRetryError], words: str
) -> None:
    """Whatever it inserted is rolled back, the provider is not called, and no error has its words."""
    shop.bind(body)

    caught = shop.failed(error)

    assert re.search(words, str(caught))
    assert "secret" not in str(caught)
    assert (caught.generation_id, shop.has_nothing(), shop.ai.calls) == (None, True, [])
    (rows,) = shop.connection.execute("select count(*) from public.generations").fetchone() or (None,)
    assert rows == 0


def test_constraints_that_are_deferred_refuse_in_time(shop: Shop) -> None:
    """A constraint that the app checks at its commit is checked before the call, and named."""
    shop.connection.execute(
        "create table public.plans (id uuid primary key);"
        "alter table public.generations add column plan uuid default gen_random_uuid()"
        " constraint has_a_plan references public.plans (id) deferrable initially deferred"
    )

    error = shop.failed(NotConfigured)

    assert "23503, has_a_plan" in str(error)
    assert (error.generation_id, shop.has_nothing(), shop.ai.calls) == (None, True, [])


def test_row_that_the_app_locks_is_waited_for_and_nothing_is_written(shop: Shop) -> None:
    """A table that is locked is no refusal: the begin is repeated, and says so when its time is over."""
    storage = PostgresStorage(shop.connection.info.dsn, read_for=timedelta(0))
    client = Client(storage=storage, ai=shop.ai)
    with closing(storage), psycopg.connect(shop.connection.info.dsn) as holder:
        holder.execute("lock table public.generations in share mode")
        with pytest.raises(StorageUnavailable) as caught:
            client.generate(shop.user_id, PROMPT)

    assert (caught.value.reason, caught.value.generation_id, shop.has_nothing()) == ("55P03", None, True)


def test_role_that_may_not_insert_is_named(shop: Shop) -> None:
    """As the service role, without the privilege: an operator learns which."""
    shop.connection.execute("revoke insert on public.generations from service_role")
    shop.bind("raise insufficient_privilege;")

    error = shop.failed(NotConfigured)

    assert "grant ai-retry's role insert" in str(error)
    assert shop.has_nothing()


def test_failures_leave_a_generation_that_can_be_retried(shop: Shop) -> None:
    """A failed call, a rejected session and a dead process: each error names the generation, and its retry succeeds."""
    shop.ai._script += [a_failure(), Answer(output={"title": "Long run"}, model="small")]
    failed = shop.failed(GenerationFailed).generation_id
    shop.world.refuse_sessions("title_is_short")
    rejected = shop.failed(SessionRejected).generation_id
    shop.world.refuse_sessions(None)

    assert [shop.retry(each).attempt for each in (failed, rejected)] == [2, 2]
    assert (len(shop.ai.calls), shop.count("public.sessions")) == (3, 2)


def test_killed_process_is_recognised_by_the_same_key(shop: Shop) -> None:
    """Once its lease is over the same request closes what it left, and says so; the retry is attempt 2."""
    shop.ai._script.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        shop.client.generate(shop.user_id, PROMPT, idempotency_key="key")
    shop.world.advance(timedelta(minutes=2))

    error = shop.failed(LeaseLost, idempotency_key="key")

    assert error.details == {"answer_kept": False}
    assert shop.retry(error.generation_id).attempt == 2


def test_deleted_generation_is_not_found_until_its_attempts_are_pruned(shop: Shop) -> None:
    """The key of a generation that the user deleted makes no second one, for as long as its attempts are kept."""
    generation_id = shop.client.generate(shop.user_id, PROMPT, idempotency_key="key").generation.id
    shop.world.delete_generation(generation_id)
    shop.failed(GenerationNotFound, idempotency_key="key")
    shop.world.advance(timedelta(days=100))

    shop.connection.execute(
        'select public.ai_retry_prune(\'{"protocol": 2, "older_than_seconds": 86400, "window_seconds": 86400,'
        ' "page": 100, "dry_run": false}\')'
    )

    assert shop.client.generate(shop.user_id, PROMPT, idempotency_key="key").generation.id == generation_id
    assert len(shop.ai.calls) == 2


def test_request_is_recognised_after_its_failures_are_pruned(shop: Shop) -> None:
    """The first attempt of a generation that is there is kept: by it the same request finds its session."""
    shop.ai._script.append(a_failure())
    generation_id = shop.failed(GenerationFailed, idempotency_key="key").generation_id
    session = shop.retry(generation_id).session
    shop.world.advance(timedelta(days=100))

    shop.connection.execute(
        'select public.ai_retry_prune(\'{"protocol": 2, "older_than_seconds": 86400, "window_seconds": 86400,'
        ' "page": 100, "dry_run": false}\')'
    )

    again = shop.client.generate(shop.user_id, PROMPT, idempotency_key="key")
    assert (again.replayed, again.session, again.attempt) == (True, session, 2)


def test_unknown_user_gets_nothing(shop: Shop) -> None:
    """Who has no account has no generation; the constraint is named."""
    with pytest.raises(NotConfigured, match="23503"):
        shop.client.generate(uuid4(), PROMPT)
