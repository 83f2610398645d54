"""The storage in memory keeps the contract: it is the reference of its semantics."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.testing.contract import (
    MemoryWorld,
    StorageContract,
    World,
    admission_to,
    try_claim,
)


class TestInMemoryStorage(StorageContract):
    """All promises, and those that need a clock that stands still."""

    @pytest.fixture
    def world(self) -> World:
        """A storage of its own for every test."""
        return MemoryWorld()

    @pytest.mark.parametrize(("age", "claimed"), [(timedelta(0), True), (timedelta(microseconds=1), False)])
    def test_claim_takes_ten_seconds_exactly(self, age: timedelta, *, claimed: bool) -> None:
        """An admission of ten seconds ago is in time, a microsecond more is too late."""
        world = MemoryWorld()
        user_id = world.new_user()
        admission = admission_to(world, user_id, world.new_generation(user_id))
        world.advance(timedelta(seconds=10) + age)

        claim = try_claim(world, replace(admission))

        assert (claim is not None) is claimed
