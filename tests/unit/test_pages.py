"""Generated pages say what the code says."""

from pathlib import Path

import pytest

pytest.importorskip("griffe", reason="pages are generated with the tools of development")

import ai_retry
from ai_retry.domain.errors import AiRetryError
from tools.pages import PAGES
from tools.pages.errors import REMEDIES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_equals_what_the_code_renders(path: Path) -> None:
    """The committed page is the one that `make pages` would write."""
    assert path.read_text(encoding="utf-8") == PAGES[path]()


def test_facade_is_documented() -> None:
    """Every name of ``ai_retry`` is in the reference."""
    page = next(page for page in PAGES if page.name == "python.md").read_text(encoding="utf-8")

    assert [name for name in ai_retry.__all__ if f"`from ai_retry import {name}`" not in page] == []


def test_remedies_are_those_of_codes_that_exist() -> None:
    """No remedy is left of a code that is gone; that each code has one, rendering shows."""
    page = next(page for page in PAGES if page.name == "errors.md").read_text(encoding="utf-8")

    assert all(f"### {code}\n" in page for code in REMEDIES)
    assert AiRetryError.code in REMEDIES
