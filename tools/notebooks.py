"""The notebook of `examples/`, executed against a local stack on the morning after an outage.

`python -m tools.notebooks` executes it and writes it back with its outputs and pictures.
"""

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, pause, reply
from tools import night
from tools.npm import REPOSITORY
from tools.stack import running_stack

NOTEBOOK = REPOSITORY / "examples" / "recovery.ipynb"

_ABSOLUTE_PATH = re.compile(r"(?<![\w./<:])/(?:root|home|work|tmp|usr|var|opt|Users)/\w")


class ProviderAfterOutage:
    """Answers each wish with usage and cost, and refuses the one that it does not want."""

    def __init__(self) -> None:
        self.calls = Counter[str]()

    def __call__(self, request: Request) -> Script:
        """Answer one request."""
        prompt = request.json()["messages"][0]["content"]
        self.calls[prompt] += 1
        if prompt.startswith(night.UNWANTED):
            return reply(400, json={"error": {"message": "not this one"}})
        usage = {"prompt_tokens": 180, "completion_tokens": 240, "total_tokens": 420, "cost": 0.0021}
        return (*pause(0.03), *chat({"title": "Easy run", "minutes": 30}, usage=usage))


def settings(database_url: str, provider: ScriptedServer) -> dict[str, str]:
    """Return the settings of an app, for the kernel."""
    return {"DATABASE_URL": database_url, "AI_BASE_URL": provider.base_url, "AI_MODEL": "scripted"}


def execute(environment: Mapping[str, str], scratch: Path) -> Any:
    """Execute the notebook in a kernel of its own whose folder is ``scratch``; return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    env = {"PATH": os.environ["PATH"], "HOME": str(scratch), "PYTHONWARNINGS": "ignore", **environment}
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
        night.happen(stack.database_url)
        executed = execute(settings(stack.database_url, provider), Path(scratch))
    if found := absolute_paths(executed):
        print(f"the outputs hold absolute paths: {found}", file=sys.stderr)
        return 1
    nbformat.write(executed, NOTEBOOK)
    print(f"{NOTEBOOK.relative_to(REPOSITORY)}: executed, {NOTEBOOK.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
