"""A response schema is checked once per content, within limits, and can't hold the process."""

import json
import re
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ai_retry.domain.errors import ContextMissing
from ai_retry.providers import dialect, keywords, response_schema
from ai_retry.providers.response_schema import MAX_BYTES, MAX_SUBSCHEMAS, schema_of

EVIL = {"type": "string", "pattern": "^(a|a)*$"}  # takes Python's engine twice as long with each character
DRAFTS = ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-04/schema#"]


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Begin with nothing checked, and list what is checked."""
    seen: list[Any] = []
    fault = dialect.fault

    def counted(schema: Any) -> str | None:
        seen.append(schema)
        return fault(schema)

    monkeypatch.setattr(dialect, "fault", counted)
    monkeypatch.setattr(response_schema, "_checked", response_schema._Checked(response_schema._KEPT_BYTES))
    return seen


def flat(count: int, prefix: str = "p") -> dict[str, Any]:
    """Make an object with so many properties, in the strict subset."""
    properties = {f"{prefix}{number}": {"type": "string"} for number in range(count)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def nested(levels: int, wrap: Callable[[Any], Any], inner: Any) -> Any:
    """Wrap something so often."""
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def refusal(schema: Any) -> str:
    """Have a schema refused; return the reason."""
    with pytest.raises(ContextMissing) as refused:
        schema_of(schema)
    return str(refused.value.details["problem"])


def test_schema_is_checked_once_per_content(checks: list[Any]) -> None:
    """An equal schema, in another order of its keys and read by another request, is not checked again."""
    schema = flat(3)
    first = schema_of(schema)

    again = schema_of(json.loads(json.dumps(dict(reversed(schema.items())))))

    assert again is first
    assert len(checks) == 1


def test_refusal_is_kept_per_content(checks: list[Any]) -> None:
    """A schema that was refused is refused again for the same reason, without another check."""
    reasons = [refusal({"type": "no-type"}) for _ in range(3)]

    assert reasons == ["response_schema: /type is not valid in JSON Schema draft 2020-12"] * 3
    assert len(checks) == 1


def test_schema_changed_later_is_checked_again(checks: list[Any]) -> None:
    """What is kept is of the content: a caller that changes its schema does not change what was checked."""
    schema = flat(1)
    before = schema_of(schema)
    schema["properties"]["p0"]["type"] = "integer"

    assert before.problem({"p0": "x"}) is None
    assert schema_of(schema).problem({"p0": "x"}) == "/p0: type"
    assert len(checks) == 2


def test_many_threads_share_one_schema() -> None:
    """Threads that ask at once, for more schemas than are kept, all get right answers."""
    barrier = threading.Barrier(8)

    def ask(thread: int) -> list[str | None]:
        barrier.wait(timeout=10)
        schemas = [flat(2, f"{number % 5}-{'x' * 9000}") for number in range(thread, thread + 40)]
        return [schema_of(each).problem({}) for each in schemas]

    with ThreadPoolExecutor(8) as threads:
        found = [problem for problems in threads.map(ask, range(8)) for problem in problems]

    assert len(found) == 8 * 40
    assert set(found) == {"/*: required"}


def test_forgotten_schema_is_the_one_unused_longest(monkeypatch: pytest.MonkeyPatch, checks: list[Any]) -> None:
    """What is kept is bounded in bytes, and what was used last stays."""
    size = len(json.dumps(flat(2, "a"), separators=(",", ":"))) + response_schema._OVERHEAD
    monkeypatch.setattr(response_schema, "_checked", response_schema._Checked(2 * size))

    for prefix in "abaca":
        schema_of(flat(2, prefix))
    schema_of(flat(2, "b"))

    assert [next(iter(each["properties"])) for each in checks] == ["a0", "b0", "c0", "b0"]


@pytest.mark.parametrize("size", [MAX_BYTES, MAX_BYTES + 1])
def test_schema_beyond_64_kilobytes_is_refused(size: int, checks: list[Any]) -> None:
    """The limit counts bytes of UTF-8; the refusal gives the number and the limit, and nothing is checked."""
    schema = {"title": "é"}
    schema["title"] += "é" * ((size - len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode())) // 2)
    schema["title"] += "x" * (size - len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode()))

    if size <= MAX_BYTES:
        schema_of(schema)
    else:
        assert refusal(schema) == f"response_schema: it has {size} bytes, and {MAX_BYTES} is the limit"
        assert not checks


@pytest.mark.parametrize(
    "schema",
    [
        flat(MAX_SUBSCHEMAS),
        {"anyOf": [{}] * MAX_SUBSCHEMAS},
        {"$defs": {str(number): {} for number in range(MAX_SUBSCHEMAS)}},
        nested(MAX_SUBSCHEMAS, lambda inner: {"items": inner}, {}),
    ],
    ids=["properties", "anyOf", "$defs", "nested"],
)
def test_schema_beyond_500_subschemas_is_refused(schema: Any, checks: list[Any]) -> None:
    """The refusal gives the number and the limit, and nothing is checked."""
    assert (
        refusal(schema) == f"response_schema: it has {MAX_SUBSCHEMAS + 1} subschemas, and {MAX_SUBSCHEMAS} is the limit"
    )
    assert not checks


def test_schema_of_500_subschemas_is_used() -> None:
    """The limit itself is allowed; values, and ``false`` for further properties, are no subschemas."""
    schema = flat(MAX_SUBSCHEMAS - 1) | {"examples": [{"a": {}}] * 1000}

    assert schema_of(schema).problem({}) == "/p0: required"


@pytest.mark.parametrize(
    "schema",
    [
        flat(5000),
        {"type": [number if number % 2 else str(number) for number in range(7000)]},
        {"properties": {f"p{number}": {"$ref": "#"} for number in range(400)}},
        {
            "properties": {f"p{number}": {"$ref": "#/x"} for number in range(400)},
            "x": {"properties": {f"p{number}": {"type": "string"} for number in range(400)}},
        },
        {
            "$defs": {str(n): {"$anchor": f"a{n}"} for n in range(240)},
            "allOf": [{"$ref": f"#a{n}"} for n in range(240)],
        },
        nested(400, lambda inner: {"not": inner}, {}),
        {"enum": nested(900, lambda inner: [inner], [])},
    ],
    ids=["large", "types", "references", "reference to the unknown", "anchors", "deep", "deep value"],
)
def test_no_schema_takes_long_to_check(schema: Any) -> None:
    """Whatever it says is found out in a moment: each of these took seconds, or grew with the square of its size."""
    began = time.process_time()

    with suppress(ContextMissing):
        schema_of(schema)

    assert time.process_time() - began < 1.5


@pytest.mark.parametrize(("levels", "refused"), [(49, False), (50, True), (400, True)])
def test_deep_schema_is_refused_with_the_limit(levels: int, *, refused: bool) -> None:
    """A hundred levels are allowed; deeper ones made a library panic, which no handler of exceptions sees."""
    schema = nested(levels, lambda inner: {"properties": {"a": inner}}, {})

    if refused:
        with pytest.raises(ContextMissing, match="100 levels"):
            schema_of(schema)
    else:
        assert schema_of(schema).problem({}) is None


@pytest.mark.parametrize("applicator", ["allOf", "anyOf"])
def test_multiplying_references_end_the_validation(applicator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """References to references, doubled sixty times, end as an invalid output instead of never."""
    definitions: dict[str, Any] = {str(n): {applicator: [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(60)}
    schema = schema_of({"$defs": definitions | {"60": {"type": "string"}}, "$ref": "#/$defs/0"})
    monkeypatch.setattr(keywords, "_MOST_STEPS", 10_000)

    assert schema.problem(1 if applicator == "anyOf" else "x") == "it takes too long to check under its schema"


def test_long_list_counts_with_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long list of values, compared with each of many items, ends as well."""
    monkeypatch.setattr(keywords, "_MOST_STEPS", 10_000)
    schema = schema_of({"items": {"enum": list(range(1000))}})

    assert schema.problem([999] * 5) is None
    assert schema.problem([999] * 50) == "it takes too long to check under its schema"


@pytest.mark.parametrize("applicator", ["anyOf", "oneOf"])
def test_alternatives_that_do_not_fit_take_no_memory(applicator: str) -> None:
    """An answer is not written out once for each alternative that it does not fit."""
    schema = schema_of({applicator: [{"type": "number"}] * 490})
    tracemalloc.start()
    try:
        assert schema.problem("a" * 20_000) == f"the root: {applicator}"
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_large_values_count_with_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What walks through a large value, or writes it into a message, ends as well."""
    walks = schema_of({"allOf": [{"uniqueItems": True}] * 400})
    writes = schema_of({"anyOf": [{"additionalProperties": False}] * 400})
    monkeypatch.setattr(keywords, "_MOST_STEPS", 10_000)

    assert walks.problem(list(range(10_000))) == "it takes too long to check under its schema"
    assert writes.problem({"a" * 10_000: 1}) == "it takes too long to check under its schema"


@pytest.mark.parametrize(
    ("value", "problem"), [(1, None), ("a", None), (2.5, None), (7, "the root: oneOf"), (None, "the root: oneOf")]
)
def test_exactly_one_alternative_has_to_fit(value: Any, problem: str | None) -> None:
    """``oneOf`` refuses a value that fits none of the alternatives, or two of them."""
    alternatives = [
        {"type": "integer"},
        {"type": "string"},
        {"type": "number", "not": {"type": "integer", "maximum": 3}},
    ]

    assert schema_of({"oneOf": alternatives}).problem(value) == problem


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    "place",
    [
        lambda draft: {"properties": {"a": {"$schema": draft, **EVIL}}},
        lambda draft: {"$schema": draft, "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": EVIL}},
        lambda draft: {"$schema": draft, **EVIL, "type": ["string", "object"], "properties": {"a": {"$ref": "#"}}},
    ],
    ids=["below", "at the root", "at the root again"],
)
def test_named_draft_brings_back_no_slow_pattern(place: Any, draft: str) -> None:
    """A ``$schema`` anywhere does not choose the library's own keywords, whose patterns can run for ever."""
    schema = schema_of(place(draft))

    assert schema.problem({"a": "a" * 5000 + "b"}) == "/a: pattern"


@pytest.mark.parametrize(
    "schema", [{"a": object()}, {"minimum": float("nan")}, {1: {}, "a": {}}], ids=["object", "NaN", "names"]
)
def test_schema_that_is_no_json_is_refused(schema: Any) -> None:
    """What can't be written as JSON could not be sent either."""
    assert re.sub("<.*>", "", refusal(schema)) == "response_schema: it can't be written as JSON"


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["object", "array", "string", "#", "#/$defs/a", "("]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Draft202012Validator.VALIDATORS, "$defs", "$schema", "$id", "a"]), inner)
    ),
    max_leaves=12,
)


@given(
    schema=st.dictionaries(st.sampled_from([*Draft202012Validator.VALIDATORS, "$defs", "$schema"]), _JSON), output=_JSON
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_schema_is_refused_or_applied(schema: dict[str, Any], output: Any) -> None:
    """Whatever a user writes is a refusal, or a schema under which any output is valid or has a problem."""
    with suppress(ContextMissing):
        problem = schema_of(schema).problem(output)

        assert problem is None or len(problem) < 2000


def test_name_like_a_prompt_is_hidden() -> None:
    """A name too long to be one, as a prompt in its place would be, is not in the pointer."""
    name = "my whole secret prompt, which someone wrote as a name"

    assert refusal({"properties": {name: {"type": 5}}}).startswith("response_schema: /properties/*/type is not valid")
