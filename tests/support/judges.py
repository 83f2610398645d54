"""Judges from outside: Supabase's advisors and linter, squawk, and an empty environment for the built wheel.

`make check` runs them. Each prints one line; the first that objects ends the run with its words and exit code 1.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.support.distribution import Objection, build, environment, install, judge_bare_wheel, run
from tests.support.npm import REPOSITORY, install_node_packages, node
from tests.support.stack import MIGRATIONS, running_stack

# Advice of level INFO that a new, empty database always gets, and that we mean as it is.
_MEANT = {
    "rls_enabled_no_policy": "our two tables: no end user shall see a row",
    "unused_index": "of foreign keys, for cascades: nothing was deleted yet",
}
_STACKS_OWN = "supabase_lite_row_level_security"  # a table of the local stack's, not of the migrations


def judge_migrations_style() -> str:
    """Lint the migrations with squawk."""
    files = sorted(str(path) for path in MIGRATIONS.glob("*.sql"))
    run([str(Path(sys.executable).parent / "squawk"), *files])
    return "squawk: nothing to say about the migrations"


def judge_schema() -> str:
    """Ask `supabase db advisors`, and `supabase db lint` where the server has what it needs."""
    modules = install_node_packages(manifest=Path(__file__).parent / "node_judges")
    command = [str(node()), str(modules / "supabase" / "dist" / "supabase.js")]
    with running_stack() as stack:
        url = stack.create_database("judged", migrated=True)
        where = ["--db-url", f"{url}?sslmode=disable"]
        advice = run([*command, "db", "advisors", *where, "--level", "info"])
        ours = [each for each in _advice(advice) if not each["cache_key"].endswith(_STACKS_OWN)]
        unmeant = [each["cache_key"] for each in ours if each["name"] not in _MEANT]
        if unmeant:
            raise Objection(f"advisors: {', '.join(unmeant)}")
        with psycopg.connect(url) as connection:
            available = connection.execute(
                "select from pg_available_extensions where name = 'plpgsql_check'"
            ).fetchone()
        if available is None:
            return "supabase db advisors: no issues; db lint: not here, this PostgreSQL has no plpgsql_check"
        run([*command, "db", "lint", *where, "--schema", "public", "--fail-on", "warning"])
        return "supabase db advisors and db lint: no issues"


def judge_wheel() -> str:
    """Build the wheel and try it without anything but its extra; `make dist` tries more."""
    with tempfile.TemporaryDirectory(prefix="ai-retry-wheel-") as scratch:
        build(Path(scratch), "--wheel")
        wheel = next(Path(scratch).glob("*.whl"))
        judge_bare_wheel(wheel, Path(scratch) / "bare")
        python = environment(Path(scratch) / "full")
        install(python, "--constraint", str(REPOSITORY / "constraints.txt"), f"{wheel}[cli]")
        copied = Path(scratch) / "copied"
        run([str(python.parent / "ai-retry"), "migrations", "copy", str(copied)], cwd=Path(scratch))
        for source in MIGRATIONS.glob("*.sql"):
            if (copied / source.name).read_bytes() != source.read_bytes():
                raise Objection(f"the wheel's {source.name} is not the repository's")
        return f"{wheel.name}: imports in an empty environment; ai-retry migrations copy works"


def _advice(output: str) -> list[dict[str, str]]:
    """Read the list of advice, wherever it stands in the document."""
    document = json.loads(output)
    if isinstance(document, dict):
        document = next((value for value in document.values() if isinstance(value, list)), [])
    return list(document)


JUDGES: tuple[Callable[[], str], ...] = (judge_migrations_style, judge_schema, judge_wheel)


def main() -> int:
    """Ask every judge."""
    for judge in JUDGES:
        try:
            print(judge())
        except Objection as objection:
            print(objection, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
