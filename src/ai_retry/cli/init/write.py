"""Writes a binding as SQL: the template ``sql/binding.sql``, filled."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from ai_retry.cli.init import bodies, expressions
from ai_retry.cli.init.binding import Binding, Link, cast, literal
from ai_retry.cli.init.words import OURS

_PLACE: Final = re.compile(r"<<(\w+)>>")
_ALONE: Final = re.compile(r"(\s*)<<(\w+)>>")

_WORD_FUNCTIONS: Final = """\
create or replace function ai_retry.app_status(p_word text)
returns text
language sql immutable security invoker
set search_path = pg_catalog, pg_temp
return
  case
    {cases}
    else p_word
  end;
comment on function ai_retry.app_status(text) is
  'Turns the app''s word for a status into ai-retry''s. A word that is not bound stays as it is: retries are refused.';

create or replace function ai_retry.app_word(p_status text)
returns text
language sql immutable security invoker
set search_path = pg_catalog, pg_temp
return
  case p_status
    {written}
  end;
comment on function ai_retry.app_word(text) is
  'Turns ai-retry''s status into the app''s word that is written for it; null: it is not written.';

"""


def binding_sql(binding: Binding) -> str:
    """The migration's text."""
    text = (files("ai_retry.cli.init") / "sql" / "binding.sql").read_text(encoding="utf-8")
    return fill(text, _places(binding))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into their places; a line with nothing but an empty value goes, others keep their indentation."""
    lines: list[str] = []
    for line in template.splitlines():
        alone = _ALONE.fullmatch(line)
        if alone is not None and not values[alone[2]]:
            continue
        indent = len(line) - len(line.lstrip())
        indented = {name: bodies.indented(value, indent) for name, value in values.items()}
        filled = _PLACE.sub(lambda place, of=indented: str(of[place[1]]), line)  # type: ignore[misc]
        lines.extend(each.rstrip() for each in filled.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _places(binding: Binding) -> dict[str, str]:
    call = binding.sessions.call
    schema = binding.table.quoted.rpartition(".")[0]
    created, updated = binding.created, binding.updated
    columns, values = _created(binding)
    model = f"g.{binding.model.quoted}" if binding.model else None
    return {
        "header": header(binding),
        "grants": "\n".join(binding.grants),
        "word_functions": _word_functions(binding),
        "id": f"g.{binding.id.quoted}",
        "id_name": binding.id.quoted,
        "owner": binding.owner.read("g"),
        "status": expressions.status(binding),
        "hidden": expressions.hidden(binding),
        "model": model or "null",
        "model_text": f"{model}::text" if model else "null::text",
        "prompt": expressions.prompt(binding),
        "duration": expressions.duration(binding.duration),
        "created": created.read("g") if created else "null",
        "updated": updated.read("g") if updated else "null",
        "session_id": expressions.session_id(binding),
        "session": expressions.session(binding),
        "session_by_id": expressions.session_by_id(binding),
        "can_create": f"pg_catalog.to_regprocedure({literal(call.function.signature)}) is not null" if call else "true",
        "generations": binding.table.quoted,
        "writing_path": ", ".join(dict.fromkeys(("pg_catalog", schema, "public", "extensions", "pg_temp"))),
        "write": bodies.write(binding),
        "create_session": bodies.create_session(binding),
        "foreseen": foreseen(binding),
        "create_columns": columns,
        "create_values": values,
        "report": bodies.report(binding),
        "report_recovery": bodies.report_recovery(binding),
        "own_successes": bodies.own_successes(binding),
        "find": bodies.find(binding),
        "last_error": bodies.last_error(binding),
        "describe": _described(binding),
    }


def foreseen(binding: Binding) -> str:
    """Name the unique and exclusion indexes of sessions that could be asked about before a call is paid for."""
    table = binding.sessions.table
    names = [each.name for each in table.indexes if each.exclusion or (each.unique and each.predicate)] if table else []
    return f"  -- {', '.join(names)} may refuse a session: say here when it would" if names else ""


def _word_functions(binding: Binding) -> str:
    if binding.status is None:
        return ""
    written = [(ours, binding.words.written[ours]) for ours in OURS]
    branches = [f"when {literal(ours)} then {literal(word)}" for ours, word in written if word is not None]
    return _WORD_FUNCTIONS.format(cases=expressions.cases(binding), written="\n    ".join(branches))


def _created(binding: Binding) -> tuple[str, str]:
    """What a first call inserts."""
    pairs = [
        (binding.id.quoted, "p_generation_id"),
        (binding.owner.column.quoted, binding.owner.given("p_user_id")),
    ]
    if binding.status is not None:
        read = binding.words.read
        begun = binding.words.written["processing"] or next(
            (word for ours in ("processing", "queued") for word in read[ours] if word is not None), None
        )
        if begun is not None:
            pairs.append((binding.status.quoted, cast(literal(begun), binding.status)))
    if binding.model is not None:
        model = cast("p_request ->> 'model'", binding.model)
        pairs.append(
            (binding.model.quoted, f"coalesce({model}, {binding.model.default})" if binding.model.default else model)
        )
    pairs += [(each.column.quoted, each.sql) for each in binding.on_create]
    for instant in (binding.created, binding.updated):
        if instant is not None and instant.column.default is None and not instant.column.generated:
            pairs.append((instant.column.quoted, instant.given("pg_catalog.clock_timestamp()")))
    columns, values = ", ".join(name for name, _ in pairs), ",\n  ".join(value for _, value in pairs)
    if binding.table.unique(binding.id.name):
        return columns, f") values (\n  {values}\n) on conflict ({binding.id.quoted}) do nothing;"
    there = f"select from {binding.table.quoted} g where g.{binding.id.quoted} = p_generation_id"
    return columns, f") select\n  {values}\nwhere not exists ({there});"


def _described(binding: Binding) -> str:
    """What ``app_describe`` returns, one table a line."""
    call = binding.sessions.call
    tables = ",\n".join(
        f"      {json.dumps(table.quoted)}: {json.dumps(list(needed))}" for table, needed in binding.tables()
    )
    others: dict[str, Any] = {
        "generations": binding.table.quoted,
        "session_function": call.function.signature if call else None,
        "status": _status_document(binding),
        "triggers": sorted(f"{table.quoted}: {each.name}" for table, _ in binding.tables() for each in table.triggers),
    }
    rest = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in others.items()
    )
    document = f'{{\n    "version": 1,\n    "tables": {{\n{tables}\n    }},\n{rest}\n  }}'
    return bodies.indented(document, 0).replace("'", "''")


def _status_document(binding: Binding) -> dict[str, Any] | None:
    if binding.status is None:
        return None
    return {"column": binding.status.name, "words": {ours: list(words) for ours, words in binding.words.read.items()}}


def header(binding: Binding) -> str:
    """What is bound, for a reader."""
    lines = [f"generations   {binding.table.quoted}"]
    sessions = binding.sessions
    match sessions.link:
        case Link.SELF:
            lines.append("sessions      the generation itself, in which a success keeps its output")
        case Link.ROWS:
            lines.append(
                f"sessions      all rows of {sessions.table and sessions.table.quoted} of one generation, together"
            )
        case _:
            lines.append(f"sessions      {sessions.table and sessions.table.quoted}")
    if sessions.call is not None:
        lines.append(f"              created by {sessions.call.function.signature}")
    log = binding.error_log
    lines.append(f"error logs    {log.insert.table.quoted if log else 'none'}")
    lines.append(f"events        {binding.event.table.quoted if binding.event else 'none'}")
    lines += _status_lines(binding)
    return "\n".join(f"--   {each}".rstrip() for each in lines)


def _status_lines(binding: Binding) -> list[str]:
    if binding.status is None:
        return [
            "status        no column: a success is a generation whose session is there; any other one has failed.",
            "              While the app's own call runs, no table says so: a retry beside it would call, too.",
        ]
    lines = []
    for ours in OURS:
        read = ", ".join("null" if each is None else each for each in binding.words.read[ours]) or "-"
        written = binding.words.written[ours]
        lines.append(f"{'status' if ours == OURS[0] else '':<13} {ours:<10} is {read}; written: {written or 'nothing'}")
    return lines
