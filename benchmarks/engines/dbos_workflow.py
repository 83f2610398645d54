"""DBOS: a workflow of two steps, the call and the charge, recovered by a second process with the same executor id.

That is the recovery of its guide to self-hosting without Conductor, where a process that starts takes up the pending
workflows of its executor id. The first process is not dead but stopped (SIGSTOP) inside the step that calls.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks.engines.ledger import WAIT, Ledger, Order, Report, play
from benchmarks.rates.protocol import versions

WORKFLOW = "generation-1"


def scenario(url: str, order: Order) -> Report:
    """A starts the workflow and stalls in the provider's call, B recovers it; both go on."""
    ledger = Ledger(url)
    if order == "after":
        ledger.signal("b may finish")
    with _worker(url, "a") as a:
        ledger.wait_for_call("a")
        a.send_signal(signal.SIGSTOP)
        with _worker(url, "b") as b:
            ledger.wait_for_call("b")
            if order == "after":
                answer_b = _answer(b)
            ledger.signal("a may finish")
            a.send_signal(signal.SIGCONT)
            if order == "while":
                ledger.wait_for_signal("a went on")
                ledger.signal("b may finish")
                answer_b = _answer(b)
            answer_a = _answer(a)
    return Report(
        engine=versions("dbos"),
        accepted=answer_a["result"] == "made by a",
        late=f"{answer_a['seen']}, result {answer_a['result']}",
        other=f"{answer_b['seen']}, result {answer_b['result']}",
        charged="in a step before the end",
    )


@contextmanager
def _worker(url: str, name: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "benchmarks.engines.dbos_workflow", url, "worker", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()  # nothing happens to one that has ended


def _answer(process: "subprocess.Popen[str]") -> dict[str, str]:
    try:
        output, _ = process.communicate(timeout=2 * WAIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    said: dict[str, str] = json.loads(output.splitlines()[-1])
    return said


def _workflow(ledger: Ledger, name: str, seen: list[str]) -> Callable[[], str]:
    """Register the workflow with its two steps; what a run of it saw is added to ``seen``."""

    def call_provider() -> str:
        ledger.call(name)
        ledger.wait_for_signal(f"{name} may finish")
        return f"made by {name}"

    def charge() -> None:
        ledger.charge(name)

    call_step = DBOS.step(name="call_provider")(call_provider)
    charge_step = DBOS.step(name="charge")(charge)

    def retry_generation() -> str:
        try:
            answer = str(call_step())
            charge_step()
        except BaseException as error:
            seen.append(f"raised {type(error).__name__}")
            raise
        else:
            seen.append("ran to its end")
        finally:
            ledger.signal(f"{name} went on")
        return answer

    workflow: Callable[[], str] = DBOS.workflow(name="retry_generation")(retry_generation)
    return workflow


def work(url: str, name: str) -> None:
    """Be one of the two processes."""
    seen: list[str] = []
    workflow = _workflow(Ledger(url), name, seen)
    config: DBOSConfig = {
        "name": "late-finisher",
        "system_database_url": url,
        "application_version": "1",
        "executor_id": "one",
        "console_log_level": "CRITICAL",
    }
    DBOS(config=config)
    DBOS.launch()
    if name == "a":
        with SetWorkflowID(WORKFLOW):
            handle = DBOS.start_workflow(workflow)
    else:
        handle = DBOS.retrieve_workflow(WORKFLOW)
    result = handle.get_result()
    print(json.dumps({"seen": "; ".join(seen) or "ran elsewhere", "result": result}), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    if sys.argv[2] == "worker":
        work(sys.argv[1], sys.argv[3])
    else:
        play(scenario)
