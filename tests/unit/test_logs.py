"""The log's documented forms: what the page configures is what comes out."""

import json
import logging
import re
from collections.abc import Iterator
from logging.config import dictConfig
from pathlib import Path

import pytest

from ai_retry.events import AttemptFailed, RequestFailed
from ai_retry.logs import LOG

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "observe.md"


@pytest.fixture
def as_documented(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Configure logging as the page does, for one test."""
    root, ours = logging.getLogger(), logging.getLogger("ai_retry")
    before = (list(root.handlers), root.level, ours.level, ours.disabled)
    configured: list[dict[str, object]] = []
    monkeypatch.setattr("logging.config.dictConfig", configured.append)
    (code,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "dictConfig" in each]
    exec(code, {})
    dictConfig(configured[0])
    yield
    root.handlers[:], root.level, ours.level, ours.disabled = before[0], before[1], before[2], before[3]
    logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]


def test_page_configures_json(as_documented: None, capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line: time, level, and the facts as members of their own types."""
    handler = logging.getLogger().handlers[0]
    record = logging.LogRecord("other", logging.WARNING, __file__, 1, "%s words", ("two",), None)

    facts = []
    logging.getLogger("ai_retry").addHandler(catching := _Catching())
    LOG(AttemptFailed(attempt=2, code="AI_TIMEOUT", reason="no answer in time", call_seconds=15.0))
    logging.getLogger("ai_retry").removeHandler(catching)
    facts = [json.loads(handler.format(each)) for each in [*catching.records, record]]

    assert (
        facts[0].items()
        >= {
            "level": "WARNING",
            "logger": "ai_retry",
            "event": "attempt_failed",
            "code": "AI_TIMEOUT",
            "attempt": 2,
            "call_seconds": 15.0,
            "reason": "no answer in time",
        }.items()
    )
    assert facts[0]["time"].endswith("Z")
    assert facts[1]["message"] == "two words"


def test_stack_of_a_defect_follows_its_line(caplog: pytest.LogCaptureFixture) -> None:
    """The line stays one line; the stack is no fact of it."""
    LOG(RequestFailed(action="retry", code="INTERNAL", reason="KeyError", stack="builtins.KeyError\n  in fail"))

    (record,) = caplog.records
    line, stack = record.getMessage().split("\n", 1)
    assert line == "event=request_failed action=retry code=INTERNAL reason=KeyError"
    assert stack == "builtins.KeyError\n  in fail"
    assert "stack" not in vars(record)["ai_retry"]


class _Catching(logging.Handler):
    """Collects records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect."""
        self.records.append(record)
