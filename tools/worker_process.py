"""The real ``ai-retry worker`` as a process, and an AI provider that answers when it may."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_retry.testing.provider import Request, Script, chat
from tools.app_server import clean
from tools.log_scan import SCAN
from tools.npm import REPOSITORY
from tools.processes import die_with_parent, end
from tools.waiting import eventually

COMMAND = Path(sys.executable).with_name("ai-retry")


@dataclass(frozen=True)
class WorkerProcess:
    """A running worker."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def has_told(self, text: str) -> bool:
        """Whether its log holds a string."""
        return text in self.log.read_text()

    def exit_code(self, within: float = 30) -> int:
        """Wait for its end."""
        return self.process.wait(within)


def start_worker(
    env: Mapping[str, str], log: Path, concurrency: int, options: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    """Start a worker with these settings and no others of ours; who starts it ends it, and it ends with the thread."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [COMMAND, "worker", "--concurrency", str(concurrency), *options],
            cwd=REPOSITORY,
            env=clean(os.environ) | dict(env) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - it asks the kernel, and no more
        )


@contextmanager
def running_worker(
    env: Mapping[str, str], log: Path | None = None, *, concurrency: int = 4, options: Sequence[str] = ()
) -> Iterator[WorkerProcess]:
    """Start a worker; it is ready when the block begins, and stopped at its end if it is still there.

    Args:
        env: its settings.
        log: where its output is appended; a temporary file when None.
        concurrency: attempts at once.
        options: further ones of the command.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ai-retry-worker-") as scratch,
        _worker(env, log or Path(scratch) / "worker.log", concurrency, options) as worker,
    ):
        yield worker


@contextmanager
def _worker(env: Mapping[str, str], log: Path, concurrency: int, options: Sequence[str]) -> Iterator[WorkerProcess]:
    started = log.read_text().count("event=worker_started") if log.exists() else 0
    process = start_worker(env, log, concurrency, options)
    try:
        worker = WorkerProcess(process, log)
        eventually(lambda: process.poll() is not None or log.read_text().count("event=worker_started") > started)
        yield worker
    finally:
        end(process, within=20)
        SCAN.read_file("worker", log)


class Provider:
    """Answers every request, once the door is open; knows who asked, and how many at once.

    Attributes:
        prompts: what was asked, in order.
        most: how many requests stood here at once, at most.
    """

    def __init__(self, output: Any, *, is_open: bool = True) -> None:
        self.prompts: list[str] = []
        self.most = 0
        self._standing = 0
        self._output = output
        self._open = threading.Event()
        self._lock = threading.Lock()
        if is_open:
            self.open()

    def open(self) -> None:
        """Let every call in, now and later."""
        self._open.set()

    def __call__(self, request: Request) -> Script:
        """Answer one request."""
        with self._lock:
            self.prompts.append(request.json()["messages"][-1]["content"])
            self._standing += 1
            self.most = max(self.most, self._standing)
        try:
            self._open.wait(30)
        finally:
            with self._lock:
                self._standing -= 1
        return chat(self._output)
