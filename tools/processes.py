"""One server process that we started: how it starts, what it says when it doesn't, and how it surely ends.

Knows nothing of Postgres or Supabase. Every wait has an end, and only pids that we started get a signal.
"""

import asyncio
import ctypes
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class StackUnavailable(RuntimeError):
    """The local stack, or a part of it, can't run here; the message says why."""


class ChildEnded(StackUnavailable):
    """A server ended by itself before it was ready, for instance because its port was taken meanwhile."""


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn` after which the kernel signals the child when its parent dies, even by SIGKILL.

    Linux alone can do this; elsewhere it does nothing. The parent's thread that starts the child has to live as
    long as the child should.
    """
    parent = os.getpid()

    def ask_kernel() -> None:
        ends_with_parent(death_signal)
        if _libc is not None and os.getppid() != parent:
            os._exit(1)

    return ask_kernel


def ends_with_parent(death_signal: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to signal this very process when its parent dies, where it can."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)


def end(process: "subprocess.Popen[bytes]", *, within: float) -> None:
    """Ask a process to stop, and kill it if it has not by then."""
    process.terminate()
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens.

    It lies below the range from which systems take the ports of outgoing connections. While a server restarts,
    no client can then be given the server's port (or, connecting to it, end up connected to itself).
    """
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StackUnavailable("no free port between 20000 and 32000 on 127.0.0.1")


async def on_free_port(start: Callable[[int], Awaitable[None]]) -> int:
    """Call `start` with a free port, at most three times while another process is quicker; return the port."""
    for remaining in (2, 1, 0):
        port = free_port()
        try:
            await start(port)
        except ChildEnded:
            if not remaining:
                raise
        else:
            break
    return port


def tail(log: Path, lines: int = 15) -> str:
    """Return the end of a log, fit for an error message: secret keys are blanked."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    end = re.sub(r"sb_secret_[\w-]+", "sb_secret_…", "\n".join(text.splitlines()[-lines:]))
    return f"--- end of {log.name}:\n{end}"


class Child:
    """A process that this process started, with its log."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The pid while the process runs."""
        return self._process.pid if self.is_running and self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def spawn(
        self,
        command: Sequence[str],
        *,
        death_signal: signal.Signals = signal.SIGKILL,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        """Start the process; its output goes to the end of the log.

        Args:
            command: The program and its arguments.
            death_signal: What the process gets when we are killed ourselves.
            cwd: Where it runs.
            env: Its whole environment; ours when left out.
            user: The system user that it runs as, if we are root.
        """
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                user=user,
                start_new_session=True,
                preexec_fn=die_with_parent(death_signal),  # noqa: PLW1509 - the supervisor has one thread
            )
        finally:
            os.close(descriptor)

    async def until(self, ready: Callable[[int], bool], *, within: float = 30.0) -> None:
        """Wait until `ready(pid)`; raise with the end of the log when that does not come."""
        deadline = time.monotonic() + within
        while (pid := self.pid) is not None:
            if ready(pid):
                return
            if time.monotonic() > deadline:
                raise StackUnavailable(f"{self.name} was not ready within {within:g} s\n{tail(self.log)}")
            await asyncio.sleep(0.01)
        raise ChildEnded(f"{self.name} ended before it was ready\n{tail(self.log)}")

    async def finish(self, *, within: float = 30.0) -> None:
        """Wait until the process ends by itself; raise unless it succeeded."""
        deadline = time.monotonic() + within
        while self.is_running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if self.is_running or (self._process is not None and self._process.returncode != 0):
            await self.stop(signal.SIGKILL)
            raise StackUnavailable(f"{self.name} failed\n{tail(self.log)}")

    async def stop(self, with_signal: signal.Signals, *, grace: float = 10.0) -> None:
        """End the process, at first politely; return when it is gone."""
        for number, seconds in ((with_signal, grace), (signal.SIGKILL, 5.0)):
            if self._process is None or not self.is_running:
                return
            self._process.send_signal(number)
            deadline = time.monotonic() + seconds
            while self.is_running and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
