"""The browser and its windows; what can't run here is left out, and the summary says so."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.console import chromium, not_run
from tests.console.screens import Screen
from tests.console.stage import Stage, stage_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

collect_ignore_glob = ["test_*"] if not_run() else []


@pytest.fixture(scope="module", autouse=True)
def no_thread_left() -> None:
    """Let Playwright keep its threads: the browser is shared by all modules."""


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it may not be installed

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        yield browser
        browser.close()


@pytest.fixture
def stage(migrated_database: str, tmp_path: Path) -> Iterator[Stage]:
    """A host, a database and a provider for one test."""
    with stage_of(migrated_database, tmp_path) as stage:
        yield stage


@pytest.fixture
def window(browser: "Browser", stage: Stage) -> Iterator[Callable[..., Screen]]:
    """Opens windows on the console, each with an operator signed in; in the end the browser has no complaint."""
    screens: list[Screen] = []

    def opened(who: str | None = "ada.operator", **options: Any) -> Screen:
        screens.append(Screen(browser, stage.console, who=who, **options))
        return screens[-1]

    yield opened
    for screen in screens:
        screen.close()
    assert [problem for screen in screens for problem in screen.problems] == []
