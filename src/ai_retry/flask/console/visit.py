"""One request of an operator, and what a page answers."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

from flask import Request, url_for

from ai_retry.client import Client
from ai_retry.flask.console.recoveries import Recoveries
from ai_retry.flask.console.tokens import Note, Tokens
from ai_retry.flask.console.words import within
from ai_retry.operate.operations import Operations
from ai_retry.operate.operator import Operator

Authorize: TypeAlias = Callable[[Request], Operator | None]
"""Says who asks; None: the console is not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What the host has given."""

    client: Client
    authorize: Authorize
    show_answers: bool
    key: str | bytes | None
    origins: Collection[str]
    recoveries: Recoveries


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A request that was let in: who asks, and what is done and read in their name."""

    console: Console
    operator: Operator
    operations: Operations
    tokens: Tokens
    nonce: str
    prefix: Mapping[str, Any]  # variables of the address that the host has chosen

    def url(self, page: str, **values: Any) -> str:
        """Return the address of a page of the console."""
        return within(url_for(f".{page}", **{**self.prefix, **values}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page to be shown: its template, and what it shows."""

    template: str
    title: str
    active: str  # the place in the navigation
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = HTTPStatus.OK
    refresh: int | None = None  # seconds; 0: off; None: this page never is


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Another page: the one that follows an action, and what it says there."""

    address: str
    note: Note | None = None


Answer: TypeAlias = Page | Moved
View: TypeAlias = Callable[..., Answer]
