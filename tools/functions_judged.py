"""What plpgsql_check says about every function, and `supabase db lint` about the schemas, on Debian's PostgreSQL."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psycopg

from tools.debian_postgres import running_debian
from tools.judging import Objection, run
from tools.migration import MIGRATIONS
from tools.npm import install_node_packages, node
from tools.push import apply_migrations, load_pgmq

_NODE_JUDGES: Final = Path(__file__).parent / "node_judges"

# What a Supabase project has before any migration, as far as the migrations need it.
_PROJECT: Final = """
create role anon nologin;
create role authenticated nologin;
create role service_role nologin bypassrls;
create schema auth;
create table auth.users (id uuid primary key);
create function auth.uid() returns uuid language sql stable return null::uuid;
grant usage on schema auth to anon, authenticated, service_role;
create extension plpgsql_check;
"""

_ADVICE: Final = """
select p.oid::regprocedure::text, c.level, c.message, c.detail, c.lineno
from pg_catalog.pg_proc p
join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
left join pg_catalog.pg_trigger t on t.tgfoid = p.oid
left join lateral plpgsql_check_function_tb(
  p.oid, coalesce(t.tgrelid, 0), fatal_errors => false, other_warnings => true, extra_warnings => true,
  performance_warnings => true, security_warnings => true, oldtable => t.tgoldtable, newtable => t.tgnewtable) c on true
where p.pronamespace in ('public'::regnamespace, 'ai_retry'::regnamespace)
"""

# Advice that is meant as it is: whose message begins so, of functions whose name begins so.
_MEANT: Final[Mapping[tuple[str, str], str]] = {
    ("ai_retry.app_", "unused parameter"): "a binding to other tables needs it",
    ("ai_retry.app_", "routine is marked as STABLE"): "a binding that looks is no constant",
    ("ai_retry_publish", "routine is marked as VOLATILE"): "it runs DDL, which plpgsql_check can't see",
}


def judge_functions() -> Iterator[str]:
    """Have each function of ours, of the binding and of the default session checked, then ask the linter."""
    with running_debian() as url:
        load_pgmq(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_PROJECT.encode())
            apply_migrations(url, MIGRATIONS)
            advice = connection.execute(_ADVICE.encode()).fetchall()
        unmeant = [row for row in advice if row[2] is not None and not _is_meant(row[0], row[2])]
        if unmeant:
            lines = (": ".join(str(each) for each in row if each) for row in unmeant)
            raise Objection("\n".join(["plpgsql_check:", *lines]))
        yield f"plpgsql_check: nothing to say about {len({row[0] for row in advice})} functions"
        issues = [each for each in _linted(url) if not _is_meant(*each)]
        if issues:
            raise Objection("\n".join(["supabase db lint:", *(": ".join(each) for each in issues)]))
        yield "supabase db lint: no issues"


def _linted(url: str) -> Iterator[tuple[str, str]]:
    """Ask the linter: functions, and what it says of each."""
    command = str(install_node_packages(manifest=_NODE_JUDGES) / "supabase" / "dist" / "supabase.js")
    where = ["--db-url", f"{url}?sslmode=disable", "--schema", "public,ai_retry"]
    output = run([str(node()), command, "db", "lint", *where, "--level", "warning", "--output", "json"])
    for each in json.loads(output or "[]"):
        for issue in each["issues"]:
            yield each["function"], issue["message"]


def _is_meant(function: str, message: str) -> bool:
    return any(function.startswith(name) and message.startswith(said) for name, said in _MEANT)
