from collections.abc import Iterator
import psycopg, pytest
from hypothesis import settings, Phase
from hypothesis.stateful import run_state_machine_as_test
from ai_retry.storage.postgres import PostgresStorage
from tests.property.test_storage_machine import SETTINGS, machine_on
from tests.support.world import REFUSALS, SqlWorld

@pytest.mark.timeout(550)
def test_pg(stack):
    storage = PostgresStorage(stack.database_url)
    with psycopg.connect(stack.database_url, autocommit=True) as c:
        c.execute(REFUSALS)
        run_state_machine_as_test(machine_on(lambda: SqlWorld(storage, c)), settings=settings(SETTINGS, max_examples=40, database=None))
    storage.close()
