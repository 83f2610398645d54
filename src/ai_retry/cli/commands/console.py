"""``ai-retry console``: pages for the person on call, on this machine only."""

import getpass
import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from ai_retry import bootstrap
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._reach import reached
from ai_retry.cli.commands._shared import reported
from ai_retry.cli.doctor.examine import examine
from ai_retry.clock import SystemClock
from ai_retry.config import Settings
from ai_retry.domain.errors import NotConfigured
from ai_retry.operate.operator import Operator


@click.command(
    short_help="Show what happens, and act, in a browser.",
    epilog=examples("ai-retry console", "ai-retry console --operator ada@example.com --port 8765"),
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="Listen here, not at any free one."
)
@click.option("--operator", metavar="NAME", help="Who acts; recorded. This machine's user without it.")
@click.option("--show-answers", is_flag=True, help="Allow reading a paid answer that is kept; each is recorded.")
@click.option(
    "--plans",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Keep recovery plans here, not among the temporary files.",
)
def console(*, port: int, operator: str | None, show_answers: bool, plans: Path | None) -> None:
    """Serve pages that show failures, routes, the queue and books, and that retry and recover.

    It listens on 127.0.0.1 only, and prints an address that works once. The browser that opens it has the role admin,
    since the command holds the secret key. It opens nothing by itself; Ctrl-C ends it, and pauses a recovery that runs.
    """
    with reported():
        local = _local()
        settings = Settings.from_env()
        reached(settings)
        who = Operator(operator or getpass.getuser(), "admin")
        with bootstrap.connect(settings, doctor=lambda: examine(clock=SystemClock())) as client:
            client.events.end_log()
            served = local.LocalConsole(
                client, who, port=port, place=_place(settings), show_answers=show_answers, plans=plans
            )
            click.echo(
                f"Open this address in a browser. It works once; Ctrl-C ends the console.\n\n  {served.address}\n"
            )
            try:
                served.serve()
            finally:
                served.close()
            click.echo("The console has ended.")


def _place(settings: Settings) -> str:
    """Name the database, without its user and password: its plans are found by the next console."""
    parts = urlsplit(settings.database_url or settings.supabase_url or "")
    address = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _local() -> Any:
    """Import the server.

    Raises:
        NotConfigured: the extra is not installed.
    """
    try:
        return import_module("ai_retry.flask.console.local")
    except ModuleNotFoundError as error:
        raise NotConfigured(f"{error.name} is not installed: install ai-retry with its extra console") from None
