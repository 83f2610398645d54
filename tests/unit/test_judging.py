"""What `make check` says of a judge that objects, and of one that can't judge here."""

from collections.abc import Iterator

import pytest

from tools.judging import NotRun, Objection, ask


def content() -> Iterator[str]:
    """Finds all in order."""
    yield "sound"


def objecting() -> Iterator[str]:
    """Finds one thing in order, the next one not."""
    yield "half of it is sound"
    raise Objection("line 7")


def lacking() -> Iterator[str]:
    """Has nothing to judge with."""
    yield from ()
    raise NotRun("no such program")


def test_judge_that_cannot_judge_is_named_last(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever others find, what was not judged is the last line, and no word of it says that it is in order."""
    assert ask(lacking, content) == 0

    assert capsys.readouterr().out.splitlines() == ["sound", "NOT RUN: no such program"]


def test_objection_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    """An objection is an exit code, no other judge is asked after it, and what was not judged before is still named."""
    assert ask(lacking, objecting, content) == 1

    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["half of it is sound", "NOT RUN: no such program"]
    assert captured.err == "line 7\n"
