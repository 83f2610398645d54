"""`ai-retry doctor` on broken set-ups: it says what is wrong with each, and what it says to do corrects it."""

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import jwt
import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql
from psycopg.types.json import Jsonb

from ai_retry.cli import _shipped
from ai_retry.cli.commands import cli
from ai_retry.cli.doctor import Check, Examination, Finding, Level, examine
from ai_retry.cli.doctor.case import Case
from ai_retry.cli.doctor.database import judge
from ai_retry.cli.doctor.model import Database
from ai_retry.cli.doctor.shipped import BINDING_VERSION, shipped
from ai_retry.clock import SystemClock
from ai_retry.domain.ports import Clock
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import Request, Script, ScriptedServer, reply, reset
from tests.integration.test_migrations import AN_APP
from tools.inspected import manifest_of
from tools.manifest import MANIFEST, written
from tools.migration import APP, OURS
from tools.outage import failed_generations
from tools.push import apply_migrations
from tools.stack import MIGRATIONS, Stack, running_stack
from tools.waiting import skipping_without_stack

HERE = SystemClock()
SECRET_PROMPT = "prompt-that-no-finding-may-hold"
SEAM = "public.ai_retry_create_session(public.generations, jsonb)"


CLOSED = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}
OPEN = {**CLOSED, "properties": {"plan": {"type": "object"}}, "required": ["plan"]}


class _Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with an empty list."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": []}')

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of a provider that lists its models for whoever asks, as often as they do."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Models) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def settings(database_url: str, provider: str, role: str = "service_role") -> dict[str, str]:
    """An environment whose connections run as a role, with no more rights than it has."""
    return {"DATABASE_URL": f"{database_url}?options=-c%20role%3D{role}", "AI_BASE_URL": provider}


def executed(database_url: str, *statements: str) -> None:
    """Run statements as the owner of everything."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def the(examination: Examination) -> Finding:
    """The only finding."""
    (finding,) = examination.findings
    return finding


def migrations_from(directory: Path, *names: str) -> Path:
    """Make a directory of those shipped migrations whose name holds one of the words."""
    directory.mkdir()
    for path in _shipped.migrations():
        if any(name in path.name for name in names):
            (directory / path.name).write_bytes(path.read_bytes())
    return directory


@dataclass(frozen=True)
class Damage:
    """One way to break a database, and what the doctor must say of it."""

    statements: tuple[str, ...]
    check: Check
    problem: str  # a pattern
    remedy: str = "^run: "  # a pattern
    level: Level = Level.PROBLEM
    corrected: bool = True  # by the SQL in the remedy


BROKEN: Mapping[str, Damage] = {
    "two functions of one name": Damage(
        ("create function public.ai_retry_state(p_most integer) returns integer language sql"
         " set search_path = pg_catalog, pg_temp as 'select 0'",
         "revoke all on function public.ai_retry_state(integer) from public, anon, authenticated",
         "grant execute on function public.ai_retry_state(integer) to service_role"),
        Check.MIGRATIONS, "there are 2 functions ai_retry_state", r"drop function public.*state\(p_most integer\)",
    ),
    "two parts of one name": Damage(
        ("create function ai_retry.has_queue(p_twice text) returns boolean language sql"
         " set search_path = pg_catalog, pg_temp as 'select true'",
         "revoke all on function ai_retry.has_queue(text) from public, anon, authenticated",
         "grant execute on function ai_retry.has_queue(text) to service_role"),
        Check.MIGRATIONS, "there are 2 functions ai_retry.has_queue", r"drop function ai_retry.has_queue\(p_twice",
    ),
    "a function with its owner's rights": Damage(
        ("alter function public.ai_retry_state() security definer",),
        Check.GRANTS, "ai_retry_state runs with its owner's rights",
    ),
    "a part with its owner's rights": Damage(
        ("alter function ai_retry.close_over(uuid, uuid, timestamptz) security definer",),
        Check.GRANTS, "ai_retry.close_over runs with its owner's rights",
    ),
    "a function with its caller's search_path": Damage(
        ("alter function public.ai_retry_state() reset search_path",),
        Check.GRANTS, "ai_retry_state finds tables, functions and types by its caller's search_path",
    ),
    "a part that finds temporary types first": Damage(
        ("alter function ai_retry.last_error(uuid) set search_path = ''",),
        Check.GRANTS, 'ai_retry.last_error finds tables, functions and types by search_path ""',
    ),
    "users may execute a function": Damage(
        ("grant execute on function public.ai_retry_state() to anon",),
        Check.GRANTS, "^anon may execute ai_retry_state",
    ),
    "users may execute a part": Damage(
        ("grant execute on function ai_retry.lock_user(uuid) to public",),
        Check.GRANTS, "^anon and authenticated may execute ai_retry.lock_user",
    ),
    "users may execute a function of the binding": Damage(
        ("grant execute on function ai_retry.app_read(uuid) to authenticated",),
        Check.GRANTS, "^authenticated may execute ai_retry.app_read",
    ),
    "users may execute what is not ours in our schema": Damage(
        ("create function ai_retry.words_of_the_app() returns text language sql as 'select null::text'",),
        Check.GRANTS, "^anon and authenticated may execute ai_retry.words_of_the_app",
    ),
    "users may use the schema": Damage(
        ("grant usage on schema ai_retry to authenticated",),
        Check.GRANTS, "^authenticated may use the schema ai_retry",
    ),
    "the service role may not use the schema": Damage(
        ("revoke usage on schema ai_retry from service_role",),
        Check.GRANTS, "service_role may not use the schema ai_retry",
    ),
    "the service role may not execute a function": Damage(
        ("revoke execute on function public.ai_retry_state() from service_role",),
        Check.GRANTS, "service_role may not execute ai_retry_state",
    ),
    "the service role may not execute a part, nor the binding": Damage(
        ("revoke execute on function ai_retry.has_queue() from service_role",
         "revoke execute on function ai_retry.app_write(uuid, text, text, integer, timestamptz) from service_role"),
        Check.GRANTS, "service_role may not execute ai_retry.app_write, ai_retry.has_queue",
    ),
    "users may read the answers": Damage(
        ("grant select (answer) on table public.ai_retry_answers to authenticated",),
        Check.GRANTS, "end users may select in public.ai_retry_answers",
    ),
    "users may read the attempts as decisions see them": Damage(
        ("grant select on table ai_retry.attempts to anon",),
        Check.GRANTS, "end users may select in ai_retry.attempts",
    ),
    "the service role may not read the attempts as decisions see them": Damage(
        ("revoke select on table ai_retry.attempts from service_role",),
        Check.GRANTS, "service_role may not select in ai_retry.attempts",
    ),
    "the service role may not close attempts": Damage(
        ("revoke delete on table public.ai_retry_open from service_role",),
        Check.GRANTS, "service_role may not delete in public.ai_retry_open",
    ),
    "the service role may not update generations": Damage(
        ("revoke update on table public.generations from service_role",),
        Check.GRANTS, "service_role may not update in public.generations",
    ),
    "no row level security on our table": Damage(
        ("alter table public.ai_retry_quotas disable row level security",),
        Check.ROW_LEVEL_SECURITY, "it is off on public.ai_retry_quotas",
    ),
    "no row level security on the app's table": Damage(
        ("alter table public.generations disable row level security",),
        Check.ROW_LEVEL_SECURITY, "any user may select everybody's rows",
    ),
    "users may write generations": Damage(
        ('create policy "write own" on public.generations for all to authenticated using (auth.uid() = user_id)',
         "grant update (prompt_data) on public.generations to authenticated"),
        Check.ROW_LEVEL_SECURITY, 'the policy "write own" lets end users write', "set AI_MODELS", Level.HINT,
        corrected=False,
    ),
    "no seam": Damage(
        (f"drop function {SEAM}",),
        Check.SESSION_FUNCTION, "there is no function public.ai_retry_create_session", "ai-retry migrations copy",
        corrected=False,
    ),
    "a seam that returns something else": Damage(
        (f"drop function {SEAM}", f"create function {SEAM} returns text language sql as 'select null::text'",
         f"revoke all on function {SEAM} from public, anon, authenticated",
         f"grant execute on function {SEAM} to service_role"),
        Check.SESSION_FUNCTION, "that returns jsonb", "ai-retry migrations copy", corrected=False,
    ),
    "users may execute the seam": Damage(
        (f"grant execute on function {SEAM} to authenticated",),
        Check.SESSION_FUNCTION,
        "authenticated may execute ai_retry_create_session: sessions that were charged to no one",
    ),
    "the service role may not execute the seam": Damage(
        (f"revoke execute on function {SEAM} from service_role",),
        Check.SESSION_FUNCTION, "service_role may not execute ai_retry_create_session",
    ),
    "no pgmq": Damage(
        ("drop schema pgmq cascade",),
        Check.QUEUE, "pgmq .* is not there", "turn on Queues", Level.HINT, corrected=False,
    ),
    "no queue": Damage(
        ("select pgmq.drop_queue('ai_retry')",),
        Check.QUEUE, "the queue ai_retry is not made", r"select public.ai_retry_create_queue\(\)", Level.HINT,
    ),
    "a queue that the service role may not use": Damage(
        ("revoke usage on schema pgmq from service_role",),
        Check.QUEUE, "service_role may not use the queue", r"select public.ai_retry_create_queue\(\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_broken_database_is_named_and_corrected(migrated_database: str, provider: str, damage: Damage) -> None:
    """Each kind of damage is the one finding, and where the remedy is SQL it leaves nothing to find."""
    executed(migrated_database, *damage.statements)

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert (finding.check, finding.level) == (damage.check, damage.level)
    assert re.search(damage.problem, finding.problem)
    assert re.search(damage.remedy, finding.remedy)
    if damage.corrected:
        correct = re.search(r"(?:run|owner): (.*?)(?:, with .*)?$", finding.remedy)
        assert correct is not None
        executed(migrated_database, *correct[1].split("; "))
        assert examine(settings(migrated_database, provider), clock=HERE).findings == ()


def again(database_url: str, finding: Finding) -> None:
    """Run the migration that a finding names, and all later ones."""
    found = re.search(r"\d+_\w+\.sql", finding.problem + finding.remedy)
    assert found is not None
    executed(database_url, *(path.read_text() for path in _shipped.migrations() if path.name >= found[0]))


CHANGED: Mapping[str, tuple[str, str]] = {
    "a function changed by hand": (
        "create or replace function public.ai_retry_state() returns jsonb language sql"
        " set search_path = pg_catalog, pg_temp as 'select null::jsonb'",
        "not as shipped: ai_retry_state; changed by hand",
    ),
    "a part changed by hand": (
        "create or replace function ai_retry.has_queue() returns boolean language sql"
        " set search_path = pg_catalog, pg_temp as 'select false'",
        "not as shipped: ai_retry.has_queue; changed by hand",
    ),
    "a function that is gone": (
        "drop function ai_retry.has_queue()",
        "ai_retry.sql is not applied, or not whole: ai_retry.has_queue missing",
    ),
    "a function of the binding that is gone": (
        "drop function ai_retry.app_last_error(uuid)",
        "the binding is of an older version, or not whole: ai_retry.app_last_error missing",
    ),
    "a description that is gone": (
        "drop function ai_retry.app_describe()",
        "ai_retry_app.sql is not applied, or not whole: ai_retry.app_describe missing",
    ),
    "an index that is gone": (
        "drop index public.ai_retry_attempts_one_success",
        "ai_retry_attempts_one_success missing",
    ),
    "a table that is gone": (
        "drop table public.ai_retry_recoveries",
        "ai_retry_recoveries, ai_retry_recoveries_pkey, ended_states_its_counts missing",
    ),
    "a view that is gone": (
        "drop view ai_retry.attempts",
        "ai_retry.attempts missing",
    ),
}


@pytest.mark.parametrize(("statement", "problem"), CHANGED.values(), ids=CHANGED.keys())
def test_changed_migration_is_named_and_corrected(
    migrated_database: str, provider: str, statement: str, problem: str
) -> None:
    """What is not as shipped is named with its migration; running that and the later ones again corrects it."""
    executed(migrated_database, statement)

    finding = the(examine(settings(migrated_database, provider), clock=HERE))
    again(migrated_database, finding)

    assert finding.check is Check.MIGRATIONS
    assert problem in finding.problem
    assert examine(settings(migrated_database, provider), clock=HERE).findings == ()


@pytest.mark.parametrize(
    "constraint",
    ["only_charged_success_captures", "captured_when_closed", "ai_retry_attempts_user_id_fkey"],
)
def test_missing_constraint_is_named(migrated_database: str, provider: str, constraint: str) -> None:
    """A constraint of ours that was dropped is named, also one that PostgreSQL has named."""
    executed(migrated_database, f"alter table public.ai_retry_attempts drop constraint {constraint}")

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert finding.check is Check.MIGRATIONS
    assert f"{constraint} missing" in finding.problem


def test_missing_table_of_the_app_is_named(migrated_database: str, provider: str) -> None:
    """A table that the app dropped is named."""
    executed(migrated_database, "drop table public.events")

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert (finding.check, finding.problem) == (Check.MIGRATIONS, "there is no table public.events")


def test_unapplied_binding_is_named(bare_database: str, provider: str, tmp_path: Path) -> None:
    """The migration of the binding was never applied: it is named; nothing is said to be changed by hand."""
    apply_migrations(bare_database, migrations_from(tmp_path / "some", OURS.name))

    findings = examine(settings(bare_database, provider), clock=HERE).of(Check.MIGRATIONS)

    assert [each.problem for each in findings if "changed by hand" in each.problem] == []
    assert any(each.problem.startswith(f"{APP.name} is not applied") for each in findings)


@pytest.mark.parametrize("applied", [(), (APP.name,)], ids=["no migration", "the binding only"])
def test_missing_migrations_are_named(
    bare_database: str, provider: str, tmp_path: Path, applied: tuple[str, ...]
) -> None:
    """Without ours nothing in the database can be judged, and the remedy is to apply them."""
    apply_migrations(bare_database, migrations_from(tmp_path / "some", *applied))

    examination = examine(settings(bare_database, provider), clock=HERE)

    assert "does not know what ai-retry asks for" in the(examination).problem
    assert "apply the migrations of this version" in the(examination).remedy
    assert (the(examination).check, examination.result(Check.CONNECTION)) == (Check.MIGRATIONS, "ok")
    assert Check.GRANTS in examination.skipped


DESCRIBE = "create or replace function ai_retry.app_describe() returns jsonb"
OWN_BINDING = f"""
create table public.ai_texts (like public.generations including all);
alter table public.ai_texts enable row level security;
revoke all on table public.ai_texts from public, anon, authenticated, service_role;
{DESCRIBE} language sql security definer as $$
  select '{{"version": 1, "tables": {{"public.ai_texts": ["select"]}}, "generations": "public.ai_texts",
    "session_function": null}}'::jsonb
$$;
create or replace function ai_retry.app_last_error(p_generation_id uuid) returns jsonb language sql
  as 'select null::jsonb';
drop table public.events, public.generation_error_logs cascade;
"""


def test_own_binding_is_judged_by_its_form(migrated_database: str, provider: str) -> None:
    """An app's binding has a source of its own, names its own tables, and runs as it wants; those tables are judged."""
    executed(migrated_database, OWN_BINDING)

    finding = the(examine(settings(migrated_database, provider), clock=HERE))
    executed(migrated_database, finding.remedy.removeprefix("run: "))

    assert finding.problem == "service_role may not select in public.ai_texts"
    assert examine(settings(migrated_database, provider), clock=HERE).findings == ()


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (
            ("drop function ai_retry.app_lock(uuid, text)",
             "create function ai_retry.app_lock(p_id bigint, p_timeout text) returns jsonb language sql"
             " as 'select null::jsonb'"),
            "the binding has no function ai_retry.app_lock(uuid, text) that returns jsonb",
        ),
        (
            ("drop function ai_retry.app_find(timestamptz, timestamptz, uuid, uuid, integer)",
             "create function ai_retry.app_find(timestamptz, timestamptz, uuid, uuid, integer) returns setof uuid"
             " language sql as 'select null::uuid'"),
            "ai_retry.app_find(timestamp with time zone, timestamp with time zone, uuid, uuid, integer) that returns"
            " table(id uuid, status text, model text, created_at timestamp with time zone)",
        ),
        (
            (f"{DESCRIBE} language sql as 'select ''[]''::jsonb'",),
            "app_describe returns something else than version, tables, generations and session_function",
        ),
        (
            (f"{DESCRIBE} language plpgsql as 'begin return 1/0; end'",),
            "app_describe returns something else than version, tables, generations and session_function",
        ),
        (
            ("do $$ begin execute replace(pg_get_functiondef('ai_retry.app_describe()'::regprocedure),"
             " '\"version\": 1', '\"version\": 2'); end $$",),
            "the binding is of version 2, and this ai-retry needs version 1",
        ),
    ],
    ids=["other arguments", "another result", "an odd description", "a failing description", "another version"],
)  # fmt: skip
def test_binding_of_another_form_is_reported(
    migrated_database: str, provider: str, statements: tuple[str, ...], problem: str
) -> None:
    """What ours could not call, or not understand, is named with the form that it must have."""
    executed(migrated_database, *statements, "revoke all on all functions in schema ai_retry from public",
             "grant execute on all functions in schema ai_retry to service_role")  # fmt: skip

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert finding.check is Check.MIGRATIONS
    assert problem in finding.problem


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("default_transaction_read_only", "on", "the database takes no writes"),
        ("default_transaction_isolation", "serializable", "transactions run in serializable"),
    ],
)
def test_database_that_can_t_be_written_is_named(
    migrated_database: str, provider: str, setting: LiteralString, value: str, problem: str
) -> None:
    """A setting of the database under which no claim can be made is named."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(
            sql.SQL("alter database {} set {} = {}").format(
                sql.Identifier(connection.info.dbname), sql.Identifier(setting), sql.Literal(value)
            )
        )

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert finding.check is Check.CONNECTION
    assert problem in finding.problem


def test_old_server_is_named(migrated_database: str) -> None:
    """PostgreSQL 14 is too old; the facts of a newer one are for it, but for the version."""
    storage = PostgresStorage(migrated_database, max_connections=1)
    database = replace(Database.from_row(storage.inspect()), server_version=140011)
    storage.close()

    (finding,) = judge(Case(database, shipped(), models_are_restricted=False))

    assert (finding.problem, finding.remedy) == (
        "this is PostgreSQL 14",
        "upgrade the project to PostgreSQL 15 or newer",
    )


def test_role_that_sees_no_rows_is_named(migrated_database: str, provider: str) -> None:
    """A role with all grants, to which row level security applies, would find no generation."""
    role = f"doctor_{uuid4().hex}"
    executed(migrated_database, f"create role {role} in role service_role inherit")
    try:
        examination = examine(settings(migrated_database, provider, role), clock=HERE)
    finally:
        executed(migrated_database, f"drop role {role}")

    assert (
        f"it hides rows from {role} in ai_retry_actions, ai_retry_answers, ai_retry_attempts"
        in the(examination).problem
    )
    assert "bypassrls" in the(examination).remedy


class OtherClock(SystemClock):
    """A machine whose clock is wrong."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        """The wrong time."""
        return datetime.now(UTC) + self._ahead


@pytest.mark.parametrize(
    ("clock", "found"),
    [
        (OtherClock(timedelta(hours=1)), r"clock is 3(600|599) s ahead of"),
        (OtherClock(-timedelta(hours=1)), r"clock is 3(600|599) s behind"),
        (OtherClock(timedelta(seconds=5)), None),
    ],
    ids=["ahead", "behind", "nearly right"],
)
def test_clock_is_compared_with_the_databases(
    migrated_database: str, provider: str, clock: Clock, found: str | None
) -> None:
    """A clock that is more than ten seconds off is a problem, for access tokens alone; less is none."""
    examination = examine(settings(migrated_database, provider), clock=clock)

    if found is None:
        assert examination.findings == ()
    else:
        assert the(examination).check is Check.CLOCK
        assert re.search(found, the(examination).problem)
        assert "NTP" in the(examination).remedy


OTHER_BASES = [
    "/v1/v1/models",
    "/v1/api/v1/models",
    "/api/v1/models",
]  # where a list of models is looked for, from the base /v1


def closed_port() -> int:
    """A port of this machine where no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "problem", "level"),
    [
        (reply(401), r"refuses the key \(401\)", Level.PROBLEM),
        (reply(403), r"refuses the key \(403\)", Level.PROBLEM),
        (reply(307, headers={"Location": "/v1/models"}), r"it redirects \(307\)", Level.PROBLEM),
        (reply(404), "answers 404", Level.HINT),
        (reply(503), "answers 503", Level.HINT),
        (reset(), "a server takes the connection, and gives no answer to the question for its models", Level.PROBLEM),
    ],
    ids=["key refused", "key forbidden", "redirect", "no list of models", "overloaded", "connection reset"],
)
def test_provider_that_refuses_is_named(migrated_database: str, answer: Any, problem: str, level: Level) -> None:
    """What the provider answers to a question that costs nothing is judged; the question carries the key."""
    with ScriptedServer(answer, default=reply(404)) as server:
        environ = settings(migrated_database, server.base_url) | {"AI_API_KEY": "key-of-the-test"}
        finding = the(examine(environ, clock=HERE))
        request, *others = server.requests

    assert [each.path for each in others] == (OTHER_BASES if "404" in problem else [])
    assert (finding.check, finding.level) == (Check.PROVIDER, level)
    assert re.search(problem, finding.problem)
    assert (request.method, request.path) == ("GET", "/v1/models")
    assert request.headers["authorization"] == "Bearer key-of-the-test"
    assert "key-of-the-test" not in str(finding)


LISTED = reply(json={"object": "list", "data": [{"id": "small"}]})


def lm_studio(request: Request) -> Script:
    """Answer as LM Studio does: status 200 everywhere, and an error text where there is no API."""
    said = f"Unexpected endpoint or method. ({request.method} {request.path})"
    return LISTED if request.path == "/v1/models" else reply(json={"error": said})


def web_site(request: Request) -> Script:
    """Answer as a provider's web site does, whose API is below /api/v1."""
    return LISTED if request.path == "/api/v1/models" else reply(body="<!DOCTYPE html><html>Welcome</html>")


@pytest.mark.parametrize(
    ("answer", "wrong", "right"),
    [
        (lm_studio, "", "/v1"),
        (lm_studio, "/v1/chat/completions", "/v1"),
        (lm_studio, "/v1/models", "/v1"),
        (web_site, "", "/api/v1"),
        (lambda request: LISTED if request.path == "/v1/models" else reply(404), "", "/v1"),
        (lambda request: LISTED if request.path == "/v1/models" else reply(404), "/v2", "/v1"),
        (web_site, "/v1", "/api/v1"),
    ],
    ids=["no /v1", "whole address", "list of models", "web site", "not found", "other version", "web site's /v1"],
)
def test_wrong_base_address_is_corrected(migrated_database: str, answer: Any, wrong: str, right: str) -> None:
    """Where something else than the API answers, and its list of models is near by, the remedy names the address."""
    with ScriptedServer(default=answer) as server:
        site = server.base_url.removesuffix("/v1")
        environ = settings(migrated_database, site + wrong) | {"AI_API_KEY": "key-of-the-test"}
        finding = the(examine(environ, clock=HERE))

    assert (finding.check, finding.level) == (Check.PROVIDER, Level.PROBLEM)
    assert finding.remedy == f"set AI_BASE_URL to {site}{right}, where models are listed"
    assert "key-of-the-test" not in str(finding)


def test_misspelt_variables_are_hints(migrated_database: str, provider: str) -> None:
    """A variable that nothing reads and that looks like one of ours is named with ours, never with its value."""
    environ = settings(migrated_database, provider)
    spelt = {"AI_EXTRABODY": "value-of-the-test", "AI_CONTEXT_FROM": "prompts:read", "AI_VERSION": "7", "PATH": "/bin"}
    examination = examine(environ | spelt, clock=HERE)

    assert [(each.problem, each.remedy.partition(",")[0]) for each in examination.findings] == [
        ("AI_CONTEXT_FROM is not read", "if you mean AI_RETRY_CONTEXT_FROM"),
        ("AI_EXTRABODY is not read", "if you mean AI_EXTRA_BODY"),
    ]
    assert examination.result(Check.CONFIGURATION) == "hint"
    assert "value-of-the-test" not in str(examination)


def test_long_deadline_is_a_hint(migrated_database: str, provider: str) -> None:
    """Above a minute a request had better not wait for its call."""
    environ = settings(migrated_database, provider)
    short, long = (
        examine(environ | {"AI_RETRY_DEADLINE_SECONDS": each}, clock=HERE).of(Check.CONFIGURATION)
        for each in ("60", "61")
    )

    assert short == []
    (hint,) = long
    assert "Prefer: respond-async" in hint.remedy
    assert hint.level is Level.HINT


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (reply(body="<html>Please log in</html>"), "a web page answered, not the API"),
        (reply(json={"error": "Unexpected endpoint (GET /x) by key-of-the-test"}), "Unexpected endpoint (GET /x)"),
        (reply(body="404 page not found"), "404 page not found"),
        (
            reply(400, body="<html>400 The plain HTTP request…</html>"),
            "something else than the API answered (HTTP 400)",
        ),
        (reply(405, body="<!DOCTYPE html><html>405 Not Allowed</html>"), "something else than the API answered"),
        (reply(511, body="<html>Log in to the network</html>"), "something else than the API answered (HTTP 511)"),
    ],
    ids=["web page", "error text", "text", "plain HTTP", "a site", "the network's page"],
)
def test_base_address_without_api_is_a_problem(migrated_database: str, answer: Any, says: str) -> None:
    """What is no list of models, and no API near by, is a problem of AI_BASE_URL, and shows no key."""
    with ScriptedServer(default=answer) as server:
        environ = settings(migrated_database, server.base_url) | {"AI_API_KEY": "key-of-the-test"}
        finding = the(examine(environ, clock=HERE))

    assert says in finding.problem
    assert "AI_BASE_URL" in finding.remedy
    assert "key-of-the-test" not in str(finding)


def test_every_provider_is_asked(migrated_database: str, provider: str) -> None:
    """Each with its own key, and no header or query of the first one; what is wrong names the variables to correct."""
    refuses, moved = reply(401, json={"error": {"message": "no such key"}}), reply(308)
    with ScriptedServer(default=refuses) as first, ScriptedServer(default=moved) as second:
        environ = settings(migrated_database, provider) | {
            "AI_API_KEY": "first-key-of-the-test",
            "AI_HEADERS": '{"X-Secret": "header-of-the-test"}',
            "AI_QUERY": '{"api-version": "1"}',
            "AI_AUTH_HEADER": "api-key",
            "AI_FALLBACK_1_BASE_URL": first.base_url,
            "AI_FALLBACK_1_API_KEY": "key-of-the-test",
            "AI_FALLBACK_3_BASE_URL": second.base_url,
        }
        found = examine(environ, clock=HERE).of(Check.PROVIDER)

    (request,) = first.requests
    assert (request.headers["authorization"], request.path) == ("Bearer key-of-the-test", "/v1/models")
    assert not {"x-secret", "api-key"} & set(request.headers)
    assert [(each.problem, each.level) for each in found] == [
        ("AI_FALLBACK_1_…: it refuses the key (401)", Level.PROBLEM),
        ("AI_FALLBACK_3_…: it redirects (308)", Level.PROBLEM),
    ]
    assert [each.remedy for each in found] == [
        "set AI_FALLBACK_1_API_KEY to a valid key with credit",
        "set AI_FALLBACK_3_BASE_URL to the address it points at: redirects are not followed",
    ]


@pytest.mark.parametrize(("name", "code"), [("make", "NOT RUN"), ("absent", "NOT RUN")])
def test_own_provider_is_made_and_not_asked(
    migrated_database: str, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str
) -> None:
    """A call costs; that it can't be made is a problem of the configuration."""
    (tmp_path / "own_ai.py").write_text(
        "from ai_retry.providers.function import FunctionProvider\ndef make():\n    return FunctionProvider(print)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    environ = settings(migrated_database, provider) | {"AI_RETRY_PROVIDER": f"own_ai:{name}"}

    examination = examine(environ, clock=HERE)

    assert examination.result(Check.PROVIDER) == code
    assert (Check.PROVIDER in examination.skipped) is (name == "absent")
    problems = [each.problem for each in examination.of(Check.CONFIGURATION)]
    assert problems == (
        []
        if name == "make"
        else ["AI_RETRY_PROVIDER: own_ai has no absent: name a function that takes nothing and returns an AiProvider"]
    )


def test_absent_provider_is_named(migrated_database: str) -> None:
    """A provider where nothing listens is a problem."""
    finding = the(examine(settings(migrated_database, f"http://127.0.0.1:{closed_port()}/v1"), clock=HERE))

    assert (finding.check, finding.problem) == (Check.PROVIDER, "it gives no answer: nothing listens there")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("postgresql://ada:secret@127.0.0.1:{port}/app", "can't be reached: nothing listens there"),
        ("postgresql://ada:secret@no-such-host.invalid/app", "can't be reached: there is no such host"),
    ],
    ids=["database down", "wrong host"],
)
def test_database_out_of_reach_is_named(provider: str, address: str, problem: str) -> None:
    """A database that can't be reached is reported with the reason; what is in it is skipped; no password is shown."""
    environ = {"DATABASE_URL": address.format(port=closed_port()), "AI_BASE_URL": provider}

    examination = examine(environ, clock=HERE)

    assert the(examination).check is Check.CONNECTION
    assert problem in the(examination).problem
    assert "DATABASE_URL" in the(examination).remedy
    assert "secret" not in str(the(examination))
    assert {Check.MIGRATIONS, Check.GRANTS, Check.CLOCK} <= examination.skipped


def test_unknown_user_of_the_database_is_named(migrated_database: str, provider: str) -> None:
    """A server that is there, but takes no connection of this user, is distinguished from one that is not there."""
    address = migrated_database.replace("postgres@", "nobody-of-that-name:secret@")

    finding = the(examine({"DATABASE_URL": address, "AI_BASE_URL": provider}, clock=HERE))

    assert finding.problem == "the database does not let the user in DATABASE_URL in"
    assert "check user, password and database" in finding.remedy
    assert "secret" not in str(finding)


def over_data_api(stack: Stack, provider: str) -> dict[str, str]:
    """The environment of an app without a direct connection."""
    return {name: value for name, value in stack.env().items() if name != "DATABASE_URL"} | {"AI_BASE_URL": provider}


def test_data_api_without_migrations_is_named(provider: str) -> None:
    """A project without our migrations, asked over the Data API: apply them, or let the API read the schema again."""
    with skipping_without_stack(), running_stack(None) as bare:
        examination = examine(over_data_api(bare, provider), clock=HERE)

    assert the(examination).check is Check.MIGRATIONS
    assert "the Data API does not know ai-retry's functions" in the(examination).problem
    assert "apply the migrations of this version" in the(examination).remedy
    assert "reload schema" in the(examination).remedy


def test_wrong_key_of_the_data_api_is_named(stack: Stack, provider: str) -> None:
    """A key that the Data API does not know is reported."""
    environ = over_data_api(stack, provider) | {"SUPABASE_SECRET_KEY": "sb_secret_of_another_project"}

    finding = the(examine(environ, clock=HERE))

    assert finding.check is Check.CONNECTION
    assert "SUPABASE_SECRET_KEY" in finding.remedy


def test_anonymous_key_of_the_data_api_is_named(stack: Stack, provider: str) -> None:
    """A legacy anonymous key in place of the secret key is named: its role may execute nothing of ours."""
    key = jwt.encode({"role": "anon", "exp": 4102444800}, stack.jwt_secret, algorithm="HS256")
    environ = over_data_api(stack, provider) | {"SUPABASE_SECRET_KEY": key}

    hint, finding = sorted(examine(environ, clock=HERE).findings, key=lambda each: each.level)

    assert (finding.check, finding.level) == (Check.CONNECTION, Level.PROBLEM)
    assert "refused" in finding.problem
    assert "service role" in finding.remedy or "SUPABASE_SECRET_KEY" in finding.remedy
    assert (hint.level, hint.problem.partition(",")[0]) == (Level.HINT, "SUPABASE_SECRET_KEY is a legacy key")


def test_configuration_is_named_whole(provider: str) -> None:
    """Everything that is wrong in the environment is reported at once, each with its variable; the rest is skipped."""
    examination = examine({"AI_RETRY_QUOTA_LIMITS": "5", "SUPABASE_URL": "example"}, clock=HERE)

    assert [each.problem.split()[0] for each in examination.findings] == [
        "SUPABASE_URL", "SUPABASE_SECRET_KEY", "AI_API_KEY", "AI_RETRY_QUOTA_LIMITS",
    ]  # fmt: skip
    assert examination.skipped == set(Check) - {Check.CONFIGURATION, Check.PROJECT}


@pytest.mark.parametrize("place", ["file/spool", "x" * 300])
def test_spool_that_is_no_directory_is_named(migrated_database: str, provider: str, tmp_path: Path, place: str) -> None:
    """A spool below a file, or where this user can't even look, could keep no answer."""
    (tmp_path / "file").touch()
    environ = settings(migrated_database, provider) | {"AI_RETRY_SPOOL_DIR": str(tmp_path / place)}

    finding = the(examine(environ, clock=HERE))

    assert (finding.check, "AI_RETRY_SPOOL_DIR" in finding.problem) == (Check.SPOOL, True)


@pytest.mark.parametrize(
    ("response_format", "schemas", "problem"),
    [
        ("json_schema", [OPEN, CLOSED, OPEN], "2 of the newest 3 response schemas of failed generations are outside"),
        ("json_schema", [CLOSED, {"type": "no-type"}, None], None),
        ("json_object", [OPEN], None),
        ("the app's own provider", [OPEN], None),
    ],
)
def test_schema_outside_subset_is_a_hint(
    migrated_database: str, provider: str, response_format: str, schemas: list[Any], problem: str | None
) -> None:
    """Where schemas are sent, those of the newest failed generations that can't be strict are named, with the place."""
    with psycopg.connect(migrated_database) as connection:
        for schema in schemas:
            for message in ({"role": "user", "content": "plan"}, {"role": "user"}):  # the other one can't be read
                connection.execute(
                    "with owner as (insert into auth.users (id) values (gen_random_uuid()) returning id)"
                    " insert into public.generations (user_id, status, prompt_data) select id, 'error', %s from owner",
                    [Jsonb({"messages": [message], "response_schema": schema})],
                )

    asks = {"AI_RESPONSE_FORMAT": response_format, "AI_MODEL": "small"}
    own = {"AI_RETRY_PROVIDER": "ai_retry.testing.ai:ScriptedAiProvider"}
    environ = settings(migrated_database, provider) | (own if "own" in response_format else asks)
    findings = examine(environ, clock=HERE).of(Check.PROVIDER)

    if problem is None:
        assert findings == []
    else:
        (finding,) = findings
        assert finding.level is Level.HINT
        assert finding.problem.startswith(problem)
        assert "the first at /properties/plan/properties," in finding.problem


def test_sound_setup_has_no_findings(migrated_database: str, provider: str, tmp_path: Path) -> None:
    """A project with all migrations has nothing to find, as service_role and as the owner."""
    environ = settings(migrated_database, provider) | {"AI_RETRY_SPOOL_DIR": str(tmp_path / "not-made-yet")}

    for each in (environ, environ | {"DATABASE_URL": migrated_database}):
        examination = examine(each, clock=HERE)
        assert (examination.findings, examination.skipped) == ((), frozenset())
        assert set(examination.not_run) == {Check.STATUSES, Check.CONTEXTS, Check.REHEARSAL}


def test_sound_setup_over_the_data_api_has_no_problems(stack: Stack, provider: str) -> None:
    """Over the Data API everything is looked at, too."""
    examination = examine(over_data_api(stack, provider), clock=HERE)

    findings = [each for each in examination.findings if each.check is not Check.CONTEXTS]  # of other tests' rows
    assert (findings, examination.skipped) == ([], frozenset())


def test_app_of_its_own_has_no_problems(bare_database: str, provider: str) -> None:
    """An app that was there before, with a seam of its own, is sound; what its policies open is a hint."""
    executed(
        bare_database,
        AN_APP,
        f"create function {SEAM} returns jsonb language sql as 'select null::jsonb'",
        f"revoke all on function {SEAM} from public, anon, authenticated",
        f"grant execute on function {SEAM} to service_role",
    )
    apply_migrations(bare_database, MIGRATIONS)

    examination = examine(settings(bare_database, provider) | {"AI_MODELS": "small"}, clock=HERE)

    assert examination.problems == []
    hint = next(each for each in examination.findings if each.check is Check.ROW_LEVEL_SECURITY)
    assert "AI_MODELS" not in hint.remedy


def test_files_with_carriage_returns_are_the_same(bare_database: str, provider: str, tmp_path: Path) -> None:
    """Migrations that an editor or git gave other line ends to are as shipped."""
    for path in _shipped.migrations():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    apply_migrations(bare_database, tmp_path)

    assert examine(settings(bare_database, provider), clock=HERE).findings == ()


def test_manifest_is_what_the_catalogue_says(bare_database: str) -> None:
    """What is shipped with the doctor is what the migrations create: `make migration` would change nothing."""
    assert MANIFEST.read_text() == written(manifest_of(bare_database))


def test_every_object_is_known_to_the_doctor(migrated_database: str) -> None:
    """Each function of ours and of the binding, but the session function; each table, index and constraint."""
    known = shipped()
    storage = PostgresStorage(migrated_database, max_connections=1)
    database = Database.from_row(storage.inspect())
    storage.close()

    with psycopg.connect(migrated_database) as connection:
        made = connection.execute(
            "select conname from pg_constraint where contype <> 'n' and conrelid::regclass::text like 'ai\\_retry\\_%'"
        ).fetchall()

    assert {name: each.signature for name, each in known.functions.items()} == {
        each.qualified: each.signature for each in database.functions if not each.creates_sessions
    }
    assert {name for name, each in known.functions.items() if each.source is None} == {
        each.qualified for each in database.functions if each.name.startswith("app_")
    }
    assert {name: each.search_path for name, each in known.functions.items()} == {
        each.qualified: each.search_path for each in database.functions if not each.creates_sessions
    }
    assert set(known.tables) == {name for name, table in database.tables.items() if table.is_ours}
    assert set(known.grants) == set(known.tables)
    assert set(known.constraints) == {name for (name,) in made}
    assert set(known.indexes) == database.indexes - set(known.constraints)
    assert database.binding is not None
    assert database.binding.version == BINDING_VERSION


def run(environ: Mapping[str, str], *arguments: str) -> Result:
    """Run the command line with these settings alone."""
    return CliRunner(env={"SUPABASE_URL": None, "SUPABASE_SECRET_KEY": None, **environ}).invoke(cli, arguments)


def test_command_shows_people(migrated_database: str, provider: str) -> None:
    """The command prints each check with its result, each finding with its remedy, and exits with 1 for a problem."""
    executed(migrated_database, "alter table public.ai_retry_quotas disable row level security")

    result = run(settings(migrated_database, provider), "doctor")

    assert result.exit_code == 1
    lines = result.output.splitlines()
    at = lines.index("problem   row level security")
    assert lines[at : at + 3] == [
        "problem   row level security",
        "            it is off on public.ai_retry_quotas",
        "            -> run: alter table public.ai_retry_quotas enable row level security",
    ]
    assert [line for line in lines if line.startswith("NOT RUN")] == [
        "NOT RUN   status words",
        "NOT RUN   contexts",
        "NOT RUN   spool",
        "NOT RUN   rehearsal",
    ]
    at = lines.index("NOT RUN   rehearsal")
    assert lines[at + 1 :] == [
        "            it was not asked for",
        "            -> run ai-retry doctor --rehearse: it is rolled back",
    ]


def test_command_shows_programs(migrated_database: str, provider: str) -> None:
    """With --json a program gets the same; a sound set-up exits with 0."""
    result = run(settings(migrated_database, provider), "doctor", "--json")

    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["ok"], document["findings"]) == (True, [])
    idle = {"status words", "contexts", "spool", "rehearsal"}
    assert document["checks"] == {str(check): "NOT RUN" if check in idle else "ok" for check in Check}
    assert {check: each["is_due"] for check, each in document["not_run"].items()} == dict.fromkeys(idle, False)


def test_command_without_settings_exits_with_3() -> None:
    """Without any setting the command names the variables and exits with 3; what did not run for that is one block."""
    result = run({}, "doctor")

    assert result.exit_code == 3
    assert "SUPABASE_URL is missing" in result.output
    assert "NOT RUN   connection, migrations, grants, " in result.output
    assert result.output.count("the configuration is at fault") == 1


def test_command_lets_no_control_character_through(migrated_database: str, provider: str) -> None:
    """A policy's name can't reach the terminal as a command to it."""
    executed(
        migrated_database,
        'create policy "\x1b[2J" on public.generations for update to authenticated using (true)',
        "grant update on public.generations to authenticated",
    )

    result = run(settings(migrated_database, provider), "doctor")

    assert result.exit_code == 0
    assert "lets end users write" in result.output
    assert "\x1b" not in result.output


# Contexts

OWN_PROMPTS = """
from ai_retry import Context, Generation
from ai_retry.domain.errors import ContextMissing


def context_from(generation: Generation) -> Context:
    if "question" not in (generation.prompt_data or {}):
        raise ContextMissing("prompt_data.question is missing")
    return Context(messages=[{"role": "user", "content": generation.prompt_data["question"]}], model="small")


def defective(generation: Generation) -> Context:
    return Context(messages=generation.prompt_data["question"]["asked"], model="small")
"""
OWN = {"question": SECRET_PROMPT}


@pytest.fixture
def own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with readers of the app's."""
    name = f"own_prompts_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(OWN_PROMPTS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def failed(database_url: str, count: int, prompt_data: Any) -> None:
    """Let so many generations fail."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        failed_generations(connection, count, prompt_data=prompt_data)


def test_readable_contexts_are_sound(migrated_database: str, provider: str, own_prompts: str) -> None:
    """Generations in the app's form are sound for the app's reader."""
    failed(migrated_database, 25, OWN)
    environ = settings(migrated_database, provider) | {"AI_RETRY_CONTEXT_FROM": f"{own_prompts}:context_from"}

    examination = examine(environ, clock=HERE)

    assert (examination.findings, examination.skipped) == ((), frozenset())
    assert Check.CONTEXTS not in examination.not_run


def test_unreadable_contexts_are_counted(migrated_database: str, provider: str, own_prompts: str) -> None:
    """Some of the newest can't be read: a hint with the count and the field, without content."""
    failed(migrated_database, 20, OWN)
    failed(migrated_database, 3, {"asked": SECRET_PROMPT})
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("update public.generations set created_at = now() where prompt_data ? 'asked'")
    environ = settings(migrated_database, provider) | {"AI_RETRY_CONTEXT_FROM": f"{own_prompts}:context_from"}

    finding = the(examine(environ, clock=HERE))

    assert (finding.check, finding.level) == (Check.CONTEXTS, Level.HINT)
    assert finding.problem == (
        f"{own_prompts}:context_from can read 17 of the 20 newest failed generations: prompt_data.question is missing"
    )
    assert SECRET_PROMPT not in f"{finding}"


def test_reader_that_reads_nothing_is_a_problem(migrated_database: str, provider: str) -> None:
    """The default reader with an app of another form: nothing could be retried, and the remedy names the variable."""
    failed(migrated_database, 2, OWN)

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert (finding.check, finding.level) == (Check.CONTEXTS, Level.PROBLEM)
    assert "stored_context can read 0 of the 2 newest" in finding.problem
    assert "prompt_data.messages must be a list" in finding.problem
    assert "AI_RETRY_CONTEXT_FROM" in finding.remedy


def test_defective_reader_is_a_problem_with_its_place(migrated_database: str, provider: str, own_prompts: str) -> None:
    """A reader that raises is reported by type and line, though others can be read."""
    failed(migrated_database, 1, OWN)
    failed(migrated_database, 1, {"question": {"asked": [{"role": "user", "content": SECRET_PROMPT}]}})
    environ = settings(migrated_database, provider) | {"AI_RETRY_CONTEXT_FROM": f"{own_prompts}:defective"}

    finding = the(examine(environ, clock=HERE))

    assert finding.level is Level.PROBLEM
    assert "can read 1 of the 2 newest" in finding.problem
    assert f"raised TypeError ({own_prompts}.py:" in finding.problem
    assert SECRET_PROMPT not in f"{finding}"


def test_reader_that_can_t_be_imported_is_reported(migrated_database: str, provider: str) -> None:
    """The configuration is at fault, and contexts are not tried."""
    environ = settings(migrated_database, provider) | {"AI_RETRY_CONTEXT_FROM": "no_such_app.prompts:context_from"}

    examination = examine(environ, clock=HERE)

    assert the(examination).check is Check.CONFIGURATION
    assert "AI_RETRY_CONTEXT_FROM: there is no module no_such_app" in the(examination).problem
    assert examination.skipped == {Check.CONTEXTS}


def test_row_out_of_range_is_a_finding(migrated_database: str, provider: str) -> None:
    """A row that the search can't understand is a finding, not a crash."""
    failed(migrated_database, 1, OWN)
    executed(migrated_database, "update public.generations set updated_at = 'infinity'")

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert (finding.check, finding.level) == (Check.CONTEXTS, Level.PROBLEM)
    assert "can read 0 of the 1 newest failed generations: generation " in finding.problem
    assert finding.problem.endswith(": updated_at is no instant between the years 1 and 9999")


def test_search_that_fails_is_a_finding(migrated_database: str, provider: str) -> None:
    """A binding that can't search is a finding, not a crash."""
    executed(
        migrated_database,
        "create or replace function ai_retry.app_last_error(p_generation_id uuid) returns jsonb language plpgsql as"
        " $$ begin raise exception 'secret row'; end $$",
    )
    failed(migrated_database, 1, OWN)

    finding = the(examine(settings(migrated_database, provider), clock=HERE))

    assert (finding.check, finding.level) == (Check.CONTEXTS, Level.PROBLEM)
    assert finding.problem.startswith("failed generations can't be searched: ")
