"""A TCP proxy in front of PostgreSQL or the Data API that cuts, swallows and delays at a named call.

A call is recognised by its function's name, which is in the bytes of both protocols. A message to PostgreSQL that
only prepares a call does not count: nothing has run then.
"""

import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the first ``times`` calls of a function.

    Does one of: ``cut`` (the link, before the call gets through), ``outage`` (the same, and no one gets through for
    ``seconds``), ``lose reply`` (the call gets through, its reply does not), ``stall`` (the call gets through after
    ``seconds``), ``late reply``, ``kill before``, ``kill after`` (the reply has left the server, the worker never sees
    it), ``hold`` (the call waits in the database meanwhile).
    """

    function: str
    do: str
    times: int = 1
    seconds: float = 0.0


class Proxy:
    """Listens on 127.0.0.1 and passes everything on, but for one rule.

    Args:
        port: of the server on 127.0.0.1.
        rule: None: passes everything on.
        kill: ends the worker whose link this is.
        hold: given ``send``, sees to it that the call waits in the database once it was sent.
    """

    def __init__(
        self, port: int, rule: Rule | None, kill: Callable[[], None], hold: Callable[[Callable[[], None]], None]
    ) -> None:
        self.fired = 0
        self._target, self._rule, self._kill, self._hold = port, rule, kill, hold
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._out_until = 0.0
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(_POLL_SECONDS)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="fault-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            if time.monotonic() < self._out_until:
                client.close()
            else:
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", self._target), timeout=2) as server:
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _Link(self, client, server).pump()
        except OSError:
            pass  # one side is gone: the other one learns of it by our leaving

    def claim_rule(self, data: bytes) -> Rule | None:
        """Return whether this call is one of the rule's."""
        rule = self._rule
        with self._lock:
            if rule is None or self.fired >= rule.times or rule.function.encode() not in data or _prepares(data):
                return None
            self.fired += 1
        return rule

    def goes_on(self, since: float) -> bool:
        """Whether a link that was opened at ``since`` is still open."""
        return not self._ended.is_set() and not since < self._out_until - 1e-9

    def begin_outage(self, seconds: float) -> None:
        """Cut every link and refuse new ones for a while."""
        self._out_until = time.monotonic() + seconds

    def kill(self) -> None:
        """End the worker."""
        self._kill()

    def hold(self, send: Callable[[], None]) -> None:
        """Let the call wait in the database."""
        self._hold(send)


class _Link:
    """One client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._answering: Rule | None = None  # the rule whose call's reply is awaited
        self._since = time.monotonic()

    def pump(self) -> None:
        """Pass bytes on until a side or the rule ends it."""
        while self._proxy.goes_on(self._since):
            readable, _, _ = select.select([self._client, self._server], [], [], _POLL_SECONDS)
            for side in readable:
                data = side.recv(65536)
                passes = self._to_server if side is self._client else self._to_client
                if not data or not passes(data):
                    return

    def _to_server(self, data: bytes) -> bool:
        rule = self._proxy.claim_rule(data)
        does = rule.do if rule else ""
        if rule is None:
            pass
        elif does == "outage":
            self._proxy.begin_outage(rule.seconds)
        elif does == "kill before":
            self._proxy.kill()
        elif does == "stall":
            time.sleep(rule.seconds)
        elif does == "hold":
            self._proxy.hold(lambda: self._server.sendall(data))
            return True
        if does in ("cut", "outage", "kill before"):
            return False
        self._answering = rule
        self._server.sendall(data)
        return True

    def _to_client(self, data: bytes) -> bool:
        rule, self._answering = self._answering, None
        if rule is not None and rule.do == "kill after":
            self._proxy.kill()
        if rule is not None and rule.do in ("lose reply", "kill after"):
            return False
        if rule is not None and rule.do == "late reply":
            time.sleep(rule.seconds)
        self._client.sendall(data)
        return True


def _prepares(data: bytes) -> bool:
    """Whether this is PostgreSQL's Parse and then Sync, without the Execute that would make it a call."""
    length = 1 + int.from_bytes(data[1:5])
    return data[:1] == b"P" and data[length:] == b"S\0\0\0\4"
