"""Bodies of the binding's functions that differ from app to app in more than a name."""

from typing import Final

from ai_retry.cli.init import expressions
from ai_retry.cli.init.binding import Binding, Insert, Link, SessionCall, Value, cast, copied
from ai_retry.cli.init.sessions import session_cast

_KEEP: Final = (
    "perform pg_catalog.set_config(  -- app_write puts it into the row, with the status\n"
    "  'ai_retry.answer', pg_catalog.jsonb_build_object('output', p_output, 'attempt', p_attempt)::text, true);"
)
_WIDTH: Final = 96
_NOT_OURS: Final = """and (  -- a subquery for each row: they are few, and a join would read everybody's attempts
  select c.number from public.ai_retry_attempts c where c.generation_id = {id} and c.outcome = 'succeeded'
) is null"""


def indented(text: str, by: int) -> str:
    """Indent every line but the first."""
    return text.replace("\n", "\n" + " " * by)


def write(binding: Binding) -> str:
    """The body of ``app_write``."""
    table, key = binding.table.quoted, binding.id.quoted
    on_success = _assignments(binding, success=True)
    declared = ["v_word constant text := ai_retry.app_word(p_status);"] if binding.status else []
    if any("v_answer" in each.sql for each in binding.on_success):
        declared.append("v_answer constant jsonb := nullif(pg_catalog.current_setting('ai_retry.answer', true), '');")
    head = "declare\n" + "".join(f"  {each}\n" for each in declared) if declared else ""
    update = f"update {table} g\n  set {{}}\n  where g.{key} = p_generation_id"
    success = (update.format(_listed(on_success)) + ";") if on_success else "null;  -- the session says it all"
    if binding.status is None:
        return f"{head}begin\n  if p_status = 'success' then\n    {indented(success, 4)}\n  end if;\nend"
    column = f"g.{binding.status.quoted}" + ("" if binding.status.type == "text" else "::text")
    other = update.format(_listed(_assignments(binding, success=False)))
    other += f" and v_word is not null and {column} is distinct from v_word"
    if binding.words.quiet:
        failed = expressions.words((*binding.words.read["error"], *binding.words.read["timeout"]))
        other += f"\n    and coalesce({column} not in ({failed}), true)"
    why = "  -- a word that is not written changes nothing" if binding.words.quiet else ""
    return (
        f"{head}begin\n  if p_status = 'success' then\n    {indented(success, 4)}\n"
        f"  else{why}\n    {indented(other, 4)};\n  end if;\nend"
    )


def _assignments(binding: Binding, *, success: bool) -> list[str]:
    found = []
    if binding.status is not None:
        found.append(f"{binding.status.quoted} = {cast('v_word', binding.status)}")
    pointer = binding.sessions.pointer
    if success and binding.sessions.link is Link.FORWARD and pointer is not None:
        found.append(f"{pointer.quoted} = coalesce({session_cast(binding.sessions)}, g.{pointer.quoted})")
    if binding.duration is not None:
        given = expressions.written_duration(binding.duration)
        found.append(f"{binding.duration.quoted} = coalesce({given}, g.{binding.duration.quoted})")
    if binding.updated is not None:
        found.append(f"{binding.updated.column.quoted} = {binding.updated.given('p_at')}")
    if success:
        found += [f"{each.column.quoted} = {each.sql}" for each in binding.on_success]
    else:
        found += _demanded(binding)
    return found


def _demanded(binding: Binding) -> list[str]:
    """What checks may demand of a failure, before app_report says what it was."""
    checked = {name for each in binding.table.checks if len(each.columns) > 1 for name in each.columns}
    found = []
    for each in binding.on_failure:
        if each.column.name in checked:
            own = f"g.{each.column.quoted}"
            known = "pg_catalog.to_jsonb(p_status)" if each.column.is_json else "p_status"
            given = each.sql if each.column.is_instant else cast(known, each.column)
            failed = f"case when p_status in ('error', 'timeout') then coalesce({own}, {given}) else {own} end"
            found.append(f"{each.column.quoted} = {failed}")
    return found


def _listed(assignments: list[str]) -> str:
    """Set what is assigned, as many in a line as fit."""
    lines = [""]
    for each in assignments:
        joined = f"{lines[-1]}, {each}" if lines[-1] else each
        if len(joined) > _WIDTH and lines[-1]:
            lines[-1] += ","
            lines.append(each)
        else:
            lines[-1] = joined
    return "\n    ".join(lines)


def create_session(binding: Binding) -> str:
    """The body of ``app_create_session``."""
    sessions = binding.sessions
    keep = f"  {indented(_KEEP, 2)}\n" if binding.keeps_answer else ""
    by_generation = "return pg_catalog.jsonb_build_object('id', p_generation_id);"
    if sessions.call is not None:
        return _called(binding, sessions.call, keep, by_generation)
    if sessions.insert is None:
        return f"begin\n{keep}  {by_generation}\nend"
    if sessions.link is Link.ROWS:
        inserted = indented(insert(sessions.insert, binding), 2)
        return f"begin\n{keep}  {inserted};\n  if not found then\n    return null;\n  end if;\n  {by_generation}\nend"
    inserted = indented(insert(sessions.insert, binding, alias=" as s"), 2)
    return (
        f"declare\n  v_session jsonb;\nbegin\n{keep}  {inserted}\n"
        f"    returning {expressions.session_row(sessions)} into v_session;\n  return v_session;\nend"
    )


def _called(binding: Binding, call: SessionCall, keep: str, by_generation: str) -> str:
    table, key = binding.table.quoted, binding.id.quoted
    takes_row = "v_generation" in call.arguments
    head = f"declare\n  v_generation {table}%rowtype;\n" if takes_row else ""
    fetch = f"  select * into v_generation from {table} g where g.{key} = p_generation_id;\n" if takes_row else ""
    return f"{head}begin\n{fetch}{keep}  {indented(_returned(binding, call, by_generation), 2)}\nend"


def _returned(binding: Binding, call: SessionCall, by_generation: str) -> str:
    function = call.function
    called = f"{function.quoted}({', '.join(call.arguments)})"
    if binding.sessions.link in (Link.SELF, Link.ROWS):
        return f"perform {called};\n{by_generation}"
    if function.result_kind == "void":
        return (
            f"perform {called};\nreturn (\n"
            f"  select pg_catalog.jsonb_build_object('id', {expressions.session_id(binding)})\n"
            f"  from {binding.table.quoted} g where g.{binding.id.quoted} = p_generation_id);"
        )
    if function.result_kind in {"uuid", "text", "varchar", "int4", "int8"} and not function.returns_set:
        return f"return pg_catalog.jsonb_build_object('id', {called});"
    if function.result_kind in {"json", "jsonb"} and not function.returns_set:
        return f"return {called}{'' if function.result_kind == 'jsonb' else '::jsonb'};"
    return f"return (select pg_catalog.to_jsonb(s) from {called} s limit 1);"


def insert(what: Insert, binding: Binding, alias: str = "") -> str:
    """An insert, of one row or of one for each item."""
    columns, values = copied(what.values)
    head = f"insert into {what.table.quoted}{alias} ({columns})"
    if what.items is not None:
        return (
            f"{head}\nselect {values}\nfrom {binding.table.quoted} g,\n  pg_catalog.jsonb_array_elements(\n"
            f"    case pg_catalog.jsonb_typeof(p_output) when 'array' then p_output else {what.items} end) r (item)\n"
            f"where g.{binding.id.quoted} = p_generation_id"
        )
    if what.reads_generation:
        return f"{head}\nselect {values}\nfrom {binding.table.quoted} g where g.{binding.id.quoted} = p_generation_id"
    return f"{head}\nvalues ({values})"


def report(binding: Binding) -> str:
    """What is written when an attempt ends."""
    parts, failed = [], []
    if binding.error_log is not None:
        failed.append(insert(binding.error_log.insert, binding) + ";")
    if binding.on_failure:
        failed.append(
            f"update {binding.table.quoted} g set {_set(binding.on_failure)}\n"
            f"  where g.{binding.id.quoted} = p_generation_id;"
        )
    if failed:
        parts.append(
            "if p_message is not null then\n  " + "\n  ".join(indented(each, 2) for each in failed) + "\nend if;"
        )
    if binding.event is not None:
        parts.append(insert(binding.event, binding) + ";")
    return "\n".join(parts) or "null;  -- the app logs neither errors nor events"


def _set(values: tuple[Value, ...]) -> str:
    return ", ".join(f"{each.column.quoted} = {each.sql}" for each in values)


def report_recovery(binding: Binding) -> str:
    """What is written when a recovery ends."""
    if binding.recovery_event is None:
        return "null;  -- the app logs no events"
    return insert(binding.recovery_event, binding) + ";"


def own_successes(binding: Binding) -> str:
    """When the user's newest successes were created."""
    if binding.created is None:
        return "return;  -- the app does not say when a generation was created"
    created, key = f"g.{binding.created.column.quoted}", f"g.{binding.id.quoted}"
    mine = f"g.{binding.owner.column.quoted} = {binding.owner.given('p_user_id')}"
    return (
        f"return query\n  select least({binding.created.read('g')}, p_at)"
        "  -- the app's instants may be any, also infinite\n"
        f"  from {binding.table.quoted} g\n"
        f"  where {mine} and {created} > {binding.created.given('p_since')} and {expressions.succeeded(binding)}\n"
        f"    {indented(_NOT_OURS.format(id=key), 4)}\n  order by {created} desc\n  limit p_limit;"
    )


def find(binding: Binding) -> str:
    """The body of ``app_find``."""
    key, table = f"g.{binding.id.quoted}", binding.table.quoted
    mine = f"(p_user_id is null or g.{binding.owner.column.quoted} = {binding.owner.given('p_user_id')})"
    if binding.hidden is not None:
        mine += f" and not {_in_parentheses(expressions.hidden(binding))}"
    model = f"g.{binding.model.quoted}::text" if binding.model else "null::text"
    created = binding.created
    shown = created.read("g") if created else "null::timestamptz"
    columns = f"{key}, {expressions.status(binding)}, {model}, {shown}"
    without = (
        f"{key} < p_before_id"
        if created is None
        else f"g.{created.column.quoted} is null and (p_before_at is not null or {key} < p_before_id)"
    )
    last = (
        f"return query\n  select {indented(columns, 2)}\n  from {table} g\n  where {without}\n    and {mine}\n"
        f"  order by {key} desc\n  limit p_limit"
    )
    if created is None:
        return f"begin\n  if p_since is null then\n    {indented(last, 4)};\n  end if;\nend"
    at = f"g.{created.column.quoted}"
    first = (
        f"return query\n  select {indented(columns, 2)}\n  from {table} g\n"
        f"  where ({at}, {key}) < ({created.given('p_before_at')}, p_before_id)\n"
        f"    and {at} >= {created.given(_SINCE)}\n    and {mine}\n"
        f"  order by {at} desc, {key} desc\n  limit p_limit;"
    )
    if created.column.not_null:
        return f"begin\n  {indented(first, 2)}\nend"
    return (
        f"declare\n  v_found integer;\nbegin\n  {indented(first, 2)}\n  get diagnostics v_found = row_count;\n"
        f"  if p_since is null and v_found < p_limit then  -- last, those without an instant\n"
        f"    {indented(last, 4)} - v_found;\n  end if;\nend"
    )


_SINCE: Final = "coalesce(p_since, '-infinity'::timestamptz)"


def _in_parentheses(condition: str) -> str:
    return condition if condition.startswith("coalesce(") else f"({condition})"


def last_error(binding: Binding) -> str:
    """The code of the last error that is logged."""
    log = binding.error_log
    if log is not None and log.generation is not None and (log.code is not None or log.at is not None):
        code = f"l.{log.code.quoted}" if log.code else "null"
        at = log.at.read("l") if log.at else "null"
        order = f"\n    order by l.{log.at.column.quoted} desc nulls last limit 1" if log.at else "\n    limit 1"
        by_id = log.pointed.name == binding.id.name
        own = "p_generation_id"
        if not by_id:
            found = f"from {binding.table.quoted} g where g.{binding.id.quoted} = p_generation_id"
            own = f"(select g.{log.pointed.quoted} {found})"
        return (
            f"return (\n  select pg_catalog.jsonb_build_object('code', {code}, 'at', {at})\n"
            f"  from {log.insert.table.quoted} l\n  where l.{log.generation.quoted} = {own}{order}\n);"
        )
    if binding.error_code is not None:
        code = f"g.{binding.error_code.quoted}"
        at = binding.updated.read("g") if binding.updated else "null"
        return (
            f"return (\n  select pg_catalog.jsonb_build_object('code', {code}, 'at', {at})\n"
            f"  from {binding.table.quoted} g where g.{binding.id.quoted} = p_generation_id and {code} is not null\n);"
        )
    return "return null;  -- the app logs no codes"
