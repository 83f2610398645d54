"""`ai-retry console` as its neighbours on the machine and in the network meet it: one interface, one address, once."""

import http.client
import signal
import socket
from collections.abc import Iterator, Mapping
from http.cookies import SimpleCookie

import psutil
import pytest

from tests.helpers.console_process import ConsoleProcess, running_console


@pytest.fixture
def console(migrated_database: str) -> Iterator[ConsoleProcess]:
    """A console of a database of one's own; its provider is never called."""
    env = {"DATABASE_URL": migrated_database, "AI_BASE_URL": "http://127.0.0.1:9/v1", "AI_MODEL": "small"}
    with running_console(env, ["--operator", "ada"]) as console:
        yield console


def ask(
    console: ConsoleProcess, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, str]:
    """Send one request, with exactly these headers and a Host."""
    connection = http.client.HTTPConnection("127.0.0.1", console.port, timeout=10)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def opened(console: ConsoleProcess) -> str:
    """Open the address; return the cookie that it gives."""
    _, headers, _ = ask(console, console.address.removeprefix(console.origin))
    cookie = SimpleCookie(headers["Set-Cookie"])
    (morsel,) = cookie.values()
    return f"{morsel.key}={morsel.value}"


def test_only_this_machine_is_listened_to(console: ConsoleProcess) -> None:
    """The one socket that the process listens at is one of 127.0.0.1; the machine's other addresses refuse."""
    process = psutil.Process(console.pid)
    of_all = [process, *process.children(recursive=True)]
    listening = {each.laddr for one in of_all for each in one.net_connections("all") if each.status == "LISTEN"}
    assert listening == {("127.0.0.1", console.port)}

    addresses = {
        each.address for card in psutil.net_if_addrs().values() for each in card if each.family == socket.AF_INET
    }
    for address in {*addresses, "127.0.0.2"} - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((address, console.port), timeout=2).close()


def test_address_works_once(console: ConsoleProcess) -> None:
    """It is exchanged for a cookie that no script reads and no other site sends; a second use gives none."""
    path = console.address.removeprefix(console.origin)
    status, headers, _ = ask(console, path)
    assert status in (200, 303)
    written = headers["Set-Cookie"].lower()
    assert "httponly" in written
    assert "samesite=strict" in written
    assert "domain=" not in written

    again, headers, body = ask(console, path)
    assert (again, headers["Set-Cookie"]) == (404, None)
    assert "data-page" not in body


def test_nothing_without_the_cookie(console: ConsoleProcess) -> None:
    """Without the cookie, or with another one, every path answers as if nothing were there."""
    cookie = opened(console)
    name = cookie.partition("=")[0]
    for path in ("/", "/failures", "/routes", "/nowhere", "/open/x", "/open/"):
        for headers in ({}, {"Cookie": f"{name}=x"}, {"Cookie": f"{name}="}, {"Authorization": "Bearer x"}):
            status, _, body = ask(console, path, headers=headers)
            assert status == 404, path
            assert "data-page" not in body

    status, _, body = ask(console, "/", headers={"Cookie": cookie})
    assert (status, 'data-page="now"' in body) == (200, True)


def test_other_names_are_refused(console: ConsoleProcess) -> None:
    """A name that was pointed at this machine is refused, whoever asks, and does not use the address up."""
    path = console.address.removeprefix(console.origin)
    for host in (
        "evil.example",
        f"evil.example:{console.port}",
        f"127.0.0.1.evil.example:{console.port}",
        "127.0.0.1:1",
        "",
    ):
        status, headers, _ = ask(console, path, headers={"Host": host})
        assert (status // 100, headers["Set-Cookie"]) == (4, None), host

    cookie = opened(console)
    for host in ("evil.example", f"evil.example:{console.port}"):
        status, _, body = ask(console, "/", headers={"Host": host, "Cookie": cookie})
        assert status // 100 == 4
        assert "data-page" not in body


def test_its_output_has_no_cookie_and_it_ends_at_a_signal(console: ConsoleProcess) -> None:
    """What it prints is the address, not what was given for it, nor any request; SIGINT ends it."""
    cookie = opened(console)
    ask(console, "/", headers={"Cookie": cookie})
    printed = console.log.read_text()
    console.process.send_signal(signal.SIGINT)

    assert console.process.wait(15) in (0, 130)
    assert cookie.partition("=")[2] not in printed
    assert printed.count(console.address) == 1
    assert "GET /" not in console.log.read_text()
