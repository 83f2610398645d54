"""The provider of queued retries: it fails at random, is gone for a while, and keeps its own log."""

import itertools
import threading
import time
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self
from uuid import UUID

from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, pause, raw, reply, reset, stall
from tools.processes import free_port

_FAILING = {
    "error": reply(500, json={"error": {"message": "broken"}}),
    "overloaded": reply(503, json={"error": {"message": "overloaded"}}),
    "unavailable": reply(503, json={"error": {"message": "come back later"}}),
    "limited": reply(429, json={"error": {"message": "slow down"}}, headers={"Retry-After": "0"}),
    "refused": reply(400, json={"error": {"message": "the request is not understood"}}),
    "garbage": chat("no JSON"),
    "reset": reset(),
    "silent": stall(),
}
FAILURES = ("error", "error", "overloaded", "limited", "reset", "garbage", "silent")  # equally often
_GIVES_UP = 1.5  # seconds, after which no caller waits for a silent one: the caller's deadline


@dataclass(slots=True, kw_only=True)
class QueueCall:
    """One request as the provider saw it."""

    generation_id: UUID
    began: float  # wall clock
    ended: float  # when the answer was due at the latest
    behaviour: str
    serial: int | None  # of the answer that was sent; None: there was none


class MoodyProvider:
    """Answers, or fails with a probability; for a while it may be gone, or unavailable.

    Args:
        seed: of its moods.
        failing: how probable a failure is.
        thinking: seconds that a call takes, between these two.
        hopeless: generations that are always refused for good.
    """

    def __init__(self, seed: int, *, failing: float, thinking: tuple[float, float]) -> None:
        self.calls: list[QueueCall] = []
        self.hopeless: set[UUID] = set()
        self.left_at: list[float] = []  # wall clock
        self._random, self._failing, self._thinking = Random(seed), failing, thinking
        self._serials = itertools.count(1)
        self._lock = threading.Lock()
        self._is_unavailable = False
        self._port = free_port()
        self._server: ScriptedServer | None = None

    @property
    def base_url(self) -> str:
        """What to configure as the provider's API base."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self.come()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.go()

    def come(self) -> None:
        """Listen, if it does not."""
        if self._server is None:
            self._server = ScriptedServer(default=self._play, port=self._port).__enter__()

    def go(self) -> None:
        """Be gone: connections are cut, new ones refused."""
        if self._server is not None:
            self.left_at.append(time.time())
            self._server.__exit__(None, None, None)
            self._server = None

    def be_unavailable(self, yes: bool) -> None:
        """Answer every request with 503, or no longer."""
        self._is_unavailable = yes

    def _play(self, request: Request) -> Script:
        generation_id = UUID(request.json()["messages"][0]["content"])
        with self._lock:
            behaviour = self._behaviour(generation_id)
            serial = next(self._serials) if behaviour == "answer" else None
            thinking = 0.0 if behaviour == "unavailable" else self._random.uniform(*self._thinking)
            now = time.time()
            takes = _GIVES_UP if behaviour == "silent" else thinking
            self.calls.append(
                QueueCall(generation_id=generation_id, began=now, ended=now + takes, behaviour=behaviour, serial=serial)
            )
        return raw(pause(thinking), _script(behaviour, serial))

    def _behaviour(self, generation_id: UUID) -> str:
        if self._is_unavailable:
            return "unavailable"
        if generation_id in self.hopeless:
            return "refused"
        return self._random.choice(FAILURES) if self._random.random() < self._failing else "answer"


def _script(behaviour: str, serial: int | None) -> Script:
    return _FAILING.get(behaviour) or chat({"serial": serial})
