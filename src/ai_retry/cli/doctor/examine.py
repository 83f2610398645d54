"""Examines a set-up: fetches the facts and has them judged. Changes nothing: what is rehearsed is undone."""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ai_retry import bootstrap
from ai_retry.cli.doctor import outside
from ai_retry.cli.doctor.case import Case
from ai_retry.cli.doctor.contexts import contexts, newest, not_searched
from ai_retry.cli.doctor.database import judge
from ai_retry.cli.doctor.examination import Examination, NotRun
from ai_retry.cli.doctor.model import Check, Database, Finding
from ai_retry.cli.doctor.outside import Reach
from ai_retry.cli.doctor.project import is_declarative, project
from ai_retry.cli.doctor.shipped import shipped
from ai_retry.cli.doctor.spool import spool
from ai_retry.cli.doctor.surroundings import Around
from ai_retry.config import Settings
from ai_retry.domain.errors import AiRetryError, NotConfigured
from ai_retry.domain.model import Context, ResponseFormat
from ai_retry.domain.ports import Clock, QueueStorage
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.recovery import RecoveryStorage

_PATIENCE = 3.0  # seconds for a plain connection
_PORTS = {"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432}
_NEEDED_TO_READ = {Check.MIGRATIONS, Check.GRANTS}
_IN_THE_DATABASE = (
    *(Check.MIGRATIONS, Check.GRANTS, Check.ROW_LEVEL_SECURITY, Check.SESSION_FUNCTION, Check.STATUSES, Check.WRITES),
    *(Check.PUBLICATIONS, Check.QUEUE, Check.CONTEXTS, Check.CLOCK, Check.REHEARSAL),
)
_REHEARSE = "run ai-retry doctor --rehearse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an examination is asked for."""

    rehearse: bool = False  # write what ai-retry writes, and roll it back
    output: Any = field(default=None, repr=False)  # an example of an answer, to rehearse a session with
    project: Path = Path("supabase")  # the project's directory


def examine(environ: Mapping[str, str] = os.environ, *, clock: Clock, asked: Asked | None = None) -> Examination:
    """Look at everything that can be looked at. Safe at any time; raises nothing for what it finds.

    Args:
        environ: the settings, as ``connect`` reads them.
        clock: this machine's time, to be compared with the database's.
        asked: what else to do; by default it only reads.
    """
    return _Examining(environ, clock, asked or Asked()).run()


class _Examining:
    """Collects what is found, and what did not run."""

    def __init__(self, environ: Mapping[str, str], clock: Clock, asked: Asked) -> None:
        self._environ, self._clock, self._asked = environ, clock, asked
        self._findings: list[Finding] = []
        self._not_run: dict[Check, NotRun] = {}

    def run(self) -> Examination:
        self._findings += outside.misspelt(self._environ)
        self._look_at_project()
        try:
            settings = Settings.from_env(self._environ)
        except NotConfigured as error:
            self._findings = [*outside.configuration(error), *self._findings]
            left = set(Check) - {Check.CONFIGURATION, Check.PROJECT}
            self._leave(left, "the configuration is at fault", "correct it first")
        else:
            settings, found = outside.with_a_driver(settings)
            self._findings += found
            reader = self._reader(settings)
            self._findings += [*outside.deadline(settings.policy), *outside.legacy_keys(settings)]
            if settings.webhook_url is not None:
                self._findings += outside.webhook(reach(settings.webhook_url))
            self._ask_providers(settings)
            self._look_into_database(settings, reader)
        return Examination(tuple(self._findings), self._not_run)

    def _leave(self, checks: Iterable[Check], reason: str, remedy: str, *, is_due: bool = True) -> None:
        for check in checks:
            self._not_run.setdefault(check, NotRun(reason, remedy, is_due))

    def _look_at_project(self) -> None:
        directory = self._asked.project
        if is_declarative(directory):
            self._findings += project(directory)
        else:
            reason = f"there are no declarative schemas in {directory}"
            self._leave([Check.PROJECT], reason, "nothing, or start where the project is", is_due=False)

    def _reader(self, settings: Settings) -> ContextFrom | None:
        """Find the reader of contexts, or say why it can't be used."""
        try:
            return bootstrap.context_reader(settings)
        except NotConfigured as error:
            self._findings += outside.configuration(error)
            self._leave([Check.CONTEXTS], "there is no reader to try", "correct AI_RETRY_CONTEXT_FROM first")
            return None

    def _ask_providers(self, settings: Settings) -> None:
        """Ask each provider that the settings describe; one of the app's own is made, and not asked."""
        if settings.provider is None:
            self._findings += [found for each in _described(settings) for found in _provider(*each)]
            return
        try:
            bootstrap.provider_of(settings, self._clock)
        except NotConfigured as error:
            self._findings += outside.configuration(error)
            self._leave([Check.PROVIDER], "there is no provider to ask", "correct AI_RETRY_PROVIDER first")
        else:
            self._leave([Check.PROVIDER], "AI_RETRY_PROVIDER is the app's own", "nothing", is_due=False)

    def _look_into_database(self, settings: Settings, reader: ContextFrom | None) -> None:
        try:
            with closing(bootstrap.open_storage(settings)) as storage:
                before = self._clock.now()
                database = Database.from_row(storage.inspect())
                self._findings += outside.clock(before, database.as_of, self._clock.now())
                self._judge(storage, database, settings)
                self._read_contexts(storage, database, settings, reader)
                self._look_at_spool(settings, storage)
        except (AiRetryError, KeyError, TypeError, ValueError) as error:
            finding = _unasked(settings, error)
            self._findings.append(finding)
            self._leave(set(_IN_THE_DATABASE) - {finding.check}, "the database was not asked", "correct that first")
            self._look_at_spool(settings, None)
            return
        self._look_at_connection(settings)

    def _judge(self, storage: Any, database: Database, settings: Settings) -> None:
        case = Case(
            database,
            shipped(),
            models_are_restricted=settings.ai_models is not None,
            required_aal=settings.required_aal,
            around=self._look_around(settings, database),
            accepted=self._accepted(storage),
        )
        self._findings += judge(case)

    def _look_around(self, settings: Settings, database: Database) -> Around | None:
        looked = (Check.STATUSES, Check.WRITES, Check.PUBLICATIONS)
        if settings.database_url is None:
            remedy = "set DATABASE_URL and run ai-retry doctor once: the project's dashboard has it under Connect"
            self._leave(looked, "it needs a direct connection", remedy, is_due=False)
            return None
        from ai_retry.cli.doctor.around import look_around  # noqa: PLC0415 - imports psycopg

        try:
            around = look_around(settings.database_url, database.binding)
        except AiRetryError as error:
            self._leave(
                looked, f"the catalogue could not be asked: {error}", "correct ai_retry.app_describe, or try again"
            )
            return None
        if around.words is None:
            self._leave([Check.STATUSES], "the binding can't search", "correct ai_retry.app_find first")
        elif not around.words:
            self._leave([Check.STATUSES], "there is no generation yet", "run it again then", is_due=False)
        return around

    def _accepted(self, storage: QueueStorage) -> int:
        """Count accepted retries that have not ended; where they can't be counted, the queue is not said to be fine."""
        try:
            state = storage.state()
        except AiRetryError:
            self._leave([Check.QUEUE], "accepted retries can't be counted", "correct what else is found first")
            return 0
        return state.queued + state.running

    def _read_contexts(
        self, storage: RecoveryStorage, database: Database, settings: Settings, reader: ContextFrom | None
    ) -> None:
        """Read the newest failed generations once, and judge the reader and what it read."""
        if any(each.check in _NEEDED_TO_READ or "ai_retry.app_" in each.problem for each in self._problems()):
            self._leave([Check.CONTEXTS], "the binding or its grants are at fault", "correct that first")
        if reader is None or Check.CONTEXTS in self._not_run:
            return
        try:
            read = newest(storage, database, settings, reader)
        except AiRetryError as error:
            self._findings.append(not_searched(error))
            return
        if not read:
            self._leave([Check.CONTEXTS], "no generation has failed yet", "run it again then", is_due=False)
        self._findings += contexts(read, reader)
        self._findings += _strictness(read, settings)

    def _problems(self) -> list[Finding]:
        return Examination(tuple(self._findings)).problems

    def _look_at_spool(self, settings: Settings, storage: Any) -> None:
        if settings.spool_dir is None:
            self._leave([Check.SPOOL], "AI_RETRY_SPOOL_DIR is not set", "nothing, if none is wanted", is_due=False)
        self._findings += spool(settings.spool_dir, storage)

    def _look_at_connection(self, settings: Settings) -> None:
        """Ask what only a direct connection can be asked."""
        url, asked = settings.database_url, self._asked
        if url is not None:
            from ai_retry.cli.doctor.link import link  # noqa: PLC0415 - imports psycopg

            self._findings += link(url)
        if not asked.rehearse:
            self._leave([Check.REHEARSAL], "it was not asked for", f"{_REHEARSE}: it is rolled back", is_due=False)
        elif url is None:
            self._leave([Check.REHEARSAL], "it needs a direct connection", f"set DATABASE_URL, then {_REHEARSE}")
        else:
            self._rehearse(url)

    def _rehearse(self, url: str) -> None:
        from ai_retry.cli.doctor.rehearsing import refusals, rehearsed  # noqa: PLC0415 - imports psycopg

        rehearsal = rehearsed(url, self._asked.output)
        self._findings += refusals(rehearsal)
        for reason in rehearsal.not_run:
            self._leave([Check.REHEARSAL], reason, f"let a generation fail, or give what is missing; then {_REHEARSE}")


def _unasked(settings: Settings, error: Exception) -> Finding:
    if not isinstance(error, AiRetryError):
        error = NotConfigured("ai_retry_inspect is of another version: apply the migrations of this one")
    variable = "SUPABASE_URL" if settings.database_url is None else "DATABASE_URL"
    return outside.connection(error, variable, reach(settings.database_url or str(settings.supabase_url)))


def _described(settings: Settings) -> Iterator[tuple[Settings, str]]:
    """Give the settings of each provider, and the prefix of its variables."""
    yield settings, "AI_"
    for each in settings.ai_fallbacks:
        further = replace(settings, ai_base_url=each.base_url, ai_api_key=each.api_key, ai_headers={}, ai_query={})
        yield replace(further, ai_auth_header="Authorization"), f"AI_FALLBACK_{each.number}_"


def _provider(settings: Settings, prefix: str) -> Iterator[Finding]:
    from ai_retry.cli.doctor.provider import ask  # noqa: PLC0415 - imports requests

    asked = ask(settings)
    far = Reach.OPEN if asked.status is not None else reach(settings.ai_base_url)
    return outside.provider(asked, far, prefix=prefix)


def _strictness(read: list[Any], settings: Settings) -> Iterator[Finding]:
    from ai_retry.cli.doctor.questions import strictness  # noqa: PLC0415 - imports jsonschema

    if settings.ai_response_format is ResponseFormat.JSON_SCHEMA and settings.provider is None:
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
