"""`make dist`: builds what is published, and tries it as strangers would: every Python here, every extra alone."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.testing.provider import ScriptedServer, chat, reply
from tools.examples import example
from tools.judging import Objection, ask, run
from tools.npm import REPOSITORY
from tools.stack import MIGRATIONS, Stack, running_stack

OUTPUT = REPOSITORY / "dist"
_CONSTRAINTS = ["--constraint", str(REPOSITORY / "constraints.txt")]
_OLDEST, _NEWEST = 11, 20  # of Python 3; those in between are looked for
_PAGES = "ai_retry/flask/console/templates"
_IN_THE_WHEEL = {
    "ai_retry/py.typed",
    *(f"ai_retry/migrations/{path.name}" for path in MIGRATIONS.glob("*.sql")),
    *(f"{_PAGES}/{path.name}" for path in (REPOSITORY / "src" / _PAGES).iterdir()),
}
_IN_THE_SDIST = {"README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "pyproject.toml", "tests/conftest.py"}
_EXTRAS = {
    "cli": "from ai_retry.cli.commands import cli",
    "console": "from ai_retry.flask import Operator, create_console; from ai_retry.flask.console import local",
    "flask": "from ai_retry.flask import create_blueprint",
    "metrics": "from ai_retry.telemetry import PrometheusEvents",
    "notebook": "import jupyterlab, matplotlib.pyplot, pandas, tqdm.auto; from ai_retry import recovery",
    "otel": "from ai_retry.telemetry import OpenTelemetryEvents",
    "postgres": "from ai_retry.storage.postgres import PostgresStorage",
}
_WITHOUT = """
import sys, ai_retry
heavy = {"flask", "supabase", "requests", "pydantic", "psycopg", "jsonschema"} & set(sys.modules)
assert not heavy, heavy
assert ai_retry.retry_generation and ai_retry.connect
"""


def build(directory: Path, *what: str) -> None:
    """Build into a directory: the sdist and, out of it, the wheel; or only what is named, out of the tree."""
    run([sys.executable, "-m", "build", "--outdir", str(directory), *what, str(REPOSITORY)])


def environment(directory: Path, python: str = sys.executable) -> Path:
    """Make an environment with nothing in it, not even pip; return its Python."""
    run([python, "-m", "venv", "--without-pip", str(directory)])
    return directory / "bin" / "python"


def install(python: Path, *what: str) -> None:
    """Install into an environment, with our own pip: making one in each takes longer than most installs."""
    run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *what])


def judge_builds() -> Iterator[str]:
    """Build twice, in two ways: the sdist holds all that the wheel needs, and nothing depends on when and where."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ai-retry-dist-") as scratch:
        build(OUTPUT)
        build(Path(scratch), "--sdist", "--wheel")
        for path in sorted(OUTPUT.iterdir()):
            digests = {hashlib.sha256(each.read_bytes()).hexdigest() for each in (path, Path(scratch) / path.name)}
            if len(digests) != 1:
                raise Objection(f"{path.name} is not the same when it is built again")
            yield f"{path.name} (sha256 {digests.pop()}): built twice, the same"


def judge_contents() -> Iterator[str]:
    """Have metadata and contents checked; the wheel has its migrations and its types, the sdist what tests need."""
    tools = Path(sys.executable).parent
    run([str(tools / "twine"), "check", "--strict", *map(str, OUTPUT.iterdir())])
    run([str(tools / "check-wheel-contents"), str(_wheel())])
    with zipfile.ZipFile(_wheel()) as wheel:
        _missing(_IN_THE_WHEEL, set(wheel.namelist()), _wheel().name)
    (sdist,) = OUTPUT.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        _missing(_IN_THE_SDIST, {name.partition("/")[2] for name in archive.getnames()}, sdist.name)
    yield "twine, check-wheel-contents: nothing to say; migrations and types are in the wheel"


def judge_interpreters() -> Iterator[str]:
    """On every Python here, in an empty environment: doctor, the wheel's own migrations, README's retry."""
    with tempfile.TemporaryDirectory(prefix="ai-retry-dist-") as scratch:
        copied = Path(scratch) / "migrations"
        places = {}
        for version, python in interpreters().items():
            places[version] = Path(scratch) / version
            install(environment(places[version], python), *_CONSTRAINTS, f"{_wheel()}[cli,postgres]")
        anyone = next(iter(places.values()))
        _command(anyone, {}, "migrations", "copy", str(copied))
        _command(anyone, {}, "migrations", "check", str(MIGRATIONS))  # byte by byte
        with running_stack(copied) as stack:
            for version, place in places.items():
                _try(place, stack)
                yield f"Python {version}: ai-retry doctor without and with a project; README's retry"


def _try(place: Path, stack: Stack) -> None:
    said = _command(place, {}, "doctor", expected=3)
    if "SUPABASE_URL is missing" not in said or "AI_API_KEY is missing" not in said:
        raise Objection(f"ai-retry doctor, without settings, says:\n{said}")
    with ScriptedServer(reply(200, json={"data": []}), chat({"title": "Easy run"})) as provider:
        env = stack.env() | {"AI_BASE_URL": provider.base_url, "AI_MODEL": "scripted"}
        document = json.loads(_command(place, env, "doctor", "--json"))
        if document["findings"]:
            raise Objection(f"ai-retry doctor finds {document['findings']}")
        said = run([str(place / "bin" / "python"), "-c", _example(stack)], cwd=place, env=env)
    if not re.fullmatch(r"session [0-9a-f-]{36} remaining 4\n", said):
        raise Objection(f"README's retry prints:\n{said}")


def _example(stack: Stack) -> str:
    """README's example of a retry in Python, for a generation that failed."""
    retry = example(REPOSITORY / "README.md", "python", "client.retry_generation")
    user_id, generation_id = uuid4(), uuid4()
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("insert into auth.users (id) values (%s)", [user_id])
        connection.execute(
            "insert into public.generations (id, user_id, status, prompt_data) values (%s, %s, 'error', %s)",
            [generation_id, user_id, Jsonb({"messages": [{"role": "user", "content": "plan"}]})],
        )
    return f"user_id, generation_id = {str(user_id)!r}, {str(generation_id)!r}\n{retry}"


def judge_extras() -> Iterator[str]:
    """Without an extra, and with each alone: it installs, and what it is for can be imported."""
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if set(declared) != set(_EXTRAS):
        raise Objection(f"not tried: {set(declared) ^ set(_EXTRAS)}")
    with tempfile.TemporaryDirectory(prefix="ai-retry-dist-") as scratch:
        python = environment(Path(scratch) / "bare")
        install(python, "--no-deps", str(_wheel()))
        run([str(python), "-c", _WITHOUT], cwd=Path(scratch))
        yield "no extra: imports without any dependency, and loads nothing heavy"
        for extra, code in _EXTRAS.items():
            python = environment(Path(scratch) / extra)
            install(python, *_CONSTRAINTS, f"{_wheel()}[{extra}]")
            run([str(python), "-W", "error", "-c", code], cwd=Path(scratch))
            yield f"extra {extra}: installs alone"


def interpreters() -> dict[str, str]:
    """Find every supported Python of this machine: this one, on the path, kept by pyenv."""
    found = {f"3.{sys.version_info.minor}": sys.executable}
    for minor in range(_OLDEST, _NEWEST):
        kept = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}"))
        for candidate in (shutil.which(f"python3.{minor}"), *kept):
            if candidate and subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
                found.setdefault(f"3.{minor}", str(candidate))
    return found


def _command(place: Path, env: Mapping[str, str], *arguments: str, expected: int = 0) -> str:
    """Run `ai-retry` with these settings alone."""
    alone = {"PATH": os.environ["PATH"], **env}
    return run([str(place / "bin" / "ai-retry"), *arguments], cwd=place, env=alone, expected=expected)


def _wheel() -> Path:
    (wheel,) = OUTPUT.glob("*.whl")
    return wheel


def _missing(needed: set[str], there: set[str], name: str) -> None:
    if needed - there:
        raise Objection(f"{name} lacks {', '.join(sorted(needed - there))}")


if __name__ == "__main__":
    sys.exit(ask(judge_builds, judge_contents, judge_interpreters, judge_extras))
