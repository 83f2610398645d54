"""The doctor on what changes around a binding that was fine, on the rehearsal, and on the files of a project."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from ai_retry.cli.commands import cli
from ai_retry.cli.doctor import Asked, Check, Examination, Finding, Level, examine
from ai_retry.cli.doctor.around import look_around
from ai_retry.cli.doctor.case import Case
from ai_retry.cli.doctor.database import judge
from ai_retry.cli.doctor.link import link, shares_backends
from ai_retry.cli.doctor.model import Database
from ai_retry.cli.doctor.project import is_declarative, project
from ai_retry.cli.doctor.rehearsing import rehearsed
from ai_retry.cli.doctor.shipped import shipped
from ai_retry.clock import SystemClock
from ai_retry.storage._connection_string import read_connection_string
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import ScriptedServer, reply
from benchmarks.app_rows import failed_generations, failed_generations_of
from tests.helpers.pooler import transaction_pooler
from tests.helpers.queue_steps import accept
from tests.helpers.steps import new_generation
from tests.helpers.world import SqlWorld
from tests.integration.test_own_binding import OWN, add_text
from tools.migration import APP, MIGRATIONS, OURS
from tools.stack import Stack

pytestmark = pytest.mark.stack

NOTHING = {"object": "list", "data": []}
NO_SCHEMAS = Path("no-project-here")


@pytest.fixture
def owner(migrated_database: str) -> Iterator[psycopg.Connection]:
    """The owner of a database with the default binding."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@contextmanager
def environment(database_url: str) -> Iterator[Mapping[str, str]]:
    """Settings of an app as service_role, with a provider that lists no models."""
    with ScriptedServer(default=reply(json=NOTHING)) as server:
        yield {
            "DATABASE_URL": f"{database_url}?options=-c%20role%3Dservice_role",
            "AI_BASE_URL": server.base_url,
            "AI_API_KEY": "key-of-the-test",
        }


def diagnosed(database_url: str, **settings: str) -> Examination:
    """Examine an app's database."""
    with environment(database_url) as environ:
        return examine({**environ, **settings}, clock=SystemClock(), asked=Asked(project=NO_SCHEMAS))


def found(database_url: str, check: Check, **settings: str) -> list[Finding]:
    """What is found under one check."""
    return diagnosed(database_url, **settings).of(check)


def test_words_that_are_not_bound_are_counted(migrated_database: str, owner: psycopg.Connection) -> None:
    """Each word that ai-retry does not know is a problem with its count; null is one, too."""
    failed_generations(owner, 2)
    owner.execute("alter table public.generations drop constraint status_is_known, alter column status drop not null")
    for word, count in (("on hold", 3), (None, 1)):
        failed_generations(owner, count)
        owner.execute(
            "update public.generations set status = %s where id in"
            " (select id from public.generations where status = 'error' order by created_at desc limit %s)",
            [word, count],
        )

    findings = found(migrated_database, Check.STATUSES)

    assert [(each.level, each.problem) for each in findings] == [
        (Level.PROBLEM, '3 of the newest generations have "on hold", which is not bound: their retries are refused'),
        (Level.PROBLEM, "1 of the newest generations have no status, which is not bound: their retries are refused"),
    ]
    assert "ai_retry.app_read" in findings[0].remedy


def test_tables_that_can_t_be_looked_up_are_not_said_to_be_fine(
    migrated_database: str, owner: psycopg.Connection
) -> None:
    """A binding that describes no table's name leaves its tables unseen, and the exit code says so."""
    owner.execute(
        "do $$ begin execute replace(pg_get_functiondef('ai_retry.app_describe()'::regprocedure), 'public.events',"
        " 'a.b.c.d.e'); end $$"
    )

    examination = diagnosed(migrated_database)

    assert {Check.STATUSES, Check.WRITES, Check.PUBLICATIONS} <= examination.skipped
    assert "the catalogue could not be asked" in examination.not_run[Check.WRITES].reason


def test_data_api_says_what_it_can_t_look_at(stack: Stack) -> None:
    """Over the Data API the catalogue is not asked: that is said, and is no fault."""
    with ScriptedServer(default=reply(json=NOTHING)) as server:
        environ = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}
        environ |= {"AI_BASE_URL": server.base_url}
        examination = examine(environ, clock=SystemClock(), asked=Asked(project=NO_SCHEMAS))

    assert {Check.STATUSES, Check.WRITES, Check.PUBLICATIONS} <= examination.not_run.keys() - examination.skipped
    assert examination.not_run[Check.WRITES].remedy.startswith("set DATABASE_URL")


def test_words_of_a_binding_are_its_own(migrated_database: str, owner: psycopg.Connection) -> None:
    """What a binding translates is bound."""
    owner.execute(OWN.encode())
    add_text(owner, "failed", hours=1)
    add_text(owner, "busy", hours=1)

    examination = diagnosed(migrated_database)

    assert examination.of(Check.STATUSES) == []
    assert Check.STATUSES not in examination.not_run


def test_binding_that_can_t_search_is_not_said_to_be_fine(migrated_database: str, owner: psycopg.Connection) -> None:
    """Words that could not be looked at are not ok; the exit code says so."""
    owner.execute(
        "create or replace function ai_retry.app_find(p_since timestamptz, p_before_at timestamptz, p_before_id uuid,"
        " p_user_id uuid, p_limit integer) returns table (id uuid, status text, model text, created_at timestamptz)"
        " language plpgsql as $$ begin raise exception 'secret row'; end $$"
    )

    examination = diagnosed(migrated_database)

    assert examination.result(Check.STATUSES) == "NOT RUN"
    assert Check.STATUSES in examination.skipped
    assert "secret" not in str(examination)


def test_column_that_was_renamed_is_named(migrated_database: str, owner: psycopg.Connection) -> None:
    """The function of the binding that no longer fits is named, with the column; contexts are not said to be fine."""
    owner.execute("alter table public.generations rename column prompt_data to prompt")

    examination = diagnosed(migrated_database)

    (finding,) = examination.of(Check.WRITES)
    assert finding.level is Level.PROBLEM
    assert finding.problem == "ai_retry.app_read fails: column g.prompt_data does not exist (42703)"
    assert "ai_retry.app_read" in finding.remedy
    assert examination.result(Check.CONTEXTS) == "NOT RUN"


def test_column_that_became_required_is_named(migrated_database: str, owner: psycopg.Connection) -> None:
    """A required column that no function names is a problem, and the line that is printed cures it."""
    owner.execute(
        "alter table public.events add column place uuid not null, add column made_by text not null default 'x';"
        "create function public.unrelated() returns void language plpgsql as $$ begin -- in place\n end $$"
    )

    (finding,) = found(migrated_database, Check.WRITES)
    owner.execute(finding.remedy.partition("run: ")[2].encode())

    assert finding.level is Level.PROBLEM
    assert finding.problem.startswith("public.events requires place, which neither the binding nor any other function")
    assert found(migrated_database, Check.WRITES) == []


def test_column_that_a_function_fills_is_fine(migrated_database: str, owner: psycopg.Connection) -> None:
    """A required column that the app's session function, or one of its triggers, names is not a finding."""
    owner.execute(
        "alter table public.sessions add column place text not null;"
        "create function public.fill() returns trigger language plpgsql as"
        " $$ begin new.place := 'outside'; return new; end $$"
    )

    assert found(migrated_database, Check.WRITES) == []


def test_new_trigger_is_a_hint(migrated_database: str, owner: psycopg.Connection) -> None:
    """A trigger that fires on what is written is named until the binding says that it is known; others are not."""
    owner.execute(
        """
        create function public.slow() returns trigger language plpgsql as $$ begin return new; end $$;
        create trigger newcomer before update on public.generations for each row execute function public.slow();
        create trigger elsewhere before delete on public.generations for each row execute function public.slow();
        create trigger asleep before update on public.generations for each row execute function public.slow();
        alter table public.generations disable trigger asleep;
        """
    )
    (finding,) = found(migrated_database, Check.WRITES)
    owner.execute(
        "do $$ begin execute replace(pg_get_functiondef('ai_retry.app_describe()'::regprocedure), '\"triggers\": []',"
        ' \'"triggers": ["public.generations: newcomer"]\'); end $$'
    )

    assert finding.level is Level.HINT
    assert finding.problem.startswith("the trigger newcomer on public.generations, which runs public.slow, is new")
    assert '"public.generations: newcomer"' in finding.remedy
    assert found(migrated_database, Check.WRITES) == []


POLICY = 'create policy "two factors" on public.generations as restrictive to authenticated using ({})'


@pytest.mark.parametrize(
    ("condition", "settings", "problem"),
    [
        ("(auth.jwt() ->> 'aal') = 'aal2'", {}, "reads the assurance level"),
        ("(auth.jwt() ->> 'aal') = 'aal2'", {"AI_RETRY_REQUIRED_AAL": "aal2"}, None),
        ("model is not null", {"AI_RETRY_REQUIRED_AAL": "aal2"}, "does not bind ai-retry"),
    ],
)
def test_restrictive_policy_is_a_hint(
    migrated_database: str, owner: psycopg.Connection, condition: str, settings: dict[str, str], problem: str | None
) -> None:
    """A policy that binds every user does not bind ai-retry; what takes its place is named, until it is there."""
    owner.execute(
        "create schema if not exists auth; create or replace function auth.jwt() returns jsonb language sql stable as"
        " $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$"
    )
    owner.execute(POLICY.format(condition).encode())

    findings = found(migrated_database, Check.ROW_LEVEL_SECURITY, **settings)

    if problem is None:
        assert findings == []
    else:
        (finding,) = findings
        assert (finding.level, '"two factors" on public.generations' in finding.problem) == (Level.HINT, True)
        assert problem in finding.problem


@pytest.mark.parametrize("for_all", [False, True])
def test_publication_of_ours_is_named(migrated_database: str, owner: psycopg.Connection, *, for_all: bool) -> None:
    """A publication that sends answers elsewhere is named; one of all tables may be meant."""
    tables = (
        "for all tables" if for_all else "for table public.generations, public.ai_retry_answers, public.ai_retry_open"
    )
    owner.execute(f"create publication elsewhere {tables}".encode())

    (finding,) = found(migrated_database, Check.PUBLICATIONS)

    assert finding.problem.startswith("the publication elsewhere sends ai_retry_")
    assert "ai_retry_answers" in finding.problem
    assert finding.level is (Level.HINT if for_all else Level.PROBLEM)
    if not for_all:
        owner.execute(finding.remedy.removeprefix("run: ").encode())
        assert found(migrated_database, Check.PUBLICATIONS) == []


def test_queue_that_is_missed_is_a_problem(migrated_database: str, owner: psycopg.Connection) -> None:
    """Without a queue no worker finds what was accepted: exit code 1, and the printed line makes one."""
    owner.execute("create schema if not exists refusals")
    owner.execute("create table refusals.by_user (user_id uuid, constraint_name text)")
    with closing(PostgresStorage(migrated_database, max_connections=2)) as storage:
        world = SqlWorld(storage, owner)
        accept(world, *new_generation(world))
    owner.execute("select pgmq.drop_queue('ai_retry')")

    result = doctor(migrated_database)
    (finding,) = found(migrated_database, Check.QUEUE)
    owner.execute(finding.remedy.partition("owner: ")[2].encode())

    assert result.exit_code == 1
    assert "and no worker finds the 1 that were accepted" in finding.problem
    assert found(migrated_database, Check.QUEUE) == []


def doctor(database_url: str, *arguments: str, **settings: str) -> Result:
    """Run the command."""
    with environment(database_url) as environ:
        env = {"SUPABASE_URL": None, "SUPABASE_SECRET_KEY": None, **environ, **settings}
        return CliRunner(env=env).invoke(cli, ["doctor", "--dir", str(NO_SCHEMAS), *arguments])


# The rehearsal


def test_rehearsal_is_part_of_a_sound_set_up(migrated_database: str, owner: psycopg.Connection) -> None:
    """It is said to be ok only when it was played, and afterwards everything is as it was."""
    ((user_id, _),) = failed_generations(owner, 1)
    failed_generations_of(owner, [user_id])
    before = owner.execute("select g from public.generations g").fetchall()

    result = doctor(migrated_database, "--rehearse")

    assert result.exit_code == 0, result.output
    assert "ok        rehearsal" in result.output.splitlines()
    assert owner.execute("select g from public.generations g").fetchall() == before
    assert owner.execute("select count(*) from public.ai_retry_open").fetchone() == (0,)


def test_rehearsal_names_what_refuses(migrated_database: str, owner: psycopg.Connection) -> None:
    """A write that would fail is a problem; an event that would be left out is a hint."""
    ((user_id, _),) = failed_generations(owner, 1)
    failed_generations_of(owner, [user_id])
    owner.execute(
        "alter table public.generations add column done_at timestamptz,"
        " add constraint done_has_time check (status <> 'success' or done_at is not null);"
        "alter table public.events add constraint no_success check (event_type <> 'ai_generation_succeeded')"
    )

    result = doctor(migrated_database, "--rehearse", "--json")

    assert result.exit_code == 1
    findings = {each["level"]: each for each in json.loads(result.stdout)["findings"]}
    assert "done_has_time on public.generations" in findings["problem"]["problem"]
    assert "no_success on public.events" in findings["hint"]["problem"]
    assert "ai-retry doctor --rehearse" in findings["problem"]["remedy"]


def test_rehearsal_that_could_not_be_is_not_ok(migrated_database: str) -> None:
    """With nothing to rehearse with, it did not run, and the exit code is 3."""
    result = doctor(migrated_database, "--rehearse")

    assert result.exit_code == 3
    assert "NOT RUN   rehearsal" in result.output
    assert "no failed generation is there, and none could be inserted (42501)" in result.output


def test_rehearsal_needs_a_direct_connection(stack: Stack) -> None:
    """Over the Data API nothing can be rolled back: it did not run, and the exit code says so."""
    with ScriptedServer(default=reply(json=NOTHING)) as server:
        environ = {name: value for name, value in stack.env().items() if name != "DATABASE_URL"}
        environ |= {"AI_BASE_URL": server.base_url}
        examination = examine(environ, clock=SystemClock(), asked=Asked(rehearse=True, project=NO_SCHEMAS))

    assert Check.REHEARSAL in examination.skipped
    assert examination.not_run[Check.REHEARSAL].remedy == "set DATABASE_URL, then run ai-retry doctor --rehearse"


def test_lost_connection_is_no_rehearsal() -> None:
    """Where the database went away meanwhile, nothing is said to be well."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    rehearsal = rehearsed(f"postgresql://ada@127.0.0.1:{port}/app", None)

    assert not rehearsal.passed
    assert "the connection was lost, or refused" in rehearsal.not_run[0]


def test_session_is_rehearsed_with_an_example(
    migrated_database: str, owner: psycopg.Connection, tmp_path: Path
) -> None:
    """An app's own session function gets the example that the operator gives; without one that part did not run."""
    owner.execute(OWN.encode())
    add_text(owner, "failed", hours=1)
    example = tmp_path / "example.json"
    example.write_text('{"title": "x"}')

    without = doctor(migrated_database, "--rehearse")
    with_one = doctor(migrated_database, "--example-output", str(example))
    example.write_text("{")
    broken = doctor(migrated_database, "--example-output", str(example))

    assert (without.exit_code, "--example-output FILE" in without.output) == (3, True)
    assert with_one.exit_code == 0, with_one.output
    assert (broken.exit_code, "JSON in it" in broken.output) == (2, True)


# The connection


def test_foreign_parameters_are_a_hint(migrated_database: str) -> None:
    """What another driver needs is named; a pooler that is none is named as that."""
    with environment(migrated_database) as environ:
        url = f"{environ['DATABASE_URL']}&pgbouncer=true&connection_limit=1"
        examination = examine({**environ, "DATABASE_URL": url}, clock=SystemClock(), asked=Asked(project=NO_SCHEMAS))

    first, second = examination.of(Check.CONNECTION)
    assert (first.level, second.level) == (Level.HINT, Level.HINT)
    assert "left out: pgbouncer, connection_limit" in first.problem
    assert "a pooler in session mode" in second.problem


@pytest.mark.parametrize("connections", [1, 3])
def test_mode_of_a_pooler_is_measured(migrated_database: str, connections: int) -> None:
    """Clients that share server processes are behind a pooler in transaction mode; a server's own are not."""
    with transaction_pooler(migrated_database, connections=connections) as url:
        assert shares_backends(read_connection_string(url))
        assert [each.problem for each in link(f"{url}?pgbouncer=true") if "mode" in each.problem] == []
    assert not shares_backends(read_connection_string(migrated_database))


def test_pooler_that_is_gone_is_not_said_to_be_fine() -> None:
    """Where the mode can't be found out that is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    findings = list(link(f"postgresql://ada@127.0.0.1:{port}/app?supavisor=1"))

    assert "can't be found out" in findings[-1].problem


@pytest.mark.parametrize(("used", "found"), [(84, []), (85, ["the server has 15 of its 100 connections left"])])
def test_server_without_free_connections_is_a_hint(migrated_database: str, used: int, found: list[str]) -> None:
    """Fewer free connections than one process opens are named; the facts of a real one, but for their number."""
    with closing(PostgresStorage(migrated_database, max_connections=1)) as storage:
        database = Database.from_row(storage.inspect())
    around = look_around(migrated_database, database.binding)
    assert 1 <= around.used_connections <= around.most_connections
    busy = replace(around, most_connections=100, used_connections=used)

    findings = judge(Case(database, shipped(), models_are_restricted=False, around=busy))

    assert [each.problem.partition(",")[0] for each in findings] == found


# The provider


@pytest.mark.parametrize("body", [b"", b"{}", b'"ok"', b'{"status": "healthy"}', b"OK"])
def test_success_that_is_no_list_is_a_problem(migrated_database: str, body: bytes) -> None:
    """A 200 that is no answer of an API's is a problem, whatever it is."""
    with environment(migrated_database) as environ, ScriptedServer(default=reply(body=body)) as server:
        examination = examine(
            {**environ, "AI_BASE_URL": server.base_url}, clock=SystemClock(), asked=Asked(project=NO_SCHEMAS)
        )

    (finding,) = examination.of(Check.PROVIDER)
    assert finding.level is Level.PROBLEM
    assert "AI_BASE_URL" in finding.problem


# Declarative schemas


def a_project(directory: Path, config: str) -> Path:
    """Write a project with declarative schemas and our migrations."""
    for folder in ("schemas", "migrations"):
        (directory / folder).mkdir()
    (directory / "schemas" / "app.sql").write_text("create table public.things ();")
    for migration in (OURS, APP):
        (directory / "migrations" / migration.name).write_bytes((MIGRATIONS / migration.name).read_bytes())
    (directory / "config.toml").write_text(config)
    return directory


@pytest.mark.parametrize(
    "config",
    ["", '[db.migrations]\nschema_paths = ["./schemas/app.sql"]\n', "[db]\n", "[db.migrations]\nschema_paths = []\n"],
)
def test_schemas_that_are_not_declared_are_a_problem(tmp_path: Path, config: str) -> None:
    """The next diff would drop ours: the whole line is printed, and with it nothing is found."""
    directory = a_project(tmp_path, config)

    (finding,) = project(directory)
    line = finding.remedy.partition("[db.migrations]: ")[2]
    (directory / "config.toml").write_text(f"[db.migrations]\n{line}\n")

    assert (finding.check, finding.level) == (Check.PROJECT, Level.PROBLEM)
    assert "ai-retry's own migration and the binding" in finding.problem
    assert is_declarative(directory)
    assert list(project(directory)) == []


def test_project_without_our_files_is_sent_to_init(tmp_path: Path) -> None:
    """Where the migrations are not there yet, a command writes and declares them."""
    directory = a_project(tmp_path, "")
    for path in (directory / "migrations").iterdir():
        path.unlink()

    (finding,) = project(directory)

    assert "ai-retry init" in finding.remedy


@pytest.mark.parametrize("config", ["[db", "\x00"])
def test_config_that_can_t_be_read_is_a_problem(tmp_path: Path, config: str) -> None:
    """A file that is no TOML is named, not passed over."""
    (finding,) = project(a_project(tmp_path, config))

    assert "config.toml can't be read" in finding.problem


def test_project_without_schemas_has_nothing_to_declare(tmp_path: Path) -> None:
    """Without declarative schemas there is nothing to look at, and that is what is said."""
    assert not is_declarative(tmp_path)
    examination = examine({}, clock=SystemClock(), asked=Asked(project=tmp_path))

    assert (examination.result(Check.PROJECT), Check.PROJECT in examination.skipped) == ("NOT RUN", False)
