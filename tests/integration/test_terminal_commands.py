"""One generation in a terminal: its status, a queued retry and its end, by short ids; and a missing database."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ai_retry.testing.provider import ScriptedServer, chat
from tools.outage import attempts, failed_generations

AI_RETRY = Path(sys.executable).with_name("ai-retry")
Environment = Mapping[str, str]


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """A database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def environment(migrated_database: str) -> Iterator[Environment]:
    """The settings of an app, and a provider that answers every request."""
    with ScriptedServer(default=lambda _: chat({"title": "x"})) as provider:
        yield {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": migrated_database,
            "AI_BASE_URL": provider.base_url,
            "AI_MODEL": "scripted",
        }


def run(environment: Environment, *arguments: str | UUID) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does, its output piped."""
    return subprocess.run(
        [AI_RETRY, *map(str, arguments)],
        check=False,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def status(environment: Environment, generation_id: str) -> dict[str, Any]:
    """Read a generation's status as a program does."""
    document: dict[str, Any] = json.loads(run(environment, "status", generation_id, "--json").stdout)
    return document


def test_queued_retry_is_shown_and_cancelled(database: psycopg.Connection, environment: Environment) -> None:
    """A retry is accepted, shown as queued and cancelled, by a short id; a second cancellation changes nothing."""
    database.execute("select public.ai_retry_create_queue()")
    (generation_id, _) = failed_generations(database, 2)
    short = str(generation_id)[:8]

    accepted = run(environment, "retry", short, "--async")
    waiting = status(environment, short)
    cancelled, again = run(environment, "cancel", short), run(environment, "cancel", short)
    after = status(environment, short)

    assert accepted.stdout.startswith("Call 2 is accepted, and waits for a worker. Next: ai-retry status")
    assert (waiting["generation_id"], waiting["queued"], waiting["possible_at"]) == (str(generation_id), True, None)
    assert waiting["reason"] == "Accepted; it waits for a worker."
    assert cancelled.stdout == "The queued retry is cancelled.\n"
    assert again.stdout == "No retry of it is queued.\n"
    assert (after["queued"], after["retry_possible"]) == (False, True)


def test_limit_is_lifted_by_name(database: psycopg.Connection, environment: Environment) -> None:
    """``retry --waive`` needs an operator, whose name is on the attempt."""
    (generation_id,) = failed_generations(database, 1)

    unnamed = run(environment, "retry", generation_id, "--waive", "quota")
    named = run(environment, "retry", generation_id, "--waive", "quota", "--no-charge", "--operator", "ada")

    assert (unnamed.returncode, named.returncode) == (2, 0)
    assert "--operator must be given with --waive" in unnamed.stderr
    (made,) = attempts(database)
    assert (made["operator"], made["waived"], made["charge"]) == ("ada", ["quota"], False)


def test_answer_is_discarded_after_a_question(database: psycopg.Connection, environment: Environment) -> None:
    """A kept answer is dropped where someone agreed; where no terminal can ask, nothing is done."""
    (generation_id,) = failed_generations(database, 1)

    asked = run(environment, "discard-answer", generation_id, "--operator", "ada")
    none = run(environment, "discard-answer", generation_id, "--operator", "ada", "--yes")

    assert (asked.returncode, none.returncode) == (1, 1)
    assert "pass --yes" in asked.stderr
    assert none.stdout == "No answer of it is kept.\n"


def test_short_id_is_one_generations(database: psycopg.Connection, environment: Environment) -> None:
    """A short id that no failed generation has, or that several have, is refused with what to do."""
    failed_generations(database, 1)
    database.execute(
        "insert into public.generations (id, user_id, status, prompt_data) "
        "select ('01890a5d-ac96-774b-' || place || 'cce-b302099a8057')::uuid, user_id, 'error', prompt_data "
        "from public.generations, (values ('b'), ('9')) as two (place)"
    )

    several, unknown = run(environment, "why", "01890a5d"), run(environment, "why", "ffffffff")
    one = run(environment, "why", "01890A5D-ac96-774b-b")

    assert (several.returncode, unknown.returncode, one.returncode) == (1, 1, 0)
    assert "begins the ids of 2 generations" in several.stderr
    assert "give the whole id" in unknown.stderr


def test_dry_run_prints_the_next_command(
    database: psycopg.Connection, environment: Environment, tmp_path: Path
) -> None:
    """After a dry run the command that runs the plan is printed, and it runs; then nothing is left to do."""
    failed_generations(database, 2)
    path = tmp_path / "my plan.json"

    dry = run(environment, "recover", "--since", "7d", "--plan", str(path), "--dry-run", "--operator", "ada")

    assert f"Next: ai-retry recover --plan '{path}' --operator ada\n" in dry.stderr
    before = run(environment, "recover", "--plan", str(path), "--dry-run")
    assert run(environment, "recover", "--plan", str(path), "--operator", "ada", "--yes").returncode == 0
    after = run(environment, "recover", "--plan", str(path), "--dry-run")
    assert ["progress", "done", "0"] in [line.split() for line in before.stdout.splitlines()]
    assert ["progress", "done", "2"] in [line.split() for line in after.stdout.splitlines()]
    assert after.stderr == "\nNothing of this plan is left to do.\n"


def test_user_s_short_id_finds_theirs(database: psycopg.Connection, environment: Environment) -> None:
    """``--user`` accepts the short id that the list shows."""
    failed_generations(database, 3)
    first = json.loads(run(environment, "find", "--json").stdout.splitlines()[0])

    theirs = run(environment, "find", "--user", first["user_id"][:8], "--json").stdout.splitlines()

    assert [json.loads(each)["generation_id"] for each in theirs] == [first["generation_id"]]


@contextmanager
def answering(code: int, body: bytes) -> Iterator[str]:
    """Serve the same answer to every request, as something that is not the Data API."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (200, b"<html>hello</html>", "Check that SUPABASE_URL is the project's own address"),
        (401, b'{"message":"Invalid API key"}', "(401): check SUPABASE_URL and SUPABASE_SECRET_KEY"),
        (540, b"<html>paused</html>", "Restore it in Supabase's dashboard."),
        (500, b"oh", "could not be asked: The storage failed (500)"),
    ],
    ids=["page", "key", "paused", "error"],
)
def test_what_is_not_the_data_api_is_named(code: int, body: bytes, said: str) -> None:
    """Something else at the address, a wrong key or a paused project: the status, and what to do; exit code 3."""
    with answering(code, body) as url:
        done = run(
            {
                "PATH": os.environ["PATH"],
                "SUPABASE_URL": url,
                "SUPABASE_SECRET_KEY": "sb_secret_x",
                "AI_BASE_URL": "http://127.0.0.1:9",
                "AI_MODEL": "scripted",
            },
            "find",
        )

    assert done.returncode == 3
    assert said in done.stderr
    assert "None" not in done.stderr


def test_database_that_is_not_there_is_said_in_our_words() -> None:
    """Where nothing listens, two lines say so and what to do; the driver's own lines are left out."""
    done = run(
        {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": "postgresql://me:secret@127.0.0.1:9/db",
            "AI_BASE_URL": "http://127.0.0.1:9",
            "AI_MODEL": "scripted",
        },
        "queue",
    )

    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "Error: the database can't be reached: nothing listens there.",
        "Check host and port in DATABASE_URL, that the project is not paused, and the network between.",
    ]
