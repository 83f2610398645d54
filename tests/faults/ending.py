"""How a process of these tests surely ends, frozen or not, whatever becomes of the harness."""

import signal

from tests.support.processes import _PR_SET_PDEATHSIG, _libc


def ends_with_parent() -> None:
    """Let the kernel kill this process when its parent is gone: workers with the forkserver, that with the harness."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def ends_within(seconds: int) -> None:
    """The same, and when its time is over."""
    ends_with_parent()
    signal.alarm(seconds)
