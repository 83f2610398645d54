"""What the forkserver imports once for all workers. A process that imports it ends with its parent."""

from ai_retry.providers import response_schema, wire
from tests.faults import clicker, worker
from tools.processes import ends_with_parent

__all__ = ["clicker", "response_schema", "wire", "worker"]

ends_with_parent()
