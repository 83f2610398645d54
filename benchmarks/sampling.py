"""Numbers out of samples, and how they are written."""

import math
from collections.abc import Sequence


def percentile(samples: Sequence[float], percent: float) -> float:
    """Give the smallest sample that is not below ``percent`` per cent of them (nearest rank)."""
    if not samples:
        raise ValueError("no samples")
    rank = max(1, math.ceil(len(samples) * percent / 100))
    return sorted(samples)[rank - 1]


def short(number: float) -> str:
    """Write a number with three significant digits, whole ones with all of theirs."""
    if number == int(number) or abs(number) >= 1000:
        return f"{number:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:.{digits}f}"
