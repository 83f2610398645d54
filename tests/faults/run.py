"""One run: a failed generation, a worker that meets its fault, and everything that should still come out right."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    BackoffNotElapsed,
    GenerationNotFound,
    SessionRejected,
)
from ai_retry.domain.model import Waiver
from ai_retry.domain.retry import retry_status
from ai_retry.storage.spool import Spool
from tests.faults.checker import LONGEST_WAIT, History
from tests.faults.gateway import Gateway, following
from tests.faults.kinds import LOCKS, Kind
from tests.faults.plan import LONGEST_LIFE, POLICY, Job
from tests.faults.proxy import Proxy
from tests.faults.stage import Stage
from tests.faults.worker import storage_of, try_once, work
from tests.helpers.attempts import ATTEMPTS
from tools.processes import free_port

_LEASE = POLICY.lease.total_seconds()
_SPOOL_SENT = ("at once", "after the lease", "after the retry")
_ANSWER_STORED = f"select a.number from {ATTEMPTS} a where a.generation_id = %s and a.stored_answer is not null"


class Run:
    """Prepares, starts and ends one run; ``history`` says what was seen."""

    def __init__(self, stage: Stage, kind: Kind, seed: int) -> None:
        self._stage, self._kind = stage, kind
        self._random = Random(seed)
        self.user_id, self.generation_id = stage.new_request() if kind.first else stage.new_generation()
        self.directory = stage.directory / str(self.generation_id)
        self.directory.mkdir()
        self.history = History(kind=kind, seed=seed)
        self._workers: list[tuple[ForkServerProcess, Path]] = []
        self._killed: set[int] = set()
        self._opened = ExitStack()
        self._link: Proxy | Gateway | None = None
        self._holder: psycopg.Connection[Any] | None = None
        self._transport = self._random.choice(kind.transports)

    def start(self) -> None:
        """Start the worker, and its rival if that comes at once."""
        kind = self._kind
        self._stage.provider.expect(self.generation_id, kind.provider, self._lock if kind.locked else self._kill)
        if kind.locked:
            self._holder = self._opened.enter_context(closing(self._stage.connect()))
        if kind.refused:
            self._stage.rows("insert into refusals.by_user values (%s, 'app_rule')", self.user_id)
        self._spawn(self._faulty_job())
        if kind.rival == "at once":
            time.sleep(self._random.uniform(0, 0.15))
            self._spawn(self._plain_job())

    def finish(self) -> History:
        """See the workers end, lift every fault, and read what is left."""
        with self._opened:
            if self._kind.signal == signal.SIGSTOP:
                self._thaw_after_the_lease()
            elif self._kind.rival == "after the lease":
                time.sleep(_LEASE + 0.3)
                self._spawn(self._plain_job())
            self._join()
        self._collect()
        if self._kind.refused:
            self._stage.rows("delete from refusals.by_user where user_id = %s", self.user_id)
        try:
            self._recover()
        except AiRetryError as error:
            self.history.last_retry = error.code
        self._read()
        return self.history

    def _faulty_job(self) -> Job:
        kind, stage = self._kind, self._stage
        job = self._plain_job(report="report")
        ai_url = f"http://127.0.0.1:{free_port()}/v1" if kind.provider_down else job.ai_url
        port = stage.database_port if job.database_url else stage.api_port
        if kind.odd is not None:
            self._link = self._opened.enter_context(Gateway(port, following(kind.odd)))
        else:
            self._link = self._opened.enter_context(Proxy(port, kind.rule, self._kill, self._hold))
        return replace(
            job,
            database_url=self._through(job.database_url) if job.database_url else None,
            api_url=self._through(job.api_url),
            ai_url=ai_url,
            point=kind.point,
            signal=kind.signal,
            full_pool=kind.full_pool,
            broken=kind.broken,
        )

    def _plain_job(self, *, report: str = "rival") -> Job:
        stack = self._stage.stack
        return Job(
            user_id=self.user_id,
            generation_id=self.generation_id,
            database_url=stack.database_url if self._transport == "postgres" else None,
            api_url=stack.url,
            secret_key=stack.secret_key,
            ai_url=self._stage.provider.server.base_url,
            spool=self._spool,
            report=self.directory / report,
            first=self._kind.first,
        )

    @property
    def _spool(self) -> Path | None:
        return self.directory / "spool" if self._kind.spools else None

    def _through(self, url: str) -> str:
        assert self._link is not None
        return url.replace(f":{urlsplit(url).port}", f":{self._link.port}")

    def _spawn(self, job: Job) -> None:
        process = self._stage.processes.Process(target=work, args=(job,), daemon=True)
        process.start()
        self._workers.append((process, job.report))

    def _kill(self) -> None:
        """End the first worker, as the kernel would."""
        process, _ = self._workers[0]
        if process.pid is not None and process.is_alive():
            self._killed.add(0)
            os.kill(process.pid, signal.SIGKILL)

    def _hold(self, send: Callable[[], None]) -> None:
        """Let a call wait for its user's lock in the database, and do meanwhile what the kind says."""
        held = self._kind.held or ""
        with suppress(psycopg.OperationalError), self._stage.connect() as holder, holder.transaction():
            holder.execute(LOCKS["the user's advisory lock"].encode(), {"user_id": self.user_id})
            send()
            waiting = self._stage.waiting_for(self.user_id)
            if held.startswith("kill"):
                self._kill()
            if held.endswith("terminate"):
                self._stage.rows("select pg_terminate_backend(pid) from unnest(%s::int[]) pid", waiting)
            if held == "wait":
                holder.execute("select pg_sleep(1)")  # the server is stopped meanwhile, and us with it

    def _lock(self) -> None:
        """Lock what the kind says, as its app would, until the workers have ended."""
        assert self._kind.locked is not None
        assert self._holder is not None
        ids = {"user_id": self.user_id, "generation_id": self.generation_id}
        self._holder.execute("begin")
        self._holder.execute(LOCKS[self._kind.locked].encode(), ids)
        self.history.hit = True

    def _thaw_after_the_lease(self) -> None:
        """Wait until the worker stopped itself, let its lease run out, perhaps let another in, and wake it."""
        process, _ = self._workers[0]
        pid = process.pid or 0
        ends = time.monotonic() + LONGEST_LIFE
        while process.is_alive() and time.monotonic() < ends and not self.history.hit:
            time.sleep(0.02)
            with suppress(psutil.NoSuchProcess):  # it ended before it got to the point
                self.history.hit = psutil.Process(pid).status() == psutil.STATUS_STOPPED
        if not self.history.hit:
            return
        time.sleep(_LEASE + 0.2)
        if self._kind.rival:
            self._spawn(self._plain_job())
            self._workers[1][0].join(LONGEST_LIFE)
        os.kill(pid, signal.SIGCONT)

    def _join(self) -> None:
        while self._kind.spool_meanwhile and self._workers[0][0].is_alive():
            self._send_spool()
            time.sleep(0.05)
        for process, _ in self._workers:
            process.join(LONGEST_LIFE + 5)

    def _collect(self) -> None:
        """Read what the workers reported, and whether the fault happened."""
        kind, history = self._kind, self.history
        for number, (_, path) in enumerate(self._workers):
            if path.exists():
                history.reports.append(json.loads(path.read_text()))
            elif number == 0 and (0 in self._killed or (kind.point and kind.signal == signal.SIGKILL)):
                history.killed += 1
            else:
                history.silent += 1
        if kind.point is not None:
            history.hit = history.killed > 0 if kind.signal == signal.SIGKILL else history.hit
        elif kind.rule is not None or kind.odd is not None:
            history.hit = self._link is not None and self._link.fired > 0
        elif kind.event in LOCKS:
            history.hit = any(report["code"] == SessionRejected.code for report in history.reports)
        else:
            history.hit = history.hit or kind.locked is None

    def _recover(self) -> None:
        """Send the spool again, sooner or later, and retry as any caller would, on the same machine or on another."""
        moment = self._random.choice(_SPOOL_SENT)
        stage, history = self._stage, self.history
        began = time.monotonic()
        if moment == "at once":
            self._send_spool()
        while not (retryable := self._may_be_retried()) and time.monotonic() - began < 2 * LONGEST_WAIT.total_seconds():
            time.sleep(0.03)
        history.waited = timedelta(seconds=time.monotonic() - began)
        if moment == "after the lease":
            self._send_spool()
        if retryable != "done":
            stage.provider.expect(self.generation_id, ())
            history.last_retry = self._retry()
        self._send_spool()

    def _may_be_retried(self) -> str:
        try:
            status = retry_status(self.user_id, self.generation_id, storage=self._stage.storage, policy=POLICY)
        except GenerationNotFound:
            self.history.never_created = True
            return "now"
        if isinstance(status.refusal, AlreadySucceeded):
            return "done"
        waits_for_app = isinstance(status.refusal, BackoffNotElapsed) and status.snapshot.stored_answer is not None
        return "now" if status.can_retry or waits_for_app else ""

    def _retry(self) -> str:
        """Retry; an answer of this machine's spool is used, and so is one that waits for the app, after 15 s or now."""
        same_machine = self._kind.pays_once or self._random.random() < 0.5
        job = replace(self._plain_job(), spool=self._spool if same_machine else None, first=self.history.never_created)
        with closing(storage_of(job)) as storage:
            try:
                try_once(
                    job, storage, self._stage.ai, waive=frozenset({Waiver.BACKOFF}), operator="faults", renewing=None
                )
            except AiRetryError as error:
                return error.code
        return "ok"

    def _send_spool(self) -> None:
        if self._spool is not None:
            spool = Spool(self._spool)
            report = spool.send_again(self._stage.storage)
            self.history.left_in_spool = 0 if report.is_done and not report.partial else max(1, len(spool.names()))
        if self._stage.rows(_ANSWER_STORED, self.generation_id):
            self.history.answer_stored_at.append(datetime.now(UTC))

    def _read(self) -> None:
        stage, history = self._stage, self.history
        history.attempts = stage.rows(
            f"select * from {ATTEMPTS} a where a.generation_id = %s order by a.number", self.generation_id
        )
        history.sessions = stage.rows("select * from public.sessions where user_id = %s", self.user_id)
        history.status = stage.rows("select status from public.generations where id = %s", self.generation_id)[0][
            "status"
        ]
        history.calls = stage.provider.calls(self.generation_id)
