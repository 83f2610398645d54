"""A scripted AI provider on real sockets, to test how an app bears a provider that misbehaves.

Standard library alone, so that it can be used wherever the library is installed. It plays bytes; what they mean to
the caller is for the test to say.

::

    with ScriptedServer(reply(429, headers={"Retry-After": "1"}), chat({"title": "Intervals"})) as server:
        ai = HttpAiProvider(base_url=server.base_url, model="any", clock=SystemClock())
        ...
    assert len(server.requests) == 2
"""

import json as jsonlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import responses as phrases
from types import TracebackType
from typing import Any, Self, TypeAlias

_MOST_BYTES = 64 * 1024 * 1024  # of one request; more is a mistake of the test
_POLL_SECONDS = 0.02  # how soon a silent connection notices that the server ends or its client left


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ends: ``close`` in order, ``reset``, ``stall`` until the client leaves, ``keep`` for more."""

    how: str


Script: TypeAlias = tuple[bytes | Pause | Ending, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived. Header names are in lower case; of repeated ones the last counts."""

    method: str
    path: str  # with the query
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    at: float  # time.monotonic() when it was complete

    def json(self) -> Any:
        """The body as JSON."""
        return jsonlib.loads(self.body)


Reply: TypeAlias = Script | Callable[[Request], Script]


def raw(*steps: bytes | Pause | Ending | Script) -> Script:
    """Send bytes as they are, with what ``pause``, ``drip``, ``reset``, ``stall`` and ``close`` give between them.

    The connection is closed after the last step.
    """
    flat: list[bytes | Pause | Ending] = []
    for step in steps:
        flat.extend(step if isinstance(step, tuple) else (step,))
    return tuple(flat)


def pause(seconds: float) -> Script:
    """Stay silent for a while."""
    return (Pause(seconds),)


def drip(data: bytes, every: float) -> Script:
    """Send single bytes, ``every`` so many seconds."""
    return tuple(step for byte in data for step in (bytes([byte]), Pause(every)))


def reset() -> Script:
    """End the connection by a TCP reset; on its own: read the request and reset."""
    return (Ending("reset"),)


def close() -> Script:
    """End the connection in order; on its own: read the request and close without a byte."""
    return (Ending("close"),)


def stall() -> Script:
    """Say nothing more and hold the connection until the client leaves or the server ends."""
    return (Ending("stall"),)


def reply(
    status: int = 200,
    *,
    json: Any = None,
    body: bytes | str = b"",
    headers: Mapping[str, str] | None = None,
) -> Script:
    """A complete HTTP answer with its ``Content-Length``; the connection stays open for the next request.

    Args:
        status: of the status line.
        json: sent as the body, with its content type; instead of ``body``.
        body: sent as it is, without a content type of its own.
        headers: more of them, or others than the default ones.
    """
    content = jsonlib.dumps(json).encode() if json is not None else body.encode() if isinstance(body, str) else body
    fields = {"Content-Type": "application/json"} if json is not None else {}
    fields |= {"Content-Length": str(len(content)), "Date": formatdate(usegmt=True), **(headers or {})}
    phrase = phrases.get(status, "Scripted")
    head = f"HTTP/1.1 {status} {phrase}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return (head.encode("latin-1") + b"\r\n" + content, Ending("keep"))


def chat(
    output: Any,
    *,
    model: str = "scripted-model",
    usage: Mapping[str, Any] | None = None,
    finish_reason: str | None = "stop",
    message: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Script:
    """A chat completion whose content is ``output``: as JSON, or as it is when it is a ``str`` or None.

    ``message`` adds to the message (``refusal``, ``tool_calls``). ``usage`` is 11 prompt and 7 completion tokens
    unless given; an empty mapping leaves it out.
    """
    content = output if isinstance(output, str) or output is None else jsonlib.dumps(output)
    if usage is None:
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    completion: dict[str, Any] = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **(message or {})},
                "finish_reason": finish_reason,
            }
        ],
    }
    if usage:
        completion["usage"] = dict(usage)
    return reply(json=completion, headers=headers)


class ScriptedServer:
    """Listens on 127.0.0.1, records every request and plays the script, one item per request.

    An item is what the functions of this module give, or a function of the request that gives it. The script's end is
    the test's end: a request beyond it is answered with status 500, unless there is a ``default``, and makes the
    ``with`` block end with an ``AssertionError``, as do items that were never asked for. Leaving the block closes every
    connection and ends every thread. Nothing is logged.

    Attributes:
        requests: what arrived, in order.
    """

    def __init__(
        self,
        *script: Reply,
        default: Reply | None = None,
        ssl_context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        """Get ready; listening begins with the ``with`` block.

        Args:
            script: what to play.
            default: what to play after its end, as often as asked.
            ssl_context: speak TLS with the certificate of this server-side context.
            port: where to listen, such as where an earlier one did; a free one when 0.
        """
        self.requests: list[Request] = []
        self.connections = 0
        self.port = port
        self._script = list(script)
        self._default = default
        self._ssl_context = ssl_context
        self._unexpected = 0
        self._faults: list[BaseException] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()

    @property
    def base_url(self) -> str:
        """What to configure as the provider's API base."""
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self.port = int(self._listener.getsockname()[1])
        self._listener.listen(128)
        self._listener.settimeout(_POLL_SECONDS)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all connections and threads; report what went against the script, unless the test fails anyway."""
        self._ended.set()
        for thread in self._threads:  # grows no more once the accepting thread, the first one, has ended
            thread.join()
        self._listener.close()
        if kind is None:
            self._complain()

    def _complain(self) -> None:
        if self._faults:
            raise AssertionError("the script itself failed") from self._faults[0]
        if self._unexpected:
            raise AssertionError(f"{self._unexpected} of {len(self.requests)} requests were not expected")
        if self._script:
            raise AssertionError(f"{len(self._script)} scripted replies were not asked for")

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="scripted-server")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        """Play one reply after the other on a connection, for as long as both sides want."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_POLL_SECONDS)
            if self._ssl_context is not None:
                connection.settimeout(5)
                connection = self._ssl_context.wrap_socket(connection, server_side=True)
                connection.settimeout(_POLL_SECONDS)
            reader = _Reader(connection, self._ended)
            while (request := reader.request()) is not None and self._play(connection, self._next(request)):
                pass
        except (OSError, ValueError):
            pass  # the client left, or spoke no HTTP: what it sent is not a request
        except BaseException as fault:  # noqa: BLE001 (a fault in the test's own function, reported when the block ends)
            self._faults.append(fault)
        finally:
            connection.close()

    def _next(self, request: Request) -> Script:
        with self._lock:
            self.requests.append(request)
            item = self._script.pop(0) if self._script else self._default
            if item is None:
                self._unexpected += 1
                item = reply(500, json={"error": {"message": "the script has no reply left"}})
        return item(request) if callable(item) else item

    def _play(self, connection: socket.socket, script: Script) -> bool:
        """Play; return whether the connection stays open."""
        for step in script:
            if isinstance(step, bytes):
                _send(connection, step, self._ended)
            elif isinstance(step, Pause):
                self._ended.wait(step.seconds)
            elif step.how == "stall":
                _await_end(connection, self._ended)
            elif step.how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if self._ended.is_set() or isinstance(step, Ending):
                return isinstance(step, Ending) and step.how == "keep"
        return False


class _Reader:
    """Reads requests from a connection, patiently."""

    def __init__(self, connection: socket.socket, ended: threading.Event) -> None:
        self._connection = connection
        self._ended = ended
        self._buffer = b""

    def request(self) -> Request | None:
        """The next request; None when the client has left or the server ends."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Request(method=method, path=path, headers=headers, body=body, at=time.monotonic())

    def _more(self) -> bool:
        while not self._ended.is_set():
            try:
                data = self._connection.recv(65536)
            except TimeoutError:
                continue
            self._buffer += data
            return bool(data) and len(self._buffer) <= _MOST_BYTES
        return False


def _send(connection: socket.socket, data: bytes, ended: threading.Event) -> None:
    view = memoryview(data)
    while view and not ended.is_set():
        try:
            view = view[connection.send(view[:65536]) :]
        except TimeoutError:
            continue


def _await_end(connection: socket.socket, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            if not connection.recv(65536):
                return
        except TimeoutError:
            continue
