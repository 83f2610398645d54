"""Connections on which one deadline covers everything: name lookup, connect, TLS, sending, headers and body.

The timeouts of ``requests`` begin again with every read, so a server that drips bytes, of a header or of a body, is
never late. Here every single operation on a socket gets what is left until the deadline of the call that runs in this
thread, so no watchdog is needed and no thread can be left behind, with one exception: a name lookup can't be
interrupted. It runs in a thread of its own, one per name at a time, which ends when the system's resolver gives up.

What an answer means is not known here.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from http.client import BadStatusLine, HTTPResponse, parse_headers
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from ai_retry.domain.ports import Clock
from ai_retry.secrecy import guard_logs

_CONNECT_SECONDS = 5.0  # at most for one address; longer means that no server is there
_MOST_INTERIM = (
    20  # interim responses before an answer; a server that sends more would hold the call until its deadline
)
_IDLE_SECONDS = 4.0  # servers close idle connections, some after 5 s, and a request sent just then would be in doubt


class Deadline:
    """When a call must have ended, and how many of its requests may have reached a server."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        """Begin now."""
        self._clock = clock
        self._ends = clock.monotonic() + seconds
        self.sent = 0  # requests begun on an established connection

    @property
    def left(self) -> float:
        """Seconds until the end; negative afterwards."""
        return self._ends - self._clock.monotonic()


_current: ContextVar[Deadline] = ContextVar("ai_retry_deadline")


@contextmanager
def bounded_by(deadline: Deadline) -> Iterator[None]:
    """Let ``deadline`` rule the connections that this thread uses meanwhile."""
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


def _time_left() -> float:
    left = _current.get().left
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


class _Socket(socket.socket):
    """Gives each operation what is left of the deadline."""

    used_at = 0.0  # time.monotonic() of the last byte read
    used_by = -1  # the process that read it

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_time_left())
        count = super().recv_into(*args, **kwargs)
        self.used_at, self.used_by = time.monotonic(), os.getpid()
        return count

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        self.settimeout(_time_left())
        return super().recv(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_time_left())
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_time_left())
        super().sendall(*args, **kwargs)


class _TlsSocket(_Socket, ssl.SSLSocket):
    """The same over TLS; ``ssl`` bounds a whole handshake by the timeout that it finds."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 (the signature of ssl)
        self.settimeout(_time_left())
        super().do_handshake(block)


def _tls_context(cert_reqs: Any) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=resolve_cert_reqs(cert_reqs))
    context.sslsocket_class = _TlsSocket
    return context


_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), 30)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL")
        if hasattr(socket, name)
    ),
]  # seconds; what is between here and a model that thinks for minutes forgets silent connections


class SocksNotSupported(ValueError):
    """A SOCKS proxy is configured; its connections would escape the deadline."""


class _Response(HTTPResponse):
    """Passes over interim responses (RFC 9110, section 15.2): Python's own class takes a 102 or 103 for the answer."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST_INTERIM + 1):
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in typeshed
            final = line[1] >= HTTPStatus.OK or line[1] == HTTPStatus.SWITCHING_PROTOCOLS
            if final:
                return line
            parse_headers(self.fp)
        raise BadStatusLine("too many interim responses")


class _Connection(HTTPConnection):
    response_class = _Response
    _held: list[bytes] | None = None  # of the request that is being written
    default_socket_options = [*HTTPConnection.default_socket_options, *_KEEP_ALIVE]  # noqa: RUF012 (as urllib3 has it)

    def _new_conn(self) -> socket.socket:
        try:
            return _connect(_lookups.addresses(self._dns_host, self.port), self.socket_options or ())
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror("unknown name")) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "connecting took too long") from error
        except OSError as error:
            raise NewConnectionError(self, "connecting failed") from error

    @property
    def is_connected(self) -> bool:
        """Whether it may be used again: not if the server may be about to close it, nor by a fork of this process.

        Two processes on one connection would read each other's answers.
        """
        if getattr(self.sock, "used_by", -1) != os.getpid():
            return False
        used_at = getattr(self.sock, "used_at", 0.0)
        return super().is_connected and time.monotonic() - used_at < _IDLE_SECONDS

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Connect first, so that it is known from when on the server may have seen the request."""
        if self.sock is None:
            self.connect()
        _time_left()
        _current.get().sent += 1
        held: list[bytes] = []
        self._held = held
        try:
            super().request(*args, **kwargs)
        finally:
            self._held = None
        self.send(b"".join(held))

    def send(self, data: Any) -> None:
        """Send headers and body as one: apart they are two packets, and the server wakes twice."""
        if self._held is None:
            super().send(data)
        else:
            self._held.append(data)


class _TlsConnection(_Connection, HTTPSConnection):
    def connect(self) -> None:
        self.ssl_context = _tls_context(self.cert_reqs)
        if self.proxy_config is not None:  # TLS to the proxy itself, under the same rules
            context = _tls_context(self.cert_reqs)
            if self.ca_certs or self.ca_cert_dir:
                context.load_verify_locations(self.ca_certs, self.ca_cert_dir)
            self.proxy_config = self.proxy_config._replace(ssl_context=context)
        super().connect()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _Pool, "https": _TlsPool}


class DeadlineAdapter(HTTPAdapter):
    """A transport of ``requests`` that must be used within ``bounded_by``; it repeats nothing by itself.

    The queries of the addresses that it asks, which may hold keys, are kept out of the logs of ``urllib3``.
    """

    def __init__(self, *, pool_size: int) -> None:
        """Keep at most ``pool_size`` idle connections per host; more may be in use at once."""
        guard_logs()
        super().__init__(pool_connections=4, pool_maxsize=pool_size, max_retries=0, pool_block=False)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections without a proxy."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make the pools of connections through ``proxy``, an http or https one."""
        if proxy.lower().startswith("socks"):
            raise SocksNotSupported
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def _connect(addresses: list[Any], options: Iterable[Any]) -> socket.socket:
    """Connect to the first address that answers; the time left is shared out among them."""
    failure = OSError("no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = _Socket(family, kind, protocol)
        try:
            for option in options:
                connection.setsockopt(*option)
            connection.settimeout(min(_CONNECT_SECONDS, _time_left() / (len(addresses) - number)))
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


class _Lookups:
    """Name lookups that are waited for no longer than the deadline allows."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int, int], Future[list[Any]]] = {}  # by process, too: a fork has no threads
        self._lock = threading.Lock()

    def addresses(self, host: str, port: int) -> list[Any]:
        """What ``getaddrinfo`` says; a lookup of the same name that is running already is shared."""
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass  # a name, not an address
        key = (host, port, os.getpid())
        with self._lock:
            lookup = self._running.get(key)
            if lookup is None:
                lookup = self._running[key] = Future()
                thread = threading.Thread(target=self._look_up, args=(host, port), name="ai-retry-lookup", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no thread left: no later lookup may wait for this one
                    del self._running[key]
                    raise socket.gaierror("no thread for the lookup") from None
        return lookup.result(_time_left())

    def _look_up(self, host: str, port: int) -> None:
        try:
            found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._take(host, port).set_exception(error)
        else:
            self._take(host, port).set_result(found)

    def _take(self, host: str, port: int) -> "Future[list[Any]]":
        with self._lock:
            return self._running.pop((host, port, os.getpid()))


_lookups = _Lookups()
