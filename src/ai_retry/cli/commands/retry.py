"""``ai-retry retry``: one generation, tried again as its user would."""

from typing import Any

import click

from ai_retry.cli.commands._acting import BY_COMMAND, acting
from ai_retry.cli.commands._groups import examples
from ai_retry.cli.commands._one import found, one_generation
from ai_retry.cli.commands._shared import as_json_option, connected, print_json, refused
from ai_retry.client import Client
from ai_retry.domain.model import RetryResult, Waiver
from ai_retry.domain.queue_model import QueuedRetry


@click.command(
    short_help="Retry it once, as its user would.",
    epilog=examples(
        "ai-retry retry 6f1c2f0e",
        "ai-retry retry 6f1c2f0e --async",
        "ai-retry retry 6f1c2f0e --waive backoff --operator ada",
    ),
)
@one_generation
@click.option("--async", "queued", is_flag=True, help="Accept it for later; a worker runs it.")
@click.option(
    "--waive",
    multiple=True,
    type=click.Choice([each.value for each in sorted(Waiver)]),
    help="Ignore this limit, once; needs --operator. May be repeated.",
)
@click.option("--no-charge", is_flag=True, help="Don't spend the user's quota; needs --operator.")
@click.option("--operator", metavar="NAME", help="Who lifts a limit; recorded.")
@click.option("--reason", metavar="TEXT", default=BY_COMMAND, help="Why; recorded with --operator.")
@as_json_option
def retry(generation_id: str, *, user_id: str | None, queued: bool, as_json: bool, **lifted: Any) -> None:
    """Retry generation ID once, under the rules that hold for its user, whose quota it spends.

    Exit code 1: it was refused, or failed again; the message says why, and when to come back.
    """
    lifted["charge"] = not lifted.pop("no_charge")
    with connected() as client:
        owner, whole = found(client, generation_id, user_id)
        with refused():
            document = (_accept if queued else _retry)(client, owner, whole, lifted)
    if as_json:
        print_json(document)
    elif document["session_id"] is None:
        click.echo(f"Call {document['attempt']} is accepted, and waits for a worker. {_next(whole)}")
    else:
        click.echo(
            f"Call {document['attempt']} succeeded: session {document['session_id']}. "
            f"{document['remaining']} units of the user's quota are left."
        )


def _retry(client: Client, owner: Any, generation_id: str, lifted: dict[str, Any]) -> dict[str, Any]:
    operator, reason = lifted.pop("operator"), lifted.pop("reason")
    if operator is None:
        return _document(client.retry_generation(owner, generation_id, **lifted))
    return _document(acting(client, operator).retry(owner, generation_id, reason=reason, **lifted))


def _accept(client: Client, owner: Any, generation_id: str, lifted: dict[str, Any]) -> dict[str, Any]:
    operator, reason = lifted.pop("operator"), lifted.pop("reason")
    if operator is None:
        return _document(client.enqueue(owner, generation_id, **lifted))
    return _document(acting(client, operator).enqueue(owner, generation_id, reason=reason, **lifted))


def _document(result: RetryResult | QueuedRetry) -> dict[str, Any]:
    done = result.result if isinstance(result, QueuedRetry) else result
    return {
        "generation_id": str(result.generation.id),
        "status": result.generation.status,
        "attempt": result.attempt,
        "session_id": done.session_id if done is not None else None,
        "remaining": result.quota.remaining,
    }


def _next(generation_id: str) -> str:
    return f"Next: ai-retry status {generation_id[:8]}"
