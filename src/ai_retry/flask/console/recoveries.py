"""The console's recoveries: a run goes on in a thread of this process, one at a time, and pauses when it is asked."""

import threading
import time
from collections import Counter, deque
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from ai_retry import events
from ai_retry.client import Client
from ai_retry.flask.console.plans import Kept, Plans, Run
from ai_retry.operate.operations import Operations
from ai_retry.problems import Problem, Refused, problem_of, reason_of, stack_of
from ai_retry.recovery.found import Found
from ai_retry.recovery.plan import Plan
from ai_retry.recovery.progress import RunProgress
from ai_retry.recovery.wording import search_in_words

MOST: Final = 5_000  # generations of one plan
_READING: Final = 20.0  # seconds that a search may take
_NOTED: Final = 0.5  # seconds between two notes of the progress
_ACTS: Final = 6  # plans and starts, at most, in
_MINUTE: Final = 60.0
_ENDS: Final = ("succeeded", "failed")

_TOO_OFTEN: Final = Problem(
    code="TOO_OFTEN",
    http_status=429,
    message=f"At most {_ACTS} plans and starts a minute. Nothing was changed. Come back in a minute.",
)
_OTHER_RUNS: Final = Problem(
    code="RECOVERY_RUNS",
    http_status=409,
    message="A recovery runs already, and one runs at a time. Nothing was changed.",
)


class Recoveries:
    """Makes plans and runs them.

    Attributes:
        plans: where they are kept.
        stopping: set once this process runs none any more.
    """

    def __init__(self, client: Client, plans: Plans) -> None:
        self.plans = plans
        self._client = client
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.stopping = threading.Event()
        self._acts = deque[float](maxlen=_ACTS)

    def plan(self, found: Found, *, made_by: str, **terms: Any) -> str:
        """Make a plan of the newest that were found, keep it, and return its id.

        Raises:
            Refused: too many plans in a minute.
            ValueError: names what can't be used.
            StorageFailure: safe to repeat.
        """
        self._act()
        newest = found.newest(MOST, seconds=_READING)
        plan = self._client.plan(newest, **terms)
        usual = plan.terms.policy  # a plan of the console has the client's
        lifted = [(name, str(value)) for name, value in plan.terms.lifted(usual)]
        search = [*search_in_words(plan.filter), *lifted]
        self.plans.keep(plan, made_by=made_by, search=search, is_complete=newest.is_complete)
        return plan.id

    def start(self, kept: Kept, operations: Operations, *, operator: str, max_workers: int, **options: Any) -> None:
        """Run it in the background, or go on with it.

        Raises:
            Refused: another one runs, or there were too many in a minute.
        """
        with self._lock:
            runs = any(each.state == "running" for each in self.plans.all())
            if runs or (self._thread is not None and self._thread.is_alive()):
                raise Refused(_OTHER_RUNS)
            self._act()
            plan = self.plans.load(kept.id, self._client)
            now = datetime.now(UTC)
            before = {name: count for name, count in plan.report().totals.items() if name in _ENDS}
            run = Run(
                operator=operator,
                began_at=now,
                seen_at=now,
                total=len(plan.selected),
                done=plan.done,
                outcomes=before,
            )
            self.plans.pause(kept.id, wanted=False)
            self.plans.note(kept.id, run)
            start = _Start(self._client, self.plans, plan, run, self.stopping)
            self._thread = threading.Thread(
                target=start.run,
                args=(operations,),
                kwargs={**options, "max_workers": min(max_workers, plan.most_workers)},
                name="ai-retry-console",
            )
            self._thread.start()

    def stop(self) -> None:
        """Pause what runs here, and wait for the calls that are under way."""
        self.stopping.set()
        self.join()

    def join(self) -> None:
        """Wait for the end of what runs here."""
        if self._thread is not None:
            self._thread.join()

    def _act(self) -> None:
        now = time.monotonic()
        if len(self._acts) == _ACTS and now - self._acts[0] < _MINUTE:
            raise Refused(_TOO_OFTEN)
        self._acts.append(now)


class _Start:
    """One run, and what is noted of it."""

    def __init__(self, client: Client, plans: Plans, plan: Plan, run: Run, stopping: threading.Event) -> None:
        self._client, self._plans, self._plan, self._last = client, plans, plan, run
        self._stopping, self._before = stopping, Counter(run.outcomes)
        self._noted = 0.0

    def run(self, operations: Operations, **options: Any) -> None:
        """Run the plan to its end, and note how it ended."""
        try:
            report = operations.run_plan(self._plan, on_progress=self._goes_on, **options)
            ended = report.stopped or "DONE"
        except Exception as error:  # noqa: BLE001 - the outermost entry point of this thread
            ended = problem_of(error).code
            self._client.events(
                events.RequestFailed(
                    action="console recovery", code=ended, reason=reason_of(error), stack=stack_of(error)
                )
            )
        self._plans.note(self._plan.id, replace(self._last, ended=ended, seen_at=datetime.now(UTC)))

    def _goes_on(self, progress: RunProgress) -> bool:
        """Note the progress now and then; pause where that is wanted, or where this process ends."""
        now = time.monotonic()
        self._last = replace(
            self._last,
            seen_at=datetime.now(UTC),
            done=progress.done,
            outcomes=dict(self._before + Counter(progress.outcomes)),
            at_once=progress.at_once,
            unavailable=progress.unavailable,
        )
        if now - self._noted >= _NOTED:
            self._noted = now
            self._plans.note(self._plan.id, self._last)
        wanted = self._plans.is_pausing(self._plan.id) or self._stopping.is_set()
        return threading.main_thread().is_alive() and not wanted
