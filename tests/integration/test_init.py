"""`ai-retry init` on real schemas: what it writes and says, and that it leaves no trace in the database."""

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from ai_retry.cli.commands import cli
from ai_retry.cli.commands import init as command
from tests.apps.book import APPS
from tests.apps.project import Project, project_of
from tools.catalogue import schema_of
from tools.stack import Stack

GOLDEN = Path(__file__).parent / "bindings"


@pytest.fixture
def project(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    """The app that the test names."""
    with project_of(stack, APPS[request.param], tmp_path) as made:
        yield made


def init(project: Project, *flags: str) -> Result:
    """Run the command in the project's folder."""
    arguments = ["init", "--database-url", project.url, "--dir", str(project.folder), *flags]
    config = project.folder.parent / "ai-retry.toml"
    return CliRunner().invoke(cli, [*arguments, "--config", str(config)])


def written(project: Project) -> list[Path]:
    """The migrations that it wrote."""
    return sorted((project.folder / "migrations").glob("*_ai_retry*.sql"))


@pytest.mark.parametrize("project", ["credits", "posters", "trainer"], indirect=True)
def test_binding_reads_as_it_should(project: Project, request: pytest.FixtureRequest) -> None:
    """What is generated for three apps is what was read and found good; GOLDEN=write takes what is new."""
    name = request.node.callspec.params["project"]
    result = init(project, *APPS[name].flags)
    assert result.exit_code == 0, result.output

    text = written(project)[1].read_text(encoding="utf-8")

    golden = GOLDEN / f"{name}.sql"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("project", ["songs", "audited"], indirect=True)
def test_looking_and_rehearsing_leave_no_trace(project: Project, request: pytest.FixtureRequest) -> None:
    """Neither in the catalogue nor in a row, and a dry run leaves no file."""
    app = APPS[request.node.callspec.params["project"]]
    example = project.folder.parent / "example.json"
    example.write_text(json.dumps(app.output))
    before, picture = schema_of(project.url), project.picture()

    result = init(project, *app.flags, "--dry-run", "--example-output", str(example))

    assert result.exit_code == 0, result.output
    assert "succeed: ai_retry.app_create_session" in result.output
    assert "create or replace function ai_retry.app_read" in result.output
    assert (schema_of(project.url), project.picture()) == (before, picture)
    assert written(project) == []
    assert not (project.folder.parent / "ai-retry.toml").exists()


@pytest.mark.parametrize("project", ["stories"], indirect=True)
def test_answers_are_kept_and_asked_no_more(project: Project) -> None:
    """The file that is written gives the same binding without a flag."""
    assert init(project, *APPS["stories"].flags).exit_code == 0
    _, first = written(project)

    again = init(project, "--yes")

    assert again.exit_code == 0, again.output
    assert "Guessed" not in again.output
    assert written(project)[-1].read_text(encoding="utf-8") == first.read_text(encoding="utf-8")


@pytest.mark.parametrize("project", ["seed"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "flags"),
    [
        ("alter table public.generations alter column id drop default, alter column id type text", []),
        ("alter table public.generations drop column session_id; drop table public.sessions cascade", []),
    ],
    ids=["ids are texts", "nowhere for an output"],
)
def test_lines_that_are_printed_run(project: Project, damage: str, flags: list[str]) -> None:
    """What can't be bound is refused with statements that this database accepts; nothing is written."""
    project.run("drop function public.ai_retry_create_session(public.generations, jsonb)")
    project.run(
        "alter table public.generation_error_logs drop constraint generation_error_logs_generation_id_fkey;" + damage
    )

    result = init(project, "--yes", *flags)

    lines = [line.strip() for line in result.output.splitlines() if line.strip().startswith("alter ")]
    assert result.exit_code == 1
    assert "they were run here, and rolled back" in result.output
    assert written(project) == []
    for line in lines:
        project.run(line)
    assert lines


@pytest.mark.parametrize("project", ["credits"], indirect=True)
def test_what_refuses_a_retry_is_named(project: Project) -> None:
    """A rehearsal that is refused names function, trigger and step, writes nothing and prints no value of a row."""
    project.run(
        "create function public.no() returns trigger language plpgsql as $$ begin"
        " raise exception 'not %', new.prompt using errcode = '23514'; end $$;"
        "create trigger no before update on public.ai_generations for each row execute function public.no()"
    )
    example = project.folder.parent / "example.json"
    example.write_text('{"text": "a poem"}')

    result = init(project, *APPS["credits"].flags, "--example-output", str(example))

    assert result.exit_code == 1, result.output
    assert 'rehearsing "succeed", ai_retry.app_write' in result.output
    assert "it raises an error (23514) in no, line 1" in result.output
    assert "sonnet" not in result.output
    assert "not ai-retry" not in result.output
    assert "Retries would fail; nothing was written." in result.output
    assert written(project) == []


@pytest.mark.parametrize("project", ["flashcards"], indirect=True)
def test_usage_is_wrong_before_anything_is_asked(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal, no database, a flag that says nothing: exit code 2."""
    monkeypatch.delenv("DATABASE_URL", raising=False)

    results = [
        init(project),
        init(project, "--yes", "--column", "shoe=size"),
        init(project, "--yes", "--status", "error"),
        CliRunner().invoke(cli, ["init", "--yes"]),
    ]

    assert [each.exit_code for each in results] == [2, 2, 2, 2]
    assert written(project) == []


def test_a_database_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, and no part of a password."""
    monkeypatch.chdir(tmp_path)

    refused = CliRunner().invoke(cli, ["init", "--yes", "--database-url", "postgresql://u:sec-ret@127.0.0.1:9/x"])
    unread = CliRunner().invoke(cli, ["init", "--yes", "--database-url", "postgresql://u:sec@ret@127.0.0.1:9/x"])

    assert (refused.exit_code, unread.exit_code) == (3, 3)
    assert "sec" not in refused.output + unread.output


def test_a_database_that_is_no_project_is_said(stack: Stack, bare_database: str, tmp_path: Path) -> None:
    """What a Supabase project has and this database has not is named; exit code 1."""
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute("drop table auth.users cascade")

    result = CliRunner().invoke(
        cli, ["init", "--yes", "--database-url", bare_database, "--dir", str(tmp_path), "--config", str(tmp_path / "x")]
    )

    assert result.exit_code == 1
    assert "there is no table auth.users" in result.output


def test_declared_schemas_give_what_the_migrations_give(stack: Stack, tmp_path: Path) -> None:
    """A database that is made of `schema_paths` equals the migrated one: the next diff is empty. Comments stay."""
    with (
        project_of(stack, APPS["declared"], tmp_path / "a") as project,
        project_of(stack, APPS["empty"], tmp_path / "b") as shadow,
    ):
        assert init(project, *APPS["declared"].flags).exit_code == 0
        config = (project.folder / "config.toml").read_text(encoding="utf-8")
        for path in written(project):
            project.run(path.read_text(encoding="utf-8"))
        for pattern in tomllib.loads(config)["db"]["migrations"]["schema_paths"]:
            for path in sorted(project.folder.glob(pattern)):
                shadow.run(path.read_text(encoding="utf-8"))

        assert schema_of(shadow.url) == schema_of(project.url)
        assert "# Tables first, then what is made of them." in config


@pytest.mark.parametrize("project", ["credits"], indirect=True)
def test_in_a_terminal_it_asks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question a line with the guess in brackets; Enter takes it, and the answers are kept."""
    monkeypatch.setattr(command, "_is_terminal", lambda: True)
    arguments = ["init", "--database-url", project.url, "--dir", str(project.folder)]
    config = project.folder.parent / "ai-retry.toml"

    result = CliRunner().invoke(cli, [*arguments, "--config", str(config)], input="?" + "\n" * 40)

    assert result.exit_code == 0, result.output
    assert "generations [public.ai_generations]: ?\n" in result.output
    assert "(a status that changes fires give_credit_back)\nstatus processing [none]: " in result.output
    assert 'generations = "public.ai_generations"' in config.read_text(encoding="utf-8")
    assert len(written(project)) == 2


@pytest.mark.parametrize("project", ["credits"], indirect=True)
def test_what_was_typed_is_not_asked_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it ends without a binding, the answers so far are kept, and the next run goes on from there."""
    monkeypatch.setattr(command, "_is_terminal", lambda: True)
    arguments = ["init", "--database-url", project.url, "--dir", str(project.folder)]
    config = project.folder.parent / "ai-retry.toml"
    arguments += ["--config", str(config)]

    first = CliRunner().invoke(cli, arguments, input="\nnone\n")
    second = CliRunner().invoke(cli, arguments, input="\n" * 40)

    assert first.exit_code == 1
    assert f"Your answers are kept in {config}" in first.output
    assert "generations [" not in second.output
    assert second.exit_code == 0, second.output


@pytest.mark.parametrize("project", ["credits"], indirect=True)
def test_without_a_prompt_nothing_is_written(project: Project) -> None:
    """Where no column is named like a prompt, `--yes` ends with exit code 1 and the flag that cures it."""
    flags = ["--yes", "--sessions", "none", "--set", "result=output.text", "--set", "finished_at=now"]
    for name in ("prompt", "tone"):
        project.run(f"alter table public.ai_generations rename column {name} to own_{name}")

    result = init(project, *flags)

    assert result.exit_code == 1, result.output
    assert "--column prompt_data=NAME" in result.output
    assert "where NAME is one of own_prompt, own_tone" in result.output
    assert written(project) == []
    assert init(project, *flags, "--column", "prompt_data=own_prompt").exit_code == 0


@pytest.mark.parametrize("project", ["stories"], indirect=True)
def test_indexes_that_are_proposed_can_be_built(project: Project) -> None:
    """Each line runs by itself, and is proposed no more once it has."""
    line = re.compile(r"^ +(create index concurrently .*;)$", re.MULTILINE)
    first = line.findall(init(project, *APPS["stories"].flags, "--dry-run").output)
    for each in first:
        project.run(each)

    assert len(first) == 2
    assert line.findall(init(project, *APPS["stories"].flags, "--dry-run").output) == []


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg it says what to install."""
    monkeypatch.delitem(sys.modules, "ai_retry.cli.init.connection", raising=False)
    monkeypatch.delattr("ai_retry.cli.init.connection", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)

    result = CliRunner().invoke(cli, ["init", "--yes", "--database-url", "postgresql://127.0.0.1:9/x"])

    assert result.exit_code == 3
    assert "ai-retry[cli,postgres]" in result.output


@pytest.mark.parametrize("project", ["audited", "coaching", "credits", "stories", "songs"], indirect=True)
def test_what_moves_is_listed(project: Project, request: pytest.FixtureRequest) -> None:
    """Triggers, charges, generated columns, profiles, policies, partitions, indexes and grants, by their names."""
    name = request.node.callspec.params["project"]
    output = init(project, *APPS[name].flags, "--dry-run").output

    missing = [line for line in MOVES[name] if line not in output]
    assert missing == [], output


MOVES = {
    "audited": [
        "public.translations: note (update) runs audit.note",
        "public.translations: number, length",
        "Partitioned, so that a row without a partition is refused:\n  public.notices",
        "grant usage on sequence public.notices_id_seq to service_role;",
        "severity, source",
    ],
    "coaching": ["public.advice: profile_id, to public.profiles", "count_reply (insert) runs public.count_reply"],
    "credits": [
        "give_credit_back (update of status) runs public.give_credit_back; no status is written while",
        "would start or charge again:\n  public.ai_generations: take_credit runs public.take_credit",
    ],
    "stories": ['public.stories: "two factors" (all)', 'public.stories: "own" (all)'],
    "songs": ["CREATE UNIQUE INDEX one_active_job ON public.song_jobs"],
}


INSERTED = "insert into public.recipes (user_id, name, body) values (p_user_id, 'Soup', p_output)"
FUNCTIONS = {
    "the row, as a record": f"(p_user_id uuid, p_output jsonb) returns public.recipes language sql as $$"
    f" {INSERTED} returning * $$",
    "its id": f"(p_user_id uuid, p_output jsonb) returns uuid language sql as $$ {INSERTED} returning id $$",
    "a set of rows": f"(p_user_id uuid, p_output json) returns setof public.recipes language sql as $$"
    f" {INSERTED.replace('p_output)', 'p_output::jsonb)')} returning * $$",
    "JSON": f"(p_output jsonb, p_attempt jsonb, p_user_id uuid) returns json language sql as $$"
    f" {INSERTED.replace('p_output)', 'p_output || p_attempt)')} returning to_json(recipes) $$",
    "nothing": f"(menu_id uuid, p_user_id uuid, p_output jsonb) returns void language sql as $$"
    f" with s as ({INSERTED} returning id)"
    " update public.menus m set recipe_id = s.id from s where m.id = menu_id $$",
    "by the generation's row": "(p_menu public.menus, result text) returns jsonb language sql as $$"
    " insert into"
    " public.recipes (user_id, name, body) values (p_menu.user_id, 'Soup', result::jsonb)"
    " returning to_jsonb(recipes) $$",
}


@pytest.mark.parametrize("project", ["menus"], indirect=True)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_session_functions_of_many_forms_are_called(project: Project, function: str) -> None:
    """Whatever a function takes, by its names and types, and returns: the row, its id, JSON, or nothing."""
    project.run(f"create function public.make{function}")
    example = project.folder.parent / "example.json"
    example.write_text('{"name": "Soup"}')
    flags = [each for each in APPS["menus"].flags if each not in {"--set", "name=output.name", "body=output"}]

    result = init(project, *flags, "--session-function", "public.make", "--example-output", str(example))

    assert result.exit_code == 0, result.output
    assert "ok          succeed: ai_retry.app_create_session" in result.output
    assert "refused     rehearsing" not in result.output


@pytest.mark.parametrize("project", ["menus"], indirect=True)
def test_a_session_function_with_an_argument_that_means_nothing_is_named(project: Project) -> None:
    """The argument is named, and what to do."""
    project.run("create function public.make(shoe_size integer) returns jsonb language sql as $$ select '{}'::jsonb $$")

    result = init(project, *APPS["menus"].flags, "--session-function", "public.make")

    assert result.exit_code == 1
    assert "argument 1 (shoe_size)" in result.output
    assert written(project) == []


JOBS = """
create table public.profiles (
  id uuid primary key default gen_random_uuid(), auth_id uuid not null unique references auth.users (id), name text);
create table public.ai_jobs (
  id bigint generated always as identity primary key, retry_id uuid not null default gen_random_uuid() unique,
  profile_id uuid not null references public.profiles (id), state text not null default 'new', prompt text not null,
  settings jsonb, error_message text, created_at timestamptz not null default now());
create table public.job_errors (
  job_id bigint not null references public.ai_jobs (id), code text, message text, created_at timestamptz default now());
with u as (insert into auth.users (id) values (gen_random_uuid()) returning id),
  p as (insert into public.profiles (auth_id) select id from u returning id)
insert into public.ai_jobs (profile_id, state, prompt) select id, 'failed', 'a poem' from p;
"""
LINKS = {
    "a session has its generation's id": (
        "create table public.results (id uuid primary key default gen_random_uuid(), text text not null,"
        " job_id bigint not null unique references public.ai_jobs (id))",
        ["--sessions", "public.results", "--set", "text=output.lines"],
        {"lines": "x"},
    ),
    "rows are a session together": (
        "create table public.cards (id bigserial primary key, front text not null,"
        " job_id bigint not null references public.ai_jobs (id))",
        ["--sessions", "public.cards"],
        {"cards": [{"front": "a"}, {"front": "b"}]},
    ),
    "the output is kept in the generation": (
        "alter table public.ai_jobs add column result text[]",
        ["--sessions", "none", "--set", "result=output.lines"],
        {"lines": ["a", "b"]},
    ),
}


@pytest.mark.parametrize("project", ["empty"], indirect=True)
@pytest.mark.parametrize(("schema", "flags", "output"), LINKS.values(), ids=LINKS.keys())
def test_other_links_are_bound_too(project: Project, schema: str, flags: list[str], output: object) -> None:
    """Profiles with ids of their own, logs by a serial number, and sessions however they know their generation."""
    project.run(JOBS + schema)
    example = project.folder.parent / "example.json"
    example.write_text(json.dumps(output))

    result = init(project, "--yes", "--column", "id=retry_id", *flags, "--example-output", str(example))

    assert result.exit_code == 0, result.output
    assert "refused     rehearsing" not in result.output
    assert "ok          succeed: ai_retry.app_create_session" in result.output
    for path in written(project):
        project.run(path.read_text(encoding="utf-8"))
    ((user_id, profile_id, generation_id),) = project.rows(
        "select p.auth_id, p.id, j.retry_id from public.ai_jobs j join public.profiles p on p.id = j.profile_id"
    )
    ((read, found, strangers),) = project.rows(
        f"select ai_retry.app_read('{generation_id}'), array(select f.id from ai_retry.app_find("
        f"null, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '{user_id}', 9) f), array(select s from"
        f" ai_retry.app_strangers(array['{generation_id}'::uuid], '{profile_id}') s)"
    )
    assert (read["user_id"], read["status"], found, strangers) == (
        str(user_id),
        "error",
        [generation_id],
        [generation_id],
    )
