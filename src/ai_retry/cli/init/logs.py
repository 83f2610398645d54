"""Where the app logs errors and events, and what is written there. What can't be filled is left out, and said."""

from typing import Final

from ai_retry.cli.init import names
from ai_retry.cli.init.answers import NONE, Answers
from ai_retry.cli.init.binding import ErrorLog, Insert, Instant, Value, cast
from ai_retry.cli.init.choose import named_table, owner_of
from ai_retry.cli.init.facts import Column, Facts, Table
from ai_retry.cli.init.notes import Notes

_ERRORS: Final = ("error", "failure")
_EVENTS: Final = (
    "events",
    "event_log",
    "event_logs",
    "user_events",
    "app_events",
    "analytics_events",
    "generation_events",
    "activity",
    "activities",
    "activity_log",
    "audit_log",
)
_DATA: Final = (
    "pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(\n"
    "  'generation_id', p_generation_id, 'attempt', p_attempt, 'code', p_code))"
)
_RECOVERY: Final = (
    "pg_catalog.jsonb_build_object(\n"
    "  'plan_id', p_plan_id, 'run_id', p_run_id, 'retried', p_retried, 'succeeded', p_succeeded)"
)


def error_log(facts: Facts, table: Table, key: Column, answers: Answers, zone: str, notes: Notes) -> ErrorLog | None:
    """Choose the table of errors, or none."""
    if answers.error_logs == NONE:
        return None
    if answers.error_logs is not None:
        target: Table | None = named_table(facts, answers.error_logs, "--error-logs")
    else:
        target = _guessed_log(facts, table)
        notes.guess("error_logs", target.quoted if target else NONE)
    return _error_log(facts, table, target, key, zone, notes) if target is not None else None


def _guessed_log(facts: Facts, table: Table) -> Table | None:
    pointing = [each for each, _ in facts.pointing_at(table) if any(word in each.name.lower() for word in _ERRORS)]
    if pointing:
        return pointing[0]
    singular = table.name.removesuffix("s")
    wanted = {
        f"{singular}_error_logs",
        f"{singular}_errors",
        f"{singular}_failures",
        "generation_error_logs",
        "ai_errors",
    }
    return next((each for each in facts.tables.values() if each.name in wanted), None)


def _error_log(facts: Facts, table: Table, target: Table, key: Column, zone: str, notes: Notes) -> ErrorLog | None:
    pointing = next((column for other, column in facts.pointing_at(table) if other.quoted == target.quoted), None)
    pointed = table.columns[target.referenced(pointing) or key.name] if pointing else key
    generation = (
        target.columns[pointing]
        if pointing
        else names.pick(
            target,
            ("generation_id", f"{table.name.removesuffix('s')}_id", "request_id", "job_id"),
            lambda e: e.kind == key.kind,
        )
    )
    values: list[Value] = []
    if generation is not None:
        by_id = pointed.name == key.name
        values.append(Value(generation, "p_generation_id" if by_id else f"g.{pointed.quoted}"))
    owner = owner_of(facts, target)
    if owner is not None and owner.column not in [each.column for each in values]:
        values.append(Value(owner.column, owner.given("p_user_id")))
    taken = [each.column for each in values]
    code = names.pick(target, names.ERROR_CODE, lambda each: each.is_text, taken)
    if code is not None and code.name in {"error", "type", "kind"} and target.allowed(code.name):
        code = None
    message = names.pick(target, names.ERROR_MESSAGE, lambda each: each.is_text, [*taken, *([code] if code else [])])
    if message is None and code is not None and code.name in {"error"}:
        code, message = None, code
    at = names.pick(target, names.CREATED, lambda each: each.is_instant)
    values += [Value(code, cast("p_code", code))] if code else []
    values += [Value(message, cast("p_message", message))] if message else []
    values += [Value(at, Instant(at, zone).given("p_at"))] if at else []
    values = _with_copies(table, target, values)
    insert = _filled(target, values, "error log", notes)
    if insert is None:
        return None
    return ErrorLog(insert, generation, pointed, code, Instant(at, zone) if at else None)


def _with_copies(table: Table, target: Table, values: list[Value]) -> list[Value]:
    """Copy the model, and every required column that the generation has under the same name and type."""
    known = {each.column.name for each in values}
    for column in target.columns.values():
        same = table.columns.get(column.name)
        wanted = column.name not in known | {"id"} and (column.is_required or column.name in names.MODEL)
        if wanted and same is not None and same.type == column.type and (same.not_null or not column.not_null):
            values.append(Value(column, f"g.{same.quoted}"))
    return values


def events(facts: Facts, answers: Answers, zone: str, notes: Notes) -> tuple[Insert | None, Insert | None]:
    """Choose the table of events, or none: what is written of an attempt, and of a recovery."""
    if answers.events == NONE:
        return None, None
    if answers.events is None:
        found = _guessed_events(facts, zone)
        notes.guess("events", found[0].table.quoted if found else NONE)
        return found or (None, None)
    target = named_table(facts, answers.events, "--events")
    found = _events(facts, target, zone)
    if found is None:
        notes.leave_out(f"events: {target.quoted} has no column that takes the name of an event, such as event_type")
        return None, None
    return found if _filled(target, list(found[0].values), "events", notes) else (None, None)


def _guessed_events(facts: Facts, zone: str) -> tuple[Insert, Insert] | None:
    tables = [each for name in _EVENTS for each in facts.tables.values() if each.name == name]
    both = [found for each in tables if (found := _events(facts, each, zone)) is not None]
    return next((found for found in both if not _lacking(found[0].table, found[0].values)), None)


def _events(facts: Facts, target: Table, zone: str) -> tuple[Insert, Insert] | None:
    """Fill an event; None: the table holds something else, or has no place for what happened."""
    if {"starts_at", "start", "start_at", "start_time", "ends_at", "location"} & set(target.columns):
        return None
    kind = names.pick(target, names.EVENT_TYPE, lambda each: each.is_text and not target.allowed(each.name))
    if kind is None:
        return None
    data = names.pick(target, names.EVENT_DATA, lambda each: each.is_json)
    owner = owner_of(facts, target)
    at = names.pick(target, names.CREATED, lambda each: each.is_instant)
    shared = [Value(owner.column, owner.given("p_user_id"))] if owner else []
    end = [Value(at, Instant(at, zone).given("p_at"))] if at else []
    both = []
    for event, text in (("p_event", _DATA), ("'ai_generations_recovered'", _RECOVERY)):
        values = [*shared, Value(kind, cast(event, kind))]
        values += [Value(data, text if data.kind == "jsonb" else f"{text}::json")] if data else []
        both.append(Insert(target, tuple(values + end)))
    return both[0], both[1]


def _lacking(target: Table, values: tuple[Value, ...] | list[Value]) -> list[str]:
    given = {each.column.name for each in values}
    return [each.name for each in target.columns.values() if each.is_required and each.name not in given]


def _filled(target: Table, values: list[Value], what: str, notes: Notes) -> Insert | None:
    lacking = _lacking(target, values)
    if lacking:
        notes.leave_out(
            f"{what}: nothing is written to {target.quoted}, since ai-retry can't know what its required columns "
            f"{', '.join(lacking)} should hold; write it in ai_retry.app_report, or give them defaults"
        )
        return None
    return Insert(target, tuple(values))
