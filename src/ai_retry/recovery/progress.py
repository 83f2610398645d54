"""The progress of a run: a bar in a terminal and in a notebook, nothing where the output is piped."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from ai_retry.domain.pace import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a run of a plan is."""

    total: int  # generations that the plan selected
    done: int  # of them, those that have ended, in this run or before
    outcomes: Mapping[str, int]  # of this run: succeeded, failed, left
    at_once: int  # calls that may run at once now
    unavailable: bool  # the provider takes no requests


OnProgress: TypeAlias = Callable[[RunProgress], bool]
"""Gets the progress before each call, after the last, and every second; False pauses the run."""


class Progress:
    """A bar of ``tqdm``, and none without that library or where the progress goes elsewhere."""

    def __init__(self, total: int, *, done: int, on_progress: OnProgress | None = None) -> None:
        self._total, self._done, self._on_progress = total, done, on_progress
        self._bar = None if on_progress is not None else _bar(total, done)

    def show(self, outcomes: Counter[str], pace: Pace) -> None:
        """Show how many ended, and how."""
        if self._bar is None:
            return
        state = "provider unavailable" if pace.unavailable else f"{pace.at_once} at once"
        counts = " ".join(f"{name} {count}" for name, count in sorted(outcomes.copy().items()))
        self._bar.set_postfix_str(f"{counts}, {state}" if counts else state, refresh=False)
        self._bar.update(self._done + outcomes.total() - self._bar.n)

    def goes_on(self, outcomes: Counter[str], pace: Pace) -> bool:
        """Report the progress, and return whether the run is to go on."""
        if self._on_progress is None:
            return True
        counts = dict(outcomes.copy())
        return self._on_progress(
            RunProgress(
                total=self._total,
                done=self._done + sum(counts.values()),
                outcomes=counts,
                at_once=pace.at_once,
                unavailable=pace.unavailable,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar(total: int, done: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without widgets gets a bar of text
            from tqdm.auto import tqdm  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    in_notebook = "ipykernel" in sys.modules
    return tqdm(total=total, initial=done, unit="", disable=False if in_notebook else None)
