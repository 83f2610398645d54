"""How a plan is run: pace, and who runs it. All of it is checked at once, before anything is read or asked."""

import getpass
import re
from dataclasses import dataclass
from typing import Literal, Self

from ai_retry.domain.names import check_operator
from ai_retry.domain.policy import RetryPolicy
from ai_retry.recovery.plan_file import Terms

_RATE = re.compile(r"(\d{1,6})/(second|minute|hour)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The arguments of ``Plan.run``, checked."""

    max_workers: int
    interval: float  # seconds between two starts, at least
    stop_on_outage: bool
    operator: str

    @classmethod
    def checked(
        cls,
        terms: Terms,
        *,
        usual: RetryPolicy,
        max_calls: int,
        max_workers: int,
        rate: str | None,
        on_outage: Literal["pause", "stop"],
        operator: str | None,
    ) -> Self:
        """Check what ``Plan.run`` was given.

        Args:
            terms: of the plan; those that lift a limit want an operator's name.
            usual: the client's policy; a plan that has another one lifts a limit.
            max_calls: the client's.
            max_workers: see ``Plan.run``, like the others.
            rate: see there.
            on_outage: see there.
            operator: see there.

        Raises:
            ValueError: names the argument and what it may be.
        """
        if not 1 <= max_workers <= max_calls:
            raise ValueError(f"max_workers must be from 1 to {max_calls}, what max_calls (AI_RETRY_MAX_CALLS) allows")
        if on_outage not in ("pause", "stop"):
            raise ValueError('on_outage must be "pause" or "stop"')
        check_operator(operator, lifted=terms.lifting(usual))
        return cls(
            max_workers=max_workers,
            interval=interval_of(rate),
            stop_on_outage=on_outage == "stop",
            operator=_this_user() if operator is None else operator,
        )


def interval_of(rate: str | None) -> float:
    """Read ``60/minute``: seconds between two starts.

    Raises:
        ValueError: names the argument and what it may be.
    """
    if rate is None:
        return 0.0
    match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError('rate must be a number of calls per second, minute or hour, such as "60/minute"')
    return _SECONDS[match[2]] / int(match[1])


def _this_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ValueError("operator must be given: this machine does not say who you are") from None
