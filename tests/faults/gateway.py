"""A gateway in front of the Data API that answers nonsense: instead of the API, or in place of its reply.

Such as a firewall's page, a limit of requests, a proxy that has lost its server, a schema cache that reloads: what a
caller can't take for an answer of ours, and must not take for a fault of its own either.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from types import TracebackType
from typing import Any, Self, TypeAlias

_HTML, _JSON = "text/html", "application/json"
_PAGE = b"<html><head><title>One moment</title></head><body>Checking your browser</body></html>"
REPLIES: Mapping[str, tuple[int, str, bytes]] = {
    "429": (429, _JSON, b'{"message": "API rate limit exceeded"}'),
    "429 HTML": (429, _HTML, _PAGE),
    "500": (500, _JSON, b'{"message": "An unexpected error occurred"}'),
    "500 HTML": (500, _HTML, _PAGE),
    "401": (401, _JSON, b'{"message": "Unauthorized"}'),
    "403": (403, _JSON, b'{"message": "Forbidden"}'),
    "403 HTML": (403, _HTML, _PAGE),
    "PGRST202": (404, _JSON, b'{"code": "PGRST202", "message": "Could not find the function in the schema cache"}'),
    "503 HTML": (503, _HTML, _PAGE),
    "200 HTML": (200, _HTML, _PAGE),
    "200 JSON of its own": (200, _JSON, b'{"status": "ok"}'),
    "200 half a JSON": (200, _JSON, b'{"applied": tr'),
}
"""Status, content type and body."""
CUTS = ("cut", "half a reply")
_HOPS = ("connection", "transfer-encoding", "content-length", "host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """What happens to the first ``times`` calls of some functions, and no longer than ``seconds`` after the first.

    Does one of ``REPLIES``, ``CUTS``, or ``late``: the reply comes ``delay`` later.
    """

    functions: tuple[str, ...]
    does: str
    passes: bool = False  # the call gets through before
    times: int = 1
    seconds: float = 99.0
    delay: float = 0.0


Chooser: TypeAlias = Callable[[str], Odd | None]
"""Chooses by a function's name what happens to a call."""


def following(odd: Odd) -> Chooser:
    """Choose what one rule says."""
    lock, began = threading.Lock(), list[float]()

    def choose(function: str) -> Odd | None:
        with lock:
            if function not in odd.functions or len(began) >= odd.times:
                return None
            began.append(time.monotonic())
            return odd if began[-1] - began[0] <= odd.seconds else None

    return choose


def at_random(seed: int, probability: float) -> Chooser:
    """Choose anything, for any function."""
    random, lock = Random(seed), threading.Lock()
    everything = (*REPLIES, *CUTS, "late")

    def choose(function: str) -> Odd | None:
        with lock:
            if random.random() >= probability:
                return None
            does = random.choice(everything)
            passes, delay = random.random() < 0.5, random.uniform(0.1, 1.0)
            return Odd(functions=(function,), does=does, passes=passes, delay=delay)

    return choose


class Gateway:
    """Listens on 127.0.0.1 and passes requests on, but for what is chosen.

    Args:
        port: of the Data API on 127.0.0.1.
        choose: what happens to a call.
    """

    def __init__(self, port: int, choose: Chooser) -> None:
        self.fired = self.requests = 0
        self._target, self._choose = port, choose
        self._lock = threading.Lock()
        handler = type("_Bound", (_Handler,), {"gateway": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="gateway")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def odd(self, function: str) -> Odd | None:
        """Choose what happens to a call, and count it."""
        odd = self._choose(function)
        with self._lock:
            self.requests += 1
            self.fired += odd is not None
        return odd

    def connect(self) -> HTTPConnection:
        """Connect to the Data API."""
        return HTTPConnection("127.0.0.1", self._target, timeout=30)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that has left."""


class _Handler(BaseHTTPRequestHandler):
    """One client's connection, and ours to the API."""

    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        odd = self.gateway.odd(self.path.rpartition("/")[2])
        if odd is None or odd.passes or odd.does == "late":
            try:
                status, headers, content = self._passed_on(body)
            except (OSError, HTTPException):
                self.close_connection = True  # the API is not there
                return
        if odd is not None and odd.does == "late":
            time.sleep(odd.delay)
        elif odd is not None and odd.does in REPLIES:
            status, kind, content = REPLIES[odd.does]
            headers = {"Content-Type": kind}
        elif odd is not None:
            self._cut(half=odd.does == "half a reply")
            return
        self._answer(status, headers, content)

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = self.gateway.connect()
        try:
            connection.request("POST", self.path, body, self._headers(self.headers))
            reply = connection.getresponse()
            return reply.status, self._headers(reply.headers), reply.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        with suppress(OSError):  # the client has left
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def _cut(self, *, half: bool) -> None:
        self.close_connection = True
        if half:
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n{")

    @staticmethod
    def _headers(headers: Any) -> dict[str, str]:
        return {name: value for name, value in headers.items() if name.lower() not in _HOPS}

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Log nothing."""
