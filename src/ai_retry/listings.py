"""What a client offers to list a user's own generations. The work is done in ``ai_retry.domain.listing``."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from uuid import UUID

from ai_retry.domain.decide.route import Reader
from ai_retry.domain.listing import PAGE, GenerationPage, list_generations
from ai_retry.domain.model import Context, GenerationStatus
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import Storage
from ai_retry.domain.reader import ContextFrom


class Listings(ABC):
    """The methods of a client for lists; the client has the parts."""

    _storage: Storage
    _policy: RetryPolicy
    _context_from: ContextFrom

    @abstractmethod
    def _route_of(self, context: Context) -> str | Sequence[str]: ...

    def generations(
        self,
        user_id: UUID | str,
        *,
        status: Collection[GenerationStatus | str] | GenerationStatus | str | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> GenerationPage:
        """List a user's generations, the newest first, each with what a retry of it would be answered now. Reads only.

        Args:
            user_id: whose.
            status: only those that say this, or one of these; None: any.
            limit: of the page, from 1 to 100. It may be shorter, or empty, although more follow.
            cursor: ``next`` of the page before; None: the first one.

        Raises:
            StorageFailure: safe to repeat.
            ValueError: the id is not a UUID, or a status, the limit or the cursor is none that there is.
        """
        return list_generations(
            user_id,
            storage=self._storage,
            policy=self._policy,
            reader=Reader(context_from=self._context_from, route_of=self._route_of),
            status=status,
            limit=limit,
            cursor=cursor,
        )
