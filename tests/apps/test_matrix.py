"""The matrix of ``make test-apps``: a place that can't run is named with what to do, and is never ok."""

from pathlib import Path

import pytest

from tests.apps import __main__ as matrix


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Debian's PostgreSQL and without older files of pgmq."""
    monkeypatch.setattr(matrix, "DEBIANS", tmp_path / "none")
    monkeypatch.setattr(matrix, "PGMQ", tmp_path)


@pytest.mark.usefixtures("nothing_installed")
def test_what_can_not_run_has_a_reason() -> None:
    """PostgreSQL 15 and both older versions of pgmq are places of the matrix on every machine."""
    places = {run.name: run.reason for run in matrix.matrix() if not run.arguments}

    assert set(places) == {"PostgreSQL 15", "pgmq 1.4", "pgmq 1.5"}
    assert all(places.values())


def test_what_is_there_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest file of a version is taken."""
    monkeypatch.setattr(matrix, "PGMQ", tmp_path)
    for name in ("1.4.4", "1.4.5", "1.5.1"):
        (tmp_path / f"{name}.sql").touch()

    assert {"pgmq 1.4 (1.4.5)", "pgmq 1.5 (1.5.1)"} <= {run.name for run in matrix.matrix() if run.arguments}


@pytest.mark.usefixtures("nothing_installed")
def test_not_run_comes_last_and_is_not_ok(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Where everything that runs passes, the last lines and the exit code still say what did not run."""
    monkeypatch.setattr(matrix, "_STORIES", ("--version",))
    monkeypatch.setattr(matrix, "EVERYTHING", ("--version",))

    assert matrix.main([]) == 3
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()[-3:]] == ["NOT"] * 3
