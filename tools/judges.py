"""`make check`: what squawk, Supabase's advisors and linter, and plpgsql_check say about the migrations."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.functions_judged import judge_functions
from tools.judging import Objection, ask, run
from tools.npm import install_node_packages, node
from tools.stack import MIGRATIONS, running_stack

# Advice of level INFO that a new, empty database always gets, and that we mean as it is.
_MEANT = {
    "rls_enabled_no_policy": "our tables: no end user shall see a row",
    "unused_index": "of foreign keys, for cascades: nothing was deleted yet",
}
_STACKS_OWN = "supabase_lite_row_level_security"  # a table of the local stack's, not of the migrations


def judge_migrations_style() -> Iterator[str]:
    """Lint the migrations with squawk."""
    files = sorted(str(path) for path in MIGRATIONS.glob("*.sql"))
    run([str(Path(sys.executable).parent / "squawk"), *files])
    yield "squawk: nothing to say about the migrations"


def judge_schema() -> Iterator[str]:
    """Ask `supabase db advisors`."""
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
        yield "supabase db advisors: no issues"


def _advice(output: str) -> list[dict[str, str]]:
    """Read the list of advice, wherever it is in the document."""
    document = json.loads(output)
    if isinstance(document, dict):
        document = next((value for value in document.values() if isinstance(value, list)), [])
    return list(document)


if __name__ == "__main__":
    sys.exit(ask(judge_migrations_style, judge_schema, judge_functions))
