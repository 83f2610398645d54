"""Every rule that stays in SQL is listed by name, and has a test that is marked with it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SCHEMA = TESTS.parent / "supabase" / "schemas" / "schema.sql"
_RULE = re.compile(r"^--   (?P<name>\w+)  +\S", re.MULTILINE)


def listed() -> list[str]:
    """Names in the comment at the schema's head."""
    return [found["name"] for found in _RULE.finditer(SCHEMA.read_text(encoding="utf-8"))]


def marked() -> Iterator[str]:
    """Names that mark a test in front of a real database."""
    for folder in ("contract", "integration"):
        for file in (TESTS / folder).glob("test_*.py"):
            for test in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                    yield from _names(test)


def _names(test: ast.FunctionDef) -> Iterator[str]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
            (name,) = decorator.args
            yield ast.literal_eval(name)


def test_every_rule_in_sql_has_its_test() -> None:
    """No rule without a test, no test of a rule that is not listed, and no rule twice."""
    rules = listed()

    assert set(rules) == set(marked())
    assert len(rules) == len(set(rules)) > 0
