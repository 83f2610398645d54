"""The same machine on PostgreSQL: what holds in memory holds where it matters."""

import os

import psycopg
import pytest
from hypothesis.stateful import run_state_machine_as_test

from ai_retry.storage.postgres import PostgresStorage
from tests.property.test_storage_machine import SETTINGS, machine_on
from tests.support.books import violations
from tests.support.world import SqlWorld

HISTORIES = int(os.environ.get("FUZZ", "15"))


@pytest.mark.timeout(3600)
def test_books_balance_on_postgres(migrated_database: str, connection: psycopg.Connection) -> None:
    """PostgreSQL keeps every invariant through any history, and the documented books agree afterwards."""
    storage = PostgresStorage(migrated_database, max_connections=2)

    run_state_machine_as_test(
        machine_on(lambda: SqlWorld(storage, connection)), settings=type(SETTINGS)(SETTINGS, max_examples=HISTORIES)
    )
    storage.close()

    assert {name for name, _ in violations(connection)} <= {"a success whose generation says otherwise"}
