"""What the console refuses, and what every answer of it carries: whoever asks, wherever, whatever its host does."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask, Request, abort
from werkzeug.middleware.proxy_fix import ProxyFix

from ai_retry.domain.errors import NotConfigured, StorageUnavailable
from ai_retry.flask import create_console
from ai_retry.flask.console.blueprint import ACTIONS, PAGES
from ai_retry.flask.console.guard import MAX_BODY_BYTES, MAX_QUERY_BYTES
from ai_retry.flask.console.tokens import Tokens
from ai_retry.operate.operator import Operator
from tests.unit.console_edge import ADMIN, KEY, OPERATOR, PREFIX, VIEWER, ConsoleEdge, console_edge, is_there

PLAN = "0" * 32
ROW = "a row that no one may see"


@pytest.fixture
def edge(tmp_path: Path) -> ConsoleEdge:
    """A console whose provider answers."""
    return console_edge(tmp_path / "plans", show_answers=True)


def address(rule: str) -> str:
    """Fill a rule's variables."""
    filled = rule.replace("<uuid:generation_id>", str(UUID(int=1))).replace("<uuid:user_id>", str(UUID(int=2)))
    return filled.replace("<plan_id>", PLAN)


def every_address() -> list[tuple[str, str]]:
    """List method and path of everything that the console answers."""
    listed = (("GET", PAGES), ("POST", ACTIONS))
    return [(method, address(rule)) for method, views in listed for rule, _ in views.values()]


def test_every_rule_is_listed(edge: ConsoleEdge) -> None:
    """The blueprint answers what its tables list, each by one method, and nothing else: no file, no OPTIONS."""
    rules = {
        (rule.rule.removeprefix(PREFIX), method)
        for rule in edge.app.url_map.iter_rules()
        if rule.endpoint.startswith("ai_retry_console.")
        for method in (rule.methods or set()) - {"HEAD"}
    }
    listed = {(rule, method) for method, views in (("GET", PAGES), ("POST", ACTIONS)) for rule, _ in views.values()}

    assert rules == listed


@pytest.mark.parametrize(("method", "path"), every_address())
def test_whoever_is_not_let_in_gets_nothing(edge: ConsoleEdge, method: str, path: str) -> None:
    """Without an operator each address is answered alike: 404, without any content of the console."""
    send: Callable[..., Any] = edge.get if method == "GET" else edge.post

    response = send(path, who=None)

    assert response.status_code == 404
    assert response.get_data(as_text=True) == "Not found.\n"
    assert edge.client.operate(VIEWER).actions() == []


@pytest.mark.parametrize(("method", "path"), every_address())
def test_every_answer_is_closed_to_scripts_frames_and_caches(edge: ConsoleEdge, method: str, path: str) -> None:
    """Each answer, also a refusal, has the headers that browsers need."""
    send: Callable[..., Any] = edge.get if method == "GET" else edge.post
    for who in (None, ADMIN):
        headers = send(path, who=who).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", [address(rule) for rule, _ in ACTIONS.values()])
@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({}, "9999999999.." + "0" * 64),
        ({"Origin": "https://evil.example"}, None),
        ({"Origin": "null"}, None),
        ({"Origin": "http://localhost.evil.example"}, None),
        ({"Sec-Fetch-Site": "cross-site"}, None),
        ({"Sec-Fetch-Site": "same-site"}, None),
        ({"Origin": "", "Sec-Fetch-Site": ""}, None),
        ({"Origin": "", "Sec-Fetch-Site": "", "Referer": "http://evil.example/ops/ai-retry/"}, None),
        ({"Content-Type": "application/json"}, None),
    ],
)
def test_forged_forms_do_nothing(edge: ConsoleEdge, path: str, headers: dict[str, str], token: str | None) -> None:
    """No action is done for a form without its token, of another site, or that is no form."""
    response = edge.post(path, {}, ADMIN, headers=headers, token=token)

    assert response.status_code in (403, 415)
    assert edge.client.operate(VIEWER).actions() == []


@pytest.mark.parametrize("path", [address(rule) for rule, _ in ACTIONS.values()])
def test_viewers_can_t_act(edge: ConsoleEdge, path: str) -> None:
    """A viewer with a good token is refused by role, before anything is read or recorded."""
    form = {"route": "r", "for": "1h", "limit": "1", "per": "1h", "since": "24h", "confirm": "0", "max_workers": "1"}

    response = edge.post(path, form, VIEWER, token=edge.token(VIEWER))

    assert response.status_code == 403
    assert "NOT_ALLOWED" in response.get_data(as_text=True)
    assert edge.client.operate(VIEWER).actions() == []


def test_token_of_another_operator_is_refused(edge: ConsoleEdge) -> None:
    """A token is good for the operator it was made for."""
    form = {"route": "r", "for": "1h"}

    assert edge.post("/routes/hold", form, ADMIN, token=edge.token(OPERATOR)).status_code == 403
    assert edge.post("/routes/hold", form, OPERATOR, token=edge.token(OPERATOR)).status_code == 303


def test_token_ends(edge: ConsoleEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that was loaded more than an hour ago is loaded again."""
    token, now = edge.token(OPERATOR), time.time()
    monkeypatch.setattr("ai_retry.flask.console.guard.time.time", lambda: now + 3601)

    assert edge.post("/routes/hold", {"route": "r", "for": "1h"}, token=token).status_code == 403


def test_key_of_the_host_may_be_changed(edge: ConsoleEdge) -> None:
    """A form that was signed with a key that the host still lists is taken."""
    token = edge.token(OPERATOR)
    edge.app.secret_key, edge.app.config["SECRET_KEY_FALLBACKS"] = "a new key of this host", [KEY]
    form = {"route": "r", "for": "1h"}

    assert edge.post("/routes/hold", form, token=token).status_code == 303
    edge.app.config["SECRET_KEY_FALLBACKS"] = []
    assert edge.post("/routes/hold", form, token=token).status_code == 403


def test_empty_older_key_signs_nothing(edge: ConsoleEdge) -> None:
    """An older key that the host left empty is no key: whoever signs with it is refused."""
    edge.app.config["SECRET_KEY_FALLBACKS"] = [""]
    forged = Tokens.of([""], time.time).form(OPERATOR.name)

    assert edge.post("/routes/hold", {"route": "r", "for": "1h"}, token=forged).status_code == 403


def test_get_is_not_post(edge: ConsoleEdge) -> None:
    """An action's address answers no other method."""
    for name, (rule, _) in ACTIONS.items():
        assert edge.get(address(rule), ADMIN).status_code == (404 if name == "plan" else 405)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ],
)
def test_pages_are_for_links_not_for_scripts_elsewhere(edge: ConsoleEdge, headers: dict[str, str], status: int) -> None:
    """A link elsewhere may lead to a page; a script elsewhere can't read one, whatever CORS the host has."""
    assert edge.get("/", headers=headers).status_code == status


def test_megabytes_are_refused(edge: ConsoleEdge) -> None:
    """A form or a query that is too large is refused before it is read."""
    assert edge.post("/routes/hold", {"route": "x" * MAX_BODY_BYTES, "for": "1h"}).status_code == 413
    assert edge.get("/failures?code=" + "x" * MAX_QUERY_BYTES).status_code == 414
    many = {f"field{number}": "x" for number in range(5_000)}
    assert edge.post("/routes/hold", many).status_code in (400, 413)
    assert edge.client.operate(VIEWER).actions() == []


def test_it_starts_with_a_key_only(edge: ConsoleEdge) -> None:
    """A host without SECRET_KEY can't mount it, unless it gives a key that is long enough."""
    app = Flask("host")
    with pytest.raises(NotConfigured, match="SECRET_KEY"):
        app.register_blueprint(create_console(edge.client, lambda _: None))
    with pytest.raises(NotConfigured, match="16 bytes"):
        create_console(edge.client, lambda _: None, key="short")
    Flask("host").register_blueprint(create_console(edge.client, lambda _: None, key="long enough a key"))


def test_host_may_answer_for_itself(edge: ConsoleEdge) -> None:
    """What ``authorize`` aborts with is the host's answer; what is no operator is a defect, and lets no one in."""
    for returned, status in ((lambda: abort(401), 401), (lambda: True, 500), (lambda: "admin", 500)):
        app = Flask("host")
        app.secret_key = KEY

        def decide(_: Request, returned: Callable[[], Any] = returned) -> Operator | None:
            found: Operator | None = returned()
            return found

        app.register_blueprint(create_console(edge.client, decide, url_prefix=PREFIX))
        assert app.test_client().get(f"{PREFIX}/").status_code == status


def test_proxy_s_address_is_the_console_s(edge: ConsoleEdge) -> None:
    """Behind ProxyFix the browser's own address counts; without it, what the host lists as its addresses."""
    hold = {"route": "r", "for": "1h"}
    outside = {"Origin": "https://ops.example"}
    unknown = {"Origin": "https://app.example"}
    assert edge.post("/routes/hold", hold, headers=outside).status_code == 303
    assert edge.post("/routes/hold", hold, headers=unknown).status_code == 403

    edge.app.wsgi_app = ProxyFix(edge.app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.example", "X-Forwarded-Prefix": "/behind"}
    response = edge.post("/routes/hold", hold, headers={**unknown, **forwarded})
    assert response.headers["Location"].startswith(f"/behind{PREFIX}/routes")


def test_host_may_have_a_name_of_any_script(edge: ConsoleEdge) -> None:
    """A browser writes such a name as xn--, in Host and in Origin; its forms are taken; capitals change nothing."""
    named = {"Host": "xn--bcher-kva.example", "Origin": "http://xn--bcher-kva.example"}

    assert edge.post("/routes/hold", {"route": "r", "for": "1h"}, headers=named).status_code == 303
    capitals = {**named, "Host": "XN--Bcher-KVA.Example"}
    assert edge.post("/routes/hold", {"route": "r", "for": "1h"}, headers=capitals).status_code == 303
    other = {**named, "Origin": "http://xn--bcher-kva.evil.example"}
    assert edge.post("/routes/hold", {"route": "r", "for": "1h"}, headers=other).status_code == 403


@pytest.mark.parametrize(
    "origins",
    [
        "https://ops.example",
        ["*"],
        ["null"],
        [""],
        ["ops.example"],
        ["https://ops.example/admin"],
        ["https://ops.example?a=b"],
        ["https://ada@ops.example"],
        ["https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example"],
        ["https://[broken"],
    ],
)
def test_what_no_browser_sends_is_no_origin(edge: ConsoleEdge, origins: Any) -> None:
    """An origin that could never agree with a browser's is refused where it is given, not at each form."""
    with pytest.raises(NotConfigured, match="origins"):
        create_console(edge.client, lambda _: None, key=KEY, origins=origins)


def test_origins_are_written_as_browsers_do(edge: ConsoleEdge) -> None:
    """A slash at the end, capitals and the usual port make no difference."""
    app = Flask("host")
    given = ["https://Ops.example:443/"]
    app.register_blueprint(create_console(edge.client, lambda _: OPERATOR, key=KEY, origins=given, url_prefix=PREFIX))
    form = {"ai_retry_token": edge.token(OPERATOR), "reason": "a test", "route": "r", "for": "1h"}

    response = app.test_client().post(f"{PREFIX}/routes/hold", data=form, headers={"Origin": "https://ops.example"})

    assert response.status_code == 303


def test_prefix_of_the_host_may_have_variables(edge: ConsoleEdge) -> None:
    """Addresses of pages keep what the host's prefix says."""
    app = Flask("host")
    app.secret_key = KEY
    app.register_blueprint(create_console(edge.client, lambda _: ADMIN, name="second"), url_prefix="/<tenant>/console")

    text = app.test_client().get("/acme/console/").get_data(as_text=True)

    assert 'href="/acme/console/failures"' in text


def test_host_s_jinja_reaches_no_page(edge: ConsoleEdge) -> None:
    """Whatever a host does to its templates, pages are escaped and complete."""
    edge.app.jinja_env.autoescape = False
    edge.app.jinja_env.globals["url"] = edge.app.jinja_env.globals["token"] = "hijacked"

    text = edge.get("/?refresh=10", Operator("otto", "operator")).get_data(as_text=True)

    assert "hijacked" not in text


def test_unexpected_error_shows_nothing_of_it(edge: ConsoleEdge, caplog: pytest.LogCaptureFixture) -> None:
    """A defect is answered with 500 and INTERNAL; neither page nor log has its text."""

    def fail() -> None:
        raise RuntimeError(ROW)

    edge.storage.overview = fail  # type: ignore[method-assign, assignment]
    response = edge.get("/")

    assert response.status_code == 500
    assert "INTERNAL" in response.get_data(as_text=True)
    assert ROW not in response.get_data(as_text=True) + caplog.text
    assert "console ai_retry_console.now" in caplog.text


def test_database_that_is_down_is_an_alarm(edge: ConsoleEdge) -> None:
    """Now says that the database can't be read, and refreshes itself."""

    def fail() -> None:
        raise StorageUnavailable("08006")

    edge.storage.overview = fail  # type: ignore[method-assign, assignment]
    text = edge.get("/").get_data(as_text=True)

    assert 'data-alarm="AiRetryDatabaseDown"' in text


def test_notes_are_signed(edge: ConsoleEdge) -> None:
    """A link can't put words into the console's mouth: only what it has signed for this operator is shown."""
    shown = edge.post("/routes/hold", {"route": "r", "for": "1h"}).headers["Location"].removeprefix(PREFIX)

    assert is_there(edge.get(shown).get_data(as_text=True), "note")
    assert not is_there(edge.get(shown, ADMIN).get_data(as_text=True), "note")
    forged = "/routes?said=" + json.dumps(["All is well", True])
    assert not is_there(edge.get(forged).get_data(as_text=True), "note")


@pytest.mark.parametrize("letter", ["x", '"', "\N{CJK UNIFIED IDEOGRAPH-6A21}", "\N{GRINNING FACE}"])
def test_note_is_never_too_long_to_be_read(edge: ConsoleEdge, letter: str) -> None:
    """Whatever an action names, the page that follows it says what was done."""
    response = edge.post("/routes/hold", {"route": letter * 255, "for": "1h"})

    assert is_there(edge.follow(response), "note")


def test_request_has_one_id(edge: ConsoleEdge) -> None:
    """The attempt of a click on the console is stored with the request's id."""
    generation_id = edge.add_generation()

    response = edge.post(f"/generations/{generation_id}/retry", headers={"X-Request-Id": "click-7"})

    assert response.headers["X-Request-Id"] == "click-7"
    timeline = edge.client.operate(VIEWER).timeline(generation_id)
    assert timeline is not None
    assert timeline.attempts[-1].request_id == "click-7"
