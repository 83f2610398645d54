"""`ai-retry init --upgrade`: a binding of an older version gets what it lacks, and keeps what it has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.book import APPS
from tests.apps.install import diagnosis, init, installed
from tests.apps.project import Project, project_of
from tools.catalogue import schema_of
from tools.push import apply_migrations
from tools.stack import Stack

LATE = "drop function ai_retry.app_create_generation; drop function ai_retry.app_may_create_session;"


@pytest.fixture(params=["empty", "credits"])
def project(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    """A project with ai-retry in it: with the seed's tables, and with an app's own."""
    with project_of(stack, APPS[request.param], tmp_path) as project:
        installed(project, APPS[request.param])
        yield project


def test_doctor_names_what_is_lacking(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command that writes it."""
    project.run(LATE)

    (lacking,) = (each for each in diagnosis(project, monkeypatch) if "older version" in each["problem"])

    assert "ai_retry.app_create_generation, ai_retry.app_may_create_session" in lacking["problem"]
    assert "`ai-retry init --upgrade`" in lacking["remedy"]


def test_only_what_is_lacking_is_written(project: Project) -> None:
    """The migration has these functions alone; applied, the database is as it was, and a repeat writes nothing."""
    project.run("comment on function ai_retry.app_read(uuid) is 'Edited by the app.'")
    before = schema_of(project.url)
    project.run(LATE)

    said = init(project, "--yes", "--upgrade")
    assert said.exit_code == 0, said.output
    text = sorted((project.folder / "migrations").glob("*_ai_retry_app_upgrade.sql"))[-1].read_text(encoding="utf-8")
    apply_migrations(project.url, project.folder / "migrations")

    assert text.count("\ncreate ") == 2
    assert schema_of(project.url) == before
    again = init(project, "--yes", "--upgrade")
    assert (again.exit_code, "Nothing to write" in again.output) == (0, True)


def test_helpers_that_are_lacking_come_along(stack: Stack, tmp_path: Path) -> None:
    """A binding by hand has no translation of words of ours: what is written brings the one that it calls."""
    with project_of(stack, APPS["credits"], tmp_path) as project:
        installed(project, APPS["credits"])
        project.run("drop function ai_retry.app_lock; drop function ai_retry.app_status")

        said = init(project, "--yes", "--upgrade", "--dry-run")

        assert said.exit_code == 0, said.output
        assert "create or replace function ai_retry.app_status(" in said.output


def test_no_binding_is_said(stack: Stack, tmp_path: Path) -> None:
    """Where there is none, a whole one is needed; nothing is written."""
    with project_of(stack, APPS["credits"], tmp_path) as project:
        said = init(project, "--yes", "--upgrade")

        assert (said.exit_code, "run ai-retry init without --upgrade" in said.output) == (1, True)
        assert list((project.folder / "migrations").glob("*ai_retry*")) == []


def test_ours_is_written_where_it_differs(project: Project) -> None:
    """A migration of ours of an older version is followed by the new one; the binding that lacks nothing stays."""
    (ours,) = (project.folder / "migrations").glob("*_ai_retry.sql")
    ours.write_text("-- an older version", encoding="utf-8")

    said = init(project, "--yes", "--upgrade")

    assert said.exit_code == 0, said.output
    assert [path.name.partition("_")[2] for path in sorted((project.folder / "migrations").glob("*_ai_retry*"))] == [
        *("ai_retry.sql", "ai_retry_app.sql", "ai_retry.sql")
    ]
