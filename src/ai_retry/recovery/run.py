"""A run of a plan: it gives generations to threads one at a time, at the pace that the provider bears.

Nothing is queued in front of a thread, so that whatever ends the run leaves no more than the calls that are under way.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.pace import Pace
from ai_retry.recovery.line import Line, Task
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.progress import OnProgress, Progress
from ai_retry.recovery.report import Left, Report, report_of
from ai_retry.recovery.retrier import Ended, Retrier
from ai_retry.recovery.run_options import RunOptions

if TYPE_CHECKING:
    from ai_retry.recovery.plan import Plan

_LOOK_AGAIN = 1.0  # seconds, at most, between two looks at the clock
_LOOK = 0.1  # seconds between two looks at the progress


def run_plan(
    parts: Parts, plan: "Plan", options: RunOptions, left: dict[UUID, Left], on_progress: OnProgress | None = None
) -> Report:
    """See ``Plan.run``; ``left`` is filled with why generations were left, also when it is interrupted."""
    record = _Record(parts, plan, options.operator)
    record.write(None)
    return _Run(parts, plan, options, record, left).run(on_progress)


class _Record:
    """Who ran what, for audits."""

    def __init__(self, parts: Parts, plan: "Plan", operator: str) -> None:
        self._parts, self._plan, self._operator = parts, plan, operator
        self._run_id = uuid4()

    def write(self, counts: Mapping[str, Any] | None) -> str | None:
        document = self._plan.describe()
        return self._parts.records.record_recovery(
            self._run_id, plan_id=self._plan.id, operator=self._operator, plan=_plain(document), counts=counts
        )


class _Run:
    """One thread decides what starts when; the caller's only shows the progress, and may be interrupted anywhere."""

    def __init__(
        self, parts: Parts, plan: "Plan", options: RunOptions, record: _Record, left: dict[UUID, Left]
    ) -> None:
        self._parts, self._plan, self._record = parts, plan, record
        self._max_workers = options.max_workers
        self._pace = Pace(options.max_workers, interval=options.interval, stop_on_outage=options.stop_on_outage)
        self._retrier = Retrier(parts, plan.terms, key=plan.key, operator=options.operator)
        self._ends = SimpleQueue[Ended]()
        self._outcomes = Counter[str]()
        self._finished = Event()  # joining a thread is not safe against an interruption, waiting for an event is
        self._left = left
        self._progress = Progress(0, done=0, on_progress=lambda _: True)
        self._running = 0
        self._spent = Decimal(0)
        self._crash: BaseException | None = None
        done = self._done_before()
        tasks = [Task(user, each) for user, each in plan.selected if each not in done]
        self._done, self._line = len(done), Line(tasks, max_of_user=plan.terms.policy.max_parallel)

    def run(self, on_progress: OnProgress | None = None) -> Report:
        """Retry all that is left to do, and report; after an interruption, once what was under way has ended."""
        scheduler = Thread(target=self._schedule, name="ai-retry-run")
        try:
            with Progress(len(self._plan.selected), done=self._done, on_progress=on_progress) as progress:
                self._progress = progress
                scheduler.start()
                while not self._finished.wait(_LOOK):
                    progress.show(self._outcomes, self._pace)
                progress.show(self._outcomes, self._pace)
        except BaseException as interruption:  # noqa: BLE001 - raised again below
            self._pace.stopped, self._crash = "INTERRUPTED", interruption
        if scheduler.ident is not None:
            self._finished.wait()
        if self._crash is None:
            return self._report(self._pace.stopped)
        with suppress(AiRetryError):  # then the record says that it did not end
            self._report("INTERRUPTED")
        raise self._crash

    def _done_before(self) -> set[UUID]:
        """Return what earlier runs of this plan settled, and add up what they spent."""
        done = set()
        for attempt in self._parts.attempts_of(self._plan.key):
            self._spent += attempt.usage.cost or 0 if attempt.usage else 0
            if attempt.settled:
                done.add(attempt.generation_id)
        return done

    def _schedule(self) -> None:
        """Start what may start, and take what ends, until there is neither; what was started is always finished."""
        try:
            with ThreadPoolExecutor(self._max_workers, thread_name_prefix="ai-retry") as pool:
                while self._running or (self._line and self._pace.stopped is None):
                    self._take_end(self._start(pool))
                self._look()
        except BaseException as defect:  # noqa: BLE001 - the caller raises it
            self._crash = defect
        finally:
            self._finished.set()

    def _start(self, pool: ThreadPoolExecutor) -> float | None:
        """Start all that may start now; return the seconds until more may, None: when something has ended."""
        while True:
            self._look()
            now = self._parts.clock.monotonic()
            wait = self._pace.wait(now, self._running)
            if wait != 0:
                return wait
            if not self._affordable():
                if not self._running:
                    self._pace.stopped = "MAX_COST"
                return None
            task = self._line.next(now)
            if task is None:
                return self._line.wait(now)
            if not self._starts(pool, task, now):
                return None

    def _look(self) -> None:
        """Report the progress, and pause where that is wanted."""
        if not self._progress.goes_on(self._outcomes, self._pace) and self._line and self._pace.stopped is None:
            self._pace.stopped = "PAUSED"

    def _starts(self, pool: ThreadPoolExecutor, task: Task, now: float) -> bool:
        """Start one; False: the process ends, which takes no new calls."""
        started_in = self._pace.start(now)
        try:
            pool.submit(self._retrier.retry, task, started_in, self._ends.put)
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            self._line.put_back(task, now, after=0.0)
            self._pace.stopped = "INTERRUPTED"
            return False
        self._running += 1
        return True

    def _affordable(self) -> bool:
        """Whether another call fits below ``max_cost``, as far as past calls show what one costs."""
        ceiling, estimates = self._plan.terms.max_cost, self._plan.estimates
        if ceiling is None:
            return True
        of_one = (estimates.cost or Decimal(0)) / max(1, estimates.calls)
        return self._spent + of_one * (self._running + 1) <= ceiling

    def _take_end(self, wait: float | None) -> None:
        """Take one end, or wait for as long as nothing can start."""
        if wait is None and not self._running:
            return
        try:
            ended = self._ends.get(timeout=_LOOK_AGAIN if wait is None else min(wait, _LOOK_AGAIN))
        except Empty:
            return
        self._running -= 1
        now = self._parts.clock.monotonic()
        self._pace.end(ended.call_end, now, started_in=ended.started_in, retry_after=ended.retry_after)
        self._spent += ended.cost
        if self._retrier.rejected_by is not None:
            self._pace.stopped = "SESSIONS_REJECTED"
        if ended.again_after is not None:
            after, outage = ended.again_after, ended.met_outage
            if self._line.put_back(ended.task, now, after=after, however_long=outage):
                return
        self._line.ended(ended.task)
        if ended.left is not None:
            self._left[ended.task.generation_id] = ended.left
        self._outcomes[ended.outcome] += 1
        if ended.crash is not None:
            self._crash, self._pace.stopped = ended.crash, "INTERRUPTED"

    def _report(self, stopped: str | None) -> Report:
        """Record the end, and read what was done."""
        if stopped is not None:
            for task in self._line.rest():
                self._left.setdefault(task.generation_id, Left(stopped))
        report = self._read(stopped, None)
        refused_by = self._record.write({**_plain(report.totals), "stopped": stopped, "reasons": report.reasons})
        return self._read(stopped, refused_by) if refused_by else report

    def _read(self, stopped: str | None, refused_by: str | None) -> Report:
        return report_of(
            self._parts,
            self._plan.key,
            self._plan.selected,
            self._left,
            not_selected=self._plan.not_selected,
            stopped=stopped,
            events_refused_by=refused_by,
        )


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(each) if isinstance(each, Mapping) else float(each) if isinstance(each, Decimal) else each
        for name, each in document.items()
    }
