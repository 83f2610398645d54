"""Waiting for something outside this process: bounded polling, never a bare sleep."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tools.processes import StackUnavailable


def eventually(condition: Callable[[], object], *, within: float = 15.0) -> None:
    """Wait until `condition()` is true; fail the test when it isn't in time."""
    deadline = time.monotonic() + within
    while not (last := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {condition}, last {last!r}")
        time.sleep(0.05)


@contextmanager
def skipping_without_stack() -> Iterator[None]:
    """Skip what can't have its stack, with the reason; in CI (`CI=true`) fail instead."""
    try:
        yield
    except StackUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the local stack can't run here: {error}")
