"""The local stack keeps its promises: it is like Supabase where it matters, and it leaves nothing running."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import psycopg
import pytest
import requests

from tools.npm import MANIFEST, REPOSITORY
from tools.processes import Child, StackUnavailable
from tools.push import apply_migrations, grant_legacy_default_privileges
from tools.stack import Stack, running_stack
from tools.waiting import eventually, skipping_without_stack

pytestmark = pytest.mark.stack

NOTES = """
create table public.notes (id int primary key);
alter table public.notes enable row level security;
grant select, insert on public.notes to service_role;
create function public.whoami() returns text language sql stable set search_path = ''
  as 'select current_user || coalesce('' '' || auth.uid(), '''')';
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose migrations are ours here, and not those of the product."""
    migrations = tmp_path_factory.mktemp("migrations")
    (migrations / "20260101000000_notes.sql").write_text(NOTES)
    with ExitStack() as cleanup:
        with skipping_without_stack():
            stack = cleanup.enter_context(running_stack(migrations, postgres_settings={"full_page_writes": "off"}))
        yield stack


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for another stack: not pytest's own, which Postgres' user could not enter."""
    with tempfile.TemporaryDirectory(prefix="ai-retry-test-") as directory:
        yield Path(directory)


@pytest.fixture
def database(lab: Stack) -> Iterator[str]:
    """A database without our migrations."""
    yield lab.create_database("bare", migrated=False)
    lab.drop_database("bare")


def rows(database_url: str, query: str) -> list[tuple[object, ...]]:
    """Ask a database, as superuser."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def execute(database_url: str, statements: str) -> None:
    """Change a database, as superuser."""
    with psycopg.connect(database_url) as connection:
        connection.execute(statements.encode())


def call_api(stack: Stack, method: str, path: str, key: str, token: str | None = None) -> requests.Response:
    """Send one request with an API key and, perhaps, a user's token."""
    headers = {"apikey": key} | ({"Authorization": f"Bearer {token}"} if token else {})
    return requests.request(method, f"{stack.url}{path}", headers=headers, json={}, timeout=10)


def processes_in(directory: Path) -> list[psutil.Process]:
    """Every process that works in the directory or names it in its command."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if any(str(directory) in text for text in [*(process.info["cmdline"] or ()), process.info["cwd"] or ""])
    ]


# Like Supabase


def test_signed_up_user_calls_api_as_themselves(lab: Stack) -> None:
    """A new user's token makes requests run as `authenticated`, with their id."""
    user = lab.sign_up("ada@example.com", "correct horse")

    answer = call_api(lab, "POST", "/rest/v1/rpc/whoami", lab.publishable_key, user.access_token)

    assert answer.json() == f"authenticated {user.id}"


@pytest.mark.parametrize(("key", "role"), [("publishable_key", "anon"), ("secret_key", "service_role")])
def test_key_decides_role(lab: Stack, key: str, role: str) -> None:
    """Without a user the key alone decides who a request runs as, and it is never a superuser."""
    answer = call_api(lab, "POST", "/rest/v1/rpc/whoami", getattr(lab, key))

    assert answer.json() == role


def test_data_api_grants_nothing(lab: Stack) -> None:
    """Serving requests gives no role a privilege that the migrations did not give."""
    anonymous = call_api(lab, "GET", "/rest/v1/notes", lab.publishable_key)
    service = call_api(lab, "GET", "/rest/v1/notes", lab.secret_key)

    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "42501")
    assert service.json() == []
    granted = "select grantee, privilege_type from information_schema.role_table_grants where table_schema = 'public'"
    assert set(rows(lab.database_url, f"{granted} and grantee <> 'postgres'")) == {
        ("service_role", "INSERT"),
        ("service_role", "SELECT"),
    }


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize("schema", ["public", "auth"])
def test_roles_use_schemas(lab: Stack, database: str, role: str, schema: str) -> None:
    """Every role may look into `public` and `auth`, in the main database and in copies."""
    allowed = (
        f"select has_schema_privilege('{role}', '{schema}', 'usage'), rolsuper from pg_roles where rolname = '{role}'"
    )

    assert rows(lab.database_url, allowed) == rows(database, allowed) == [(True, False)]


def test_new_table_grants_nothing(database: str) -> None:
    """A bare database is like a new Supabase project: what is created later belongs to no other role."""
    execute(database, NOTES.replace("grant", "-- grant"))

    assert rows(database, "select has_table_privilege('anon', 'public.notes', 'select')") == [(False,)]


def test_legacy_privileges_grant_everything(database: str) -> None:
    """With the privileges of older projects, whatever is created later is open to every role."""
    grant_legacy_default_privileges(database)
    execute(database, "create table public.old (id serial); create function public.f() returns int return 1;")

    for role in ("anon", "authenticated", "service_role"):
        assert rows(
            database,
            f"select has_table_privilege('{role}', 'public.old', 'truncate'),"
            f" has_sequence_privilege('{role}', 'public.old_id_seq', 'usage'),"
            f" (select array_to_string(proacl, ' ') like '%{role}=X%' from pg_proc where proname = 'f')",
        ) == [(True, True, True)]


def test_settings_are_ours(lab: Stack) -> None:
    """Commits are synchronous whatever speed costs us elsewhere, and a caller can change a setting."""
    names = ("synchronous_commit", "fsync", "full_page_writes", "timezone", "max_connections")

    values = [rows(lab.database_url, f"show {name}")[0][0] for name in names]

    assert values == ["on", "off", "off", "UTC", "200"]


# Databases and migrations


def test_bare_database_has_auth_alone(database: str) -> None:
    """A bare database has the users of Auth and nothing of ours."""
    query = "select to_regclass('auth.users') is not null, to_regclass('public.notes') is null"

    assert rows(database, query) == [(True, True)]


def test_migrated_database_has_migrations(lab: Stack) -> None:
    """A migrated database has the tables and remembers the migrations; dropping it cuts its sessions."""
    url = lab.create_database("migrated", migrated=True)
    with closing(psycopg.connect(url)) as still_connected:
        recorded = still_connected.execute("select version, name from supabase_migrations.schema_migrations").fetchall()
        notes = still_connected.execute("select * from public.notes").fetchall()
        lab.drop_database("migrated")

    assert (recorded, notes) == ([("20260101000000", "notes")], [])
    assert rows(lab.database_url, "select 1 from pg_database where datname = 'migrated'") == []


def test_migrations_apply_once_in_order(database: str, tmp_path: Path) -> None:
    """Each file runs once, by version, whatever else lies in the directory."""
    (tmp_path / "20260102000000_second.sql").write_text("alter table public.t add b int;")
    (tmp_path / "20260101000000_first_one.sql").write_text("create table public.t (a int); set search_path = '';")
    (tmp_path / "readme.sql").write_text("not SQL")

    first, second = apply_migrations(database, tmp_path), apply_migrations(database, tmp_path)

    assert (first, second) == (["20260101000000_first_one", "20260102000000_second"], [])
    assert rows(database, "select version, name, statements[1] from supabase_migrations.schema_migrations limit 1") == [
        ("20260101000000", "first_one", "create table public.t (a int); set search_path = '';")
    ]


def test_migrations_run_again_when_forced(database: str, tmp_path: Path) -> None:
    """With `force` a recorded migration runs again, and its notices are heard."""
    (tmp_path / "1_notice.sql").write_text("do $$ begin raise notice 'hello 100%%'; end $$;")
    heard: list[str] = []

    apply_migrations(database, tmp_path)
    again = apply_migrations(database, tmp_path, force=True, on_notice=heard.append)

    assert (again, heard) == (["1_notice"], ["hello 100%"])


def test_failed_migration_leaves_nothing(database: str, tmp_path: Path) -> None:
    """A file that fails is undone as a whole and named; the ones before it stay."""
    (tmp_path / "1_good.sql").write_text("create table public.good ();")
    (tmp_path / "2_bad.sql").write_text("create table public.bad (); select 1 / 0;")

    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero") as failure:
        apply_migrations(database, tmp_path)

    assert failure.value.__notes__ == ["in migration 2_bad.sql"]
    query = "select to_regclass('public.good') is null, to_regclass('public.bad') is null"
    assert rows(database, query) == [(False, True)]
    assert rows(database, "select version from supabase_migrations.schema_migrations") == [("1",)]


# Its parts, one at a time


@pytest.mark.parametrize("immediate", [False, True])
def test_restarted_postgres_keeps_commits(lab: Stack, database: str, immediate: bool) -> None:
    """Restarted or crashed, Postgres comes back at the same address with what was committed, and so does the API."""
    execute(database, "create table public.kept as select 42 as answer")

    lab.restart_postgres(immediate=immediate)

    assert rows(database, "select * from public.kept") == [(42,)]
    eventually(lambda: call_api(lab, "POST", "/rest/v1/rpc/whoami", lab.secret_key).text == '"service_role"')


def test_restarted_data_api_sees_new_tables(lab: Stack) -> None:
    """A restarted Data API serves, at the same address, what was made meanwhile."""
    execute(
        lab.database_url, "create table if not exists public.later (); grant select on public.later to service_role"
    )

    lab.restart_data_api()

    assert call_api(lab, "GET", "/rest/v1/later", lab.secret_key).json() == []
    execute(lab.database_url, "drop table public.later")


def test_stack_of_others_refuses_restarts(tmp_path: Path, lab: Stack) -> None:
    """A stack known from a file can be used, but restarted by its owner alone."""
    env_file = tmp_path / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in lab.env().items()))

    same = Stack.from_env_file(env_file)

    assert same == lab
    with pytest.raises(StackUnavailable, match="restart_postgres"):
        same.restart_postgres()


# Its end

PARENT = """
import sys
from tools.stack import running_stack
with running_stack(None) as stack:
    print(stack.control.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent(lab: Stack, place: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has, or will soon have, a stack in `place`, and waits to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        yield process
        process.kill()


def supervisor_of(parent: "subprocess.Popen[str]") -> psutil.Process:
    """Wait until the parent has its stack."""
    assert parent.stdout is not None
    return psutil.Process(int(parent.stdout.readline()))


def programs_in(directory: Path) -> set[str]:
    """The names of the programs that work in the directory."""
    return {Path(process.info["cmdline"][0]).name for process in processes_in(directory) if process.info["cmdline"]}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_survives_parent(parent: "subprocess.Popen[str]", place: Path, number: signal.Signals) -> None:
    """Whichever way its parent dies, a stack leaves neither a process nor a file."""
    supervisor_of(parent)
    assert {"postgres", "node"} <= programs_in(place)

    parent.send_signal(number)

    eventually(lambda: not processes_in(place))
    eventually(lambda: not list(place.iterdir()))


@pytest.mark.parametrize("program", ["python", "postgres", "node"])
def test_nothing_survives_killed_start(parent: "subprocess.Popen[str]", place: Path, program: str) -> None:
    """The same holds when the parent is killed while the stack is starting."""
    eventually(lambda: any(name.startswith(program) for name in programs_in(place)))

    parent.kill()

    eventually(lambda: not processes_in(place))
    eventually(lambda: not list(place.iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux informs a process that its parent was killed")
def test_nothing_survives_killed_supervisor(parent: "subprocess.Popen[str]", place: Path) -> None:
    """When the supervisor itself is killed, the servers end all the same."""
    supervisor_of(parent).kill()

    eventually(lambda: not processes_in(place))


def test_nothing_survives_own_context(place: Path, monkeypatch: pytest.MonkeyPatch, lab: Stack) -> None:
    """After the `with` block, nothing runs and nothing lies about, also when the block raised."""
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    def crash() -> None:
        with running_stack(None):
            assert processes_in(place)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()

    assert not processes_in(place)
    assert not list(place.iterdir())


def test_failed_start_says_why(place: Path, monkeypatch: pytest.MonkeyPatch, lab: Stack) -> None:
    """A server that can't start is quoted, and leaves nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    with (
        pytest.raises(StackUnavailable, match="no_such_setting"),
        running_stack(None, postgres_settings={"no_such_setting": "1"}),
    ):
        pytest.fail("it started")

    assert not processes_in(place)
    assert not list(place.iterdir())


def test_deaf_process_is_killed(tmp_path: Path) -> None:
    """A server that ignores the polite signal is gone after a bounded wait."""
    deaf = Child("deaf", tmp_path / "log")
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"

    async def start_and_stop() -> bool:
        deaf.spawn([sys.executable, "-c", code])
        await deaf.until(lambda _: deaf.log.read_text() != "")
        await deaf.stop(signal.SIGTERM, grace=0.2)
        return deaf.is_running

    assert asyncio.run(start_and_stop()) is False


# One that stays


def detached(command: str, home: Path) -> str:
    """Call `up` or `down` in a process of its own, as make does."""
    code = f"import sys; from pathlib import Path; from tools import detached as d; {command}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


UP = "print(d.up(Path(sys.argv[1]), migrations=Path(sys.argv[1]) / 'none'))"
DOWN = "print(d.down(Path(sys.argv[1])))"


def test_detached_stack_stays_until_down(place: Path, lab: Stack) -> None:
    """`up` leaves one stack and a private file that says where; `down` leaves nothing; both may be repeated."""
    home = place / "stack"
    try:
        first, second = detached(UP, home), detached(UP, home)
        stack = Stack.from_env_file(home / "env")
        user = stack.sign_up("ada@example.com", "correct horse")
        mode = stat.S_IMODE((home / "env").stat().st_mode)
    finally:
        down = detached(DOWN, home)

    assert user.access_token
    assert mode == 0o600
    assert (first.splitlines()[0], second.splitlines()[0]) == (
        "The local stack is up.",
        "The local stack is up already.",
    )
    assert first.splitlines()[1:] == second.splitlines()[1:]
    assert "data removed" in down
    assert not processes_in(place)
    assert [path.name for path in home.iterdir()] == ["lock"]
    assert detached(DOWN, home) == "No local stack was running.\n"


def test_down_spares_other_processes(tmp_path: Path) -> None:
    """A recorded pid that now belongs to another process is left alone."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", "tools.stack"]) as other:
        record = {"pid": other.pid, "created": psutil.Process(other.pid).create_time() - 10}
        (tmp_path / "supervisor.json").write_text(json.dumps(record))

        said = detached(DOWN, tmp_path)

        assert said == "No local stack was running.\n"
        assert other.poll() is None
        other.kill()


# With the reader's own migrations


def starting(home: Path, migrations: Path) -> "subprocess.CompletedProcess[str]":
    """Call ``make stack-up MIGRATIONS=…``'s command, for another home."""
    code = (
        "import sys; from pathlib import Path; from tools import detached, stack; "
        "up = detached.up_with; detached.up_with = lambda given: up(given, Path(sys.argv[1])); "
        "sys.exit(stack.main(['up', sys.argv[2]]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(home), str(migrations)],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
        timeout=90,
    )


def test_stack_starts_with_the_reader_s_migrations(place: Path, lab: Stack) -> None:
    """A directory's migrations are applied in place of ours, other files are named, and a stack that runs stays."""
    home, migrations = place / "stack", place / "migrations"
    migrations.mkdir()
    (migrations / "20260101000000_mine.sql").write_text("create table public.mine ();")
    (migrations / "notes.sql").write_text("not SQL")
    try:
        first, second = starting(home, migrations), starting(home, migrations)
        url = Stack.from_env_file(home / "env").database_url
        there = rows(url, "select to_regclass('public.mine') is not null, to_regclass('public.generations') is null")
    finally:
        detached(DOWN, home)

    assert (first.returncode, second.returncode) == (0, 1)
    assert f"applied, of {migrations}: 20260101000000_mine\n" in first.stdout
    assert "its name is not <version>_<name>.sql: notes.sql" in first.stdout
    assert "was not applied: run make stack-down first" in second.stderr
    assert there == [(True, True)]


def test_refused_migrations_are_named(place: Path, lab: Stack) -> None:
    """Each file that the database refuses is named with the reason, also those after the first; nothing runs then."""
    home, migrations = place / "stack", place / "migrations"
    migrations.mkdir()
    (migrations / "1_good.sql").write_text("create table public.good ();")
    (migrations / "2_broken.sql").write_text("create table public.bad (\n  oops oops);")
    (migrations / "3_fine.sql").write_text("create table public.fine ();")
    (migrations / "4_absent.sql").write_text("create extension pg_cron;")

    refused = starting(home, migrations)

    assert refused.returncode == 1
    assert f"2 of 4 migrations of {migrations} are refused" in refused.stderr
    assert "LINE 2:   oops oops" in refused.stderr
    assert [line.split(":")[0] for line in refused.stderr.splitlines() if ".sql: " in line] == [
        "2_broken.sql",
        "4_absent.sql",
    ]
    assert "Traceback" not in refused.stderr
    assert not processes_in(place)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (None, "is no directory"),
        (["notes.sql"], "holds no file <version>_<name>.sql"),
        (["1_one.sql", "1_two.sql"], "have the same version: 1_one.sql, 1_two.sql"),
    ],
)
def test_unusable_migrations_start_nothing(tmp_path: Path, names: list[str] | None, problem: str) -> None:
    """A directory that is absent, empty or ambiguous is refused before anything starts."""
    migrations = tmp_path / "migrations"
    if names is not None:
        migrations.mkdir()
    for name in names or ():
        (migrations / name).write_text("")

    refused = starting(tmp_path / "stack", migrations)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert problem in refused.stderr
    assert not (tmp_path / "stack").exists()


# What a stranger sees


def test_secrets_stay_out_of_repr(lab: Stack) -> None:
    """Neither a stack nor a user shows a key or a token when printed."""
    user = lab.sign_up("grace@example.com", "correct horse")

    shown = f"{lab!r} {user!r} {lab.control!r}"

    assert not [
        secret for secret in (lab.secret_key, lab.publishable_key, lab.jwt_secret, user.access_token) if secret in shown
    ]


def test_lock_files_name_no_registry() -> None:
    """The lock files pin by checksum alone, so that any registry can serve them."""
    locks = [json.loads(path.read_text())["packages"] for path in MANIFEST.parent.glob("node*/package-lock.json")]
    packages = [(name, package) for lock in locks for name, package in lock.items()]

    assert all("resolved" not in package for _, package in packages)
    assert all("integrity" in package for name, package in packages if name)


@pytest.mark.parametrize(("ci", "outcome"), [("true", StackUnavailable), ("", pytest.skip.Exception)])
def test_missing_stack_skips_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Where the stack can't run, its tests are skipped with the reason; in CI they fail."""
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match="no network"), skipping_without_stack():
        raise StackUnavailable("no network")
