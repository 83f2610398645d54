"""A recovery by the console: plan, dry run, start, progress, pause, go on, report; also after its process has ended."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest

from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import GenerationStatus
from ai_retry.flask.console import recoveries
from ai_retry.flask.console.plans import KEPT, Plans, Run
from ai_retry.testing.ai import AiCall
from tests.unit.console_edge import (
    ADMIN,
    ANSWER,
    OPERATOR,
    PREFIX,
    VIEWER,
    ConsoleEdge,
    console_edge,
    elements,
    is_there,
)
from tools.npm import REPOSITORY

FIELDS = {"since": "24h"}
RUN = {"max_workers": "2"}


class Gate:
    """Lets calls through one by one, or all."""

    def __init__(self) -> None:
        self.asked, self.open = threading.Semaphore(0), threading.Event()

    def __call__(self, _: AiCall) -> object:
        """Wait until it is open, then answer."""
        self.asked.release()
        assert self.open.wait(60)
        return ANSWER


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open at the end of the test."""
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[ConsoleEdge]:
    """A console whose provider answers; what runs is waited for."""
    edge = console_edge(tmp_path / "plans")
    yield edge
    edge.console.recoveries.join()


@pytest.fixture
def gated(tmp_path: Path, gate: Gate) -> Iterator[ConsoleEdge]:
    """A console whose provider waits for the gate."""
    edge = console_edge(tmp_path / "plans", default=gate)  # type: ignore[arg-type]
    yield edge
    gate.open.set()
    edge.console.recoveries.join()


def planned(edge: ConsoleEdge, fields: dict[str, str] = FIELDS) -> str:
    """Make a plan, and return its path."""
    response = edge.post("/recover/plan", fields)
    assert response.status_code == 303, response.get_data(as_text=True)
    return response.headers["Location"].removeprefix(PREFIX)


def state(text: str) -> str:
    """Read the state of the plan that a page shows."""
    (found,) = elements(text, data_testid="state")
    return found["data-state"]


def shown(edge: ConsoleEdge, path: str) -> str:
    """GET a plan's page."""
    return edge.get(path).get_data(as_text=True)


def test_plan_is_a_dry_run(edge: ConsoleEdge) -> None:
    """A plan shows what it would do; making one calls nothing, changes nothing and records nothing."""
    ids = [edge.add_generation() for _ in range(3)]

    text = shown(edge, planned(edge))

    assert state(text) == "planned"
    assert is_there(text, "start")
    assert edge.ai.calls == []
    assert {edge.storage.app.generations[each].status for each in ids} == {GenerationStatus.ERROR}
    assert edge.client.operate(VIEWER).actions() == []


def test_recovery_runs_to_its_end_and_reports(edge: ConsoleEdge) -> None:
    """Once its number is typed a plan runs in the background; its page ends with the report, on record."""
    ids = [edge.add_generation() for _ in range(3)]
    path = planned(edge)

    assert edge.post(f"{path}/start", {**RUN, "confirm": "2"}).status_code == 400
    assert edge.post(f"{path}/start", {**RUN, "confirm": "3", "rate": "fast"}).status_code == 400
    assert edge.post(f"{path}/start", {**RUN, "confirm": "3", "rate": "100/second"}).status_code == 303
    edge.console.recoveries.join()

    text = shown(edge, path)
    assert state(text) == "done"
    assert {each["data-id"] for each in elements(text, data_testid="report-line")} == set(map(str, ids))
    assert {edge.storage.app.generations[each].status for each in ids} == {GenerationStatus.SUCCESS}
    action = edge.client.operate(VIEWER).actions()[0]
    assert (action.operator, action.action, action.outcome) == ("otto", "run_plan", "done")
    assert is_there(edge.get("/recover").get_data(as_text=True), "plan-row")


def test_recovery_pauses_and_goes_on(gated: ConsoleEdge, gate: Gate) -> None:
    """Pause starts no further call and finishes those that run; going on retries the rest, each once."""
    ids = [gated.add_generation() for _ in range(4)]
    path = planned(gated)
    gated.post(f"{path}/start", {"max_workers": "1", "confirm": "4"})
    assert gate.asked.acquire(timeout=60)
    running = shown(gated, path)
    assert state(running) == "running"
    assert is_there(running, "pause")

    gated.post(f"{path}/pause")
    gate.open.set()
    gated.console.recoveries.join()

    text = shown(gated, path)
    assert state(text) == "paused"
    assert is_there(text, "go-on")
    assert len(gated.ai.calls) == 1
    assert gated.post(f"{path}/go-on", RUN).status_code == 303
    gated.console.recoveries.join()
    assert state(shown(gated, path)) == "done"
    assert len(gated.ai.calls) == len(ids)


def test_one_runs_at_a_time(gated: ConsoleEdge, gate: Gate) -> None:
    """A second start, of this plan or another one, is refused while one runs."""
    gated.add_generation()
    path = planned(gated)
    gated.post(f"{path}/start", {**RUN, "confirm": "1"})
    assert gate.asked.acquire(timeout=60)

    assert gated.post(f"{path}/start", {**RUN, "confirm": "1"}).status_code == 409
    assert gated.post(f"{path}/go-on", RUN).status_code == 409


def test_other_process_shows_progress_and_pauses(gated: ConsoleEdge, gate: Gate) -> None:
    """Another worker process of the app, with the same directory, shows the run and can pause it."""
    for _ in range(4):
        gated.add_generation()
    path = planned(gated)
    gated.post(f"{path}/start", {"max_workers": "1", "confirm": "4"})
    assert gate.asked.acquire(timeout=60)
    other = ConsoleEdge(storage=gated.storage, ai=gated.ai, client=gated.client, plans=gated.plans)

    assert state(shown(other, path)) == "running"
    assert other.post(f"{path}/start", {**RUN, "confirm": "4"}).status_code == 409
    other.post(f"{path}/pause")
    gate.open.set()
    gated.console.recoveries.join()
    assert state(shown(other, path)) == "paused"


def test_two_processes_note_one_run(edge: ConsoleEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that note the same run at once, even with one process id, don't disturb each other."""
    edge.add_generation()
    plan_id = planned(edge).rpartition("/")[2]
    here, there, now = Plans(edge.plans), Plans(edge.plans), datetime.now(UTC)
    run = Run(operator="otto", began_at=now, seen_at=now, total=1, done=0)
    write = json.dump

    def dump(document: object, file: IO[str]) -> None:
        monkeypatch.undo()
        there.note(plan_id, run)
        write(document, file)

    monkeypatch.setattr("ai_retry.flask.console.plans.json.dump", dump)
    here.note(plan_id, replace(run, done=1))

    kept = here.get(plan_id)
    assert kept is not None
    assert kept.run == replace(run, done=1)
    assert not list(edge.plans.glob("*.new"))


def test_full_disk_leaves_the_last_note(edge: ConsoleEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note that can't be written changes nothing, and leaves no file behind."""
    edge.add_generation()
    plan_id = planned(edge).rpartition("/")[2]
    plans, now = Plans(edge.plans), datetime.now(UTC)
    run = Run(operator="otto", began_at=now, seen_at=now, total=1, done=0)
    plans.note(plan_id, run)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ai_retry.flask.console.plans.json.dump", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            plans.note(plan_id, replace(run, done=1))

    kept = plans.get(plan_id)
    assert kept is not None
    assert kept.run == run
    assert not list(edge.plans.glob("*.new"))


def test_end_of_the_process_leaves_a_paused_plan(edge: ConsoleEdge) -> None:
    """A plan whose process has ended is shown as paused, and goes on in another one."""
    edge.add_generation()
    path = planned(edge)
    plan_id = path.rpartition("/")[2]
    gone = datetime.now(UTC) - timedelta(minutes=1)
    (edge.plans / f"{plan_id}.run").write_text(
        json.dumps(
            {
                "operator": "otto",
                "began_at": gone.isoformat(),
                "seen_at": gone.isoformat(),
                "total": 1,
                "done": 0,
                "outcomes": {},
                "at_once": 4,
                "unavailable": False,
                "ended": None,
            }
        )
    )

    assert state(shown(edge, path)) == "paused"
    assert edge.post(f"{path}/go-on", RUN).status_code == 303
    edge.console.recoveries.join()
    assert state(shown(edge, path)) == "done"


ENDS = """
import concurrent.futures.thread as futures
import sys, threading, time
from pathlib import Path
from tests.unit.console_edge import ANSWER, PREFIX, console_edge

asked = threading.Event()

def answer(_):
    asked.set()
    while not futures._shutdown:
        time.sleep(0.01)
    return ANSWER

edge = console_edge(Path(sys.argv[1]), default=answer)
for _ in range(4):
    edge.add_generation()
path = edge.post("/recover/plan", {"since": "24h"}).headers["Location"].removeprefix(PREFIX)
assert edge.post(f"{path}/start", {"max_workers": "1", "confirm": "4"}).status_code == 303
assert asked.wait(60)
"""


def test_end_of_the_server_pauses_what_runs(tmp_path: Path) -> None:
    """A process that ends finishes the call under way, begins no other, and leaves a paused plan."""
    subprocess.run([sys.executable, "-c", ENDS, tmp_path / "plans"], check=True, timeout=100, cwd=REPOSITORY)

    (kept,) = Plans(tmp_path / "plans").all()

    assert kept.state == "paused"
    assert kept.run is not None
    assert kept.run.done == 1


def test_stop_pauses_what_runs(gated: ConsoleEdge, gate: Gate) -> None:
    """A console that is closed finishes the calls under way, and leaves the rest for another time."""
    for _ in range(4):
        gated.add_generation()
    path = planned(gated)
    gated.post(f"{path}/start", {"max_workers": "1", "confirm": "4"})
    assert gate.asked.acquire(timeout=60)
    stopping = threading.Thread(target=gated.console.recoveries.stop)
    stopping.start()
    assert gated.console.recoveries.stopping.wait(60)
    gate.open.set()
    stopping.join(60)

    assert state(shown(gated, path)) == "paused"


def test_failure_of_a_run_is_shown(edge: ConsoleEdge) -> None:
    """A run that can't be recorded ends with its code, and can go on."""
    edge.add_generation()
    path = planned(edge)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a row that no one may see")

    edge.storage.record_recovery = fail  # type: ignore[method-assign]
    edge.post(f"{path}/start", {**RUN, "confirm": "1"})
    edge.console.recoveries.join()

    text = shown(edge, path)
    assert state(text) == "stopped"
    assert "INTERNAL" in text
    assert "a row" not in text


def test_no_more_calls_at_once_than_the_client_makes(tmp_path: Path) -> None:
    """A form that asks for more calls at once than the client allows gets as many as it allows."""
    edge = console_edge(tmp_path / "plans", max_calls=1)
    edge.add_generation()
    path = planned(edge)

    edge.post(f"{path}/start", {"max_workers": "32", "confirm": "1"})
    edge.console.recoveries.join()

    assert state(shown(edge, path)) == "done"


def test_terms_of_a_plan_are_kept_and_shown(edge: ConsoleEdge) -> None:
    """What an operator lifts or limits is part of the plan, and its page says so."""
    for _ in range(3):
        edge.add_generation()

    text = shown(edge, planned(edge, {**FIELDS, "waive": "quota", "no_charge": "yes", "per_user": "2"}))

    (selected,) = [each for each in elements(text, data_testid="count") if each["data-decision"] == "now"]
    assert selected
    assert "users get their sessions without paying" in text
    assert "PER_USER" in text


def test_too_many_plans_are_refused(edge: ConsoleEdge) -> None:
    """More than six plans and starts in a minute are refused with 429."""
    statuses = [edge.post("/recover/plan", {"since": f"{hours}h"}).status_code for hours in range(1, 9)]

    assert statuses == [303] * 6 + [429] * 2


def test_large_search_makes_a_plan_of_its_newest(edge: ConsoleEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan takes a bounded number, and says that there is more."""
    monkeypatch.setattr(recoveries, "MOST", 2)
    for _ in range(3):
        edge.add_generation()

    text = shown(edge, planned(edge))

    assert "More was found than one plan takes" in text
    (confirm,) = [each for each in elements(text, tag="label") if each.get("for") == "confirm"]
    assert confirm
    assert "Type the number of generations, 2" in text


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_plan_whose_file_was_changed_is_refused_clearly(edge: ConsoleEdge, content: str | None) -> None:
    """A plan whose file is gone, or is no plan any more, says so; nothing is run, and the list still works."""
    edge.add_generation()
    path = planned(edge)
    file = edge.plans / f"{path.rpartition('/')[2]}.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)

    for response in (edge.get(path), edge.post(f"{path}/start", {**RUN, "confirm": "1"})):
        assert response.status_code == 409
        assert "PLAN_UNREADABLE" in response.get_data(as_text=True)
    assert edge.get("/recover").status_code == 200
    assert edge.ai.calls == []


def test_unknown_plans_are_not_found(edge: ConsoleEdge) -> None:
    """What is no plan's name reads no file."""
    for name in ("0" * 32, "..", "a", "%2e%2e%2fetc"):
        assert edge.get(f"/recover/{name}").status_code == 404


def test_files_are_private_and_few(edge: ConsoleEdge) -> None:
    """Files of plans are readable by their owner only, and old ones are removed."""
    edge.add_generation()
    plan = edge.client.plan(edge.client.find(since="24h"))
    edge.console.recoveries.plans.keep(plan, made_by="otto", search=[], is_complete=True)
    for path in edge.plans.iterdir():
        assert path.stat().st_mode & 0o077 == 0
    for number in range(KEPT + 5):
        (edge.plans / f"{number:032x}.about").write_text(
            json.dumps(
                {
                    "made_at": (datetime.now(UTC) - timedelta(days=number + 1)).isoformat(),
                    "made_by": "otto",
                    "search": [],
                    "selected": 1,
                    "is_complete": True,
                }
            )
        )

    edge.console.recoveries.plans.remove(plan.id)
    edge.console.recoveries.plans.keep(plan, made_by="otto", search=[], is_complete=True)

    assert len(edge.console.recoveries.plans.all()) == KEPT


def test_private_directory_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``plans`` files go to a directory of this user's own; one that others can write to is not used."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    plans = Plans(None)
    plans.use_default("key")
    place = tmp_path / f"ai-retry-console-{os.getuid()}-key"
    edge = console_edge(tmp_path / "other")
    edge.add_generation()
    plan = edge.client.plan(edge.client.find(since="24h"))

    plans.keep(plan, made_by="otto", search=[], is_complete=True)
    assert place.stat().st_mode & 0o077 == 0
    place.chmod(0o777)
    plans.remove(plan.id)
    with pytest.raises(NotConfigured, match="plans="):
        plans.keep(plan, made_by="otto", search=[], is_complete=True)
    with pytest.raises(NotConfigured, match="plans="):
        plans.all()
    with pytest.raises(NotConfigured, match="plans="):
        plans.get(plan.id)


def test_viewers_see_recoveries_and_start_none(edge: ConsoleEdge) -> None:
    """A viewer sees plan, progress and report, without any form."""
    edge.add_generation()
    path = planned(edge)

    text = edge.get(path, VIEWER).get_data(as_text=True)

    assert state(text) == "planned"
    assert not list(elements(text, tag="form"))
    assert edge.post(f"{path}/start", {**RUN, "confirm": "1"}, VIEWER).status_code == 403
    assert edge.get(path, ADMIN).status_code == 200
    assert OPERATOR.role == "operator"
