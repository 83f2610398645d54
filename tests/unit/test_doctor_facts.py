"""What the doctor reads: the text of the migrations, and what an app says of its binding."""

from pathlib import Path
from typing import Any

import pytest

from ai_retry import _shipped
from ai_retry.doctor.model import Binding, Signature
from ai_retry.doctor.shipped import BINDING, read, signature_of, source_hash

DESCRIBED = {
    "version": 1,
    "tables": {"shop.texts": ["select", "update"]},
    "generations": "shop.texts",
    "session_function": None,
}


@pytest.mark.parametrize(
    ("arguments", "result", "signature"),
    [
        ("", "jsonb", Signature((), "jsonb")),
        ("p_at timestamptz,\n  p_by double precision", "void", Signature(
            ("timestamp with time zone", "double precision"), "void")),
        ("p_ids uuid[]", "setof timestamptz", Signature(("uuid[]",), "setof timestamp with time zone")),
        ("p_a public.ai_retry_open", "table (id uuid, at timestamptz)", Signature(
            ("public.ai_retry_open",), "table(id uuid, at timestamp with time zone)")),
    ],
)  # fmt: skip
def test_signatures_are_read_as_the_catalogue_writes_them(arguments: str, result: str, signature: Signature) -> None:
    """Types of a migration's text become those that PostgreSQL names."""
    assert signature_of(arguments, result) == signature


def test_migration_is_read_into_what_it_creates(tmp_path: Path) -> None:
    """Functions with hash, form and search_path; tables, views, indexes, constraints and grants: all of ours only."""
    migration = tmp_path / "1_some.sql"
    migration.write_text(
        """
create table if not exists public.ai_retry_x (id uuid, constraint is_set check (id is not null));
create unique index if not exists ai_retry_x_idx on public.ai_retry_x (id);
grant select, insert on table public.ai_retry_x to service_role;
create or replace view ai_retry.xs as select * from public.ai_retry_x;
create table public.texts (id uuid, constraint of_the_app check (true));
create index texts_idx on public.texts (id);
grant select on table public.texts to service_role;
create or replace function ai_retry.part(p_id uuid)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
begin
  return null;
end
$$;
do $app$
begin
create function ai_retry.app_read(p_id uuid)
returns jsonb
language plpgsql stable
as $$ begin return null; end $$;
end
$app$;
create function public.ai_retry_create_session(p_generation public.texts, p_output jsonb)
returns jsonb language sql as $$ select null::jsonb $$;
"""
    )

    shipped = read([migration])

    part, app_read = shipped.functions["ai_retry.part"], shipped.functions["ai_retry.app_read"]
    assert set(shipped.functions) == {"ai_retry.part", "ai_retry.app_read"}
    assert (part.source, part.search_path) == (source_hash("\nbegin\n  return null;\nend\n"), "pg_catalog, pg_temp")
    assert (app_read.source, app_read.signature) == (None, Signature(("uuid",), "jsonb"))
    assert list(shipped.tables) == ["public.ai_retry_x", "ai_retry.xs"]
    assert list(shipped.indexes) == ["ai_retry_x_idx"]
    assert list(shipped.constraints) == ["is_set"]
    assert shipped.grants == {"public.ai_retry_x": ["select", "insert"]}


def test_carriage_returns_change_no_hash() -> None:
    """An editor that adds them changes no function."""
    assert source_hash("begin\r\nend\r\n") == source_hash("begin\nend\n")


def test_every_function_of_the_binding_is_the_apps_own() -> None:
    """Only functions of the binding have no source to compare, and all of them are from the migration of the app."""
    shipped = read(_shipped.migrations())

    of_the_app = {name for name, each in shipped.functions.items() if each.source is None}
    assert of_the_app == {name for name in shipped.functions if name.startswith(BINDING)}
    assert {shipped.functions[name].migration for name in of_the_app} == {_shipped.migrations()[-1].name}


def test_description_of_a_binding_is_read() -> None:
    """Version, tables with what they need, the one of generations, and the session function, if there is one."""
    binding = Binding.from_row(DESCRIBED)

    assert binding is not None
    assert (binding.version, binding.generations, binding.session_function) == (1, "shop.texts", None)
    assert binding.tables == {"shop.texts": ("select", "update")}


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        "texts",
        {},
        {**DESCRIBED, "version": "new"},
        {**DESCRIBED, "tables": ["shop.texts"]},
        {**DESCRIBED, "tables": {"shop.texts": None}},
        {name: value for name, value in DESCRIBED.items() if name != "session_function"},
    ],
)
def test_description_of_another_form_is_none(row: Any) -> None:
    """An app may return anything: it is no description, and no crash."""
    assert Binding.from_row(row) is None
