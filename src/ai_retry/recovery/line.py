"""The line of generations that wait for their turn: none of a user who has enough running, none before its time."""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

_LONGEST_WAIT = 60.0  # seconds, for a refusal that passes by itself, all waits of one generation together


@dataclass(slots=True)
class Task:
    """A generation to be retried."""

    user_id: UUID
    generation_id: UUID
    refused_at: float | None = None  # monotonic: when it was refused first


class Line:
    """Whose turn it is. Instants are monotonic seconds that the caller measures.

    Args:
        tasks: all that is to be done, in this order.
        max_of_user: how many of one user may run at once.
    """

    def __init__(self, tasks: Sequence[Task], *, max_of_user: int) -> None:
        self._ahead = deque(tasks)
        self._max_of_user = max_of_user
        self._running = Counter[UUID]()
        self._held_back: dict[UUID, deque[Task]] = defaultdict(deque)  # until another one of their user has ended
        self._waiting: list[tuple[float, int, Task]] = []  # refused for a moment: a heap by when they are due
        self._puts = 0

    def __bool__(self) -> bool:
        """Whether anything waits, now or later."""
        return bool(self._ahead or self._waiting or self._held_back)

    def next(self, now: float) -> Task | None:
        """Take the next one; None: nothing can start now."""
        while task := self._candidate(now):
            if self._running[task.user_id] < self._max_of_user:
                self._running[task.user_id] += 1
                return task
            self._held_back[task.user_id].append(task)
        return None

    def wait(self, now: float) -> float | None:
        """Seconds until the next one is due; None: when another one has ended."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None

    def put_back(self, task: Task, now: float, *, after: float, however_long: bool = False) -> bool:
        """Let a refused one wait; False: that would take too long altogether, and it is left."""
        if however_long:
            task.refused_at = None
        else:
            task.refused_at = now if task.refused_at is None else task.refused_at
            if now + after > task.refused_at + _LONGEST_WAIT:
                return False
        self.ended(task)
        self._puts += 1
        heapq.heappush(self._waiting, (now + after, self._puts, task))
        return True

    def ended(self, task: Task) -> None:
        """Note that one runs no more, so that another one of its user may."""
        self._running[task.user_id] -= 1
        if not self._running[task.user_id]:
            del self._running[task.user_id]
        held_back = self._held_back.get(task.user_id)
        if held_back:
            self._ahead.appendleft(held_back.popleft())
            if not held_back:
                del self._held_back[task.user_id]

    def rest(self) -> Iterator[Task]:
        """Return all that still wait."""
        yield from self._ahead
        yield from (task for _, _, task in self._waiting)
        for tasks in self._held_back.values():
            yield from tasks

    def _candidate(self, now: float) -> Task | None:
        if self._waiting and self._waiting[0][0] <= now:
            return heapq.heappop(self._waiting)[2]
        return self._ahead.popleft() if self._ahead else None
