"""Questions before something that costs, and the command that comes next."""

import sys
from shlex import quote

import click
from click.core import ParameterSource


def agreed(question: str, *, err: bool = False) -> None:
    """Ask, and return when the answer is yes.

    Raises:
        click.ClickException: it is no, or there is no terminal to ask in.
    """
    try:
        if click.confirm(question, err=err):
            return
    except click.Abort:
        if not sys.stdin.isatty():
            click.echo(err=True)
            raise click.ClickException("nothing was done: there is no terminal to ask in; pass --yes") from None
        raise
    raise click.ClickException("nothing was done: you said no")


def next_command(context: click.Context, *, without: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> str:
    """Write the command that runs now, as its user would type it, without some options and with more."""
    words = [context.command_path]
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in without or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        many = value if parameter.multiple else [value]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(parameter.opts[0])
        elif isinstance(parameter, click.Option):
            words += [word for each in many for word in (parameter.opts[0], quote(str(each)))]
        else:
            words.append(quote(str(value)))
    return " ".join([*words, *more])
