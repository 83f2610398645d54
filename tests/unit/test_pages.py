"""Generated pages say what the code says."""

from pathlib import Path

import pytest

from tests.support.pages import PAGES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_equals_what_the_code_renders(path: Path) -> None:
    """The committed page is the one that `make pages` would write."""
    assert path.read_text(encoding="utf-8") == PAGES[path]()
