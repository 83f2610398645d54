"""``ai-retry queue``: what waits and what runs."""

from dataclasses import asdict

import click

from ai_retry.cli.commands._shared import as_json_option, connected, print_json, print_table


@click.command()
@as_json_option
def queue(*, as_json: bool) -> None:
    """Show the retries that were accepted for later: how many wait, run, or are parked while a provider is away."""
    with connected() as client:
        state = asdict(client.queue_state())
    if as_json:
        print_json(state)
        return
    outages = state.pop("outages")
    print_table(("what", "value"), list(state.items()))
    if outages:
        print_table(("route", "not before", "failures", "slots"), [list(each.values()) for each in outages])
