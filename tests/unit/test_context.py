"""How a stored generation is read back as a question."""

from typing import Any

import pytest

from ai_retry.domain.context import PARAMETERS, stored_context
from ai_retry.domain.errors import ContextMissing
from tests.helpers.builders import MESSAGES, a_generation

SECRET = "the user's own words"


def test_context_is_what_was_stored() -> None:
    """Messages, model, parameters and schema come back as they were."""
    schema = {"type": "object"}
    parameters = {"temperature": 0.2, "max_tokens": 900}
    data = {"messages": MESSAGES, "parameters": parameters, "response_schema": schema, "plan_id": 7}

    context = stored_context(a_generation(prompt_data=data, model="large"))

    assert context.messages == tuple(MESSAGES)
    assert (context.model, context.parameters, context.response_schema) == ("large", parameters, schema)


def test_context_needs_messages_alone() -> None:
    """Without model, parameters and schema the provider's defaults are used."""
    context = stored_context(a_generation(prompt_data={"messages": MESSAGES}, model=None))

    assert (context.model, context.parameters, context.response_schema) == (None, {}, None)


@pytest.mark.parametrize(
    ("column", "key", "model"),
    [("large", "small", "large"), (None, "small", "small"), ("", "small", "small"), (None, "", None)],
)
def test_model_is_the_columns_first(column: str | None, key: str, model: str | None) -> None:
    """The column wins over the stored key; an empty text is no model."""
    generation = a_generation(model=column, prompt_data={"messages": MESSAGES, "model": key})

    assert stored_context(generation).model == model


def test_context_takes_messages_in_parts() -> None:
    """A message's content may be a list of parts."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]

    assert stored_context(a_generation(prompt_data={"messages": messages})).messages == tuple(messages)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_sampling_parameters_get_through(name: str) -> None:
    """Each parameter that shapes one answer is passed on."""
    data = {"messages": MESSAGES, "parameters": {name: 1}}

    assert stored_context(a_generation(prompt_data=data)).parameters == {name: 1}


@pytest.mark.parametrize(
    ("prompt_data", "problem"),
    [
        (None, "prompt_data is null"),
        (SECRET, "prompt_data must be a JSON object"),
        ([SECRET], "prompt_data must be a JSON object"),
        ({}, "prompt_data.messages must be a list"),
        ({"messages": []}, "prompt_data.messages must be a list of at least one message"),
        ({"messages": SECRET}, "prompt_data.messages must be a list"),
        ({"messages": [SECRET]}, r"prompt_data.messages\[0\] must be an object with a role"),
        ({"messages": [{"content": SECRET}]}, r"prompt_data.messages\[0\] must be an object with a role"),
        ({"messages": [{"role": 1, "content": SECRET}]}, r"prompt_data.messages\[0\] must be an object with a role"),
        ({"messages": [*MESSAGES, {"role": "user"}]}, r"prompt_data.messages\[1\].content must be a string"),
        ({"messages": [{"role": "user", "content": {"text": SECRET}}]}, r"messages\[0\].content must be a string"),
        ({"messages": MESSAGES, "model": [SECRET]}, "prompt_data.model must be a string"),
        ({"messages": MESSAGES, "parameters": [SECRET]}, "prompt_data.parameters must be a JSON object"),
        ({"messages": MESSAGES, "parameters": {SECRET: 1}}, "prompt_data.parameters may hold"),
        ({"messages": MESSAGES, "parameters": {"n": 100}}, "prompt_data.parameters may hold"),
        ({"messages": MESSAGES, "parameters": {"model": "large"}}, "prompt_data.parameters may hold"),
        ({"messages": MESSAGES, "response_schema": SECRET}, "prompt_data.response_schema must be a JSON object"),
    ],
)
def test_context_names_what_is_wrong(prompt_data: Any, problem: str) -> None:
    """A context that can't be used is refused by the name of its field, never with its content."""
    with pytest.raises(ContextMissing, match=problem) as caught:
        stored_context(a_generation(prompt_data=prompt_data, model=None))

    assert SECRET not in f"{caught.value!r} {caught.value.details}"
