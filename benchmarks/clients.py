"""Clients of an HTTP server, light enough to run beside it: one thread, raw sockets, a connection per request."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    """What a client saw."""

    status: int
    seconds: float
    body: bytes


async def post(url: str, path: str, token: str, body: bytes = b"") -> Reply:
    """Make one request; the time includes the connection."""
    place = urlsplit(url)
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        content = await reader.readexactly(length)
        return Reply(int(head.split(b" ", 2)[1]), time.perf_counter() - began, content)
    finally:
        writer.close()


Request: TypeAlias = Callable[[], Awaitable[Reply]]


async def closed_loop(clients: int, requests: Iterable[Request]) -> list[Reply]:
    """Let so many clients make the requests, each one the next when it has its answer."""
    waiting = iter(requests)
    replies: list[Reply] = []

    async def client() -> None:
        for request in waiting:
            replies.append(await request())  # noqa: PERF401 - others append meanwhile

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies
