"""What operators do by clicks, and what others can't: each ends in the database, with name and reason."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from ai_retry.domain.calls import route_name
from tests.console.screens import Screen
from tests.console.stage import Stage
from tests.helpers.books import violations
from tests.helpers.queue_steps import new_accepted
from tests.helpers.steps import begin, fail
from tools.outage import failed_generations
from tools.waiting import eventually

Window = Callable[..., Screen]
WHY = "the provider is back"


def new_failed(stage: Stage) -> UUID:
    """A failed generation, whose retry failed, too."""
    user_id = stage.world.new_user()
    generation_id = stage.world.new_generation(user_id)
    fail(stage.world, begin(stage.world, user_id, generation_id))
    return generation_id


def act(screen: Screen, opens: str, sends: str, **fields: str) -> None:
    """Open a form, fill it in, and send it; the page that follows says what came of it."""
    screen.by(opens).first.click()
    form = screen.by(sends).first.locator("xpath=ancestor::form")
    for label, value in {"Reason": WHY, **fields}.items():
        form.get_by_label(label).fill(value)
    screen.by(sends).first.click()
    screen.by("note").wait_for()


def note(screen: Screen) -> str:
    """What the page says came of it."""
    text: str = screen.by("note").inner_text()
    return text


def actions(stage: Stage) -> list[tuple[str, ...]]:
    """Who did what, why, and with what outcome, in order."""
    query = "select operator, role, action, reason, outcome from public.ai_retry_actions order by at"
    return [tuple(row) for row in stage.rows(query)]


def test_retry_by_click(stage: Stage, window: Window) -> None:
    """From Now by way of Failures to a generation, and one click later its user has a session for one unit."""
    generation_id = new_failed(stage)
    screen = window(width=390)

    screen.open("/")
    screen.page.get_by_role("link", name="Failures").click()
    screen.page.locator(f"[data-id='{generation_id}'] a").first.click()
    assert "503 from the upstream" in screen.text()
    act(screen, "retry-open", "retry-now")

    assert "session" in note(screen)
    assert screen.by("status").inner_text() == "success"
    assert stage.status(generation_id) == "success"
    newest = stage.world.attempts(generation_id)[-1]
    assert (newest["outcome"], newest["operator"]) == ("succeeded", "ada")
    assert newest["captured_at"] is not None
    assert actions(stage) == [("ada", "operator", "retry", WHY, "done")]
    assert violations(stage.connection) == []


def test_refusal_is_shown(stage: Stage, window: Window) -> None:
    """A retry that is refused says by which rule; with that limit lifted it succeeds."""
    generation_id = new_failed(stage)
    stage.connection.execute(
        "update public.ai_retry_attempts set next_attempt_at = clock_timestamp() + interval '1 hour'"
    )
    screen = window()
    screen.open(f"/generations/{generation_id}")

    act(screen, "retry-open", "retry-now")
    assert "RETRY_TOO_SOON" in note(screen)
    screen.by("retry-open").click()
    screen.page.get_by_label("Don't wait for the backoff").check()
    screen.page.locator("#retry-reason").fill(WHY)
    screen.by("retry-now").click()

    eventually(lambda: stage.status(generation_id) == "success")
    assert [row[-1] for row in actions(stage)] == ["RETRY_TOO_SOON", "done"]


def test_later_and_never_mind(stage: Stage, window: Window) -> None:
    """A retry is accepted for later by a click, and taken back by another; the unit is free again."""
    generation_id = new_failed(stage)
    screen = window()
    screen.open(f"/generations/{generation_id}")

    act(screen, "retry-open", "retry-later")
    assert [row["outcome"] for row in stage.world.attempts(generation_id)] == ["failed", None]
    act(screen, "cancel-open", "cancel")

    assert [row["outcome"] for row in stage.world.attempts(generation_id)] == ["failed", "cancelled"]
    assert [row[2] for row in actions(stage)] == ["enqueue", "cancel"]


def test_route_is_held_and_opened(stage: Stage, window: Window) -> None:
    """A route that is held by a click refuses the next click, and says so on Now; opened by hand it lets it through."""
    generation_id = new_failed(stage)
    screen = window()
    screen.open("/routes")
    screen.page.locator("#hold-route").fill(route_of(stage))
    screen.page.locator("#hold-for").fill("30m")
    screen.page.locator("#hold-reason").fill(WHY)
    screen.by("hold").click()
    screen.by("note").wait_for()

    screen.open(f"/generations/{generation_id}")
    act(screen, "retry-open", "retry-now")
    assert "ROUTE_UNAVAILABLE" in note(screen)
    screen.open("/")
    assert screen.by("route").count() == 1
    screen.open("/routes")
    act(screen, "open-open", "open")
    screen.open(f"/generations/{generation_id}")
    act(screen, "retry-open", "retry-now")

    assert stage.status(generation_id) == "success"
    assert [(row[2], row[4]) for row in actions(stage)] == [
        ("hold_route", "done"),
        ("retry", "ROUTE_UNAVAILABLE"),
        ("open_route", "done"),
        ("retry", "done"),
    ]


def route_of(stage: Stage) -> str:
    """Name the route of the stage's provider, as attempts do."""
    return route_name(urlsplit(stage.server.base_url).netloc, "small")


def test_quota_of_a_user(stage: Stage, window: Window) -> None:
    """An admin finds a user by id, and gives them a quota of their own; then the usual one again."""
    user_id = stage.world.new_user()
    screen = window("ann.admin", width=390)
    screen.open("/users")
    screen.page.get_by_label("User's id").fill(str(user_id))
    screen.by("search").click()

    act(screen, "quota-open", "set-quota", Units="9")
    overrides = "select quota_limit from public.ai_retry_quotas where user_id = %s"
    assert stage.rows(overrides, user_id) == [(9,)]
    assert "9" in screen.by("override").inner_text()
    act(screen, "reset-open", "reset-quota")

    assert screen.by("usual").is_visible()
    assert stage.rows(f"{overrides} and quota_limit is not null", user_id) == []
    assert [row[2] for row in actions(stage)] == ["set_quota", "reset_quota"]


def test_recovery_by_click(stage: Stage, window: Window) -> None:
    """Filter, plan, typed confirmation, progress, pause, go on, report: each generation once, and each charged once."""
    ids = failed_generations(stage.connection, 12, code="AI_UNAVAILABLE")
    failed_generations(stage.connection, 3, code="AI_INCOMPLETE")
    screen = window()
    screen.open("/recover")
    screen.page.get_by_label("Code").fill("AI_UNAVAILABLE")
    screen.by("plan").click()
    assert screen.number("selected") == len(ids)
    assert stage.attempts() == []  # planning writes nothing

    stage.provider.goes.clear()
    confirm(screen, "11")
    assert "12" in screen.page.locator("main").inner_text()
    assert stage.attempts() == []
    screen.problems.clear()  # the refusal
    screen.page.go_back()
    confirm(screen, "12")
    eventually(lambda: len(stage.server.requests) == 2)
    assert screen.by("state").get_attribute("data-state") == "running"
    screen.by("pause").click()
    stage.provider.goes.set()
    reloaded(screen, "paused")
    done = screen.number("succeeded")
    assert 0 < done < len(ids)
    assert stage.rows("select count(*) from public.sessions") == [(done,)]

    screen.page.get_by_label("Reason").fill(WHY)
    screen.by("go-on").click()
    reloaded(screen, "done")

    assert screen.number("succeeded") == len(ids)
    assert screen.by("report-line").count() == len(ids)
    assert {stage.status(each) for each in ids} == {"success"}
    assert {(row["outcome"], row["operator"]) for row in stage.attempts()} == {("succeeded", "ada")}
    assert len(stage.attempts()) == len(stage.server.requests) == len(ids)
    assert violations(stage.connection) == []


def confirm(screen: Screen, number: str) -> None:
    """Type the number of generations and a reason, and start with two calls at once."""
    screen.by("confirm").fill(number)
    screen.page.get_by_label("Calls at once").fill("2")
    screen.page.get_by_label("Reason").fill(WHY)
    screen.by("start").click()


def reloaded(screen: Screen, state: str) -> None:
    """Load the page until the recovery is in this state."""

    def is_so() -> bool:
        screen.page.reload()
        return bool(screen.by("state").get_attribute("data-state") == state)

    eventually(is_so, within=60)


def test_progress_comes_by_itself(stage: Stage, window: Window) -> None:
    """While a recovery runs its page loads itself again, until it is done: without a click."""
    failed_generations(stage.connection, 6)
    screen = window()
    screen.open("/recover")
    screen.by("plan").click()
    confirm(screen, "6")

    screen.page.wait_for_selector("[data-state=done]", timeout=60_000)

    assert screen.number("succeeded") == 6


def test_viewer_can_not_act(stage: Stage, window: Window) -> None:
    """A viewer is shown no button; forms that a script of theirs sends, with an operator's token, change nothing."""
    generation_id = new_failed(stage)
    page = f"/generations/{generation_id}"
    ada, vic = window("ada.operator"), window("vic.viewer")
    ada.open(page)
    token = ada.page.locator("[name=ai_retry_token]").first.input_value()
    vic.open(page)
    assert vic.page.locator("form[method=post]").count() == 0

    for stolen in (token, ""):
        vic.open(page)
        with vic.page.expect_navigation():
            vic.page.evaluate(_SEND, [f"{stage.console}{page}/retry", {"reason": WHY, "ai_retry_token": stolen}])
        assert vic.page.locator("main").get_attribute("data-page") == "problem"
    vic.problems.clear()  # the refusals

    assert stage.status(generation_id) == "error"
    assert actions(stage) == []


_SEND = """
([action, fields]) => {
  const form = Object.assign(document.createElement("form"), {method: "post", action});
  for (const [name, value] of Object.entries(fields)) {
    form.append(Object.assign(document.createElement("input"), {type: "hidden", name, value}));
  }
  document.body.append(form);
  form.submit();
}
"""


@pytest.fixture
def elsewhere() -> Iterator[Callable[[str], str]]:
    """Serve one page at another origin of the same site, to which browsers send the console's cookies along."""
    with serving() as (server, pages):

        def put(html: str) -> str:
            pages.append(html.encode())
            return f"http://127.0.0.1:{server.server_address[1]}/{len(pages) - 1}"

        yield put


@contextmanager
def serving() -> Iterator[tuple[ThreadingHTTPServer, list[bytes]]]:
    """Serve pages by their number."""
    pages: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = self.path.strip("/")
            body = pages[int(number)] if number.isdigit() and int(number) < len(pages) else b""
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, pages
        server.shutdown()
        thread.join()


def test_forged_post(stage: Stage, window: Window, elsewhere: Callable[[str], str]) -> None:
    """A page at another port, which gets the cookie sent along, can neither act, nor read, nor frame a page."""
    _, generation_id = new_accepted(stage.world)
    screen = window("ada.operator")
    screen.open(f"/generations/{generation_id}")
    token = screen.page.locator("[name=ai_retry_token]").first.input_value()  # one that leaked
    action = f"{stage.console}/generations/{generation_id}/cancel"
    form = f"""<form method=post action="{action}"><input name=reason value=x>
      <input name=ai_retry_token value="{token}"></form><script>document.forms[0].submit()</script>"""

    screen.page.goto(elsewhere(form))
    screen.page.wait_for_url(action)
    assert screen.page.locator("main").get_attribute("data-page") == "problem"
    assert "another site" in screen.text()

    read = f"""<script>fetch("{stage.console}/", {{credentials: "include"}}).then(
      answer => answer.text()).then(text => document.title = "read " + text.length, () => document.title = "failed")
      </script>"""
    screen.page.goto(elsewhere(read))
    screen.page.wait_for_function("document.title !== ''")  # that page has no policy
    assert screen.page.title() == "failed"

    screen.page.goto(elsewhere(f"""<iframe src="{stage.console}/"></iframe>"""))
    frame = screen.page.frames[-1]
    assert "data-page" not in frame.content()
    screen.problems.clear()  # what the browser blocked

    assert [row["outcome"] for row in stage.world.attempts(generation_id)] == [None]
    assert actions(stage) == []
