"""Run faults by the hundred: ``python -m tests.faults run --runs 300``; over a bad gateway: ``gateway``.

With workers: ``queue``, ``queue --over-api``, ``outage``, ``long-call``.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.campaign import Campaign
from tests.faults.gateway_kinds import GATEWAY_KINDS
from tests.faults.kinds import KINDS
from tests.faults.long_call import LongCall, LongPlan
from tests.faults.queue_campaign import QueueCampaign
from tests.faults.queue_outage import Outage, OutagePlan
from tests.faults.queue_plan import OVER_API, Plan
from tests.faults.stage import a_stage
from tools.stack import running_stack

_Verdict = tuple[Iterable[str], Sequence[str]]  # lines to print, and violations


def main(arguments: Sequence[str]) -> int:
    """Run, print, and return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, runs, about in (
        ("run", 300, "kill, cut, lock and restart; check what is left"),
        ("gateway", len(GATEWAY_KINDS), "the same over the Data API, with a gateway that answers nonsense"),
    ):
        run = commands.add_parser(name, help=about)
        run.add_argument("--runs", type=int, default=runs)
        run.add_argument("--seed", type=int, default=1)
        run.add_argument("--seconds", type=float, default=540, help="begin no run after so many")
        run.add_argument("--kind", help="only kinds whose name holds this")
    queue = commands.add_parser("queue", help="the same with workers and retries that were accepted for later")
    queue.add_argument("--seed", type=int, default=1)
    queue.add_argument("--over-api", action="store_true", help="over the Data API, with a gateway in front of it")
    outage = commands.add_parser("outage", help="queued retries while their provider is unavailable")
    outage.add_argument("--seed", type=int, default=1)
    outage.add_argument("--seconds", type=float, default=OutagePlan().seconds)
    outage.add_argument("--workers", type=int, default=OutagePlan().workers)
    commands.add_parser("long-call", help="a call of 90 s under a lease of 35 s, its worker alive, killed or stopped")
    chosen = parser.parse_args(arguments)
    logging.disable()  # what psycopg and ai_retry have to say is what we do to them
    commanded = {"run": _run, "gateway": _run, "queue": _queue, "outage": _outage, "long-call": _long_call}
    lines, violations = commanded[chosen.command](chosen)
    for line in lines:
        print(line)
    return 1 if violations else 0


def _run(chosen: argparse.Namespace) -> _Verdict:
    every = GATEWAY_KINDS if chosen.command == "gateway" else KINDS
    kinds = [kind for kind in every if (chosen.kind or "") in kind.name]
    with running_stack() as stack, a_stage(stack, chosen.seed) as stage:
        campaign = Campaign(stage, seed=chosen.seed)
        campaign.run(kinds, runs=chosen.runs, seconds=chosen.seconds)
    return campaign.lines(), campaign.violations


def _queue(chosen: argparse.Namespace) -> _Verdict:
    with running_stack() as stack, TemporaryDirectory(prefix="ai-retry-faults-") as directory:
        plan = OVER_API if chosen.over_api else Plan()
        campaign = QueueCampaign(stack, plan, Path(directory), seed=chosen.seed)
        campaign.run()
    return campaign.lines(), campaign.violations


def _outage(chosen: argparse.Namespace) -> _Verdict:
    plan = OutagePlan(seconds=chosen.seconds, workers=chosen.workers)
    with running_stack() as stack, TemporaryDirectory(prefix="ai-retry-faults-") as directory:
        outage = Outage(stack, plan, Path(directory), seed=chosen.seed)
        outage.run()
    return outage.lines(), outage.violations


def _long_call(_: argparse.Namespace) -> _Verdict:
    with running_stack() as stack, TemporaryDirectory(prefix="ai-retry-faults-") as directory:
        campaign = LongCall(stack, LongPlan(), Path(directory))
        campaign.run()
    return campaign.lines(), campaign.violations


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
