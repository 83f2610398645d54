"""The storage over a direct connection keeps the contract."""

from collections.abc import Iterator

import pytest

from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.contract import StorageContract, World
from tests.support.stack import Stack
from tests.support.world import SqlWorld, owner_of


@pytest.fixture(scope="module")
def storage(stack: Stack) -> Iterator[PostgresStorage]:
    """One pool for the module."""
    storage = PostgresStorage(stack.database_url)
    yield storage
    storage.close()


class TestPostgresStorage(StorageContract):
    """All promises, on a real PostgreSQL."""

    @pytest.fixture
    def world(self, stack: Stack, storage: PostgresStorage) -> Iterator[World]:
        """New users in the stack's database."""
        with owner_of(stack.database_url) as connection:
            yield SqlWorld(storage, connection)
