"""The request to the provider that a retry of the benchmark makes, for whoever makes the same one without us."""

from typing import Any

from benchmarks.app_rows import PROMPT_DATA, SCHEMA


def chat_request(*, shaped: bool) -> dict[str, Any]:
    """Write the body of a request to ``chat/completions``."""
    body = {"model": "small", "messages": PROMPT_DATA["messages"], **PROMPT_DATA["parameters"]}
    if shaped:
        demanded = {"name": "output", "strict": True, "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": demanded}
    return body
