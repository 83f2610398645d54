"""``ai-retry queue``: what waits and what runs."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import click

from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._shared import as_json_option, columns, connected, print_json
from ai_retry.domain.queue_model import QueueState
from ai_retry.tables import hanging, text_table

_EVERY: Final = 2.0  # seconds
_NO_QUEUE: Final = "There is no queue: enable Supabase Queues, then run select public.ai_retry_create_queue()."


@click.command(
    short_help="Show what waits, runs and is held up.",
    epilog=examples("ai-retry queue", "ai-retry queue --watch", "ai-retry queue --json"),
)
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C.")
@as_json_option
def queue(*, watch: bool, as_json: bool) -> None:
    """Show the retries that were accepted for later: how many wait, run, or wait for a provider that is unavailable."""
    with connected() as client:
        if as_json and not watch:
            print_json(asdict(client.queue_state()))
            return
        while True:
            state = client.queue_state()
            if as_json:
                print_json(asdict(state))
            else:
                if watch:
                    click.clear()
                click.echo(shown(state, columns()))
            if not watch:
                return
            try:
                time.sleep(_EVERY)
            except KeyboardInterrupt:
                return


def shown(state: QueueState, width: int) -> str:
    """Write a line for each number with its meaning, and a table of providers that are unavailable."""
    lines = list(_lines(state))
    names = max(len(name) for name, *_ in lines)
    numbers = max(len(str(number)) for _, number, _ in lines)
    text = [f"Queue at {state.as_of:%Y-%m-%d %H:%M:%S} UTC", ""]
    text += [hanging(f"{name:<{names}}  {number:>{numbers}}  ", meaning, width) for name, number, meaning in lines]
    if not state.configured:
        text += ["", hanging("", _NO_QUEUE, width)]
    if state.outages:
        rows = [(each.route, f"{each.not_before:%H:%M:%S}", each.failures, each.slots) for each in state.outages]
        header = ("unavailable provider and model", "asked again at", "failures", "calls at once then")
        text += ["", text_table(header, rows, width=width)]
    return "\n".join(text)


def _lines(state: QueueState) -> Iterator[tuple[str, Any, str]]:
    yield "waiting", state.queued, _since(state.oldest_accepted_at, state.as_of)
    yield "  due now", state.due, "a worker could start them"
    yield "  held up", state.parked, "until their provider is available again"
    yield "running", state.running, ""
    yield "given up", state.poisoned, "in the last 24 hours, because their workers kept dying"


def _since(instant: datetime | None, now: datetime) -> str:
    return "" if instant is None else f"the oldest since {instant:%Y-%m-%d %H:%M:%S}, {_ago(now - instant)}"


def _ago(age: Any) -> str:
    minutes = int(age.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes else "less than a minute"
