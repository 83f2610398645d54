"""Retries failed AI generations on Supabase: nothing twice, nothing lost.

``connect()`` wires everything from the environment; ``retry_generation`` is the pure domain function for those who
bring their own storage, provider and clock. Importing this package imports the domain alone.
"""

from typing import TYPE_CHECKING

from ai_retry.domain.errors import (
    AiRetryError,
    GenerationFailed,
    GenerationNotFound,
    NotConfigured,
    RetryRefused,
    StorageFailure,
)
from ai_retry.domain.model import (
    Answer,
    Context,
    Failure,
    FailureCode,
    Generation,
    QuotaRule,
    RetryResult,
    Waiver,
)
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.retry import retry_generation, retry_status

if TYPE_CHECKING:
    from ai_retry.client import Client
    from ai_retry.config import Settings

__all__ = [
    "AiRetryError",
    "Answer",
    "Context",
    "Failure",
    "FailureCode",
    "Generation",
    "GenerationFailed",
    "GenerationNotFound",
    "NotConfigured",
    "QuotaRule",
    "RetryPolicy",
    "RetryRefused",
    "RetryResult",
    "StorageFailure",
    "Waiver",
    "connect",
    "retry_generation",
    "retry_status",
]


def connect(settings: "Settings | None" = None, *, context_from: ContextFrom | None = None) -> "Client":
    """Make a client from the environment, or from ``settings``; see ``ai_retry.bootstrap.connect``."""
    from ai_retry import bootstrap  # noqa: PLC0415 (heavy libraries load when they are asked for)

    return bootstrap.connect(settings, context_from=context_from)
