"""Creating a generation in memory, with its first attempt: all of it, or nothing."""

from datetime import datetime
from typing import Any

from ai_retry.domain.change import Begin, NewGeneration, Open
from ai_retry.domain.decide.first import NO_SESSIONS, NOT_AS_ASKED, refused
from ai_retry.domain.model import Generation
from ai_retry.testing.memory.app import GenerationRefused
from ai_retry.testing.memory.settling import MemorySettling
from ai_retry.testing.memory.tables import proposed


class MemoryCreating(MemorySettling):
    """Creates generations through the app."""

    def _create(self, change: Begin, now: datetime) -> bool:
        """Create the generation that the change asks for, if it does; False: the id is there already."""
        new = new_generation(change)
        if new is None:
            return True
        before = dict(self.app.generations)
        try:
            created = self._insert(change, {**new.columns, "prompt_data": new.prompt_data, "model": new.model}, now)
        except GenerationRefused as error:
            failure = refused(error.sqlstate, error.name)
        else:
            if not created:
                self.app.generations = before
            return created
        self.app.generations = before
        if self.passed:  # what was closed is reported, and the change comes again
            return False
        raise failure

    def _insert(self, change: Begin, request: dict[str, Any], now: datetime) -> bool:
        if not self.app.create_generation(change.user_id, change.generation_id, request, now):
            return False
        row = self.app.read(change.generation_id)
        if row is None or row.user_id != change.user_id or row.id in self.app.hidden:
            raise GenerationRefused(NOT_AS_ASKED)
        if not self.app.can_create_session:
            raise GenerationRefused(NO_SESSIONS)
        return True

    def _proposal(self, change: Begin, now: datetime) -> Generation | None:
        """What the begin finds of the generation that it creates; None: it creates none."""
        return proposed(change.generation_id, change.user_id, now) if new_generation(change) is not None else None


def new_generation(change: Begin) -> NewGeneration | None:
    """Return what a begin is to create."""
    return change.attempt.create if isinstance(change.attempt, Open) else None
