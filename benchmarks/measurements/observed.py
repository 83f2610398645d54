"""What it costs to be watched: attempts per second with log, metrics and traces, and without any of them."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from uuid import UUID

import psycopg
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from ai_retry.client import Client
from ai_retry.events import Hook
from ai_retry.logs import JsonFormatter
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.telemetry import OpenTelemetryEvents, PrometheusEvents
from benchmarks.app_rows import AT_ONCE, failed_generations
from benchmarks.rates.protocol import spread
from benchmarks.sampling import short
from benchmarks.section import Aim, Section
from benchmarks.sizes import Sizes
from tools.stack import Stack

WORKERS = (1, 8)
_TRIAL = 64
_WITHOUT, _ALL = "without", "log as JSON, metrics, traces"

NOTES = [
    "Without is a client with no hook, whose log nothing listens to; watched is one whose log is written as JSON at "
    "INFO, with Prometheus metrics, and with spans that the SDK hands to an exporter in batches.",
]


class Watched:
    """A client, with every consumer of events or none."""

    def __init__(self, storage: PostgresStorage, database: psycopg.Connection, *, is_watched: bool) -> None:
        self._database, self._is_watched = database, is_watched
        self._tracers, self._meters = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
        self._tracers.add_span_processor(BatchSpanProcessor(_Nowhere()))
        hooks: list[Hook] = [PrometheusEvents(models=["small"]), OpenTelemetryEvents(self._tracers, self._meters)]
        self._client = Client(storage=storage, ai=AT_ONCE, on_event=hooks if is_watched else ())

    def run(self, workers: int, count: int) -> float:
        """See the protocol."""
        rows = failed_generations(self._database, count)
        with _logging(logging.INFO if self._is_watched else logging.WARNING):
            began = time.perf_counter()
            spread(self._one, rows, workers)
            return time.perf_counter() - began

    def close(self) -> None:
        """End what the SDK runs."""
        self._tracers.shutdown()
        self._meters.shutdown()

    def _one(self, row: tuple[UUID, UUID]) -> None:
        self._client.retry_generation(*row)


class _Nowhere(SpanExporter):
    """Takes spans, and sends them nowhere."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        """Do nothing."""
        return SpanExportResult.SUCCESS


@contextmanager
def _logging(level: int) -> Iterator[None]:
    logger = logging.getLogger("ai_retry")
    with Path(os.devnull).open("w") as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Take turns."""
    storage = PostgresStorage(stack.database_url)
    rates: dict[tuple[str, int], list[float]] = {(way, workers): [] for way in (_WITHOUT, _ALL) for workers in WORKERS}
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        ways = {way: Watched(storage, database, is_watched=way == _ALL) for way in (_WITHOUT, _ALL)}
        count = max(_TRIAL, int(sizes.seconds * _TRIAL / ways[_WITHOUT].run(1, _TRIAL)))
        for _ in range(sizes.rounds):
            for (way, workers), measured in rates.items():
                measured.append(count / ways[way].run(workers, count))
        for each in ways.values():
            each.close()
    storage.close()
    found = {key: median(each) for key, each in rates.items()}
    return Section(
        title="What it costs to be watched",
        header=("", *(f"{workers} at once" for workers in WORKERS)),
        rows=[(way, *(f"{short(found[way, workers])} attempts/s" for workers in WORKERS)) for way in ways],
        notes=NOTES,
        aims=[
            Aim(
                text=f"watched / without, {workers} at once",
                limit=0.9,
                measured=found[_ALL, workers] / found[_WITHOUT, workers],
            )
            for workers in WORKERS
        ],
        data={"rates": {f"{way}, {workers}": each for (way, workers), each in rates.items()}},
    )
