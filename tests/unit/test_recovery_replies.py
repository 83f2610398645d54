"""Replies to an operator's questions that are not the database's, or that Python can't hold."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain.errors import NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.model import QuotaRule
from ai_retry.domain.recovery import Filter
from ai_retry.storage.recovery import RecoveryFunctions

ID = UUID(int=1)
RULE = QuotaRule()
QUESTIONS: dict[str, Callable[[RecoveryFunctions], object]] = {
    "find": lambda storage: storage.find(
        Filter(until=datetime(2026, 1, 1, tzinfo=UTC)), before=None, page=1, quota_rule=RULE
    ),
    "find_one": lambda storage: storage.find_one(ID, RULE),
    "find_attempts": lambda storage: storage.find_attempts("plan:x", after=None, page=1),
    "estimate": lambda storage: storage.estimate(),
    "record": lambda storage: storage.record_recovery(ID, plan_id="x", operator="ada", plan={}, counts=None),
    "inspect": lambda storage: storage.inspect(),
    "books": lambda storage: storage.books(),
}


def storage_that_gets(reply: Any) -> RecoveryFunctions:
    """A storage whose transport returns that, or raises it; it repeats nothing."""

    def call(_function: str, _arguments: Any) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    return RecoveryFunctions(call, read_for=timedelta(0), settle_for=timedelta(0))


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize("reply", ["<html>Please log in</html>", 7, [7], [{}], {"message": "hello"}])
def test_page_of_something_else_is_no_reply(ask: Callable[[RecoveryFunctions], object], reply: Any) -> None:
    """A page, or JSON of another shape, is a lost reply: the question may be asked again."""
    with pytest.raises(StorageUnavailable) as caught:
        ask(storage_that_gets(reply))
    assert caught.value.retry_after is not None


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_lost_reply_leaves_nothing_unknown(ask: Callable[[RecoveryFunctions], object]) -> None:
    """All of it can be repeated, so that a lost reply means no more than that the database was unavailable."""
    with pytest.raises(StorageUnavailable):
        ask(storage_that_gets(StorageOutcomeUnknown("gone", retry_after=timedelta(seconds=1))))


def test_number_beyond_python_is_named() -> None:
    """What an app wrote may be beyond what Python reads: the problem says so, without the content."""
    with pytest.raises(NotConfigured):
        QUESTIONS["find_one"](storage_that_gets(ValueError("Exceeds the limit for integer string conversion")))
