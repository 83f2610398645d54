"""Run faults by the hundred: ``python -m tests.faults run --runs 300``; with workers: ``queue``, ``outage``."""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.campaign import Campaign
from tests.faults.kinds import KINDS
from tests.faults.queue_campaign import QueueCampaign
from tests.faults.queue_outage import Outage, OutagePlan
from tests.faults.queue_plan import Plan
from tests.faults.stage import a_stage
from tests.support.stack import running_stack

_Verdict = tuple[Iterable[str], Sequence[str]]  # lines to print, and violations


def main(arguments: Sequence[str]) -> int:
    """Run, print, and tell by the exit status whether a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="kill, cut and restart; check what is left")
    run.add_argument("--runs", type=int, default=300)
    run.add_argument("--seed", type=int, default=1)
    run.add_argument("--seconds", type=float, default=540, help="begin no run after so many")
    run.add_argument("--kind", help="only kinds whose name holds this")
    queue = commands.add_parser("queue", help="the same with workers and retries that were accepted for later")
    queue.add_argument("--seed", type=int, default=1)
    outage = commands.add_parser("outage", help="queued retries while their provider is away")
    outage.add_argument("--seed", type=int, default=1)
    outage.add_argument("--seconds", type=float, default=OutagePlan().seconds)
    outage.add_argument("--workers", type=int, default=OutagePlan().workers)
    chosen = parser.parse_args(arguments)
    logging.disable()  # what psycopg and ai_retry have to say is what we do to them
    lines, violations = {"run": _run, "queue": _queue, "outage": _outage}[chosen.command](chosen)
    for line in lines:
        print(line)
    return 1 if violations else 0


def _run(chosen: argparse.Namespace) -> _Verdict:
    kinds = [kind for kind in KINDS if (chosen.kind or "") in kind.name]
    with running_stack() as stack, a_stage(stack, chosen.seed) as stage:
        campaign = Campaign(stage, seed=chosen.seed)
        campaign.run(kinds, runs=chosen.runs, seconds=chosen.seconds)
    return campaign.lines(), campaign.violations


def _queue(chosen: argparse.Namespace) -> _Verdict:
    with running_stack() as stack, TemporaryDirectory(prefix="ai-retry-faults-") as directory:
        campaign = QueueCampaign(stack, Plan(), Path(directory), seed=chosen.seed)
        campaign.run()
    return campaign.lines(), campaign.violations


def _outage(chosen: argparse.Namespace) -> _Verdict:
    plan = OutagePlan(seconds=chosen.seconds, workers=chosen.workers)
    with running_stack() as stack, TemporaryDirectory(prefix="ai-retry-faults-") as directory:
        outage = Outage(stack, plan, Path(directory), seed=chosen.seed)
        outage.run()
    return outage.lines(), outage.violations


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
