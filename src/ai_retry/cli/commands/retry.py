"""``ai-retry retry``: one generation, tried again as its user would."""

from uuid import UUID

import click

from ai_retry.cli.commands._shared import as_json_option, connected, print_json
from ai_retry.client import Client
from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure, whole_seconds
from ai_retry.domain.model import RetryResult


@click.command()
@click.argument("generation_id", metavar="ID")
@click.option("--user", "user_id", metavar="ID", help="Its user; looked up if not given, checked if given.")
@click.option("--async", "queued", is_flag=True, help="Accept it for later; a worker runs it.")
@as_json_option
def retry(generation_id: str, *, user_id: str | None, queued: bool, as_json: bool) -> None:
    """Try generation ID again, under the rules that hold for its user, whose quota it spends.

    Exit code 1: it was refused, or failed again; the message says why, and when to come back. To lift a limit, use
    `ai-retry recover --waive`.
    """
    with connected() as client:
        owner = user_id or _owner(client, generation_id)
        try:
            result = (client.enqueue if queued else client.retry_generation)(owner, generation_id)
        except (NotConfigured, StorageFailure):
            raise
        except AiRetryError as error:
            wait = "" if error.retry_after is None else f" Again after {whole_seconds(error.retry_after)} s."
            raise click.ClickException(f"{error.code}: {error}{wait}") from None
    document = {
        "generation_id": str(result.generation.id),
        "status": result.generation.status,
        "attempt": result.attempt,
        "session_id": str(result.session["id"]) if isinstance(result, RetryResult) else None,
        "remaining": result.quota.remaining,
    }
    if as_json:
        print_json(document)
    elif isinstance(result, RetryResult):
        click.echo(
            f"Attempt {result.attempt} made session {document['session_id']}; {result.quota.remaining} units left."
        )
    else:
        click.echo(f"Accepted: attempt {result.attempt} waits for a worker.")


def _owner(client: Client, generation_id: str) -> UUID:
    explanation = client.why(generation_id)
    if explanation.user_id is None:
        raise click.ClickException(explanation.text)
    return explanation.user_id
