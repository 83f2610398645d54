"""How a client watches what it does. Events are imported by the first thing that is watched, or by ``prepare``."""

from typing import TYPE_CHECKING
from uuid import UUID

from ai_retry.domain.names import as_uuid
from ai_retry.domain.ports import Clock
from ai_retry.hooks import Events, current_origin

if TYPE_CHECKING:
    from ai_retry.storage.spool import Spool
    from ai_retry.watching.loop_events import LoopEvents
    from ai_retry.watching.reports import Reports


class Watched:
    """What a client needs to report what its loops do; the client has the parts."""

    _clock: Clock
    _spool: "Spool | None"
    events: Events

    @property
    def _reports(self) -> "Reports":
        """Those of all loops, created once: first calls that run at once need no lock, and all get the same."""
        own = vars(self)
        created: Reports = own.get("_created") or own.setdefault("_created", self._reports_to(self.events))
        return created

    def _reports_to(self, events: Events) -> "Reports":
        from ai_retry.watching.reports import Reports  # noqa: PLC0415 - see above

        return Reports(events, has_spool=self._spool is not None)

    def _watch(self, action: str, user_id: UUID | str, generation_id: UUID | str | None) -> "LoopEvents":
        from ai_retry.watching.loop_events import LoopEvents  # noqa: PLC0415 - see above

        return LoopEvents(
            self._reports,
            action,
            self._clock.monotonic,
            user_id=as_uuid(user_id, "user_id"),
            generation_id=as_uuid(generation_id, "generation_id") if generation_id is not None else None,
            origin=current_origin(),
        )
