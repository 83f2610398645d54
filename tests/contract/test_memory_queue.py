"""The storage with a queue in memory keeps both contracts: it is the reference of its semantics."""

import pytest

from ai_retry.domain.errors import NotConfigured
from ai_retry.testing.contract import StorageContract, new_generation
from ai_retry.testing.queue_contract import (
    MemoryQueueWorld,
    QueueStorageContract,
    QueueWorld,
    admission_to_enqueue,
    receive,
    try_enqueue,
)


class TestInMemoryQueueStorage(StorageContract, QueueStorageContract):
    """All promises."""

    @pytest.fixture
    def world(self) -> QueueWorld:
        """A storage of its own for every test."""
        return MemoryQueueWorld()

    def test_without_a_queue_nothing_is_accepted(self) -> None:
        """Where there is no queue enqueueing and reading tell so, and nothing is written."""
        world = MemoryQueueWorld()
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id)
        world.tables.has_queue = False

        with pytest.raises(NotConfigured):
            try_enqueue(world, admission)
        with pytest.raises(NotConfigured):
            receive(world)
        assert world.attempts(generation_id) == []
