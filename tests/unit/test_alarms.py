"""What is wrong now has the names, severities, words and thresholds of the alert rules in ``examples/observe``."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ai_retry.domain.operation import Overview, Period, RouteReport
from ai_retry.domain.queue_model import QueueState
from ai_retry.operate import alarms as rules
from ai_retry.operate.alarms import DATABASE_DOWN, alarms, known

RULES = Path(__file__).resolve().parents[2] / "examples" / "observe" / "alerts.yml"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
A_MOMENT = timedelta(seconds=1)


def a_period(**columns: Any) -> Period:
    """One without anything."""
    nothing = {"succeeded": 0, "failed": 0, "abandoned": 0, "cancelled": 0, "operator_faults": 0, "calls": 0}
    rest = {"span": MINUTE, "codes": {}, "tokens": None, "cost": None, "is_whole": True}
    return Period(**{**nothing, **rest, **columns})


def a_route(**columns: Any) -> RouteReport:
    """One that is unavailable for a minute from now on."""
    usual: dict[str, Any] = {"route": "p/small", "not_before": NOW + MINUTE, "began_at": NOW - 6 * MINUTE}
    return RouteReport(**{**usual, "failures": 1, "slots": 1, "running": 0, "waiting": 0, **columns})


QUEUE = QueueState(
    as_of=NOW,
    configured=True,
    queued=0,
    due=0,
    parked=0,
    running=0,
    oldest_accepted_at=None,
    held=0,
    kept=0,
    poisoned=0,
    outages=[],
)
WELL = Overview(
    as_of=NOW,
    last_10_minutes=a_period(),
    last_15_minutes=a_period(),
    last_hour=a_period(),
    last_day=a_period(),
    queue=QUEUE,
    routes=[],
    oldest_due_at=None,
    oldest_kept_at=None,
)


def written() -> Iterator[dict[str, str]]:
    """The rules of the file, each as its texts."""
    for text in RULES.read_text(encoding="utf-8").split("- alert: ")[1:]:
        expression = re.search(r"expr: (?:>-\n)?(.*?)\n        (?:for|labels):", text, re.DOTALL)
        assert expression is not None
        wait = re.search(r"for: (\w+)", text)
        yield {
            "name": text.split("\n", 1)[0],
            "expr": expression[1],
            "for": wait[1] if wait else "0m",
            "severity": text.split("severity: ")[1].split("}")[0],
            "summary": text.split("summary: ")[1].split("\n")[0],
            "action": text.split("action: ")[1].split("\n")[0],
        }


def test_names_and_words_are_the_rules() -> None:
    """Every rule can be found here, in the same words, and nothing else."""
    theirs = {each["name"]: (each["severity"], each["summary"], each["action"]) for each in written()}

    assert {each.name: (each.severity, each.summary, each.action) for each in known()} == theirs


def test_thresholds_are_the_rules() -> None:
    """Numbers and times are those of the file."""
    found = {each["name"].removeprefix("AiRetry"): each for each in written()}

    assert f"> {rules.FAILING}" in found["AttemptsFail"]["expr"]
    assert found["AttemptsFail"]["expr"].count("[10m]") == 2
    assert f"> {rules.ACCEPTED_FOR.total_seconds():.0f}" in found["AcceptedTooOld"]["expr"]
    assert f"{rules.UNAVAILABLE_FOR / MINUTE:.0f}m" == found["ProviderUnavailable"]["for"]
    assert f"{rules.KEPT_FOR / timedelta(hours=1):.0f}h" == found["AnswersWait"]["for"]
    assert f"> {rules.ABANDONED}" in found["ProcessesDie"]["expr"]
    assert "[15m]" in found["ProcessesDie"]["expr"]
    assert "[10m]" in found["SessionsRejected"]["expr"]
    assert "[10m]" in found["NeedsOperator"]["expr"]
    without, for_so_long = re.search(r"< (\d+)", found["WorkersGone"]["expr"]), found["WorkersGone"]["for"]
    assert without is not None
    assert timedelta(seconds=int(without[1]), minutes=int(for_so_long.removesuffix("m"))) == rules.DUE_FOR


def test_nothing_is_wrong() -> None:
    """Where nothing is wrong, nothing is said."""
    assert alarms(WELL) == []


def test_database_that_can_t_be_read() -> None:
    """Without an overview there is one alarm."""
    assert alarms(None) == [DATABASE_DOWN]


@pytest.mark.parametrize(
    ("name", "wrong", "just_well"),
    [
        (
            "WorkersGone",
            replace(WELL, oldest_due_at=NOW - 4 * MINUTE - A_MOMENT),
            replace(WELL, oldest_due_at=NOW - 4 * MINUTE),
        ),
        (
            "WorkersGone",
            replace(WELL, oldest_due_at=NOW - 60 * MINUTE),
            replace(WELL, oldest_due_at=NOW - 60 * MINUTE, queue=replace(QUEUE, running=1)),
        ),
        (
            "AcceptedTooOld",
            replace(WELL, queue=replace(QUEUE, oldest_accepted_at=NOW - 61 * MINUTE)),
            replace(WELL, queue=replace(QUEUE, oldest_accepted_at=NOW - 60 * MINUTE)),
        ),
        (
            "ProviderUnavailable",
            replace(WELL, routes=[a_route()]),
            replace(WELL, routes=[a_route(began_at=NOW - 5 * MINUTE), a_route(not_before=NOW), a_route(began_at=None)]),
        ),
        (
            "AttemptsFail",
            replace(WELL, last_10_minutes=a_period(failed=3, succeeded=2)),
            replace(WELL, last_10_minutes=a_period(failed=2, succeeded=2, abandoned=9)),
        ),
        ("NeedsOperator", replace(WELL, last_10_minutes=a_period(succeeded=9, operator_faults=1)), WELL),
        (
            "SessionsRejected",
            replace(WELL, last_10_minutes=a_period(codes={"SESSION_REJECTED": 1})),
            replace(WELL, last_10_minutes=a_period(codes={"SESSION_CONFLICT": 9})),
        ),
        (
            "AnswersWait",
            replace(WELL, oldest_kept_at=NOW - 61 * MINUTE),
            replace(WELL, oldest_kept_at=NOW - 60 * MINUTE),
        ),
        ("SpoolWaits", replace(WELL, spool_files=1), replace(WELL, spool_files=0)),
        (
            "ProcessesDie",
            replace(WELL, last_15_minutes=a_period(abandoned=4)),
            replace(WELL, last_15_minutes=a_period(abandoned=3)),
        ),
    ],
)
def test_alarm_is_raised_at_its_threshold(name: str, wrong: Overview, just_well: Overview) -> None:
    """Each alarm is raised beyond its threshold, and not at it."""
    assert [each.name for each in alarms(wrong)] == [f"AiRetry{name}"]
    assert alarms(just_well) == []


def test_what_is_worth_a_page_comes_first() -> None:
    """Tickets come after pages."""
    wrong = replace(WELL, spool_files=1, routes=[a_route()], oldest_kept_at=NOW - timedelta(days=1))

    assert [each.severity for each in alarms(wrong)] == ["page", "ticket", "ticket"]
