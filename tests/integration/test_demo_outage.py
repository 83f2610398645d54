"""``make demo-outage``: what it prints runs as it is printed, and recovers the night."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import psycopg
import pytest
import requests

from tools import night
from tools.notebooks import execute
from tools.npm import REPOSITORY
from tools.stack import Stack
from tools.waiting import eventually, skipping_without_stack

pytestmark = pytest.mark.stack

_PYTHON = "import sys; from pathlib import Path; from tools import detached; from examples import demo_outage as demo; "
READY = _PYTHON + "print(demo.ready(Path(sys.argv[1])))"
DOWN = _PYTHON + "print(detached.down(Path(sys.argv[1])))"
CONSOLE = "ai-retry console"
_SHOWN = re.compile(r"  # .+\n  (?P<command>[^#\s].*)")


def call(code: str, home: Path) -> str:
    """Run it in a process of its own, as make does."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)], cwd=REPOSITORY, capture_output=True, check=False, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The home of a stack in which the night has happened; Postgres could not enter pytest's own directory."""
    with skipping_without_stack():
        request.getfixturevalue("stack")  # where it can't run, neither can this one
    with tempfile.TemporaryDirectory(prefix="ai-retry-test-") as directory:
        home = Path(directory) / "stack"
        (Path(directory) / "printed").write_text(call(READY, home))
        yield home
        call(DOWN, home)
        assert [path.name for path in home.iterdir()] == ["lock"]


@pytest.fixture
def printed(home: Path) -> list[str]:
    """The commands as they were printed."""
    return _SHOWN.findall((home.parent / "printed").read_text())


def type_in(settings: str, command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Type a command into a shell that has read the settings; each question is answered with yes."""
    return subprocess.run(
        ["sh", "-c", f"{settings} && {command}"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment},
        input="y\n",
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )


def counts(home: Path) -> Counter[str]:
    """Count generations by status."""
    with psycopg.connect(Stack.from_env_file(home / "env").database_url) as connection:
        return Counter(
            dict(connection.execute("select status, count(*) from public.generations group by 1").fetchall())
        )


def test_printed_commands_recover_the_night(home: Path, printed: list[str], tmp_path: Path) -> None:
    """Typed one after the other they show, explain, plan, recover and check; then the notebook runs there, too."""
    settings, *commands, down = printed
    before = counts(home)

    said = {
        "dry run" if "--dry-run" in command else command.split()[1]: type_in(settings, command)
        for command in commands
        if command.startswith("ai-retry ") and command != CONSOLE
    }

    assert before["error"] + before["timeout"] == night.FAILED
    assert down == "make stack-down"
    ends = {name: done.returncode for name, done in said.items()}
    assert ends == {"find": 0, "why": 0, "dry run": 0, "recover": 1, "books": 0}, said
    assert said["find"].stdout.startswith(f"{night.FAILED} failed generations of ")
    assert re.search(r"succeeded: +181\nfailed: +2 \(AI_REJECTED\)\n", said["recover"].stdout)  # hence its exit code
    assert counts(home)["success"] == before["success"] + 181
    execute(variables(settings), tmp_path)


def variables(settings: str) -> dict[str, str]:
    """Read the variables that the settings set."""
    lines = type_in(settings, "env -0").stdout.split("\0")
    return dict(
        line.split("=", 1) for line in lines if line.startswith(("AI_", "DATABASE_", "PYTHONPATH", "SUPABASE_"))
    )


def test_printed_notebook_opens(printed: list[str], tmp_path: Path) -> None:
    """Jupyter starts as it is printed, and serves the notebook."""
    settings, *commands, _ = printed
    (opens,) = [each for each in commands if each.startswith("jupyter ")]
    own = {"ServerApp": {"allow_root": True, "token": "secret"}}  # the test may be root's, and has no browser
    (tmp_path / "jupyter_server_config.json").write_text(json.dumps(own))
    places = dict.fromkeys(("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"), str(tmp_path))
    environment = {"PATH": os.environ["PATH"], "BROWSER": "true", **places}
    command = ["sh", "-c", f"{settings} && exec {opens}"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as server,
    ):
        try:
            eventually(lambda: bool(list(tmp_path.glob("jpserver-*.json"))), within=60)
            (record,) = [json.loads(each.read_text()) for each in tmp_path.glob("jpserver-*.json")]
            eventually(lambda: "recovery.ipynb" in contents(record["url"]), within=60)
        finally:
            server.terminate()


def test_printed_console_answers(printed: list[str]) -> None:
    """The console starts as it is printed, and its address, used once, leads to what has failed."""
    settings, *commands, _ = printed
    assert CONSOLE in commands
    with subprocess.Popen(
        ["sh", "-c", f"{settings} && exec {CONSOLE}"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        address = next(line.strip() for line in server.stdout if line.strip().startswith("http://127.0.0.1:"))
        with requests.Session() as browser:
            browser.get(address, timeout=30)
            page = browser.get(urljoin(address, "/"), timeout=30)
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)

    assert page.status_code == 200
    assert "AI_UNAVAILABLE" in page.text
    assert server.returncode == 0


def contents(url: str) -> str:
    """List what a Jupyter server shows; nothing while it starts."""
    try:
        return requests.get(f"{url}api/contents?token=secret", timeout=10).text
    except requests.ConnectionError:
        return ""


def test_night_happens_once(home: Path) -> None:
    """Called again, it prints the same commands and adds nothing."""
    before = counts(home)

    again = call(READY, home)

    assert "nothing was added" in again
    assert counts(home) == before
