"""Reads contexts out of apps that keep what was asked in columns of their own: one message with all of them."""

import json

from ai_retry.domain.context import stored_context
from ai_retry.domain.model import Context, Generation


def read(generation: Generation) -> Context:
    """Ask with the app's own messages, or else with its columns as they are."""
    data = generation.prompt_data
    if isinstance(data, dict) and data and "messages" not in data:
        return Context(messages=[{"role": "user", "content": json.dumps(data)}], model=generation.model)
    return stored_context(generation)
