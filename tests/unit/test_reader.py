"""Readers: their names, and what becomes of what they raise or return."""

import sys
from collections.abc import Callable, Mapping
from functools import partial, wraps
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ai_retry.bootstrap import usable_context
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import ContextMissing, NotConfigured, StorageUnavailable
from ai_retry.domain.model import Context, Generation
from ai_retry.domain.reader import ContextFrom, ReaderFailed, place_of, read_context, reader_name
from tests.helpers.builders import MESSAGES, a_context, a_generation

SECRET = "prompt-that-no-error-may-hold"
HERE = "tests.unit.test_reader"


def read(generation: Generation) -> Context:
    """Read as an app would, in another form."""
    return Context(messages=[{"role": "user", "content": str(generation.prompt_data["question"])}], model=None)


class Reader:
    """A reader that is an object."""

    def __call__(self, generation: Generation) -> Context:
        """Read."""
        return read(generation)

    def method(self, generation: Generation) -> Context:
        """Read, too."""
        return read(generation)


def decorated(reader: ContextFrom) -> ContextFrom:
    """Wrap a reader as decorators do."""

    @wraps(reader)
    def wrapper(generation: Generation) -> Context:
        return reader(generation)

    return wrapper


def configured(_: str, generation: Generation) -> Context:
    """Read under a setting."""
    return read(generation)


def wired(reader: ContextFrom) -> ContextFrom:
    """Wrap a reader as ``connect`` does."""
    return usable_context(reader, models=None, default_model="small", check_schema=lambda _: None)


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        (read, f"{HERE}:read"),
        (decorated(read), f"{HERE}:read"),
        (partial(configured, "x"), f"{HERE}:configured"),
        (Reader(), f"{HERE}:Reader"),
        (Reader().method, f"{HERE}:Reader.method"),
        (stored_context, "ai_retry.domain.context:stored_context"),
    ],
)
def test_reader_has_one_name(reader: ContextFrom, name: str) -> None:
    """However a reader is wrapped, by the app or by us, its name is that of what reads."""
    assert reader_name(reader) == reader_name(wired(reader)) == name


@pytest.mark.parametrize(
    ("main", "name"),
    [
        ({"__spec__": SimpleNamespace(name="shop.app"), "__file__": "elsewhere.py"}, "shop.app:read"),
        ({"__spec__": SimpleNamespace(name="shop.__main__")}, "shop:read"),
        ({"__spec__": None, "__file__": "/srv/app.py"}, "app:read"),
        ({"__spec__": None}, "__main__:read"),
    ],
)
def test_script_is_named_as_others_import_it(
    main: Mapping[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader in the script that runs has the name under which a worker imports it."""
    module = ModuleType("__main__")
    vars(module).update(main)
    monkeypatch.setitem(sys.modules, "__main__", module)

    def reader(_: Generation) -> Context:
        return a_context()

    reader.__module__, reader.__qualname__ = "__main__", "read"

    assert reader_name(reader) == name


def test_long_name_is_cut() -> None:
    """A name fits into a column and a log line."""

    def reader(_: Generation) -> Context:
        return a_context()

    reader.__qualname__ = "x" * 1000

    assert len(reader_name(reader)) == 255


def test_context_is_read() -> None:
    """What the reader returns is returned."""
    assert read_context(read, a_generation(prompt_data={"question": "?"})).messages[0]["content"] == "?"


@pytest.mark.parametrize("refusal", [ContextMissing("prompt_data.question is missing"), NotConfigured("no key")])
def test_refusal_of_the_reader_passes(refusal: Exception) -> None:
    """A reader may say that a context is missing, or that something is not set up."""

    def reader(_: Generation) -> Context:
        raise refusal

    with pytest.raises(type(refusal)) as caught:
        read_context(reader, a_generation())

    assert caught.value is refusal


@pytest.mark.parametrize(
    "error",
    [KeyError(SECRET), TypeError(SECRET), RecursionError(SECRET), StorageUnavailable(SECRET), SystemExit(SECRET)],
)
@pytest.mark.parametrize("wrap", [lambda reader: reader, wired])
def test_readers_exception_is_reported_by_type(
    error: BaseException, wrap: Callable[[ContextFrom], ContextFrom]
) -> None:
    """Any other exception is a missing context that names reader and type, and holds no text of it."""

    def reader(_: Generation) -> Context:
        raise error

    with pytest.raises(ReaderFailed) as caught:
        read_context(wrap(reader), a_generation())

    failed = caught.value
    assert f"{reader_name(reader)} raised {type(error).__qualname__}" in str(failed)
    assert (failed.code, failed.http_status) == ("CONTEXT_MISSING", 404)
    assert str(failed.place).startswith("test_reader.py:")
    assert SECRET not in f"{failed} {failed.details}"
    assert failed.__cause__ is failed.__context__ is None


NO_MESSAGES = "returned a Context without a list of messages"
NO_MAPPING = "returned a Context in which a message, the parameters or the schema is not a mapping"
NO_JSON = "returned a Context that can't be written as JSON"


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ({"messages": MESSAGES}, "returned dict, which is not an ai_retry.Context"),
        (None, "returned NoneType, which is not an ai_retry.Context"),
        (a_context(messages=()), NO_MESSAGES),
        (a_context(messages=SECRET), NO_MESSAGES),
        (a_context(messages=None), NO_MESSAGES),
        (a_context(messages=[SECRET]), NO_MAPPING),
        (a_context(parameters=None), NO_MAPPING),
        (a_context(response_schema=[SECRET]), NO_MAPPING),
        (a_context(model=7), "returned a Context whose model is not a string"),
        (a_context(messages=[{"role": "user", "content": {SECRET}}]), NO_JSON),
        (a_context(parameters={"temperature": float("nan")}), NO_JSON),
    ],
)
@pytest.mark.parametrize("wrap", [lambda reader: reader, wired])
def test_unusable_context_is_refused(returned: Any, problem: str, wrap: Callable[[ContextFrom], ContextFrom]) -> None:
    """What can't be asked is refused before anything is begun, and named without its content."""

    def reader(_: Generation) -> Any:
        return returned

    with pytest.raises(ReaderFailed) as caught:
        read_context(wrap(reader), a_generation())

    assert caught.value.details == {"problem": f"the reader {reader_name(reader)} {problem}"}
    assert SECRET not in str(caught.value)


def test_place_is_where_it_was_raised() -> None:
    """The innermost file and line, in whatever code; of a module that can't be read, its own line."""

    def deeper() -> None:
        raise ValueError(SECRET)

    def reader() -> None:
        deeper()

    places = []
    for raising in (reader, lambda: compile("def read(:", "/app/prompts.py", "exec"), compile_nowhere):
        with pytest.raises((ValueError, SyntaxError)) as caught:
            raising()
        places.append(place_of(caught.value))

    first_line = deeper.__code__.co_firstlineno
    assert places[:2] == [f"test_reader.py:{first_line + 1}", "prompts.py:1"]
    assert str(places[2]).startswith("test_reader.py:")
    assert place_of(ValueError("never raised")) is None


def compile_nowhere() -> None:
    """Raise an error of a syntax that is in no file."""
    raise SyntaxError(SECRET)
