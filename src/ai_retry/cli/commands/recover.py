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
from ai_retry.cli.commands._selection import selection_options, wanted
from ai_retry.cli.commands._shared import as_json_option, print_json, told
from ai_retry.client import Client
from ai_retry.config import Settings
from ai_retry.domain.model import Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.recovery.found import criteria
from ai_retry.recovery.plan import Plan, terms_of
from ai_retry.recovery.plan_file import Terms, read_file
from ai_retry.recovery.report import Report
from ai_retry.recovery.run_options import RunOptions

_INTERRUPTED = 130
_LIMITS = ("max_attempts", "waive", "no_charge", "max_cost", "per_user")


@click.command()
@selection_options
@click.option("--all", "everything", is_flag=True, help="Whatever failed at any time, where nothing else narrows it.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="Allow so many attempts for this plan.")
@click.option(
    "--waive",
    multiple=True,
    type=click.Choice([each.value for each in sorted(Waiver)]),
    help="Lift a limit; recorded with your name.",
)
@click.option("--no-charge", is_flag=True, help="Users get their sessions without spending their quota; recorded.")
@click.option("--max-cost", type=float, help="At most, in the provider's currency, as past attempts let expect.")
@click.option("--per-user", type=click.IntRange(min=1), help="Generations of one user, at most.")
@click.option(
    "--plan",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the new plan in this file; without other options, go on with the plan that is there.",
)
@click.option("--max-workers", type=click.IntRange(min=1), default=8, show_default=True, help="Calls at once, at most.")
@click.option("--rate", metavar="N/UNIT", help="Calls that start in a time: 5/second, 60/minute.")
@click.option(
    "--on-outage",
    type=click.Choice(["pause", "stop"]),
    default="pause",
    show_default=True,
    help="When the provider is away.",
)
@click.option("--operator", help="Who runs it, recorded on every attempt; you if not given. Lifting a limit needs it.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and end.")
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

    Say which: --since, --code, --model or --user, or --all. All options are checked before anything is read.
    What a dry run selects is what a run retries: keep it with --plan FILE, and run the file. Ctrl-C finishes the calls
    that are under way; running the file again goes on where it stopped, also after a kill, and retries nothing twice.

    Exit code 1: a selected generation has no session now, or you said no. 130: interrupted.
    """
    run = {"max_workers": max_workers, "rate": rate, "on_outage": on_outage, "operator": operator}
    with told():
        asked = _asked(path, everything=everything, options=options)
        settings = Settings.from_env()
        RunOptions.checked(asked.terms(settings.policy), usual=settings.policy, max_calls=settings.max_calls, **run)
        with bootstrap.connect(settings) as client:
            plan = asked.plan(client, settings.policy)
            if dry_run or not as_json:
                print_json(plan.describe()) if as_json else click.echo(repr(plan))
            if dry_run:
                return
            if plan.selected and not yes:
                click.confirm(f"Retry {len(plan.selected)} generations?", abort=True, err=as_json)
            report = _run(plan, **run)
    _tell(plan, report, as_json=as_json)


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
    """A plan that is still to be made, and kept where a file is named."""

    path: Path | None
    everything: bool
    selection: dict[str, Any]
    limits: dict[str, Any]

    def terms(self, usual: RetryPolicy) -> Terms:
        return terms_of(usual, **self._arguments(usual))

    def plan(self, client: Client, usual: RetryPolicy) -> Plan:
        plan = client.plan(client.find(**self.selection), everything=self.everything, **self._arguments(usual))
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
    """Say whether to go on with a plan or to make one; wrong usage ends here."""
    if path is not None and _is_there(path):
        if everything or any(_given(value) for value in options.values()):
            raise click.UsageError(
                f"{path} holds a plan, with its selection and limits. To go on with it, leave these options out; "
                "for another plan, name another file."
            )
        return _Kept(path)
    limits = {name: options.pop(name) for name in _LIMITS}
    selection = wanted(**options)
    if not (criteria(**selection).narrows or everything):
        raise click.UsageError(_which(path))
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise click.UsageError(f"the plan can't be kept: {path.parent} is no directory that you can write")
    return _New(path, everything, selection, limits)


def _given(value: object) -> bool:
    """Whether an option was given; 0 and an empty text were."""
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


def _run(plan: Plan, **how: Any) -> Report:
    try:
        return plan.run(**how)
    except KeyboardInterrupt:
        click.echo(repr(plan.report()), err=True)
        click.echo("Interrupted: what was under way is finished. Run the same plan again to go on.", err=True)
        sys.exit(_INTERRUPTED)


def _tell(plan: Plan, report: Report, *, as_json: bool) -> None:
    totals = report.totals
    if as_json:
        print_json(
            {
                "plan_id": plan.id,
                "totals": totals,
                "stopped": report.stopped,
                "not_selected": report.not_selected,
                "generations": [asdict(line) for line in report.lines],
            }
        )
    else:
        click.echo(repr(report))
    if totals["failed"] or totals["left"]:
        sys.exit(1)
