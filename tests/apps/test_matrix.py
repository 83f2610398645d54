"""The matrix of ``make test-apps``: a place that can't run is named with what to do, and is never ok."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.apps import __main__ as matrix
from tests.apps import pgmq_files
from tests.apps.pgmq_files import NotFetched, Release, installed


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Debian's PostgreSQL, on which no older pgmq is or can be fetched."""
    monkeypatch.setattr(matrix, "DEBIANS", tmp_path / "none")
    monkeypatch.setattr(pgmq_files.installed, "__defaults__", (tmp_path,))
    monkeypatch.setenv(pgmq_files.SOURCE, str(tmp_path / "nowhere"))


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one version of pgmq."""
    repository = tmp_path / "upstream"
    sql = repository / "pgmq-extension" / "sql" / "pgmq.sql"
    sql.parent.mkdir(parents=True)
    sql.write_text("create function pgmq.x();", encoding="utf-8")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for arguments in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "x"], ["tag", "v1.4.5"]):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True)
    monkeypatch.setenv(pgmq_files.SOURCE, str(repository))
    return sql


@pytest.mark.usefixtures("nothing_installed")
def test_what_can_not_run_has_a_reason() -> None:
    """PostgreSQL 15 and both older versions of pgmq are places of the matrix on every machine."""
    places = {run.name: run.reason for run in matrix.matrix() if not run.arguments}

    assert set(places) == {"PostgreSQL 15", "pgmq 1.4.5", "pgmq 1.5.1"}
    assert all(places.values())


def test_older_pgmq_is_fetched_once(tmp_path: Path, upstream: Path) -> None:
    """The file is that of the version's tag, and is not fetched again."""
    release = Release("1.4.5", hashlib.sha256(upstream.read_bytes()).hexdigest())
    path = installed(release, tmp_path / "cache")
    assert path.read_bytes() == upstream.read_bytes()

    (upstream.parents[2] / ".git").rename(tmp_path / "gone")
    assert installed(release, tmp_path / "cache") == path


@pytest.mark.usefixtures("upstream")
def test_another_content_is_refused(tmp_path: Path) -> None:
    """What was fetched has to be what was meant."""
    with pytest.raises(NotFetched, match=r"SHA-256"):
        installed(Release("1.4.5", "0" * 64), tmp_path / "cache")


@pytest.mark.usefixtures("nothing_installed")
def test_not_run_comes_last_and_is_not_ok(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Where everything that runs passes, the last lines and the exit code still say what did not run."""
    monkeypatch.setattr(matrix, "_STORIES", ("--version",))
    monkeypatch.setattr(matrix, "EVERYTHING", ("--version",))

    assert matrix.main([]) == 3
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()[-3:]] == ["NOT"] * 3
