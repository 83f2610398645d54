"""Judges from outside, for `make check` and `make dist`: programs that are run, and object by their exit code.

A judge says one line for each thing that it found in order, or raises an `Objection`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from tools.npm import REPOSITORY

Judge: TypeAlias = Callable[[], Iterator[str]]


class Objection(Exception):
    """What a judge has to say."""


def run(command: list[str], *, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None, expected: int = 0) -> str:
    """Run a command and return what it printed; another exit code is an objection."""
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=env or os.environ | {"DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1", "PYTHONPATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != expected:
        raise Objection(f"{Path(command[0]).name} {' '.join(command[1:4])}:\n{done.stdout}{done.stderr}")
    return done.stdout


def ask(*judges: Judge) -> int:
    """Ask them in turn and print what they say; the first objection ends it, with exit code 1."""
    for judge in judges:
        try:
            for said in judge():
                print(said, flush=True)
        except Objection as objection:
            print(objection, file=sys.stderr)
            return 1
    return 0
