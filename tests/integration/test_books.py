"""`ai-retry books`: the documented proof, run as a person does."""

import json
from collections.abc import Iterator, Mapping

import psycopg
import pytest
from click.testing import CliRunner, Result

from ai_retry.commands import cli
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.contract import claim_of, new_generation, succeed
from tests.support.stack import Stack
from tests.support.world import SqlWorld, owner_of


@pytest.fixture
def world(migrated_database: str) -> Iterator[SqlWorld]:
    """A database with one success in its books."""
    storage = PostgresStorage(migrated_database, max_connections=2)
    with owner_of(migrated_database) as connection:
        world = SqlWorld(storage, connection)
        succeed(world, claim_of(world, *new_generation(world)))
        yield world
    storage.close()


def books(environ: Mapping[str, str], *arguments: str) -> Result:
    """Run the command with these settings alone, as service_role."""
    alone = dict.fromkeys(("SUPABASE_URL", "SUPABASE_SECRET_KEY", "DATABASE_URL")) | {
        "AI_BASE_URL": "http://127.0.0.1:9/v1",
        **environ,
    }
    return CliRunner(env=alone).invoke(cli, ["books", *arguments])


def test_balanced_books_are_said_so(world: SqlWorld, migrated_database: str) -> None:
    """Books that balance: one line, exit code 0."""
    result = books({"DATABASE_URL": f"{migrated_database}?options=-c%20role%3Dservice_role"})

    assert (result.exit_code, result.output) == (0, "The books balance.\n")


def test_violations_are_listed(world: SqlWorld, migrated_database: str) -> None:
    """Books that don't: each violation with its generation, exit code 1, and the same as JSON."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        row = connection.execute("update public.generations set status = 'error' returning id::text").fetchone()
    assert row is not None

    for_people = books({"DATABASE_URL": migrated_database})
    for_programs = books({"DATABASE_URL": migrated_database}, "--json")

    assert (for_people.exit_code, for_programs.exit_code) == (1, 1)
    assert f"a success whose generation says otherwise  {row[0]}" in for_people.output
    assert json.loads(for_programs.output) == [
        {"violation": "a success whose generation says otherwise", "generation_id": row[0]}
    ]


def test_books_are_read_over_the_data_api(stack: Stack) -> None:
    """Without a direct connection the proof is the same."""
    result = books({name: value for name, value in stack.env().items() if name != "DATABASE_URL"}, "--json")

    assert result.exit_code in (0, 1)  # other tests write to this database as a careless app would
    assert {each["violation"] for each in json.loads(result.output)} <= {"a success whose generation says otherwise"}


def test_books_without_a_database_exit_with_3() -> None:
    """Without settings nothing can be proved: exit code 3, and which variables are missing."""
    result = books({})

    assert result.exit_code == 3
    assert "SUPABASE_URL is missing" in result.output
