"""A plan retries what it selected, once each, at the pace that the provider bears; and says all that it did."""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from ai_retry.client import Client
from ai_retry.clock import SystemClock
from ai_retry.domain.errors import RetryRefused, StorageUnavailable
from ai_retry.domain.model import Answer, Failure, FailureCode, QuotaRule, Usage
from ai_retry.domain.policy import RetryPolicy
from ai_retry.providers.http import HttpAiProvider
from ai_retry.testing.ai import AiCall, ScriptedAiProvider
from ai_retry.testing.provider import Script, ScriptedServer, reply
from tools.outage import attempts, failed_generations, recovering_client

ANSWER = Answer(output={"title": "x"}, usage=Usage(total_tokens=100, cost=Decimal("0.002")))
SHORT = RetryPolicy(backoff_base=timedelta(milliseconds=10), backoff_cap=timedelta(milliseconds=20))
PATIENT = RetryPolicy(lease=timedelta(hours=1))  # for a clock that is fast
BRIEF = replace(PATIENT, backoff_base=SHORT.backoff_base, backoff_cap=SHORT.backoff_cap, outage_cap=SHORT.backoff_cap)
A_MOMENT = timedelta(milliseconds=10)  # of the database; a second on the fast clock
Connect = Callable[..., AbstractContextManager[Client]]


def failure(code: FailureCode, **facts: Any) -> Failure:
    """Give a failure of a call."""
    return Failure(
        **{"code": code, "reason": "as planned", "transient": True, "certainly_not_generated": False, **facts}
    )


class HastyClock:
    """A clock on which a minute passes in less than a second, so that pauses are short."""

    def now(self) -> Any:
        """Not asked for."""
        raise NotImplementedError

    def monotonic(self) -> float:
        """Run a hundred times as fast."""
        return time.monotonic() * 100

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds / 100)


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """A database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def connect(migrated_database: str) -> Connect:
    """Make clients of that database."""
    return partial(recovering_client, migrated_database)


def test_plan_writes_and_calls_nothing(database: psycopg.Connection, connect: Connect) -> None:
    """Making, showing and saving a plan leaves the database as it is, and no call is made."""
    failed_generations(database, 5)
    ai = ScriptedAiProvider()
    with connect(ai) as client:
        plan = client.plan(client.find(), everything=True)
        repr(plan), plan._repr_html_(), plan.describe(), plan.report()

    assert len(plan.selected) == 5
    assert ai.calls == []
    assert attempts(database) == []
    assert database.execute("select count(*) from public.ai_retry_recoveries").fetchone() == (0,)


def test_run_retries_what_the_dry_run_selected(database: psycopg.Connection, connect: Connect, tmp_path: Path) -> None:
    """A run retries the selection, once each, with the plan's key and the operator's name; the report has all."""
    failed_generations(database, 12)
    with connect(ScriptedAiProvider(default=ANSWER)) as client:
        plan = client.plan(client.find(), everything=True)
        plan.save(tmp_path / "plan.json")
        failed_generations(database, 3)

        report = client.load_plan(tmp_path / "plan.json").run(max_workers=3, operator="ada@example.com")

    made = attempts(database)
    assert {row["generation_id"] for row in made} == {each for _, each in plan.selected}
    assert len(made) == 12
    assert {(row["idempotency_key"], row["operator"]) for row in made} == {(f"plan:{plan.id}", "ada@example.com")}
    assert report.totals == {"succeeded": 12, "failed": 0, "left": 0, "tokens": 1200, "cost": Decimal("0.024")}
    assert [(line.user_id, line.generation_id) for line in report.lines] == list(plan.selected)
    assert all(line.attempt == 2 and line.took is not None and line.tokens == 100 for line in report.lines)


def test_run_again_retries_nothing_twice(database: psycopg.Connection, connect: Connect, tmp_path: Path) -> None:
    """What a run has settled, well or not, its plan never calls again, in whatever process; a new plan does."""
    failed_generations(database, 6)
    fails = failure(FailureCode.INVALID_OUTPUT)
    with connect(ScriptedAiProvider(fails, fails, default=ANSWER), policy=SHORT) as client:
        plan = client.plan(client.find(), everything=True)
        plan.save(tmp_path / "plan.json")
        first = plan.run(operator="ada")
    ai = ScriptedAiProvider(default=ANSWER)
    with connect(ai, policy=SHORT) as client:
        again = client.load_plan(tmp_path / "plan.json").run(operator="ada")
        assert ai.calls == []
        other = client.plan(client.find(), everything=True).run(operator="ada")

    assert (first.totals["succeeded"], first.totals["failed"]) == (4, 2)
    assert again.lines == first.lines
    assert first.reasons == {"failed: AI_INVALID_OUTPUT": 2}
    assert other.totals["succeeded"] == 2


def test_report_is_complete_whoever_asks(database: psycopg.Connection, connect: Connect, tmp_path: Path) -> None:
    """The report is read from the attempts, so that another process, without running, has the same."""
    failed_generations(database, 4)
    with connect(ScriptedAiProvider(failure(FailureCode.REJECTED), default=ANSWER)) as client:
        plan = client.plan(client.find(), everything=True)
        plan.save(tmp_path / "plan.json")
        before = plan.report()
        report = plan.run(operator="ada")
    with connect(ScriptedAiProvider()) as client:
        read = client.load_plan(tmp_path / "plan.json").report()

    assert {line.code for line in before.lines} == {"NOT_TRIED"}
    assert read == report
    assert read.to_frame()["outcome"].value_counts().to_dict() == {"succeeded": 3, "failed": 1}
    assert "AI_REJECTED" in repr(read)
    assert "AI_REJECTED" in read._repr_html_()
    bars: list[Any] = list(read.plot().patches)
    assert [bar.get_width() for bar in bars] == [1, 3]


def test_interrupted_run_goes_on(database: psycopg.Connection, connect: Connect) -> None:
    """After Ctrl-C running calls are finished, nothing else begins, a line says so, and the next run does the rest."""
    failed_generations(database, 30)

    def answer(_: AiCall) -> Answer:
        if len(ai.calls) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        return ANSWER

    ai = ScriptedAiProvider(default=answer)
    with connect(ai) as client:
        plan = client.plan(client.find(), everything=True)
        with pytest.raises(KeyboardInterrupt) as interruption:
            plan.run(max_workers=4, operator="ada")
        called, middle = len(ai.calls), plan.report()
        end = plan.run(max_workers=4, operator="ada")

    assert 10 <= called <= 14
    assert middle.totals["succeeded"] == called
    assert middle.reasons == {"left: INTERRUPTED": 30 - called}
    assert f"{30 - called} (interrupted)" in repr(middle)
    (note,) = interruption.value.__notes__
    assert note.startswith(f"Interrupted after {called} of 30 generations")
    assert note.endswith(f"plan.run() goes on with the other {30 - called}.")
    assert end.totals["succeeded"] == len(ai.calls) == 30
    rows = database.execute(
        "select counts ->> 'stopped' from public.ai_retry_recoveries order by started_at"
    ).fetchall()
    assert rows == [("INTERRUPTED",), (None,)]


def test_two_runs_at_once_retry_nothing_twice(database: psycopg.Connection, connect: Connect) -> None:
    """Two people who run the same plan at the same time share its work."""
    failed_generations(database, 40)
    ai = ScriptedAiProvider(default=ANSWER)
    with connect(ai) as client:
        plan = client.plan(client.find(), everything=True)
        runs = [threading.Thread(target=plan.run, kwargs={"operator": name}) for name in ("ada", "bob")]
        for run in runs:
            run.start()
        for run in runs:
            run.join()

        assert plan.report().totals["succeeded"] == 40
    assert len(ai.calls) == len(attempts(database)) == 40


def test_attempt_of_a_dead_run_is_made_again(database: psycopg.Connection, connect: Connect) -> None:
    """An attempt that its worker left open is waited for until its lease ends, then made again, and settled once."""
    failed_generations(database, 2)

    class Killed(BaseException):
        """As if the process had died in the call."""

    policy = RetryPolicy(
        deadline=timedelta(seconds=1),
        settle_margin=timedelta(seconds=0.5),
        lease=timedelta(seconds=4),
        backoff_base=timedelta(milliseconds=10),
        backoff_cap=timedelta(milliseconds=20),
    )
    ai = ScriptedAiProvider(Killed(), default=ANSWER)
    with connect(ai, policy=policy) as client:
        plan = client.plan(client.find(), everything=True)
        with pytest.raises(Killed):
            plan.run(max_workers=1, operator="ada")
        assert {line.code for line in plan.report().lines} <= {"INTERNAL", "INTERRUPTED", None}

        report = plan.run(max_workers=2, operator="ada")

    assert report.totals["succeeded"] == 2
    assert Counter(row["outcome"] for row in attempts(database)) == {"succeeded": 2, "abandoned": 1}
    assert len({call.idempotency_key for call in ai.calls}) == 2


def test_short_wait_is_waited_for(database: psycopg.Connection, connect: Connect) -> None:
    """A refusal that passes within a minute, such as another call under way, is no reason to leave one."""
    failed_generations(database, 3, users=1)
    begun, go_on = threading.Event(), threading.Event()

    def answer(_: AiCall) -> Answer:
        begun.set()
        go_on.wait(20)
        return ANSWER

    policy = RetryPolicy(max_parallel=1)
    with (
        connect(ScriptedAiProvider(answer), policy=policy) as user,
        connect(ScriptedAiProvider(default=ANSWER), policy=policy) as operator,
    ):
        plan = operator.plan(operator.find(), everything=True)
        click = threading.Thread(target=user.retry_generation, args=plan.selected[-1])
        click.start()
        assert begun.wait(20)
        threading.Timer(0.5, go_on.set).start()
        report = plan.run(operator="ada")
        click.join()

    assert report.totals["succeeded"] == 2
    assert report.reasons == {"left: ALREADY_SUCCEEDED": 1}


def test_long_refusal_leaves_it_with_the_reason(database: psycopg.Connection, connect: Connect) -> None:
    """A rule that refuses meanwhile, for longer than a minute or for ever, leaves the generation, and says why."""
    failed_generations(database, 4)
    ai = ScriptedAiProvider(default=ANSWER)
    with connect(ai) as client:
        plan = client.plan(client.find(), everything=True)
        (first, _), (second, _), (_, third), _ = plan.selected
        database.execute("insert into public.ai_retry_quotas values (%s, 0)", [first])
        database.execute("delete from auth.users where id = %s", [second])
        database.execute("update public.generations set status = 'success' where id = %s", [third])

        report = plan.run(operator="ada")

    assert [line.code for line in report.lines] == [
        "QUOTA_EXHAUSTED",
        "GENERATION_NOT_FOUND",
        "ALREADY_SUCCEEDED",
        None,
    ]
    assert report.totals["left"] == 3
    assert len(ai.calls) == 1


def test_user_gets_no_more_than_the_quota(database: psycopg.Connection, connect: Connect) -> None:
    """Of a user with more failures than units, so many are selected; no counter is reset, and the books balance."""
    failed_generations(database, 9, users=1)
    with connect(ScriptedAiProvider(default=ANSWER), policy=RetryPolicy(max_parallel=1)) as client:
        plan = client.plan(client.find(), everything=True)
        report = plan.run(max_workers=8, operator="ada")

    assert plan.counts == {("now", None): 5, ("later", "QUOTA_EXHAUSTED"): 4}
    assert report.totals["succeeded"] == 5
    assert report.not_selected == {"later: QUOTA_EXHAUSTED": 4}


def test_operator_lifts_limits_by_name(database: psycopg.Connection, connect: Connect) -> None:
    """What an operator lifts is on each attempt with their name, the terms in the record; nothing is reset."""
    failed_generations(database, 9, users=1)
    fails = failure(FailureCode.INVALID_OUTPUT)
    with connect(ScriptedAiProvider(*[fails] * 9, default=ANSWER)) as client:
        client.plan(client.find(), everything=True, waive={"quota"}).run(operator="bob")
        assert client.plan(client.find(), everything=True).counts == {("later", "RETRY_TOO_SOON"): 9}
        strict = client.plan(
            client.find(), everything=True, policy=RetryPolicy(max_attempts=2), waive={"backoff", "quota"}
        )
        assert strict.counts == {("never", "RETRY_LIMIT_REACHED"): 9}

        plan = client.plan(
            client.find(since="7d"),
            policy=RetryPolicy(max_attempts=9, quota=QuotaRule(limit=6)),
            waive={"backoff"},
            per_user=3,
        )
        report = plan.run(operator="ada")

    assert re.search(
        r"terms +max_attempts +9\n(.*\n)*terms +waived +backoff\nterms +of one user, at most +3", repr(plan)
    )
    made = [row for row in attempts(database) if row["number"] == 3]
    assert plan.counts == {("now", None): 3, ("later", "PER_USER"): 6}
    assert report.totals["succeeded"] == len(made) == 3
    assert {(tuple(row["waived"]), row["operator"], row["charge"]) for row in made} == {(("backoff",), "ada", True)}
    terms = database.execute(
        "select plan -> 'policy' -> 'max_attempts', plan -> 'waive', plan -> 'per_user' from public.ai_retry_recoveries"
        " where operator = 'ada'"
    ).fetchone()
    assert terms == (9, ["backoff"], 3)


def test_free_sessions_capture_nothing(database: psycopg.Connection, connect: Connect) -> None:
    """With ``charge=False`` users get their sessions, as many as failed, and their quota is untouched."""
    failed_generations(database, 8, users=1)
    with connect(ScriptedAiProvider(default=ANSWER)) as client:
        found = client.find(since="7d")
        plan = client.plan(found, charge=False)
        report = plan.run(operator="ada")

    assert report.totals["succeeded"] == 8
    assert {(row["charge"], row["captured_at"]) for row in attempts(database)} == {(False, None)}


@pytest.mark.parametrize("waive", [{"ownership"}, "backoff", {"backoff", "already succeeded"}])
def test_nothing_else_can_be_lifted(database: psycopg.Connection, connect: Connect, waive: Any) -> None:
    """Backoff and quota can be waived; anything else is refused by name."""
    with (
        connect(ScriptedAiProvider()) as client,
        pytest.raises(ValueError, match="waive must be a set of backoff, quota"),
    ):
        client.plan(client.find(), everything=True, waive=waive)


def test_estimates_are_of_past_attempts(database: psycopg.Connection, connect: Connect) -> None:
    """Calls, tokens and cost are estimated from what attempts with the same model took; unknown where none did."""
    failed_generations(database, 2)
    with connect(ScriptedAiProvider(default=ANSWER)) as client:
        first = client.plan(client.find(), everything=True)
        assert (first.estimates.calls, first.estimates.tokens, first.estimates.cost) == (2, None, None)
        assert "unknown" in repr(first)
        with pytest.raises(ValueError, match="max_cost can't be kept"):
            client.plan(client.find(), everything=True, max_cost=1)
        first.run(operator="ada")
        failed_generations(database, 10)

        second = client.plan(client.find(), everything=True)
        capped = client.plan(client.find(), everything=True, max_cost=0.009)
        report = capped.run(operator="ada")

    assert (second.estimates.tokens, second.estimates.cost) == (1000, Decimal("0.02"))
    assert capped.counts == {("now", None): 4, ("later", "MAX_COST"): 6}
    assert report.totals["cost"] == Decimal("0.008")


def test_run_stops_at_its_cost(database: psycopg.Connection, connect: Connect) -> None:
    """Where calls cost more than past ones let expect, the run stops before it spends more than was allowed."""
    failed_generations(database, 1)
    dear = Answer(output={}, usage=Usage(total_tokens=100, cost=Decimal("0.004")))
    with connect(ScriptedAiProvider(ANSWER, default=dear)) as client:
        client.plan(client.find(), everything=True).run(operator="ada")
        failed_generations(database, 10)
        plan = client.plan(client.find(), everything=True, max_cost=0.02)
        report = plan.run(max_workers=1, operator="ada")

    assert len(plan.selected) == 10
    assert report.stopped == "MAX_COST"
    assert report.totals["cost"] <= Decimal("0.02")
    assert report.reasons == {"left: MAX_COST": 5}


def test_outage_pauses_and_goes_on(database: psycopg.Connection, connect: Connect) -> None:
    """While the provider is unavailable one call at a time asks for it; when it is back all are served."""
    failed_generations(database, 60)
    away = failure(FailureCode.UNAVAILABLE, certainly_not_generated=True)
    ai = ScriptedAiProvider(*[away] * 8, default=ANSWER)
    with connect(ai, clock=HastyClock(), policy=BRIEF) as client:
        report = client.plan(client.find(), everything=True).run(operator="ada")

    assert report.stopped is None
    assert (report.totals["succeeded"], report.totals["failed"], report.totals["left"]) == (60, 0, 0)
    assert len(ai.calls) == 68
    assert not any(row["counted"] for row in attempts(database) if row["outcome"] == "failed")


def test_outage_stops_where_asked_to(database: psycopg.Connection, connect: Connect) -> None:
    """With ``on_outage="stop"`` the run ends with the first outage; none is used up, the others are untouched."""
    failed_generations(database, 60)
    away = failure(FailureCode.UNAVAILABLE, certainly_not_generated=True)
    ai = ScriptedAiProvider(default=away)
    with connect(ai, clock=HastyClock(), policy=PATIENT) as client:
        report = client.plan(client.find(), everything=True).run(on_outage="stop", operator="ada")

    assert report.stopped == "OUTAGE"
    assert report.reasons == {"left: OUTAGE": 60}
    assert len(attempts(database)) == len(ai.calls) <= 6
    assert not any(row["counted"] for row in attempts(database))


def test_operators_fault_stops(database: psycopg.Connection, connect: Connect) -> None:
    """A provider that refuses the operator, for a bad key or no credit, is not asked thousands of times."""
    failed_generations(database, 60)
    no_credit = failure(FailureCode.REJECTED, operator_fault=True, transient=False, certainly_not_generated=True)
    ai = ScriptedAiProvider(default=no_credit)
    with connect(ai) as client:
        report = client.plan(client.find(), everything=True).run(max_workers=2, operator="ada")

    assert report.stopped == "OPERATOR_NEEDED"
    assert len(ai.calls) <= 5


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            reply(400, json={"error": {"message": "No", "type": "invalid_request_error", "param": "response_format"}}),
            "a parameter of this deployment is not accepted (HTTP 400, invalid_request_error): response_format",
        ),
        (
            reply(400, json={"error": {"message": "Unsupported parameter: 'top_k'"}}),
            "a parameter of this deployment is not accepted (HTTP 400): top_k",
        ),
        (reply(429, json={"error": "Your team has used all available credits."}), "no credit"),
        (reply(body="<!DOCTYPE html><html>Log in</html>"), "a web page answered, not the API"),
        (reply(json={"error": "Unexpected endpoint or method."}), "something else than the API answered"),
        (reply(400, json={"error": {"message": "Model Not Exist"}}), "there is no such model or address"),
    ],
)
def test_operators_fault_is_read_off_the_wire(
    database: psycopg.Connection, connect: Connect, script: Script, says: str
) -> None:
    """What the operator has to change stops a plan after a few calls, uses up nothing, and ``why`` names it."""
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    prompt = {"messages": [{"role": "user", "content": "Plan"}], "response_schema": schema}
    failed_generations(database, 12, prompt_data=prompt)
    with ScriptedServer(default=script) as server:
        ai = HttpAiProvider(clock=SystemClock(), base_url=server.base_url, model="small", extra_body={"top_k": 5})
        with closing(ai), connect(ai) as client:
            report = client.plan(client.find(), everything=True).run(max_workers=1, operator="ada")
            tried = attempts(database)
            read = str(client.why(tried[0]["generation_id"]))

    assert report.stopped == "OPERATOR_NEEDED"
    assert len(server.requests) == len(tried) == 3
    assert not any(row["counted"] for row in tried)
    assert says in read
    assert "an operator has to act first" in read
    assert "Come back" not in read


def test_seam_that_is_missing_stops(database: psycopg.Connection, connect: Connect) -> None:
    """Where an operator has to set something up first, no call is made, and the run stops after a few."""
    failed_generations(database, 30)
    ai = ScriptedAiProvider()
    with connect(ai) as client:
        plan = client.plan(client.find(), everything=True)
        database.execute("drop function public.ai_retry_create_session(public.generations, jsonb)")
        report = plan.run(max_workers=2, operator="ada")
        assert client.plan(client.find(), everything=True).counts == {("never", "NOT_CONFIGURED"): 30}

    assert report.stopped == "OPERATOR_NEEDED"
    assert set(report.reasons) == {"left: NOT_CONFIGURED", "left: OPERATOR_NEEDED"}
    assert attempts(database) == []


def test_database_that_is_away_is_waited_for(
    database: psycopg.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that can't be reached for a while is an outage like the provider's: nothing is lost by it."""
    failed_generations(database, 12)
    away = iter(range(9))
    with connect(ScriptedAiProvider(default=ANSWER), clock=HastyClock(), policy=PATIENT) as client:
        plan = client.plan(client.find(), everything=True)
        load = client._storage.load

        def sometimes(*arguments: Any, **options: Any) -> Any:
            if next(away, None) is not None:
                raise StorageUnavailable("08006", retry_after=timedelta(seconds=1))
            return load(*arguments, **options)

        monkeypatch.setattr(client._storage, "load", sometimes)
        report = plan.run(max_workers=4, operator="ada")

    assert report.totals["succeeded"] + report.totals["left"] == 12
    assert report.totals["failed"] == 0
    assert set(report.reasons) <= {"left: STORAGE_UNAVAILABLE"}


def test_rate_limit_slows_down(database: psycopg.Connection, connect: Connect) -> None:
    """A provider that takes three calls at once is soon asked no more than that, and no generation fails for it."""
    failed_generations(database, 150)
    running, most, lock = Counter[str](), [], threading.Lock()

    def answer(_: AiCall) -> Answer | Failure:
        with lock:
            running["now"] += 1
            most.append(running["now"])
        time.sleep(0.01)
        with lock:
            running["now"] -= 1
        too_fast = failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=A_MOMENT)
        return too_fast if most[-1] > 3 and running["now"] >= 3 else ANSWER

    with connect(ScriptedAiProvider(default=answer), clock=HastyClock(), policy=BRIEF) as client:
        report = client.plan(client.find(), everything=True).run(max_workers=32, operator="ada")

    assert (report.totals["succeeded"], report.totals["failed"]) == (150, 0)
    assert len(most) - 150 < 50
    assert max(most) < 32


def test_whatever_happens_each_is_called_once(database: psycopg.Connection, connect: Connect) -> None:
    """Over a random provider: each selected generation is called once, unless it was turned away; all is reported."""
    failed_generations(database, 200, users=60)
    random = Random(7)
    answers: list[Any] = [
        ANSWER,
        failure(FailureCode.TIMEOUT),
        failure(FailureCode.INVALID_OUTPUT),
        failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=A_MOMENT),
        failure(FailureCode.UNAVAILABLE, certainly_not_generated=True),
    ]
    ai = ScriptedAiProvider(default=lambda _: random.choices(answers, [10, 1, 2, 1, 1])[0])
    with connect(ai, clock=HastyClock(), policy=replace(BRIEF, max_parallel=5, quota=QuotaRule(limit=9))) as client:
        plan = client.plan(client.find(), everything=True)
        report = plan.run(max_workers=16, operator="ada")
        again = plan.run(max_workers=16, operator="ada")

    assert len(plan.selected) == 200
    made = attempts(database)
    assert Counter(row["generation_id"] for row in made if row["counted"]).most_common(1)[0][1] == 1
    assert report.totals["succeeded"] + report.totals["failed"] == sum(row["counted"] for row in made) == 200
    assert len(ai.calls) == len(made)
    assert again.lines == report.lines


def test_stored_answer_costs_no_call(database: psycopg.Connection, connect: Connect) -> None:
    """An answer that was paid for and has no session is used: the plan's estimate counts no call for it."""
    (generation_id,) = failed_generations(database, 1)
    database.execute(
        "alter table public.sessions add constraint closed_today check (content ->> 'title' <> 'x') not valid"
    )
    ai = ScriptedAiProvider(ANSWER)
    with connect(ai, policy=SHORT) as client:
        refused = client.plan(client.find(), everything=True).run(operator="ada")
        assert refused.reasons == {"failed: SESSION_REJECTED": 1}
        database.execute("alter table public.sessions drop constraint closed_today")

        plan = client.plan(client.find(), everything=True, waive={"backoff"})
        assert (len(plan.selected), plan.estimates.calls, plan.estimates.cost) == (1, 0, Decimal(0))
        assert "paid for is kept" in client.why(generation_id).text
        report = plan.run(operator="ada")

    assert report.totals["succeeded"] == 1
    assert len(ai.calls) == 1


def test_defect_of_the_app_ends_the_run(database: psycopg.Connection, connect: Connect) -> None:
    """An exception that is no error of ours is raised; what was under way is settled, what was not begun is not."""
    failed_generations(database, 30)
    ai = ScriptedAiProvider(default=ANSWER)
    with connect(ai) as client:
        plan = client.plan(client.find(), everything=True)

        def broken(_: AiCall) -> Answer:
            raise ZeroDivisionError

        ai._script[:] = [ANSWER] * 5 + [broken]
        with pytest.raises(ZeroDivisionError):
            plan.run(max_workers=2, operator="ada")
        assert 5 <= plan.report().totals["succeeded"] < 30


def test_audit_finds_who_ran_what(database: psycopg.Connection, connect: Connect) -> None:
    """A run is recorded with operator, filter, terms and counts; each user's event says theirs, and not the rest."""
    failed_generations(database, 4, users=2)
    with connect(ScriptedAiProvider(failure(FailureCode.REJECTED), default=ANSWER)) as client:
        plan = client.plan(client.find(since="1d", code="AI_UNAVAILABLE"))
        plan.run(operator="ada@example.com", max_workers=1)

    record = database.execute(
        "select plan_id, operator, plan -> 'filter' -> 'codes', plan -> 'selected', counts ->> 'succeeded',"
        " counts -> 'reasons', ended_at >= started_at from public.ai_retry_recoveries"
    ).fetchone()
    events = database.execute(
        "select user_id, event_data from public.events where event_type = 'ai_generations_recovered'"
    ).fetchall()
    assert record == (
        *(plan.id, "ada@example.com", ["AI_UNAVAILABLE"], 4, "3"),
        *({"failed: AI_REJECTED": 1}, True),
    )
    assert {user_id for user_id, _ in events} == {user_id for user_id, _ in plan.selected}
    assert all(data["plan_id"] == plan.id and data["retried"] == 2 for _, data in events)
    assert "ada@example.com" not in str(events)


def test_app_may_refuse_the_events(database: psycopg.Connection, connect: Connect) -> None:
    """An app that takes no events of this kind does not undo a recovery: the record says what refused them."""
    failed_generations(database, 2)
    database.execute(
        "alter table public.events add constraint known_types check (event_type like 'ai_generation\\_%') not valid"
    )
    with connect(ScriptedAiProvider(default=ANSWER)) as client:
        report = client.plan(client.find(), everything=True).run(operator="ada")

    assert (report.totals["succeeded"], report.events_refused_by) == (2, "known_types")
    assert database.execute(
        "select events_refused_by, counts -> 'succeeded' from public.ai_retry_recoveries"
    ).fetchall() == [("known_types", 2)]


@pytest.mark.parametrize("operator", [None, "", "  "], ids=["none", "empty", "blank"])
@pytest.mark.parametrize(
    ("terms", "names"),
    [
        ({"waive": {"quota"}}, "waive"),
        ({"charge": False}, "charge=False"),
        ({"policy": RetryPolicy(max_attempts=9)}, "max_attempts"),
        ({"policy": RetryPolicy(quota=QuotaRule(limit=99)), "waive": {"backoff"}}, "waive and quota"),
    ],
    ids=["waive", "charge", "attempts", "quota"],
)
def test_limits_lifted_without_a_name_refused(
    database: psycopg.Connection, connect: Connect, terms: dict[str, Any], names: str, operator: str | None
) -> None:
    """A plan that lifts a limit is not run under the name of this machine's user; nothing is recorded or called."""
    failed_generations(database, 1)
    ai = ScriptedAiProvider(default=ANSWER)
    with connect(ai) as client:
        plan = client.plan(client.find(since="7d"), **terms)

        with pytest.raises(ValueError, match=f"^operator must be given with {names}: "):
            plan.run(operator=operator)

    assert (list(attempts(database)), list(ai.calls)) == ([], [])
    assert database.execute("select count(*) from public.ai_retry_recoveries").fetchone() == (0,)


@pytest.mark.parametrize("search", [{}, {"until": "1h"}, {"status": "processing"}], ids=["none", "end", "status"])
def test_plan_over_all_time_asks_for_a_word(connect: Connect, search: dict[str, Any]) -> None:
    """Whatever failed at any time is planned for only where the caller says so."""
    with connect(ScriptedAiProvider()) as client:
        found = client.find(**search)

        with pytest.raises(ValueError, match="pass everything=True"):
            client.plan(found)
        assert client.plan(found, everything=True).selected == ()


@pytest.mark.parametrize(
    "search",
    [{"since": "24h"}, {"code": "AI_TIMEOUT"}, {"model": "m"}, {"user_id": str(uuid4())}],
    ids=["since", "code", "model", "user"],
)
def test_narrow_search_is_planned_for(connect: Connect, search: dict[str, Any]) -> None:
    """A search by a beginning, a code, a model or a user needs no further word."""
    with connect(ScriptedAiProvider()) as client:
        assert client.plan(client.find(**search)).selected == ()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"max_workers": 0}, r"max_workers must be from 1 to 32, what max_calls \(AI_RETRY_MAX_CALLS\) allows"),
        ({"max_workers": 33}, r"max_workers must be from 1 to 32, what max_calls \(AI_RETRY_MAX_CALLS\) allows"),
        ({"rate": "fast"}, "rate must be a number of calls per second, minute or hour"),
        ({"rate": "0/minute"}, "rate must be"),
        ({"on_outage": "panic"}, 'on_outage must be "pause" or "stop"'),
        ({"operator": ""}, "operator must have 1 to 255 printable characters"),
        ({"operator": "a\nb"}, "operator must have"),
        ({"operator": "  "}, "operator must not be blank"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_named(connect: Connect, arguments: dict[str, Any], problem: str) -> None:
    """A wrong argument is a ``ValueError`` that names it; nothing has begun then."""
    with connect(ScriptedAiProvider()) as client, pytest.raises(ValueError, match=problem):
        client.plan(client.find(), everything=True).run(**{"operator": "ada", **arguments})


def test_rate_spaces_the_calls(database: psycopg.Connection, connect: Connect) -> None:
    """With a rate, calls start no faster than it says."""
    failed_generations(database, 5)
    starts: list[float] = []

    def answer(_: AiCall) -> Answer:
        starts.append(time.monotonic())
        return ANSWER

    with connect(ScriptedAiProvider(default=answer)) as client:
        plan, began = client.plan(client.find(), everything=True), time.monotonic()
        plan.run(rate="20/second", operator="ada")

    assert max(starts) - began >= 4 / 20


def test_single_retries_go_on_beside_a_run(database: psycopg.Connection, connect: Connect) -> None:
    """A user who clicks while a run has all slots of the client is asked to come back, and loses nothing."""
    failed_generations(database, 10)
    held = threading.Event()

    def answer(_: AiCall) -> Answer:
        held.wait(20)
        return ANSWER

    ai = ScriptedAiProvider(default=answer)
    with connect(ai, max_calls=2) as client:
        plan = client.plan(client.find(), everything=True)
        clicked: list[str] = []

        def click() -> None:
            try:
                client.retry_generation(*plan.selected[-1])
            except RetryRefused as refusal:
                clicked.append(refusal.code)
            finally:
                held.set()

        run = threading.Thread(target=plan.run, kwargs={"max_workers": 2, "operator": "ada"})
        run.start()
        while len(ai.calls) < 2:
            time.sleep(0.01)
        click()
        run.join()
        assert plan.report().totals["succeeded"] == 10

    assert clicked == ["TOO_MANY_PARALLEL_RETRIES"]
