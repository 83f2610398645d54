"""The storage over the Data API keeps the contract."""

from collections.abc import Iterator

import pytest

from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.testing.contract import StorageContract, World
from tests.support.stack import Stack
from tests.support.world import SqlWorld, owner_of


@pytest.fixture(scope="module")
def storage(stack: Stack) -> Iterator[SupabaseStorage]:
    """One client for the module."""
    storage = SupabaseStorage(stack.url, stack.secret_key)
    yield storage
    storage.close()


class TestSupabaseStorage(StorageContract):
    """All promises, through Auth and Data API."""

    @pytest.fixture
    def world(self, stack: Stack, storage: SupabaseStorage) -> Iterator[World]:
        """New users in the stack's database."""
        with owner_of(stack.database_url) as connection:
            yield SqlWorld(storage, connection)
