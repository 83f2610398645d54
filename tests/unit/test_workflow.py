"""What CI runs elsewhere is what `.ci/run` runs here, on every version that is supported."""

import re
import tomllib

import yaml

from tools.npm import REPOSITORY
from tools.postgres import OTHER

WORKFLOW = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
(JOB,) = WORKFLOW["jobs"].values()


def test_workflow_runs_what_ci_runs_here() -> None:
    """Its last step is `.ci/run`, and the steps before only install what that needs."""
    *before, last = JOB["steps"]

    assert last == {"run": ".ci/run"}
    assert all("uses" in step or "apt-get install" in step["run"] for step in before)
    assert OTHER in str(before)


def test_workflow_covers_the_supported_versions() -> None:
    """PostgreSQL 15 to 18, and every Python from the oldest that the package allows."""
    matrix = JOB["strategy"]["matrix"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    minors = [int(version.partition(".")[2]) for version in matrix["python"]]

    assert matrix["postgres"] == ["15", "16", "17", "18"]
    assert matrix["python"][0] == oldest
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert JOB["env"]["PYTHON"] == "python${{ matrix.python }}"


def test_workflow_may_only_read() -> None:
    """A pull request of a stranger runs without rights to write, and without the checkout's credentials."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    checkouts = [step for step in JOB["steps"] if str(step.get("uses", "")).startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in JOB["steps"] if "uses" in step)
