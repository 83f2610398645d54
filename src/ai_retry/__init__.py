"""Retries failed AI generations on Supabase: nothing twice, nothing lost.

``connect()`` wires everything from the environment; ``generate`` and ``retry_generation`` are the pure domain functions
for those who bring their own storage, provider and clock. Importing this package imports only the domain.
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
from ai_retry.domain.first_call import generate
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
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.retry import retry_generation, retry_status

if TYPE_CHECKING:
    from ai_retry.client import Client
    from ai_retry.config import Settings
    from ai_retry.domain.ports import AiProvider
    from ai_retry.problems import Problem

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
    "Outlook",
    "QuotaRule",
    "RetryPolicy",
    "RetryRefused",
    "RetryResult",
    "StorageFailure",
    "Waiver",
    "connect",
    "generate",
    "problem",
    "retry_generation",
    "retry_status",
]


def connect(
    settings: "Settings | None" = None, *, context_from: ContextFrom | None = None, ai: "AiProvider | None" = None
) -> "Client":
    """Make a client from the environment, or from ``settings``; see ``ai_retry.bootstrap.connect``."""
    from ai_retry import bootstrap  # noqa: PLC0415 (heavy libraries load when they are asked for)

    return bootstrap.connect(settings, context_from=context_from, ai=ai)


def problem(error: Exception) -> "Problem":
    """Return what HTTP answers for an error: code, status, message, wait and details, for views of one's own.

    An exception that is not this library's becomes ``INTERNAL``; its text, which may hold a row or a prompt, is left
    out.
    """
    from ai_retry.problems import problem_of  # noqa: PLC0415 (heavy libraries load when they are asked for)

    return problem_of(error)
