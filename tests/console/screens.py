"""A browser's window on the console, and what may be asked of the page in it."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from tests.helpers.console_host import COOKIE
from tools.npm import REPOSITORY, install_node_packages

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

Scheme = Literal["light", "dark"]

WIDTHS = {390: 844, 1280: 800}  # a phone and a laptop, with their heights
SERIOUS = ("serious", "critical")
_MANIFEST = REPOSITORY / "tools" / "node_axe"
_AXE = """
async () => (await axe.run(document, {
  resultTypes: ["violations"],
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
})).violations
"""
_TOO_WIDE = """
() => [...document.querySelectorAll("body *")]
  .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .filter(each => !each.closest("[data-scrolls]"))
  .slice(0, 5).map(each => each.outerHTML.slice(0, 120))
"""


@cache
def axe_script() -> str:
    """Return axe-core, the checks of accessibility."""
    return (install_node_packages(manifest=_MANIFEST) / "axe-core" / "axe.min.js").read_text()


class Screen:
    """A window in which one person is signed in.

    Attributes:
        page: Playwright's.
        problems: what the browser complained of: errors in scripts, what the policy blocked, requests that failed.
    """

    def __init__(
        self,
        browser: "Browser",
        console: str,
        *,
        who: str | None,
        width: int = 1280,
        scheme: Scheme = "light",
    ) -> None:
        self.console, self.problems = console, list[str]()
        self._context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme, reduced_motion="reduce"
        )
        if who is not None:
            self._context.add_cookies([{"name": COOKIE, "value": who, "url": console}])
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("console", self._said)

    def open(self, path: str = "/") -> int:
        """Go to a page of the console, by its path there or its whole address; return the status."""
        response = self.page.goto(path if urlsplit(path).scheme else self.console + path)
        assert response is not None
        status: int = response.status
        return status

    def by(self, testid: str) -> "Locator":
        """Find what has this test id."""
        return self.page.get_by_test_id(testid)

    def text(self) -> str:
        """What is to be read on the page."""
        text: str = self.page.inner_text("body")
        return text

    def number(self, testid: str) -> int:
        """The number that is to be read there."""
        return _whole(self.by(testid).first.inner_text())

    def number_in(self, testid: str, within: str) -> int:
        """The number that is to be read at the second test id within the first."""
        return _whole(self.by(testid).get_by_test_id(within).first.inner_text())

    def too_wide(self) -> Sequence[str]:
        """What sticks out of the window, where the body scrolls sideways."""
        wide = self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        return self.page.evaluate(_TOO_WIDE) or ["the page"] if wide else []

    def findings(self) -> Sequence[str]:
        """What axe-core finds serious: its rule and where."""
        self.page.evaluate(axe_script())  # not subject to the page's policy, which stays in force
        found: Sequence[Mapping[str, Any]] = self.page.evaluate(_AXE)
        return [
            f"{each['id']} ({each['impact']}): {node['html'][:160]}"
            for each in found
            for node in each["nodes"]
            if each["impact"] in SERIOUS
        ]

    def picture(self, path: Path, *, height: int) -> None:
        """Keep the page's upper part, in few colours: the documentation shows it."""
        from PIL import Image  # noqa: PLC0415 - only here

        size = self.page.viewport_size
        assert size is not None
        tall = min(height, self.page.evaluate("document.documentElement.scrollHeight"))
        png = self.page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": size["width"], "height": tall})
        Image.open(BytesIO(png)).convert("RGB").quantize(64).save(path, optimize=True)

    def close(self) -> None:
        """Close the window."""
        self._context.close()

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")


def _whole(text: str) -> int:
    """Read the first number of a text, its thousands apart."""
    found = re.search(r"\d[\d,]*", text)
    assert found, f"no number in {text!r}"
    return int(found[0].replace(",", ""))
