"""``ai-retry console``: the loopback interface only, an address that works once, and no other host's name."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from werkzeug.test import Client

from ai_retry.cli.commands.console import _place
from ai_retry.config import Settings
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import GenerationStatus
from ai_retry.flask.console.local import LocalConsole
from ai_retry.operate.operator import Operator
from ai_retry.testing.ai import AiCall
from tests.unit.console_edge import ANSWER, console_edge, elements

ADA = Operator("ada", "admin")


@pytest.fixture
def console(tmp_path: Path) -> Iterator[LocalConsole]:
    """A console that serves."""
    console = LocalConsole(console_edge(tmp_path).client, ADA, plans=tmp_path / "plans")
    thread = threading.Thread(target=console.serve)
    thread.start()
    assert get(console, "/").status == 404
    yield console
    console.close()
    thread.join(60)


def get(
    console: LocalConsole, path: str, headers: dict[str, str] | None = None, *, method: str = "GET"
) -> HTTPResponse:
    """Ask for a path, and read all of the answer."""
    with closing(HTTPConnection("127.0.0.1", console.port, timeout=60)) as connection:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        response.read()
        return response


def page_of(console: LocalConsole, path: str, cookie: str) -> str:
    """GET a page, and return its text."""
    with closing(HTTPConnection("127.0.0.1", console.port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Cookie": cookie})
        return connection.getresponse().read().decode()


def post(console: LocalConsole, path: str, cookie: str, token: str) -> None:
    """POST a form as a browser does, and read its answer."""
    headers = {
        "Cookie": cookie,
        "Origin": f"http://127.0.0.1:{console.port}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    with closing(HTTPConnection("127.0.0.1", console.port, timeout=60)) as connection:
        connection.request("POST", path, urlencode({"ai_retry_token": token, "reason": "a test"}), headers)
        connection.getresponse().read()


def test_address_works_once(console: LocalConsole) -> None:
    """The first to open the address gets a cookie that scripts and other sites don't; the second gets nothing."""
    path = urlsplit(console.address).path

    first, second = get(console, path), get(console, path)

    cookie = first.headers["Set-Cookie"]
    assert first.status == 200
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert (second.status, second.headers["Set-Cookie"]) == (404, None)
    assert get(console, "/", {"Cookie": cookie.partition(";")[0]}).status == 200
    assert get(console, "/", {"Cookie": f"{cookie.partition('=')[0]}=another"}).status == 404


def test_unknown_addresses_use_nothing_up(console: LocalConsole) -> None:
    """A guess is refused, and the address still works."""
    assert get(console, "/open/guess").status == 404
    assert get(console, urlsplit(console.address).path).status == 200


def test_what_looks_ahead_uses_nothing_up(console: LocalConsole) -> None:
    """A HEAD or a prefetch by a browser gets no cookie, and the address still works for the person who opens it."""
    path = urlsplit(console.address).path
    ahead = [
        get(console, path, method="HEAD"),
        *(get(console, path, {name: "prefetch;prerender"}) for name in ("Sec-Purpose", "Purpose")),
    ]

    assert [(each.status, each.headers["Set-Cookie"]) for each in ahead] == [(404, None)] * 3
    assert get(console, path).headers["Set-Cookie"]


def test_browser_that_has_opened_it_may_reload(console: LocalConsole) -> None:
    """The address leads whoever has its cookie to the console again, and gives no other cookie."""
    path = urlsplit(console.address).path
    cookie = get(console, path).headers["Set-Cookie"].partition(";")[0]

    again = get(console, path, {"Cookie": cookie})

    assert (again.status, again.headers["Set-Cookie"]) == (200, None)
    assert get(console, path, {"Cookie": f"{cookie}x"}).status == 404
    assert get(console, "/open/guess", {"Cookie": cookie}).status == 404


def test_usual_port_may_be_left_out(tmp_path: Path) -> None:
    """At port 80, which browsers leave out of the host's name, the console answers; elsewhere it has to be there."""
    console = LocalConsole(console_edge(tmp_path).client, ADA, plans=tmp_path / "plans")
    try:
        hosts = ("127.0.0.1", "localhost", "evil.example")
        app = Client(console._server.app)  # no test can count on port 80 being free
        assert [app.get("/", headers={"Host": host}).status_code for host in hosts] == [421, 421, 421]
        console.port = 80
        assert [app.get("/", headers={"Host": host}).status_code for host in hosts] == [404, 404, 421]
    finally:
        console.close()


def test_next_console_finds_the_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery that Ctrl-C has paused is there when the console is started again, for the same database only."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    edge = console_edge(tmp_path / "other")
    edge.add_generation()
    plan = edge.client.plan(edge.client.find(since="24h"))
    found = []
    for place in ("one", "one", "two"):
        console = LocalConsole(edge.client, ADA, place=place)
        plans = console._recoveries.plans
        found.append([each.id for each in plans.all()])
        plans.keep(plan, made_by="ada", search=[], is_complete=True)
        console.close()

    assert found == [[], [plan.id], []]


def test_plans_of_a_database_have_one_place() -> None:
    """The name of the plans' directory depends on the database, and on neither user nor password."""
    first, same, other = (
        _place(Settings(database_url=f"postgresql://{address}"))
        for address in ("ada:secret@db.example:5432/app", "otto:other@db.example:5432/app", "ada:secret@db.example/b")
    )

    assert first == same
    assert first != other


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", ""])
def test_other_host_names_are_refused(console: LocalConsole, host: str) -> None:
    """A name that was pointed at this machine reaches nothing, not even the address that works once."""
    path = urlsplit(console.address).path

    assert get(console, path, {"Host": host.format(port=console.port)}).status == 421
    assert get(console, path, {"Host": f"localhost:{console.port}"}).status == 200


def test_it_listens_on_the_loopback_interface_only(console: LocalConsole) -> None:
    """No other address of this machine reaches it."""
    assert console.address.startswith(f"http://127.0.0.1:{console.port}/")
    others = {str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        "127.0.0.1"
    }
    for address in ("127.0.0.2", *others):
        with pytest.raises(OSError, match="refused"), closing(socket.create_connection((address, console.port), 5)):
            pass


def test_end_waits_for_the_call_of_a_click(tmp_path: Path) -> None:
    """A retry by click whose call is under way is settled before the console has ended: its answer is not lost."""
    asked, may_answer, order = threading.Event(), threading.Event(), list[str]()

    def answers(_: AiCall) -> object:
        asked.set()
        assert may_answer.wait(60)
        order.append("answered")
        return ANSWER

    edge = console_edge(tmp_path, default=answers)  # type: ignore[arg-type]
    generation_id = edge.add_generation()
    console = LocalConsole(edge.client, ADA, plans=tmp_path / "plans")

    def closes() -> None:
        console.close()
        order.append("closed")

    serving, closing_it = threading.Thread(target=console.serve), threading.Thread(target=closes)
    serving.start()
    cookie = get(console, urlsplit(console.address).path).headers["Set-Cookie"].partition(";")[0]
    page = page_of(console, f"/generations/{generation_id}", cookie)
    (token, *_) = (each["value"] for each in elements(page, name="ai_retry_token"))
    click = threading.Thread(target=post, args=(console, f"/generations/{generation_id}/retry", cookie, token))
    click.start()
    assert asked.wait(60)

    closing_it.start()
    serving.join(60)
    may_answer.set()
    for thread in (click, closing_it):
        thread.join(60)

    assert order == ["answered", "closed"]
    assert edge.storage.app.generations[generation_id].status == GenerationStatus.SUCCESS


def test_port_that_is_taken_is_named(console: LocalConsole, tmp_path: Path) -> None:
    """A port that another process has is refused with its number."""
    with pytest.raises(NotConfigured, match=str(console.port)):
        LocalConsole(console_edge(tmp_path).client, ADA, port=console.port)


def test_requests_are_not_logged(console: LocalConsole, capfd: pytest.CaptureFixture[str]) -> None:
    """The address that works once is in no log."""
    path = urlsplit(console.address).path
    get(console, path)

    captured = capfd.readouterr()

    assert path not in captured.out + captured.err
