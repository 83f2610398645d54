"""``ai-retry recover`` checks what it was given before it asks, reads or writes anything."""

import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from ai_retry.cli.commands import cli
from ai_retry.domain.model import Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.recovery import Filter
from ai_retry.recovery.found import criteria
from ai_retry.recovery.plan_file import Frozen, Terms, keep


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where the settings say that the database is; no test of this module may end in a connection to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/db")
        monkeypatch.setenv("AI_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AI_MODEL", "scripted")
        monkeypatch.setenv("AI_RETRY_SPOOL_DIR", str(tmp_path / "spool"))
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert not (tmp_path / "spool").exists()


def recover(*arguments: str | Path) -> Result:
    """Run the command in this process; a question would find no answer, and exit with 1."""
    return CliRunner().invoke(cli, ["recover", *map(str, arguments)])


def a_plan(path: Path, *, terms: Terms | None = None) -> Path:
    """Keep a plan that retries one generation."""
    selected = ((uuid4(), uuid4()),)
    wanted: Filter = criteria(since="24h", until="1h")
    estimates = {"calls": 1, "tokens": None, "cost": None}
    frozen = Frozen(wanted, terms or Terms(policy=RetryPolicy()), selected)
    keep(path, frozen, counts=[["now", None, 1]], estimates=estimates)
    return path


@pytest.mark.parametrize("more", [[], ["--yes"], ["--dry-run"], ["--json"]], ids=" ".join)
def test_mistyped_plan_refused(tmp_path: Path, more: list[str]) -> None:
    """Without that file and without a filter there is nothing to go on with: exit code 2, and a line that runs."""
    path = tmp_path / "typo's.json"

    result = recover("--plan", path, *more)

    assert result.exit_code == 2
    assert f"there is no file {path}" in result.output
    assert f"  ai-retry recover --since 24h --plan {shlex.quote(str(path))}\n" in result.output
    assert not path.exists()


@pytest.mark.parametrize("more", [[], ["--yes"], ["--dry-run"]], ids=" ".join)
@pytest.mark.parametrize("search", [[], ["--until", "1h"], ["--status", "processing"]], ids=" ".join)
def test_search_over_all_time_refused(search: list[str], more: list[str]) -> None:
    """Whatever failed at any time is retried only where --all says so: an end or a status leaves it open."""
    result = recover(*search, *more)

    assert result.exit_code == 2
    assert "  ai-retry recover --since 24h\n--all in place of --since 24h" in result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--since", ""], "--since must be how long ago"),
        (["--since", "the other day"], "--since must be how long ago"),
        (["--since", "999999d"], "--since must not be before the year 1"),
        (["--since", "0001-01-01T00:00+14:00"], "--since must be in the years 1 to 9999, in UTC"),
        (["--since", "24h", "--until", "soon"], "--until must be how long ago"),
        (["--user", ""], "--user must be a UUID"),
        (["--code", ""], "--code must be a string"),
        (["--model", ""], "--model must be a string"),
        (["--all", "--rate", "fast"], "--rate must be"),
        (["--all", "--rate", "0/minute"], "--rate must be"),
        (["--all", "--max-workers", "99"], "--max-workers must be from 1 to 32"),
        (["--all", "--max-cost", "0"], "--max-cost must be positive"),
        (["--all", "--max-cost", "nan"], "--max-cost must be positive"),
        (["--all", "--operator", " "], "--operator must not be blank"),
        (["--all", "--operator", "a\nb"], "--operator must have 1 to 255 printable characters"),
        (["--all", "--waive", "quota"], "--operator must be given with --waive"),
        (["--all", "--no-charge"], "--operator must be given with --no-charge"),
        (["--all", "--max-attempts", "9"], "--operator must be given with --max-attempts"),
        (["--all", "--no-charge", "--operator", ""], "--operator must be given with --no-charge"),
        (["--all", "--plan", "absent/plan.json"], "absent is no directory that you can write"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("more", [["--yes"], ["--dry-run"]], ids=" ".join)
def test_wrong_arguments_refused_first(arguments: list[str], problem: str, more: list[str]) -> None:
    """Each is one line that names the option, and exit code 2, before the database is asked."""
    result = recover(*arguments, *more)

    assert result.exit_code == 2, result.output
    assert problem in result.output


@pytest.mark.parametrize(
    ("code", "close"),
    [
        ("AI_UNAVAILBLE", "AI_UNAVAILABLE"),
        ("UNAVAILABLE", "AI_UNAVAILABLE"),
        ("ai_timeout", "AI_TIMEOUT"),
        ("RETRY_EXPIERD", "RETRY_EXPIRED"),
        ("AI_TIMEOUT", None),
        ("CONTEXT_MISSING", None),
        ("openai.APIError", None),
    ],
)
def test_misspelt_code_is_noted(code: str, close: str | None) -> None:
    """A code that looks like one of ours is noted with it; an app's own code is searched in silence."""
    result = recover("--code", code, "--rate", "fast")  # which ends it before the search

    assert (f"Note: ai-retry has no code {code}; did you mean {close}?" in result.output) is (close is not None)
    assert ("Note:" in result.output) is (close is not None)


def test_file_named_like_an_option_keeps_its_name(tmp_path: Path) -> None:
    """Only arguments are written as options, not the words of a message that begins with something else."""
    path = tmp_path / "rate"
    path.write_text("{}")

    assert f"Error: {path} is not a plan" in recover("--plan", path).output


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_place_that_can_t_be_written_refused(tmp_path: Path) -> None:
    """A plan that could not be kept is not made."""
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)

    assert "is no directory that you can write" in recover("--all", "--plan", place / "plan.json").output


@pytest.mark.parametrize(
    "arguments",
    [["--all"], ["--since", "24h"], ["--since", ""], ["--max-cost", "0"], ["--per-user", "1"], ["--no-charge"]],
    ids=" ".join,
)
def test_kept_plan_takes_no_other_terms(tmp_path: Path, arguments: list[str]) -> None:
    """What a kept plan selects, and its terms, are settled: an option that would be passed over is refused."""
    result = recover("--plan", a_plan(tmp_path / "plan.json"), "--yes", *arguments)

    assert result.exit_code == 2
    assert "holds a plan" in result.output


@pytest.mark.parametrize(
    ("terms", "names"),
    [
        (Terms(policy=RetryPolicy(), waive=frozenset({Waiver.QUOTA})), "--waive"),
        (Terms(policy=RetryPolicy(), charge=False), "--no-charge"),
        (Terms(policy=RetryPolicy(max_attempts=9)), "--max-attempts"),
    ],
    ids=["waive", "charge", "attempts"],
)
def test_kept_plan_lifts_limits_by_name(tmp_path: Path, terms: Terms, names: str) -> None:
    """A plan that lifts a limit wants the name of whoever runs it, be it read from a file."""
    result = recover("--plan", a_plan(tmp_path / "plan.json", terms=terms), "--yes")

    assert result.exit_code == 2
    assert f"--operator must be given with {names}:" in result.output


def test_kept_plan_is_checked_like_a_new_one(tmp_path: Path) -> None:
    """Going on with a file, a wrong rate is refused before the question."""
    result = recover("--plan", a_plan(tmp_path / "plan.json"), "--rate", "fast")

    assert result.exit_code == 2
    assert "--rate must be" in result.output
    assert "Retry 1 generations?" not in result.output


def test_name_that_no_file_can_have_is_one_line(tmp_path: Path) -> None:
    """What the operating system says of the file is one line, and no traceback."""
    result = recover("--plan", tmp_path / ("x" * 300), "--all")

    assert result.exit_code == 1
    assert "can't be used: File name too long" in result.output
