"""Words and phrases that pages must not have, since a reader would stumble over them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.examples import PAGES
from tools.npm import REPOSITORY

WORDS = REPOSITORY / "tools" / "words.txt"
STUMBLES = (
    r"(?i:\bwhoever\b)",
    r"\b(?:is|are) none of\b",
    r"\b(?:a|A) text (?:refuses|becomes|is)\b",
    r"\bof texts\b",
    r"\bWhose\.",
)


def said(page: Path) -> str:
    """Return what a page says itself, without code and without the table of CONTRIBUTING."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return text.partition("| don't write")[0]


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_page_has_no_phrase_that_is_read_twice(page: Path) -> None:
    """Each sentence names who does something, and what."""
    assert [found for stumble in STUMBLES for found in re.findall(stumble, said(page))] == []


def test_list_of_words_is_enforced(tmp_path: Path) -> None:
    """`make check` finds each word of the list, in a page of this repository, and reports what to write instead."""
    words = [line.partition("->")[0] for line in WORDS.read_text(encoding="utf-8").splitlines()]
    page = tmp_path / "page.md"
    page.write_text("\n".join(words))

    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", str(page)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode > 0
    assert [word for word in words if f": {word} ==>" not in done.stdout] == []
