"""What the console's pages show and do: each over the client's own methods, on the storage in memory."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from ai_retry.domain.model import GenerationStatus
from ai_retry.flask.console import words
from ai_retry.operate.operator import Operator
from ai_retry.testing.memory import SessionRefused
from tests.helpers.builders import a_failure
from tests.unit.console_edge import (
    ADMIN,
    ANSWER,
    KEY,
    OPERATOR,
    PREFIX,
    PROMPT,
    VIEWER,
    ConsoleEdge,
    console_edge,
    elements,
    is_there,
)
from tools.examples import example, execute
from tools.npm import REPOSITORY

PAGES = ["/", "/failures", "/recover", "/routes", "/users", "/books"]
ROUTE = "provider.example/small"


@pytest.fixture
def edge(tmp_path: Path) -> ConsoleEdge:
    """A console whose provider answers."""
    return console_edge(tmp_path / "plans")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("who", [VIEWER, OPERATOR, ADMIN], ids=lambda who: who.role)
def test_every_page_is_shown_to_every_role(edge: ConsoleEdge, path: str, who: Operator) -> None:
    """A page names itself, its operator and its place in the navigation, and forms are there only for who may act."""
    edge.add_generation()

    response = edge.get(path, who)

    text = response.get_data(as_text=True)
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    (main,) = elements(text, tag="main")
    assert main["data-page"]
    assert f"{who.name} <span>({who.role})</span>" in text
    assert len(list(elements(text, aria_current="page"))) == 1
    if who is VIEWER:
        assert not list(elements(text, tag="form", method="post"))


def test_pages_have_labels_and_no_script_of_others(edge: ConsoleEdge) -> None:
    """Each visible input has a label, ids are unique, styles and scripts carry the nonce, and nothing is loaded."""
    generation_id = edge.add_generation()
    for path in [*PAGES, f"/generations/{generation_id}", f"/users/{edge.user_id}"]:
        response = edge.get(path, ADMIN)
        text = response.get_data(as_text=True)
        labelled = {each["for"] for each in elements(text, tag="label") if "for" in each}
        ids = [each["id"] for each in elements(text) if "id" in each]
        nonce = response.headers["Content-Security-Policy"].partition("'nonce-")[2].partition("'")[0]
        inputs = [each for each in elements(text, tag="input") if each.get("type") not in ("hidden", "checkbox")]
        assert {each["id"] for each in inputs} <= labelled, path
        assert len(ids) == len(set(ids)), path
        assert all(each["nonce"] == nonce for tag in ("style", "script") for each in elements(text, tag=tag))
        assert not [each for each in elements(text) if "style" in each or "src" in each or "onclick" in each]


def test_now_counts_and_alarms(edge: ConsoleEdge) -> None:
    """Now counts what ended, and shows what is wrong under the names of the alert rules."""
    edge = console_edge(edge.plans, a_failure())
    generation_id = edge.add_generation()
    edge.post(f"/generations/{generation_id}/retry")

    text = edge.get("/", VIEWER).get_data(as_text=True)

    assert is_there(text, "last-hour")
    assert [each["data-code"] for each in elements(text, data_testid="code")] == ["AI_UNAVAILABLE"] * 2
    assert is_there(text, "action")
    assert "AiRetryAttemptsFail" in {each["data-alarm"] for each in elements(text, data_testid="alarm")}


def test_counts_of_now_lead_to_what_they_count(edge: ConsoleEdge) -> None:
    """Each code on Now leads to the generations that failed with it, however long ago they were created."""
    edge = console_edge(edge.plans, a_failure())
    generation_id = edge.add_generation(created_at=datetime.now(UTC) - timedelta(days=3))
    edge.post(f"/generations/{generation_id}/retry")

    links = {
        each["href"] for each in elements(edge.get("/").get_data(as_text=True), tag="a") if "code=" in each["href"]
    }

    assert links
    for link in links:
        text = edge.get(link.removeprefix(PREFIX)).get_data(as_text=True)
        assert [each["data-id"] for each in elements(text, data_testid="generation")] == [str(generation_id)]


def test_failures_are_found_and_counted(edge: ConsoleEdge) -> None:
    """The page of failures lists what the search finds, with its count, and leads on to a plan."""
    generation_id = edge.add_generation(model="small")
    edge.add_generation(model="large")

    text = edge.get("/failures?model=small").get_data(as_text=True)

    assert [each["data-id"] for each in elements(text, data_testid="generation")] == [str(generation_id)]
    assert "<strong>1</strong> failed" in text
    assert is_there(text, "to-recover")


def test_failures_go_on_with_the_next_page(edge: ConsoleEdge) -> None:
    """No generation is shown twice, and none is left out."""
    ids = {str(edge.add_generation()) for _ in range(60)}
    seen: list[str] = []
    path = "/failures"
    while path:
        text = edge.get(path).get_data(as_text=True)
        seen += [each["data-id"] for each in elements(text, data_testid="generation")]
        following = list(elements(text, data_testid="next"))
        path = f"/failures{following[0]['href']}" if following else ""

    assert len(seen) == len(set(seen))
    assert set(seen) == ids


@pytest.mark.parametrize(
    "query", ["since=soon", "user=someone", "until=2026-01-31T00:00", "after=nothing", "code=" + "x" * 300]
)
def test_search_that_can_t_be_used_says_why(edge: ConsoleEdge, query: str) -> None:
    """A filter that can't be read is answered with 400 and the reason."""
    response = edge.get(f"/failures?{query}")

    assert response.status_code == 400
    assert is_there(response.get_data(as_text=True), "problem")


def test_generation_is_explained_without_its_prompt(edge: ConsoleEdge) -> None:
    """The page has why in words, the timeline and the attempts, but neither prompt nor answer."""
    edge = console_edge(edge.plans, a_failure(), show_answers=True)
    generation_id = edge.add_generation()
    edge.post(f"/generations/{generation_id}/retry")

    text = edge.get(f"/generations/{generation_id}", ADMIN).get_data(as_text=True)

    assert f"generation {generation_id}" in text
    assert {"created", "began", "failed"} <= {each["data-what"] for each in elements(text, data_testid="moment")}
    assert is_there(text, "attempt")
    assert PROMPT not in text


def test_retry_by_click(edge: ConsoleEdge) -> None:
    """Retry now makes the session, and the page says so; the attempt and the action carry the operator's name."""
    generation_id = edge.add_generation()

    text = edge.follow(edge.post(f"/generations/{generation_id}/retry", {"waive": "quota", "no_charge": "yes"}))

    assert edge.storage.app.generations[generation_id].status is GenerationStatus.SUCCESS
    assert "It has its session now" in text
    action = edge.client.operate(VIEWER).actions()[0]
    assert (action.operator, action.action, action.reason, action.outcome) == ("otto", "retry", "a test", "done")
    assert "quota" in text
    assert str(ANSWER.output["title"]) not in text


def test_refusal_is_shown_with_its_wait(edge: ConsoleEdge) -> None:
    """A retry that a rule refuses changes nothing, and the page says which rule."""
    edge = console_edge(edge.plans, a_failure(), a_failure())
    generation_id = edge.add_generation()
    edge.post(f"/generations/{generation_id}/retry")

    text = edge.follow(edge.post(f"/generations/{generation_id}/retry"))

    assert [each["class"] for each in elements(text, data_testid="note")] == ["note bad"]


def test_retry_later_and_cancel(edge: ConsoleEdge) -> None:
    """Retry later queues an attempt, and cancel takes it back."""
    generation_id = edge.add_generation()

    queued = edge.follow(edge.post(f"/generations/{generation_id}/enqueue"))
    assert "waits for a worker" in queued
    assert edge.client.queue_state().queued == 1

    edge.follow(edge.post(f"/generations/{generation_id}/cancel"))
    assert edge.client.queue_state().queued == 0


def test_hold_and_open_a_route(edge: ConsoleEdge) -> None:
    """A route that is held is shown with its operator, refuses a click, and opens by hand."""
    held = edge.follow(edge.post("/routes/hold", {"route": ROUTE, "for": "30m"}))
    assert [each["data-route"] for each in elements(held, data_testid="route")] == [ROUTE]
    assert "by otto" in held

    opened = edge.follow(edge.post("/routes/open", {"route": ROUTE}))
    assert is_there(opened, "all-open")


def test_quota_of_a_user_is_set_by_an_admin(edge: ConsoleEdge) -> None:
    """An admin gives a user a quota and takes it back; an operator can't."""
    edge.add_generation()
    form = {"limit": "7", "per": "7d"}

    assert edge.post(f"/users/{edge.user_id}/quota", form, OPERATOR).status_code == 403
    text = edge.follow(edge.post(f"/users/{edge.user_id}/quota", form, ADMIN), ADMIN)
    assert is_there(text, "override")
    text = edge.follow(edge.post(f"/users/{edge.user_id}/quota/reset", {}, ADMIN), ADMIN)
    assert is_there(text, "usual")


def refuse(*_: object) -> NoReturn:
    """Reject a session, as a constraint of the app's does."""
    raise SessionRefused("sessions_title_check")


def test_kept_answer_is_read_only_by_an_admin_where_the_host_says_so(tmp_path: Path) -> None:
    """A kept answer is shown to no one by default, and to admins where the host allows it, on record."""
    closed, shown = console_edge(tmp_path / "a"), console_edge(tmp_path / "b", show_answers=True)
    ids = {}
    for edge in (closed, shown):
        edge.storage.app.create_session = refuse
        ids[edge.plans] = edge.add_generation()
        edge.post(f"/generations/{ids[edge.plans]}/retry")
    at_closed, at_shown = (f"/generations/{each}" for each in ids.values())

    assert not is_there(closed.get(at_closed, ADMIN).get_data(as_text=True), "read-answer")
    assert is_there(shown.get(at_shown, ADMIN).get_data(as_text=True), "read-answer")
    assert closed.post(f"{at_closed}/answer", who=ADMIN).status_code == 403
    assert shown.post(f"{at_shown}/answer", who=OPERATOR).status_code == 403
    read = shown.post(f"{at_shown}/answer", who=ADMIN)
    assert ANSWER.output["title"] in read.get_data(as_text=True)
    assert shown.client.operate(VIEWER).actions()[0].action == "kept_answer"
    dropped = shown.follow(shown.post(f"{at_shown}/discard"))
    assert "The answer is dropped" in dropped


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/routes/hold", {"route": ROUTE, "for": "soon"}),
        ("/routes/hold", {"route": ROUTE, "for": "7d"}),
        ("/routes/hold", {"route": "", "for": "1h"}),
        ("/routes/hold", {"route": ROUTE, "for": "1h", "reason": ""}),
        ("/routes/hold", {"route": ROUTE, "for": "1h", "reason": "x" * 501}),
        ("/routes/hold", {"route": ROUTE, "for": "1h", "reason": "two\nlines"}),
        ("/recover/plan", {"since": "24h", "max_cost": "a lot"}),
        ("/recover/plan", {"since": "", "code": "AI_TIMEOUT"}),
        ("/recover/plan", {"since": "24h", "waive": "everything"}),
        ("/recover/plan", {"since": "24h", "per_user": "-1"}),
    ],
)
def test_form_that_can_t_be_used_does_nothing(edge: ConsoleEdge, path: str, form: dict[str, str]) -> None:
    """It is answered with 400 and the reason, and nothing is recorded."""
    response = edge.post(path, form)

    assert response.status_code == 400
    assert is_there(response.get_data(as_text=True), "problem")
    assert edge.client.operate(VIEWER).actions() == []


def test_users_are_found_by_id(edge: ConsoleEdge) -> None:
    """The search leads to the user's page; what is no id is refused."""
    found = edge.get(f"/users?id={edge.user_id}")

    assert found.headers["Location"] == f"{PREFIX}/users/{edge.user_id}"
    assert edge.get("/users?id=someone").status_code == 400
    assert is_there(edge.get(f"/users/{edge.user_id}").get_data(as_text=True), "remaining")


def test_unknown_generation_is_not_found(edge: ConsoleEdge) -> None:
    """The page of what is not there says so."""
    response = edge.get(f"/generations/{uuid4()}")

    assert response.status_code == 404
    assert "GENERATION_NOT_FOUND" in response.get_data(as_text=True)


def test_books_and_doctor(edge: ConsoleEdge) -> None:
    """Books say whether they balance; a client that can't be examined says what to do instead."""
    text = edge.get("/books?doctor=yes").get_data(as_text=True)

    assert is_there(text, "balanced")
    assert "run ai-retry doctor" in text


def test_everything_is_escaped(edge: ConsoleEdge) -> None:
    """What users, apps and operators write reaches a page as text."""
    evil = '<script>alert("x")</script>'
    generation_id = edge.add_generation(model=evil)
    edge.post("/routes/hold", {"route": evil, "for": "1h", "reason": evil})
    for path in (
        "/",
        f"/generations/{generation_id}",
        "/failures",
        "/routes",
        f"/failures?model={evil}",
        f"/users?id={evil}",
    ):
        assert evil not in edge.get(path).get_data(as_text=True)


def test_megabytes_of_others_are_clipped(edge: ConsoleEdge) -> None:
    """A page stays small, whatever an app keeps; what an operator wrote is shown as a whole."""
    generation_ids = [edge.add_generation(model="m" * 1_000_000) for _ in range(20)]
    why = "w" * 500
    edge.post("/routes/hold", {"route": "r" * 255, "for": "1h", "reason": why})

    for path in ("/", "/failures", f"/generations/{generation_ids[0]}", f"/users/{edge.user_id}", "/routes"):
        assert len(edge.get(path).data) < 100_000, path
    assert why in edge.get("/").get_data(as_text=True)
    assert "r" * 255 in edge.get("/routes").get_data(as_text=True)


def test_refresh_has_a_switch(edge: ConsoleEdge) -> None:
    """Now refreshes itself every ten seconds, more rarely, or not at all."""
    assert "const seconds = 10;" in edge.get("/").get_data(as_text=True)
    assert "const seconds = 60;" in edge.get("/?refresh=60").get_data(as_text=True)
    assert not list(elements(edge.get("/?refresh=0").get_data(as_text=True), tag="script"))


def test_long_waits_are_words() -> None:
    """Durations, costs and unknown values are written for people."""
    assert words.span(timedelta(hours=26, minutes=3)) == "1 d 2 h"
    assert words.span(timedelta(milliseconds=250)) == "250 ms"
    assert words.cost(None) == words.UNKNOWN
    assert words.cost(0.001234) == "0.001234"
    assert words.cost(12) == "12.00"
    assert words.share(1, 0) == words.UNKNOWN


def test_app_of_the_how_to_lets_its_staff_in(edge: ConsoleEdge) -> None:
    """The app of the how-to shows the console to whoever its session names, by role, and to no one else."""
    names = execute(example(REPOSITORY / "docs" / "how-to" / "console.md", "python", "create_console"))
    create_app: Any = names["create_app"]
    browser = create_app(edge.client, KEY).test_client()

    assert browser.get("/ops/ai-retry/").status_code == 404
    with browser.session_transaction() as session:
        session["email"] = "vera@example.com"
    text = browser.get("/ops/ai-retry/").get_data(as_text=True)
    assert "vera@example.com <span>(viewer)</span>" in text
