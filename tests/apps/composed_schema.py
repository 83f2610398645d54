"""The schema of an app that has been drawn."""

from collections.abc import Iterator
from typing import Final

from tests.apps.quirks import quirks_of
from tests.apps.traits import Traits, now

_PROFILES: Final = """
create table public.profiles (id uuid primary key references auth.users (id) on delete cascade, name text);
alter table public.profiles enable row level security;
create function public.on_sign_up() returns trigger language plpgsql security definer as $$
begin
  insert into public.profiles (id) values (new.id);
  return new;
end $$;
create trigger on_sign_up after insert on auth.users for each row execute function public.on_sign_up();
"""
_CALENDAR: Final = """
create table public.events (
  id uuid primary key, title text not null, starts_at timestamptz not null, ends_at timestamptz not null);
alter table public.events enable row level security;
"""
_AUDIT: Final = """
create schema audit;
create table audit.trail (at timestamptz not null default clock_timestamp(), was jsonb not null);
create function audit.note() returns trigger language plpgsql security definer as $$
begin
  insert into audit.trail (was) values (to_jsonb(old));
  return new;
end $$;
alter function audit.note() set search_path = audit;
"""


class Schema:
    """Writes the schema of an app with these traits."""

    def __init__(self, traits: Traits) -> None:
        self.t = traits

    def statements(self) -> Iterator[str]:
        """Create everything."""
        t = self.t
        if t.schema != "public":
            yield f"create schema {t.schema};\ngrant usage on schema {t.schema} to authenticated, service_role;\n"
        if t.profiles:
            yield _PROFILES
        if t.refund:
            yield "create table public.purses (user_id uuid primary key, coins integer not null);\n"
            yield "alter table public.purses enable row level security;\n"
        if "elsewhere" in t.quirks:
            yield "create schema library;\n"
        yield from self._sessions_table()
        if t.status == "enum":
            words = ", ".join(f"'{word}'" for words in t.words.values() for word in words)
            yield f"create type {t.schema}.state as enum ({words});\n"
        if t.status == "domain":
            yield f"create domain {t.schema}.word as text check (length(value) > 0);\n"
        yield from self._generations_table()
        yield from self._notes()
        yield from quirks_of(t)
        yield from self._triggers()
        if not t.legacy or t.schema != "public":  # what the app's own process needs
            yield f"grant select, insert, update, delete on {t.full_table} to service_role;\n"
            if t.obstacle == "bigint id":
                yield f"grant usage on all sequences in schema {t.schema} to service_role;\n"

    def _owner(self, *, of_generations: bool = False) -> str:
        t = self.t
        if of_generations and t.obstacle == "text owner":
            return "text not null"
        target = "public.profiles" if t.profiles else "auth.users"
        return f"uuid not null references {target} (id) on delete cascade"

    def _sessions_table(self) -> Iterator[str]:
        t = self.t
        if t.result == "row":
            return
        columns = ["id uuid primary key default gen_random_uuid()", f"{t.sql('user_id')} {self._owner()}"]
        if t.result == "columns":
            columns += [
                "title text not null check (title <> '')",
                "minutes smallint not null",
                "level varchar(20)",
                "parts jsonb not null default '[]'",
            ]
        else:
            columns += ["body jsonb not null"]
        columns += ["planned boolean not null default true"] if t.one_planned else []
        columns += ["letters integer generated always as (length(title)) stored"] if t.result == "columns" else []
        yield f"create table {t.sessions_table} ({', '.join(columns)});\n"
        yield f"alter table {t.sessions_table} enable row level security;\n"
        if t.one_planned:
            yield f"create unique index one_planned on {t.sessions_table} ({t.sql('user_id')}) where planned;\n"
        if t.result == "function":
            yield (
                f"create function {t.schema}.make_it(p_user_id uuid, p_generation_id uuid, p_output jsonb,"
                " p_attempt jsonb) returns jsonb language sql as $$"
                f" insert into {t.sessions_table} as s ({t.sql('user_id')}, body)"
                " values (p_user_id, p_output) returning to_jsonb(s) $$;\n"
                f"revoke all on function {t.schema}.make_it(uuid, uuid, jsonb, jsonb)"
                " from public, anon, authenticated;\n"
            )

    def _generations_table(self) -> Iterator[str]:
        t = self.t
        key = "" if t.partitioned else " primary key"
        id_type = "bigserial" if t.obstacle == "bigint id" else "uuid"
        default = "" if t.obstacle == "bigint id" or "no default" in t.quirks else " default gen_random_uuid()"
        columns = [f"{t.sql('id')} {id_type}{key}{default}"]
        if t.obstacle != "no owner":
            columns += [f"{t.sql(t.owner)} {self._owner(of_generations=True)}"]
        if t.status != "none":
            own = {"varchar": "varchar(30)", "enum": f"{t.schema}.state", "domain": f"{t.schema}.word"}
            kind = own.get(t.status, t.status)
            check = ""
            if t.status == "varchar":
                words = ", ".join(f"'{word}'" for words in t.words.values() for word in words)
                check = f" check ({t.sql('status')} in ({words}))"
            required = "" if t.null_is else " not null"
            columns += [f"{t.sql('status')} {kind}{required} default '{t.words['queued'][0]}'{check}"]
        columns += [f"{t.sql('model')} text"] if t.model else []
        if t.prompt == "columns":
            columns += [f"{t.sql('prompt_text')} text not null", f"{t.sql('tone')} text"]
        else:
            columns += [f"{t.sql('prompt_data')} {t.prompt} not null"]
        columns += [f"{t.sql('duration_ms')} {t.duration}"] if t.duration else []
        if t.result == "row":
            columns += [f"{t.sql('answer')} jsonb", f"{t.sql('finished_at')} timestamptz"]
        else:
            late = " deferrable initially deferred" if "deferred" in t.quirks else ""
            link = f" references {t.sessions_table} (id){late}" if t.reference == "uuid" else ""
            columns += [f"{t.sql('session_id')} {t.reference}{link}"]
        columns += [f"{t.sql('created_at')} {t.created} not null default {now(t.created)}"]
        columns += [f"{t.sql('updated_at')} {t.updated} default {now(t.updated)}"] if t.updated else []
        columns += [f"{t.sql('deleted_at')} timestamptz"] if t.hiding == "deleted_at" else []
        columns += [f"{t.sql('archived')} boolean not null default false"] if t.hiding == "archived" else []
        columns += ["kind text not null"] if "required" in t.quirks else []
        columns += ["shard integer generated always as (7) stored"] if t.generated else []
        suffix = f" partition by range ({t.sql('created_at')})" if t.partitioned else ""
        if t.partitioned:
            columns += [f"primary key ({t.sql('id')}, {t.sql('created_at')})"]
        yield f"create table {t.full_table} ({', '.join(columns)}){suffix};\n"
        if t.partitioned:
            yield f"create table {t.schema}.a_part partition of {t.full_table} default;\n"
            yield f"alter table {t.schema}.a_part enable row level security;\n"
        yield f"alter table {t.full_table} enable row level security;\n"
        yield from self._guards()

    def _guards(self) -> Iterator[str]:
        t = self.t
        if t.one_active:
            active = ", ".join(f"'{word}'" for word in (*t.words["queued"], *t.words["processing"]))
            guarded = f"({t.sql(t.owner)}) where {t.sql('status')} in ({active})"
            yield f"create unique index one_active on {t.full_table} {guarded};\n"
        if t.policies != "none":
            own = f"{t.sql(t.owner)} = auth.uid()"
            yield f"create policy own on {t.full_table} for all to authenticated using ({own});\n"
        if t.policies == "restrictive":
            yield f"create policy strict on {t.full_table} as restrictive for select to authenticated using (true);\n"

    def _notes(self) -> Iterator[str]:
        t = self.t
        if t.logs != "none":
            key = "bigint generated always as identity" if t.logs == "identity" else "uuid default gen_random_uuid()"
            more = ", severity text not null" if t.logs == "required" else ""
            yield (
                f"create table {t.logs_table} (id {key} primary key, generation_id uuid not null,"
                f" user_id {self._owner()}, error_type text not null, error_message text, created_at timestamptz"
                f" not null default now(){more});\nalter table {t.logs_table} enable row level security;\n"
            )
        if t.events == "calendar":
            yield _CALENDAR
        elif t.events != "none":
            key = "serial primary key" if t.events == "serial" else "uuid primary key default gen_random_uuid()"
            yield (
                f"create table {t.events_table} (id {key}, user_id uuid not null, event_type text not null,"
                " event_data jsonb not null default '{}', created_at timestamptz not null default now());\n"
                f"alter table {t.events_table} enable row level security;\n"
            )

    def _triggers(self) -> Iterator[str]:
        t = self.t
        if t.touch and t.updated:
            yield (
                f"create function {t.schema}.touch() returns trigger language plpgsql as $$ begin"
                f" new.{t.sql('updated_at')} := {now(t.updated)}; return new; end $$;\n"
                f"create trigger touch before update on {t.full_table} for each row"
                f" execute function {t.schema}.touch();\n"
            )
        if t.audit:
            yield (
                _AUDIT
                + f"create trigger note after update on {t.full_table} for each row execute function audit.note();\n"
            )
        if t.refund:
            failed = ", ".join(f"'{word}'" for word in t.words["error"])
            yield (
                "create function public.pay_back() returns trigger language plpgsql security definer as $$ begin update"
                f" public.purses set coins = coins + 1 where user_id = new.{t.sql(t.owner)}; return new; end $$;\n"
                f"create trigger pay_back after update on {t.full_table} for each row"
                f" when (new.{t.sql('status')} in ({failed}) and old.{t.sql('status')} not in ({failed}))"
                " execute function public.pay_back();\n"
            )
