"""Recovery in a terminal, as a person does it, and in scripts: what it prints, asks, and how it exits."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, reply
from tools.outage import attempts, failed_generations

OUTPUT = {"title": "x"}
AI_RETRY = Path(sys.executable).with_name("ai-retry")
Environment = Mapping[str, str]


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """A database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


class Answers:
    """How the provider answers every call."""

    def __init__(self) -> None:
        self.of: Callable[[Request], Script] = lambda _: chat(OUTPUT)

    def __call__(self, request: Request) -> Script:
        """Answer one request."""
        return self.of(request)


@pytest.fixture
def answers() -> Answers:
    """To be changed by tests."""
    return Answers()


@pytest.fixture
def provider(answers: Answers) -> Iterator[ScriptedServer]:
    """A provider that answers every call."""
    with ScriptedServer(default=answers) as provider:
        yield provider


@pytest.fixture
def environment(migrated_database: str, provider: ScriptedServer) -> Environment:
    """The settings of an app."""
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": migrated_database,
        "AI_BASE_URL": provider.base_url,
        "AI_MODEL": "scripted",
    }


def run(environment: Environment, *arguments: str | Path, answer: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does, its output piped."""
    return subprocess.run(
        [AI_RETRY, *map(str, arguments)],
        check=False,
        env=dict(environment),
        input=answer,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_find_shows_counts_and_the_newest(database: psycopg.Connection, environment: Environment) -> None:
    """``find`` prints the counts and a table; piped, without colours; with --json one object a line."""
    failed_generations(database, 3, code="AI_TIMEOUT")
    failed_generations(database, 1, model="other")

    table = run(environment, "find", "--code", "AI_TIMEOUT", "--since", "24h")
    lines = run(environment, "find", "--json")

    assert table.returncode == lines.returncode == 0
    assert "3 failed generations of 3 users" in table.stdout
    assert "\x1b" not in table.stdout + table.stderr
    documents = [json.loads(line) for line in lines.stdout.splitlines()]
    assert Counter(each["code"] for each in documents) == {"AI_TIMEOUT": 3, "AI_UNAVAILABLE": 1}
    assert documents[0]["decision"] == "now"
    assert "own words" not in table.stdout + lines.stdout


def test_why_is_a_paragraph(database: psycopg.Connection, environment: Environment) -> None:
    """``why`` prints the paragraph; with --json also its parts; an unknown id exits with 1."""
    (generation_id,) = failed_generations(database, 1)

    explained = run(environment, "why", str(generation_id))
    document = json.loads(run(environment, "why", str(generation_id), "--json").stdout)
    unknown = run(environment, "why", str(uuid4()))

    assert f"generation {generation_id} can be retried now." in explained.stdout.replace("\n", " ")
    assert document["decision"] == "now"
    assert document["last_error"]["code"] == "AI_UNAVAILABLE"
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("Error: No generation")


def test_retry_is_the_users_own(database: psycopg.Connection, environment: Environment) -> None:
    """``retry`` looks the user up, or checks the one it is given; it exits with 1 if it is refused."""
    first, second = failed_generations(database, 2)

    done = run(environment, "retry", str(first), "--json")
    again = run(environment, "retry", str(first))
    another = run(environment, "retry", str(second), "--user", str(uuid4()))

    assert json.loads(done.stdout)["status"] == "success"
    assert json.loads(done.stdout)["remaining"] == 4
    assert (again.returncode, another.returncode) == (1, 1)
    assert "ALREADY_SUCCEEDED" in again.stderr
    assert "GENERATION_NOT_FOUND" in another.stderr


def test_recover_asks_first(database: psycopg.Connection, environment: Environment, provider: ScriptedServer) -> None:
    """``recover`` shows the plan and asks; a no, or no terminal to ask in, changes nothing, and exits with 1."""
    failed_generations(database, 2)

    no, unanswered = run(environment, "recover", "--all", answer="n\n"), run(environment, "recover", "--since", "7d")
    assert (no.returncode, unanswered.returncode) == (1, 1)
    assert "Retry 2 generations?" in no.stdout
    assert provider.requests == []

    yes = run(environment, "recover", "--all", "--operator", "ada", answer="y\n")
    assert yes.returncode == 0
    assert re.search(r"succeeded: +2\n", yes.stdout)
    assert "there is no terminal to ask in; pass --yes" in unanswered.stderr
    assert "you said no" in no.stderr
    assert "\x1b" not in yes.stdout + yes.stderr
    assert "it/s" not in yes.stderr
    assert {row["operator"] for row in attempts(database)} == {"ada"}


def test_dry_run_is_what_a_run_does(
    database: psycopg.Connection, environment: Environment, provider: ScriptedServer, tmp_path: Path
) -> None:
    """A dry run makes no call; the plan that it kept is the plan that is run, whatever failed since."""
    failed_generations(database, 3)
    path = tmp_path / "plan.json"

    dry = run(environment, "recover", "--since", "24h", "--plan", path, "--dry-run", "--json")
    assert provider.requests == []
    failed_generations(database, 2)
    done = run(environment, "recover", "--plan", path, "--yes", "--json")

    plan, report = json.loads(dry.stdout), json.loads(done.stdout)
    assert (plan["selected"], plan["estimates"]["calls"]) == (3, 3)
    assert report["plan_id"] == plan["plan_id"]
    assert report["totals"]["succeeded"] == len(report["generations"]) == 3
    assert len(attempts(database)) == 3


def test_recover_shows_what_failed(database: psycopg.Connection, environment: Environment, answers: Answers) -> None:
    """Exit code 1 when a selected generation has no session now, and the reason."""
    failed_generations(database, 1)
    answers.of = lambda _: reply(400, json={"error": {"message": "no"}})

    done = run(environment, "recover", "--all", "--yes")

    assert done.returncode == 1
    assert re.search(r"failed: +1 \(AI_REJECTED\)", done.stdout)


def test_operator_s_terms_are_options(database: psycopg.Connection, environment: Environment) -> None:
    """Limits are lifted by options, and recorded; a quota of users who pay nothing is untouched."""
    failed_generations(database, 6, users=1)
    terms = ["--waive", "quota", "--waive", "backoff", "--no-charge", "--max-attempts", "9", "--per-user", "4"]

    done = run(
        environment,
        "recover",
        "--since",
        "7d",
        *terms,
        "--rate",
        "100/second",
        "--max-workers",
        "2",
        "--yes",
        "--operator",
        "ada",
    )

    assert done.returncode == 0
    assert re.search(r"retry later +PER_USER +2\n", done.stdout)
    made = attempts(database)
    assert len(made) == 4
    assert {(tuple(row["waived"]), row["charge"], row["captured_at"]) for row in made} == {
        (("backoff", "quota"), False, None)
    }


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["find", "--since", "the other day"], 2, "--since must be how long ago"),
        (["find", "--status", "success"], 2, "Invalid value for '--status'"),
        (["why", "7"], 2, "Error: ID must be a UUID"),
        (["retry", "7"], 2, "Error: ID must be a UUID"),
        (["recover", "--all", "--yes", "--rate", "fast"], 2, "--rate must be"),
        (["recover", "--all", "--yes", "--max-workers", "99"], 2, "--max-workers must be from 1 to 32"),
        (["recover", "--waive", "ownership"], 2, "Invalid value for '--waive'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_2(environment: Environment, arguments: list[str], code: int, problem: str) -> None:
    """Wrong usage is one line that names the field, and exit code 2."""
    done = run(environment, *arguments)

    assert done.returncode == code
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["find"], ["why", str(uuid4())], ["retry", str(uuid4())], ["recover", "--all"]])
def test_no_database_is_3(environment: Environment, command: list[str]) -> None:
    """Without settings, or without a database that answers, the exit code is 3, and one line says what is missing."""
    unset = run({"PATH": environment["PATH"]}, *command)

    assert unset.returncode == 3
    assert "DATABASE_URL" in unset.stderr
    assert "Traceback" not in unset.stderr


def test_plan_that_was_changed_is_refused(environment: Environment, tmp_path: Path) -> None:
    """A file that is no plan is not run."""
    path = tmp_path / "plan.json"
    path.write_text("{}")

    done = run(environment, "recover", "--plan", path, "--yes")

    assert done.returncode == 2
    assert "is not a plan, or was changed" in done.stderr


def test_mistyped_plan_runs_nothing(
    database: psycopg.Connection, environment: Environment, provider: ScriptedServer, tmp_path: Path
) -> None:
    """A plan whose name is wrong is no plan over all time: nothing is called, written or kept; what is printed runs."""
    failed_generations(database, 3)
    path = tmp_path / "my typo.json"

    wrong = run(environment, "recover", "--plan", path, "--yes")

    assert wrong.returncode == 2
    assert f"there is no file {path}" in wrong.stderr
    assert (provider.requests, attempts(database), path.exists()) == ([], [], False)
    (printed,) = [line.strip() for line in wrong.stderr.splitlines() if line.startswith("  ai-retry recover")]
    right = run(environment, *shlex.split(printed)[1:], "--yes")
    assert right.returncode == 0
    assert len(attempts(database)) == 3
    assert path.exists()


def test_limits_of_a_kept_plan_lifted_by_name(
    database: psycopg.Connection, environment: Environment, provider: ScriptedServer, tmp_path: Path
) -> None:
    """A file whose plan lifts a limit is run only with --operator; a plan that lifts none needs no name."""
    failed_generations(database, 1)
    path = tmp_path / "plan.json"
    made = run(environment, "recover", "--all", "--no-charge", "--plan", path, "--dry-run", "--operator", "ada")

    unnamed = run(environment, "recover", "--plan", path, "--yes")
    assert (made.returncode, unnamed.returncode) == (0, 2)
    assert "--operator must be given with --no-charge" in unnamed.stderr
    assert provider.requests == []

    assert run(environment, "recover", "--plan", path, "--yes", "--operator", "ada").returncode == 0
    assert [row["operator"] for row in attempts(database)] == ["ada"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_run_that_is_ended_goes_on(
    database: psycopg.Connection,
    environment: Environment,
    answers: Answers,
    tmp_path: Path,
    how: signal.Signals,
) -> None:
    """Ended in the middle, and run again: the plan goes on, its report is complete, and nothing is called twice.

    After a kill alone, what was under way is asked again, under the same provider key: it is unknown what became of
    it, its attempt says so, and its user has nothing.
    """
    made = failed_generations(database, 40)
    for each in made:
        data = {"messages": [{"role": "user", "content": str(each)}]}
        database.execute("update public.generations set prompt_data = %s where id = %s", [json.dumps(data), each])
    asked: list[tuple[str, str]] = []

    def answer(request: Request) -> Script:
        asked.append((request.json()["messages"][0]["content"], request.headers.get("idempotency-key", "")))
        time.sleep(0.05)
        return chat(OUTPUT)

    answers.of = answer
    short = {"DEADLINE": "2", "SETTLE_MARGIN": "0.5", "LEASE": "6", "BACKOFF_BASE": "0.01", "BACKOFF_CAP": "0.02"}
    environment = {**environment, **{f"AI_RETRY_{name}_SECONDS": value for name, value in short.items()}}
    path = tmp_path / "plan.json"
    command = [str(AI_RETRY), "recover", "--plan", str(path), "--max-workers", "4", "--yes", "--json"]

    with subprocess.Popen(
        [*command, "--all"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as first:
        while len(asked) < 12:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(how)
        first.communicate(timeout=60)
    before = len(asked)
    again = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=100)

    report = json.loads(again.stdout)
    assert first.returncode == (130 if how is signal.SIGINT else -how)
    assert again.returncode == 0
    assert before < 40
    assert report["totals"]["succeeded"] == 40
    calls = Counter(prompt for prompt, _ in asked)
    rows = attempts(database)
    unknown = {row["generation_id"] for row in rows if row["outcome"] == "abandoned"}
    assert {UUID(prompt) for prompt, count in calls.items() if count > 1} <= unknown
    assert len(unknown) <= (4 if how is signal.SIGKILL else 0)
    assert len(set(asked)) == 40
    assert Counter(row["outcome"] for row in rows)["succeeded"] == 40
    recorded = database.execute("select count(*), count(ended_at) from public.ai_retry_recoveries").fetchone()
    assert recorded == (2, 1 if how is signal.SIGKILL else 2)
