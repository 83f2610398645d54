"""`make migration`: writes the two migrations out of ``supabase/schemas``, which is the only source of the SQL.

With them it writes the manifest of what they create, which the doctor compares databases with.

Files are put together as they are, but that what is there already is kept: tables, indexes and the app's own objects
stay, and functions of ours are replaced. So either migration may be applied first, and applying both again changes
nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.manifest import MANIFEST, written

_SUPABASE: Final = Path(__file__).resolve().parents[1] / "supabase"
SCHEMAS: Final = _SUPABASE / "schemas"
MIGRATIONS: Final = _SUPABASE / "migrations"

# How a statement of a schema begins, and how it begins in a migration.
_KEEPING: Final = (
    (re.compile(r"^create function ", re.MULTILINE), "create or replace function "),
    (re.compile(r"^create view ", re.MULTILINE), "create or replace view "),
    (re.compile(r"^create table ", re.MULTILINE), "create table if not exists "),
    (re.compile(r"^create (unique )?index ", re.MULTILINE), r"create \1index if not exists "),
)
_FUNCTION: Final = re.compile(r"^(?=create function )", re.MULTILINE)
_TABLE: Final = re.compile(r"^create table (\S+)", re.MULTILINE)
_APPS_OWN: Final = "exception when duplicate_function then\n  null;  -- the app's own stays\n"
_LIMITS: Final = "set lock_timeout = '5s';\nset statement_timeout = '60s';\n"
_RESET: Final = "reset lock_timeout;\nreset statement_timeout;\n"


@dataclass(frozen=True, slots=True)
class Migration:
    """A file to write, and the files of ``supabase/schemas`` that it is put together from, as patterns in order.

    PL/pgSQL looks names up when a function runs: functions have no order, but follow the tables whose rows they name.
    """

    name: str
    title: str
    parts: Sequence[str]
    apps: Sequence[str] = ()  # those of the parts whose tables and functions belong to the app once they are there

    def files(self) -> Iterator[Path]:
        """List the schemas' files."""
        for pattern in self.parts:
            yield from sorted(SCHEMAS.glob(f"{pattern}.sql"))

    def text(self) -> str:
        """Put the migration together."""
        sections = [f"-- {self._part(path)}\n\n{self._section(path)}" for path in self.files()]
        return "\n".join([self.title, _LIMITS, *sections, _RESET])

    def _section(self, path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        if self._part(path) in self.apps:
            return _where_missing(text)
        for statement, keeping in _KEEPING:
            text = statement.sub(keeping, text)
        return text

    def _part(self, path: Path) -> str:
        return path.relative_to(SCHEMAS).with_suffix("").as_posix()


OURS: Final = Migration(
    name="20261128130000_ai_retry.sql",
    title="""\
-- ai-retry: failed AI generations are retried; nothing twice, nothing lost.
--
-- Written by `make migration` from supabase/schemas. Every object is named ai_retry_*, or is in the schema ai_retry.
-- The app's tables are reached only through functions ai_retry.app_*, which the next migration creates. Either
-- migration may be applied first; applied again, they change nothing.
""",
    parts=(
        *("look", "schema", "tables/open", "tables/attempts", "tables/answers", "tables/quotas", "tables/outages"),
        *(
            "tables/recoveries",
            "tables/installation",
            "tables/outbox",
            "tables/actions",
            "parts/*",
            "outbox/*",
            "queue/*",
            "verbs/*",
            "recovery/*",
            "operate/*",
        ),
        "grants",
    ),
)
APP: Final = Migration(
    name="20261128130100_ai_retry_app.sql",
    title="""\
-- ai-retry and the app: the tables generations, sessions, generation_error_logs and events, where they are missing, and
-- the default binding to them. What is there already keeps its rows, its grants, its policies and its source.
--
-- Written by `make migration` from supabase/schemas. Looks first, and stops before any change if the app's tables can't
-- be used; ends with a rehearsal that is rolled back.
""",
    parts=(
        *("look", "seed/look", "schema", "seed/sessions", "seed/generations", "seed/generation_error_logs"),
        *("seed/events", "seed/columns", "seed/statuses", "seed/indexes", "app", "seed/forget"),
        *("seed/create_session", "grants", "seed/rehearsal"),
    ),
    apps=("seed/sessions", "seed/generations", "seed/generation_error_logs", "seed/events", "app"),
)


def _where_missing(text: str) -> str:
    """Create a table with all that belongs to it, or each of the functions, only where there is none."""
    if table := _TABLE.search(text):
        return f"do $app$\nbegin\nif to_regclass('{table[1]}') is null then\n{text.rstrip()}\nend if;\nend\n$app$;\n"
    head, *functions = _FUNCTION.split(text)
    return head + "\n".join(f"do $app$\nbegin\n{each.rstrip()}\n{_APPS_OWN}end\n$app$;\n" for each in functions)


def main() -> None:
    """Write both files, apply them to a database that is gone afterwards, and write what is there."""
    from tools.inspected import manifest_of  # noqa: PLC0415 - they need this module
    from tools.stack import running_stack  # noqa: PLC0415

    for migration in (OURS, APP):
        (MIGRATIONS / migration.name).write_text(migration.text(), encoding="utf-8")
    with running_stack(migrations=None) as stack:
        document = manifest_of(stack.create_database("manifest", migrated=False))
    MANIFEST.write_text(written(document), encoding="utf-8")


if __name__ == "__main__":
    main()
