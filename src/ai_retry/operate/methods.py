"""What a client offers operators. The work is done in the other modules, which are imported when they are used."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast
from uuid import UUID

from ai_retry.domain.change import Discard
from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.names import as_uuid, check_operator
from ai_retry.domain.ports import Storage

if TYPE_CHECKING:
    from ai_retry.domain.operation import OperatorStorage
    from ai_retry.operate.desk import Acting
    from ai_retry.operate.operations import Operations
    from ai_retry.operate.operator import Operator
    from ai_retry.recovery.parts import Parts


class OperateMethods(ABC):
    """The methods of a client for operators; the client has the parts."""

    _storage: Storage
    _operator_storage: "OperatorStorage | None"

    @abstractmethod
    def _recovery_parts(self) -> "Parts": ...

    @abstractmethod
    def _spool_files(self) -> int | None: ...

    def operate(self, operator: "Operator") -> "Operations":
        """Give what this operator may do and read; the role is asked by each method, and each action is recorded.

        Raises:
            NotConfigured: this client was given no operator_storage.
        """
        from ai_retry.operate.desk import Desk  # noqa: PLC0415 - see above
        from ai_retry.operate.operations import Operations  # noqa: PLC0415

        if self._operator_storage is None:
            raise NotConfigured("this client was given no operator_storage: pass one, or use ai_retry.connect()")
        desk = Desk(
            client=cast("Acting", self),
            storage=self._operator_storage,
            parts=self._recovery_parts,
            spool_files=self._spool_files,
        )
        return Operations(operator, desk)

    def discard_answer(self, user_id: UUID | str, generation_id: UUID | str, *, operator: str) -> bool:
        """Drop a stored answer that can never become a session, so that the next retry calls again; recorded.

        Returns:
            Whether there was one.

        Raises:
            StorageFailure: safe to repeat.
            ValueError: an id is not a UUID, or ``operator`` is blank or can't be read in a log; nothing was read.
        """
        user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
        check_operator(operator, lifted=["discard_answer"])
        change = Discard(user_id=user_id, generation_id=generation_id, operator=operator)
        return self._storage.amend(change).applied
