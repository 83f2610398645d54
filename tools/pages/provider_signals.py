"""How a provider's answer is judged, from the table that the code uses."""

from collections.abc import Iterable
from itertools import groupby

from ai_retry.providers import answer_signals, signals
from ai_retry.providers.signal import Signal
from tools.pages.markdown import notice

_INTRODUCTION = f"""# How a provider's answer is judged

{notice("ai_retry.providers.signals and answer_signals, the table that the code uses")}

The columns of the tables:

- **code**: appears in the attempt, in the endpoint's answer (502) and in the log.
- **not generated**: certainly no token was produced. Such a call uses up no attempt, and the request may be repeated
  inside the call. In doubt the column is empty: that costs an attempt, while a wrong yes would repeat a paid call.
- **may pass**: the identical request may succeed later, without any change.
- **operator**: the operator of the app has to act (key, credit, model, configuration). No attempt is used up.

Thoughts are not part of an answer. `<think>…</think>` and its variants before the content are removed, and so are a
byte order mark and tokens of the model's template around it, such as `<|im_end|>`. If thoughts are never closed, there
is no answer; a closing tag without an opening one also ends thoughts. With a schema, JSON inside one Markdown fence, or
in one tag such as `<answer>`, is used. Two JSON values, prose around the JSON and trailing commas are not valid.

Without a schema, an answer is complete only if its finish reason is null, missing, empty or one of ENDS, in upper or
lower case. With a schema, a valid object or list is complete, unless its finish reason is in the last table. The finish
reason is read under every name that APIs use: `finish_reason`, `finishReason`, `stop_reason`, `stopReason`,
`finish_details`, `done_reason`. If it has several words, as in `content_filter: SAFETY`, each counts. Without a schema,
an answer with a tool call, or with a part that is not text, is not valid.

If the provider asks for a wait (`retry-after-ms`, `Retry-After` in seconds or as a date, a hint in the body, reset
headers, in this order), our own backoff is at least that long, up to `AI_RETRY_MAX_WAIT_SECONDS`.

Examples of configuration: OpenRouter needs `AI_API_KEY` and perhaps
`AI_HEADERS={{"HTTP-Referer": "https://app.example", "X-Title": "App"}}`; Azure needs the deployment's address in
`AI_BASE_URL`, `AI_QUERY={{"api-version": "2024-10-21"}}` and `AI_AUTH_HEADER=api-key`; a server on this machine needs
`AI_BASE_URL=http://127.0.0.1:8080/v1` and no key.
"""


def render() -> str:
    """Render the table of signals, in the order in which it is searched."""
    return "\n".join(
        [
            _INTRODUCTION.replace("ENDS", ", ".join(f"`{word}`" for word in sorted(answer_signals.ENDS) if word)),
            *_table("Before there is an answer", signals.BEFORE),
            *_table(
                "A status that is not 2xx, or an error inside a 2xx; the first row that applies counts", signals.STATUS
            ),
            *_table("Inside a 2xx; the words are finish reasons", answer_signals.CONTENT),
        ]
    )


def _table(title: str, rows: Iterable[Signal]) -> list[str]:
    head = ["| shows | when | code | not generated | may pass | operator | source |", "|---|---|---|---|---|---|---|"]
    return [f"## {title}", "", *head, *map(_row, rows), ""]


def _row(signal: Signal) -> str:
    when = "; ".join(
        part
        for part in (
            ", ".join(_ranges(signal.statuses)),
            ", ".join(f"`{word}`" for word in sorted(signal.words)),
            ", ".join(f"“{phrase}”" for phrase in sorted(signal.phrases)),
        )
        if part
    )
    marks = ("yes" if mark else "" for mark in (signal.not_generated, signal.transient, signal.operator_fault))
    return f"| {signal.shows} | {when} | `{signal.code}` | {' | '.join(marks)} | {signal.source} |"


def _ranges(statuses: Iterable[int]) -> list[str]:
    """Write numbers in a row as one: ``400-499``."""
    rows = groupby(enumerate(sorted(statuses)), key=lambda pair: pair[1] - pair[0])
    spans = ([status for _, status in row] for _, row in rows)
    return [str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans]
