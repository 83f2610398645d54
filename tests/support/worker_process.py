"""``ai-retry worker`` in a real process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.app_server import clean
from tests.support.log_scan import SCAN
from tests.support.npm import REPOSITORY
from tests.support.processes import die_with_parent

COMMAND = (sys.executable, "-c", "from ai_retry.cli import main; main()", "worker")


@contextmanager
def running_worker(
    env: Mapping[str, str], *, concurrency: int = 4, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with this configuration; yield its process. It ends with the block, by SIGTERM, or with us.

    Args:
        env: its settings, on top of this process's environment less its own settings.
        concurrency: attempts at once.
        log: where its output goes; a temporary file when None.
    """
    with tempfile.TemporaryDirectory(prefix="ai-retry-worker-") as scratch:
        log = log or Path(scratch) / "worker.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*COMMAND, "--concurrency", str(concurrency)],
                cwd=REPOSITORY,
                env=clean(os.environ) | dict(env) | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - nothing else runs in the child
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
            SCAN.read_file("worker", log)
