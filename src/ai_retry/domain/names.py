"""The names that callers give: ids, idempotency keys, limits to lift, and their own. Checked before anything is read.

A key that begins with ``plan:`` belongs to a recovery plan: its attempts are found, reported and priced by it. So only
recovery makes such keys, as ``PlanKey``. A limit is lifted by a person whose name is recorded, or it is not lifted.
"""

from collections.abc import Collection
from typing import Literal, Self, TypeAlias
from uuid import UUID

from ai_retry.domain.model import Waiver

WaiverWord: TypeAlias = Waiver | Literal["backoff", "quota"]
"""How callers name a limit that an operator lifts."""

PLAN_PREFIX = "plan:"  # the SQL function that finds a plan's attempts reads it too
_LONGEST = 255  # characters


class PlanKey(str):
    """The idempotency key that a plan's attempts carry."""

    __slots__ = ()

    @classmethod
    def of(cls, plan_id: str) -> Self:
        """Make the key of a plan."""
        return cls(PLAN_PREFIX + plan_id)


def as_uuid(value: UUID | str, name: str) -> UUID:
    """Accept a ``UUID`` or its canonical string (RFC 9562, section 4), in either case.

    Raises:
        ValueError: names the argument.
    """
    if isinstance(value, UUID):
        return value
    try:
        parsed = UUID(value)
    except (ValueError, AttributeError, TypeError):
        parsed = None
    if parsed is None or str(parsed) != value.lower():
        raise ValueError(f"{name} must be a UUID such as 6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11")
    return parsed


def check_key(idempotency_key: str | None) -> None:
    """Refuse a key that can't be read in a log, or that belongs to a recovery plan.

    Raises:
        ValueError: names the argument.
    """
    if idempotency_key is None:
        return
    check_readable(idempotency_key, "idempotency_key")
    if idempotency_key.startswith(PLAN_PREFIX) and not isinstance(idempotency_key, PlanKey):
        raise ValueError(f"idempotency_key must not begin with {PLAN_PREFIX}, which marks the attempts of plans")


def check_operator(operator: str | None, *, lifted: Collection[str] = ()) -> None:
    """Refuse a name that can't be read in a log, and a lifted limit without a name; a blank one counts as none.

    Args:
        operator: as the caller gave it.
        lifted: what lifts a limit, in the caller's words.

    Raises:
        ValueError: names the argument, and what lifts a limit.
    """
    if lifted and not (operator and operator.strip()):
        raise ValueError(f"operator must be given with {' and '.join(lifted)}: a limit is lifted by name, and recorded")
    if operator is not None:
        check_readable(operator, "operator")
        if not operator.strip():
            raise ValueError("operator must not be blank")


def as_waivers(waive: Collection[WaiverWord]) -> frozenset[Waiver]:
    """Accept limits to lift as ``Waiver`` or as words.

    Raises:
        ValueError: names the argument and what it may be.
    """
    known: frozenset[str] = frozenset(Waiver)
    if isinstance(waive, str) or not set(waive) <= known:
        raise ValueError(f"waive must be a set of {', '.join(sorted(known))}; nothing else can be lifted")
    return frozenset(Waiver(each) for each in waive)


def lifting(*, waive: Collection[WaiverWord], charge: bool) -> list[str]:
    """List the arguments of a retry that lift a limit, as the caller wrote them."""
    return [*(["waive"] if waive else []), *([] if charge else ["charge=False"])]


def check_readable(text: str, name: str) -> None:
    """Refuse what can't be read in a log.

    Raises:
        ValueError: names the argument.
    """
    if not (text.isprintable() and 1 <= len(text) <= _LONGEST):
        raise ValueError(f"{name} must have 1 to {_LONGEST} printable characters")
