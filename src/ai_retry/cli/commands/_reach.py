"""First contact with the database: within three seconds it answers, or it is said why not and what to do."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import monotonic, sleep
from typing import Final

import click

from ai_retry import bootstrap
from ai_retry.cli.doctor.examine import reach
from ai_retry.cli.doctor.outside import connection
from ai_retry.config import Settings
from ai_retry.domain.errors import StorageFailure

_LOOK_FOR: Final = 1.0  # seconds, in which a failure may pass
_REQUEST: Final = 2.0  # seconds for one request of the Data API
_PAUSE: Final = 0.2  # seconds
_DRIVERS: Final = ("psycopg", "psycopg.pool", "httpx", "httpcore")


class NotReady(click.ClickException):
    """ai-retry is not set up here, or the database can't be reached."""

    exit_code = 3


@contextmanager
def silenced_drivers() -> Iterator[None]:
    """Keep the raw lines of database drivers out of the terminal: what they mean is reported in our words."""
    levels = {logger: logger.level for logger in map(logging.getLogger, _DRIVERS)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def reached(settings: Settings) -> None:
    """Return once the database has answered.

    Raises:
        NotReady: it has not; says why and what to do.
        NotConfigured: an operator has to act first.
    """
    began = monotonic()
    with closing(bootstrap.open_storage(settings, timeout=_REQUEST)) as storage:
        while True:
            try:
                storage.once().installation()
            except StorageFailure as error:
                if monotonic() - began > _LOOK_FOR:
                    raise NotReady(_why(settings, error)) from None
                sleep(_PAUSE)
            else:
                return


def _why(settings: Settings, error: StorageFailure) -> str:
    variable = "SUPABASE_URL" if settings.database_url is None else "DATABASE_URL"
    found = connection(error, variable, reach(settings.database_url or str(settings.supabase_url)))
    return f"{found.problem}.\n{found.remedy[:1].upper()}{found.remedy[1:]}."
