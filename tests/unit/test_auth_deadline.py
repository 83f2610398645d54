"""Whatever Auth's server does with its bytes, ``verify`` ends by its deadline: on real sockets and the real clock."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from ai_retry.auth import AuthUnavailable, JwksCache, TokenVerifier
from tests.unit.test_auth import (
    PUBLISHABLE_KEY,
    USER,
    Project,
    claims_of,
    public_jwk,
    signed,
    signed_hs256,
)

TIMEOUT = timedelta(seconds=0.6)
LATE = 3.0  # seconds: what no deadline of 0.6 s allows, on whatever machine
DRIP = 0.1  # seconds between two bytes, far below any timeout between two reads

Server = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve_bytes() -> Iterator[Server]:
    """Run a server that lets a function write to each connection; give its address."""
    stopped = threading.Event()
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket, write: Callable[[socket.socket], None]) -> None:
        with connection, suppress(OSError):
            connection.recv(65_536)
            write(connection)

    def accept(listener: socket.socket, write: Callable[[socket.socket], None]) -> None:
        with suppress(OSError):
            while not stopped.is_set():
                threading.Thread(target=answer, args=(listener.accept()[0], write), daemon=True).start()

    def start(write: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threads.append(threading.Thread(target=accept, args=(listener, write), daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    stopped.set()
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(timeout=5)


def drip(connection: socket.socket, text: bytes) -> None:
    """Send a byte, and another one before a reader loses patience."""
    for byte in text:
        connection.sendall(bytes([byte]))
        time.sleep(DRIP)


def drip_status_line(connection: socket.socket) -> None:
    """Never end the first line."""
    drip(connection, b"HTTP/1.1 200 OK" + b" " * 1000)


def drip_headers(connection: socket.socket) -> None:
    """Never end the headers."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    drip(connection, b"X-Padding: " + b"x" * 1000)


def drip_body(connection: socket.socket) -> None:
    """Never end a body whose length is known."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")
    drip(connection, b'{"keys": [' + b" " * 1000)


def drip_chunks(connection: socket.socket) -> None:
    """Never end a body that comes in chunks."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"1\r\n \r\n")
        time.sleep(DRIP)


def say_nothing(connection: socket.socket) -> None:
    """Keep the connection open until the client leaves."""
    connection.recv(1)


SLOW = [drip_status_line, drip_headers, drip_body, drip_chunks, say_nothing]


def at(url: str, *, timeout: timedelta = TIMEOUT) -> tuple[TokenVerifier, Project]:
    """Make a verifier on the real clock, and a project whose tokens it takes."""
    return TokenVerifier(url, timeout=timeout, publishable_key=PUBLISHABLE_KEY), Project(url, {})


def fresh(project: Project, *, symmetric: bool, kid: str = "ec-1") -> str:
    """Sign a token that is valid by the real clock."""
    now = int(datetime.now(UTC).timestamp())
    claims = claims_of(project, iat=now, exp=now + 600)
    return signed_hs256(claims) if symmetric else signed(claims, kid=kid)


def seconds_until_unavailable(verify: TokenVerifier, token: str) -> float:
    """Verify a token, which must fail for want of an answer; return how long that took."""
    began = time.monotonic()
    with pytest.raises(AuthUnavailable):
        verify.verify(token)
    return time.monotonic() - began


@pytest.mark.parametrize("symmetric", [False, True], ids=["keys", "user"])
@pytest.mark.parametrize("write", SLOW, ids=lambda write: write.__name__)
def test_slow_answer_given_up_at_the_deadline(
    serve_bytes: Server, write: Callable[[socket.socket], None], *, symmetric: bool
) -> None:
    """A server that drips bytes, or sends none, holds neither question longer than the deadline."""
    verify, project = at(serve_bytes(write))

    assert seconds_until_unavailable(verify, fresh(project, symmetric=symmetric)) < LATE


@pytest.mark.parametrize("symmetric", [False, True], ids=["keys", "user"])
def test_server_that_never_accepts_given_up(symmetric: bool) -> None:
    """A full backlog, into which no connection gets, is given up at the deadline."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        try:
            for each in waiting:
                each.setblocking(False)
                with suppress(BlockingIOError):
                    each.connect(address)
            verify, project = at(f"http://127.0.0.1:{address[1]}")

            assert seconds_until_unavailable(verify, fresh(project, symmetric=symmetric)) < LATE
        finally:
            for each in waiting:
                each.close()


def test_silence_in_tls_handshake_given_up(serve_bytes: Server) -> None:
    """The handshake of TLS counts towards the same deadline."""
    verify, project = at(serve_bytes(say_nothing).replace("http://", "https://"))

    assert seconds_until_unavailable(verify, fresh(project, symmetric=False)) < LATE


def test_slow_name_lookup_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs counts towards the same deadline."""
    released, look_up = threading.Event(), socket.getaddrinfo

    def hang(host: str, *arguments: object, **named: object) -> object:
        if host == "auth.example":
            if named.get("flags"):
                raise socket.gaierror
            released.wait(30)
            raise socket.gaierror
        return look_up(host, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    verify, project = at("http://auth.example")
    try:
        assert seconds_until_unavailable(verify, fresh(project, symmetric=False)) < LATE
    finally:
        released.set()


def test_all_waiters_given_up_at_the_deadline(serve_bytes: Server) -> None:
    """Sixteen readers of unknown keys wait for one fetch that drips, and none of them longer than its deadline."""
    verify, project = at(serve_bytes(drip_body))
    tokens = [fresh(project, symmetric=False, kid=f"ec-{number}") for number in range(16)]

    with ThreadPoolExecutor(16) as threads:
        took = list(threads.map(lambda token: seconds_until_unavailable(verify, token), tokens))

    assert max(took) < LATE


def test_waiter_takes_outcome_of_failed_fetch() -> None:
    """A thread that waited for another one's fetch starts none afterwards: that would be a second deadline."""
    looked, begun, release = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    fetches = []

    def monotonic() -> float:
        looked.release()
        return 0.0

    def fetch() -> dict[str, object]:
        fetches.append(threading.get_ident())
        begun.release()
        assert release.wait(10)
        raise AuthUnavailable("slow")

    cache = JwksCache(
        fetch,  # type: ignore[arg-type]
        ttl=timedelta(minutes=10),
        min_interval=timedelta(0),
        max_age=timedelta(hours=24),
        patience=timedelta(seconds=10),
        monotonic=monotonic,
    )

    def look() -> None:
        with pytest.raises(AuthUnavailable):
            cache.key("ec-1")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(look)
        assert begun.acquire(timeout=10)
        second = threads.submit(look)
        for _ in range(4):  # each looks at the clock twice before it fetches or waits
            assert looked.acquire(timeout=10)
        release.set()
        first.result(10)
        second.result(10)

    assert len(fetches) == 1


def test_slow_answer_within_the_deadline_used(serve_bytes: Server) -> None:
    """A deadline is no limit between two reads: an answer in small pieces counts if it is whole in time."""
    body = json.dumps({"keys": [public_jwk("ec-1")]}).encode()

    def in_pieces(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 40):
            connection.sendall(body[start : start + 40])
            time.sleep(0.02)

    verify, project = at(serve_bytes(in_pieces), timeout=timedelta(seconds=30))

    assert verify.verify(fresh(project, symmetric=False)) == USER


def test_fetch_that_a_fork_left_without_a_thread_is_made_anew() -> None:
    """A process that was forked while its parent fetched the keys fetches them itself; no token is refused for ever."""
    now, gate, begun = [0.0], threading.Event(), threading.Event()

    def fetch() -> dict[str, str]:
        if begun.is_set():
            return {"new": "key"}
        begun.set()
        gate.wait(30)
        return {"old": "key"}

    cache = JwksCache(
        fetch,  # type: ignore[arg-type]
        ttl=timedelta(minutes=10),
        min_interval=timedelta(seconds=30),
        max_age=timedelta(hours=24),
        patience=timedelta(milliseconds=50),
        monotonic=lambda: now[0],
    )
    stuck = threading.Thread(target=lambda: cache.key("old"))
    stuck.start()
    assert begun.wait(10)
    with pytest.raises(AuthUnavailable):
        cache.key("new")
    now[0] += 60

    assert cache.key("new") is not None
    gate.set()
    stuck.join(10)
    assert cache.key("new") is not None
