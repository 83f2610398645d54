"""The parent's side of a supervisor: start it, ask it, end it."""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.npm import REPOSITORY, install_node_packages
from tools.processes import StackUnavailable, tail


class Control:
    """The line to a supervisor. Its other end notices when we are gone."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pid = process.pid
        self.started: dict[str, str] = {}
        """What the supervisor said when Postgres was ready."""
        self._process = process
        self._log = log
        self._received = b""
        self._one_at_a_time = threading.Lock()
        self._detached = False

    def wait_until_started(self, *, within: float = 60.0) -> None:
        """Wait for the supervisor's first word."""
        self.started = self._reply(within)

    def ask(self, do: str, *, within: float = 60.0, **arguments: bool) -> dict[str, Any]:
        """Send one request and return the content of its reply."""
        request = json.dumps({"do": do, **arguments}).encode() + b"\n"
        with self._one_at_a_time:
            try:
                os.write(_descriptor(self._process.stdin), request)
            except BrokenPipeError:
                raise StackUnavailable(f"the supervisor is gone\n{tail(self._log)}") from None
            return self._reply(within)

    def detach(self) -> None:
        """Let the stack live on without us."""
        self.ask("detach")
        self._detached = True

    def end(self, *, grace: float = 30.0) -> None:
        """Let go of the lifeline and wait for the end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self._detached:
            return
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(grace)

    def _reply(self, within: float) -> dict[str, Any]:
        deadline = time.monotonic() + within
        with selectors.DefaultSelector() as selector:
            selector.register(_descriptor(self._process.stdout), selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise StackUnavailable(f"the supervisor did not answer within {within:g} s\n{tail(self._log)}")
                chunk = os.read(_descriptor(self._process.stdout), 65_536)
                if not chunk:
                    raise StackUnavailable(f"the supervisor ended\n{tail(self._log)}")
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise StackUnavailable(reply["error"])
        content: dict[str, Any] = reply["ok"]
        return content


@contextmanager
def launch(directory: Path, postgres_settings: Mapping[str, str]) -> Iterator[Control]:
    """Start a supervisor for a stack in `directory`; at the end it is gone, unless it was detached."""
    node_modules = install_node_packages()
    command = [sys.executable, "-m", "tools.stack", "run"]
    log = directory / "supervisor.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*command, str(directory), str(node_modules), json.dumps(dict(postgres_settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            cwd=REPOSITORY,
            start_new_session=True,
        )
    control = Control(process, log)
    try:
        control.wait_until_started()
        yield control
    finally:
        control.end()


def _descriptor(pipe: Any) -> int:
    descriptor: int = pipe.fileno()
    return descriptor
