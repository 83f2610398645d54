"""What commands share that act for an operator: who, why, and the operations.

With the secret key, every operator is an admin.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ai_retry.client import Client
from ai_retry.operate.operations import Operations
from ai_retry.operate.operator import Operator

_F = TypeVar("_F", bound=Callable[..., Any])
BY_COMMAND: Final = "by command"  # the reason where none is given


def named(command: _F) -> _F:
    """Add ``--operator`` and ``--reason``, both required."""
    command = click.option("--reason", required=True, metavar="TEXT", help="Why; recorded.")(command)
    return click.option("--operator", required=True, metavar="NAME", help="Who does it; recorded.")(command)


def acting(client: Client, operator: str) -> Operations:
    """Give what this operator may do: all of it."""
    return client.operate(Operator(operator, "admin"))


def reading(client: Client) -> Operations:
    """Give what may be read; nothing of it is recorded."""
    return client.operate(Operator("command line", "viewer"))
