"""The tutorial and the how-tos run as they are; the site is built, and its generated pages are current."""

import atexit
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from flask import Flask
from psycopg.types.json import Jsonb

import ai_retry
from ai_retry import bootstrap
from ai_retry.auth import Unauthenticated
from ai_retry.client import Client
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import ContextMissing, SessionConflict, SessionRejected
from ai_retry.domain.model import Context, Generation, Waiver
from ai_retry.domain.reader import reader_name
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat
from tests.helpers.builders import a_generation
from tests.integration.test_migrations import AN_APP, apply
from tools import site
from tools.examples import example, examples, execute, shell
from tools.npm import REPOSITORY
from tools.outage import failed_generations
from tools.pages import DATABASE_PAGES
from tools.processes import free_port
from tools.stack import SignedInUser, Stack, running_stack
from tools.waiting import eventually, skipping_without_stack

DOCS = REPOSITORY / "docs"
HOW_TO = DOCS / "how-to"
OUTPUT = {"title": "Easy run", "plan": {"weeks": 4}}
QUESTION = {"question": "How far?"}


@pytest.fixture
def user(stack: Stack) -> SignedInUser:
    """A new user."""
    return stack.sign_up(f"{uuid4()}@example.com", "correct horse battery staple")


@pytest.fixture
def provider() -> Iterator[ScriptedServer]:
    """A provider that gives every user the same answer, as far as their schema asks for it."""
    with ScriptedServer(default=answered) as provider:
        yield provider


def answered(request: Request) -> Script:
    """Answer with those properties of the output that the request's schema names; without a schema, with all."""
    schema = request.json().get("response_format", {}).get("json_schema", {}).get("schema", {})
    names = schema.get("properties", OUTPUT)
    return chat({name: value for name, value in OUTPUT.items() if name in names})


@pytest.fixture
def environment(provider: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Settings that need no stack: the provider's, and where pictures go."""
    for name, value in {"AI_BASE_URL": provider.base_url, "AI_MODEL": "scripted", "MPLBACKEND": "Agg"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def of_stack(stack: Stack, environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The stack's settings as well, over the Data API."""
    for name, value in stack.env().items():
        if name != "DATABASE_URL":
            environment.setenv(name, value)
    return environment


def save(page: Path, folder: Path) -> None:
    """Save the blocks that have a file's name, but those of the system's folders."""
    for each in examples(page):
        if each.title is not None and not each.title.startswith("/"):
            (folder / each.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / each.title).write_text(each.code, encoding="utf-8")


def insert_failed(database_url: str, user_id: UUID, prompt_data: object) -> UUID:
    """Store a generation that failed."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "insert into public.generations (user_id, status, model, prompt_data)"
            " values (%s, 'error', 'small', %s) returning id",
            [user_id, Jsonb(prompt_data)],
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def new_user(database_url: str) -> UUID:
    """Make a user in a database that Auth does not serve."""
    user_id = uuid4()
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into auth.users (id) values (%s)", [user_id])
    return user_id


@pytest.mark.timeout(300)
def test_tutorial_runs_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    """In one shell: a first call fails; a click is too soon; retried, accepted, worked; books and doctor are content.

    ``make stack-up`` and ``stack-down`` are left out: the stack here is one of the test's own.
    """
    page = DOCS / "tutorial.md"
    lines = [each.code for each in examples(page) if each.language == "sh" and not each.code.startswith("make ")]
    ports = {port: str(free_port()) for port in ("8080", "8765")}
    save(page, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "adapters").symlink_to(REPOSITORY / "adapters")
    (tmp_path / ".stack").mkdir()
    script = "\n".join(lines)
    for port, free in ports.items():
        script = script.replace(port, free)
        provider = tmp_path / ".cache" / "tutorial" / "provider.py"
        provider.write_text(provider.read_text().replace(port, free))

    with skipping_without_stack(), running_stack() as stack:
        env = "".join(f"{name}={value}\n" for name, value in stack.env().items())
        (tmp_path / ".stack" / "env").write_text(env)
        printed = shell(script, tmp_path, within=250)

    shown = (
        "code=AI_UNAVAILABLE",
        '"code": "RETRY_TOO_SOON"',
        '"remaining": 4',
        "ALREADY_SUCCEEDED",
        '"status": "queued"',
    )
    positions = [printed.index(each) for each in shown]
    assert positions == sorted(positions)
    assert "The books balance." in printed
    assert printed.count('"minutes": 30') >= 3  # two sessions, and one of them read again


def test_app_of_the_how_to_serves(
    stack: Stack, user: SignedInUser, of_stack: pytest.MonkeyPatch, provider: ScriptedServer
) -> None:
    """The app factory answers under its prefix, and gives back its connections at exit."""
    at_exit: list[Callable[[], None]] = []
    of_stack.setattr(atexit, "register", at_exit.append)
    page = HOW_TO / "flask-app.md"
    asked = example(page, "json", "messages")
    names = execute(example(page, "python", "create_app"))
    create_app = names["create_app"]
    assert callable(create_app)
    app = create_app()
    assert isinstance(app, Flask)
    generation_id = insert_failed(stack.database_url, user.id, json.loads(asked))

    answer = app.test_client().post(
        f"/api/sessions/ai/{generation_id}/retry", headers={"Authorization": f"Bearer {user.access_token}"}
    )
    for close in at_exit:
        close()

    assert answer.status_code == 200, answer.get_json()
    assert provider.requests[0].json()["max_tokens"] == 400


def test_verifier_of_the_how_to_knows_its_users() -> None:
    """A function of the reader's own knows users, and refuses others."""
    names = execute(example(HOW_TO / "flask-app.md", "python", "def verify"))
    verify = names["verify"]
    assert callable(verify)

    assert isinstance(verify("token-of-ada"), UUID)
    with pytest.raises(Unauthenticated):
        verify("token-of-no-one")


def test_server_of_an_empty_project_may_insert(migrated_database: str) -> None:
    """The table that the migration creates takes generations from an app's server, as the page says."""
    user_id = new_user(migrated_database)
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("set role service_role")
        connection.execute("insert into public.generations (user_id, status) values (%s, 'processing')", [user_id])


def test_first_calls_are_made_as_the_page_says(
    of_stack: pytest.MonkeyPatch,
    user: SignedInUser,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A call in three lines, and what is known of one that is refused."""
    page = HOW_TO / "first-calls.md"
    with_client, caught = (each.code for each in examples(page) if each.language == "python" and each.title is None)
    execute(with_client, {"user_id": user.id})
    assert capsys.readouterr().out.startswith("session: ")

    with bootstrap.connect() as client:
        execute(caught, {"user_id": user.id, "client": client, "ai_retry": ai_retry})
        client.generate(user.id, "Another prompt.", idempotency_key="4c2e")
        execute(caught.replace("4c2d", "4c2e"), {"user_id": user.id, "client": client, "ai_retry": ai_retry})

    assert capsys.readouterr().out.startswith("IDEMPOTENCY_KEY_REUSED of ")


def test_sessions_table_of_the_how_to_keeps_what_it_refuses(
    bare_database: str, environment: pytest.MonkeyPatch, provider: ScriptedServer
) -> None:
    """Its constraint refuses a session by name, and once corrected the kept answer becomes one, without a call."""
    page = HOW_TO / "sessions-table.md"
    _, _, rest_of_the_app = AN_APP.partition("content jsonb);")
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute((example(page, "sql", "create table public.sessions") + rest_of_the_app).encode())
    apply(bare_database)
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute(example(page, "sql", "create or replace function public.ai_retry_create_session").encode())
        connection.execute("alter table public.sessions drop constraint title_is_short")
        connection.execute("alter table public.sessions add constraint title_is_short check (length(title) < 4)")
    environment.setenv("DATABASE_URL", bare_database)
    user_id = new_user(bare_database)
    prompt = {
        "messages": [{"role": "user", "content": "plan"}],
        "response_schema": json.loads(example(page, "json", "pattern")),
    }
    generation_id = insert_failed(bare_database, user_id, prompt)

    with bootstrap.connect() as client:
        with pytest.raises(SessionRejected) as refused:
            client.retry_generation(user_id, generation_id)
        with psycopg.connect(bare_database, autocommit=True) as connection:
            connection.execute("alter table public.sessions drop constraint title_is_short")
            tried = connection.execute(example(page, "sql", "rollback").encode())
            while tried.nextset():
                pass
        result = client.retry_generation(user_id, generation_id, waive=frozenset({Waiver.BACKOFF}), operator="ada")

    assert refused.value.details["constraint"] == "title_is_short"
    assert result.session["title"] == "Easy run"
    assert len(provider.requests) == 1


def test_check_of_the_how_to_refuses_before_a_call(
    bare_database: str, environment: pytest.MonkeyPatch, provider: ScriptedServer
) -> None:
    """With the page's check in place, a user who has a planned session learns it, and nothing is called."""
    page = HOW_TO / "sessions-table.md"
    _, _, rest_of_the_app = AN_APP.partition("content jsonb);")
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute((example(page, "sql", "create table public.sessions") + rest_of_the_app).encode())
        apply(bare_database)
        connection.execute(example(page, "sql", "create or replace function public.ai_retry_create_session").encode())
        connection.execute(example(page, "sql", "ai_retry.app_may_create_session").encode())
        user_id = new_user(bare_database)
        connection.execute(
            "insert into public.sessions (user_id, title, plan) values (%s, 'Run', '{\"state\": \"planned\"}')",
            [user_id],
        )
    environment.setenv("DATABASE_URL", bare_database)
    generation_id = insert_failed(bare_database, user_id, {"messages": [{"role": "user", "content": "plan"}]})

    with bootstrap.connect() as client, pytest.raises(SessionConflict) as refused:
        client.retry_generation(user_id, generation_id)

    assert refused.value.details == {"reason": "You have a planned session already.", "answer_kept": False}
    assert provider.requests == []


def test_refusal_of_the_how_to_has_the_name_that_it_was_given(
    migrated_database: str, environment: pytest.MonkeyPatch
) -> None:
    """An exception raised as the page shows refuses the session under its own name."""
    text = (HOW_TO / "sessions-table.md").read_text()
    (statement,) = [part for part in text.split("`") if part.startswith("raise exception")]
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(
            "create or replace function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)"
            f" returns jsonb language plpgsql set search_path = '' as $$ begin {statement}; end $$".encode()
        )
    environment.setenv("DATABASE_URL", migrated_database)
    user_id = new_user(migrated_database)
    generation_id = insert_failed(migrated_database, user_id, {"messages": [{"role": "user", "content": "plan"}]})

    with bootstrap.connect() as client, pytest.raises(SessionRejected) as refused:
        client.retry_generation(user_id, generation_id)

    assert refused.value.details["constraint"] == "plan_fits_the_week"


def test_prompts_of_the_how_to_are_read(folder: Path, of_stack: pytest.MonkeyPatch) -> None:
    """The default form is what the page shows; the function reads another one, and names what is missing."""
    page = HOW_TO / "prompts.md"
    save(page, folder)
    names = execute(example(page, "python", "ai_retry.connect(context_from"))
    client, read = names["client"], names["context_from"]
    assert callable(read)
    assert isinstance(client, Client)
    client.close()
    assert example(page, "sh", "AI_RETRY_CONTEXT_FROM").strip().endswith(f"={reader_name(read)}")

    asked = read(a_generation(prompt_data=QUESTION))
    with pytest.raises(ContextMissing, match="question is missing"):
        read(a_generation(prompt_data={}))

    assert isinstance(asked, Context)
    assert asked.messages[-1]["content"] == "How far?"
    assert [default.messages for default in _defaults(page)]


def _defaults(page: Path) -> Iterator[Context]:
    for each in examples(page):
        if each.language == "json":
            generation: Generation = a_generation(prompt_data=json.loads(each.code))
            yield stored_context(generation)


def test_queue_of_the_how_to_accepts(
    stack: Stack, user: SignedInUser, of_stack: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example accepts a retry for later."""
    generation_id = insert_failed(stack.database_url, user.id, {"messages": [{"role": "user", "content": "plan"}]})

    execute(
        example(HOW_TO / "queue.md", "python", "client.enqueue"), {"user_id": user.id, "generation_id": generation_id}
    )

    assert capsys.readouterr().out.startswith("accepted: queued tried until 2")
    with bootstrap.connect() as client:
        client.cancel(user.id, generation_id)


def test_queue_of_the_how_to_is_set_up_and_published(migrated_database: str) -> None:
    """The owner's lines work, and again; the extension itself is Supabase's."""
    create = example(HOW_TO / "queue.md", "sql", "ai_retry_create_queue").splitlines()[-1]
    publish = example(HOW_TO / "queue.md", "sql", "ai_retry_publish")
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("create publication supabase_realtime")
        for _ in range(2):
            assert connection.execute(create.encode()).fetchone() == (True,)
            connection.execute(publish.encode())
        published = connection.execute("select tablename from pg_publication_tables").fetchall()
    assert published == [("generations",)]


def test_worker_of_the_how_to_reads_prompts(
    folder: Path, migrated_database: str, environment: pytest.MonkeyPatch, provider: ScriptedServer
) -> None:
    """With the variable of the page, in the app's directory, the command runs what was accepted."""
    save(HOW_TO / "prompts.md", folder)
    environment.setenv("DATABASE_URL", migrated_database)
    environment.setenv("AI_RETRY_CONTEXT_FROM", "prompts:context_from")
    user_id = new_user(migrated_database)
    generation_id = insert_failed(migrated_database, user_id, QUESTION)
    with bootstrap.connect() as client:
        client.enqueue(user_id, generation_id)

        worker = subprocess.Popen(["ai-retry", "worker", "--concurrency", "8"], cwd=folder)
        try:
            eventually(lambda: client.status(user_id, generation_id).snapshot.generation.status == "success", within=60)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=60) == 0
        finally:
            worker.kill()
            worker.wait()

    assert provider.requests[0].json()["messages"][-1]["content"] == "How far?"


def test_recovery_of_the_how_to_runs_in_a_terminal(
    folder: Path, migrated_database: str, environment: pytest.MonkeyPatch, provider: ScriptedServer
) -> None:
    """Find, why, dry run, run, books: as the page shows them, in one shell."""
    environment.setenv("DATABASE_URL", migrated_database)
    with psycopg.connect(migrated_database) as connection:
        (generation_id, *_) = failed_generations(connection, 3)
    script = "\n".join(each.code for each in examples(HOW_TO / "recovery.md") if each.language == "sh")

    printed = shell(f"GENERATION={generation_id}\n{script}", folder)

    assert "can be retried now" in printed
    assert "The books balance." in printed
    assert len(provider.requests) == 3
    assert (folder / "outage.json").exists()


def test_recovery_of_the_how_to_runs_in_a_notebook(
    folder: Path, migrated_database: str, environment: pytest.MonkeyPatch, provider: ScriptedServer
) -> None:
    """Cell by cell, then again after a restart of the kernel: nothing is called twice."""
    environment.setenv("DATABASE_URL", migrated_database)
    with psycopg.connect(migrated_database) as connection:
        failed_generations(connection, 3)
    names: dict[str, object] = {}

    for cell in (each.code for each in examples(HOW_TO / "recovery.md") if each.language == "python"):
        execute(cell, names)

    client = names["client"]
    assert isinstance(client, Client)
    client.close()
    assert len(provider.requests) == 3
    assert (folder / "outage.csv").read_text().count("succeeded") == 3


def test_upgrade_of_the_how_to_brings_the_migrations(folder: Path) -> None:
    """``check || copy`` corrects a folder in which one is missing; then ``check`` passes."""
    (block,) = [each.code for each in examples(HOW_TO / "upgrade.md") if "migrations check" in each.code]
    lines = [line for line in block.splitlines() if line.startswith("ai-retry migrations")]
    shell("ai-retry migrations copy supabase/migrations", folder)
    newest = max((folder / "supabase" / "migrations").glob("*.sql"))
    newest.unlink()

    shell("\n".join(lines), folder)

    assert newest.exists()


def test_job_of_the_how_to_tidies_everything(migrated_database: str) -> None:
    """What the example lets pg_cron run closes every attempt that is over, each user's in a transaction of its own."""
    (job,) = re.findall(r"\$job\$(.*?)\$job\$", example(HOW_TO / "operate.md", "sql", "overdue"), flags=re.DOTALL)
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("insert into auth.users (id) select gen_random_uuid() from generate_series(1, 5)")
        connection.execute(
            "insert into public.ai_retry_open (user_id, generation_id, number, token, started_at, charge, waived,"
            " lease_expires_at, renewable_until, abandoned_wait_seconds) select id, gen_random_uuid(), 2,"
            " gen_random_uuid(), at - interval '1 minute', true, '{}', at, at, 2"
            " from auth.users, lateral (select clock_timestamp() - interval '1 second' as at) a"
        )

        connection.execute(str(job).encode())

        ends = "select outcome, count(*), count(distinct xmin::text) from public.ai_retry_attempts group by outcome"
        assert connection.execute(ends).fetchall() == [("abandoned", 5, 5)]
        assert connection.execute("select count(*) from public.ai_retry_open").fetchone() == (0,)


def test_job_of_the_how_to_prunes_everything(migrated_database: str) -> None:
    """What the example lets pg_cron run goes on to the last page, each in a transaction of its own."""
    (job,) = re.findall(r"\$job\$(.*?)\$job\$", example(HOW_TO / "operate.md", "sql", "prune"), flags=re.DOTALL)
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("insert into auth.users (id) values (gen_random_uuid())")
        connection.execute(
            "insert into public.ai_retry_attempts (generation_id, number, user_id, token, started_at, closed_at,"
            " outcome, counted, charge, provider_outcome) select gen_random_uuid(), 2, id, gen_random_uuid(), at, at,"
            " 'failed', true, true, 'unknown' from auth.users, generate_series(1, 1203) n,"
            " lateral (select clock_timestamp() - case when n <= 1200 then interval '91 days' else interval '89 days'"
            " end as at) a"
        )

        connection.execute(str(job).encode())

        assert connection.execute("select count(*) from public.ai_retry_attempts").fetchone() == (3,)


def test_override_of_the_quota_page_counts(migrated_database: str) -> None:
    """The row for one user is taken, and taken again."""
    statement = example(DOCS / "explanation" / "quota.md", "sql", "ai_retry_quotas")
    with psycopg.connect(migrated_database) as connection:
        connection.execute("insert into auth.users (id) values ('0b54ad2c-73b0-4a52-8d6c-0f6f0a1d3c11')")
        for _ in range(2):
            connection.execute(statement.encode())
        assert connection.execute("select quota_limit from public.ai_retry_quotas").fetchall() == [(50,)]


@pytest.mark.parametrize("path", DATABASE_PAGES, ids=lambda path: path.name)
def test_page_equals_what_the_database_says(path: Path, migrated_database: str) -> None:
    """The committed page is the one that `make pages` would write."""
    assert path.read_text(encoding="utf-8") == DATABASE_PAGES[path](migrated_database)


def test_site_is_built(tmp_path: Path) -> None:
    """Every link and anchor leads somewhere, every page is in the navigation, nothing loads from elsewhere."""
    with skipping_without_stack():
        site.build(tmp_path / "site")

    assert (tmp_path / "site" / "tutorial.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("index.md", "[there](nowhere.md)", "page does not exist"),
        ("index.md", "[there](tutorial.md#nowhere)", "anchor does not exist"),
        ("orphan.md", "# No link leads here", "orphan.md is not in the navigation"),
        ("index.md", "```mermaid\nsequenceDiagram\n  A=>>B\n```\n", "a diagram can't be read"),
        ("index.md", '<img src="https://pictures.example/1.png">', "loads https://pictures.example/1.png"),
    ],
)
def test_broken_site_is_named(tmp_path: Path, name: str, text: str, problem: str) -> None:
    """What is wrong is named, and nothing is written."""
    docs = shutil.copytree(DOCS, tmp_path / "docs")
    with (docs / name).open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")

    with skipping_without_stack(), pytest.raises(site.SiteBroken, match=problem):
        site.build(tmp_path / "site", docs=docs)

    assert not (tmp_path / "site").exists()
