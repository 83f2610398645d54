"""Calls are prepared where that lasts, and work where it does not: behind a transaction pooler."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.model import QuotaRule
from ai_retry.domain.retry import retry_generation
from ai_retry.storage._function_connection import CallFailed, FunctionConnection
from ai_retry.storage.documents import document
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.app_rows import AT_ONCE, failed_generations
from tests.helpers.pooler import transaction_pooler

pytestmark = pytest.mark.stack

LOAD = {"p_request": document(user_id=uuid4(), generation_id=uuid4(), rule=QuotaRule())}


@pytest.fixture
def caller(migrated_database: str) -> Iterator[FunctionConnection]:
    """A connection as the storage's pool has them."""
    with FunctionConnection.connect(migrated_database, autocommit=True) as connection:
        yield connection


def prepared(caller: FunctionConnection) -> list[str]:
    """Name the statements that the server keeps for a connection."""
    return [row[0] for row in caller.execute("select name from pg_prepared_statements", prepare=False)]


def test_call_is_prepared_once(caller: FunctionConnection) -> None:
    """However often a function is called, its call is prepared once, under its own name."""
    for _ in range(3):
        assert caller.call("ai_retry_load", LOAD) is None

    (name,) = prepared(caller)
    assert name.startswith("ai_retry_load_")


def test_lost_statement_ends_preparing(caller: FunctionConnection) -> None:
    """Where a prepared statement is gone, as behind many poolers, the call is made all the same, unprepared."""
    caller.call("ai_retry_load", LOAD)
    caller.execute("deallocate all", prepare=False)

    assert caller.call("ai_retry_load", LOAD) is None
    assert caller.call("ai_retry_books", {}) == []
    assert prepared(caller) == []


def test_missing_function_may_come(caller: FunctionConnection) -> None:
    """A migration that is applied while a connection is open is found by that connection."""
    with pytest.raises(CallFailed) as caught:
        caller.call("not_there_yet", {})
    caller.execute("create function public.not_there_yet() returns jsonb return '{\"there\": true}'::jsonb")

    assert caught.value.sqlstate == "42883"
    assert caller.call("not_there_yet", {}) == {"there": True}


def test_function_may_get_other_types(caller: FunctionConnection) -> None:
    """A function that was made anew, with another type of an argument, is found by who had prepared its call."""
    caller.execute("create function public.reported(p_it text) returns jsonb return to_jsonb(p_it)")
    assert caller.call("reported", {"p_it": "1"}) == "1"
    caller.execute("drop function public.reported")
    caller.execute("create function public.reported(p_it jsonb) returns jsonb return p_it")

    assert caller.call("reported", {"p_it": "1"}) == 1


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["nul", "surrogate"])
def test_text_that_no_database_holds_is_not_sent(caller: FunctionConnection, text: str) -> None:
    """It is refused before it is cut off at its NUL, say, and the connection goes on."""
    with pytest.raises(CallFailed, match="22021"):
        caller.call("ai_retry_load", {"p_request": text})

    assert caller.call("ai_retry_load", LOAD) is None


def test_two_apps_behind_one_pooler(migrated_database: str) -> None:
    """Clients whose calls meet each other's prepared statements, or miss their own, retry each generation once."""
    with ExitStack() as stack:
        database = stack.enter_context(psycopg.connect(migrated_database, autocommit=True))
        url = stack.enter_context(transaction_pooler(migrated_database, connections=3))
        storages = [stack.enter_context(closing(PostgresStorage(url))) for _ in range(2)]
        rows = failed_generations(database, 40)

        def retry(number: int, row: tuple[UUID, UUID]) -> int:
            storage = storages[number % 2]
            return retry_generation(*row, storage=storage, ai=AT_ONCE, clock=SystemClock()).quota.captured

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(retry, range(40), rows)) == [1] * 40
        books = storages[0].books()

    assert books == []
