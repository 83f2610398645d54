"""The reference of the command line, from click."""

from collections.abc import Iterator
from inspect import cleandoc

import click

import ai_retry.cli.commands
from tools.pages.markdown import code, notice, page, table

_INTRODUCTION = f"""# Command line

{notice("ai_retry.cli.commands")}

`ai-retry COMMAND --help` says the same. It needs the extra `cli`.

All commands except `migrations` and `--help` read the [configuration](configuration.md) from the environment. Output
into a pipe has no colours and no progress bars. For an ID, the short id that `ai-retry find` shows is enough, as long
as only one of the newest failed generations begins with it.
"""

_COMPLETION = """## Shell completion

Your shell completes commands and options with one line in its start-up file:

| shell | file | line |
| --- | --- | --- |
| bash | `~/.bashrc` | `eval "$(_AI_RETRY_COMPLETE=bash_source ai-retry)"` |
| zsh | `~/.zshrc` | `eval "$(_AI_RETRY_COMPLETE=zsh_source ai-retry)"` |
| fish | `~/.config/fish/completions/ai-retry.fish` | `_AI_RETRY_COMPLETE=fish_source ai-retry \\| source` |
"""


def render() -> str:
    """Render the page."""
    exit_codes = " ".join((ai_retry.cli.commands.__doc__ or "").partition("Exit codes: ")[2].split())
    return page(
        [
            _INTRODUCTION,
            "## Exit codes",
            "",
            *(f"- {each}" for each in exit_codes.rstrip(".").split("; ")),
            "",
            *_COMPLETION.splitlines(),
            "",
            *_command(ai_retry.cli.commands.cli, _context()),
        ]
    )


def _context() -> click.Context:
    """Begin as the command line does: click keeps the help option that it was asked for first."""
    cli = ai_retry.cli.commands.cli
    return click.Context(cli, info_name="ai-retry", **cli.context_settings)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            yield from _described(command, context)
        for name in command.list_commands(context):
            child = command.commands[name]
            yield from _command(child, click.Context(child, info_name=name, parent=context))
    else:
        yield from _described(command, context)


def _described(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from (f"## {context.command_path}", "", code(command.get_usage(context).removeprefix("Usage: ")), "")
    yield from (cleandoc(command.help or ""), "")
    if command.epilog:
        yield from ("```sh", *(line.strip() for line in command.epilog.splitlines()[2:]), "```", "")
    options = [
        record
        for parameter in command.params
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context))
    ]
    if options:
        yield from table(("option", "meaning"), ((code(name), meaning) for name, meaning in options))
