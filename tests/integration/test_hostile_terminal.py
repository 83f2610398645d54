"""The command line in odd terminals: narrow ones, pipes that are closed early, few characters, wrong ids, Ctrl-C."""

import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ai_retry.testing.provider import ScriptedServer, stall
from tools.outage import failed_generations
from tools.waiting import eventually

AI_RETRY = Path(sys.executable).with_name("ai-retry")
NARROW = 40
NOWHERE = {
    "DATABASE_URL": "postgresql://me:secret@127.0.0.1:9/db",
    "AI_BASE_URL": "http://127.0.0.1:9",
    "AI_MODEL": "scripted",
}
Environment = dict[str, str]


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """A database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def environment(migrated_database: str) -> Environment:
    """The settings of an app."""
    return NOWHERE | {"DATABASE_URL": migrated_database}


def start(environment: Environment, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command line, its output piped."""
    return subprocess.Popen(
        [AI_RETRY, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
    )


def run(environment: Environment, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line to its end."""
    with start(environment, *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.parametrize(
    "arguments",
    [["find"], ["queue"], ["recover", "--since", "24h", "--dry-run"], ["status"], ["why"]],
    ids=lambda arguments: str(arguments[0]),
)
def test_narrow_terminal_is_enough(
    database: psycopg.Connection, environment: Environment, arguments: list[str]
) -> None:
    """In 40 columns no line is broken in the wrong place, and each is of that length at most; but for whole ids."""
    (generation_id,) = failed_generations(database, 1)
    own = [str(generation_id)[:8]] if arguments[0] in ("status", "why") else []

    shown = run(environment | {"COLUMNS": str(NARROW)}, *arguments, *own)

    assert shown.returncode == 0
    assert [line for line in shown.stdout.splitlines() if len(line) > NARROW and str(generation_id) not in line] == []


def test_pipe_closed_early_is_no_error_to_read(database: psycopg.Connection, environment: Environment) -> None:
    """``ai-retry find --json | head -1`` prints its line, and nothing about a pipe."""
    failed_generations(database, 600)
    with start(environment, "find", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()

    assert first.startswith("{")
    assert said == ""


def test_terminal_without_the_character_goes_on(database: psycopg.Connection, environment: Environment) -> None:
    """What a terminal's encoding lacks is replaced; no command ends for that."""
    failed_generations(database, 1, code="AVeryLongCodeOfTheAppThatIsClippedInALine")

    shown = run(environment | {"PYTHONIOENCODING": "latin-1", "COLUMNS": "60"}, "find")

    assert shown.returncode == 0
    assert "AVeryLo" in shown.stdout


@pytest.mark.parametrize("command", ["why", "status", "retry", "cancel"])
@pytest.mark.parametrize("text", ["7", "", "6f1c2f0", "6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c1g", "' or 1=1"])
def test_wrong_id_is_wrong_usage(command: str, text: str) -> None:
    """What is no id, and no beginning of one, is refused before the database is asked, with the two forms of an id."""
    refused = run(NOWHERE, command, text)

    assert refused.returncode == 2
    assert "ID must be a UUID such as" in refused.stderr
    assert "or its beginning of 8 characters or more" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--since", "tomorrow"], "--since must be how long ago"),
        (["--since", "2026-02-30"], "--since must be how long ago"),
        (["--user", "7"], "--user must be a UUID"),
        (["--model", ""], "--model must be a string"),
    ],
    ids=" ".join,
)
def test_wrong_search_is_wrong_usage(arguments: list[str], problem: str) -> None:
    """``find`` checks what it was given before the database is asked, as ``recover`` does."""
    refused = run(NOWHERE, "find", *arguments)

    assert refused.returncode == 2
    assert problem in refused.stderr


def test_search_without_a_result_says_what_was_searched(environment: Environment) -> None:
    """Where nothing was found, the search is there to be corrected."""
    shown = run(environment, "find", "--since", "2026-01-31", "--code", "AI_UNAVAILBLE")

    assert shown.returncode == 0
    assert shown.stdout.startswith("No failed generations: from 2026-01-31 00:00:00 UTC; before ")
    assert shown.stdout.endswith("code AI_UNAVAILBLE.\n")
    assert "did you mean AI_UNAVAILABLE?" in shown.stderr


class NoSuchRequest(socketserver.BaseRequestHandler):
    """Answers what is no HTTP, as web servers do."""

    def handle(self) -> None:
        """Answer."""
        self.request.recv(8)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_address_of_something_else_is_named(environment: Environment) -> None:
    """Where a web server answers in place of PostgreSQL, that is said, and not that encryption is at fault."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NoSuchRequest) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]
        refused = run(environment | {"DATABASE_URL": f"postgresql://me:secret@127.0.0.1:{port}/db"}, "find")
        server.shutdown()
        thread.join()

    assert refused.returncode == 3
    assert "what answers there is not PostgreSQL: check host and port in DATABASE_URL" in refused.stderr


def test_init_needs_an_address() -> None:
    """What is no address at all is wrong usage, with how one begins."""
    refused = run({"DATABASE_URL": "nonsense"}, "init", "--dry-run")

    assert refused.returncode == 2
    assert "must start with postgresql://" in refused.stderr


def test_each_missing_variable_has_its_line() -> None:
    """Without settings each variable that is missing is on a line of its own."""
    unset = run({}, "find")

    assert unset.returncode == 3
    assert [line.split()[0] for line in unset.stderr.splitlines()[1:]] == [
        "SUPABASE_URL",
        "SUPABASE_SECRET_KEY",
        "AI_API_KEY",
    ]


def test_interrupted_command_says_what_to_do(database: psycopg.Connection, environment: Environment) -> None:
    """Ctrl-C during a call: one line, exit code 130, and no traceback."""
    (generation_id,) = failed_generations(database, 1)
    with (
        ScriptedServer(default=lambda _: stall()) as provider,
        start(environment | {"AI_BASE_URL": provider.base_url}, "retry", str(generation_id)) as process,
    ):
        eventually(lambda: provider.requests)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert out == ""
    assert err == "\nInterrupted. The same command may be run again: nothing is done twice.\n"
