"""Reads everything that is logged while the tests run, and finds what no log may hold.

All loggers at all levels count, formatted with their arguments, exceptions and extra members, as a handler gets them
(after the filters of their logger), whether or not there is one; so do the logs of gunicorn, the events that hooks are
given, what is exposed to Prometheus, spans, what is sent to a webhook, and the console's pages (but for the paid answer
that an admin asks for). Not read: what PostgreSQL and Supabase Lite, which are no part of the product, write into their
own files, and what the processes of the CLI's tests print.

A finding names logger, level, place and test, never the secret.
"""

import logging
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from os import environ
from pathlib import Path
from typing import Any

from tools.npm import REPOSITORY

PATTERNS = {
    "a JWT": re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    "a secret key of Supabase": re.compile(r"sb_secret_[A-Za-z0-9_-]{3,}"),
    "credentials of a header": re.compile(r"(?i)\b(?:bearer|basic) +[A-Za-z0-9._~+/-]{6,}"),
    "a password in an address": re.compile(r"://[^\s/:@]*:[^\s/@]+@"),
}
# Words that the tests use as prompts, answers, keys and passwords; `test_log_scan` proves that they still do.
CANARIES = {
    "a prompt": (
        "Plan an easy run",
        "An easy run for a beginner",
        "left knee hurts",
        "a prompt that no log may hold",
        "the user's own words",
    ),
    "an answer": ("Easy run", "Intervals", "the model's own words"),
    "a key": (
        "sk-test-0123456789abcdef",
        "sk-or-v1-0123456789",
        "a-private-key",
        "provider-key",
        "header-key",
        "hs256-secret-",
        "a-project-secret-that-is",
        "another-secret-that-is",
    ),
    "a password": ("correct horse", "db-password"),
    "a row": ("the row is secret",),
}
_ORDINARY = set(vars(logging.makeLogRecord({})))


@dataclass
class LogScan:
    """Collects what was found, each place once."""

    findings: dict[str, None] = field(default_factory=dict)
    records: int = 0
    _secrets: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Know the canaries."""
        for kind, words in CANARIES.items():
            self.know(kind, words)

    def know(self, kind: str, secrets: Iterable[str]) -> None:
        """Look for these from now on."""
        self._secrets |= {secret: kind for secret in secrets if secret}

    def read_record(self, record: logging.LogRecord) -> None:
        """Read one record as any handler could write it."""
        self.records += 1
        place = record.pathname.removeprefix(f"{REPOSITORY}/")
        self.read(text_of(record), f"{record.name} {record.levelname} at {place}:{record.lineno}")

    def read_sink(self, name: str, text: str) -> None:
        """Read what a hook, a scrape or an exporter was given."""
        self.records += 1
        self.read(text, name)

    def read_file(self, name: str, path: Path) -> None:
        """Read a log file, line by line; one that is gone holds nothing."""
        if path.exists():
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                self.read(line, f"{name} line {number}")

    def read(self, text: str, place: str) -> None:
        """Look for everything in text."""
        kinds = {kind for secret, kind in self._secrets.items() if secret in text}
        kinds |= {kind for kind, pattern in PATTERNS.items() if pattern.search(text)}
        for kind in sorted(kinds):
            self.findings[f"{kind} in the log: {place}, in {environ.get('PYTEST_CURRENT_TEST', 'no test')}"] = None


def text_of(record: logging.LogRecord) -> str:
    """Format a record with all that it carries."""
    try:
        parts = [record.getMessage()]
    except (TypeError, ValueError, KeyError):  # logging itself prints what does not fit together
        parts = [str(record.msg), repr(record.args)]
    if record.exc_info and record.exc_info[1] is not None:
        parts += traceback.format_exception(record.exc_info[1])
    parts += [record.stack_info or "", record.exc_text or ""]
    parts += [repr(value) for name, value in vars(record).items() if name not in _ORDINARY]
    return "\n".join(parts)


SCAN = LogScan()
"""The test run's own."""


def listen(patch: Any) -> None:
    """Let every logger make every record and show it to ``SCAN`` first; what handlers get stays as it is.

    Args:
        patch: a ``pytest.MonkeyPatch``, whose ``undo`` ends it.
    """
    from tools.stack import Stack  # noqa: PLC0415 - it is not needed to read a log

    is_enabled, call_handlers, make_stack = logging.Logger.isEnabledFor, logging.Logger.callHandlers, Stack.__init__

    def shown(logger: logging.Logger, record: logging.LogRecord) -> None:
        SCAN.read_record(record)
        if is_enabled(logger, record.levelno):
            call_handlers(logger, record)

    def known(stack: Stack, *arguments: Any, **named: Any) -> None:
        make_stack(stack, *arguments, **named)
        SCAN.know("a key of the stack", (stack.secret_key, stack.publishable_key, stack.jwt_secret))

    _listen_to_sinks(patch)
    patch.setattr(logging.Logger, "isEnabledFor", lambda _logger, _level: True)
    patch.setattr(logging.Logger, "callHandlers", shown)
    patch.setattr(Stack, "__init__", known)


def _listen_to_sinks(patch: Any) -> None:
    """Read every event that a client's hooks are given, every exposition of metrics and every span, too."""
    from ai_retry.hooks import Events  # noqa: PLC0415 - it is not needed to read a log

    emit = Events.__call__

    def emitted(hooks: Events, event: Any) -> None:
        SCAN.read_sink("events", repr(event))
        emit(hooks, event)

    patch.setattr(Events, "__call__", emitted)
    _listen_to_webhooks(patch)
    if find_spec("prometheus_client") is not None:  # a library that is not installed exposes nothing
        _listen_to_metrics(patch)
    if find_spec("opentelemetry") is not None:
        _listen_to_spans(patch)
    if find_spec("flask") is not None:
        _listen_to_pages(patch)


def _listen_to_webhooks(patch: Any) -> None:
    from ai_retry.webhooks.receiver import Answered, Receiver, body_of  # noqa: PLC0415 - it is not needed to read a log

    post = Receiver.post

    def posted(receiver: Receiver, message: Any) -> Answered:
        SCAN.read_sink("webhooks", body_of(message).decode())
        return post(receiver, message)

    patch.setattr(Receiver, "post", posted)


def _listen_to_metrics(patch: Any) -> None:
    from ai_retry.telemetry.prometheus import Exposition  # noqa: PLC0415 - its library may be absent

    expose = Exposition.__call__

    def exposed(exposition: Exposition, accept: str = "") -> tuple[str, bytes]:
        answer = expose(exposition, accept)
        SCAN.read_sink("metrics", answer[1].decode())
        return answer

    patch.setattr(Exposition, "__call__", exposed)


def _listen_to_spans(patch: Any) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415 - the same

    export = InMemorySpanExporter.export

    def exported(exporter: InMemorySpanExporter, spans: Any) -> Any:
        for span in spans:
            SCAN.read_sink("spans", span.to_json())
        return export(exporter, spans)

    patch.setattr(InMemorySpanExporter, "export", exported)


def _listen_to_pages(patch: Any) -> None:
    from ai_retry.flask.console import guard, rendering  # noqa: PLC0415 - its library may be absent

    render = rendering.rendered

    def rendered(visit: Any, page: Any) -> str:
        html = render(visit, page)
        if page.values.get("answer") is None:
            SCAN.read_sink(f"the console's page {page.template}", html)
        return html

    patch.setattr(guard, "rendered", rendered)
