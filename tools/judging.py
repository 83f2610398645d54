"""Judges from outside, for `make check` and `make dist`: programs that are run, and object by their exit code.

A judge says one line for each thing that it found in order. It raises an `Objection`, or `NotRun` where it can't judge.
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


class NotRun(Exception):
    """What a judge lacks on this machine. Nothing is known then of what it would have said."""


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
    """Ask them in turn and print what they say; the first objection ends it, with exit code 1.

    What could not be judged here comes last, so that no reader takes it for judged.
    """
    lacking: list[str] = []
    objection = None
    for judge in judges:
        try:
            for said in judge():
                print(said, flush=True)
        except NotRun as missing:
            lacking.append(f"NOT RUN: {missing}")
        except Objection as said_no:
            objection = said_no
            break
    if objection:
        print(objection, file=sys.stderr, flush=True)
    for line in lacking:
        print(line, flush=True)
    return 1 if objection else 0
