"""The manifest of the migrations, out of the catalogue of a new database."""

from collections.abc import Mapping
from typing import Any

import psycopg

from tools.manifest import manifest
from tools.migration import APP, MIGRATIONS, OURS


def manifest_of(database_url: str) -> Mapping[str, Any]:
    """Apply the migrations to a database that has none; return what is there."""
    texts = {each.name: (MIGRATIONS / each.name).read_text(encoding="utf-8") for each in (OURS, APP)}
    with psycopg.connect(database_url, autocommit=True) as connection:

        def applied(name: str) -> Mapping[str, Any]:
            connection.execute(texts[name].encode())
            with connection.transaction():
                connection.execute("set local role service_role")
                (facts,) = connection.execute("select public.ai_retry_inspect()").fetchone() or ({},)
            return dict(facts)

        return manifest(texts, applied)
