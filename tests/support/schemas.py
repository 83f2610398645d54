"""The schemas of ``supabase/schemas`` on a database that has the seed's tables."""

import psycopg

from tests.support.npm import REPOSITORY

SCHEMAS = REPOSITORY / "supabase" / "schemas"
_ORDER = ("tables/open", "tables/attempts", "tables/answers", "app", "parts/*", "queue/*", "verbs/*", "grants")


def apply_schemas(connection: psycopg.Connection) -> None:
    """Create everything; PL/pgSQL looks a function's names up when it runs, so that parts have no order."""
    connection.execute("drop table if exists public.ai_retry_attempts cascade")
    for pattern in _ORDER:
        for path in sorted(SCHEMAS.glob(f"{pattern}.sql")):
            connection.execute(path.read_text().encode())
