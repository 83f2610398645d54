"""The worlds that keep the contract: each test runs in all of them, those of SQL on a real PostgreSQL with pgmq."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import psycopg
import pytest

from ai_retry.domain.ports import QueueStorage
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.world import SqlWorld, empty_queue, owner_of
from tests.helpers.worlds import World
from tools.stack import Stack

SqlWorlds: TypeAlias = Callable[[], SqlWorld]

OVER_SQL = [pytest.param("postgres", marks=pytest.mark.stack), pytest.param("supabase", marks=pytest.mark.stack)]


@pytest.fixture(params=["memory", *OVER_SQL])
def world(request: pytest.FixtureRequest) -> World:
    """A world of each kind, with an empty queue."""
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found


@pytest.fixture(params=OVER_SQL)
def sql_world(request: pytest.FixtureRequest) -> SqlWorld:
    """A world of each kind that has a database."""
    found: SqlWorld = request.getfixturevalue(f"{request.param}_world")
    return found


@pytest.fixture
def memory_world() -> MemoryWorld:
    """A storage of its own for every test; its clock is still."""
    return MemoryWorld()


@pytest.fixture
def postgres_world(over_postgres: SqlWorlds) -> SqlWorld:
    """New users over a direct connection."""
    return over_postgres()


@pytest.fixture
def supabase_world(over_supabase: SqlWorlds) -> SqlWorld:
    """New users over the Data API."""
    return over_supabase()


@pytest.fixture(scope="session")
def contract_database(stack: Stack) -> Iterator[str]:
    """One database for all tests of the contract, which use users of their own."""
    url = stack.create_database("contract", migrated=True)
    yield url
    stack.drop_database("contract")


@pytest.fixture(scope="module")
def over_postgres(contract_database: str) -> Iterator[SqlWorlds]:
    """Worlds over one pool for a subject."""
    storage = PostgresStorage(contract_database)
    with owner_of(contract_database) as connection:
        yield partial(_new_world, storage, connection)
    storage.close()


@pytest.fixture(scope="module")
def over_supabase(stack: Stack) -> Iterator[SqlWorlds]:
    """Worlds over one client for a subject."""
    storage = SupabaseStorage(stack.url, stack.secret_key)
    with owner_of(stack.database_url) as connection:
        yield partial(_new_world, storage, connection)
    storage.close()


def _new_world(storage: QueueStorage, connection: psycopg.Connection) -> SqlWorld:
    empty_queue(connection)
    return SqlWorld(storage, connection)
