"""The generation's own columns: what a failure writes, what a success empties, what a first call gives."""

from ai_retry.cli.init import names
from ai_retry.cli.init.binding import Instant, Value, cast
from ai_retry.cli.init.choose import Columns
from ai_retry.cli.init.facts import Column, Table
from ai_retry.cli.init.notes import Notes


def error_columns(
    table: Table, columns: Columns, zone: str, notes: Notes
) -> tuple[Column | None, tuple[Value, ...], tuple[Value, ...]]:
    """The generation's own columns for an error: the code, what a failure writes, and what a success empties.

    They are not written by a failure where a trigger may fire on any change.
    """

    def fits(column: Column) -> bool:
        return column.is_text and not column.generated and not table.allowed(column.name)

    code = columns.choose("error_code", names.OWN_CODE, fits)
    message = columns.choose(
        "error_message", names.OWN_MESSAGE, lambda each: fits(each) or (each.is_json and not each.generated)
    )
    values = [Value(code, cast("p_code", code))] if code else []
    if message is not None:
        document = "pg_catalog.jsonb_build_object('code', p_code, 'message', p_message)"
        values.append(Value(message, cast(document if message.is_json else "p_message", message)))
    at = names.pick(table, names.FAILED_AT, lambda each: each.is_instant and not each.generated, columns.taken)
    if at is not None:
        columns.taken.append(at)
        values.append(Value(at, Instant(at, zone).given("p_at")))
    others = [*(names.OWN_CODE if code else ()), *(names.OWN_MESSAGE if message else ())]
    stale = [
        code,
        message,
        at if at is not None and not at.not_null else None,
        *(table.columns.get(each) for each in others),
    ]
    over = tuple(Value(each, _empty(each)) for each in stale if each is not None and not each.generated)
    firing = [each.name for each in table.triggers if each.acts and "update" in each.events and not each.columns]
    if values and firing:
        notes.leave_out(
            f"error columns of {table.quoted} are not written, since {', '.join(firing)} fires on every change of a row"
        )
        return code, (), over
    return code, tuple(values), over


def _empty(column: Column) -> str:
    """What says that there is no error: null, or, as Django has it, an empty text."""
    if not column.not_null:
        return "null"
    return "''" if column.is_text else "'{}'"


def on_create(
    table: Table, prompt: tuple[Column, ...], taken: list[Column], later: tuple[Value, ...]
) -> tuple[Value, ...]:
    """What a first call gives: the prompt's columns, required ones of which we know nothing else, and empty ones.

    Those are required, and filled later, by a success or a failure.
    """
    values = []
    for column in prompt:
        single = len(prompt) == 1
        if single and column.is_json and column.name != "messages":
            source = "p_request -> 'prompt_data'"
        elif single and column.is_text:
            source = "coalesce(p_request #>> '{prompt_data,messages,-1,content}', p_request #>> '{prompt_data}')"
        else:
            arrow = "->" if column.is_json else "->>"
            source = f"p_request -> 'prompt_data' {arrow} '{column.name}'"
        if not column.generated:
            values.append(Value(column, _given(source, column)))
    empty = {each.column.name: each.column for each in later if each.column.is_required and not each.column.is_instant}
    values += [Value(each, _empty(each)) for each in empty.values() if each.is_text or each.is_json]
    known = {each.name for each in (*taken, *prompt)} | empty.keys()
    for column in table.columns.values():
        if column.is_required and column.name not in known and not column.is_instant:
            arrow = "->" if column.is_json else "->>"
            values.append(Value(column, _given(f"p_request {arrow} '{column.name}'", column)))
    return tuple(values)


def _given(source: str, column: Column) -> str:
    typed = source if column.is_text or column.kind == "jsonb" else f"({source})::{column.type}"
    if column.default is not None:  # an absent one is the default's business
        return f"coalesce({typed}, {column.default})"
    return typed
