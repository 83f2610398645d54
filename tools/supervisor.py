"""The process that owns a stack's servers and ends them, whatever happens to anyone else.

It ends with SIGTERM, SIGINT, or the end of its standard input: its parent holds the other end of that pipe, and the
kernel closes it when the parent dies in any way. When it is killed itself, the kernel ends the servers (Linux).

It reads one JSON request per line and writes one JSON reply per line, the first one unasked, when Postgres is ready.
It knows nothing of migrations: its parent applies them before it asks for the Data API.
"""

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.lite import Lite
from tools.postgres import Postgres
from tools.processes import StackUnavailable, tail


class Supervisor:
    """Postgres and Supabase Lite of one stack, and the requests about them."""

    def __init__(self, directory: Path, node_modules: Path, settings: Mapping[str, str]) -> None:
        self.keys = {
            "SUPABASE_PUBLISHABLE_KEY": f"sb_publishable_{secrets.token_urlsafe(24)}",
            "SUPABASE_SECRET_KEY": f"sb_secret_{secrets.token_urlsafe(24)}",
            "SUPABASE_JWT_SECRET": secrets.token_urlsafe(48),
        }
        self.detached = False
        self._parent = os.getppid()
        self._postgres = Postgres(directory, settings)
        self._lite = Lite(directory, node_modules, self.keys)
        self._expected: set[str] = set()

    async def start(self) -> dict[str, str]:
        """Start Postgres with what Supabase has in a new project."""
        await self._postgres.start()
        await self._lite.prepare(self._postgres)
        self._expected.add("postgres")
        return {"database_url": self._postgres.url(), **self.keys}

    async def stop(self) -> None:
        """Stop both, the one that depends on the other first."""
        await self._lite.stop()
        await self._postgres.stop()

    async def obey(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request says; return the content of the reply."""
        match request:
            case {"do": "restart_postgres", "immediate": bool(immediate)}:
                await self._postgres.stop(immediate=immediate)
                await self._postgres.start()
                return {}
            case {"do": "stop_data_api"}:
                self._expected.discard("supabase lite")
                await self._lite.stop()
                return {}
            case {"do": "restart_data_api"}:
                await self._lite.stop()
                await self._lite.start()
                self._expected.add("supabase lite")
                return {"url": self._lite.url}
            case {"do": "detach"}:
                self.detached = True
                return {}
            case _:
                raise StackUnavailable(f"no such request: {request}")

    def check(self) -> None:
        """Raise when a server that should run does not, or when our parent is gone but its pipe is still held."""
        if not self.detached and os.getppid() != self._parent:
            raise StackUnavailable("the parent is gone")
        for child in (self._lite.child, self._postgres.child):
            if child.name in self._expected and not child.is_running:
                raise StackUnavailable(f"{child.name} ended by itself\n{tail(child.log)}")


def main(directory: Path, node_modules: Path, settings: Mapping[str, str]) -> None:
    """Be the supervisor: the whole life of the process."""
    logging.basicConfig(filename=directory / "postgres.log")  # where the wheel says what initdb said
    asyncio.run(supervise(directory, node_modules, settings))


async def supervise(directory: Path, node_modules: Path, settings: Mapping[str, str]) -> None:
    """Run a stack in `directory` until something says that it should end; then remove the directory.

    A detached stack keeps it, for the logs.
    """
    supervisor = Supervisor(directory, node_modules, settings)
    requests: asyncio.Queue[bytes] = asyncio.Queue()
    serving = asyncio.ensure_future(_serve(supervisor, requests))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    lifeline = asyncio.ensure_future(_read(requests, supervisor, serving))
    try:
        await asyncio.wait({serving})
    finally:
        lifeline.cancel()
        await supervisor.stop()
        if not supervisor.detached:
            shutil.rmtree(directory, ignore_errors=True)
    if not serving.cancelled():
        serving.result()


async def _serve(supervisor: Supervisor, requests: asyncio.Queue[bytes]) -> None:
    """Start, then answer one request after another."""
    try:
        _reply({"ok": await supervisor.start()})
        while True:
            try:
                line = await asyncio.wait_for(requests.get(), timeout=0.25)
            except TimeoutError:
                supervisor.check()
                continue
            try:
                _reply({"ok": await supervisor.obey(json.loads(line))})
            except StackUnavailable as error:
                _reply({"error": str(error)})
    except Exception as error:  # the outermost place: the parent shall hear of it
        if not supervisor.detached:
            _reply({"error": str(error) or repr(error)})
        raise


async def _read(requests: asyncio.Queue[bytes], supervisor: Supervisor, serving: asyncio.Future[None]) -> None:
    """Hand over each line; at the end of the lifeline, end what is being done."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        requests.put_nowait(line)
    if not supervisor.detached:
        serving.cancel()


def _reply(content: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), json.dumps(content).encode() + b"\n")
