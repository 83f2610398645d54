"""Asks once more for an answer that is not valid under its schema, with what is wrong with it."""

import time
from dataclasses import replace
from datetime import timedelta
from typing import Final

from ai_retry.domain.calls import joined
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, InvalidAnswer
from ai_retry.domain.ports import AiProvider, Clock
from ai_retry.providers.asking import ask, close, falls_back, key_of, model_of, name_of, prepare

_MOST_CONTENT: Final = 16_000  # characters of an invalid answer that are sent back
_MOST_PROBLEMS: Final = 10
_LONGEST_PROBLEM: Final = 200  # characters
_SHORTEST: Final = timedelta(seconds=1)  # of a call
_DEMAND: Final = (
    "Your answer is not valid JSON under the JSON Schema that was asked for. What is wrong, by JSON pointer and"
    " rule:\n{problems}\nAnswer again with the whole, corrected JSON value, and with nothing before or after it."
)


class ReaskProvider:
    """Asks a provider again where its answer is not valid under the schema: itself an ``AiProvider``.

    The model gets the conversation, its own answer, and the places and rules that the answer breaks, each cut to a
    bound. An answer that was cut off, or that is empty, is not asked about again: the same would come. Neither is one
    for which too little time is left: at least half of what the call before has taken.

    Tokens and cost add up, both calls are listed in ``calls``, and each has an idempotency key of its own.

    Args:
        provider: is asked. It says what was invalid in ``Failure.invalid``; one that does not is asked once. It must
            not fall back: which model was asked is asked again, and a fallback names its routes itself.
        reasks: how often at most; 0: never.
        clock: measures the deadline; this machine's when None.

    Raises:
        ValueError: ``reasks`` is negative, or the provider falls back.
    """

    def __init__(self, provider: AiProvider, *, reasks: int = 1, clock: Clock | None = None) -> None:
        if reasks < 0:
            raise ValueError("reasks must not be negative")
        if falls_back(provider):
            raise ValueError("provider must not fall back: write FallbackProvider([ReaskProvider(…), …])")
        self._provider, self._reasks = provider, reasks
        self._monotonic = clock.monotonic if clock is not None else time.monotonic

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._provider!r}, reasks={self._reasks})"

    @property
    def name(self) -> str | None:
        """The provider's name."""
        return name_of(self._provider)

    @property
    def model(self) -> str | None:
        """The model that the provider asks where a context names none."""
        return model_of(self._provider)

    def prepare(self) -> None:
        """Let the provider import what its first call needs."""
        prepare(self._provider)

    def close(self) -> None:
        """Close the provider, if it can be closed."""
        close(self._provider)

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Ask, and ask again; see the port.

        Raises:
            GenerationFailed: nothing else; its ``failure`` is what all calls come to.
        """
        ends = self._monotonic() + timeout.total_seconds()
        failures: list[Failure] = []
        asked, left, key = context, timeout, idempotency_key
        while True:
            result = ask(self._provider, asked, timeout=left, idempotency_key=key, monotonic=self._monotonic)
            before, left = left, timedelta(seconds=ends - self._monotonic())
            invalid = result.invalid if isinstance(result, Failure) else None
            enough = left >= max(_SHORTEST, (before - left) / 2)
            if not isinstance(result, Failure) or invalid is None or len(failures) >= self._reasks or not enough:
                break
            failures.append(result)
            asked, key = asked_again(asked, invalid), key_of(key, "reask", invalid.content)
        whole = joined(failures, result)
        if isinstance(whole, Failure):
            raise GenerationFailed(replace(whole, invalid=None))
        return whole


def asked_again(context: Context, invalid: InvalidAnswer) -> Context:
    """Go on with a conversation: the invalid answer, and what is wrong with it."""
    listed = [f"- {problem[:_LONGEST_PROBLEM]}" for problem in invalid.problems[:_MOST_PROBLEMS]]
    answer = {"role": "assistant", "content": invalid.content[:_MOST_CONTENT]}
    demand = {"role": "user", "content": _DEMAND.format(problems="\n".join(listed))}
    return replace(context, messages=(*context.messages, answer, demand))
