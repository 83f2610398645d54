"""What a terminal shows: pictures of lists, plans and queues at 40, 80 and 200 columns, and help that fits."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import UUID

import click
import pytest
from click.testing import CliRunner, Result

from ai_retry.cli.commands import cli, find, queue
from ai_retry.cli.commands._groups import GROUPS
from ai_retry.domain.model import Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import QueueState, RouteState
from ai_retry.domain.recovery import Decision, Filter
from ai_retry.recovery.choice import Estimates
from ai_retry.recovery.generation import FoundGeneration
from ai_retry.recovery.listing import html_listing, text_listing
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.plan import Plan
from ai_retry.recovery.plan_file import Frozen, Terms
from ai_retry.recovery.report import Report, ReportLine
from ai_retry.recovery.summary import summarise
from ai_retry.recovery.when import read_instant
from ai_retry.tables import text_table

PICTURES = Path(__file__).parent / "pictures"
NIGHT = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
WIDTHS = [40, 80, 200]
_REASONS = [None, "RETRY_TOO_SOON", "QUOTA_EXHAUSTED", "TOO_MANY_PARALLEL_RETRIES", "CONTEXT_MISSING"]
_CODES = ["AI_UNAVAILABLE", "AI_INVALID_OUTPUT", "AI_UNAVAILABLE", "openai.APIConnectionError", None]


def an_id(number: int) -> UUID:
    """Return an id that looks like one."""
    return UUID(int=(0x6F1C2F0E8A574C3E9F0A2B8A4F1D7C11 * (number + 1)) % 2**128)


def failures(count: int = 10) -> list[FoundGeneration]:
    """Failures of two nights and three users, newest first, of every kind."""
    return [
        FoundGeneration(
            failed_at=NIGHT - timedelta(minutes=37 * number),
            status="error" if number % 3 else "timeout",
            code=_CODES[number % 5],
            model="gpt-4o-mini",
            attempts=1 + number % 4,
            decision=(Decision.NOW, Decision.LATER, Decision.LATER, Decision.LATER, Decision.NEVER)[number % 5],
            reason=_REASONS[number % 5],
            retry_at=NIGHT + timedelta(minutes=5 * number) if number % 5 in (1, 2) else None,
            user_id=an_id(100 + number % 3),
            generation_id=an_id(number),
            calls="gpt-4o-mini: AI_UNAVAILABLE, large: ok" if number == 1 else None,
        )
        for number in range(count)
    ]


def a_plan(done: int) -> Plan:
    """A plan that retries two generations of one user, and lifts limits."""
    codes = frozenset({"AI_UNAVAILABLE", "AI_TIMEOUT", "AI_RATE_LIMITED", "AI_INVALID_OUTPUT", "AI_INCOMPLETE"})
    wanted = Filter(since=NIGHT - timedelta(hours=6), until=NIGHT, codes=codes)
    terms = Terms(policy=RetryPolicy(), waive=frozenset({Waiver.QUOTA}), charge=False, max_cost=Decimal("2.5"))
    return Plan(
        cast("Parts", SimpleNamespace(policy=RetryPolicy())),
        Frozen(wanted, terms, ((an_id(1), an_id(2)), (an_id(1), an_id(3)))),
        counts={
            (Decision.NOW, None): 2,
            (Decision.LATER, "RETRY_TOO_SOON"): 11,
            (Decision.NEVER, "CONTEXT_MISSING"): 1,
        },
        estimates=Estimates(calls=2, tokens=4100, cost=Decimal("0.0314")),
        done=done,
    )


def same_as(name: str, text: str) -> None:
    """Compare with the picture of that name; UPDATE_PICTURES=1 paints it anew."""
    picture = PICTURES / f"{name}.txt"
    if os.environ.get("UPDATE_PICTURES"):
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(text + "\n")
    assert text + "\n" == picture.read_text()


def widest(text: str) -> int:
    """The length of the longest line."""
    return max(map(len, text.splitlines()))


def run(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, list(arguments), prog_name="ai-retry")


@pytest.mark.parametrize("width", WIDTHS)
def test_find_fits_the_terminal(width: int) -> None:
    """Summary first, then the list in its order, by day, with short ids and as many columns as fit."""
    found = failures()

    text = find.shown(summarise(found), found[:7], width)

    same_as(f"find-{width}", text)
    assert widest(text) <= width


def test_find_lists_the_last_failure_first() -> None:
    """A search lists by creation, but what was retried failed later: the list is in the order of its times."""
    first, second, third = failures(3)
    again = replace(second, failed_at=NIGHT + timedelta(hours=1))
    undated = replace(third, failed_at=None)

    text = text_listing([first, again, undated], width=80)

    assert [line.split()[1] for line in text.splitlines()[1:] if "(UTC)" not in line and "unknown" not in line] == [
        f"{each.generation_id}"[:8] for each in (undated, again, first)
    ]


def test_find_wide_has_whole_ids() -> None:
    """With --wide nothing is shortened, however long a line is."""
    found = failures(3)

    text = find.shown(summarise(found), found, None)

    assert all(f"{each.generation_id}" in text and f"{each.user_id}" in text for each in found)
    assert "…" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_queue_fits_the_terminal(width: int) -> None:
    """Each number has its meaning, and what is unavailable is a table."""
    state = QueueState(
        as_of=NIGHT,
        configured=True,
        queued=1204,
        due=3,
        parked=1200,
        running=8,
        oldest_accepted_at=NIGHT - timedelta(minutes=95),
        poisoned=0,
        held=0,
        kept=0,
        outages=[RouteState(route="api.openai.com gpt-4o-mini-2024-07-18", not_before=NIGHT, failures=14, slots=1)],
    )

    text = queue.shown(state, width)

    same_as(f"queue-{width}", text)
    assert widest(text) <= width


def test_equal_beginnings_are_longer() -> None:
    """Ids that begin alike, as those that begin with a time do, are shown as far as needed to distinguish them."""
    found = failures(2)
    alike = [UUID("01890a5d-ac96-774b-bcce-b302099a8057"), UUID("01890a5d-ac96-774b-9cce-b302099a8057")]
    twins = [
        FoundGeneration(**{name: getattr(each, name) for name in each.__slots__} | {"generation_id": its_id})
        for each, its_id in zip(found, alike, strict=True)
    ]

    text = text_listing(twins, width=120)

    assert "01890a5d-ac96-774b-bcce" in text
    assert "01890a5d-ac96-774b-9cce" in text


def test_numbers_are_to_the_right() -> None:
    """In a terminal and in a notebook, numbers stand below each other."""
    text, page = text_listing(failures(), width=80), html_listing(failures(), caption="", footer="")

    assert '<td style="text-align:right">1</td>' in page
    assert f"{an_id(0)}"[:8] in page
    assert str(an_id(0)) not in page
    assert "attempts" in text.splitlines()[0]


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_command_is_in_a_group_and_short(command: str) -> None:
    """Each command is in a group, its line has at most 45 characters, and its help has an example that begins so."""
    its = cli.commands[command]

    assert command in {name for names in GROUPS.values() for name in names}
    assert its.short_help is not None
    assert len(its.short_help) <= 45
    leaves = its.commands.values() if isinstance(its, click.Group) else [its]
    assert all(f"  ai-retry {command}" in (leaf.epilog or "") for leaf in leaves)


def leaves() -> Iterator[list[str]]:
    """List all commands that do something."""
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            yield from ([name, below] for below in command.commands)
        else:
            yield [name]


def test_help_is_grouped_and_fits() -> None:
    """``--help`` lists commands under their groups, and no help is wider than 80 columns."""
    listed = run("--help").output

    assert [line for line in listed.splitlines() if line.rstrip(":") in GROUPS] == [f"{title}:" for title in GROUPS]
    for arguments in leaves():
        shown = run(*arguments, "--help")
        assert shown.exit_code == 0
        assert widest(shown.output) <= 80, arguments
    same_as("help", listed.rstrip())


def test_examples_are_usage() -> None:
    """Each example of a help uses commands and options that there are."""
    for name, command in cli.commands.items():
        for leaf in command.commands.values() if isinstance(command, click.Group) else [command]:
            known = {option for parameter in leaf.params for option in parameter.opts}
            words = [word for line in (leaf.epilog or "").splitlines() for word in line.partition("|")[0].split()]
            assert {word for word in words if word.startswith("--")} <= known, name


def report_of_a_night() -> Report:
    """Of 70 selected generations some succeeded, some failed, and the run was interrupted."""
    ends: list[tuple[str, str | None, int | None]] = []
    ends += [("succeeded", None, 2)] * 4
    ends += [("failed", "AI_REJECTED", 2)] * 2
    ends += [("failed", "AI_TIMEOUT", 2)]
    ends += [("left", "INTERRUPTED", None)] * 63
    lines = [
        ReportLine(
            generation_id=an_id(number),
            user_id=an_id(100),
            outcome=outcome,
            code=code,
            attempt=attempt,
            took=None,
            tokens=100 if outcome == "succeeded" else None,
            cost=None,
            retry_at=None,
        )
        for number, (outcome, code, attempt) in enumerate(ends)
    ]
    return Report(
        plan_key="plan:1", lines=tuple(lines), not_selected={"later: QUOTA_EXHAUSTED": 9}, stopped="INTERRUPTED"
    )


def test_report_is_in_words() -> None:
    """A report counts in words: what was not attempted, and why."""
    text = repr(report_of_a_night())

    same_as("report", text)
    assert "not attempted:   63 (interrupted)" in text
    assert "INTERRUPTED" not in text


def test_report_fits_the_terminal() -> None:
    """Reasons that don't fit into their line go on below their beginning."""
    text = report_of_a_night().text(40)

    assert widest(text) <= 40
    assert "failed:           3 (AI_REJECTED 2,\n" + " " * 20 + "AI_TIMEOUT 1)\n" in text


def test_table_that_fits_no_terminal_is_stacked() -> None:
    """Where even the narrowest columns don't fit, each row is a block, and nothing of it is cut off."""
    rows = [("openrouter/small", "held", "2026-01-31 02:00:00", 14), ("openrouter/large", "unavailable", "", 2)]

    text = text_table(("provider and model", "state", "until", "running"), rows, width=36)

    assert widest(text) <= 36
    assert text.startswith("provider and model  openrouter/small\nstate               held\n")
    assert "\n\nprovider and model  openrouter/large\n" in text


def test_unknown_short_id_is_no_whole_one() -> None:
    """What is neither an id nor the beginning of one is wrong usage."""
    refused = run("why", "7")

    assert refused.exit_code in (2, 3)
    assert "Traceback" not in refused.output


@pytest.mark.parametrize("width", WIDTHS)
def test_recover_fits_the_terminal(width: int) -> None:
    """A plan shows its range and codes, what is retried and what is not, what it takes, and what it lifts."""
    plan = a_plan(0)
    text = plan.text(width).replace(plan.id, "0" * len(plan.id))  # it is of all numbers of the policy

    same_as(f"recover-{width}", text)
    assert widest(text) <= width


def test_plan_shows_done_and_to_do() -> None:
    """A plan that has begun shows how much is done, and how much is to do."""
    lines = [line.split() for line in repr(a_plan(1)).splitlines()]

    assert ["progress", "done", "1"] in lines
    assert ["progress", "to", "do", "1"] in lines


def test_days_and_durations_are_instants() -> None:
    """A day is its beginning in UTC; the rest is as long ago as it says."""
    now = datetime(2026, 1, 31, 1, 30, tzinfo=timezone(timedelta(hours=2)))  # the 30th in UTC

    read = [read_instant(text, "since", now) for text in ("today", "Yesterday", "2026-01-29", "90m")]

    assert [f"{each:%d %H:%M}" for each in read if each] == ["30 00:00", "29 00:00", "29 00:00", "31 00:00"]
