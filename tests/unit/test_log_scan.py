"""What no log may hold is found, whoever logs it at whatever level; and what is looked for is what the tests use."""

import ast
import logging
from pathlib import Path

import pytest

from tools import log_scan
from tools.log_scan import CANARIES, LogScan

LEAKS = {
    "a prompt": "asked: Plan an easy run.",
    "an answer": '{"title": "Easy run"}',
    "a key": "key=sk-test-0123456789abcdef",
    "a password": "postgresql://x?password=db-password",
    "a JWT": "token eyJhbGciOiJub25l.eyJzdWIiOiJtZSJ9.",
    "a secret key of Supabase": "sb_secret_0123456789",
    "credentials of a header": "{'Authorization': 'Bearer 0123456789'}",
    "a password in an address": "postgresql://me:secret@127.0.0.1/db",
}


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> LogScan:
    """A scan of one's own in place of the run's, which goes on afterwards."""
    mine = LogScan()
    monkeypatch.setattr(log_scan, "SCAN", mine)
    return mine


@pytest.mark.parametrize(("kind", "text"), LEAKS.items(), ids=LEAKS.keys())
def test_leak_found_and_not_repeated(scan: LogScan, kind: str, text: str) -> None:
    """A secret is found at a level that no process listens to, and the finding holds no word of it."""
    logging.getLogger("someone.else").debug("said: %s", text)

    assert len(scan.findings) == 1
    finding = next(iter(scan.findings))
    assert finding.startswith(f"{kind} in the log: someone.else DEBUG at tests/unit/test_log_scan.py:")
    assert text not in finding


def test_exceptions_and_extras_are_read(scan: LogScan) -> None:
    """What is in an exception, in one behind it, or in a member for other formatters, counts too."""
    logger = logging.getLogger("someone.else")
    cause = ValueError(LEAKS["a prompt"])
    error = RuntimeError("harmless")
    error.__cause__ = cause

    logger.info("failed", exc_info=error)
    logger.info("harmless", extra={"facts": {"answer": LEAKS["an answer"]}})

    assert [finding.partition(" in the log")[0] for finding in scan.findings] == ["a prompt", "an answer"]


def test_handlers_get_what_they_got_before(scan: LogScan, caplog: pytest.LogCaptureFixture) -> None:
    """Being read changes no level: below a logger's own, handlers still get nothing."""
    logger = logging.getLogger("someone.else")

    logger.debug("unheard")
    logger.warning("heard")

    assert caplog.messages == ["heard"]
    assert scan.records == 2


def test_log_files_are_read(scan: LogScan, tmp_path: Path) -> None:
    """The lines of a file are read, and reported by their number."""
    log = tmp_path / "app.log"
    log.write_text(f"harmless\n{LEAKS['a JWT']}\n")

    scan.read_file("gunicorn", log)
    scan.read_file("gunicorn", tmp_path / "none.log")

    assert [finding.partition(", in ")[0] for finding in scan.findings] == ["a JWT in the log: gunicorn line 2"]


def test_canaries_are_what_tests_use() -> None:
    """Each word that is looked for is in a test, or in what tests are made of."""
    tests = Path(__file__).parents[1]
    sources = [*tests.rglob("*.py"), *(tests.parent / "examples").rglob("*.py")]
    sources += (tests.parent / "src" / "ai_retry" / "testing").rglob("*.py")
    mine = {Path(__file__), tests / "support" / "log_scan.py"}
    said = "\n".join(
        node.value
        for source in sources
        if source not in mine
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )

    assert [word for words in CANARIES.values() for word in words if word not in said] == []
