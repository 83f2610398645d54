"""Retries failed AI generations on Supabase: nothing twice, nothing lost.

``connect()`` wires everything from the environment; ``generate`` and ``retry_generation`` are the pure domain functions
for those who bring their own storage, provider and clock. Importing this package imports nothing else: each name below
is imported when it is used for the first time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ai_retry.auth import TokenVerifier
    from ai_retry.bootstrap import settle, verifier
    from ai_retry.cli.doctor import Examination
    from ai_retry.client import Client
    from ai_retry.clock import SystemClock
    from ai_retry.config import Settings
    from ai_retry.domain.context import stored_context
    from ai_retry.domain.errors import (
        AiRetryError,
        AlreadySucceeded,
        AttemptsExhausted,
        AuthUnavailable,
        BackoffNotElapsed,
        ContextMissing,
        GenerationFailed,
        GenerationNotFound,
        IdempotencyConflict,
        LeaseLost,
        NotConfigured,
        QuotaExhausted,
        RetryCancelled,
        RetryEnded,
        RetryExpired,
        RetryInProgress,
        RetryPoisoned,
        RetryRefused,
        RouteUnavailable,
        SessionConflict,
        SessionRejected,
        StorageFailure,
        StorageOutcomeUnknown,
        StorageUnavailable,
        TooManyParallel,
        Unauthenticated,
    )
    from ai_retry.domain.first_call import generate
    from ai_retry.domain.listing import GenerationPage
    from ai_retry.domain.model import (
        Answer,
        Attempt,
        Context,
        Failure,
        FailureCode,
        Generation,
        GenerationStatus,
        Outcome,
        Quota,
        QuotaRule,
        ResponseFormat,
        RetryResult,
        Snapshot,
        Usage,
        Waiver,
    )
    from ai_retry.domain.operation import Action, AttemptRecord, OperatorStorage, Overview, Period, RouteReport
    from ai_retry.domain.outlook import Outlook
    from ai_retry.domain.policy import RetryPolicy
    from ai_retry.domain.ports import AiProvider, Clock, QueueStorage, Storage
    from ai_retry.domain.queue_model import QueuedRetry, QueueState, RouteState
    from ai_retry.domain.reader import ContextFrom
    from ai_retry.domain.recovery import Decision, RecoveryStorage, UnreadableRow
    from ai_retry.domain.retry import retry_generation, retry_status
    from ai_retry.events import Event, OnEvent
    from ai_retry.operate.alarms import Alarm
    from ai_retry.operate.operations import Operations
    from ai_retry.operate.operator import NotAllowed, Operator
    from ai_retry.operate.views import Failures, Moment, Timeline, UserState
    from ai_retry.problems import Problem
    from ai_retry.providers.fallback import FallbackProvider
    from ai_retry.providers.function import FunctionProvider
    from ai_retry.providers.http import HttpAiProvider
    from ai_retry.providers.reask import ReaskProvider
    from ai_retry.recovery.choice import Estimates
    from ai_retry.recovery.found import Found
    from ai_retry.recovery.generation import FoundGeneration
    from ai_retry.recovery.methods import Diagnosis
    from ai_retry.recovery.plan import Plan
    from ai_retry.recovery.report import Report, ReportLine
    from ai_retry.recovery.summary import Summary
    from ai_retry.recovery.why import Explanation
    from ai_retry.storage.spool import Spool, SpoolReport
    from ai_retry.worker import Worker

__all__ = [
    "Action",
    "AiProvider",
    "AiRetryError",
    "Alarm",
    "AlreadySucceeded",
    "Answer",
    "Attempt",
    "AttemptRecord",
    "AttemptsExhausted",
    "AuthUnavailable",
    "BackoffNotElapsed",
    "Client",
    "Clock",
    "Context",
    "ContextFrom",
    "ContextMissing",
    "Decision",
    "Diagnosis",
    "Estimates",
    "Event",
    "Explanation",
    "Failure",
    "FailureCode",
    "Failures",
    "FallbackProvider",
    "Found",
    "FoundGeneration",
    "FunctionProvider",
    "Generation",
    "GenerationFailed",
    "GenerationNotFound",
    "GenerationPage",
    "GenerationStatus",
    "HttpAiProvider",
    "IdempotencyConflict",
    "LeaseLost",
    "Moment",
    "NotAllowed",
    "NotConfigured",
    "Operations",
    "Operator",
    "OperatorStorage",
    "Outcome",
    "Outlook",
    "Overview",
    "Period",
    "Plan",
    "Problem",
    "QueueState",
    "QueueStorage",
    "QueuedRetry",
    "Quota",
    "QuotaExhausted",
    "QuotaRule",
    "ReaskProvider",
    "RecoveryStorage",
    "Report",
    "ReportLine",
    "ResponseFormat",
    "RetryCancelled",
    "RetryEnded",
    "RetryExpired",
    "RetryInProgress",
    "RetryPoisoned",
    "RetryPolicy",
    "RetryRefused",
    "RetryResult",
    "RouteReport",
    "RouteState",
    "RouteUnavailable",
    "SessionConflict",
    "SessionRejected",
    "Settings",
    "Snapshot",
    "Spool",
    "SpoolReport",
    "Storage",
    "StorageFailure",
    "StorageOutcomeUnknown",
    "StorageUnavailable",
    "Summary",
    "SystemClock",
    "Timeline",
    "TokenVerifier",
    "TooManyParallel",
    "Unauthenticated",
    "UnreadableRow",
    "Usage",
    "UserState",
    "Waiver",
    "Worker",
    "connect",
    "generate",
    "problem",
    "retry_generation",
    "retry_status",
    "settle",
    "stored_context",
    "verifier",
]

_LAZY: Final = {
    "Action": "domain.operation",
    "AiProvider": "domain.ports",
    "AiRetryError": "domain.errors",
    "Alarm": "operate.alarms",
    "AlreadySucceeded": "domain.errors",
    "Answer": "domain.model",
    "Attempt": "domain.model",
    "AttemptRecord": "domain.operation",
    "AttemptsExhausted": "domain.errors",
    "AuthUnavailable": "domain.errors",
    "BackoffNotElapsed": "domain.errors",
    "Client": "client",
    "Clock": "domain.ports",
    "Context": "domain.model",
    "ContextFrom": "domain.reader",
    "ContextMissing": "domain.errors",
    "Decision": "domain.recovery",
    "Diagnosis": "recovery.methods",
    "Estimates": "recovery.choice",
    "Event": "events",
    "Explanation": "recovery.why",
    "Failure": "domain.model",
    "FailureCode": "domain.model",
    "Failures": "operate.views",
    "FallbackProvider": "providers.fallback",
    "Found": "recovery.found",
    "FoundGeneration": "recovery.generation",
    "FunctionProvider": "providers.function",
    "Generation": "domain.model",
    "GenerationFailed": "domain.errors",
    "GenerationNotFound": "domain.errors",
    "GenerationPage": "domain.listing",
    "GenerationStatus": "domain.model",
    "HttpAiProvider": "providers.http",
    "IdempotencyConflict": "domain.errors",
    "LeaseLost": "domain.errors",
    "Moment": "operate.views",
    "NotAllowed": "operate.operator",
    "NotConfigured": "domain.errors",
    "Operations": "operate.operations",
    "Operator": "operate.operator",
    "OperatorStorage": "domain.operation",
    "Outcome": "domain.model",
    "Outlook": "domain.outlook",
    "Overview": "domain.operation",
    "Period": "domain.operation",
    "Plan": "recovery.plan",
    "Problem": "problems",
    "QueueState": "domain.queue_model",
    "QueueStorage": "domain.ports",
    "QueuedRetry": "domain.queue_model",
    "Quota": "domain.model",
    "QuotaExhausted": "domain.errors",
    "QuotaRule": "domain.model",
    "ReaskProvider": "providers.reask",
    "RecoveryStorage": "domain.recovery",
    "Report": "recovery.report",
    "ReportLine": "recovery.report",
    "ResponseFormat": "domain.model",
    "RetryCancelled": "domain.errors",
    "RetryEnded": "domain.errors",
    "RetryExpired": "domain.errors",
    "RetryInProgress": "domain.errors",
    "RetryPoisoned": "domain.errors",
    "RetryPolicy": "domain.policy",
    "RetryRefused": "domain.errors",
    "RetryResult": "domain.model",
    "RouteReport": "domain.operation",
    "RouteState": "domain.queue_model",
    "RouteUnavailable": "domain.errors",
    "SessionConflict": "domain.errors",
    "SessionRejected": "domain.errors",
    "Settings": "config",
    "Snapshot": "domain.model",
    "Spool": "storage.spool",
    "SpoolReport": "storage.spool",
    "Storage": "domain.ports",
    "StorageFailure": "domain.errors",
    "StorageOutcomeUnknown": "domain.errors",
    "StorageUnavailable": "domain.errors",
    "Summary": "recovery.summary",
    "SystemClock": "clock",
    "Timeline": "operate.views",
    "TokenVerifier": "auth",
    "TooManyParallel": "domain.errors",
    "Unauthenticated": "domain.errors",
    "UnreadableRow": "domain.recovery",
    "Usage": "domain.model",
    "UserState": "operate.views",
    "Waiver": "domain.model",
    "Worker": "worker",
    "generate": "domain.first_call",
    "retry_generation": "domain.retry",
    "retry_status": "domain.retry",
    "settle": "bootstrap",
    "stored_context": "domain.context",
    "verifier": "bootstrap",
}


def __getattr__(name: str) -> object:
    """Import a name when it is used for the first time."""
    if (module := _LAZY.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """List all names, also those that are imported when they are used."""
    return sorted({*globals(), *__all__})


def connect(
    settings: "Settings | None" = None,
    *,
    context_from: "ContextFrom | None" = None,
    ai: "AiProvider | None" = None,
    on_event: "OnEvent" = (),
) -> "Client":
    """Make a client from the environment, or from ``settings``; see ``ai_retry.bootstrap.connect``."""
    from ai_retry import bootstrap  # noqa: PLC0415 (heavy libraries load when they are asked for)

    doctor = _doctor if settings is None else None
    return bootstrap.connect(settings, context_from=context_from, ai=ai, doctor=doctor, on_event=on_event)


def problem(error: Exception) -> "Problem":
    """Return what HTTP answers for an error: code, status, message, wait and details, for views of one's own.

    An exception that is not this library's becomes ``INTERNAL``; its text, which may hold a row or a prompt, is left
    out.
    """
    from ai_retry.problems import problem_of  # noqa: PLC0415 (heavy libraries load when they are asked for)

    return problem_of(error)


def _doctor() -> "Examination":
    """Examine what the environment names, as ``ai-retry doctor`` does."""
    from ai_retry.cli.doctor import examine  # noqa: PLC0415 (heavy libraries load when they are asked for)
    from ai_retry.clock import SystemClock  # noqa: PLC0415

    return examine(clock=SystemClock())
