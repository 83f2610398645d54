"""The same machine on PostgreSQL: what holds in memory holds where it matters."""

import os
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis.stateful import run_state_machine_as_test

from ai_retry.storage.postgres import PostgresStorage
from tests.property.test_storage_machine import SETTINGS, machine_on
from tests.support.books import violations
from tests.support.world import REFUSALS, SqlWorld

HISTORIES = int(os.environ.get("FUZZ", "15"))


@pytest.fixture
def connection(migrated_database: str) -> Iterator[psycopg.Connection]:
    """The owner of a database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(REFUSALS)
        yield connection


@pytest.mark.timeout(3600)
def test_books_balance_on_postgres(migrated_database: str, connection: psycopg.Connection) -> None:
    """PostgreSQL keeps every invariant through any history, and the documented books agree afterwards."""
    storage = PostgresStorage(migrated_database, max_connections=2)

    run_state_machine_as_test(
        machine_on(lambda: SqlWorld(storage, connection)), settings=type(SETTINGS)(SETTINGS, max_examples=HISTORIES)
    )
    storage.close()

    assert {name for name, _ in violations(connection)} <= {"a success whose generation says otherwise"}
