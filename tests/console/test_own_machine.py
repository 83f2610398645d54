"""`ai-retry console` in a browser: the address that it prints opens it, once, wherever it is clicked."""

from typing import TYPE_CHECKING

import pytest

from tests.console.screens import Screen
from tests.console.test_clicks import serving
from tests.helpers.console_process import running_console

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SETTINGS = {"AI_BASE_URL": "http://127.0.0.1:9/v1", "AI_MODEL": "small"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_address_that_is_clicked_elsewhere(browser: "Browser", migrated_database: str, host: str) -> None:
    """A link on a page of another origin or site opens the console; another browser's second use does not."""
    with running_console({"DATABASE_URL": migrated_database, **SETTINGS}) as console, serving() as (server, pages):
        pages.append(f'<a href="{console.address}">open</a>'.encode())
        screen, other = (Screen(browser, console.origin, who=None) for _ in range(2))
        screen.page.goto(f"http://{host}:{server.server_address[1]}/0")
        screen.page.get_by_role("link").click()
        screen.page.wait_for_selector("main[data-page=now]")
        screen.page.get_by_role("link", name="Failures").click()
        screen.page.wait_for_selector("main[data-page=failures]")
        assert other.open(console.address) == 404
        assert other.open("/") == 404
        assert screen.problems == []
        screen.close()
        other.close()
