"""The worlds that keep the contract: each test runs in all of them, those of SQL on a real PostgreSQL with pgmq."""

from collections.abc import Iterator

import pytest

from ai_retry.domain.ports import QueueStorage
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from tests.support.memory_world import MemoryWorld
from tests.support.stack import Stack
from tests.support.world import SqlWorld, empty_queue, owner_of
from tests.support.worlds import World

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
    """A storage of its own for every test; its clock stands still."""
    return MemoryWorld()


@pytest.fixture
def postgres_world(postgres_storage: PostgresStorage, contract_database: str) -> Iterator[SqlWorld]:
    """New users over a direct connection."""
    yield from _over_sql(postgres_storage, contract_database)


@pytest.fixture
def supabase_world(supabase_storage: SupabaseStorage, stack: Stack) -> Iterator[SqlWorld]:
    """New users over the Data API."""
    yield from _over_sql(supabase_storage, stack.database_url)


@pytest.fixture(scope="session")
def contract_database(stack: Stack) -> Iterator[str]:
    """One database for all tests of the contract, which use users of their own."""
    url = stack.create_database("contract", migrated=True)
    yield url
    stack.drop_database("contract")


@pytest.fixture(scope="module")
def postgres_storage(contract_database: str) -> Iterator[PostgresStorage]:
    """One pool for a module."""
    storage = PostgresStorage(contract_database)
    yield storage
    storage.close()


@pytest.fixture(scope="module")
def supabase_storage(stack: Stack) -> Iterator[SupabaseStorage]:
    """One client for a module."""
    storage = SupabaseStorage(stack.url, stack.secret_key)
    yield storage
    storage.close()


def _over_sql(storage: QueueStorage, database_url: str) -> Iterator[SqlWorld]:
    with owner_of(database_url) as connection:
        empty_queue(connection)
        yield SqlWorld(storage, connection)
