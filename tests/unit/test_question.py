"""How a provider is asked: the form of the output, and the deployment's own fields."""

import copy
import json
import logging
from types import MappingProxyType
from typing import Any

import pytest

from ai_retry.domain.errors import ContextMissing
from ai_retry.domain.model import Context, ResponseFormat
from ai_retry.providers.question import Question, question

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "description": "é"}},
    "required": ["title"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "required": ["title"]}
USER = {"role": "user", "content": "An easy run."}


def ask(
    *messages: Any, response_format: ResponseFormat = ResponseFormat.JSON_SCHEMA, extra: Any = None, **context: Any
) -> Question:
    """Put a question together."""
    asked = Context(**{"messages": messages or (USER,), "model": None, "response_schema": SCHEMA} | context)
    return question(asked, model="small", response_format=response_format, extra_body=extra or {})


@pytest.mark.parametrize(("schema", "strict"), [(SCHEMA, True), (OPEN, False)])
def test_json_schema_is_strict_only_in_subset(schema: dict[str, Any], *, strict: bool) -> None:
    """The schema goes along as it is; strict is what it allows."""
    asked = ask(response_schema=schema)

    assert asked.body == {
        "model": "small",
        "messages": [USER],
        "stream": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "strict": strict, "schema": schema},
        },
    }
    assert asked.added == {"response_format"}


SYSTEM = {"role": "system", "content": "Be brief."}
DEVELOPER = {"role": "developer", "content": "Be brief."}
EMPTY = {"role": "system", "content": ""}


@pytest.mark.parametrize(
    ("messages", "before", "role", "begins", "after"),
    [
        ([USER], [], "system", "Answer in JSON", [USER]),
        ([SYSTEM, USER], [], "system", "Be brief.\n\nAnswer in JSON", [USER]),
        ([DEVELOPER, USER], [], "developer", "Be brief.\n\nAnswer in JSON", [USER]),
        ([USER, EMPTY, SYSTEM], [USER], "system", "Answer in JSON", [SYSTEM]),
    ],
)
def test_json_object_puts_schema_into_system_message(
    messages: list[Any], before: list[Any], role: str, begins: str, after: list[Any]
) -> None:
    """The first system message, or a new one in front, says JSON and holds the schema; the context stays as it was."""
    given = copy.deepcopy(messages)

    asked = ask(*messages, response_format=ResponseFormat.JSON_OBJECT)

    sent = asked.body["messages"]
    said = sent[len(before)]
    assert sent == [*before, said, *after]
    assert said["role"] == role
    assert said["content"].startswith(begins)
    assert said["content"].endswith("\n" + json.dumps(SCHEMA, ensure_ascii=False))
    assert messages == given
    assert asked.body["response_format"] == {"type": "json_object"}
    assert asked.added == {"response_format"}


def test_json_object_appends_a_part_to_parts() -> None:
    """A system message of parts gets one more."""
    part = {"type": "text", "text": "Be brief."}

    asked = ask({"role": "system", "content": [part]}, USER, response_format=ResponseFormat.JSON_OBJECT)

    first, second = asked.body["messages"][0]["content"]
    assert first == part
    assert second["type"] == "text"
    assert json.dumps(SCHEMA, ensure_ascii=False) in second["text"]


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [(ResponseFormat.NONE, SCHEMA), *((each, None) for each in ResponseFormat)],
)
def test_nothing_is_demanded_without_format_or_schema(response_format: ResponseFormat, schema: Any) -> None:
    """With ``none``, or without a schema, the messages go as they are and no field is added."""
    asked = ask(response_format=response_format, response_schema=schema)

    assert asked.body == {"model": "small", "messages": [USER], "stream": False}
    assert asked.added == set()


@pytest.mark.parametrize("response_format", ResponseFormat)
def test_bad_schema_is_refused_in_every_format(response_format: ResponseFormat) -> None:
    """What an answer could not be validated under is not asked for."""
    with pytest.raises(ContextMissing, match="response_schema: /type"):
        ask(response_format=response_format, response_schema={"type": "no-type"})


def test_extra_fields_are_merged_last() -> None:
    """The deployment's fields replace the user's parameters, and those of the code replace them both."""
    asked = ask(
        extra={"max_tokens": 800, "models": ["a", "b"], "seed": 1},
        parameters={"max_tokens": 9000, "temperature": 1},
        extra_body={"seed": 2, "response_format": {"type": "text"}},
    )

    assert asked.body == {
        "model": "small",
        "messages": [USER],
        "stream": False,
        "temperature": 1,
        "max_tokens": 800,
        "models": ["a", "b"],
        "seed": 2,
        "response_format": {"type": "text"},
    }
    assert asked.added == {"response_format", "max_tokens", "models", "seed"}


@pytest.mark.parametrize("name", ["messages", "model", "stream"])
def test_reserved_field_of_the_context_is_refused(name: str) -> None:
    """Neither the prompt nor the model can be replaced on the way, and no answer is streamed."""
    with pytest.raises(ContextMissing, match=rf"extra_body must not hold {name} \(") as refused:
        ask(extra_body={name: "secret value"})

    assert "secret value" not in str(refused.value)


def test_secrets_of_extra_fields_are_known() -> None:
    """Texts under names that say so are kept out of what learns of an answer; no field is in a repr."""
    asked = ask(
        extra={"provider": {"api_key": "sk-1", "order": ["a"]}, "tokens": ["sk-2"], "max_tokens": 5},
        extra_body={"auth": {"deep": [{"er": "sk-3"}]}},
    )

    assert sorted(asked.secrets) == ["sk-1", "sk-2", "sk-3"]
    assert "sk-" not in repr(asked)
    assert "sk-" not in repr(Context(messages=[], model=None, extra_body={"auth": "sk-3"}))


def test_schema_outside_subset_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line per schema names the first thing outside; other formats, which send no strict, log nothing."""
    one, other = ({"type": "object", "properties": {name: {}}, "title": "logged once"} for name in ("one", "other"))
    with caplog.at_level(logging.WARNING, "ai_retry"):
        ask(response_schema=one, response_format=ResponseFormat.JSON_OBJECT)
        assert not caplog.records
        for schema in (one, one, other, SCHEMA, one):
            ask(response_schema=dict(schema))

    assert [record.getMessage() for record in caplog.records] == ["event=schema_not_strict first_outside=/required"] * 2


@pytest.mark.parametrize("response_format", ResponseFormat)
def test_any_mapping_can_be_sent(response_format: ResponseFormat) -> None:
    """A reader may return read-only mappings: they are sent as the objects that they are."""
    read_only = MappingProxyType[str, Any]
    asked = ask(read_only(USER), response_schema=read_only(SCHEMA), response_format=response_format)

    assert json.loads(json.dumps(asked.body)) == ask(response_format=response_format).body
