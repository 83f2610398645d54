"""Tables for people, in a terminal and in a notebook. The content of a cell may come from anyone."""

import html
import textwrap
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

Row: TypeAlias = Sequence[object]

_LENGTHS = (8, 13, 18, 23)  # of a UUID's beginnings, up to each of its hyphens
_NARROWEST = 8  # characters that a cell keeps
_LEAST_TEXT = 12  # characters of a line, for a text that is broken into lines
_GAP = "  "
_RIGHT = ' style="text-align:right"'


def printable(value: object) -> str:
    """Write a value so that no control character of it can reach the terminal."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.1f} s"
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value))


def short_ids(ids: Collection[UUID]) -> dict[UUID, str]:
    """Shorten ids to their beginnings, as long as needed to distinguish them: at least 8 characters."""
    different = set(ids)
    for length in _LENGTHS:
        if len({str(each)[:length] for each in different}) == len(different):
            return {each: str(each)[:length] for each in different}
    return {each: str(each) for each in different}


def text_table(header: Sequence[str], rows: Sequence[Row], *, width: int | None = None, whole: bool = False) -> str:
    """Put columns side by side, numbers to the right; where they don't fit at all, below each other.

    Args:
        header: names of the columns.
        rows: their cells.
        width: characters of a line; the widest columns are clipped to fit, each to 8 at least. None: as wide as it is.
        whole: clip no cell; where they don't fit, put columns below each other.
    """
    if not fits(header, rows, width, whole=whole):
        return _stacked(header, rows, width)
    right = _numeric(header, rows)
    cells = _cells(header, rows)
    widths = _fitting(_widths(cells), width)
    return "\n".join(
        _GAP.join(
            clipped.rjust(size) if number else clipped.ljust(size)
            for cell, size, number in zip(row, widths, right, strict=True)
            for clipped in [_clipped(cell, size)]
        ).rstrip()
        for row in cells
    )


def under_days(table: str, days: Sequence[str]) -> str:
    """Put the day of its rows above the first row of each day.

    Args:
        table: a line for the header, and one for each row.
        days: of the rows, in their order.
    """
    header, *lines = table.splitlines()
    text, day = [header], ""
    for its_day, line in zip(days, lines, strict=True):
        if its_day != day:
            text.append(its_day)
            day = its_day
        text.append(line)
    return "\n".join(text)


def fits(header: Sequence[str], rows: Sequence[Row], width: int | None, *, whole: bool = False) -> bool:
    """Whether columns side by side fit a line, once they are clipped as far as they may be."""
    narrowest = [each if whole else min(each, _NARROWEST) for each in _widths(_cells(header, rows))]
    return width is None or sum(narrowest) + len(_GAP) * (len(narrowest) - 1) <= width


def _stacked(header: Sequence[str], rows: Sequence[Row], width: int | None) -> str:
    """Write each row as a block, a line for each of its cells."""
    names = max(map(len, header))
    blocks = (
        "\n".join(
            hanging(f"{name:<{names}}{_GAP}", printable(cell), width) for name, cell in zip(header, row, strict=True)
        )
        for row in rows
    )
    return "\n\n".join(blocks)


def _cells(header: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    return [list(header), *([printable(each) for each in row] for row in rows)]


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def hanging(head: str, text: str, width: int | None) -> str:
    """Write a text behind its head; lines of more than so many characters go on below the text's beginning."""
    if width is None or width - len(head) < _LEAST_TEXT:
        return f"{head}{text}".rstrip()
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) or head.rstrip()


def html_table(header: Sequence[str], rows: Sequence[Row], *, caption: str = "", footer: str = "") -> str:
    """Build a table for a notebook, numbers to the right; every string is escaped."""
    right = _numeric(header, rows)

    def cells(tag: str, row: Row) -> str:
        return "".join(
            f"<{tag}{_RIGHT if number else ''}>{html.escape(printable(each))}</{tag}>"
            for each, number in zip(row, right, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{cells('th', header)}</tr></thead>"
        f"<tbody>{body}</tbody></table>" + (f"<p>{html.escape(footer)}</p>" if footer else "")
    )


def _numeric(header: Sequence[str], rows: Sequence[Row]) -> list[bool]:
    """Say of each column whether it holds numbers only."""
    columns = [[row[place] for row in rows if row[place] is not None] for place in range(len(header))]
    return [bool(column) and all(map(_is_number, column)) for column in columns]


def _is_number(value: object) -> bool:
    return isinstance(value, int | Decimal | timedelta) and not isinstance(value, bool)


def _fitting(widths: list[int], width: int | None) -> list[int]:
    """Take from the widest columns until a line fits, or all are as narrow as they may be."""
    while width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _clipped(cell: str, size: int) -> str:
    return cell if len(cell) <= size else f"{cell[: size - 1]}…"
