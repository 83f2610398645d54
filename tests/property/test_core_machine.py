"""Any history of claims, settles, crashes and repeats keeps the books of the storage of changes balanced, too."""

import os

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from ai_retry.storage._changes import ChangeFunctions
from ai_retry.storage.postgres import PostgresStorage
from tests.property.test_storage_machine import SETTINGS, machine_on
from tests.support.core_sql import CoreSqlWorld
from tests.support.core_world import CoreWorld
from tests.support.world import owner_of

HISTORIES = int(os.environ.get("FUZZ", "20"))


@pytest.mark.timeout(600)
def test_books_of_changes_balance_in_memory() -> None:
    """The storage of changes in memory keeps every invariant of today's port."""
    run_state_machine_as_test(machine_on(CoreWorld), settings=SETTINGS)


@pytest.mark.timeout(3600)
def test_books_of_changes_balance_in_postgres(core_database: str) -> None:
    """The storage of changes over SQL keeps them, too."""
    storage = PostgresStorage(core_database)
    with owner_of(core_database) as connection:
        run_state_machine_as_test(
            machine_on(lambda: CoreSqlWorld(ChangeFunctions(storage._call_function), connection)),
            settings=settings(SETTINGS, max_examples=HISTORIES),
        )
    storage.close()
