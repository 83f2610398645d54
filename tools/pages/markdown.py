"""The few forms that the generated pages are made of."""

import re
from collections.abc import Iterable, Sequence
from inspect import cleandoc


def notice(source: str) -> str:
    """Say where a page comes from, to those who would edit it: a comment, which no reader of the page sees."""
    return f"<!-- Generated from {source}; edit that, then run `make pages`. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out a table, and an empty line after it."""
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows), ""]


def one_line(text: str) -> str:
    """Fold text to one line."""
    return " ".join(text.split())


def code(text: str) -> str:
    """Mark text as code that a cell of a table can hold; nothing when there is none."""
    return f"`{text.replace(' | ', ' or ').replace('|', ', ')}`" if text else ""


def prose(text: str) -> str:
    """Turn the markup of a docstring into that of a page."""
    return re.sub(r"\s*^::$|::$", ":", cleandoc(text), flags=re.MULTILINE).replace("``", "`")


def page(lines: Iterable[str]) -> str:
    """Join the lines of a page, without two empty ones in a row, other than in code, or at the end."""
    text, code = "\n".join(lines).split("```"), slice(0, None, 2)
    text[code] = [re.sub(r"\n{3,}", "\n\n", each) for each in text[code]]
    return "```".join(text).strip() + "\n"


def _line(cells: Sequence[str]) -> str:
    assert not any("|" in cell for cell in cells), f"a bar within a cell: {cells}"
    return f"| {' | '.join(map(one_line, cells))} |"
