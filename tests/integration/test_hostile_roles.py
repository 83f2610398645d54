"""What ``anon`` and ``authenticated`` can do with everything in ``public``: read their own rows of the app, no more.

Every check is generated from the catalogue. A new table fails the test until it is in one of the two lists below;
a new function is called without being named anywhere.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.integration.test_migrations import APP_TABLES, OUR_TABLES
from tools.push import apply_migrations, grant_legacy_default_privileges
from tools.stack import MIGRATIONS, SignedInUser, Stack, running_stack
from tools.waiting import skipping_without_stack

PERMISSION_DENIED = "42501"
ROLES = ("anon", "authenticated")

RELATIONS = """
select c.relname, c.relkind, array_agg(a.attname::text order by a.attnum)
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
group by c.oid order by 1
"""
FUNCTIONS = """
select p.pronamespace::regnamespace::text, p.proname,
  array(select format_type(t, null) from unnest(p.proargtypes::oid[]) with ordinality as u (t, i) order by i),
  coalesce(p.proargnames[1:p.pronargs], '{}'),
  (select c.relname from pg_class c join pg_type t on t.typrelid = c.oid where t.oid = p.proargtypes[0])
from pg_proc p
where p.pronamespace in ('public'::regnamespace, 'ai_retry'::regnamespace) and p.prokind in ('f', 'p') order by p.oid
"""


@dataclass(frozen=True)
class Function:
    """A function as the catalogue knows it."""

    schema: str
    name: str
    types: list[str]
    arguments: list[str]
    row_of: str | None
    """The table whose rows it takes: for the Data API a computed column of it."""


@dataclass(frozen=True)
class Catalogue:
    """Everything in ``public`` that a role could touch."""

    tables: dict[str, list[str]]  # with their columns; views too
    sequences: list[str]
    functions: list[Function]

    @classmethod
    def of(cls, connection: psycopg.Connection) -> "Catalogue":
        """Read it; fail when it is not the one that these tests are about."""
        relations = connection.execute(RELATIONS).fetchall()
        tables = {name: columns for name, kind, columns in relations if kind != "S"}
        functions = [Function(*row) for row in connection.execute(FUNCTIONS).fetchall()]
        assert set(tables) == OUR_TABLES | APP_TABLES
        named = {"ai_retry_load", "ai_retry_begin", "ai_retry_settle", "ai_retry_create_session", "ai_retry_publish"}
        assert named <= {each.name for each in functions}
        return cls(tables, [name for name, kind, _ in relations if kind == "S"], functions)

    def columns(self) -> Iterator[tuple[str, str]]:
        """Give each column with its table: a privilege may be granted on one alone."""
        for table, columns in self.tables.items():
            yield from ((table, column) for column in columns)


def fill(connection: psycopg.Connection, user_id: UUID) -> None:
    """Give a user a row in every table; each row holds the user's id."""
    generation_id, session_id = uuid4(), uuid4()
    for statement, arguments in (
        ("sessions (id, user_id, content) values (%s, %s, '{}')", [session_id, user_id]),
        ("generations (id, user_id, session_id) values (%s, %s, %s)", [generation_id, user_id, session_id]),
        ("events (user_id, event_type) values (%s, 'x')", [user_id]),
        (
            "generation_error_logs (generation_id, user_id, error_type, error_message) values (%s, %s, 'x', 'x')",
            [generation_id, user_id],
        ),
        ("ai_retry_quotas (user_id, quota_limit) values (%s, 1)", [user_id]),
        (
            "ai_retry_attempts (user_id, generation_id, number, token, started_at, closed_at, outcome, counted, charge,"
            " provider_outcome) values (%s, %s, 2, %s, clock_timestamp(), clock_timestamp(), 'failed', true, true,"
            " 'unknown')",
            [user_id, generation_id, uuid4()],
        ),
        (
            "ai_retry_answers (generation_id, number, answer, stored_at)"
            " values (%s, 2, jsonb_build_object('user_id', %s::text), clock_timestamp())",
            [generation_id, user_id],
        ),
        (
            "ai_retry_open (user_id, generation_id, number, token, started_at, charge, waived, lease_expires_at,"
            " renewable_until, abandoned_wait_seconds) values (%s, %s, 3, %s, clock_timestamp(), true, '{}',"
            " clock_timestamp(), clock_timestamp(), 1)",
            [user_id, generation_id, uuid4()],
        ),
        (
            "ai_retry_outages (route, not_before, since, failures, slots)"
            " values (%s, clock_timestamp(), clock_timestamp(), 1, 64)",
            [f"away/{user_id}"],
        ),
        (
            "ai_retry_actions (id, operator, role, action, target, user_id, reason, at)"
            " values (%s, 'ada', 'admin', 'retry', 'x', %s, 'x', clock_timestamp())",
            [uuid4(), user_id],
        ),
        (
            "ai_retry_recoveries (run_id, plan_id, operator, plan, started_at)"
            " values (%s, 'x', 'ada', '{}', clock_timestamp())",
            [uuid4()],
        ),
        (
            "ai_retry_outbox (type, subject, data, happened_at, due_at, generation_id, number) values ('x', 'x',"
            " jsonb_build_object('user_id', %s::text), clock_timestamp(), clock_timestamp() + interval '1 day', %s, 2)",
            [user_id, generation_id],
        ),
        (
            "ai_retry_actions (id, operator, role, action, target, user_id, reason, at)"
            " values (%s, 'ada', 'operator', 'retry', 'x', %s, 'x', clock_timestamp())",
            [uuid4(), user_id],
        ),
    ):
        connection.execute(f"insert into public.{statement}".encode(), arguments)


def rows_of(connection: psycopg.Connection, users: tuple[UUID, ...]) -> object:
    """Every row of these users, or without a user, in every table: other tests may write beside this one."""
    return {
        table: connection.execute(
            sql.SQL(
                "select to_jsonb(t) from public.{} t"
                " where coalesce((to_jsonb(t) ->> 'user_id')::uuid = any(%s), true) order by 1::text"
            ).format(sql.Identifier(table)),
            [list(users)],
        ).fetchall()
        for table in sorted(OUR_TABLES | APP_TABLES)
    }


OWNERS_FUNCTIONS = (sql.SQL("select public.ai_retry_create_queue()"), sql.SQL("select public.ai_retry_publish()"))
QUEUE = (
    sql.SQL("select * from pgmq.q_ai_retry"),
    sql.SQL("select * from pgmq.a_ai_retry"),
    sql.SQL("insert into pgmq.q_ai_retry (vt, message) values (now(), '{}')"),
    sql.SQL("delete from pgmq.q_ai_retry"),
    sql.SQL("select pgmq.send('ai_retry', '{}'::jsonb)"),
    sql.SQL("select pgmq.read('ai_retry', 1, 1)"),
    sql.SQL("select pgmq.purge_queue('ai_retry')"),
    sql.SQL("select pgmq.drop_queue('ai_retry')"),
)

# At the SQL level


@dataclass(frozen=True)
class Database:
    """A migrated database with two users' rows, its owner connected."""

    connection: psycopg.Connection
    me: UUID
    other: UUID

    @contextmanager
    def acting_as(self, role: str) -> Iterator[None]:
        """Be what the Data API is for a request of ``me``; whatever is done is undone."""
        with self.connection.transaction(force_rollback=True):
            for setting, value in (
                ("request.jwt.claims", f'{{"sub": "{self.me}", "role": "{role}"}}'),
                ("request.jwt.claim.sub", str(self.me)),
                ("request.jwt.claim.role", role),
            ):
                self.connection.execute("select set_config(%s, %s, true)", [setting, value])
            self.connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            yield

    def outcome_of(self, statement: sql.SQL | sql.Composed) -> str:
        """Return the SQLSTATE that a statement ends with; ``done`` when it was executed."""
        try:
            with self.connection.transaction(force_rollback=True):
                self.connection.execute(statement)
        except psycopg.Error as error:
            return error.sqlstate or "unknown"
        return "done"


@pytest.fixture(scope="module", params=["new project", "older project"])
def database(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty project after the migrations, under today's default privileges and under an older project's."""
    name = f"test_{uuid4().hex}"
    url = stack.create_database(name, migrated=False)
    if request.param == "older project":
        grant_legacy_default_privileges(url)
    apply_migrations(url, MIGRATIONS)
    with psycopg.connect(url, autocommit=True) as connection:
        users = uuid4(), uuid4()
        for user_id in users:
            connection.execute("insert into auth.users (id) values (%s)", [user_id])
            fill(connection, user_id)
        yield Database(connection, *users)
    stack.drop_database(name)


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    """What is in its ``public``."""
    return Catalogue.of(database.connection)


def a_call(function: Function) -> sql.Composed:
    """Call it with nulls: whether one may is asked before what it does."""
    nulls = sql.SQL(", ").join(sql.SQL(f"null::{each}") for each in function.types)
    return sql.SQL("select {}({})").format(sql.Identifier(function.schema, function.name), nulls)


def of_table(statement: str, table: str, column: str = "") -> sql.Composed:
    """Name a table, and perhaps a column, in a statement."""
    return sql.SQL(statement).format(table=sql.Identifier("public", table), column=sql.Identifier(column or "-"))


@pytest.mark.parametrize("role", ROLES)
def test_nothing_written_or_truncated_in_sql(database: Database, catalogue: Catalogue, role: str) -> None:
    """No end user inserts, updates (not even one column), deletes or truncates, in any table."""
    statements = [("insert into {table} default values", table, "") for table in catalogue.tables]
    statements += [("delete from {table}", table, "") for table in catalogue.tables]
    statements += [("truncate {table} cascade", table, "") for table in catalogue.tables]
    statements += [("lock table {table} in access exclusive mode", table, "") for table in catalogue.tables]
    statements += [("insert into {table} ({column}) values (default)", *each) for each in catalogue.columns()]
    statements += [("update {table} set {column} = default", *each) for each in catalogue.columns()]
    statements += [("select nextval('{table}')", name, "") for name in catalogue.sequences]
    before = rows_of(database.connection, (database.me, database.other))

    with database.acting_as(role):
        outcomes = {each: database.outcome_of(of_table(*each)) for each in statements}

    assert {each: outcome for each, outcome in outcomes.items() if outcome != PERMISSION_DENIED} == {}
    assert rows_of(database.connection, (database.me, database.other)) == before


@pytest.mark.parametrize("role", ROLES)
def test_ours_never_read_in_sql(database: Database, catalogue: Catalogue, role: str) -> None:
    """No end user reads a column of our tables, nor counts their rows; anonymous ones nothing of the app's either."""
    closed = OUR_TABLES if role == "authenticated" else OUR_TABLES | APP_TABLES
    statements = [("select {column} from {table}", *each) for each in catalogue.columns() if each[0] in closed]
    statements += [("select count(*) from {table}", table, "") for table in closed]
    statements += [("copy {table} to stdout", table, "") for table in closed]

    with database.acting_as(role):
        outcomes = {each: database.outcome_of(of_table(*each)) for each in statements}

    assert {each: outcome for each, outcome in outcomes.items() if outcome != PERMISSION_DENIED} == {}


@pytest.mark.parametrize("table", sorted(APP_TABLES))
def test_own_rows_of_the_app_read_in_sql(database: Database, table: str) -> None:
    """Of each table that the migrations made for the app, a signed-in user sees their own rows alone."""
    with database.acting_as("authenticated"):
        seen = database.connection.execute(of_table("select user_id from {table}", table)).fetchall()

    assert seen == [(database.me,)]


@pytest.mark.parametrize("table", sorted(APP_TABLES))
def test_no_claims_read_nothing_in_sql(database: Database, table: str) -> None:
    """A signed-in role without a subject sees no row."""
    with database.connection.transaction(force_rollback=True):
        database.connection.execute("set local role authenticated")
        seen = database.connection.execute(of_table("select user_id from {table}", table)).fetchall()

    assert seen == []


@pytest.mark.parametrize("role", ROLES)
def test_no_function_executed_in_sql(database: Database, catalogue: Catalogue, role: str) -> None:
    """No end user executes a function, and none is a column of rows that may be their own."""
    calls = {str(index): a_call(each) for index, each in enumerate(catalogue.functions)}

    with database.acting_as(role):
        outcomes = {name: database.outcome_of(call) for name, call in calls.items()}

    assert {name: outcome for name, outcome in outcomes.items() if outcome != PERMISSION_DENIED} == {}
    assert [each.name for each in catalogue.functions if each.row_of in APP_TABLES and len(each.types) == 1] == []


@pytest.mark.parametrize("role", ROLES)
def test_queue_belongs_to_no_user_in_sql(database: Database, role: str) -> None:
    """No end user sees, sends, reads or drops a message."""
    with database.acting_as(role):
        outcomes = {str(each): database.outcome_of(each) for each in QUEUE}

    assert set(outcomes.values()) == {PERMISSION_DENIED}


def test_owners_functions_are_the_owners(database: Database) -> None:
    """What changes the schema or the publication is refused to the service role, too; the rest is not."""
    with database.acting_as("service_role"):
        outcomes = [database.outcome_of(each) for each in OWNERS_FUNCTIONS]
        queue = database.outcome_of(sql.SQL("select public.ai_retry_state()"))

    assert (outcomes, queue) == ([PERMISSION_DENIED] * len(OWNERS_FUNCTIONS), "done")


# Over the Data API


@dataclass(frozen=True)
class Caller:
    """A caller with the publishable key, and perhaps a user's token."""

    http: httpx.Client = field(repr=False)
    signed_in: bool

    def send(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """Send one request and ask for the rows it made."""
        return self.http.request(method, path, headers={"Prefer": "return=representation"}, **sent)

    def refusal_of(self, method: str, path: str, **sent: Any) -> str | None:
        """Return the database's code for a refusal; None when there was no refusal."""
        response = self.send(method, path, **sent)
        return response.json().get("code") if response.status_code in (401, 403) else None


@dataclass(frozen=True)
class Project:
    """A project behind its Data API, with two users' rows."""

    stack: Stack
    me: SignedInUser
    other: SignedInUser

    def rows(self) -> object:
        """Every row of the two, as the owner sees it."""
        with psycopg.connect(self.stack.database_url) as connection:
            return rows_of(connection, (self.me.id, self.other.id))

    def catalogue(self) -> Catalogue:
        """What is in its ``public``."""
        with psycopg.connect(self.stack.database_url) as connection:
            return Catalogue.of(connection)


@pytest.fixture(scope="module", params=["new project", "older project"])
def project(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Project]:
    """The session's stack, or one of its own with an older project's default privileges."""
    with ExitStack() as cleanup:
        if request.param == "older project":
            with skipping_without_stack():
                stack = cleanup.enter_context(running_stack(migrations=None))
            grant_legacy_default_privileges(stack.database_url)
            apply_migrations(stack.database_url, MIGRATIONS)
            stack.restart_data_api()
        users = [stack.sign_up(f"{uuid4()}@example.com", "correct horse battery") for _ in range(2)]
        with psycopg.connect(stack.database_url) as connection:
            for user in users:
                fill(connection, user.id)
        yield Project(stack, *users)
        with psycopg.connect(stack.database_url) as connection:
            connection.execute("delete from auth.users where id = any(%s)", [[user.id for user in users]])


@pytest.fixture(params=["publishable key alone", "with a user's token"])
def caller(project: Project, request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Each kind of end user."""
    signed_in = request.param == "with a user's token"
    headers = {"apikey": project.stack.publishable_key}
    if signed_in:
        headers["Authorization"] = f"Bearer {project.me.access_token}"
    with httpx.Client(base_url=f"{project.stack.url}/rest/v1/", headers=headers, timeout=10) as http:
        yield Caller(http, signed_in)


def test_nothing_written_over_the_data_api(project: Project, caller: Caller) -> None:
    """No request with an end user's keys writes, changes or deletes a row, own or foreign, in any table."""
    tables = project.catalogue().tables
    requests: list[tuple[str, str, dict[str, Any]]] = []
    for table, columns in tables.items():
        of_users = "user_id" in columns
        own = {"user_id": str(project.me.id)} if of_users else {columns[0]: str(uuid4())}
        requests.append(("POST", table, {"json": own}))
        requests.append(("POST", f"{table}?on_conflict={columns[0]}", {"json": [own, own]}))
        requests.append(("DELETE", table, {}))
        for owner in (project.me.id, project.other.id):
            rows = f"{table}?user_id=eq.{owner}" if of_users else f"{table}?{columns[0]}=not.is.null"
            requests.append(("DELETE", rows, {}))
            requests += [("PATCH", rows, {"json": {column: None}}) for column in columns]
    before = project.rows()

    refusals = {f"{method} {path} {sent}": caller.refusal_of(method, path, **sent) for method, path, sent in requests}

    assert {each: code for each, code in refusals.items() if code != PERMISSION_DENIED} == {}
    assert project.rows() == before


def test_own_rows_alone_read_over_the_data_api(project: Project, caller: Caller) -> None:
    """GET gives a signed-in user their own rows of the app's tables, and otherwise nothing."""
    answers = {table: caller.send("GET", table) for table in project.catalogue().tables}

    for table, answer in answers.items():
        if caller.signed_in and table in APP_TABLES:
            assert [row["user_id"] for row in answer.json()] == [str(project.me.id)], table
        else:
            assert answer.status_code == (403 if caller.signed_in else 401), table
            assert answer.json()["code"] == PERMISSION_DENIED, table


def test_others_rows_never_shown_over_the_data_api(project: Project, caller: Caller) -> None:
    """Filters, counts, single columns and embedded tables show nothing of another user, or of our tables."""
    catalogue = project.catalogue()
    paths = [f"{table}?select={column}&user_id=eq.{project.other.id}" for table, column in catalogue.columns()]
    paths += [f"{table}?select=*,{other}(*)" for table in catalogue.tables for other in catalogue.tables]
    paths += [f"{table}?or=(user_id.eq.{project.other.id},user_id.not.is.null)" for table in catalogue.tables]

    answers = {path: caller.send("GET", path) for path in paths}

    rows = {path: answer.json() for path, answer in answers.items() if answer.is_success}
    assert {path for path in rows if path.partition("?")[0] in OUR_TABLES} == set()
    assert {path for path in rows if f"=eq.{project.other.id}" in path and rows[path] != []} == set()
    assert [path for path in rows if str(project.other.id) in answers[path].text] == []
    assert [path for path, answer in answers.items() if answer.status_code >= 500] == []


def test_no_function_called_over_the_data_api(project: Project, caller: Caller) -> None:
    """No function answers at /rpc/, and no part or binding function is known there."""
    functions = project.catalogue().functions
    before = project.rows()

    refusals = {
        each.name: caller.refusal_of("POST", f"rpc/{each.name}", json=dict.fromkeys(each.arguments))
        for each in functions
        if each.schema == "public"
    }
    read = [each.name for each in functions if caller.send("GET", f"rpc/{each.name}", params=_texts(each)).is_success]
    parts = {
        each.name: caller.send("POST", f"rpc/{each.name}", json=dict.fromkeys(each.arguments)).status_code
        for each in functions
        if each.schema == "ai_retry"
    }

    assert (read, set(parts.values())) == ([], {404})
    assert {each: code for each, code in refusals.items() if code != PERMISSION_DENIED} == {}
    assert project.rows() == before


def _texts(function: Function) -> dict[str, str]:
    """Arguments in a query; those that are no texts are malformed, and refused for that where nothing else does."""
    some_id = str(uuid4())
    types = {"uuid": some_id, "timestamp with time zone": "2026-01-01T00:00:00Z", "jsonb": "{}"}
    return {name: types.get(kind, "1") for name, kind in zip(function.arguments, function.types, strict=True)}
