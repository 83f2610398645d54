"""A storage in memory, for tests and examples: the reference of what the storage port promises."""

from ai_retry.testing.memory.app import GenerationRefused, MemoryApp, SessionRefused, new_session
from ai_retry.testing.memory.rows import Row
from ai_retry.testing.memory.storage import MemoryStorage

__all__ = ["GenerationRefused", "MemoryApp", "MemoryStorage", "Row", "SessionRefused", "new_session"]
