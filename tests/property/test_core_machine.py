"""Any history of claims, settles, crashes and repeats keeps the books of the storage of changes balanced, too."""

import os
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from ai_retry.domain.model import Admission, Claim
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.postgres import PostgresStorage
from tests.property.test_storage_machine import SETTINGS, StorageMachine, machine_on
from tests.support.core_sql import CoreSqlWorld
from tests.support.core_world import CoreWorld
from tests.support.world import owner_of

HISTORIES = int(os.environ.get("FUZZ", "20"))


class CoreMachine(StorageMachine):
    """The same machine, but for two promises that the storage of changes overturns."""

    @rule(generation_id=StorageMachine.generations)
    def discard(self, generation_id: UUID) -> None:
        """An operator drops the stored answer, unless an open attempt has or uses it."""
        is_open = any(row["outcome"] is None for row in self.world.attempts(generation_id))
        if not is_open:
            super().discard(generation_id)

    def _claim_again(self, admission: Admission, token: UUID, first: Claim | None) -> None:
        """A repeat finds its attempt as long as there is the generation."""
        if admission.generation_id in self.present:
            super()._claim_again(admission, token, first)


@pytest.mark.timeout(600)
def test_books_of_changes_balance_in_memory() -> None:
    """The storage of changes in memory keeps every invariant of today's port."""
    run_state_machine_as_test(machine_on(CoreWorld, CoreMachine), settings=SETTINGS)


@pytest.mark.timeout(3600)
def test_books_of_changes_balance_in_postgres(core_database: str) -> None:
    """The storage of changes over SQL keeps them, too."""
    storage = PostgresStorage(core_database)
    with owner_of(core_database) as connection:
        run_state_machine_as_test(
            machine_on(lambda: CoreSqlWorld(FunctionStorage(storage._call_function), connection), CoreMachine),
            settings=settings(SETTINGS, max_examples=HISTORIES),
        )
    storage.close()
