"""The page of the events: what each promises, and in which order they come."""

import dataclasses
import inspect
import logging
from collections.abc import Iterator

from ai_retry import events
from ai_retry.events import AttemptEvent, CallEvent, Event, MessageEvent
from tools.pages.markdown import notice, one_line, page, table
from tools.pages.sources import meaning, member

_HEAD = """`connect(on_event=…)` and `Client(on_event=…)` take one hook or several. Each is called with every event.
The log is written from the same events ([Read the log](../how-to/observe.md#logs)).

```python
from ai_retry import connect
from ai_retry.events import AttemptFailed, Event


def on_event(event: Event) -> None:
    if isinstance(event, AttemptFailed):
        print(event.code, event.generation_id, event.request_id)


client = connect(on_event=on_event)
```

## What is promised

- A hook is called after the event has happened, in the thread in which it happened. Events of one attempt in one
  process come in the order below. There is no order between attempts or between processes.
- An exception of a hook is logged as `event=hook_failed`. It affects neither the attempt nor the next hook. The attempt
  waits for its hooks, so a slow hook should put the event into a queue of its own.
- Each event is delivered at most once. A killed process reports nothing more; the process that closes its attempt
  reports it as abandoned. The books are kept in the database, not in events.
- An event holds no prompt, answer, token or key. `reason` is one cleaned line.
- Instants are those of the database, durations are seconds of this machine. Unknown values are `None`.

A retry that its caller waits for:

    AttemptBegan → ProviderCalled, for each request → AttemptSucceeded
                                                    → AttemptFailed (→ AnswerKept, if its answer is stored)
                                                    → AnswerKept, if it could not be settled
    Refused, or RequestFailed, if it did not begin, or if its result is not known (→ Spooled comes before it)

An accepted retry begins with `GenerationAccepted`. Its attempts follow in a worker as above, with the `request_id` of
the accepted request. In between it may be put back any number of times: `RetryPostponed` before an attempt begins,
`AttemptPutBack` after it. The last event is `AttemptSucceeded`, `AttemptFailed` with `goes_on=False`, or
`AttemptCancelled`.

`AttemptAbandoned` may come for any attempt of a process that died, also for other generations of the user who clicks.
Each process reports `RouteClosed` and `RouteOpened` once, when it notices.

`WebhookDelivered`, `WebhookFailed` and `WebhookGivenUp` are about [messages](../how-to/webhooks.md), in the process
that delivers them. `ProviderCalled` comes for each call after the last one; `ended_seconds_ago` says when it ended.

In views of your own, name the request for which you call the client:

```python
from ai_retry import hooks

with hooks.request(request_id="9f2c", traceparent=None):
    client.retry_generation(user_id, generation_id)
```

The blueprint does so itself, with the request's `X-Request-Id` and `traceparent`. Both are stored with the attempt.
"""
_BASES = (Event, AttemptEvent, CallEvent, MessageEvent)


def render() -> str:
    """Render the page."""
    lines = ["# Events", "", notice("src/ai_retry/events.py"), "", _HEAD, "## Each event", "", "All have:", ""]
    lines += table(["field", "meaning"], [_field(Event, each.name) for each in dataclasses.fields(Event)])
    for kind in vars(events).values():
        if isinstance(kind, type) and issubclass(kind, Event) and kind not in _BASES:
            lines += _kind(kind)
    return page(lines)


def _kind(kind: type[Event]) -> Iterator[str]:
    level = logging.getLevelName(kind.level)
    yield from (f"### {kind.__name__}", "", one_line(kind.__doc__ or ""), "")
    yield from (f"In the log: `event={events.name_of(kind.__name__)}`, at {level}.", "")
    of_all = {each.name for each in dataclasses.fields(Event)}
    own = [each.name for each in dataclasses.fields(kind) if each.name not in of_all]
    if own:
        yield from table(["field", "meaning"], [_field(kind, name) for name in own])


def _field(kind: type[Event], name: str) -> tuple[str, str]:
    owner = next(each for each in kind.__mro__ if name in inspect.get_annotations(each))
    said = meaning(member(f"events.{owner.__name__}").members[name])
    return f"`{name}`", said or _SAID.get(name, "")


_SAID = {
    "user_id": "whose",
    "generation_id": "which generation",
    "reason": "one line for operators",
    "code": "as in [Errors](errors.md)",
    "call_seconds": "how long the call took; of several calls, together",
    "prompt_tokens": "as the provider says",
    "completion_tokens": "as the provider says",
    "total_tokens": "as the provider says",
    "seconds": "from the begin until it was closed",
    "settle_seconds": "how long closing took",
    "next_attempt_at": "when the next attempt may run",
    "retry_after_seconds": "when coming back may help; None: it does not",
    "wait_seconds": "how long it is not tried",
    "until": "until when, by the database's time",
    "route": "provider and model",
    "action": "what was asked for",
    "outcome": "settled or decided",
    "concurrency": "attempts at once",
    "taken": "messages",
    "left": "attempts that still run",
}
