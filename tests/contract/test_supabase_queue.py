"""Retries that are accepted for later, over the Data API, keep their contract."""

from collections.abc import Iterator

import pytest

from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.queue_contract import QueueStorageContract, QueueWorld
from tests.support.queue_world import SqlQueueWorld
from tests.support.stack import Stack
from tests.support.world import owner_of


@pytest.fixture(scope="module")
def storage(stack: Stack) -> Iterator[SupabaseStorage]:
    """One for the module."""
    storage = SupabaseStorage(stack.url, stack.secret_key)
    yield storage
    storage.close()


class TestSupabaseQueue(QueueStorageContract):
    """All promises, on a real pgmq."""

    @pytest.fixture
    def world(self, stack: Stack, storage: SupabaseStorage) -> Iterator[QueueWorld]:
        """New users in the stack's database, and an empty queue."""
        with owner_of(stack.database_url) as connection:
            yield SqlQueueWorld(storage, connection)
