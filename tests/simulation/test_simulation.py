"""Any history of clicks, workers, operators, app writes, lost replies and kills keeps the promise."""

import os
from collections import Counter

import pytest

from ai_retry.testing.memory import MemoryStorage
from tests.simulation.broken import BROKEN, FIRST_SEEDS
from tests.simulation.simulator import histories

HISTORIES = int(os.environ.get("FUZZ", "120"))  # `make campaigns`: 300
SEED = int(os.environ.get("SEED", "1"))
STEPS = 400
ENOUGH = 100  # histories in which everything happens
HUNT = 600  # histories within which a broken storage must be noticed
MUST_HAPPEN = (
    *("created", "creation refused", "ends with IdempotencyConflict", "ends with RetryInProgress"),
    *("began", "succeeded", "paid answers", "call fails", "killed", "StorageUnavailable", "StorageOutcomeUnknown"),
    *("ends with RetryResult", "ends with QueuedRetry", "ends with QueueOutcome", "ends with SessionRejected"),
    *("ends with LeaseLost", "ends with QuotaExhausted", "ends with TooManyParallel", "ends with AlreadySucceeded"),
    *("falls back", "asks again", "a route recovers", "put back in doubt"),
    *("user left", "fail-over", "discarded", "used at the end", "ends with AttemptsExhausted", "messages lost"),
)


@pytest.mark.timeout(3600)
def test_history_keeps_the_promise() -> None:
    """Whatever happens in whatever order, nothing happens twice, nothing is lost, and everything ends."""
    happened: Counter[str] = Counter()

    for tally in histories(SEED, HISTORIES, STEPS):
        happened.update(tally.counts)

    print(f"{HISTORIES} histories of {STEPS} steps from seed {SEED}:", dict(happened.most_common()))
    assert HISTORIES < ENOUGH or [what for what in MUST_HAPPEN if not happened[what]] == []


@pytest.mark.parametrize("storage_type", BROKEN, ids=lambda each: each.__name__)
def test_broken_storage_is_noticed(storage_type: type[MemoryStorage]) -> None:
    """A storage that breaks one promise fails a simulation."""
    with pytest.raises(AssertionError, match="seed"):
        for _ in histories(FIRST_SEEDS.get(storage_type, 1), HUNT, STEPS, storage_type):
            pass
