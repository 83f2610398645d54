"""Retries that are accepted for later, over a direct connection, keep their contract."""

from collections.abc import Iterator

import pytest

from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.queue_contract import QueueStorageContract, QueueWorld
from tests.support.queue_world import SqlQueueWorld
from tests.support.stack import Stack
from tests.support.world import owner_of


@pytest.fixture(scope="module")
def storage(stack: Stack) -> Iterator[PostgresStorage]:
    """One for the module."""
    storage = PostgresStorage(stack.database_url)
    yield storage
    storage.close()


class TestPostgresQueue(QueueStorageContract):
    """All promises, on a real pgmq."""

    @pytest.fixture
    def world(self, stack: Stack, storage: PostgresStorage) -> Iterator[QueueWorld]:
        """New users in the stack's database, and an empty queue."""
        with owner_of(stack.database_url) as connection:
            yield SqlQueueWorld(storage, connection)
