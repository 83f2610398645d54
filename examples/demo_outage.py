"""The morning after an outage, on a local stack that stays: 200 failed generations, and the commands to recover them.

Run it with ``make demo-outage``. It starts the stack of ``make stack-up`` unless it runs, lets the night happen once,
and prints what to type. ``make stack-down`` removes all of it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from uuid import UUID

import psycopg

from tools import detached, night
from tools.npm import REPOSITORY
from tools.processes import StackUnavailable
from tools.stack import Stack

PROVIDER = "examples.outage_ai:provider"
_HEAD = """\
{failed} generations have failed, most of them last night, when their AI provider was down. The provider works again.
Type these lines, in this directory, and read what each one says:
"""
_SEEDED = "The night was here already, and nothing was added: `make stack-down` and `make demo-outage` begin anew.\n"


def commands(home: Path, to_explain: UUID | None) -> Iterator[tuple[str, str]]:
    """List each command with what it is for.

    Args:
        home: of the stack, as it is to be typed.
        to_explain: a failed generation; None: there is none.
    """
    yield f". {quote(str(home / detached.OUTAGE_ENV))}", "settings of this stack, for this shell"
    yield "ai-retry find --since 24h", "what failed, and what can be done about it"
    if to_explain is not None:
        yield f"ai-retry why {str(to_explain)[:8]}", "one of them: why it failed, what to do next"
    plan = quote(str(home / detached.OUTAGE_PLAN))
    outage = "--since 24h --code AI_UNAVAILABLE --code AI_TIMEOUT --code AI_RATE_LIMITED"
    yield f"ai-retry recover {outage} --plan {plan} --dry-run", "what would be retried; nothing is called"
    yield f"ai-retry recover --plan {plan}", "the same, and do it: Ctrl-C, and again, goes on"
    yield "ai-retry books", "was every success charged once?"
    yield "jupyter lab examples/recovery.ipynb", "all of this in a notebook, with pictures; now it finds what is left"
    yield "ai-retry console", "and in a browser; it prints an address, and Ctrl-C ends it"
    yield "make stack-down", "stop the stack and remove its data"


def write_settings(stack: Stack, path: Path) -> None:
    """Write what a shell reads: the stack, the provider that works again, and our commands."""
    settings = {**stack.env(), "AI_RETRY_PROVIDER": PROVIDER, "PYTHONPATH": str(REPOSITORY)}
    lines = [f"export {name}={quote(value)}" for name, value in settings.items()]
    lines.append(f'export PATH={quote(str(Path(sys.executable).parent))}:"$PATH"')
    detached.write_privately(path, "\n".join(lines) + "\n")


def ready(home: Path) -> str:
    """Start the stack unless it runs, let the night happen in it once, and return what to print."""
    detached.up(home)
    stack = Stack.from_env_file(home / "env")
    happened = night.happen(stack.database_url)
    write_settings(stack, home / detached.OUTAGE_ENV)
    shown = home.relative_to(Path.cwd()) if home.is_relative_to(Path.cwd()) else home
    listed = list(commands(shown, night.one_to_explain(stack.database_url)))
    lines = [f"  # {what_for}\n  {command}" for command, what_for in listed]
    return (_HEAD.format(failed=night.FAILED) if happened else _SEEDED) + "\n" + "\n".join(lines)


def main() -> int:
    """Run it; 1 where the stack can't run."""
    try:
        print(ready(detached.HOME))
    except (StackUnavailable, psycopg.Error) as error:
        print(error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
