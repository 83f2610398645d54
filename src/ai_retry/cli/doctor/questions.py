"""Judges how a provider would be asked what the newest failed generations ask. No provider is called."""

from collections.abc import Iterable, Iterator

from ai_retry.cli.doctor.model import Check, Finding, Level
from ai_retry.domain.errors import ContextMissing
from ai_retry.domain.model import Context
from ai_retry.providers.response_schema import schema_of


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
            "set additionalProperties to false in every object, require every property, and use no keyword outside the "
            "subset; ai-retry names the first one of each schema in its log",
            Level.HINT,
        )
