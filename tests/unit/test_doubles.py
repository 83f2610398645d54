"""The doubles that are shipped to users: they do what they say, and fail on surprises."""

import http.client
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode
from ai_retry.testing.ai import AiCall, ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.provider import (
    Request,
    Script,
    ScriptedServer,
    chat,
    close,
    drip,
    pause,
    raw,
    reply,
    reset,
    stall,
)

CONTEXT = Context(messages=[{"role": "user", "content": "private"}], model="m")
FAILURE = Failure(code=FailureCode.TIMEOUT, reason="late", transient=True, certainly_not_generated=False)


def ask(ai: ScriptedAiProvider) -> Answer:
    """Call with any arguments."""
    return ai.generate(CONTEXT, timeout=timedelta(seconds=15), idempotency_key="k")


def post(server: ScriptedServer, body: bytes = b"{}") -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("POST", "/v1/chat/completions?a=b", body, {"Authorization": "Bearer k"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_manual_clock_moves_when_advanced() -> None:
    """Both clocks of a manual clock are still until it is advanced, or sleeps."""
    clock = ManualClock()
    begin = clock.now()

    clock.advance(timedelta(minutes=1))
    clock.sleep(2.5)

    assert begin == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.now() - begin == timedelta(seconds=62.5)
    assert clock.monotonic() == 62.5
    assert clock.sleeps == [2.5]


def test_manual_clock_never_goes_back() -> None:
    """A negative duration and a naive start are refused."""
    clock = ManualClock()

    with pytest.raises(ValueError, match="back"):
        clock.advance(timedelta(seconds=-1))
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001


def test_manual_clock_counts_every_sleep() -> None:
    """Sleeps of several threads at once all count."""
    clock = ManualClock()

    def sleep_often() -> None:
        for _ in range(100):
            clock.sleep(0.5)

    threads = [threading.Thread(target=sleep_often) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert clock.monotonic() == 400.0
    assert len(clock.sleeps) == 800


def test_scripted_ai_plays_its_steps() -> None:
    """Answers are returned, failures and exceptions raised, functions asked, and every call is recorded."""
    answer = Answer(output=1)

    def late(call: AiCall) -> Failure:
        assert call.idempotency_key == "k"
        return FAILURE

    ai = ScriptedAiProvider(answer, FAILURE, late, KeyboardInterrupt())

    assert ask(ai) is answer
    for _ in range(2):
        with pytest.raises(GenerationFailed) as caught:
            ask(ai)
        assert caught.value.failure is FAILURE
    with pytest.raises(KeyboardInterrupt):
        ask(ai)
    ai.assert_finished()
    assert [call.timeout for call in ai.calls] == [timedelta(seconds=15)] * 4
    assert "private" not in repr(ai.calls)


def test_scripted_ai_fails_on_surprises() -> None:
    """A call beyond the script is an error, and so are steps that were not asked for."""
    ai = ScriptedAiProvider(Answer(output=1))

    with pytest.raises(AssertionError, match="1 scripted"):
        ai.assert_finished()
    ask(ai)
    with pytest.raises(AssertionError, match="call number 2"):
        ask(ai)


def test_scripted_ai_repeats_its_default() -> None:
    """With a default there are no surprises."""
    ai = ScriptedAiProvider(default=Answer(output=2))

    assert [ask(ai).output for _ in range(3)] == [2, 2, 2]


def test_scripted_server_plays_and_records() -> None:
    """Requests get the script's replies in order, and can be looked at afterwards."""
    with ScriptedServer(chat({"a": 1}, model="x"), reply(429, headers={"Retry-After": "1"})) as server:
        status, body = post(server, b'{"b": 2}')
        refused, _ = post(server)

    assert (status, refused) == (200, 429)
    assert json.loads(json.loads(body)["choices"][0]["message"]["content"]) == {"a": 1}
    request = server.requests[0]
    assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions?a=b", b'{"b": 2}')
    assert request.headers["authorization"] == "Bearer k"
    assert request.json() == {"b": 2}
    assert request.at <= time.monotonic()
    assert "Bearer" not in repr(request)


def test_scripted_server_takes_functions() -> None:
    """A function of the request may make the reply, as an item or as the default."""

    def echo(request: Request) -> Script:
        return reply(body=request.body)

    with ScriptedServer(echo, default=echo) as server:
        assert [post(server, body)[1] for body in (b"1", b"2", b"3")] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (close(), http.client.RemoteDisconnected),
        (reset(), ConnectionResetError),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"12", reset()),
            (ConnectionResetError, http.client.IncompleteRead),
        ),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12"), http.client.IncompleteRead),
    ],
)
def test_scripted_server_breaks_connections(
    script: Script, error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    """Closes, resets and cuts are what a client really sees."""
    with ScriptedServer(script) as server, pytest.raises(error):
        post(server)


def test_scripted_server_drips_and_pauses() -> None:
    """Bytes come one by one, and pauses are kept."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    with ScriptedServer(raw(head, pause(0.1), drip(b"abc", 0.05))) as server:
        started = time.monotonic()
        assert post(server) == (200, b"abc")

    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    ("script", "says"), [((), "1 of 1 requests were not expected"), ((reply(), reply()), "1 scripted replies were not")]
)
def test_scripted_server_fails_on_surprises(script: tuple[Script, ...], says: str) -> None:
    """A request beyond the script, or a reply that was not asked for, fails the block."""
    with pytest.raises(AssertionError, match=says), ScriptedServer(*script) as server:
        post(server)


def test_scripted_server_shows_faults_of_functions() -> None:
    """An exception in a function of the test is not swallowed."""

    def broken(_: Request) -> Script:
        raise KeyError("x")

    with (
        pytest.raises(AssertionError, match="script itself") as caught,
        ScriptedServer(broken) as server,
        pytest.raises(http.client.RemoteDisconnected),
    ):
        post(server)

    assert isinstance(caught.value.__cause__, KeyError)


def test_scripted_server_lets_the_tests_own_error_pass() -> None:
    """When the block fails anyway, its own error is raised, not what is left of the script."""
    with pytest.raises(ZeroDivisionError), ScriptedServer(reply()):
        _ = 1 / 0


@pytest.mark.parametrize("script", [stall(), pause(60), drip(b"x" * 10_000, 0.1)], ids=["stall", "pause", "drip"])
def test_scripted_server_leaves_nothing_behind(script: Script) -> None:
    """Leaving the block ends threads and connections, also those that are waiting."""
    before = set(threading.enumerate())
    with ScriptedServer(script) as server:
        client = socket.create_connection(("127.0.0.1", server.port), 5)
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        while not server.requests:
            time.sleep(0.01)

    with client:
        assert set(threading.enumerate()) <= before
        while client.recv(100):
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)


def test_scripted_server_ignores_what_is_not_http() -> None:
    """A client that says nothing, or no HTTP, is no request."""
    with ScriptedServer() as server:
        socket.create_connection(("127.0.0.1", server.port), 5).close()
        with socket.create_connection(("127.0.0.1", server.port), 5) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(100) == b""

    assert server.requests == []
    assert server.connections == 2
