"""The AI provider of all runs, on real sockets: it behaves as its generation's run wants, and keeps its own log."""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from uuid import UUID

from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, pause, raw, reply, reset, stall


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the provider saw it."""

    generation_id: UUID
    at: float  # wall clock
    serial: int | None  # of the answer that was sent; None: there was none


class FakeProvider:
    """Plays each generation's list of behaviours, one per request, and answers once it is used up.

    Behaviours: ``answer``, ``slow answer``, ``silent``, ``error``, ``limited``, ``reset``, ``garbage``, and two with a
    hook that is called while the request is here: ``kill`` (the worker), ``locked answer`` (what the app locks).
    """

    def __init__(self, seed: int) -> None:
        self.server = ScriptedServer(default=self._play)
        self._random = Random(seed)
        self._serials = itertools.count(1)
        self._behaviours: dict[UUID, list[str]] = {}
        self._hooks: dict[UUID, Callable[[], None]] = {}
        self._calls: dict[UUID, list[Call]] = defaultdict(list)
        self._lock = threading.Lock()

    def expect(self, generation_id: UUID, behaviours: tuple[str, ...], hook: Callable[[], None] = lambda: None) -> None:
        """Say how to behave."""
        with self._lock:
            self._behaviours[generation_id] = list(behaviours)
            self._hooks[generation_id] = hook

    def calls(self, generation_id: UUID) -> list[Call]:
        """What was asked so far."""
        with self._lock:
            return list(self._calls[generation_id])

    def _play(self, request: Request) -> Script:
        generation_id = UUID(request.json()["messages"][0]["content"])
        with self._lock:
            behaviours = self._behaviours.get(generation_id)
            behaviour = behaviours.pop(0) if behaviours else "answer"
            serial = next(self._serials) if behaviour.endswith("answer") else None
            self._calls[generation_id].append(Call(generation_id, time.time(), serial))
            thinking = self._random.uniform(0.02, 0.1)
        if behaviour in ("kill", "locked answer"):
            self._hooks[generation_id]()
        if behaviour == "slow answer":
            thinking += 0.35
        return raw(pause(thinking), _script(behaviour, serial))


def _script(behaviour: str, serial: int | None) -> Script:
    match behaviour:
        case "silent":
            return stall()
        case "error":
            return reply(500, json={"error": {"message": "broken"}})
        case "limited":
            return reply(429, json={"error": {"message": "slow down"}}, headers={"Retry-After": "0"})
        case "garbage":
            return chat("no JSON")
        case "reset" | "kill":
            return reset()
        case _:
            return chat({"serial": serial})
