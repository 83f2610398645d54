"""Metrics and traces, as hooks: ``PrometheusEvents`` (extra ``metrics``), ``OpenTelemetryEvents`` (extra ``otel``).

Nothing here is imported by the rest, and each library is only imported when its class is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_retry.telemetry.otel import OpenTelemetryEvents
    from ai_retry.telemetry.prometheus import PrometheusEvents

__all__ = ["OpenTelemetryEvents", "PrometheusEvents"]

_PLACES = {"OpenTelemetryEvents": "ai_retry.telemetry.otel", "PrometheusEvents": "ai_retry.telemetry.prometheus"}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _PLACES:
        raise AttributeError(name)
    return getattr(import_module(_PLACES[name]), name)
