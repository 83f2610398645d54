"""What the forkserver imports once for all workers. A process that imports it ends with its parent."""

from tests.faults import clicker, worker
from tools.processes import ends_with_parent

__all__ = ["clicker", "worker"]

ends_with_parent()
