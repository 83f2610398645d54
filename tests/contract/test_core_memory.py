"""The storage of changes keeps today's contracts, through today's port, but for what the new design overturns."""

import pytest

from ai_retry.testing.contract import StorageContract
from ai_retry.testing.queue_contract import QueueStorageContract, QueueWorld
from tests.support.core_world import CoreWorld

OVERTURNED = {
    "test_unknown_token_settles_nothing": "a fail-over may have lost its begin: the answer is stored",
    "test_given_back_token_settles_nothing[succeed]": "the same",
    "test_lost_message_comes_back_after_a_minute": "a lost message comes back at once, when its attempt is due",
    "test_garbage_is_deleted": "messages in memory have types; what is not ours is a matter of pgmq",
}


class TestCoreMemory(StorageContract, QueueStorageContract):
    """All promises."""

    @pytest.fixture
    def world(self, request: pytest.FixtureRequest) -> QueueWorld:
        """A storage of its own for every test."""
        name = request.node.name
        reason = OVERTURNED.get(name) or OVERTURNED.get(name.partition("[")[0])
        if reason is not None:
            pytest.skip(reason)
        return CoreWorld()
