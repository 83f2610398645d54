"""The browser, and what can't run here is left out; the summary says so."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.console import chromium, not_run

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
