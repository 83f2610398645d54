"""Another model when the first one fails, within one attempt and one deadline."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from ai_retry.domain.calls import joined, route_name
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode
from ai_retry.domain.ports import AiProvider, Clock
from ai_retry.providers.asking import ask, close, falls_back, key_of, model_of, name_of, prepare
from ai_retry.providers.rooms import Rooms

FALLBACK_ON: Final = frozenset({"refusal", "timeout"})
"""What a call falls back on only where that is asked for."""

RESERVE: Final = timedelta(seconds=3)
_SHORTEST: Final = timedelta(seconds=1)  # of a call
_PASSED_ON: Final = (FailureCode.RATE_LIMITED, FailureCode.UNAVAILABLE, FailureCode.INVALID_OUTPUT)


class FallbackProvider:
    """Asks one model after the other until one answers: itself an ``AiProvider``.

    First the first provider for the context's model, and for each of ``context.fallbacks`` (else of ``models``); then
    each further provider: for the model that it names itself (its attribute ``model``), else for the context's.

    A call is passed on where another model may not share what happened: the provider can't be reached, is overloaded,
    broken, or limits requests for longer than fits; an operator has to act there; the model is missing, or the request
    too long for it; the output is not valid. A time-out may have generated, and so is passed on only where
    ``fallback_on`` names ``timeout``; a request that moderation, or the model, refuses for good, only with ``refusal``.
    Nothing else is passed on.

    Every call but the last leaves ``reserve`` for each that follows. Routes that are known to be unavailable
    (``context.unavailable``) are skipped at once; one that recovers gets no more calls at once from here than it has
    room for (``context.recovering``). Each call has an idempotency key of its own, the same one for as long as it is
    unknown what came of it (``context.keys``). Tokens and cost add up, and every call is listed in ``calls``.

    Thread-safe if the providers are.

    Args:
        providers: at least one; whatever keeps the port's contract, and does not fall back itself.
        models: to fall back on at the first provider, where a context says nothing.
        fallback_on: ``timeout``, ``refusal``, or both.
        reserve: left for each call that follows.
        names: of the providers, in routes and records; their attribute ``name`` when None.
        clock: measures the deadline; this machine's when None.

    Raises:
        ValueError: names the argument that can't be used.
    """

    def __init__(
        self,
        providers: Sequence[AiProvider],
        *,
        models: Sequence[str] = (),
        fallback_on: Collection[str] = (),
        reserve: timedelta = RESERVE,
        names: Sequence[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not providers:
            raise ValueError("providers must name at least one")
        if isinstance(fallback_on, str) or not FALLBACK_ON.issuperset(fallback_on):
            raise ValueError(f"fallback_on may hold {', '.join(sorted(FALLBACK_ON))}")
        if reserve < timedelta(0):
            raise ValueError("reserve must not be negative")
        if names is not None and len(names) != len(providers):
            raise ValueError("names must hold one for each provider")
        if any(falls_back(each) for each in providers):
            raise ValueError("providers must not fall back themselves: list theirs, so that each route is known")
        self._providers = tuple(providers)
        self._names = _told_apart(names or [name_of(each) or "provider" for each in providers])
        self._models, self._fallback_on, self._reserve = tuple(models), frozenset(fallback_on), reserve
        self._monotonic = clock.monotonic if clock is not None else time.monotonic
        self._rooms = Rooms()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._providers)!r})"

    @property
    def name(self) -> str:
        """The name of the first provider."""
        return self._names[0]

    @property
    def model(self) -> str | None:
        """The model that the first provider asks where a context names none."""
        return model_of(self._providers[0])

    def prepare(self) -> None:
        """Let the providers import what their first call needs."""
        for each in self._providers:
            prepare(each)

    def close(self) -> None:
        """Close the providers that can be closed."""
        for each in self._providers:
            close(each)

    def routes(self, context: Context) -> Sequence[str]:
        """Name the providers and models that a context may be asked of, in their order."""
        return [each.route for each in self._candidates(context)]

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Ask until one answers; see the port.

        Raises:
            GenerationFailed: nothing else; its ``failure`` is what all calls come to.
        """
        ends = self._monotonic() + timeout.total_seconds()
        candidates = [each for each in self._candidates(context) if each.route not in context.unavailable]
        candidates = candidates or self._candidates(context)[:1]  # whoever begins has seen to it that one is open
        failures: list[Failure] = []
        for index, candidate in enumerate(candidates):
            left = timedelta(seconds=ends - self._monotonic())
            if failures and left < _SHORTEST:
                break
            with self._rooms.taken(candidate.route, context.recovering.get(candidate.route)) as has_room:
                if failures and not has_room:
                    continue
                result = ask(
                    candidate.provider,
                    candidate.context,
                    timeout=self._share(left, len(candidates) - index - 1),
                    idempotency_key=_key(context, candidate, idempotency_key),
                    monotonic=self._monotonic,
                    name=candidate.name,
                    route=candidate.route,
                )
            if isinstance(result, Answer):
                answer = joined(failures, result)
                assert isinstance(answer, Answer)  # noqa: S101 (the last result is one)
                return answer
            failures.append(result)
            if not self._passes_on(result):
                break
        whole = joined(failures[:-1], failures[-1])
        assert isinstance(whole, Failure)  # noqa: S101 (the last result is one)
        raise GenerationFailed(replace(whole, invalid=None))

    def _share(self, left: timedelta, following: int) -> timedelta:
        """Return the time for a call: all but what those that follow need, of which perhaps not all fit."""
        while following and left - self._reserve * following < _SHORTEST:
            following -= 1
        return left - self._reserve * following

    def _passes_on(self, failure: Failure) -> bool:
        """Whether another model may not share this failure."""
        if failure.refused:
            return "refusal" in self._fallback_on
        if failure.code is FailureCode.TIMEOUT:
            return "timeout" in self._fallback_on
        if failure.code is FailureCode.REJECTED:  # too long for this model, or not what this provider takes
            return failure.operator_fault or failure.certainly_not_generated
        return failure.operator_fault or failure.code in _PASSED_ON

    def _candidates(self, context: Context) -> "list[_Candidate]":
        """List whom to ask, in order, each route once."""
        models = self._models if context.fallbacks is None else context.fallbacks
        plain = _plain(context)
        first, *others = zip(self._providers, self._names, strict=True)
        asked = [(*first, plain, False)]
        asked += [(*first, replace(plain, model=model), True) for model in models]
        asked += [
            (*other, replace(plain, model=model_of(other[0]) or plain.model or self.model), True) for other in others
        ]
        found: dict[str, _Candidate] = {}
        for provider, name, question, further in asked:
            route = route_name(name, question.model)
            found.setdefault(route, _Candidate(provider, name, question, route, further))
        return list(found.values())


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A provider and model that may be asked."""

    provider: AiProvider
    name: str
    context: Context
    route: str
    further: bool  # it is not what the context asks first


def _key(context: Context, candidate: _Candidate, idempotency_key: str) -> str:
    """Name a call: by what is known of its route, and by the route, since another model is another question."""
    key = context.keys.get(candidate.route, idempotency_key)
    return key_of(key, candidate.route) if candidate.further else key


def _plain(context: Context) -> Context:
    """Leave out what is said to whoever falls back."""
    if context.fallbacks is None and not (context.unavailable or context.recovering or context.keys):
        return context
    return replace(context, fallbacks=None, unavailable=frozenset(), recovering={}, keys={})


def _told_apart(names: Sequence[str]) -> Sequence[str]:
    """Number the providers that have the name of one before them: an outage of one key is none of the other."""
    return [name if name not in names[:at] else f"{name}#{at + 1}" for at, name in enumerate(names)]
