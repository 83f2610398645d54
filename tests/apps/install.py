"""Installs ai-retry in an app's project as its developer does, and asks the doctor: both commands as black boxes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from ai_retry.cli.commands import cli
from tests.apps.book import App
from tests.apps.project import Project
from tools.push import apply_migrations

_HERE_IS_NO_PROVIDER: Final = "http://127.0.0.1:9/v1"
_NOT_ASKED: Final = {"provider", "configuration"}


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and its exit code."""

    output: str
    exit_code: int


def init(project: Project, *flags: str) -> Said:
    """Run ``ai-retry init`` in the project's folder."""
    arguments = ["init", "--database-url", project.url, "--dir", str(project.folder), *flags]
    arguments += ["--config", str(project.folder.parent / "ai-retry.toml")]
    result = CliRunner().invoke(cli, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.output, result.exit_code)


def installed(project: Project, app: App) -> None:
    """Run it with the app's flags, and apply what it wrote, as the owner, who is no superuser."""
    said = init(project, *app.flags)
    assert said.exit_code == 0, said.output
    missing = [word for word in app.lines("init says") if word not in said.output]
    assert missing == [], said.output
    written = sorted(path.name for path in (project.folder / "migrations").glob("*_ai_retry*.sql"))
    assert len(written) == 2, written
    applied = apply_migrations(project.url, project.folder / "migrations")
    assert [f"{each}.sql" for each in applied] == written


def installed_by_hand(project: Project, binding: Path, migration: Path) -> None:
    """Apply our migration and a binding that was written by hand."""
    for path, name in ((migration, "20260101000000_ai_retry.sql"), (binding, "20260101000001_ai_retry_app.sql")):
        (project.folder / "migrations" / name).write_bytes(path.read_bytes())
    apply_migrations(project.url, project.folder / "migrations")


def diagnosis(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the doctor finds in the database, and what it could not look at; the provider is not asked about."""
    environment = {
        "DATABASE_URL": project.service_url,
        "AI_BASE_URL": _HERE_IS_NO_PROVIDER,
        "AI_MODEL": "small",
        "AI_RETRY_CONTEXT_FROM": "tests.apps.reader:read",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.folder.parent)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    document = json.loads(result.stdout)
    unseen = [
        {"check": check, "level": "not run", "problem": each["reason"], "remedy": each["remedy"]}
        for check, each in document["not_run"].items()
        if each["is_due"]
    ]
    return [each for each in [*document["findings"], *unseen] if each["check"] not in _NOT_ASKED]
