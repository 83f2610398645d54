"""Generated pages say what the code says."""

import re
from pathlib import Path

import pytest

pytest.importorskip("griffe", reason="pages are generated with the tools of development")

import ai_retry
from ai_retry.domain.errors import AiRetryError
from tools.pages import PAGES
from tools.pages.errors import REMEDIES, WHO


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_equals_what_the_code_renders(path: Path) -> None:
    """The committed page is the one that `make pages` would write."""
    assert path.read_text(encoding="utf-8") == PAGES[path]()


def test_facade_is_documented() -> None:
    """Every name of ``ai_retry`` has an entry on one of the two pages, or a row in the table of errors."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.name.startswith("python-"))

    rows = re.findall(r"^\| `(\w+)` \| `\w+` \| .*errors\.md|^\| `(\w+)` \| `AiRetryError` ", text, flags=re.MULTILINE)
    entries = re.findall(r"`from ai_retry import (\w+)`", text) + [name or base for name, base in rows]
    assert sorted(entries) == sorted(ai_retry.__all__)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_readers_see_no_note_for_contributors(path: Path) -> None:
    """Where a page is generated from, only its source says: in a comment."""
    text = path.read_text(encoding="utf-8")

    assert "<!-- Generated from " in text
    assert "make pages" not in re.sub("<!--.*?-->", "", text)


def test_remedies_are_those_of_codes_that_exist() -> None:
    """No remedy is left of a code that is gone; that each code has one, rendering shows."""
    page = next(page for page in PAGES if page.name == "errors.md").read_text(encoding="utf-8")

    assert all(f"### {code}\n" in page for code in REMEDIES)
    assert AiRetryError.code in REMEDIES
    assert REMEDIES.keys() == WHO.keys()
