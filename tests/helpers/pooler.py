"""A small pooler in transaction mode, on a real socket: it knows nothing of prepared statements.

Each exchange of messages, up to the ReadyForQuery outside of a transaction, goes to the next of its connections to the
server (PostgreSQL documentation, chapter "Frontend/Backend Protocol").
"""

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from urllib.parse import urlsplit, urlunsplit

_NO_ENCRYPTION = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_IDLE = b"I"
_END_OF_EXCHANGE = (b"S", b"Q")  # Sync, Query
_TERMINATE = b"X"


class _Server:
    """One connection to PostgreSQL, which many clients use in turns."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.lock, self.greeting = reader, writer, asyncio.Lock(), b""

    @classmethod
    async def connect(cls, host: str, port: int, startup: bytes) -> "_Server":
        server = cls(*await asyncio.open_connection(host, port))
        server.writer.write(startup)
        server.greeting = await server.reply()
        return server

    async def reply(self) -> bytes:
        """Read up to ReadyForQuery."""
        messages = b""
        while True:
            kind, message = await _message(self.reader)
            messages += kind + message
            if kind == b"Z" and message[-1:] == _IDLE:
                return messages


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    length = await reader.readexactly(4)
    return kind, length + await reader.readexactly(struct.unpack("!I", length)[0] - 4)


class _Pooler:
    def __init__(self, host: str, port: int, connections: int) -> None:
        self._address, self._connections = (host, port), connections
        self._servers: list[_Server] = []
        self._opening = asyncio.Lock()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it goes."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            startup = await self._startup(reader, writer)
            async with self._opening:
                while len(self._servers) < self._connections:
                    self._servers.append(await _Server.connect(*self._address, startup))
            writer.write(self._servers[0].greeting)
            turns = cycle(self._servers)
            while exchange := await self._exchange(reader):
                server = next(turns)
                async with server.lock:
                    server.writer.write(exchange)
                    writer.write(await server.reply())
        await _closed(writer)

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        while True:
            length = await reader.readexactly(4)
            rest = await reader.readexactly(struct.unpack("!I", length)[0] - 4)
            if struct.unpack("!I", rest[:4])[0] not in _NO_ENCRYPTION:
                return length + rest
            writer.write(b"N")

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes:
        messages = b""
        while True:
            kind, message = await _message(reader)
            if kind == _TERMINATE:
                return b""
            messages += kind + message
            if kind in _END_OF_EXCHANGE:
                return messages

    async def close(self) -> None:
        """End the connections to the server, and wait for clients that are just going."""
        for server in self._servers:
            await _closed(server.writer)
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@contextmanager
def transaction_pooler(database_url: str, *, connections: int) -> Iterator[str]:
    """Run one before a database that asks for no password; yield its URL. Clients go before it does."""
    target = urlsplit(database_url)
    assert target.hostname is not None
    assert target.port is not None
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    pooler = _Pooler(target.hostname, target.port, connections)
    listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(pooler.serve, "127.0.0.1", 0), loop).result()
    try:
        port = listening.sockets[0].getsockname()[1]
        yield urlunsplit(target._replace(netloc=f"{target.username}@127.0.0.1:{port}"))
    finally:
        loop.call_soon_threadsafe(listening.close)
        asyncio.run_coroutine_threadsafe(pooler.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
