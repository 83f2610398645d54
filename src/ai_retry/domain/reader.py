"""Readers: functions of the app's that read a question out of a generation, by name and with what may go wrong in them.

A reader is code of the operator's. What it raises may hold a prompt, so that only the exception's type, and the place
where it was raised, are kept of it.
"""

import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import ContextMissing, NotConfigured
from ai_retry.domain.model import Context, Generation

ContextFrom: TypeAlias = Callable[[Generation], Context]

_LONGEST_NAME = 255  # characters


class ContextUnusable(ContextMissing):
    """The code or the settings here are at fault, and not the generation: another process may use its context.

    Like a context that is missing for whoever asks. A worker keeps the accepted retry, since whoever accepted it could
    use the context: settings that agree, or the next release of the app, cure it.
    """


class ReaderFailed(ContextUnusable):
    """The reader has a defect: it raised something else than ``ContextMissing``, or returned no usable ``Context``."""

    def __init__(self, reader: str, fault: str, *, place: str | None = None) -> None:
        super().__init__(f"the reader {reader} {fault}")
        self.place = place  # file and line that raised, for logs


class OtherReader(NotConfigured):
    """A worker met a retry that was accepted with another reader than its own: it must not judge that context."""

    def __init__(self, *, accepted_with: str, ours: str) -> None:
        super().__init__(
            f"the retry was accepted with the reader {accepted_with}, and this worker has {ours}: "
            f"run workers with AI_RETRY_CONTEXT_FROM={accepted_with}"
        )


def reader_name(reader: ContextFrom) -> str:
    """Name a reader as ``package.module:function``, however it was given; a callable object has the name of its class.

    What ``functools.wraps`` or ``partial`` put around a function does not change the name. A script's ``__main__`` is
    named as others would import it.
    """
    named: Any = inspect.unwrap(reader)
    while isinstance(named, partial):
        named = inspect.unwrap(named.func)
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{_module_name(named.__module__)}:{named.__qualname__}"[:_LONGEST_NAME]


def read_context(reader: ContextFrom, generation: Generation) -> Context:
    """Read the context of a generation.

    Raises:
        ContextMissing: the reader says so.
        ReaderFailed: the reader raised anything else, or returned what can't be asked. Its exception is not chained,
            since its text may hold a prompt.
        NotConfigured: the reader says that something is not set up.
    """
    if reader is stored_context:
        return stored_context(generation)  # which raises nothing else, and has read all of it out of JSON
    try:
        context = reader(generation)
    except (ContextMissing, NotConfigured):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - code of the app's
        failed = ReaderFailed(reader_name(reader), f"raised {type(error).__qualname__}", place=place_of(error))
    else:
        is_ours = inspect.unwrap(reader) is stored_context
        fault = _fault(context, foreign=not is_ours)
        if fault is None:
            return context
        failed = ReaderFailed(reader_name(reader), fault)
    raise failed


def place_of(error: BaseException) -> str | None:
    """Return the name of the file, and the line, where an exception was raised."""
    if isinstance(error, SyntaxError) and error.filename is not None:  # raised by the import, of that place
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None


def _fault(context: object, *, foreign: bool) -> str | None:
    """Say what is wrong with what a reader returned; ``stored_context`` has read all of it out of JSON."""
    if not isinstance(context, Context):
        return f"returned {type(context).__qualname__}, which is not an ai_retry.Context"
    messages: object = context.messages
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        return "returned a Context without a list of messages"
    model: object = context.model
    if model is not None and not isinstance(model, str):
        return "returned a Context whose model is not a string"
    parts: list[object] = [*messages, context.parameters, context.response_schema or {}, context.extra_body]
    if not all(isinstance(each, Mapping) for each in parts):
        return "returned a Context in which a message, the parameters or the schema is not a mapping"
    return "returned a Context that can't be written as JSON" if foreign and not _is_json(parts) else None


def _is_json(parts: list[Any]) -> bool:
    try:
        json.dumps([dict(each) for each in parts], allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _module_name(module: str | None) -> str:
    """Name a module; for the script that is run, its name in an import of it."""
    if module != "__main__":
        return module or "builtins"
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return Path(path).stem if path else "__main__"
