"""Two claims of one generation, and of two generations of one user: the second one must not begin."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from ai_retry.domain.change import Begin
from ai_retry.domain.decide.begin import Asked, owned, retry_now
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.errors import AiRetryError, QuotaExhausted, RetryInProgress, TooManyParallel
from ai_retry.domain.model import Context, Generation, QuotaRule, Snapshot, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.storage.functions import FunctionStorage

_MANY: Final = 1_000_000
_COUNTED: Final = 1_000  # units, at most, of what the user has spent
_POLICY: Final = RetryPolicy(max_attempts=_MANY, hard_cap=_MANY, max_parallel=_MANY)


def _context(generation: Generation) -> Context:
    """Ask nothing: no provider is called."""
    return Context(messages=[{"role": "user", "content": str(generation.id)}], model=None)


_READER: Final = Reader(context_from=_context)


class ClaimFailed(Exception):
    """A claim was refused that should begin, or began though it should be refused."""


def claim_twice(connection: "psycopg.Connection[Any]", user_id: UUID, generation_id: UUID) -> None:
    """Begin an attempt, then another one by what was read before, and another one by what is read now.

    Raises:
        ClaimFailed: says which of them went wrong.
    """
    storage = _storage(connection)
    first, second = (_asked(user_id, generation_id, charge=False) for _ in range(2))
    with _refusals():
        snapshot = _read(storage, first, _POLICY)
        changes = [retry_now(snapshot, each, _READER, _POLICY)[0] for each in (first, second)]
        if not storage.begin(changes[0]).applied:
            raise ClaimFailed("a claim does not begin, though nothing else is open")
        if storage.begin(changes[1]).applied:
            raise ClaimFailed("a second claim began beside the first one")
        fresh = _read(storage, second, _POLICY)
    _expect(RetryInProgress, fresh, second, _POLICY, "an open attempt does not refuse a second claim")


def claim_for_two(
    connection: "psycopg.Connection[Any]", user_id: UUID, generation_id: UUID, other_id: UUID
) -> str | None:
    """Begin attempts of two generations of one user, both decided before either began: each limit lets one begin.

    Returns:
        what of the app's refuses the second one where no limit of ours does; None: nothing.

    Raises:
        ClaimFailed: says which of them went wrong.
    """
    storage = _storage(connection)
    counting = replace(_POLICY, quota=QuotaRule(limit=_COUNTED))
    with _refusals():
        quota = _read(storage, _asked(user_id, generation_id, charge=False), counting).quota
        charge = quota.limit == _COUNTED and quota.remaining > 0  # else the user has an override, which goes first
        first, second = (_asked(user_id, each, charge=charge) for each in (generation_id, other_id))
        known = _read(storage, first, counting)
        limits: list[tuple[RetryPolicy, type[AiRetryError], str]] = [
            (replace(counting, max_parallel=known.live + 1), TooManyParallel, "max_parallel")
        ]
        if charge:
            one_unit = QuotaRule(limit=quota.captured + quota.held + 1)
            limits.append((replace(counting, quota=one_unit), QuotaExhausted, "the quota"))
        late = [retry_now(_read(storage, second, policy), second, _READER, policy)[0] for policy, _, _ in limits]
        free = replace(second, charge=False)
        beside = retry_now(_read(storage, free, _POLICY), free, _READER, _POLICY)[0]
        if not storage.begin(retry_now(known, first, _READER, counting)[0]).applied:
            raise ClaimFailed("a claim does not begin, though nothing else is open")
        for change, (policy, refusal, limit) in zip(late, limits, strict=True):
            if storage.begin(change).applied:
                raise ClaimFailed(f"two retries of one user began at once, though {limit} lets one begin")
            fresh = _read(storage, second, policy)
            _expect(refusal, fresh, second, policy, f"{limit} does not refuse a second retry of one user")
    return _beside(connection, storage, beside)


def _beside(connection: "psycopg.Connection[Any]", storage: FunctionStorage, change: Begin) -> str | None:
    """Begin beside the first one, within all limits."""
    try:
        with connection.transaction():
            storage.begin(change)
    except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
        return error.diag.constraint_name or "an index"
    return None


def _storage(connection: "psycopg.Connection[Any]") -> FunctionStorage:
    def call(function: str, arguments: Mapping[str, Any]) -> Any:
        names = sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder()) for name in arguments
        )
        text = sql.SQL("select pg_catalog.to_jsonb(public.{}({}))")
        query = text.format(sql.Identifier(function), names)
        row = connection.execute(query, list(arguments.values())).fetchone()
        return None if row is None else row[0]

    return FunctionStorage(call, read_for=timedelta(0), settle_for=timedelta(0))


def _asked(user_id: UUID, generation_id: UUID, *, charge: bool) -> Asked:
    return Asked(
        user_id=user_id,
        generation_id=generation_id,
        token=uuid4(),
        operator="rehearsal",
        waive=frozenset({Waiver.BACKOFF}) if charge else frozenset(Waiver),
        charge=charge,
    )


def _read(storage: FunctionStorage, asked: Asked, policy: RetryPolicy) -> Snapshot:
    loaded = storage.load(asked.user_id, asked.generation_id, policy.quota, asked.token)
    snapshot = owned(loaded, asked.user_id, asked.generation_id)
    return replace(snapshot, session_conflict=None)  # whatever this user may have just now


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except AiRetryError as error:
        raise ClaimFailed(f"a claim is refused with {error.code}: {error}") from None


def _expect(refusal: type[AiRetryError], fresh: Snapshot, asked: Asked, policy: RetryPolicy, otherwise: str) -> None:
    try:
        retry_now(fresh, asked, _READER, policy)
    except refusal:
        return
    raise ClaimFailed(otherwise)
