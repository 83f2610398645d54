"""A process of an engine: asked by one JSON object a line, and answering by one."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from tools.npm import REPOSITORY

PEERS = REPOSITORY / ".cache" / "peers" / "bin" / "python"
_MOST_SAID = 2000  # characters of what it said before it ended


class LineProcess:
    """Ours runs here, any other engine in the peers' environment.

    Attributes:
        said: what it said first, when it was ready.
    """

    def __init__(self, module: str, *arguments: str, ours: bool, env: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable if ours else str(PEERS), "-m", f"benchmarks.{module}", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.said = self._answer()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, **what: Any) -> Mapping[str, Any]:
        """Ask it, and wait for the answer.

        Raises:
            RuntimeError: it ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self, *, patience: float = 0.0) -> None:
        """End it: by the end of its lines if it is given time, else at once."""
        try:
            self._process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def _answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"an engine ended: {self._module}\n{self._errors.read()[-_MOST_SAID:]}")
        said: Mapping[str, Any] = json.loads(line)
        return said
