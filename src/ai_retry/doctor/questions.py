"""Looks at what the newest failed generations ask, and judges how a provider would be asked it. Nobody is called."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from ai_retry.doctor.model import Check, Finding, Level
from ai_retry.domain.errors import AiRetryError, ContextMissing, NotConfigured
from ai_retry.domain.model import Context, QuotaRule
from ai_retry.domain.reader import ContextFrom, read_context
from ai_retry.domain.recovery import Filter, RecoveryStorage
from ai_retry.providers.response_schema import schema_of

_NEWEST = 10  # generations; a prompt may be large


def newest(storage: RecoveryStorage, until: datetime, reader: ContextFrom) -> Iterator[Context]:
    """Read the contexts of the newest failed generations; those that can't be read are left out.

    Args:
        storage: where they are; what is wrong with it is another check's finding.
        until: the storage's time.
        reader: reads a context; what it can't read is another check's finding, too.
    """
    try:
        rows = storage.find(Filter(until=until), before=None, page=_NEWEST, quota_rule=QuotaRule()).rows
    except AiRetryError:
        return
    for row in rows:
        try:
            yield read_context(reader, row.snapshot.generation)
        except (ContextMissing, NotConfigured):
            continue


def strictness(contexts: Iterable[Context]) -> Iterator[Finding]:
    """Say which schemas would be sent without ``strict``, where schemas are sent."""
    schemas = [context.response_schema for context in contexts if context.response_schema is not None]
    outside: list[str] = []
    for schema in schemas:
        try:
            found = schema_of(schema).outside
        except ContextMissing:
            continue
        outside += [] if found is None else [found]
    if outside:
        yield Finding(
            Check.PROVIDER,
            f"{len(outside)} of the newest {len(schemas)} response schemas of failed generations are outside the "
            f"strict subset, the first at {outside[0]}, and are sent with strict: false: the provider may break them",
            "close every object, require every property, and use no other keyword than the subset's; "
            "see Schemas in the how-to Use your own prompts",
            Level.HINT,
        )
