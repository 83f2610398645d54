"""Connections belong to the process that opened them: a fork that used its parent's would read the parent's replies.

A server that loads the app before it forks (``gunicorn --preload``) may have asked the database by then.
"""

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """Something that holds connections."""

    def leave_connections(self) -> None:
        """In a new process: use new connections from now on, and leave the parent's open, which are the parent's."""
        ...


_known: WeakSet[Forked] = WeakSet()


def leave_connections_in_forks(holder: Forked) -> None:
    """Let each process that is forked from now on have connections of its own."""
    _known.add(holder)


def _in_child() -> None:
    for holder in list(_known):
        holder.leave_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
