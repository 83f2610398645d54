"""The notebook of the examples runs as it is, from the first cell to the last, and is kept with its pictures."""

import sys
from pathlib import Path
from typing import Any

import nbformat
import psycopg
import pytest

from ai_retry.domain.errors import NotConfigured
from ai_retry.recovery.parts import notebook_library
from ai_retry.testing.provider import ScriptedServer
from tools import night
from tools.notebooks import NOTEBOOK, ProviderAfterOutage, absolute_paths, execute, settings


def pictures(notebook: Any) -> int:
    """Count the pictures among the outputs."""
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))


def test_notebook_recovers_the_outage(migrated_database: str, tmp_path: Path) -> None:
    """Every cell runs on the local stack; what the outage broke has its sessions, and no call was made twice."""
    answers = ProviderAfterOutage()
    with ScriptedServer(default=answers) as provider:
        night.happen(migrated_database)
        before = sessions(migrated_database)
        executed = execute(settings(migrated_database, provider), tmp_path)

    assert pictures(executed) == 2
    assert set(answers.calls.values()) == {1}
    with psycopg.connect(migrated_database) as connection:
        counts = connection.execute("select counts ->> 'failed', operator from public.ai_retry_recoveries").fetchall()
    assert counts == [("2", "ada@example.com")] * 2
    assert sessions(migrated_database) == before + 181


def test_notebook_runs_on_an_empty_project(migrated_database: str, tmp_path: Path) -> None:
    """Where nothing has failed, every cell runs as well, and says so."""
    with ScriptedServer() as provider:
        executed = execute(settings(migrated_database, provider), tmp_path)

    assert pictures(executed) == 2
    assert "No failed generations" in nbformat.writes(executed)


def sessions(database_url: str) -> int:
    """Count all sessions."""
    with psycopg.connect(database_url) as connection:
        (row,) = connection.execute("select count(*) from public.sessions").fetchall()
    return int(row[0])


def test_notebook_is_kept_with_its_outputs() -> None:
    """The file has the outputs of a complete run in order, its pictures, and no path of the machine that made it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert pictures(notebook) == 2
    assert absolute_paths(notebook) == []
    assert "own words" not in nbformat.writes(notebook)


def test_notebook_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, what needs it says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(NotConfigured, match=r"pandas is not installed: pip install 'ai-retry\[notebook\]'"):
        notebook_library("pandas")
