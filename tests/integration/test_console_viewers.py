"""What the console's pages show to whom, on a real database: nothing to strangers, no secret, no markup of others'.

Pages are those that the blueprint has, so that a new one can't be forgotten.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb
from werkzeug.test import TestResponse

from ai_retry.operate.operator import Operator
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.console_scene import Scene
from tests.helpers.console_visits import HOSTS, Submission, Visits
from tests.helpers.html_pages import HtmlPage
from tests.helpers.world import empty_queue, owner_of
from tools import log_scan
from tools.log_scan import LogScan
from tools.outage import failed_generations

VIEWER, OPERATOR, ADMIN = "vic.viewer", "ada.operator", "ann.admin"
EVIL = "https://evil.example"
MEGABYTE = 1_000_000
PAGE_BYTES = 300_000  # no page is larger, whatever is in the database
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
POLICY = re.compile(r"default-src 'none'.*frame-ancestors 'none'")
NONSENSE = (
    "-1",
    "0",
    "9" * 40,
    "1e999",
    "NaN",
    "9999999d",
    "99999999999999999h",
    "\x00",
    "\uffff",
    "%",
    "'",
    "..",
    "[]",
)
ASKED = {  # which words of the query a page reads
    "now": ("refresh", "said"),
    "failures": ("code", "model", "user", "since", "until", "after"),
    "recover": ("code", "model", "user", "since", "until"),
    "recovery": ("refresh",),
    "routes": ("route",),
    "users": ("id",),
    "books": ("since", "doctor"),
}


@pytest.fixture
def scene(core_database: str) -> Iterator[Scene]:
    """Generations in every state, in a database that the tests of this module share."""
    with closing(PostgresStorage(core_database)) as storage, owner_of(core_database) as connection:
        empty_queue(connection)
        scene = Scene(core_database, connection, storage)
        yield scene
        scene.client.close()


@pytest.fixture
def alone(migrated_database: str) -> Iterator[Scene]:
    """A scene in a database of one's own, for what would disturb the other tests."""
    with closing(PostgresStorage(migrated_database)) as storage, owner_of(migrated_database) as connection:
        scene = Scene(migrated_database, connection, storage)
        yield scene
        scene.client.close()


def visits_to(scene: Scene, plans: Path) -> Visits:
    """A console in an app that has nothing else."""
    return Visits(HOSTS["plain"], scene.client, plans, show_answers=True)


@pytest.fixture
def visits(scene: Scene, tmp_path: Path) -> Visits:
    """A console in an app that has nothing else."""
    return visits_to(scene, tmp_path / "plans")


def fill(scene: Scene, visits: Visits) -> Mapping[str, str]:
    """Let there be something on every page; return the addresses of the pages, by endpoint."""
    failed, kept = scene.failed(), scene.kept()
    scene.queued()
    ada = scene.client.operate(Operator("ada", "admin"))
    ada.hold_route("small at https://provider.example", seconds=600, reason="the provider is down")
    user_id = scene.owner(failed)
    ada.set_quota(user_id, limit=9, per=timedelta(hours=24), reason="a good customer")
    plan = plan_of(visits, user=str(user_id))
    return addresses(visits, failed, user_id, plan) | {"kept": visits.address("generation", generation_id=kept)}


def plan_of(visits: Visits, **fields: str) -> str:
    """Make a plan by its form; return its id."""
    tokens = visits.tokens(visits.address("recover"), OPERATOR)
    made = visits.send(Submission(visits.address("plan"), {"since": "7d", **fields, **tokens}))
    assert made.status_code == 303, made.text[:2000]
    return str(made.location.partition("?")[0].rstrip("/").rpartition("/")[2])


def addresses(visits: Visits, generation_id: UUID, user_id: UUID, plan_id: str) -> dict[str, str]:
    """Where each page is, by its endpoint."""
    ids = {"generation_id": generation_id, "user_id": user_id, "plan_id": plan_id}
    named = {endpoint: re.findall(r"(\w+)>", rule) for endpoint, rule in visits.rules("GET").items()}
    return {
        endpoint: visits.address(endpoint, **{name: ids[name] for name in names if name in ids})
        for endpoint, names in named.items()
    }


def test_reading_changes_nothing(scene: Scene, visits: Visits) -> None:
    """Whoever follows every link of every page, as an admin, leaves database and plans as they were."""
    pages = fill(scene, visits)
    before, plans = scene.everything(), {each: each.read_bytes() for each in visits.plans.iterdir()}

    seen = [(endpoint, response.status_code) for endpoint, _, response in visits.crawl(ADMIN, *pages.values())]

    assert {endpoint for endpoint, _ in seen} == set(visits.rules("GET"))
    assert {status for _, status in seen} == {200}
    assert scene.everything() == before
    assert {each: each.read_bytes() for each in visits.plans.iterdir()} == plans


def test_strangers_see_nothing(scene: Scene, visits: Visits) -> None:
    """Whom the host does not know gets the same answer to every page, there or not, and learns nothing from it."""
    pages = fill(scene, visits)
    nowhere = visits.address("generation", generation_id=uuid4())

    answers = {visits.get(path, who).data for path in (*pages.values(), nowhere) for who in (None, "eve.stranger")}
    statuses = {visits.get(path, None).status_code for path in (*pages.values(), nowhere)}

    assert (len(answers), statuses) == (1, {404})
    assert len(answers.pop()) < 100


@pytest.mark.parametrize("name", HOSTS)
def test_other_sites_can_not_read(scene: Scene, tmp_path: Path, name: str) -> None:
    """A script of another site gets no page, not even where the host lets every site in; a link from there does."""
    visits = Visits(HOSTS[name], scene.client, tmp_path / "plans")
    page = visits.address("now")

    by_script = [
        visits.get(page, OPERATOR, {"Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}),
        visits.get(page, OPERATOR, {"Origin": EVIL, "Sec-Fetch-Site": "", "Sec-Fetch-Mode": ""}),
        visits.get(page, OPERATOR, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
        visits.get(page, OPERATOR, {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}),
    ]
    by_link = visits.get(page, OPERATOR, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})

    assert [each.status_code for each in by_script] == [403] * 4
    assert all("data-page" not in each.text or 'data-page="problem"' in each.text for each in by_script)
    assert by_link.status_code == 200


@pytest.mark.parametrize("name", HOSTS)
def test_every_answer_is_guarded(scene: Scene, tmp_path: Path, name: str) -> None:
    """Pages, refusals and redirects carry the policy: no script but ours, which has a nonce, no frame, no cache."""
    visits = Visits(HOSTS[name], scene.client, tmp_path / "plans", show_answers=True)
    pages = fill(scene, visits)
    answers = [visits.get(path, who) for path in pages.values() for who in (ADMIN, VIEWER, None)]
    answers.append(visits.get(pages["now"], ADMIN, {"Origin": EVIL}))
    answers.append(visits.get(visits.address("users", id=str(uuid4())), ADMIN))

    nonces = [check_guarded(each) for each in answers]

    used = [nonce for nonce in nonces if nonce]
    assert len(used) == len(set(used)) > len(pages)  # a new one for each


def check_guarded(response: TestResponse) -> str | None:
    """Check headers and scripts of an answer; return its nonce."""
    headers = response.headers
    policy = headers["Content-Security-Policy"]
    assert POLICY.search(policy), policy
    assert "unsafe" not in policy
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert headers["Referrer-Policy"] in ("same-origin", "no-referrer", "strict-origin")
    nonce = re.search(r"script-src 'nonce-([\w-]{20,})'", policy)
    page = HtmlPage(response.text)
    assert page.handlers == []
    assert all(nonce is not None and each == nonce[1] for each in page.scripts)
    return nonce[1] if nonce else None


def test_viewers_are_offered_nothing(scene: Scene, visits: Visits) -> None:
    """To a viewer no page shows a form that acts; to an operator none that only an admin may send."""
    pages = fill(scene, visits)

    def offered(who: str) -> set[str]:
        forms = [form for path in pages.values() for form in visits.page(path, who).forms]
        return {form.action.rpartition("/")[2] for form in forms if form.method == "post"}

    assert offered(VIEWER) == set()
    assert offered(ADMIN) - offered(OPERATOR) >= {"answer", "quota", "reset"}
    assert offered(OPERATOR) - offered(ADMIN) == set()


def test_no_prompt_and_no_answer_is_shown(scene: Scene, visits: Visits) -> None:
    """No page shows a prompt, an answer or the app's own error message, not even to an admin who asks for none."""
    pages = fill(scene, visits)
    failed_generations(scene.connection, 3)

    texts = [response.text for _, _, response in visits.crawl(ADMIN, *pages.values())]

    assert len(texts) > len(pages)
    for secret in ("Plan an easy run", "Easy run", "a prompt that no log may hold", "own words"):
        assert [text for text in texts if secret in text] == []


def test_markup_of_others_stays_text(scene: Scene, visits: Visits) -> None:
    """Models, codes, routes, reasons, names and request ids are escaped: no page gets a script of theirs."""
    generation_id = scene.failed()
    scene.world.set_generation(generation_id, model=MARKUP)
    failed_generations(scene.connection, 2, code=MARKUP, model=MARKUP)
    scene.connection.execute(
        "update public.ai_retry_attempts set reason = %(markup)s, cause = %(markup)s, operator = %(markup)s,"
        " request_id = left(%(markup)s, 64), route = %(markup)s where generation_id = %(id)s",
        {"markup": MARKUP, "id": generation_id},
    )
    operations = scene.client.operate(Operator(MARKUP, "admin"))
    operations.hold_route(MARKUP, seconds=60, reason=MARKUP)
    operations.set_quota(scene.owner(generation_id), limit=3, per=timedelta(hours=1), reason=MARKUP)
    plan_id = plan_of(visits, model=MARKUP)
    pages = addresses(visits, generation_id, scene.owner(generation_id), plan_id)
    pages["asked"] = visits.address("failures", code=MARKUP, model=MARKUP, user=MARKUP, since=MARKUP)
    pages["said"] = visits.address("now", said=MARKUP)

    shown = 0
    for path in pages.values():
        response = visits.get(path, ADMIN)
        check_guarded(response)
        assert "<script>alert" not in response.text
        assert "<img" not in response.text
        assert "}}" not in response.text or "{{7*7}}" in response.text
        shown += "&lt;script&gt;" in response.text

    assert shown >= 5  # it was there to be escaped


def test_pages_stay_small_whatever_is_stored(alone: Scene, tmp_path: Path) -> None:
    """A megabyte in every column that an app fills, and more rows than a page shows, leave each page small."""
    visits, long = visits_to(alone, tmp_path / "plans"), "x" * MEGABYTE
    ids = failed_generations(alone.connection, 60, users=2, code=long, model=long)
    alone.world.set_generation(ids[0], prompt_data=Jsonb({"a": long}))
    user_id = alone.owner(ids[0])
    plan_id = plan_of(visits, user=str(user_id))
    pages = addresses(visits, ids[0], user_id, plan_id)

    sizes = {}
    for endpoint, path in pages.items():
        began = time.perf_counter()
        response = visits.get(path, ADMIN)
        print(f"{endpoint}: {len(response.data) / 1000:.0f} kB in {(time.perf_counter() - began) * 1000:.0f} ms")
        assert response.status_code == 200
        sizes[endpoint] = len(response.data)

    assert {endpoint: size for endpoint, size in sizes.items() if size > PAGE_BYTES} == {}


def test_megabytes_are_refused(scene: Scene, visits: Visits) -> None:
    """An address or a cookie of a megabyte is answered with a refusal that repeats none of it."""
    pages = fill(scene, visits)
    long = "x" * MEGABYTE

    for endpoint, path in pages.items():
        response = visits.get(f"{path}?since={long}", ADMIN)
        assert response.status_code == 414, endpoint
        assert len(response.data) < 20_000


def test_nonsense_is_refused_and_not_an_error(scene: Scene, visits: Visits) -> None:
    """Whatever a query or a form says, the answer is a page or a refusal, never an internal error."""
    pages = fill(scene, visits)
    tokens = visits.tokens(pages["recover"], OPERATOR)
    user = visits.address("set_quota", user_id=scene.owner(scene.failed()))
    statuses: dict[tuple[Any, ...], int] = {}
    for word in NONSENSE:
        for endpoint, names in ASKED.items():
            for name in names:
                answer = visits.get(f"{pages[endpoint]}?{name}={quote(word)}", ADMIN)
                statuses[endpoint, name, word] = answer.status_code
        for name in ("since", "until", "user", "per_user", "max_cost", "waive"):
            sent = Submission(visits.address("plan"), {"since": "1h", **tokens, name: word})
            statuses["plan", name, word] = visits.send(sent).status_code
        for name in ("route", "for"):
            fields = {"route": "x", "for": "1m", "reason": "a test", **tokens, name: word}
            statuses["hold", name, word] = visits.send(Submission(visits.address("hold"), fields)).status_code
        for name in ("limit", "per"):
            fields = {"limit": "1", "per": "1h", "reason": "a test", **visits.tokens(pages["user"], ADMIN), name: word}
            statuses["quota", name, word] = visits.send(Submission(user, fields, who=ADMIN)).status_code

    assert {asked: status for asked, status in statuses.items() if status not in (200, 303, 400, 429)} == {}


def test_pages_are_read_by_the_scan_of_logs(alone: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no log may hold is found on a page, too."""
    prompt = "a prompt that no log may hold"
    visits = visits_to(alone, tmp_path / "plans")
    alone.client.operate(Operator("ada", "operator")).hold_route(f"{prompt}/small", seconds=2, reason="a test")
    mine = LogScan()
    monkeypatch.setattr(log_scan, "SCAN", mine)

    assert prompt in visits.get(visits.address("routes"), VIEWER).text

    assert [each.partition(":")[0] for each in mine.findings] == ["a prompt in the log"]
