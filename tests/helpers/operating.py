"""Steps of operators over a storage."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from ai_retry.domain.operation import Deed, Done, HoldRoute, OpenRoute, OperatorStorage, Order
from ai_retry.domain.recovery import RecoveryStorage
from tests.helpers.worlds import World


def desk(world: World) -> OperatorStorage:
    """The world's storage, as operators use it."""
    return cast("OperatorStorage", world.storage)


def records(world: World) -> RecoveryStorage:
    """The world's storage, as recovery uses it."""
    return cast("RecoveryStorage", world.storage)


def order(target: str, *, action: str = "test", user_id: UUID | None = None, **columns: Any) -> Order:
    """What an operator orders."""
    return Order(
        id=columns.get("order_id") or uuid4(),
        operator=columns.get("operator", "ada"),
        role="admin",
        action=action,
        target=target,
        reason=columns.get("reason", "it has to be"),
        user_id=user_id,
    )


def act(world: World, deed: Deed, target: str, **columns: Any) -> Done:
    """Do it on record."""
    return desk(world).act(order(target, **columns), deed)


def hold(world: World, route: str, duration: timedelta = timedelta(minutes=30), **columns: Any) -> None:
    """Hold a route."""
    deed = HoldRoute(route=route, duration=duration)
    assert act(world, deed, f"route:{route}", action="hold_route", **columns).applied


def open_by_hand(world: World, route: str) -> bool:
    """Open it; whether anything was known of it."""
    return act(world, OpenRoute(route=route), f"route:{route}", action="open_route").applied
