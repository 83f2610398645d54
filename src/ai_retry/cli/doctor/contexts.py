"""Tries the reader on the newest failed generations, and judges what it says. No content is kept or reported."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from ai_retry.cli.doctor.model import Check, Database, Finding, Level
from ai_retry.config import Settings
from ai_retry.domain.errors import AiRetryError, ContextMissing, NotConfigured
from ai_retry.domain.model import Context
from ai_retry.domain.reader import ContextFrom, ReaderFailed, read_context, reader_name
from ai_retry.domain.recovery import Filter, FoundRow, RecoveryStorage, UnreadableRow

Refusal: TypeAlias = ContextMissing | NotConfigured

_TRIED = 20  # generations, at most
_READS = "it takes an ai_retry.Generation and returns an ai_retry.Context, or raises ContextMissing"


def newest(
    storage: RecoveryStorage, database: Database, settings: Settings, reader: ContextFrom
) -> list[Context | Refusal]:
    """Read the newest failed generations; each is a context, or the reason why it can't be read.

    Raises:
        AiRetryError: they can't be searched.
    """
    wanted = Filter(until=database.as_of)
    page = storage.find(wanted, before=None, page=_TRIED, quota_rule=settings.policy.quota)
    return [_read(reader, row) for row in page.rows]


def not_searched(error: AiRetryError) -> Finding:
    """Say why failed generations can't be searched."""
    problem = str(error.details.get("missing", error))
    return Finding(Check.CONTEXTS, f"failed generations can't be searched: {problem}", "correct what it names")


def contexts(read: Sequence[Context | Refusal], reader: ContextFrom) -> Iterator[Finding]:
    """Say how many of the newest failed generations can be read, unless it is all of them."""
    unread = [each for each in read if not isinstance(each, Context)]
    if not unread:
        return
    defects = [each for each in unread if isinstance(each, ReaderFailed)]
    first = (defects or unread)[0]
    count, name = len(read) - len(unread), reader_name(reader)
    remedy = f"correct {name if defects else 'these rows, or name another reader in AI_RETRY_CONTEXT_FROM'}: {_READS}"
    yield Finding(
        Check.CONTEXTS,
        f"{name} can read {count} of the {len(read)} newest failed generations: {_reported(first)}",
        "set what it names" if isinstance(first, NotConfigured) else remedy,
        Level.PROBLEM if defects or not count else Level.HINT,
    )


def _read(reader: ContextFrom, row: FoundRow | UnreadableRow) -> Context | Refusal:
    if isinstance(row, UnreadableRow):
        return NotConfigured(f"generation {row.generation_id}: {row.problem}")
    try:
        return read_context(reader, row.snapshot.generation)
    except (ContextMissing, NotConfigured) as refusal:
        return refusal


def _reported(refusal: AiRetryError) -> str:
    place = f" ({refusal.place})" if isinstance(refusal, ReaderFailed) and refusal.place else ""
    details = refusal.details
    return f"{details.get('problem') or details.get('missing') or refusal}{place}"
