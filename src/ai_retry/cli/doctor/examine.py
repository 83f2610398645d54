"""Examines a set-up: fetches the facts, has them judged, changes nothing."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from ai_retry import bootstrap
from ai_retry.cli.doctor import outside
from ai_retry.cli.doctor.case import Case
from ai_retry.cli.doctor.contexts import contexts, newest, not_searched
from ai_retry.cli.doctor.database import judge
from ai_retry.cli.doctor.model import Check, Database, Finding, Level
from ai_retry.cli.doctor.outside import Reach
from ai_retry.cli.doctor.shipped import shipped
from ai_retry.cli.doctor.spool import spool
from ai_retry.config import Settings
from ai_retry.domain.errors import AiRetryError, NotConfigured
from ai_retry.domain.model import Context, ResponseFormat
from ai_retry.domain.ports import Clock
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.recovery import RecoveryStorage

_PATIENCE = 3.0  # seconds for a plain connection
_PORTS = {"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432}
_NEEDED_TO_READ = {Check.MIGRATIONS, Check.GRANTS}
_IN_THE_DATABASE = {
    *(Check.MIGRATIONS, Check.GRANTS, Check.ROW_LEVEL_SECURITY, Check.SEAM, Check.QUEUE, Check.CONTEXTS, Check.CLOCK)
}


@dataclass(frozen=True, slots=True)
class Examination:
    """What was looked at, and what is wrong."""

    findings: tuple[Finding, ...]
    skipped: frozenset[Check]  # could not be looked at, because of another finding

    def result(self, check: Check) -> str:
        """Sum a check up: ok, hint, problem or skipped."""
        if check in self.skipped:
            return "skipped"
        levels = {each.level for each in self.of(check)}
        return next((str(level) for level in Level if level in levels), "ok")

    def of(self, check: Check) -> list[Finding]:
        """The findings of one check."""
        return [each for each in self.findings if each.check is check]

    @property
    def problems(self) -> list[Finding]:
        """The findings that are more than a hint."""
        return [each for each in self.findings if each.level is Level.PROBLEM]


def examine(environ: Mapping[str, str] = os.environ, *, clock: Clock) -> Examination:
    """Look at everything that can be looked at. Reads only, safe at any time; raises nothing for what it finds.

    Args:
        environ: the settings, as ``connect`` reads them.
        clock: this machine's time, to be compared with the database's.
    """
    try:
        settings = Settings.from_env(environ)
    except NotConfigured as error:
        findings = (*outside.configuration(error), *outside.misspelt(environ))
        return Examination(findings, frozenset(Check) - {Check.CONFIGURATION})
    reader, unusable = _reader(settings)
    around = [*unusable, *outside.misspelt(environ), *outside.deadline(settings.policy), *_provider(settings)]
    try:
        with closing(bootstrap.open_storage(settings)) as storage:
            before = clock.now()
            database = Database.from_row(storage.inspect())
            after = clock.now()
            case = Case(database, shipped(), models_are_restricted=settings.ai_models is not None)
            judged = judge(case)
            readable = reader is not None and not any(each.check in _NEEDED_TO_READ for each in judged)
            if reader is not None and readable:
                judged += _failed_generations(storage, database, settings, reader)
            judged += spool(settings.spool_dir, storage)
    except (AiRetryError, KeyError, TypeError, ValueError) as error:
        finding = _unasked(settings, error)
        around += spool(settings.spool_dir)
        return Examination((*around, finding), frozenset(_IN_THE_DATABASE - {finding.check}))
    skipped = frozenset() if readable else frozenset({Check.CONTEXTS})
    return Examination((*around, *judged, *outside.clock(before, database.as_of, after)), skipped)


def _reader(settings: Settings) -> tuple[ContextFrom | None, list[Finding]]:
    """Find the reader of contexts, or say why it can't be used."""
    try:
        return bootstrap.context_reader(settings), []
    except NotConfigured as error:
        return None, list(outside.configuration(error))


def _unasked(settings: Settings, error: Exception) -> Finding:
    if not isinstance(error, AiRetryError):
        error = NotConfigured("ai_retry_inspect is of another version: apply the migrations of this one")
    variable = "SUPABASE_URL" if settings.database_url is None else "DATABASE_URL"
    return outside.connection(error, variable, reach(settings.database_url or str(settings.supabase_url)))


def _provider(settings: Settings) -> Iterator[Finding]:
    from ai_retry.cli.doctor.provider import ask  # noqa: PLC0415 - imports requests

    asked = ask(settings)
    far = Reach.OPEN if asked.status is not None else reach(settings.ai_base_url)
    return outside.provider(asked, far)


def _failed_generations(
    storage: RecoveryStorage, database: Database, settings: Settings, reader: ContextFrom
) -> Iterator[Finding]:
    """Read the newest failed generations once, and judge the reader and what it read."""
    from ai_retry.cli.doctor.questions import strictness  # noqa: PLC0415 - imports jsonschema

    try:
        read = newest(storage, database, settings, reader)
    except AiRetryError as error:
        yield not_searched(error)
        return
    yield from contexts(read, reader)
    if settings.ai_response_format is ResponseFormat.JSON_SCHEMA:
        yield from strictness([each for each in read if isinstance(each, Context)])


def reach(url: str) -> Reach:
    """Try a plain connection to the host and port of an address, without a proxy."""
    try:
        parts = urlsplit(url)
        place = (parts.hostname or "localhost", parts.port or _PORTS.get(parts.scheme, 443))
        with socket.create_connection(place, timeout=_PATIENCE):
            return Reach.OPEN
    except (socket.gaierror, UnicodeError):
        return Reach.UNKNOWN_HOST
    except ConnectionRefusedError:
        return Reach.REFUSED
    except (OSError, ValueError):
        return Reach.SILENT
