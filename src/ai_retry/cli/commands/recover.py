"""``ai-retry recover``: plan, ask, run."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ai_retry import bootstrap
from ai_retry.cli.commands import _ids
from ai_retry.cli.commands._ask import agreed, next_command
from ai_retry.cli.commands._groups import INTERRUPTED, examples
from ai_retry.cli.commands._reach import NotReady, reached
from ai_retry.cli.commands._selection import checked, selection_options, wanted
from ai_retry.cli.commands._shared import as_json_option, columns, print_json, reported
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.errors import StorageFailure
from ai_retry.domain.model import Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.recovery.choice import terms_of
from ai_retry.recovery.plan import Plan
from ai_retry.recovery.plan_file import Terms, read_file
from ai_retry.recovery.report import Report
from ai_retry.recovery.run_options import RunOptions
from ai_retry.recovery.wording import count_of

_NOTHING = "Nothing of this plan is left to do."
_LIMITS = ("max_attempts", "waive", "no_charge", "max_cost", "per_user")
_OF_A_NEW_PLAN = (*_LIMITS, "everything", "since", "until", "code", "status", "user_id", "model")


@click.command(
    short_help="Retry failed generations by a plan.",
    epilog=examples(
        "ai-retry recover --since 24h --plan plan.json --dry-run",
        "ai-retry recover --plan plan.json --rate 60/minute",
        "ai-retry recover --since yesterday --code AI_UNAVAILABLE --yes",
        "ai-retry recover --since 24h --waive quota --operator ada",
    ),
)
@selection_options
@click.option("--all", "everything", is_flag=True, help="All failed generations, if no other option chooses some.")
@click.option(
    "--max-attempts", type=click.IntRange(min=1), help="Allow this many attempts in this plan; needs --operator."
)
@click.option(
    "--waive",
    multiple=True,
    type=click.Choice([each.value for each in sorted(Waiver)]),
    help="Ignore this limit; needs --operator. May be repeated.",
)
@click.option("--no-charge", is_flag=True, help="Don't spend the users' quota; needs --operator.")
@click.option("--max-cost", type=float, help="Stop before the estimated cost exceeds this.")
@click.option("--per-user", type=click.IntRange(min=1), help="Retry at most this many generations of a user.")
@click.option(
    "--plan",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the new plan in this file; without other options, go on with the plan in it.",
)
@click.option(
    "--max-workers",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Run at most this many calls at once.",
)
@click.option("--rate", metavar="N/UNIT", help="Start at most this many calls, such as 5/second or 60/minute.")
@click.option(
    "--on-outage",
    type=click.Choice(["pause", "stop"]),
    default="pause",
    show_default=True,
    help="Wait or stop while the provider is unavailable.",
)
@click.option("--operator", metavar="NAME", help="Who runs it; recorded. The default is your user name here.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and stop.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@as_json_option
def recover(
    *,
    path: Path | None,
    everything: bool,
    max_workers: int,
    rate: str | None,
    on_outage: Any,
    operator: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Retry failed generations: show the plan, ask, run it, report.

    Choose them by --since, --code, --model or --user, or take --all. All options are checked before anything is read.

    A dry run selects what a run retries: keep the plan with --plan FILE, and run that file. Ctrl-C lets running calls
    finish; run the file again to go on, also after a crash. Nothing is retried twice.

    Exit code 1: a selected generation still has no session, or you said no. 130: interrupted.
    """
    context = click.get_current_context()
    run = {"max_workers": max_workers, "rate": rate, "on_outage": on_outage, "operator": operator}
    with reported(), _what_next(context, path):
        asked = _asked(path, everything=everything, options=options)
        settings = Settings.from_env()
        RunOptions.checked(asked.terms(settings.policy), usual=settings.policy, max_calls=settings.max_calls, **run)
        reached(settings)
        with bootstrap.connect(settings) as client:
            plan = asked.plan(client, settings.policy)
            if dry_run or not as_json:
                print_json(plan.describe()) if as_json else click.echo(plan.text(columns()))
            if dry_run:
                click.echo(f"\n{f'Next: {_again(context, path)}' if plan.to_do else _NOTHING}", err=True)
                return
            if plan.to_do and not yes:
                agreed(f"Retry {count_of(plan.to_do, 'generation')}?", err=as_json)
            report = _run(plan, context, path, **run)
    _print(plan, report, as_json=as_json)
    if report.totals["left"]:
        click.echo(f"\nNext: {_again(context, path)}", err=True)
    if report.totals["failed"] or report.totals["left"]:
        sys.exit(1)


@dataclass(frozen=True)
class _Kept:
    """The plan of a file, to go on with."""

    path: Path

    def terms(self, _usual: RetryPolicy) -> Terms:
        with _file_errors(self.path):
            return read_file(self.path)[0].terms

    def plan(self, client: Client, _usual: RetryPolicy) -> Plan:
        with _file_errors(self.path):
            return client.load_plan(self.path)


@dataclass(frozen=True)
class _New:
    """A new plan, to be kept where a file is named."""

    path: Path | None
    everything: bool
    selection: dict[str, Any]
    limits: dict[str, Any]

    def terms(self, usual: RetryPolicy) -> Terms:
        return terms_of(usual, **self._arguments(usual))

    def plan(self, client: Client, usual: RetryPolicy) -> Plan:
        selection = {**self.selection, "user_id": _ids.user_id(client, self.selection["user_id"])}
        plan = client.plan(client.find(**selection), everything=self.everything, **self._arguments(usual))
        if self.path is not None:
            with _file_errors(self.path):
                plan.save(self.path)
        return plan

    def _arguments(self, usual: RetryPolicy) -> dict[str, Any]:
        limits = dict(self.limits)
        max_attempts, no_charge = limits.pop("max_attempts"), limits.pop("no_charge")
        policy = None if max_attempts is None else replace(usual, max_attempts=max_attempts)
        return {"policy": policy, "charge": not no_charge, **limits}


def _asked(path: Path | None, *, everything: bool, options: dict[str, Any]) -> _Kept | _New:
    """Decide whether to go on with a plan or to make one; wrong usage ends here."""
    if path is not None and _is_there(path):
        if everything or any(_given(value) for value in options.values()):
            raise click.UsageError(
                f"{path} holds a plan, with its selection and limits. To go on with it, leave these options out; "
                "for another plan, name another file."
            )
        return _Kept(path)
    limits = {name: options.pop(name) for name in _LIMITS}
    selection = wanted(**options)
    if not (checked(selection).narrows or selection["user_id"] or everything):
        raise click.UsageError(_which(path))
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise click.UsageError(f"the plan can't be kept: {path.parent} is no directory that you can write")
    return _New(path, everything, selection, limits)


def _given(value: object) -> bool:
    """Whether an option was given; 0 and an empty string were."""
    return not (value is None or value is False or value == ())


def _is_there(path: Path) -> bool:
    with _file_errors(path):
        return path.exists()


def _which(path: Path | None) -> str:
    """Say what to do where nothing says which generations are meant."""
    by = "by --since, --code, --model or --user, such as those of the last day"
    everything = "--all in place of --since 24h means whatever failed at any time."
    if path is None:
        return f"say which generations, {by}:\n  ai-retry recover --since 24h\n{everything}"
    return (
        f"there is no file {path}. To go on with a plan, correct the name. To make a plan and keep it there, say which "
        f"generations, {by}:\n"
        f"  ai-retry recover --since 24h --plan {quote(str(path))}\n{everything}"
    )


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Report what is wrong with the plan's file in one line."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{path} can't be used: {error.strerror or type(error).__name__}") from None


def _run(plan: Plan, context: click.Context, path: Path | None, **how: Any) -> Report:
    try:
        return plan.run(**how)
    except KeyboardInterrupt:
        click.echo(
            f"\n{plan.report().text(columns())}\n\nInterrupted; running calls were finished. {_progress(plan)}",
            err=True,
        )
        click.echo(f"Next: {_again(context, path)}", err=True)
        sys.exit(INTERRUPTED)


def _progress(plan: Plan) -> str:
    return f"{plan.done} of {count_of(len(plan.selected), 'generation')} done, {plan.to_do} to do."


@contextmanager
def _what_next(context: click.Context, path: Path | None) -> Iterator[None]:
    """Add the next command to an error that may pass."""
    try:
        yield
    except StorageFailure as error:
        raise NotReady(f"{error} Nothing is retried twice.\nNext: {_again(context, path)}") from None


def _again(context: click.Context, path: Path | None) -> str:
    """Write the command that runs the plan, or goes on with it: by its file, if there is one."""
    chosen = () if path is None or not path.exists() else _OF_A_NEW_PLAN
    return next_command(context, without=("dry_run", *chosen))


def _print(plan: Plan, report: Report, *, as_json: bool) -> None:
    if not as_json:
        click.echo(f"\n{report.text(columns())}")
        return
    print_json(
        {
            "plan_id": plan.id,
            "totals": report.totals,
            "stopped": report.stopped,
            "not_selected": report.not_selected,
            "generations": [asdict(line) for line in report.lines],
        }
    )
