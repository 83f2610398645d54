"""Every page on a phone and on a laptop, light and dark: nothing sticks out, and axe-core finds nothing serious."""

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import pytest

import ai_retry
from ai_retry.config import Settings
from ai_retry.domain.errors import SessionRejected
from ai_retry.flask.console.blueprint import PAGES
from ai_retry.operate.operator import Operator
from ai_retry.testing.ai import ScriptedAiProvider
from tests.console.screens import WIDTHS, Screen
from tests.console.stage import Stage, stage_of
from tests.helpers.queue_steps import accept, an_outage, put_back, run
from tests.helpers.steps import begin, fail, succeed
from tools.npm import REPOSITORY
from tools.outage import failed_generations
from tools.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PICTURES = REPOSITORY / "docs" / "console"
PICTURED = {  # with PICTURES=1 these are drawn anew, so high
    ("now", 390, "light"): 1500,
    ("now", 1280, "dark"): 1000,
    ("failures", 1280, "light"): 900,
    ("generation", 390, "dark"): 1500,
    ("recovery", 1280, "light"): 1000,
    ("routes", 390, "light"): 1500,
}
WAIT = timedelta(minutes=20)


@pytest.fixture(scope="module")
def furnished(
    core_database: str, tmp_path_factory: pytest.TempPathFactory, browser: "Browser"
) -> Iterator["Furnished"]:
    """A night with everything that can go wrong."""
    with stage_of(core_database, tmp_path_factory.mktemp("furnished")) as stage:
        yield Furnished(stage, browser)


class Furnished:
    """A stage with something on every page.

    Attributes:
        stage: the stage.
        pages: the address of each page, by its endpoint.
    """

    def __init__(self, stage: Stage, browser: "Browser") -> None:
        self.stage, world = stage, stage.world
        fail_lately = partial(
            failed_generations, stage.connection, ago=timedelta(minutes=50), spread=timedelta(minutes=40)
        )
        fail_lately(60, users=25)
        fail_lately(25, users=12, code="AI_TIMEOUT", status="timeout")
        fail_lately(9, code="AI_INCOMPLETE", model="large-with-a-long-name-2026-11")
        for _ in range(7):
            succeed(world, begin(world, user := world.new_user(), world.new_generation(user)))
        self.user_id = world.new_user()
        self.generation_id = world.new_generation(self.user_id, age=timedelta(minutes=30))
        for _ in range(2):
            fail(world, begin(world, self.user_id, self.generation_id, route="small at 127.0.0.1"))
        self._reject(self.generation_id)
        self._wait(world.new_user())
        self._operate()
        self.plan_id = self._recover(browser)
        ids = {"generation_id": self.generation_id, "user_id": self.user_id, "plan_id": self.plan_id}
        self.pages = {endpoint: _filled(rule, ids) for endpoint, (rule, _) in PAGES.items()}

    def _reject(self, generation_id: UUID) -> None:
        begun = begin(self.stage.world, self.user_id, generation_id)
        self.stage.world.refuse_sessions("sessions_title_check")
        with pytest.raises(SessionRejected):
            succeed(self.stage.world, begun)
        self.stage.world.refuse_sessions(None)

    def _wait(self, user_id: UUID) -> None:
        world = self.stage.world
        ids = [world.new_generation(user_id) for _ in range(3)]
        for generation_id in ids:
            accept(world, user_id, generation_id)
        put_back(world, run(world, user_id, ids[0], route="small at 127.0.0.1"), outage=an_outage(WAIT))

    def _operate(self) -> None:
        settings = Settings.from_env({"DATABASE_URL": self.stage.env["DATABASE_URL"]}, asks_provider=False)
        with ai_retry.connect(settings, ai=ScriptedAiProvider()) as client:
            ann = client.operate(Operator("ann@example.com", "admin"))
            ann.hold_route("large at openrouter.ai", seconds=1800, reason="The provider announced maintenance until 4.")
            ann.set_quota(self.user_id, limit=20, per=timedelta(hours=24), reason="Ticket 4711: paid for more.")

    def _recover(self, browser: "Browser") -> str:
        screen = Screen(browser, self.stage.console, who="ada.operator")
        screen.open("/recover")
        screen.page.get_by_label("Code").fill("AI_TIMEOUT")
        screen.by("plan").click()
        screen.by("confirm").fill("25")
        screen.page.get_by_label("Reason").fill("The provider is back.")
        screen.by("start").click()
        eventually(lambda: screen.open(screen.page.url) and screen.by("state").get_attribute("data-state") == "done")
        plan_id = screen.page.url.partition("?")[0].rpartition("/")[2]
        screen.close()
        return str(plan_id)


def _filled(rule: str, ids: Mapping[str, object]) -> str:
    for name, value in ids.items():
        rule = rule.replace(f"<uuid:{name}>", str(value)).replace(f"<{name}>", str(value))
    return rule


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_and_can_be_used(
    browser: "Browser", furnished: Furnished, width: int, scheme: Literal["light", "dark"]
) -> None:
    """No page scrolls sideways, has a serious finding or makes the browser complain; nor with all details open."""
    screen = Screen(browser, furnished.stage.console, who="ann.admin", width=width, scheme=scheme)
    found: dict[str, object] = {}
    for endpoint, path in {**furnished.pages, "problem": "/recover/0"}.items():
        status = screen.open(path)
        assert status == (404 if endpoint == "problem" else 200), endpoint
        assert screen.page.locator("main").get_attribute("data-page") == endpoint
        height = PICTURED.get((endpoint, width, scheme))
        if os.environ.get("PICTURES") and height is not None:
            screen.picture(PICTURES / f"{endpoint}-{width}-{scheme}.png", height=height)
        found[endpoint] = screen.too_wide()
        screen.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found[f"{endpoint}, all open"] = [*screen.too_wide(), *screen.findings()]
    problems = [each for each in screen.problems if "404" not in each]
    screen.close()

    assert {name: each for name, each in found.items() if each} == {}
    assert problems == []


def test_pages_can_be_used_by_keyboard(browser: "Browser", furnished: Furnished) -> None:
    """The first stop of Tab leads past the navigation, every stop is visible, and a form is opened and sent by keys."""
    screen = Screen(browser, furnished.stage.console, who="ada.operator", width=390)
    screen.open(furnished.pages["generation"])
    keys = screen.page.keyboard

    keys.press("Tab")
    first = screen.page.evaluate("document.activeElement.getAttribute('href')")
    outlines = []
    for _ in range(12):
        keys.press("Tab")
        outlines.append(screen.page.evaluate(_FOCUS_IS_SEEN))
    screen.by("discard-open").focus()
    keys.press("Enter")
    is_open = screen.by("discard").is_visible()
    screen.close()

    assert first == "#main"
    assert all(outlines)
    assert is_open


_FOCUS_IS_SEEN = """
() => {
  const style = getComputedStyle(document.activeElement), box = document.activeElement.getBoundingClientRect();
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 && box.width > 0 && box.height > 0;
}
"""
