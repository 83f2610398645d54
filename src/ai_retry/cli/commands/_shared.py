"""What several commands need: a client, errors as one line and an exit code, tables for people, JSON for programs."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from ai_retry import bootstrap
from ai_retry.client import Client
from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure
from ai_retry.tables import text_table

_F = TypeVar("_F", bound=Callable[..., Any])
_WORD = re.compile(r"\b[a-z][a-z_]*(?:=False)?")


class NotReady(click.ClickException):
    """ai-retry is not set up here, or the database can't be reached."""

    exit_code = 3


@contextmanager
def told() -> Iterator[None]:
    """Turn our errors into one line and the exit code of ``ai_retry.cli.commands``."""
    try:
        yield
    except AiRetryError as error:
        not_ready = isinstance(error, NotConfigured | StorageFailure)
        raise (NotReady if not_ready else click.ClickException)(str(error)) from None
    except ValueError as error:
        raise click.UsageError(_in_options(str(error), click.get_current_context())) from None


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
    """Give a client of the environment's settings; errors are told."""
    with told(), bootstrap.connect() as client:
        client.events.end_log()
        yield client


def as_json_option(command: _F) -> _F:
    """Add ``--json``, which the command gets as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def print_json(document: Any) -> None:
    """Print one document: instants in ISO 8601, other values as their text."""
    click.echo(json.dumps(document, indent=2, default=plain))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns side by side; control characters of a cell can't reach the terminal."""
    click.echo(text_table(header, rows))


def plain(value: object) -> object:
    """Write a value that JSON has no word for: instants in ISO 8601, durations in seconds, others as their text."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
