"""The console as a hostile viewer meets it: every action by forged requests, on a real database, under several hosts.

What is sent is right in everything but one thing, and what is right in everything is accepted: so each refusal is for
that one thing. The actions are those that the blueprint has, so that a new one can't be forgotten.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from werkzeug.test import TestResponse

from ai_retry.flask.console.tokens import Note, Tokens
from ai_retry.operate.operator import Operator
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.console_scene import Scene
from tests.helpers.console_visits import HOSTS, SECRET, TOKEN, Host, Submission, Visits
from tests.helpers.world import empty_queue, owner_of
from tools.waiting import eventually

WHY = "the provider is back"
VIEWER, OPERATOR, ADMIN = "vic.viewer", "ada.operator", "ann.admin"
ROUTE = "small at https://provider.example"
STRANGERS = (None, "eve.stranger", "ada.Operator")
EVIL = "https://evil.example"
MEGABYTE = 1_000_000


@pytest.fixture
def scene(core_database: str) -> Iterator[Scene]:
    """The scene, in a database that the tests of this module share."""
    with closing(PostgresStorage(core_database)) as storage, owner_of(core_database) as connection:
        empty_queue(connection)
        scene = Scene(core_database, connection, storage)
        yield scene
        scene.gate.set()
        recoveries_end()
        scene.client.close()


def recoveries_end() -> None:
    """Wait for recoveries that a console has begun in this process."""
    for thread in threading.enumerate():
        if thread.name == "ai-retry-console":
            thread.join(timeout=60)


@dataclass(frozen=True)
class Act:
    """An action as its page offers it."""

    page: str
    submission: Submission


def _on_failed(scene: Scene, visits: Visits, endpoint: str, **fields: str) -> Act:
    return _on_generation(visits, endpoint, scene.failed(), OPERATOR, fields)


def _on_generation(
    visits: Visits, endpoint: str, generation_id: UUID, who: str, fields: Mapping[str, str] | None = None
) -> Act:
    path = visits.address(endpoint, generation_id=generation_id)
    page = visits.address("generation", generation_id=generation_id)
    return Act(page, Submission(path, {"reason": WHY, **(fields or {})}, who=who))


def _on_route(visits: Visits, endpoint: str, **fields: str) -> Act:
    page = visits.address("routes")
    return Act(page, Submission(visits.address(endpoint), {"reason": WHY, "route": ROUTE, **fields}, who=OPERATOR))


def _opening(scene: Scene, visits: Visits) -> Act:
    scene.client.operate(Operator("bob", "operator")).hold_route(ROUTE, seconds=60, reason=WHY)
    return _on_route(visits, "open")


def _on_user(scene: Scene, visits: Visits, endpoint: str, **fields: str) -> Act:
    user_id = scene.owner(scene.failed())
    scene.world.set_quota(user_id, 7, timedelta(days=2))
    page = visits.address("user", user_id=user_id)
    return Act(page, Submission(visits.address(endpoint, user_id=user_id), {"reason": WHY, **fields}, who=ADMIN))


def _planning(scene: Scene, visits: Visits) -> Act:
    user_id = scene.owner(scene.failed())
    fields = {"since": "7d", "user": str(user_id), "waive": "backoff"}
    return Act(visits.address("recover"), Submission(visits.address("plan"), fields, who=OPERATOR))


def _sent(visits: Visits, act: Act) -> str:
    """Do it; return where it leads."""
    done = visits.send(act.submission.with_fields(**visits.tokens(act.page, OPERATOR)))
    assert done.status_code == 303, done.text[:2000]
    return urlsplit(done.location).path


def _on_plan(visits: Visits, endpoint: str, plan_id: str, fields: Mapping[str, str]) -> Act:
    page = visits.address("recovery", plan_id=plan_id)
    return Act(page, Submission(visits.address(endpoint, plan_id=plan_id), fields, who=OPERATOR))


def _starting(scene: Scene, visits: Visits) -> Act:
    plan_id = _sent(visits, _planning(scene, visits)).rpartition("/")[2]
    return _on_plan(visits, "start", plan_id, {"reason": WHY, "confirm": "1", "max_workers": "1"})


def _pausing(scene: Scene, visits: Visits) -> Act:
    scene.gate.clear()  # so that it runs until the test ends
    plan_id = _sent(visits, _starting(scene, visits)).rpartition("/")[2]
    eventually(lambda: scene.ai.calls)
    return _on_plan(visits, "pause", plan_id, {})


def _going_on(scene: Scene, visits: Visits) -> Act:
    planning = _planning(scene, visits)
    plan_id = _sent(visits, planning).rpartition("/")[2]
    scene.world.set_quota(UUID(planning.submission.fields["user"]), 0, timedelta(days=1))  # so that it is left
    _sent(visits, _on_plan(visits, "start", plan_id, {"reason": WHY, "confirm": "1", "max_workers": "1"}))
    recoveries_end()
    return _on_plan(visits, "go_on", plan_id, {"reason": WHY, "max_workers": "1"})


ACTS: Mapping[str, Callable[[Scene, Visits], Act]] = {
    "retry": lambda scene, visits: _on_failed(scene, visits, "retry", waive="backoff"),
    "enqueue": lambda scene, visits: _on_failed(scene, visits, "enqueue"),
    "cancel": lambda scene, visits: _on_generation(visits, "cancel", scene.queued(), OPERATOR),
    "discard": lambda scene, visits: _on_generation(visits, "discard", scene.kept(), OPERATOR),
    "answer": lambda scene, visits: _on_generation(visits, "answer", scene.kept(), ADMIN),
    "hold": lambda _, visits: _on_route(visits, "hold", **{"for": "30m"}),
    "open": _opening,
    "plan": _planning,
    "start": _starting,
    "pause": _pausing,
    "go_on": _going_on,
    "set_quota": lambda scene, visits: _on_user(scene, visits, "set_quota", limit="9", per="24h"),
    "reset_quota": lambda scene, visits: _on_user(scene, visits, "reset_quota"),
}

Attack = Callable[[Submission, Host], Submission]


def _token(who: str, *, key: str = SECRET, age: float = 0.0) -> str:
    return Tokens.of([key], lambda: time.time() - age).form(who.partition(".")[0])


def _note(who: str) -> str:
    return Tokens.of([SECRET], time.time).note(who.partition(".")[0], Note("", is_good=True))


def _tampered(token: str) -> str:
    return token[:-1] + ("0" if token[-1] != "0" else "1")


def _later(token: str) -> str:
    ends, _, rest = token.partition(".")
    return f"{int(ends) + 1}.{rest}"


TOKENS: Mapping[str, Attack] = {
    "without the token": lambda good, _: good.with_fields(**{TOKEN: None}),
    "with an empty token": lambda good, _: good.with_fields(**{TOKEN: ""}),
    "with the token in the address": lambda good, _: good.with_fields(**{TOKEN: None}).but(
        path=f"{good.path}?{TOKEN}={good.fields[TOKEN]}"
    ),
    "with the token in a cookie": lambda good, _: good.with_fields(**{TOKEN: None}).with_headers(
        {"Cookie": f"who={good.who}; {TOKEN}={good.fields[TOKEN]}"}
    ),
    "with another operator's token": lambda good, _: good.with_fields(**{TOKEN: _token("bob.operator")}),
    "with a changed token": lambda good, _: good.with_fields(**{TOKEN: _tampered(good.fields[TOKEN])}),
    "with a token that ends later": lambda good, _: good.with_fields(**{TOKEN: _later(good.fields[TOKEN])}),
    "with an old token": lambda good, _: good.with_fields(**{TOKEN: _token(good.who or "", age=3601)}),
    "with a token by another key": lambda good, _: good.with_fields(**{TOKEN: _token(good.who or "", key="k" * 32)}),
    "with another of our signatures": lambda good, _: good.with_fields(**{TOKEN: _note(good.who or "")}),
    "with two tokens": lambda good, _: good.with_fields(**{TOKEN: ["", good.fields[TOKEN]]}),
    "with a token of no ASCII": lambda good, _: good.with_fields(
        **{TOKEN: f"{good.fields[TOKEN]}\N{LATIN SMALL LETTER DOTLESS I}"}
    ),
}
ORIGINS: Mapping[str, Attack] = {
    "from another site": lambda good, _: good.with_headers(
        {"Origin": EVIL, "Referer": f"{EVIL}/", "Sec-Fetch-Site": "cross-site"}
    ),
    "from another site by an old browser": lambda good, _: good.with_headers(
        {"Origin": EVIL, "Referer": None, "Sec-Fetch-Site": None}
    ),
    "from a page that hides its origin": lambda good, _: good.with_headers(
        {"Origin": "null", "Referer": None, "Sec-Fetch-Site": None}
    ),
    "from an origin that begins like ours": lambda good, host: good.with_headers(
        {"Origin": f"{host.origin}.evil.example", "Sec-Fetch-Site": None}
    ),
    "from another port": lambda good, host: good.with_headers({"Origin": f"{host.origin}:81", "Sec-Fetch-Site": None}),
    "from another scheme": lambda good, host: good.with_headers(
        {"Origin": f"ftp{host.origin[host.origin.index(':') :]}", "Sec-Fetch-Site": None}
    ),
    "from a referer elsewhere": lambda good, _: good.with_headers(
        {"Origin": None, "Referer": f"{EVIL}/console", "Sec-Fetch-Site": None}
    ),
    "from a referer with our name before the @": lambda good, host: good.with_headers(
        {"Origin": None, "Referer": f"{host.origin}@evil.example/", "Sec-Fetch-Site": None}
    ),
    "from a sub-domain": lambda good, _: good.with_headers({"Sec-Fetch-Site": "same-site"}),
    "from a fetch elsewhere": lambda good, _: good.with_headers({"Sec-Fetch-Site": "cross-site"}),
    "typed into the address bar": lambda good, _: good.with_headers({"Sec-Fetch-Site": "none"}),
    "from no browser": lambda good, _: good.with_headers({"Origin": None, "Referer": None, "Sec-Fetch-Site": None}),
    "through a proxy that is none": lambda good, host: good.with_headers(
        {"Origin": EVIL, "Sec-Fetch-Site": None, **({} if host.behind else {"X-Forwarded-Host": "evil.example"})}
    ),
}
SHAPES: Mapping[str, Attack] = {
    "by GET": lambda good, _: good.but(method="GET"),
    "by HEAD": lambda good, _: good.but(method="HEAD"),
    "by PUT": lambda good, _: good.but(method="PUT"),
    "by DELETE": lambda good, _: good.but(method="DELETE"),
    "by a GET that says it is none": lambda good, _: good.but(method="GET").with_headers(
        {"X-HTTP-Method-Override": "POST", "X-Method-Override": "POST"}
    ),
    "as JSON": lambda good, _: good.but(content_type="application/json", body="{}"),
    "as text": lambda good, _: good.but(content_type="text/plain", body=f"{TOKEN}={good.fields[TOKEN]}&reason={WHY}"),
    "as a form with files": lambda good, _: good.but(content_type="multipart/form-data"),
    "with a megabyte": lambda good, _: good.with_fields(reason="x" * MEGABYTE),
    "with a megabyte of fields": lambda good, _: good.but(body="a&" * (MEGABYTE // 2)),
}
REASONS: Mapping[str, Attack] = {
    "with a reason of two lines": lambda good, _: good.with_fields(reason="one\ntwo"),
    "with a long reason": lambda good, _: good.with_fields(reason="x" * 501),
    "with a blank reason": lambda good, _: good.with_fields(reason=" \N{NO-BREAK SPACE}"),
    "without a reason": lambda good, _: good.with_fields(reason=None),
}
READS = ("by GET", "by HEAD", "by a GET that says it is none")
NEEDS_NO_REASON = {"plan", "pause"}  # a plan writes nothing to the database, and a pause can't wait


def everything(scene: Scene, visits: Visits) -> Mapping[str, str]:
    """A fingerprint of all that the console could change: the database, and the directory of its plans.

    How far a run came is left out: it is noted meanwhile.
    """
    files = {each.name: each.read_text() for each in visits.plans.glob("*") if each.suffix in (".json", ".pause")}
    return {**scene.everything(), **files}


REFUSED = {400, 403, 404, 405, 413, 414, 415}


def act_of(scene: Scene, visits: Visits, name: str) -> Act:
    """Prepare an action with everything right: its fields, and the tokens of a page that was just loaded."""
    act = ACTS[name](scene, visits)
    assert act.submission.who is not None
    tokens = visits.tokens(act.page, act.submission.who)
    return Act(act.page, act.submission.with_fields(**tokens))


def check_refused(response: TestResponse, what: str) -> None:
    """A refusal shows nothing of what it refuses, and leads nowhere."""
    assert response.status_code in REFUSED, f"{what}: {response.status}"
    assert "Location" not in response.headers, what
    assert WHY not in response.text, what


@pytest.fixture(params=HOSTS, ids=list(HOSTS))
def visits(request: pytest.FixtureRequest, scene: Scene, tmp_path: Path) -> Visits:
    """A console under each host."""
    return Visits(HOSTS[request.param], scene.client, tmp_path / "plans", show_answers=True)


@pytest.fixture
def plain(scene: Scene, tmp_path: Path) -> Visits:
    """A console in an app that has nothing else."""
    return Visits(HOSTS["plain"], scene.client, tmp_path / "plans", show_answers=True)


def test_every_action_is_attacked_here(plain: Visits) -> None:
    """What the blueprint lets one POST is what the attacks below send."""
    assert set(plain.rules("POST")) == set(ACTS)


@pytest.mark.parametrize("name", ACTS)
def test_forged_requests_change_nothing(scene: Scene, visits: Visits, name: str) -> None:
    """Wrong tokens, origins, methods, shapes and roles are refused, and leave database and plans as they were.

    The right request is not refused.
    """
    act = act_of(scene, visits, name)
    before, called = everything(scene, visits), len(scene.ai.calls)

    reasons = {} if name in NEEDS_NO_REASON else REASONS
    for what, attack in {**TOKENS, **ORIGINS, **SHAPES, **reasons}.items():
        response = visits.send(attack(act.submission, visits.host))
        if not (what in READS and act.submission.path in visits.plain_pages()):  # there it is a page
            check_refused(response, what)
    for who in (VIEWER, OPERATOR) if act.submission.who == ADMIN else (VIEWER,):
        own = act.submission.but(who=who).with_fields(**visits.tokens_of(who))
        response = visits.send(own)
        check_refused(response, who)
        assert response.status_code == 403
    for stranger in STRANGERS:
        response = visits.send(act.submission.but(who=stranger))
        check_refused(response, str(stranger))
        assert len(response.data) < 400  # nothing is there, as far as they learn
    assert everything(scene, visits) == before
    assert len(scene.ai.calls) == called

    accepted = visits.send(act.submission)
    assert accepted.status_code in (200, 303), accepted.text[:2000]
    eventually(lambda: everything(scene, visits) != before)
