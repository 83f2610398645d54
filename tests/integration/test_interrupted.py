"""A demo that is killed in the midst of its story leaves nothing running."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from uuid import uuid4

import psutil
import pytest

from tools.npm import REPOSITORY
from tools.stack import Stack
from tools.waiting import eventually

MARK = "DEMO_OF_TEST"


@pytest.fixture
def mark() -> str:
    """What the environment of every process of one demo holds."""
    return uuid4().hex


@pytest.fixture
def demo(mark: str, stack: Stack) -> Iterator["subprocess.Popen[str]"]:
    """A demo in a session of its own; the stack is asked for because where it can't run, no demo can."""
    with tempfile.TemporaryDirectory(prefix="ai-retry-test-") as place:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "examples.demo"],
            cwd=REPOSITORY,
            env=os.environ | {MARK: mark, "TMPDIR": place},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        with process:
            yield process
            process.kill()


def processes_of(mark: str) -> list[str]:
    """Return the commands that run with this mark in their environment, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_killed_demo_leaves_nothing_running(demo: "subprocess.Popen[str]", mark: str) -> None:
    """After SIGKILL, which no process can handle, database, Data API, provider and app end by themselves."""
    assert demo.stdout is not None
    assert any(" \u2192 401" in line for line in demo.stdout)
    running = processes_of(mark)
    assert all(any(program in command for command in running) for program in ("postgres", "node", "gunicorn"))

    os.kill(demo.pid, signal.SIGKILL)
    demo.wait(10)

    eventually(lambda: not processes_of(mark))
