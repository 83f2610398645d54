"""How a process of these tests surely ends, frozen or not, whatever becomes of the process that runs them."""

import signal

from tools.processes import ends_with_parent


def ends_within(seconds: int) -> None:
    """Let the kernel kill this process when its parent, the forkserver, is gone, and when its time is over."""
    ends_with_parent()
    signal.alarm(seconds)
