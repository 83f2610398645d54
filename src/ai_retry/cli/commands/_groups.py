"""How ``ai-retry --help`` lists its commands: in groups, by what they are for; and how all of them are interrupted."""

from collections.abc import Iterable
from typing import Any

import click

GROUPS = {
    "After an outage": ("find", "recover"),
    "One generation": ("why", "status", "retry", "cancel", "discard-answer"),
    "In operation": ("worker", "queue", "webhooks", "settle", "books", "prune"),
    "For operators": ("console", "routes", "quota", "actions"),
    "Set-up": ("init", "migrations", "doctor"),
}
INTERRUPTED = 130
_OTHERS = "Others"


class Grouped(click.Group):
    """Lists commands in the groups above; one that is in none of them comes last."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Ctrl-C is a line and an exit code of its own."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nInterrupted. The same command may be run again: nothing is done twice.", err=True)
            ctx.exit(INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names in the order of the groups."""
        known = [name for names in GROUPS.values() for name in names if name in self.commands]
        return [*known, *(name for name in super().list_commands(ctx) if name not in known)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group under its title, all in the same columns."""
        listed = self.list_commands(ctx)
        width = max(map(len, listed))
        grouped = {name for names in GROUPS.values() for name in names}
        groups = {**GROUPS, _OTHERS: tuple(name for name in listed if name not in grouped)}
        for title, names in groups.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(formatter.width))
                for name in names
                if name in self.commands and not self.commands[name].hidden
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def examples(*lines: str) -> str:
    """Build the end of a command's help: examples, each on a line of its own."""
    return _block("Examples:" if len(lines) > 1 else "Example:", lines)


def _block(title: str, lines: Iterable[str]) -> str:
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])
