"""What the functions for operators return, read as values of ``ai_retry.domain.operation``."""

from collections.abc import Sequence
from typing import Any

from ai_retry.domain.operation import Action, AttemptRecord, Done, FailureCount, Overview, UserQuota
from ai_retry.storage.codec import listed, read


class OperatorRows:
    """Reads replies: one method for each function, under the name that the port has."""

    @staticmethod
    def overview(reply: Any) -> Overview:
        """Read what ``ai_retry_overview`` returned."""
        return read(Overview, reply)

    @staticmethod
    def count_failures(reply: Any) -> FailureCount:
        """Read what ``ai_retry_count_failures`` returned."""
        return read(FailureCount, reply)

    @staticmethod
    def attempt_records(reply: Any) -> Sequence[AttemptRecord]:
        """Read what ``ai_retry_attempt_records`` returned."""
        return [read(AttemptRecord, row) for row in listed(reply)]

    @staticmethod
    def user_quota(reply: Any) -> UserQuota:
        """Read what ``ai_retry_user_quota`` returned."""
        return read(UserQuota, reply)

    @staticmethod
    def actions(reply: Any) -> Sequence[Action]:
        """Read what ``ai_retry_list_actions`` returned."""
        return [read(Action, row) for row in listed(reply)]

    @staticmethod
    def act(reply: Any) -> Done:
        """Read what ``ai_retry_operate`` returned."""
        return read(Done, reply)
