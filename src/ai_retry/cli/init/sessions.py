"""What a success creates: by the app's own function, by an insert, or in the generation itself."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ai_retry.cli.init import names
from ai_retry.cli.init.answers import NONE, Answers
from ai_retry.cli.init.binding import Insert, Instant, Link, Sessions, Value, cast, literal
from ai_retry.cli.init.calls import call_of, named_function
from ai_retry.cli.init.choose import Columns, named_table, owner_of
from ai_retry.cli.init.facts import Column, Facts, Table
from ai_retry.cli.init.notes import CannotBind, Notes
from ai_retry.cli.init.values import from_output, guessed_output

_WORDS: Final = ("session", "result", "output", "deck", "plan", "document", "content", "answer", "report", "set")
_NOT: Final = frozenset({"auth.users"})
_GIVEN: Final = (
    *("user", "owner", "profile", "parent", "project", "folder", "workspace", "team", "organi", "template", "category"),
    *("course", "chat", "conversation", "thread", "prompt", "source", "original", "tenant", "account", "created_by"),
)
_OTHERS: Final = (
    "log",
    "error",
    "event",
    "ledger",
    "credit",
    "feedback",
    "audit",
    "usage",
    "rating",
    "payment",
    "user",
    "profile",
)


def find_sessions(facts: Facts, table: Table, answers: Answers, columns: Columns, notes: Notes) -> Sessions:
    """Choose what holds sessions, and how they and generations know each other; without how they are created.

    Raises:
        CannotBind: a table is named that knows no generation, and that no generation knows.
    """
    pointer = _pointer(table, answers, columns)
    if answers.sessions == NONE:
        return Sessions(Link.SELF)
    if answers.sessions is not None:
        return _linked(facts, table, named_table(facts, answers.sessions, "--sessions"), pointer, columns)
    target = _guessed(facts, table, pointer)
    notes.guess("sessions", target.quoted if target else NONE)
    return Sessions(Link.SELF) if target is None else _linked(facts, table, target, pointer, columns)


def _pointer(table: Table, answers: Answers, columns: Columns) -> Column | None:
    """Choose the generation's column that has its session's id; it is empty until there is one."""
    answered = columns.answered("session_id")
    if answered is not None:
        columns.taken.extend(answered)
        return answered[0] if answered else None
    if answers.sessions == NONE:
        return None
    wanted = (answers.sessions or "").replace('"', "")

    def fits(column: Column) -> bool:
        target = (table.target(column.name) or "").replace('"', "")
        return not column.not_null and not column.is_json and (not (wanted and target) or _same(wanted, target))

    pointing = [each for each in table.columns if wanted and _same(wanted, (table.target(each) or "").replace('"', ""))]
    return columns.choose("session_id", (*pointing, *names.SESSION, *_results(table)), fits)


def _same(wanted: str, target: str) -> bool:
    return target in {wanted, f"public.{wanted}"}


def _results(table: Table) -> list[str]:
    """Columns that may point at what a success creates: they are empty at first."""
    single = [each for each in table.foreign_keys if len(each.columns) == 1 and each.table not in _NOT | {table.quoted}]
    names_ = [each.columns[0] for each in single if not table.columns[each.columns[0]].not_null]
    return [each for each in names_ if not any(word in each for word in _GIVEN)]


def _guessed(facts: Facts, table: Table, pointer: Column | None) -> Table | None:
    if pointer is not None:
        return facts.tables.get(table.target(pointer.name) or "") or facts.table("public.sessions")
    likely = [(score, each.quoted) for each, _ in facts.pointing_at(table) if (score := _score(each)) > 0]
    return facts.tables[max(likely)[1]] if likely else None


def _score(table: Table) -> int:
    name = table.name.lower()
    if any(word in name for word in _OTHERS):
        return 0
    return 1 + 2 * any(word in name for word in _WORDS)


def _linked(facts: Facts, table: Table, target: Table, pointer: Column | None, columns: Columns) -> Sessions:
    key = target.columns[target.key[0]] if len(target.key) == 1 else target.columns.get("id")
    owner = owner_of(facts, target)
    if pointer is not None and key is not None:
        return Sessions(Link.FORWARD, target, key, pointer, owner=owner)
    back = next((column for other, column in facts.pointing_at(table) if other.quoted == target.quoted), None)
    if back is None:
        raise CannotBind(
            f"{target.quoted} and {table.quoted} don't know each other: a generation has to point at its session",
            [
                f"alter table {table.quoted} add column session_id {key.type if key else 'uuid'} "
                f"references {target.quoted} on delete set null;"
            ],
            "then run ai-retry init --column session_id=session_id",
        )
    pointed = table.columns[target.referenced(back) or "id"]
    link = Link.REVERSE if target.unique(back) and key is not None else Link.ROWS
    columns.taken.append(pointed)
    return Sessions(link, target, key, target.columns[back], pointed, owner)


def with_creation(
    facts: Facts, table: Table, sessions: Sessions, answers: Answers, placed: Mapping[str, str], zone: str, notes: Notes
) -> Sessions:
    """Say how a session is created.

    Raises:
        CannotBind: the function that is named can't be called.
    """
    function = named_function(facts, table, answers, notes)
    if function is not None:
        return replace(sessions, call=call_of(function, table, sessions))
    if sessions.table is None:
        return sessions
    return replace(sessions, insert=_insert(table, sessions, sessions.table, placed, zone, notes))


def _insert(
    table: Table, sessions: Sessions, target: Table, placed: Mapping[str, str], zone: str, notes: Notes
) -> Insert:
    values: dict[str, Value] = {}
    rows = sessions.link is Link.ROWS
    if sessions.owner is not None:
        own = sessions.owner
        values[own.column.name] = Value(own.column, own.given("p_user_id"))
    if sessions.link in (Link.REVERSE, Link.ROWS) and sessions.pointer and sessions.pointed:
        values[sessions.pointer.name] = Value(sessions.pointer, f"g.{sessions.pointed.quoted}")
    output = "r.item" if rows else "p_output"
    for name, path in placed.items():
        values[name] = from_output(target.columns[name], path, zone=zone, at="clock_timestamp()", output=output)
    if not placed and not rows:
        whole = guessed_output(target, [each.column for each in values.values()])
        if whole is not None:
            values[whole.name] = from_output(whole, "output", zone=zone, at="clock_timestamp()")
            notes.guess(f"set {whole.name}", "output")
    for column in target.columns.values():
        if column.name not in values and column.is_required:
            values[column.name] = _required(table, column, output, zone, notes)
    key = sessions.key
    if key is not None and key.is_required and key.kind == "uuid" and key.name not in placed:
        values[key.name] = Value(key, "gen_random_uuid()")
    items = f"p_output -> {literal(target.name)}" if rows else None
    return Insert(target, tuple(values[each] for each in target.columns if each in values), items)


def _required(table: Table, column: Column, output: str, zone: str, notes: Notes) -> Value:
    """Fill a column that has to be given: the generation's of the same name, an instant, or what the output says."""
    same = table.columns.get(column.name)
    if same is not None and same.type == column.type and column.name not in {"id", "status", "state"}:
        return Value(column, f"g.{same.quoted}")
    if column.is_instant:
        return Value(column, Instant(column, zone).given("clock_timestamp()"))
    notes.guess(f"set {column.name}", f"output.{column.name}")
    return from_output(column, f"output.{column.name}", zone=zone, at="clock_timestamp()", output=output)


def session_cast(sessions: Sessions) -> str:
    """The session's id as the generation's column holds it."""
    assert sessions.pointer is not None  # noqa: S101 - forward links only
    return cast("p_session_id", sessions.pointer)
