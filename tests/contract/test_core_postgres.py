"""The storage of changes over SQL keeps today's contract of retries, but for what the new design overturns."""

from collections.abc import Iterator

import pytest

from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.contract import StorageContract
from ai_retry.testing.queue_contract import QueueStorageContract, QueueWorld
from tests.contract.test_core_memory import OVERTURNED
from tests.support.core_sql import CoreQueueSqlWorld
from tests.support.world import owner_of


@pytest.fixture(scope="module")
def functions(core_database: str) -> Iterator[FunctionStorage]:
    """One pool for the module."""
    storage = PostgresStorage(core_database)
    yield FunctionStorage(storage._call_function)
    storage.close()


class TestCorePostgres(StorageContract, QueueStorageContract):
    """All promises, on a real PostgreSQL with pgmq."""

    @pytest.fixture
    def world(
        self, request: pytest.FixtureRequest, core_database: str, functions: FunctionStorage
    ) -> Iterator[QueueWorld]:
        """New users in the database."""
        reason = OVERTURNED.get(request.node.name)
        if reason is not None:
            pytest.skip(reason)
        with owner_of(core_database) as connection:
            yield CoreQueueSqlWorld(functions, connection)
