"""What a worker exposes of itself: metrics at one port, its health at one; they may be the same."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from ai_retry.cli.commands._health import WorkerHealth
from ai_retry.cli.commands._ports import Answer, answering
from ai_retry.config import Settings
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.queue_model import QueueState
from ai_retry.events import Hook
from ai_retry.storage.spool_files import SpoolFiles


class Observed:
    """The hooks of a worker, and the ports that answer for them.

    Args:
        settings: the worker's.
        metrics_port: answers ``/metrics``; None: none does.
        health_port: answers ``/healthz``; None: none does.

    Raises:
        NotConfigured: the extra ``metrics`` is not installed.
    """

    def __init__(self, settings: Settings, *, metrics_port: int | None, health_port: int | None) -> None:
        self._spool_dir = settings.spool_dir
        self._metrics_port, self._health_port = metrics_port, health_port
        self._health = WorkerHealth(settings.policy.deadline.total_seconds())
        self._metrics = _prometheus().PrometheusEvents(models=models_of(settings)) if metrics_port is not None else None

    @property
    def hooks(self) -> Sequence[Hook]:
        """What the worker gives its events to."""
        return [self._health, *([self._metrics] if self._metrics is not None else [])]

    @contextmanager
    def answering(self, state: Callable[[], QueueState], address: str) -> Iterator[None]:
        """Answer meanwhile.

        Raises:
            NotConfigured: a port can't be listened at.
        """
        pages: dict[int, dict[str, Callable[[str], Answer]]] = defaultdict(dict)
        if self._metrics is not None and self._metrics_port is not None:
            files = SpoolFiles(self._spool_dir) if self._spool_dir is not None else None
            exposition = self._metrics.exposition(state, spool_files=(lambda: len(files.names())) if files else None)
            pages[self._metrics_port]["/metrics"] = lambda accept: (200, *exposition(accept))
        if self._health_port is not None:
            pages[self._health_port]["/healthz"] = self._health.page(state)
        with ExitStack() as ports:
            for port, of_port in pages.items():
                ports.enter_context(answering(port, address, of_port))
            yield


def models_of(settings: Settings) -> set[str]:
    """List the models that the settings name."""
    named = [settings.ai_model, *settings.ai_fallback_models, *(each.model for each in settings.ai_fallbacks)]
    return {*(settings.ai_models or ()), *(name for name in named if name)}


def _prometheus() -> Any:
    try:
        return import_module("ai_retry.telemetry.prometheus")
    except ModuleNotFoundError as error:
        raise NotConfigured(f"{error.name} is not installed: install ai-retry with its extra metrics") from None
