"""``ai-retry recover``: plan, ask, run."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from ai_retry import bootstrap
from ai_retry.client import Client
from ai_retry.commands._selection import selection_options, wanted
from ai_retry.commands._shared import as_json_option, print_json, told
from ai_retry.config import Settings
from ai_retry.domain.model import Waiver
from ai_retry.recovery.plan import Plan
from ai_retry.recovery.report import Report

_INTERRUPTED = 130


@click.command()
@selection_options
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
    help="Keep the plan in this file; if it is there, go on with it.",
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
@click.option("--operator", help="Who runs it, recorded on every attempt; you if not given.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and end.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@as_json_option
def recover(
    *,
    path: Path | None,
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

    What a dry run selects is what a run retries: keep it with --plan FILE, and run the file. Ctrl-C finishes the calls
    that are under way; running the file again goes on where it stopped, also after a kill, and retries nothing twice.

    Exit code 1: a selected generation has no session now, or you said no. 130: interrupted.
    """
    with told():
        settings = Settings.from_env()
        with bootstrap.connect(settings) as client:
            plan = _plan(client, settings, path, options)
            if dry_run or not as_json:
                print_json(plan.describe()) if as_json else click.echo(repr(plan))
            if dry_run:
                return
            if plan.selected and not yes:
                click.confirm(f"Retry {len(plan.selected)} generations?", abort=True, err=as_json)
            report = _run(plan, max_workers=max_workers, rate=rate, on_outage=on_outage, operator=operator)
    _tell(plan, report, as_json=as_json)


def _plan(client: Client, settings: Settings, path: Path | None, options: dict[str, Any]) -> Plan:
    """Go on with the plan of a file, or make one, and keep it."""
    if path is not None and path.exists():
        if any(options.values()):
            raise click.UsageError(f"{path} holds a plan: what it selects, and its terms, are settled already")
        return client.load_plan(path)
    max_attempts, waive = options.pop("max_attempts"), options.pop("waive")
    no_charge, max_cost, per_user = (options.pop(name) for name in ("no_charge", "max_cost", "per_user"))
    plan = client.plan(
        client.find(**wanted(**options)),
        policy=None if max_attempts is None else replace(settings.policy, max_attempts=max_attempts),
        waive=waive,
        charge=not no_charge,
        max_cost=max_cost,
        per_user=per_user,
    )
    if path is not None:
        plan.save(path)
    return plan


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
