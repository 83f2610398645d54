"""What recovery works with: the parts of a client."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from uuid import UUID

from ai_retry.domain.decide.route import RouteOf
from ai_retry.domain.drive import Renewing
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, Storage
from ai_retry.domain.reader import ContextFrom
from ai_retry.domain.recovery import PlanAttempt, RecoveryStorage
from ai_retry.slots import CallSlots
from ai_retry.watching.reports import Reports

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a client lends to recovery."""

    storage: Storage
    records: RecoveryStorage
    ai: AiProvider
    clock: Clock
    policy: RetryPolicy
    context_from: ContextFrom
    route_of: RouteOf
    renewing: Renewing
    slots: CallSlots
    reports: Reports = field(default_factory=lambda: Reports(lambda _: None))  # gets the events

    def attempts_of(self, key: str) -> Iterator[PlanAttempt]:
        """Read the last attempt that a plan made at each generation, a page at a time."""
        after: UUID | None = None
        while page := self.records.find_attempts(key, after=after, page=_PAGE):
            yield from page
            after = page[-1].generation_id


def notebook_library(name: str) -> Any:
    """Import a library of the extra ``notebook``.

    Raises:
        NotConfigured: names the extra.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise NotConfigured(f"{error.name} is not installed: pip install 'ai-retry[notebook]'") from None
