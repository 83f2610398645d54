"""An app that declares its schema: after ``init`` the declaration is what the migrations make, and its notes stay."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.apps.book import APPS
from tests.apps.install import init, installed
from tests.apps.project import Project, declared, project_of
from tools import differ
from tools.catalogue import schema_of
from tools.stack import Stack

APP = APPS["declared"]
EMPTY = APPS["empty"]


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Iterator[Project]:
    """The app's project, in which ai-retry is installed."""
    with project_of(stack, APP, tmp_path / "app") as project:
        installed(project, APP)
        yield project


@pytest.fixture
def shadow(stack: Stack, tmp_path: Path, project: Project) -> Iterator[Project]:
    """An empty project in which what config.toml declares was created, in its order."""
    with project_of(stack, EMPTY, tmp_path / "shadow") as shadow:
        for path in declared(project.folder):
            shadow.run(path.read_text(encoding="utf-8"))
        yield shadow


def test_next_diff_is_empty(project: Project, shadow: Project) -> None:
    """A differ finds no statement that would be the next migration, and finds the one table that is added then."""
    assert differ.statements(project.superuser_url, shadow.superuser_url) == []

    shadow.run("create table public.added (id uuid primary key)")
    assert "added" in "".join(differ.statements(project.superuser_url, shadow.superuser_url))


def test_migrated_catalogue_is_the_declared_one(project: Project, shadow: Project) -> None:
    """What the differ does not compare is the same as well: comments, options and the sources of functions."""
    assert schema_of(shadow.superuser_url) == schema_of(project.superuser_url)


def test_both_migrations_are_declared_last(project: Project) -> None:
    """Ours and the binding follow the app's own files, each once."""
    names = [path.name for path in declared(project.folder)]

    assert names[:2] == ["quizzes.sql", "quiz_jobs.sql"]
    assert [("ai_retry_app" in name, "ai_retry" in name) for name in names[2:]] == [(False, True), (True, True)]


def test_notes_of_the_developer_stay(project: Project) -> None:
    """Every line of config.toml is there as it was, in its order."""
    assert APP.project is not None
    before = (APP.project / "supabase" / "config.toml").read_text(encoding="utf-8").splitlines()
    after = iter((project.folder / "config.toml").read_text(encoding="utf-8").splitlines())

    assert [line for line in before if line not in after] == []


def test_repeat_writes_nothing(project: Project) -> None:
    """Another ``init`` with the same answers leaves the folder and config.toml as they are, and says so."""
    before = [(path, path.read_bytes()) for path in sorted(project.folder.rglob("*")) if path.is_file()]
    said = init(project, *APP.flags)

    assert [(path, path.read_bytes()) for path in sorted(project.folder.rglob("*")) if path.is_file()] == before
    assert (said.exit_code, "Nothing to write" in said.output) == (0, True)


def test_empty_project_is_asked_nothing(stack: Stack, tmp_path: Path) -> None:
    """``init --yes`` in a project without tables makes the seed's four, and a dry run writes nothing."""
    with project_of(stack, EMPTY, tmp_path) as project:
        said = init(project, "--yes", "--dry-run")
        assert said.exit_code == 0
        assert list((project.folder / "migrations").iterdir()) == []
        installed(project, EMPTY)
        with psycopg.connect(project.url) as connection:
            assert connection.execute("select count(*) from public.generations").fetchone() == (0,)
