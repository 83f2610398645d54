"""The notebook of `examples/`, executed against a local stack on the morning after an outage.

`python -m tools.notebooks` executes it and writes it back with its outputs and pictures.
"""

import os
import re
import sys
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import nbformat
import psycopg
from nbclient import NotebookClient

from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, pause, reply
from tools.npm import REPOSITORY
from tools.outage import failed_generations
from tools.stack import running_stack

NOTEBOOK = REPOSITORY / "examples" / "recovery.ipynb"

_ABSOLUTE_PATH = re.compile(r"(?<![\w./<:])/(?:root|home|work|tmp|usr|var|opt|Users)/\w")


class ProviderAfterOutage:
    """Answers, reports usage and cost, and limits requests now and then."""

    def __init__(self) -> None:
        self.calls = Counter[str]()

    def __call__(self, request: Request) -> Script:
        """Answer one request."""
        prompt = request.json()["messages"][0]["content"]
        self.calls[prompt] += 1
        if self.calls.total() == 40:
            return reply(400, json={"error": {"message": "not this one"}})
        usage = {"prompt_tokens": 180, "completion_tokens": 240, "total_tokens": 420, "cost": 0.0021}
        return (*pause(0.03), *chat({"title": "Easy run", "minutes": 30}, usage=usage))


def fail_last_night(database_url: str) -> None:
    """Let an hour's generations fail, some slowly, and a few for reasons of their own."""
    hour = timedelta(hours=1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        failed_generations(connection, 140, users=90, ago=6 * hour, spread=hour)
        failed_generations(
            connection, 40, users=40, ago=6 * hour, spread=hour / 2, status="timeout", code="AI_TIMEOUT", model="large"
        )
        failed_generations(connection, 9, users=1, ago=5.5 * hour, spread=hour / 4)
        failed_generations(connection, 6, ago=9 * hour, spread=6 * hour, code="AI_REJECTED")
        failed_generations(connection, 3, ago=5.2 * hour, spread=hour / 10, prompt_data=None)
        connection.execute(
            "update public.generations set prompt_data = jsonb_build_object('messages', jsonb_build_array("
            "jsonb_build_object('role', 'user', 'content', id::text))) where prompt_data is not null"
        )


def execute(database_url: str, provider: ScriptedServer, scratch: Path) -> Any:
    """Execute the notebook in a kernel of its own whose folder is ``scratch``; return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "DATABASE_URL": database_url,
        "AI_BASE_URL": provider.base_url,
        "AI_MODEL": "scripted",
        "PYTHONWARNINGS": "ignore",
    }
    client = NotebookClient(
        notebook,
        timeout=100,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(scratch)}},
    )
    executed = client.execute(env=env)
    executed.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return executed


def absolute_paths(notebook: Any) -> list[str]:
    """Find what names the machine on which the notebook was executed."""
    return _ABSOLUTE_PATH.findall(nbformat.writes(notebook))


def main() -> int:
    """Execute the notebook, and keep it with its outputs."""
    with (
        running_stack() as stack,
        ScriptedServer(default=ProviderAfterOutage()) as provider,
        tempfile.TemporaryDirectory(prefix="ai-retry-notebook-") as scratch,
    ):
        fail_last_night(stack.database_url)
        executed = execute(stack.database_url, provider, Path(scratch))
    if found := absolute_paths(executed):
        print(f"the outputs hold absolute paths: {found}", file=sys.stderr)
        return 1
    nbformat.write(executed, NOTEBOOK)
    print(f"{NOTEBOOK.relative_to(REPOSITORY)}: executed, {NOTEBOOK.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
