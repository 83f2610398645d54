"""An app with a prompt format of its own: whatever retries, explains or recovers reads it, by one setting."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from ai_retry.testing.provider import Script, chat
from tests.helpers.endpoint import SESSION, Endpoint, running_endpoint
from tests.helpers.world import empty_queue
from tools.app_server import clean
from tools.stack import SignedInUser, Stack
from tools.waiting import eventually
from tools.worker_process import COMMAND, running_worker

GOOD = chat(SESSION)
READER = "shop.prompts:context_from"
ASYNC = {"Prefer": "respond-async"}
MODULE = """
from ai_retry import Context, Generation
from ai_retry.domain.errors import ContextMissing


def context_from(generation: Generation) -> Context:
    data = generation.prompt_data or {}
    if "question" not in data:
        raise ContextMissing("prompt_data.question is missing")
    return Context(messages=[{"role": "user", "content": data["question"]}], model=generation.model)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app's directory, with the module that reads its prompts."""
    directory = tmp_path_factory.mktemp("own_app")
    (directory / "shop").mkdir()
    (directory / "shop" / "prompts.py").write_text(MODULE)
    return directory


@pytest.fixture(scope="module", params=["data_api", "postgres"])
def shop(
    request: pytest.FixtureRequest, stack: Stack, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    """The app, on each of its storages."""
    python_path = os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))
    settings = {"AI_RETRY_CONTEXT_FROM": READER, "PYTHONPATH": python_path, "AI_RETRY_BACKOFF_BASE_SECONDS": "0.5"}
    log = tmp_path_factory.mktemp("app") / "app.log"
    with running_endpoint(stack, settings, log, direct=request.param == "postgres") as shop:
        empty_queue(shop.database)
        yield shop


def failed_generation(shop: Endpoint, user: SignedInUser, *answers: Script) -> UUID:
    """Store a generation in the app's own form."""
    generation_id = uuid4()
    shop.prompts[generation_id] = shop.answers.plan(*answers)
    shop.database.execute(
        "insert into public.generations (id, user_id, status, model, prompt_data)"
        " values (%s, %s, 'error', 'small', %s)",
        [generation_id, user.id, Jsonb({"question": shop.prompts[generation_id]})],
    )
    return generation_id


def run(shop: Endpoint, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in the app's directory, where a console script finds the module by itself."""
    env = clean(os.environ) | dict(shop.env)
    env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        [COMMAND, *arguments], check=False, cwd=home, env=env, capture_output=True, text=True, timeout=100
    )


def status(shop: Endpoint, generation_id: UUID) -> str:
    """What the app's row says."""
    return str(shop.rows("select status from public.generations where id = %s", generation_id)[0][0])


def test_click_reads_the_apps_prompts(shop: Endpoint) -> None:
    """A user's click is answered with the session."""
    user = shop.sign_up()
    generation_id = failed_generation(shop, user, GOOD)

    assert shop.status(generation_id, user).json()["data"]["retry"]["possible"] is True
    assert shop.retry(generation_id, user).status_code == 200
    assert shop.calls(generation_id) == 1


def test_worker_reads_what_the_app_accepted(shop: Endpoint, tmp_path: Path) -> None:
    """A 202 ends in its session, by the documented worker with the app's environment."""
    user = shop.sign_up()
    generation_id = failed_generation(shop, user, GOOD)
    assert shop.retry(generation_id, user, ASYNC).status_code == 202
    assert shop.rows("select context_reader from public.ai_retry_open where generation_id = %s", generation_id) == [
        (READER,)
    ]

    with running_worker(shop.env, tmp_path / "worker.log") as worker:
        eventually(lambda: status(shop, generation_id) == "success")
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0


def test_worker_without_the_setting_ends_nothing(shop: Endpoint, tmp_path: Path) -> None:
    """It says which reader is missing; the user's retry waits, and a worker with the setting finishes it."""
    user = shop.sign_up()
    generation_id = failed_generation(shop, user, GOOD)
    assert shop.retry(generation_id, user, ASYNC).status_code == 202
    without = {name: value for name, value in shop.env.items() if name != "AI_RETRY_CONTEXT_FROM"}

    with running_worker(without, tmp_path / "wrong.log") as worker:
        eventually(lambda: worker.has_told(f"run workers with AI_RETRY_CONTEXT_FROM={READER}"))

    assert status(shop, generation_id) == "queued"
    assert shop.rows("select count(*) from public.generation_error_logs where generation_id = %s", generation_id) == [
        (0,)
    ]
    shop.database.execute(
        "update public.ai_retry_open set due_at = clock_timestamp() where generation_id = %s",
        [generation_id],
    )
    shop.database.execute(
        "update pgmq.q_ai_retry set vt = clock_timestamp() where message ->> 'generation_id' = %s",
        [str(generation_id)],
    )
    with running_worker(shop.env, tmp_path / "right.log"):
        eventually(lambda: status(shop, generation_id) == "success")


def test_commands_read_the_apps_prompts(shop: Endpoint, home: Path) -> None:
    """``why``, ``find``, ``retry`` and ``recover`` find what can be retried, and retry it."""
    user = shop.sign_up()
    first, second = (failed_generation(shop, user, GOOD) for _ in range(2))

    assert "can be retried now" in run(shop, home, "why", str(first)).stdout
    assert run(shop, home, "find", "--user", str(user.id), "--json").stdout.count('"decision": "now"') == 2
    assert run(shop, home, "retry", str(first)).returncode == 0
    recovered = run(shop, home, "recover", "--user", str(user.id), "--since", "1h", "--yes")

    assert recovered.returncode == 0, recovered.stdout + recovered.stderr
    assert (status(shop, first), status(shop, second)) == ("success", "success")
    assert (shop.calls(first), shop.calls(second)) == (1, 1)


def test_doctor_reads_the_apps_prompts(shop: Endpoint, home: Path) -> None:
    """``doctor`` says how many of the newest failed generations the app's reader can read, and then that it is all."""
    user = shop.sign_up()
    shop.database.execute("delete from public.generations where status <> 'success'")
    failed_generation(shop, user)
    assert "failed generations" not in run(shop, home, "doctor").stdout
    foreign = failed_generation(shop, user)
    shop.database.execute(
        "update public.generations set prompt_data = %s where id = %s", [Jsonb({"asked": "a"}), foreign]
    )

    reported = " ".join(run(shop, home, "doctor").stdout.split())

    assert f"{READER} can read 1 of the 2 newest failed generations: prompt_data.question is missing" in reported
    shop.database.execute("delete from public.generations where id = %s", [foreign])


@pytest.mark.parametrize("command", ["why", "retry", "worker", "recover", "find"])
def test_command_without_the_module_says_what_to_do(shop: Endpoint, tmp_path: Path, command: str) -> None:
    """Where the module can't be imported a command ends with 3 before it does anything, and says what to do."""
    arguments = {"why": [str(uuid4())], "retry": [str(uuid4())], "recover": ["--all", "--yes"]}.get(command, [])

    result = run(shop, tmp_path, command, *arguments)

    assert result.returncode == 3
    assert "AI_RETRY_CONTEXT_FROM: there is no module shop" in result.stderr
    assert "PYTHONPATH" in result.stderr
