"""Tables for people, in a terminal and in a notebook. The content of a cell may come from anyone."""

import html
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

Row: TypeAlias = Sequence[object]


def printable(value: object) -> str:
    """Write a value so that no control character of it can reach the terminal."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.1f} s"
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value))


def text_table(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Put columns side by side."""
    cells = [list(header), *([printable(each) for each in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def html_table(header: Sequence[str], rows: Sequence[Row], *, caption: str = "", footer: str = "") -> str:
    """Make a table for a notebook; every text is escaped."""

    def cells(tag: str, row: Row) -> str:
        return "".join(f"<{tag}>{html.escape(printable(each))}</{tag}>" for each in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{cells('th', header)}</tr></thead>"
        f"<tbody>{body}</tbody></table>" + (f"<p>{html.escape(footer)}</p>" if footer else "")
    )
