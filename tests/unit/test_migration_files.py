"""The migrations are written from `supabase/schemas`, and hold all of it."""

import json

import pytest

from tools.manifest import MANIFEST, digest
from tools.migration import APP, MIGRATIONS, OURS, SCHEMAS, Migration


@pytest.mark.parametrize("migration", [OURS, APP], ids=["ours", "the app's"])
def test_committed_file_is_what_would_be_written(migration: Migration) -> None:
    """`make migration` would change nothing."""
    assert (MIGRATIONS / migration.name).read_text() == migration.text()


def test_manifest_is_of_these_migrations() -> None:
    """The manifest was written with the migrations, by `make migration`, and not by hand before or after."""
    known = json.loads(MANIFEST.read_text())["migrations"]

    assert known == {each.name: digest(each.text()) for each in (OURS, APP)}


def test_no_other_migration_is_shipped() -> None:
    """What is beside the two is not written from the schemas."""
    assert sorted(path.name for path in MIGRATIONS.iterdir()) == [OURS.name, APP.name]


def test_every_schema_is_in_a_migration() -> None:
    """No file of the schemas is forgotten."""
    assert {*OURS.files(), *APP.files()} == set(SCHEMAS.rglob("*.sql"))


def test_ours_names_no_table_of_the_app() -> None:
    """Only the app's migration names tables of the app: it can be replaced by one for other tables."""
    for table in ("generations", "sessions", "generation_error_logs", "events"):
        assert f"public.{table}" not in OURS.text()
