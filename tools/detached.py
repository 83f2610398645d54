"""A stack that stays after its command: `make stack-up`, `make stack-down`.

`.stack/env` is for apps, `.stack/supervisor.json` says which process to end, `.stack/data` holds data and logs.
"""

import json
import os
import shutil
import time
from pathlib import Path

import psutil

from tools.control import launch
from tools.npm import REPOSITORY, exclusive
from tools.processes import StackUnavailable
from tools.push import listed
from tools.stack import MIGRATIONS, Stack, open_stack

HOME = REPOSITORY / ".stack"
OUTAGE_ENV, OUTAGE_PLAN = "outage.env", "outage.json"  # of `make demo-outage`
_FILES = ("env", "supervisor.json", OUTAGE_ENV, OUTAGE_PLAN)
_AGAIN = "run make stack-down first."


def up(home: Path = HOME, migrations: Path = MIGRATIONS) -> str:
    """Start a stack unless it runs; return what to print.

    Until everything is written down, the stack depends on this process and ends with it.

    Raises:
        StackUnavailable: it can't run here.
        MigrationsRefused: names the files.
    """
    home.mkdir(exist_ok=True)
    with exclusive(home / "lock", within=120):
        if _supervisor(home) is not None:
            return _summary(home, "The local stack is up already.")
        _clear(home)
        data = home / "data"
        data.mkdir()
        with launch(data, {}) as control:
            stack = open_stack(control, migrations)
            write_privately(home / "env", "".join(f"{name}={value}\n" for name, value in stack.env().items()))
            _record(home, control.pid)
            control.detach()
        return _summary(home, "The local stack is up.")


def up_with(migrations: Path, home: Path = HOME) -> str:
    """Start a stack with the reader's own migrations in place of ours; return what to print.

    Raises:
        StackUnavailable: it can't run here, or one runs already.
        MigrationsRefused: there are none, or names those that are refused.
    """
    files, others = listed(migrations)
    if home.exists() and _supervisor(home) is not None:
        raise StackUnavailable(f"The local stack is up already, and {migrations} was not applied: {_AGAIN}")
    applied = f"  applied, of {migrations}: {', '.join(path.stem for _, path in files)}"
    left_out = [f"  left out, as its name is not <version>_<name>.sql: {each.name}" for each in others]
    return "\n".join([up(home, migrations), applied, *left_out])


def down(home: Path = HOME) -> str:
    """Stop the stack and remove its data; return what to print."""
    if not home.exists():
        return "No local stack is running."
    with exclusive(home / "lock", within=120):
        supervisor = _supervisor(home)
        if supervisor is not None:
            supervisor.terminate()
            if not _ended(supervisor, within=30):
                supervisor.kill()
                _ended(supervisor, within=5)
        _clear(home)
    return "No local stack was running." if supervisor is None else "The local stack is down, its data removed."


def _supervisor(home: Path) -> psutil.Process | None:
    """Return the recorded process if it is the one that we recorded, not a later one with its pid."""
    try:
        record = json.loads((home / "supervisor.json").read_text())
        process = psutil.Process(record["pid"])
        ours = process.create_time() == record["created"] and "tools.stack" in process.cmdline()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if ours else None


def _ended(process: psutil.Process, *, within: float) -> bool:
    """Wait for the end of another process's child; its parent, in a container, may never reap it."""
    deadline = time.monotonic() + within
    try:
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    except psutil.NoSuchProcess:
        pass
    return True


def _record(home: Path, pid: int) -> None:
    record = {"pid": pid, "created": psutil.Process(pid).create_time()}
    write_privately(home / "supervisor.json", json.dumps(record))


def _clear(home: Path) -> None:
    for name in _FILES:
        (home / name).unlink(missing_ok=True)
    shutil.rmtree(home / "data", ignore_errors=True)


def _summary(home: Path, headline: str) -> str:
    stack = Stack.from_env_file(home / "env")
    return f"{headline}\n  SUPABASE_URL={stack.url}\n  DATABASE_URL={stack.database_url}\n  keys: {home / 'env'}"


def write_privately(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
