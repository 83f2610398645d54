"""The Flask app in a real server process: gunicorn with threads, on a free port of 127.0.0.1."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.log_scan import SCAN
from tools.npm import REPOSITORY
from tools.processes import StackUnavailable, die_with_parent, end, tail

_LISTENING = re.compile(rb"Listening at: (http://127\.0\.0\.1:\d+)")
FLASK_APP: Final = "adapters.flask_app:create_app()"


@dataclass(frozen=True)
class Served:
    """An app that is being served."""

    url: str
    pid: int  # of the process whose children serve it


@contextmanager
def running_app(
    env: Mapping[str, str],
    *,
    threads: int = 40,
    log: Path | None = None,
    app: str = FLASK_APP,
) -> Iterator[str]:
    """Serve an app with this configuration; yield its base URL. See ``served``."""
    with served(env, threads=threads, log=log, app=app) as found:
        yield found.url


@contextmanager
def served(
    env: Mapping[str, str],
    *,
    threads: int = 40,
    log: Path | None = None,
    app: str = FLASK_APP,
    checkout: Path = REPOSITORY,
) -> Iterator[Served]:
    """Serve an app with this configuration. It ends with the block or with us.

    Args:
        env: the app's settings, on top of this process's environment less its own settings.
        threads: of the one worker.
        log: where its output goes; a temporary file when None.
        app: which one, as gunicorn names it.
        checkout: the repository whose source is served.

    Raises:
        StackUnavailable: it did not start; the end of its log is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="ai-retry-app-") as scratch:
        log = log or Path(scratch) / "app.log"
        environment = clean(os.environ) | dict(env)
        path = (str(checkout / "src"), environment.get("PYTHONPATH"))  # the app's own modules come after ours
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--threads", str(threads)),
                    *("--timeout", "60", "--worker-tmp-dir", scratch, app),
                ],
                cwd=checkout,
                env=environment | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - nothing else runs in the child
            )
        try:
            yield Served(_address(process, log), process.pid)
        finally:
            end(process, within=15)
            SCAN.read_file("gunicorn", log)


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without settings of ours."""
    return {name: value for name, value in environ.items() if not name.startswith(("AI_", "SUPABASE_", "DATABASE_"))}


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if (match := _LISTENING.search(log.read_bytes())) and b"Booting worker" in log.read_bytes():
            return match[1].decode()
        time.sleep(0.02)
    raise StackUnavailable(f"the app did not start\n{tail(log)}")
