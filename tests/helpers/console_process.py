"""The real ``ai-retry console`` as a process of its own."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.app_server import clean
from tools.log_scan import SCAN
from tools.npm import REPOSITORY
from tools.processes import die_with_parent, end
from tools.waiting import eventually
from tools.worker_process import COMMAND

_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/\S+")


@dataclass(frozen=True)
class ConsoleProcess:
    """A console that listens.

    Attributes:
        address: what it has printed.
        port: where it listens.
        pid: its process.
        log: all that it printed.
    """

    address: str
    port: int
    pid: int
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def origin(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_console(env: Mapping[str, str], options: Sequence[str] = ()) -> Iterator[ConsoleProcess]:
    """Start it with these settings and no others of ours; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="ai-retry-console-") as scratch:
        log = Path(scratch) / "console.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [COMMAND, "console", "--plans", f"{scratch}/plans", *options],
                cwd=REPOSITORY,
                env=clean(os.environ) | dict(env) | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - it asks the kernel, and no more
            )
        try:
            eventually(lambda: _ADDRESS.search(log.read_text()) or process.poll() is not None)
            found = _ADDRESS.search(log.read_text())
            assert found, log.read_text()
            yield ConsoleProcess(found[0], int(found[1]), process.pid, log, process)
        finally:
            end(process, within=20)
            SCAN.read_file("console", log)
