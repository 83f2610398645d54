"""The query of docs/books.md that proves the quota books, as a reader finds it there."""

import re
from uuid import UUID

import psycopg

from tools.npm import REPOSITORY


def violations(connection: psycopg.Connection) -> list[tuple[str, UUID]]:
    """Run the documented query: what is violated, and by which generation; nothing when the books balance."""
    page = (REPOSITORY / "docs" / "books.md").read_text()
    query = re.findall(r"^```sql\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)[0]
    return list(connection.execute(str(query).encode()).fetchall())
