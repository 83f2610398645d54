"""Tries the reader on the newest failed generations, and judges what it says. No content is kept or reported."""

from collections.abc import Iterator

from ai_retry.config import Settings
from ai_retry.doctor.model import Check, Database, Finding, Level
from ai_retry.domain.errors import AiRetryError, ContextMissing, NotConfigured
from ai_retry.domain.model import Generation
from ai_retry.domain.reader import ContextFrom, ReaderFailed, read_context, reader_name
from ai_retry.domain.recovery import Filter, RecoveryStorage

_TRIED = 20  # generations, at most
_SEE = "see the how-to Use your own prompts"


def contexts(
    storage: RecoveryStorage, database: Database, settings: Settings, reader: ContextFrom
) -> Iterator[Finding]:
    """Say how many of the newest failed generations can be read, unless it is all of them."""
    wanted = Filter(until=database.as_of)
    try:
        page = storage.find(wanted, before=None, page=_TRIED, quota_rule=settings.policy.quota)
    except AiRetryError as error:
        problem = str(error.details.get("missing", error))
        yield Finding(Check.CONTEXTS, f"failed generations can't be searched: {problem}", "correct what it names")
        return
    refusals = [_refusal(reader, row.snapshot.generation) for row in page.rows]
    unread = [each for each in refusals if each is not None]
    if not unread:
        return
    defects = [each for each in unread if isinstance(each, ReaderFailed)]
    first = (defects or unread)[0]
    read, name = len(refusals) - len(unread), reader_name(reader)
    yield Finding(
        Check.CONTEXTS,
        f"{name} can read {read} of the {len(refusals)} newest failed generations: {_reported(first)}",
        f"correct {name if defects else 'these rows, or name another reader in AI_RETRY_CONTEXT_FROM'}; {_SEE}",
        Level.PROBLEM if defects or not read else Level.HINT,
    )


def _refusal(reader: ContextFrom, generation: Generation) -> ContextMissing | NotConfigured | None:
    try:
        read_context(reader, generation)
    except (ContextMissing, NotConfigured) as refusal:
        return refusal
    return None


def _reported(refusal: AiRetryError) -> str:
    place = f" ({refusal.place})" if isinstance(refusal, ReaderFailed) and refusal.place else ""
    return f"{refusal.details.get('problem', refusal)}{place}"
