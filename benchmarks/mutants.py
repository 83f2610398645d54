"""Mutation testing of the domain: change its functions one by one, and see whether its tests notice.

Run it with ``make mutants``. mutmut works on a copy in ``.cache/mutants``, so the working tree is never touched. Exits
with 1 below ``GOAL``; why the survivors survive is in ``docs/mutants.md``.
"""

import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
COPY = REPOSITORY / ".cache" / "mutants"
GOAL = 95.0  # percent
LONGEST_RUN = 30 * 60  # seconds
TESTS = (
    *(f"tests/unit/test_{name}.py" for name in ("policy", "retry", "errors", "context", "model", "storable")),
    *(f"tests/unit/test_{name}.py" for name in ("provider_key", "error_texts", "retry_edges", "verdicts", "names")),
    *(f"tests/unit/test_{name}.py" for name in ("queue", "queue_policy", "queue_outages", "outlook", "reader")),
    *(f"tests/unit/test_{name}.py" for name in ("decide", "loop", "loop_steps", "promises", "drive")),
    *(f"tests/unit/test_{name}.py" for name in ("pace", "recovery_rules", "recovery_plan_file", "client")),
    *(f"tests/property/test_{name}.py" for name in ("policy", "pace")),
)

# Hypothesis' own profile `ci` repeats its examples and sets no deadline: a slow machine must not count as a kill.
_ONE_A_LINE = "\n    "
_SETTINGS = f"""\
[mutmut]
source_paths=src/
only_mutate=src/ai_retry/domain/*
also_copy=
    supabase
pytest_add_cli_args=
    -p
    no:randomly
    --hypothesis-profile=ci
pytest_add_cli_args_test_selection={_ONE_A_LINE}{_ONE_A_LINE.join(TESTS)}
"""
_RESULT = re.compile(r"^\s*(?P<mutant>\S+__mutmut_\d+): (?P<status>.+)$", re.MULTILINE)


def main() -> int:
    """Run all mutants, print the survivors and the score."""
    began = time.monotonic()
    _copy()
    _mutmut("run", "--max-children", "1")
    results = {found["mutant"]: found["status"] for found in _RESULT.finditer(_mutmut("results", "--all", "true"))}
    killed = sum(status in ("killed", "timeout") for status in results.values())
    survivors = sorted(mutant for mutant, status in results.items() if status not in ("killed", "timeout"))
    for mutant in survivors:
        print(f"\n{mutant}: {results[mutant]}\n{_change(mutant)}")
    if not results:
        print("mutants: none were made", file=sys.stderr)
        return 1
    score = 100 * killed / len(results)
    print(
        f"\nmutants: {killed} of {len(results)} killed, {score:.1f} % (goal {GOAL:g} %), {len(survivors)} survived;"
        f" mutmut {version('mutmut')}, {time.monotonic() - began:.0f} s"
    )
    return 0 if score >= GOAL else 1


def _copy() -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__", ".temp", ".branches")
    for folder in ("src", "tests", "supabase"):
        shutil.copytree(REPOSITORY / folder, COPY / folder, ignore=unwanted)
    shutil.copy(REPOSITORY / "pyproject.toml", COPY)
    (COPY / "setup.cfg").write_text(_SETTINGS, encoding="utf-8")


def _mutmut(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=COPY,
        timeout=LONGEST_RUN,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ran.returncode:
        sys.exit(f"mutmut {arguments[0]} failed:\n{ran.stdout[-4000:]}")
    return ran.stdout


def _change(mutant: str) -> str:
    lines = _mutmut("show", mutant).splitlines()
    return "\n".join(line for line in lines if re.match(r"[-+](?![-+]{2})", line))


if __name__ == "__main__":
    sys.exit(main())
