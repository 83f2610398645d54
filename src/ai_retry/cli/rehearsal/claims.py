"""Two claims of one generation: the second one must not begin."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from ai_retry.domain.decide.begin import Asked, owned, retry_now
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.errors import AiRetryError, RetryInProgress
from ai_retry.domain.model import Context, Generation, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.storage.functions import FunctionStorage

_MANY: Final = 1_000_000
_POLICY: Final = RetryPolicy(max_attempts=_MANY, hard_cap=_MANY, max_parallel=_MANY)


class ClaimFailed(Exception):
    """A claim was refused that should begin, or began though it should be refused."""


def claim_twice(connection: "psycopg.Connection[Any]", user_id: UUID, generation_id: UUID) -> None:
    """Begin an attempt, then another one by what was read before, and another one by what is read now.

    Raises:
        ClaimFailed: says which of them went wrong.
    """

    def call(function: str, arguments: Mapping[str, Any]) -> Any:
        names = sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder()) for name in arguments
        )
        text = sql.SQL("select pg_catalog.to_jsonb(public.{}({}))")
        query = text.format(sql.Identifier(function), names)
        row = connection.execute(query, list(arguments.values())).fetchone()
        return None if row is None else row[0]

    storage = FunctionStorage(call, read_for=timedelta(0), settle_for=timedelta(0))
    asked = [
        Asked(
            user_id=user_id,
            generation_id=generation_id,
            token=uuid4(),
            operator="rehearsal",
            waive=frozenset(Waiver),
            charge=False,
        )
        for _ in range(2)
    ]
    reader = Reader(context_from=_context)
    try:
        loaded = owned(storage.load(user_id, generation_id, _POLICY.quota, asked[0].token), user_id, generation_id)
        snapshot = replace(loaded, session_conflict=None)  # whatever this user may have just now
        first, second = (retry_now(snapshot, each, reader, _POLICY)[0] for each in asked)
        if not storage.begin(first).applied:
            raise ClaimFailed("a claim does not begin, though nothing else is open")
        if storage.begin(second).applied:
            raise ClaimFailed("a second claim began beside the first one")
        fresh = owned(storage.load(user_id, generation_id, _POLICY.quota, asked[1].token), user_id, generation_id)
    except AiRetryError as error:
        raise ClaimFailed(f"a claim is refused with {error.code}: {error}") from None
    try:
        retry_now(fresh, asked[1], reader, _POLICY)
    except RetryInProgress:
        return
    raise ClaimFailed("an open attempt does not refuse a second claim")


def _context(generation: Generation) -> Context:
    """Ask nothing: no provider is called."""
    return Context(messages=[{"role": "user", "content": str(generation.id)}], model=None)
