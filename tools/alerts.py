"""`make alerts`: evaluates the example's alert rules with promtool, which is Prometheus's own.

It asks twice: over the made-up series of `alerts_test.yml`, and over the metrics of a real worker that the test of the
watched outage records.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.npm import REPOSITORY

OBSERVE = REPOSITORY / "examples" / "observe"
NOT_RUN = (
    "NOT RUN: promtool is not installed (it comes with Prometheus; PROMTOOL names it): no alert rule was evaluated"
)
_OUTAGE = "tests/integration/test_observed_outage.py"
_MINUTE = 60.0
_INSTANTS = re.compile(r"_timestamp_seconds$")


@dataclass(frozen=True)
class Scrape:
    """What a worker's `/metrics` answered once.

    Attributes:
        at: seconds since 1970.
        values: by name and labels, as Prometheus writes them.
    """

    at: float
    values: Mapping[str, float]


def promtool() -> str | None:
    """Find it."""
    return os.environ.get("PROMTOOL") or shutil.which("promtool")


def rules() -> Sequence[Mapping[str, Any]]:
    """Read the example's rules."""
    document = yaml.safe_load((OBSERVE / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def played(
    recorded: Sequence[Scrape], firing: Mapping[int, Collection[str]], *, unasked: Collection[str] = ()
) -> Mapping[str, Any]:
    """Write a test of promtool that plays a recording, one scrape a minute, and expects alerts at some scrapes.

    An instant in a gauge becomes as old in the test as it was when it was scraped.

    Args:
        recorded: what was scraped, in its order.
        firing: by the number of a scrape, the alerts that fire then; no other one does.
        unasked: alerts that may fire or not.
    """
    names = sorted({name for each in recorded for name in each.values})
    series = [
        {"series": name, "values": " ".join(_value(number, each, name) for number, each in enumerate(recorded))}
        for name in names
    ]
    asked = [
        {
            "eval_time": f"{number}m",
            "alertname": rule["alert"],
            "exp_alerts": [_expected(rule)] if rule["alert"] in names_then else [],
        }
        for number, names_then in firing.items()
        for rule in rules()
        if rule["alert"] not in unasked
    ]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": asked}
    return {"rule_files": [str(OBSERVE / "alerts.yml")], "evaluation_interval": "1m", "tests": [test]}


def _value(number: int, scrape: Scrape, name: str) -> str:
    value = scrape.values.get(name)
    if value is None:
        return "_"
    if _INSTANTS.search(name.partition("{")[0]):
        value = number * _MINUTE - (scrape.at - value)
    return repr(value)


def _expected(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}


def evaluated(test: Mapping[str, Any], folder: Path) -> "subprocess.CompletedProcess[str] | None":
    """Let promtool run a test; None: it is not installed."""
    tool = promtool()
    if tool is None:
        return None
    path = folder / "recorded_test.yml"
    path.write_text(json.dumps(test))  # which is YAML, too
    return subprocess.run([tool, "test", "rules", str(path)], capture_output=True, text=True, check=False)


def main() -> int:
    """Check and test the rules; without promtool nothing was evaluated, and the last line says so."""
    tool = promtool()
    if tool is None:
        print(NOT_RUN)
        return 0
    outage = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", _OUTAGE]
    steps = (
        ([tool, "check", "rules", "alerts.yml"], OBSERVE),
        ([tool, "test", "rules", "alerts_test.yml"], OBSERVE),
        (outage, REPOSITORY),
    )
    return next(
        (code for step, folder in steps if (code := subprocess.run(step, cwd=folder, check=False).returncode)), 0
    )


if __name__ == "__main__":
    sys.exit(main())
