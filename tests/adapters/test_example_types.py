"""What a reader copies out of the pages is typed: mypy, as strict as it can be, and pyright find nothing in it."""

import ast
import builtins
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.adapters import SDKS
from tools.examples import PAGES, Example, examples
from tools.npm import REPOSITORY, install_node_packages, node

TYPES = REPOSITORY / "tools" / "node_types"

# What a reader has by then, and pages only name.
READER = '''"""Names that pages take for granted."""

from collections.abc import Callable
from uuid import UUID

import ai_retry
from ai_retry import connect as connect
from ai_retry.telemetry.prometheus import PrometheusEvents

user_id = generation_id = UUID(int=1)
FIRST_URL = FIRST_KEY = SECOND_URL = SECOND_KEY = BASE_URL = API_KEY = "x"
ai: ai_retry.AiProvider
client: ai_retry.Client
found: ai_retry.Found
plan: ai_retry.Plan
make: Callable[[str], ai_retry.AiProvider]
metrics: PrometheusEvents


def verify(token: str) -> UUID:
    return UUID(token)


def upload(image: bytes) -> str:
    return str(len(image))
'''


def code_blocks() -> Iterator[Example]:
    """List the blocks of Python, but for those of the reference, which show signatures.

    Those that import an SDK are typed where that is installed: `make test-adapters` runs this file, too.
    """
    missing = tuple(f"{word} {each}" for each in SDKS if find_spec(each) is None for word in ("import", "from"))
    for page in PAGES:
        blocks = [each for each in examples(page) if each.language == "python" and "reference/" not in each.page]
        yield from (each for each in blocks if not any(word in each.code for word in missing))


def undefined(code: str) -> set[str]:
    """List the names that a block uses and does not define."""
    tree = ast.parse(code)
    names = [each for each in ast.walk(tree) if isinstance(each, ast.Name)]
    defined = {each.id for each in names if isinstance(each.ctx, ast.Store)} | set(dir(builtins)) | {"__file__"}
    for each in ast.walk(tree):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(each.name)
        elif isinstance(each, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in each.names}
        elif isinstance(each, ast.arg):
            defined.add(each.arg)
        elif isinstance(each, ast.ExceptHandler) and each.name:
            defined.add(each.name)
    return {each.id for each in names} - defined


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with each block as a module, and with what the blocks import."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "reader.py").write_text(READER)
    for number, each in enumerate(code_blocks()):
        if each.title is not None and "/" not in each.title:
            (folder / each.title).write_text(each.code)
        needed = sorted(undefined(each.code))
        start = f"from reader import {', '.join(needed)}\n\n" if needed else ""
        name = each.page.removesuffix(".md").replace("/", "_").replace("-", "_").lower()
        (folder / f"{name}_{number}.py").write_text(f"# {each.page}\n{start}{each.code}")
    return folder


def test_examples_were_found(files: Path) -> None:
    """The tests below have something to check, of the first page and of the how-tos."""
    names = {each.name.partition("_")[0] for each in files.glob("*_*.py")}

    assert {"readme", "docs"} <= names
    assert len(list(files.glob("*_*.py"))) > 15


def test_examples_pass_mypy_strict(files: Path) -> None:
    """Mypy --strict has nothing to say about any block."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", *map(str, files.glob("*.py"))],
        cwd=files,
        env={"MYPYPATH": f"{REPOSITORY / 'src'}:{files}", "PATH": ""},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_examples_pass_pyright(files: Path) -> None:
    """Pyright, too, at the version of its lock file."""
    pyright = install_node_packages(manifest=TYPES) / "pyright" / "index.js"
    settings = {"include": ["."], "extraPaths": [str(REPOSITORY / "src")], "reportMissingModuleSource": False}
    (files / "pyrightconfig.json").write_text(json.dumps(settings))

    done = subprocess.run(
        [str(node()), str(pyright), "--pythonpath", sys.executable, "--project", str(files)],
        cwd=files,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
