"""Ten thousand failed generations are recovered: how fast, with how much memory, and what a kill in the middle changes.

``make recovery-proof`` prints the throughput beside its two limits (workers / latency, and what the database does for
pgbench, which has the same calls to make, as prepared statements), the peak memory beside that of a thousand
generations, and who was called twice after a kill. The database has one half of the processors and its clients the
other: as a rule it is another machine, and else the two would take each other's time, and the database's limit would
depend on its client.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg

from ai_retry.domain.model import Answer, Context, Usage
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.recovery.report import Report
from benchmarks.server import program
from tools.outage import failed_generations, recovering_client
from tools.stack import Stack, running_stack

WORKERS = 64
LATENCY = 0.3  # seconds of a call
CONNECTIONS = 16  # of our storage's pool
MEMORY_MIB = 50
_SHARE = 0.9
_FAILED_CLIENT = re.compile(r"client (\d+) (?:script \d+ )?aborted")

_HISTORY = """
with s as (
  insert into public.sessions (user_id, content, created_at)
  select user_id, '{}', clock_timestamp() - interval '9 days' from public.generations
)
insert into public.ai_retry_attempts (
  user_id, generation_id, number, token, started_at, lease_expires_at, outcome, closed_at, next_attempt_at, counted,
  charge, provider_outcome)
select user_id, gen_random_uuid(), 2, gen_random_uuid(), old, old, 'failed', old, old, true, true, 'unknown'
from public.generations, lateral (select clock_timestamp() - interval '9 days' as old) o
"""
_NEW_SESSIONS = "select id from public.sessions where created_at > now() - interval '1 day'"
_RULE = """'{"limit": 5, "window_seconds": 86400, "count_own_successes": true}'::jsonb"""
_WHOSE = "'protocol', 2, 'user_id', :user_id::text, 'generation_id', :id::text, 'token', :token::text"
_ATTEMPT = f"""
select id, user_id, token from proof_rows where n = (select nextval('proof_sequence')) \\gset
select r ->> 'version' as version, r ->> 'as_of' as as_of
  from (select public.ai_retry_load(jsonb_build_object({_WHOSE}, 'rule', {_RULE})::text) as r) l \\gset
select public.ai_retry_begin(jsonb_build_object({_WHOSE}, 'version', :version::text, 'as_of', :as_of::text,
  'rule', {_RULE}, 'max_live', 2, 'max_used', 5, 'open', jsonb_build_object('charge', true, 'idempotency_key',
    'plan' || chr(58) || 'pgbench', 'waived', '[]'::jsonb, 'operator', 'pgbench', 'lease_seconds', 35,
    'longest_seconds', 35, 'abandoned_wait_seconds', 2, 'answer_from', null, 'route', '/small'))::text);
select public.ai_retry_settle(jsonb_build_object({_WHOSE}, 'found', 'ready', 'rule', {_RULE}, 'answered', true,
  'call', '{{"provider_outcome": "generated", "duration_ms": 50, "model": null, "usage": {{"total_tokens": 100}},
    "provider_id": null, "wire_requests": 1}}'::jsonb,
  'success', '{{"answer": {{"output": {{"title": "x"}}, "model": null, "usage": {{"total_tokens": 100}},
    "provider_id": null}}, "answer_from": null,
    "if_rejected": {{"message": "rejected", "wait_seconds": 2, "again_wait_seconds": 15}}}}'::jsonb)::text);
"""


class LoggingProvider:
    """Answers after ``LATENCY``, and notes in a file who was called, and who got an answer: a kill loses no line."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Answer one call."""
        generation_id = context.messages[0]["content"]
        os.write(self._log, f"called {generation_id}\n".encode())
        time.sleep(LATENCY)
        os.write(self._log, f"answered {generation_id}\n".encode())
        return Answer(output={"title": "x"}, usage=Usage(total_tokens=100))


def recover(database_url: str, plan_file: Path, log: Path, lease: timedelta) -> None:
    """Be the process that recovers: make the plan, or go on with it; print what it took."""
    policy = RetryPolicy(lease=lease, deadline=lease / 2, settle_margin=lease / 8)
    with recovering_client(database_url, LoggingProvider(log), policy=policy, max_calls=WORKERS) as client:
        began = time.perf_counter()
        plan = client.load_plan(plan_file) if plan_file.exists() else client.plan(client.find(), everything=True)
        plan.save(plan_file)
        planned = time.perf_counter()
        report = plan.run(max_workers=WORKERS, operator="proof")
        ended = time.perf_counter()
    took = {
        "plan_seconds": planned - began,
        "run_seconds": ended - planned,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "processor_seconds": time.process_time(),
        "totals": report.totals,
        "complete": _complete(report),
    }
    print(json.dumps(took, default=str))


def _complete(report: Report) -> bool:
    return all(line.outcome == "succeeded" and line.took is not None and line.tokens for line in report.lines)


@contextmanager
def outage(stack: Stack, name: str, count: int) -> Iterator[str]:
    """Give a database in which so many generations have failed, each asking with its own id.

    Each has an old attempt, and each user an old session: PostgreSQL plans for an empty table as for one that stays
    empty, and would read all new sessions to find one, until it has analysed them.
    """
    url = stack.create_database(name, migrated=True)
    with psycopg.connect(url, autocommit=True) as connection:
        failed_generations(connection, count)
        connection.execute(_HISTORY)
        connection.execute(
            "update public.generations set prompt_data = jsonb_build_object('messages', jsonb_build_array("
            "jsonb_build_object('role', 'user', 'content', id::text)))"
        )
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")
    yield url
    stack.drop_database(name)


def _process(url: str, scratch: Path, lease: timedelta = DEFAULT_POLICY.lease) -> list[str]:
    files = [str(scratch / "plan.json"), str(scratch / "log")]
    return [sys.executable, "-m", "benchmarks.recovery_proof", url, *files, str(lease.total_seconds())]


def separate_processors(database_url: str) -> str:
    """Give PostgreSQL one half of the processors, and this process and its children the other; return what was done."""
    if not hasattr(os, "sched_setaffinity") or len(processors := sorted(os.sched_getaffinity(0))) == 1:
        return "database and clients share all processors"
    half = len(processors) // 2
    with psycopg.connect(database_url) as connection:
        postmaster = psutil.Process(connection.info.backend_pid).parent()
    if postmaster is None:
        raise RuntimeError("the database's main process has gone")
    for process in (postmaster, *postmaster.children()):
        with suppress(ProcessLookupError):  # a connection that has just ended
            os.sched_setaffinity(process.pid, processors[:half])
    os.sched_setaffinity(0, processors[half:])
    return f"the database has {half} of {len(processors)} processors, its clients the others"


def timed_run(stack: Stack, count: int) -> dict[str, Any]:
    """Recover so many in a process of their own."""
    with outage(stack, f"proof_{count}", count) as url, tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(_process(url, Path(scratch)), check=True, stdout=subprocess.PIPE, text=True)
    took: dict[str, Any] = json.loads(done.stdout)
    if took["totals"]["succeeded"] != count or not took["complete"]:
        raise AssertionError(f"not all were recovered: {took}")
    return took


@dataclass(frozen=True)
class Limit:
    """What the database does for pgbench."""

    rate: float  # attempts a second
    failed_clients: int  # of ``CONNECTIONS``


def database_limit(stack: Stack, count: int) -> Limit:
    """Let pgbench make the same three calls for each generation, prepared like ours, over as many connections."""
    with outage(stack, "proof_pgbench", count) as url, tempfile.TemporaryDirectory() as scratch:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "create table proof_rows as select row_number() over () as n, id, user_id, gen_random_uuid() as token"
                " from public.generations"
            )
            connection.execute("alter table proof_rows add primary key (n)")
            connection.execute("create sequence proof_sequence")
        script = Path(scratch) / "attempt.sql"
        script.write_text(_ATTEMPT)
        command = [program("pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={script}"]
        each = count // CONNECTIONS
        began = time.perf_counter()
        clients = [f"--client={CONNECTIONS}", "--jobs=2", f"--transactions={each}", url]
        # A client that meets an error, such as a lock timeout, ends, where ours would repeat the call.
        done = subprocess.run([*command, *clients], check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        with psycopg.connect(url) as connection:
            made = len(connection.execute(_NEW_SESSIONS).fetchall())
    if made < _SHARE * count:
        raise AssertionError(f"pgbench made {made} sessions of {count}: {done.stderr[-500:]}")
    return Limit(made / seconds, len(set(_FAILED_CLIENT.findall(done.stderr))))


@dataclass(frozen=True)
class KilledRun:
    """What a kill in the middle left, and what the next run made of it."""

    called_before: int
    called_twice: set[str]
    abandoned: set[str]  # whose first attempt was under way: it is unknown what became of it
    succeeded: int
    sessions: int
    complete: bool  # the report has all that was selected, and nothing else was called

    @property
    def sound(self) -> bool:
        """Whether no call was made twice but those whose call died with the process, and all have one session."""
        twice_for_a_reason = self.called_twice <= self.abandoned and len(self.abandoned) <= WORKERS
        return twice_for_a_reason and self.complete and self.sessions == self.succeeded


def killed_run(stack: Stack, count: int, *, after: int, lease: timedelta = DEFAULT_POLICY.lease) -> KilledRun:
    """Kill the process with SIGKILL after so many calls, and run the plan again."""
    with outage(stack, "proof_killed", count) as url, tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        log = scratch / "log"
        command = _process(url, scratch, lease)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            while not log.exists() or log.read_bytes().count(b"called") < after:
                if first.poll() is not None:
                    raise AssertionError("it ended before it was killed")
                time.sleep(0.02)
            first.send_signal(signal.SIGKILL)
        called_before = len(_called(log))
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        took = json.loads(done.stdout)
        calls = Counter(_called(log))
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "select generation_id::text, outcome from public.ai_retry_attempts where idempotency_key like 'plan:%'"
            ).fetchall()
            sessions = connection.execute(_NEW_SESSIONS).fetchall()
    return KilledRun(
        called_before=called_before,
        called_twice={each for each, times in calls.items() if times > 1},
        abandoned={each for each, outcome in rows if outcome == "abandoned"},
        succeeded=sum(outcome == "succeeded" for _, outcome in rows),
        sessions=len(sessions),
        complete=took["complete"] and took["totals"]["succeeded"] == count == len(calls),
    )


def _called(log: Path) -> list[str]:
    return [line.split()[1] for line in log.read_text().splitlines() if line.startswith("called")]


def main(count: int = 10_000, small: int = 1_000) -> int:
    """Prove it, and print the figures."""
    with running_stack() as stack:
        how = separate_processors(stack.database_url)
        limit = database_limit(stack, count)
        base, took = timed_run(stack, small), timed_run(stack, count)
        killed = killed_run(stack, count, after=count // 2)
    rate, ideal = count / took["run_seconds"], WORKERS / LATENCY
    more = took["peak_mib"] - base["peak_mib"]
    twice, abandoned = len(killed.called_twice), len(killed.abandoned)
    for line in (
        how,
        f"{count} generations in {took['run_seconds']:.1f} s: {rate:.0f} a second, with {WORKERS} workers",
        f"  {100 * rate / ideal:.0f} % of workers / latency, which is {ideal:.0f} a second (the aim: 90)",
        f"  the database's limit: {limit.rate:.0f} a second by pgbench with {CONNECTIONS} clients, of which"
        f" {limit.failed_clients} failed; of processor: {took['processor_seconds']:.1f} s",
        f"  planned before in {took['plan_seconds']:.1f} s",
        f"peak memory {took['peak_mib']:.0f} MiB: {more:+.0f} MiB on that of {small} (the aim: {MEMORY_MIB} at most)",
        f"killed after {killed.called_before} calls, and run again: {killed.succeeded} succeeded",
        f"  called twice: {twice}, of {abandoned} whose attempt was under way at the kill; sound: {killed.sound}",
    ):
        print(line)
    return 0 if killed.sound and more <= MEMORY_MIB and rate >= _SHARE * ideal else 1


if __name__ == "__main__":
    if arguments := sys.argv[1:]:
        recover(arguments[0], Path(arguments[1]), Path(arguments[2]), timedelta(seconds=float(arguments[3])))
    else:
        sys.exit(main())
