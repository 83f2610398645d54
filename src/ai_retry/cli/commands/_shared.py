"""What several commands need: a client, errors as one line and an exit code, tables for people, JSON for programs."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from shutil import get_terminal_size
from typing import Any, TypeVar

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._reach import NotReady, reached
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure, whole_seconds
from ai_retry.tables import text_table

_F = TypeVar("_F", bound=Callable[..., Any])
_SEVERAL = 2
_WORD = re.compile(r"\b[a-z][a-z_]*(?:=False)?")


@contextmanager
def reported() -> Iterator[None]:
    """Turn our errors into one line and the exit code of ``ai_retry.cli.commands``."""
    try:
        yield
    except AiRetryError as error:
        not_ready = isinstance(error, NotConfigured | StorageFailure)
        raise (NotReady if not_ready else click.ClickException)(_in_lines(error)) from None
    except ValueError as error:
        raise click.UsageError(_in_options(str(error), click.get_current_context())) from None


@contextmanager
def refused() -> Iterator[None]:
    """Name the code of a refusal, and when to come back; exit code 1."""
    try:
        yield
    except (NotConfigured, StorageFailure):
        raise
    except AiRetryError as error:
        wait = "" if error.retry_after is None else f" Again in {whole_seconds(error.retry_after)} s."
        raise click.ClickException(f"{error.code}: {error}{wait}") from None


def _in_lines(error: AiRetryError) -> str:
    """Write an error; where several things are missing, a line for each."""
    missing = str(error.details["missing"]).split("; ") if isinstance(error, NotConfigured) else []
    if len(missing) < _SEVERAL:
        return str(error)
    return "\n".join(["ai-retry is not set up:", *(f"  {each}" for each in missing)])


def _in_options(problem: str, context: click.Context) -> str:
    """Name what a command was given as it is written in a terminal, where a problem begins with an argument's name."""
    names = {"charge=False": "--no-charge"}
    for parameter in context.command.params:
        shown = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.make_metavar(context)
        names[str(parameter.name)] = shown
    words = problem.split(" ")
    if words[0] not in names:
        return problem
    return _WORD.sub(lambda word: names.get(word[0], word[0]), problem)


@contextmanager
def connected() -> Iterator[Client]:
    """Give a client of the environment's settings, once the database has answered; errors are one line."""
    with reported():
        settings = Settings.from_env()
        reached(settings)
        with bootstrap.connect(settings) as client:
            client.events.end_log()
            yield client


def as_json_option(command: _F) -> _F:
    """Add ``--json``, which the command gets as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def print_json(document: Any) -> None:
    """Print one document: instants in ISO 8601, other values as their text."""
    click.echo(json.dumps(document, indent=2, default=plain))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns side by side, within the terminal; control characters of a cell can't reach it."""
    click.echo(text_table(header, rows, width=columns()))


def columns() -> int:
    """Return how many characters a line of the terminal has; 80 where there is no terminal."""
    return get_terminal_size((80, 24)).columns


def plain(value: object) -> object:
    """Write a value that JSON has no word for: instants in ISO 8601, durations in seconds, others as their text."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
