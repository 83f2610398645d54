"""The files of a project: stamps, and a config.toml that keeps what is its own."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ai_retry.cli.init.project import ConfigNotUnderstood, migrations, with_schema_paths, write

NOW = datetime(2026, 11, 28, 12, 0, 59, tzinfo=UTC)
PATHS = ["./migrations/1_ai_retry.sql", "./migrations/2_ai_retry_app.sql"]
PROJECT = """\
# Notes that stay.
project_id = "quizzes" # ours

[db.migrations]
enabled = true
schema_paths = [
  "./schemas/a.sql", # first
  "./schemas/b].sql" # last, without a comma
]

[auth]
enabled = true
"""


def test_files_are_stamped_now_in_their_order(tmp_path: Path) -> None:
    """A minute's end is crossed as time crosses it."""
    names = [each.path.name for each in migrations(tmp_path, "ours", "app", NOW)]

    assert names == ["20261128120059_ai_retry.sql", "20261128120100_ai_retry_app.sql"]


def test_files_come_after_the_newest_one(tmp_path: Path) -> None:
    """Also where the newest one was stamped by a clock that is ahead; ours is not written twice."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "20270101000000_ai_retry.sql").write_text("ours")

    (app,) = migrations(tmp_path, "ours", "app", NOW)

    assert app.path.name == "20270101000002_ai_retry_app.sql"


def test_no_file_is_replaced(tmp_path: Path) -> None:
    """A file of the same name is the user's own."""
    files = migrations(tmp_path, "ours", "app", NOW)
    write(files)

    with pytest.raises(FileExistsError):
        write(files)


@pytest.mark.parametrize(
    "text",
    [
        PROJECT,
        '[db.migrations]\nschema_paths = ["./schemas/a.sql"]\n',
        "[db.migrations]\nschema_paths = []\n",
        "[db.migrations]\nenabled = true\n",
        "[db]\nport = 1\n",
        '[db.migrations]\nschema_paths = [\n  "./a.sql",\n] # all',
        "",
    ],
)
def test_paths_are_added_and_nothing_else_changes(text: str) -> None:
    """Every comment and every other setting stays; a second run adds nothing."""
    changed = with_schema_paths(text, PATHS)

    before, after = tomllib.loads(text), tomllib.loads(changed)
    there = before.get("db", {}).get("migrations", {}).get("schema_paths") or ["./schemas/**/*.sql"]
    assert after["db"]["migrations"].pop("schema_paths") == [*there, *PATHS]
    before.setdefault("db", {}).setdefault("migrations", {}).pop("schema_paths", None)
    assert after == before
    kept = [line for line in text.splitlines() if "#" in line]
    assert all(line.split("#")[1] in changed for line in kept)
    assert with_schema_paths(changed, PATHS) == changed


@pytest.mark.parametrize("text", ["db = [", 'db.migrations.schema_paths = ["./a.sql"]\n'])
def test_what_is_not_understood_is_left_alone(text: str) -> None:
    """It is said, so that it can be done by hand."""
    with pytest.raises(ConfigNotUnderstood):
        with_schema_paths(text, PATHS)
