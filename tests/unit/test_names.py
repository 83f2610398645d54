"""Keys and operators are checked before anything is read, whichever door a retry comes through."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from ai_retry.client import Client
from ai_retry.domain.model import Waiver
from ai_retry.domain.names import PlanKey
from ai_retry.domain.queue import enqueue_generation
from ai_retry.domain.retry import retry_generation

IDS = (uuid4(), uuid4())


class Used(Exception):
    """A port was used."""


class Untouched:
    """Any port, which is not to be used."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        return self._use

    def _use(self, *_: object, **__: object) -> object:
        raise Used


NOTHING: Any = Untouched()
Door = Callable[..., object]


def _client() -> Client:
    return Client(storage=NOTHING, ai=NOTHING, queue_storage=NOTHING)


DOORS: dict[str, Door] = {
    "domain": lambda **how: retry_generation(*IDS, storage=NOTHING, ai=NOTHING, clock=NOTHING, **how),
    "domain-queue": lambda **how: enqueue_generation(*IDS, storage=NOTHING, **how),
    "client": lambda **how: _client().retry_generation(*IDS, **how),
    "client-queue": lambda **how: _client().enqueue(*IDS, **how),
}
LIFTED: dict[str, dict[str, Any]] = {
    "waive": {"waive": frozenset({Waiver.BACKOFF})},
    "charge=False": {"charge": False},
    "waive and charge=False": {"waive": frozenset(Waiver), "charge": False},
}


@pytest.fixture(params=list(DOORS))
def door(request: pytest.FixtureRequest) -> Door:
    """Each way in which a retry is asked for."""
    return DOORS[request.param]


@pytest.mark.parametrize("key", ["plan:", "plan:0123"])
def test_key_of_a_plan_refused(door: Door, key: str) -> None:
    """A caller can't pass an attempt off as a recovery plan's."""
    with pytest.raises(ValueError, match=r"^idempotency_key must not begin with plan:"):
        door(idempotency_key=key)


def test_key_that_recovery_makes_taken(door: Door) -> None:
    """Recovery's own key passes the check, so that the storage is read."""
    key = PlanKey.of("0123")

    with pytest.raises(Used):
        door(idempotency_key=key)
    assert key == "plan:0123"


@pytest.mark.parametrize("operator", [None, "", " ", "\u2003\t"], ids=["none", "empty", "space", "white space"])
@pytest.mark.parametrize("names", LIFTED)
def test_limit_lifted_without_a_name_refused(door: Door, names: str, operator: str | None) -> None:
    """No limit is lifted unless it is recorded who lifted it; white space is no name."""
    with pytest.raises(ValueError, match=rf"^operator must be given with {names}: "):
        door(operator=operator, **LIFTED[names])


@pytest.mark.parametrize("names", LIFTED)
def test_limit_lifted_by_name_taken(door: Door, names: str) -> None:
    """With a name the same arguments pass the check, so that the storage is read."""
    with pytest.raises(Used):
        door(operator="ada@example.com", **LIFTED[names])


def test_blank_operator_refused_when_nothing_is_lifted(door: Door) -> None:
    """A name that is given can be read."""
    with pytest.raises(ValueError, match=r"^operator must not be blank$"):
        door(operator="  ")


@pytest.mark.parametrize("operator", [None, "", " ", "\n", "x" * 256], ids=["none", "empty", "space", "line", "long"])
def test_answer_discarded_only_by_name(operator: Any) -> None:
    """A paid answer is dropped by a person whose name is recorded, or it is kept."""
    with pytest.raises(ValueError, match=r"^operator must "):
        _client().discard_answer(*IDS, operator=operator)
