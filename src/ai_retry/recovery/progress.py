"""The progress of a run: a bar in a terminal and in a notebook, nothing where the output is piped."""

import sys
import warnings
from collections import Counter
from types import TracebackType
from typing import Any, Self

from ai_retry.domain.pace import Pace


class Progress:
    """A bar of ``tqdm``; without that library, none."""

    def __init__(self, total: int, *, done: int) -> None:
        self._done = done
        self._bar = _bar(total, done)

    def show(self, outcomes: Counter[str], pace: Pace) -> None:
        """Show how many ended, and how."""
        if self._bar is None:
            return
        state = "provider unavailable" if pace.unavailable else f"{pace.at_once} at once"
        counts = " ".join(f"{name} {count}" for name, count in sorted(outcomes.copy().items()))
        self._bar.set_postfix_str(f"{counts}, {state}" if counts else state, refresh=False)
        self._bar.update(self._done + outcomes.total() - self._bar.n)

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
