"""The real ``ai-retry worker``, several times: started, killed, started again, stopped."""

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from tools.log_scan import SCAN
from tools.worker_process import start_worker

_PATIENCE = 20.0  # seconds until a worker that was asked to stop has stopped


class Fleet:
    """Worker processes. To be used by one thread, which outlives them: they end with it, in whatever way.

    Args:
        env: their settings.
        directory: where their logs go.
        workers: how many.
        concurrency: of each.
    """

    def __init__(self, env: Mapping[str, str], directory: Path, *, workers: int, concurrency: int) -> None:
        self.kills = 0
        self.exits: list[int] = []  # of those that ended by themselves, or when they were asked to
        self.log = directory / "workers.log"
        self._env = env
        self._workers, self._concurrency = workers, concurrency
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                self.exits.append(process.wait(_PATIENCE))
            except subprocess.TimeoutExpired:
                process.kill()
                self.exits.append(process.wait())
        self._running.clear()
        SCAN.read_file("worker", self.log)

    def fill(self) -> None:
        """Start as many as are missing."""
        for process in [each for each in self._running if each.poll() is not None]:
            self.exits.append(process.returncode)
            self._running.remove(process)
        while len(self._running) < self._workers:
            self._running.append(start_worker(self._env, self.log, self._concurrency))

    def kill_one(self, random: Random) -> None:
        """Kill one without a warning, and start another."""
        victim = self._running.pop(random.randrange(len(self._running)))
        victim.kill()
        victim.wait()
        self.kills += 1
        self.fill()
