"""The code blocks of pages, to be run as they are."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ai_retry.client import Client
from tools.npm import REPOSITORY

PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Example:
    """A code block, and the file that the page would have the reader save it as."""

    page: str
    language: str
    title: str | None
    code: str


def examples(page: Path) -> list[Example]:
    """List the code blocks of a page, in their order."""
    return [
        Example(
            page=page.relative_to(REPOSITORY).as_posix(),
            language=block["language"],
            title=block["title"],
            code=re.sub(f"^{block['indent']}", "", block["code"], flags=re.MULTILINE),
        )
        for block in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def example(page: Path, language: str, containing: str) -> str:
    """Return the page's one code block with these words."""
    (found,) = [each.code for each in examples(page) if each.language == language and containing in each.code]
    return found


def execute(code: str, names: dict[str, object] | None = None) -> dict[str, object]:
    """Run a block of Python with the names that a reader has by then; return them with what it defined added."""
    names = {} if names is None else names
    names.setdefault("__name__", "__main__")
    exec(compile(code, "<example>", "exec"), names)
    return names


@contextmanager
def run(code: str, **names: object) -> Iterator[dict[str, object]]:
    """Run an example with the names that a reader is supposed to have; close its client in the end."""
    execute(code, names)
    yield names
    if isinstance(client := names.get("client"), Client):
        client.close()


def shell(script: str, folder: Path, *, within: float = 100) -> str:
    """Run lines in one shell that stops at the first failure; return what it printed."""
    started = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = started.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        printed, _ = started.communicate()
        raise AssertionError(f"not within {within:g} s:\n{printed}") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # whatever it left in the background
    assert started.returncode == 0, printed
    return printed
