"""The requests of an attempt, in words for people."""

from collections.abc import Sequence
from datetime import timedelta

from ai_retry.domain.model import ProviderCall
from ai_retry.tables import printable


def in_brief(calls: Sequence[ProviderCall]) -> str | None:
    """Write each model and what came of it, as ``small: AI_UNAVAILABLE, large: ok``; None: no request is known."""
    return ", ".join(f"{_model(each)}: {_end(each)}" for each in calls) or None


def in_full(calls: Sequence[ProviderCall]) -> str:
    """Write each request with all that is known of it."""
    return ", then ".join(
        f"{_model(each)}{f' at {printable(each.provider)}' if each.provider else ''} ({', '.join(_facts(each))})"
        for each in calls
    )


def _model(call: ProviderCall) -> str:
    return printable(call.model or "the default model")


def _end(call: ProviderCall) -> str:
    return call.code.value if call.code is not None else "ok"


def _facts(call: ProviderCall) -> list[str]:
    usage = call.usage
    facts = [
        _end(call),
        f"HTTP {call.http_status}" if call.http_status is not None else "",
        f"{usage.total_tokens} tokens" if usage is not None and usage.total_tokens is not None else "",
        f"cost {usage.cost:f}" if usage is not None and usage.cost is not None else "",
        f"{round(call.duration / timedelta(milliseconds=1))} ms" if call.duration is not None else "",
    ]
    return [each for each in facts if each]
