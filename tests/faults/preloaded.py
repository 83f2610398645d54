"""What the forkserver imports once for all workers. Imported by nobody else: who does, ends with its parent."""

from tests.faults import clicker, ending, worker

__all__ = ["clicker", "worker"]

ending.ends_with_parent()
