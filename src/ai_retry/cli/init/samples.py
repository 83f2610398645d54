"""A first call to rehearse with: a request like that of a generation that is there, or of made-up values."""

from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from ai_retry.cli.init.binding import Binding
from ai_retry.cli.init.facts import Column, Table

_TEXT: Final = "ai-retry rehearsal"
_INSERT_USER: Final = "insert into auth.users (id) values (gen_random_uuid()) returning id"
_LIKE: Final = """
select {owner}, to_jsonb(g) || jsonb_build_object('prompt_data', r.said -> 'prompt_data', 'model', r.said -> 'model')
from {table} g, lateral (select ai_retry.app_read({id})) r (said)
where {owner} is not null and not coalesce((r.said -> 'hidden')::boolean, false)
  and case when {user}::uuid is not null then {owner} = {user} else not exists (
    select from ai_retry.app_find(null, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', {owner}, 50) o
    where o.status in ('queued', 'processing')) end
limit 1
"""
_CREATE: Final = "select ai_retry.app_create_generation(%s, %s, %s)"


def first_call(connection: "psycopg.Connection[Any]", user_id: UUID | None, *, binding: Binding) -> UUID:
    """Insert a generation through the binding, for this user, else for one who has one or a new one; return its id.

    Raises:
        psycopg.Error: the app refuses it.
    """
    found, request = _like_another(connection, binding, user_id) or (None, made_up(binding))
    owner_id = user_id or found or _new_user(connection)
    generation_id = uuid4()
    connection.execute(_CREATE, [owner_id, generation_id, Jsonb(request)])
    return generation_id


def made_up(binding: Binding) -> dict[str, Any]:
    """A request whose values only have the right types."""
    table = binding.table
    request = {each.column.name: made_up_value(table, each.column) for each in binding.on_create}
    prompt = {each.name: made_up_value(table, each) for each in binding.prompt}
    prompt["messages"] = [{"role": "user", "content": _TEXT}]
    return {**request, "model": _TEXT, "prompt_data": prompt}


def made_up_value(table: Table, column: Column) -> Any:
    """A value that a column may take, as far as its type and its words say."""
    allowed = table.allowed(column.name)
    if allowed and not column.is_number:
        return allowed[0]
    if column.is_json:
        return {}
    if column.is_number:
        return 1
    if column.kind == "bool":
        return False
    if column.kind == "uuid":
        return str(uuid4())
    return "2000-01-01" if column.kind in {"date", "timestamp", "timestamptz"} else _TEXT


def _like_another(
    connection: "psycopg.Connection[Any]", binding: Binding, user_id: UUID | None
) -> tuple[UUID, dict[str, Any]] | None:
    question = sql.SQL(_LIKE).format(
        owner=sql.SQL(binding.owner.read("g")),
        id=sql.SQL(f"g.{binding.id.quoted}"),
        table=sql.SQL(binding.table.quoted),
        user=sql.Literal(user_id),
    )
    row = connection.execute(question).fetchone()
    if row is None:
        return None
    request = row[1]
    for each in binding.on_create:
        if binding.table.unique(each.column.name):
            request[each.column.name] = (
                str(uuid4()) if each.column.is_text else made_up_value(binding.table, each.column)
            )
    return row[0], request


def _new_user(connection: "psycopg.Connection[Any]") -> UUID:
    row = connection.execute(_INSERT_USER).fetchone()
    assert row is not None  # noqa: S101 - returning has a row
    user_id: UUID = row[0]
    return user_id
