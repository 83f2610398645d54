"""The numbers of the game with workers: leases and waits so short that what a dead worker left is soon resolved."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

MAX_PARALLEL = 2
LEASE = timedelta(seconds=3)
MAX_ATTEMPTS = 6
SETTINGS: Mapping[str, str] = {
    "AI_MODEL": "any",
    "AI_RETRY_MAX_ATTEMPTS": f"{MAX_ATTEMPTS}",
    "AI_RETRY_MAX_PARALLEL": f"{MAX_PARALLEL}",
    "AI_RETRY_BACKOFF_BASE_SECONDS": "0.5",
    "AI_RETRY_BACKOFF_CAP_SECONDS": "2",
    "AI_RETRY_OUTAGE_CAP_SECONDS": "2",
    "AI_RETRY_DEADLINE_SECONDS": "1.5",
    "AI_RETRY_SETTLE_MARGIN_SECONDS": "0.5",
    "AI_RETRY_LEASE_SECONDS": f"{LEASE.total_seconds():g}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many of what, and when: seconds after the first retry is accepted."""

    users: int = 50
    generations: int = 500
    greedy: int = 108  # of them the first user's, accepted before anybody else's
    workers: int = 4
    concurrency: int = 4
    kills: tuple[float, ...] = tuple(2.0 * n for n in range(1, 31))
    restarts: tuple[float, ...] = (9.0, 33.0)  # of PostgreSQL: a crash, then an orderly one, and so on
    refused: tuple[float, float] | None = (16.0, 22.0)  # the provider is gone: nobody listens
    unavailable: tuple[float, float] | None = (40.0, 44.0)  # the provider answers 503
    losses: tuple[float, ...] = (4.0, 12.0, 24.0)
    lost: int = 10  # messages, each time
    duplications: tuple[float, ...] = (5.0, 13.0, 25.0)
    duplicated: int = 20
    locks: tuple[float, ...] = (20.0, 45.0)  # the app locks its generations, longer than a lease; then the queue is
    drops: tuple[float, ...] = (28.0,)  # the queue is dropped, and created anew
    odd: float | None = None  # how probably a gateway answers nonsense; None: connections are direct
    longest: float = 240.0  # until everything has ended


SMALL = Plan(
    users=10,
    generations=42,
    greedy=15,
    workers=2,
    concurrency=6,
    kills=(5.0,),  # last, so that the next worker finds at once whose messages are lost
    restarts=(2.0,),
    refused=None,
    unavailable=None,
    losses=(1.7,),
    lost=4,
    duplications=(1.5,),
    duplicated=8,
    locks=(),
    drops=(2.2,),
    longest=240.0,
)
OVER_API = Plan(
    users=20,
    generations=160,
    greedy=27,
    workers=3,
    concurrency=4,
    kills=tuple(3.0 * n for n in range(1, 9)),
    restarts=(),
    refused=None,
    unavailable=None,
    losses=(4.0, 8.0),
    duplications=(5.0, 9.0),
    locks=(12.0,),
    drops=(6.0,),
    odd=0.08,
)
SMALL_OVER_API = Plan(
    users=5,
    generations=16,
    greedy=4,
    workers=2,
    concurrency=4,
    kills=(2.0,),
    restarts=(),
    refused=None,
    unavailable=None,
    losses=(),
    duplications=(),
    locks=(),
    drops=(),
    odd=0.08,
)
