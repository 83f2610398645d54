"""Paths of ``--set``: what a success puts into a column, as SQL."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from ai_retry.cli.init import names
from ai_retry.cli.init.answers import NONE
from ai_retry.cli.init.binding import Instant, Value, literal
from ai_retry.cli.init.facts import Column, Table
from ai_retry.cli.init.notes import AnswerDoesNotFit

_ATTEMPT: Final = {"model": "->> 'model'", "usage": "-> 'usage'", "attempt": "->> 'number'"}
_TROUBLE: Final = re.compile(r"error|fail|reason", re.IGNORECASE)  # what sounds like this says what went wrong
_STEP: Final = re.compile(r"[^.\[\]]+")


def from_output(
    column: Column, path: str, *, zone: str, at: str, output: str = "p_output", attempt: str = "p_attempt"
) -> Value:
    """Write what a path gives, in the column's type.

    Args:
        column: that gets it.
        path: ``output``, ``output.some.path``, ``model``, ``usage``, ``attempt``, ``now`` or ``null``.
        zone: of instants without one.
        at: the SQL that has the instant.
        output: the SQL that has the output.
        attempt: the SQL that has number, model and usage.
    """
    head, *steps = _STEP.findall(path)
    if head == "null" and not steps:
        return Value(column, "null")
    if head == "now" and not steps:
        return Value(column, Instant(column, zone).given(at) if column.is_instant else f"{at}::{column.type}")
    if head in _ATTEMPT and not steps:
        expression = f"{attempt} {_ATTEMPT[head]}"
        return Value(column, _typed(expression, column, is_json=" -> " in expression))
    return Value(column, _path(column, output, steps))


def _path(column: Column, output: str, steps: Sequence[str]) -> str:
    if not steps:
        if column.is_json:
            return output if column.kind == "jsonb" else f"{output}::json"
        return _typed(f"{output} #>> '{{}}'", column)
    arrow = "->" if column.is_json else "->>"
    if len(steps) == 1:
        expression = f"{output} {arrow} {literal(steps[0])}"
    else:
        path = "{" + ",".join(steps) + "}"
        expression = f"{output} #{arrow[1:]} {literal(path)}"
    return _typed(expression, column, is_json=column.is_json)


def _typed(expression: str, column: Column, *, is_json: bool = False) -> str:
    if column.is_text or (is_json and column.kind == "jsonb"):
        return expression
    if column.type.endswith("[]"):
        inner = expression.replace("->>", "->").replace("#>>", "#>")
        return f"array(select e.value::{column.type[:-2]} from pg_catalog.jsonb_array_elements_text({inner}) e (value))"
    return f"({expression})::{column.type}"


def placed(answers: Mapping[str, str], generations: Table, sessions: Table | None) -> dict[str, dict[str, str]]:
    """Say which table each answer of ``--set`` is about: ``generations`` or ``sessions``.

    Raises:
        CannotBind: neither has such a column, or there is no such path.
    """
    found: dict[str, dict[str, str]] = {"generations": {}, "sessions": {}}
    for name, path in answers.items():
        if path == NONE:
            continue
        if next(iter(_STEP.findall(path)), None) not in {"output", "now", "null", *_ATTEMPT}:
            raise AnswerDoesNotFit(
                f"--set {name}={path}: write output, output.KEY, model, usage, attempt, now or null on the right"
            )
        prefix, _, column = name.rpartition(".")
        homes = {"sessions": sessions, "generations": generations}
        if prefix:
            homes = {k: t for k, t in homes.items() if t and prefix in {t.name, f"{t.schema}.{t.name}", k}}
        else:
            column = name
        home = next((k for k, t in homes.items() if t is not None and column in t.columns), None)
        if home is None:
            raise AnswerDoesNotFit(f"--set {name}={path}: neither generations nor sessions have such a column")
        found[home][column] = path
    return found


def guessed_output(table: Table, taken: Sequence[Column]) -> Column | None:
    """Guess the column that holds an output."""
    column = names.pick(table, names.OUTPUT, lambda each: each.is_json and not each.generated, taken)
    return column or names.pick(table, names.OUTPUT, lambda each: each.is_text and not each.generated, taken)


def unclaimed(table: Table, taken: Sequence[Column]) -> str:
    """Name the columns that may hold a prompt or an output and are bound to nothing; empty: there are none."""
    free = [each for each in table.columns.values() if (each.is_text or each.is_json) and not each.generated]
    claimed = {each.name for each in taken}
    sounding = [each.name for each in free if each.name not in claimed and not _TROUBLE.search(each.name)]
    return ", ".join(sounding)


def among(found: str) -> str:
    """Go on with those that NAME may be, if there are any."""
    return f", where NAME is one of {found}" if found else ""
