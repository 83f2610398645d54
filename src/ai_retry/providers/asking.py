"""Asks a provider as a part of an attempt of several calls: what it raises becomes a value, and each call is listed."""

import hashlib
from collections.abc import Callable
from datetime import timedelta

from ai_retry.domain.calls import noted
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure
from ai_retry.domain.ports import AiProvider


def ask(
    provider: AiProvider,
    context: Context,
    *,
    timeout: timedelta,
    idempotency_key: str,
    monotonic: Callable[[], float],
    name: str | None = None,
    route: str | None = None,
) -> Answer | Failure:
    """Make one call, and list it.

    Args:
        provider: is asked.
        context: what to ask.
        timeout: for the call.
        idempotency_key: of this call, and of no other one of the attempt.
        monotonic: measures it.
        name: of the provider, for the record.
        route: that it goes to.
    """
    began = monotonic()
    result: Answer | Failure
    try:
        result = provider.generate(context, timeout=timeout, idempotency_key=idempotency_key)
    except GenerationFailed as failed:
        result = failed.failure
    ended = monotonic()
    duration = timedelta(seconds=ended - began)
    return noted(result, duration=duration, model=context.model, provider=name, route=route, ended=ended)


def key_of(idempotency_key: str, *call: object) -> str:
    """Name a further call of an attempt for providers that honour an idempotency key: always by the same key."""
    return hashlib.sha256("\n".join((idempotency_key, *map(str, call))).encode()).hexdigest()


def name_of(provider: AiProvider) -> str | None:
    """Return the name that a provider gives itself, if it does."""
    name = getattr(provider, "name", None)
    return name if isinstance(name, str) and name else None


def model_of(provider: AiProvider) -> str | None:
    """Return the model that a provider asks where a context names none, if it says so."""
    model = getattr(provider, "model", None)
    return model if isinstance(model, str) and model else None


def falls_back(provider: AiProvider) -> bool:
    """Whether a provider names several routes: what wraps it would hide them."""
    return callable(getattr(provider, "routes", None))


def prepare(provider: AiProvider) -> None:
    """Let a provider import what its first call needs, if it has a ``prepare``."""
    preparing = getattr(provider, "prepare", None)
    if callable(preparing):
        preparing()


def close(provider: AiProvider) -> None:
    """Free what a provider holds, if it has a ``close``."""
    closing = getattr(provider, "close", None)
    if callable(closing):
        closing()
