"""The schema that an answer must be valid under: checked once per content, since any user may write one.

A status page, a click and a worker ask about the same schema again and again. What the check found, a refusal too, is
kept by the content.
"""

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ai_retry.domain.errors import ContextMissing
from ai_retry.providers import dialect
from ai_retry.providers.keywords import TooMuchWork
from ai_retry.providers.strict_subset import first_outside

MAX_BYTES: Final = 64 * 1024  # of a schema, written as compact JSON in UTF-8
MAX_SUBSCHEMAS: Final = 500  # of a schema, itself included; ``true`` and ``false`` don't count
MAX_LEVELS: Final = 100  # of nesting; comparing deeper ones ends libraries with more than an exception
_KEPT_BYTES = 4 * 1024 * 1024  # of schemas whose check is kept; in memory they take up to thirty times as much
_OVERHEAD = 1024  # bytes that even the smallest one counts for


class ResponseSchema:
    """A JSON Schema that can be applied. Immutable; many threads may use it at once.

    Attributes:
        outside: the first thing outside the subset for ``strict: true``, by JSON pointer; None: it is in the subset.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Take a schema that ``dialect.fault`` finds nothing wrong with."""
        self.outside = first_outside(schema)
        self._validator = dialect.validator_of(schema)
        self._words = _words(schema)
        self._unwarned = threading.Lock()  # taken by the first who asks

    @property
    def strict(self) -> bool:
        """Whether a provider can be asked to keep to it strictly."""
        return self.outside is None

    def take_warning(self) -> str | None:
        """Return what is ``outside`` to the first who asks; None to all others, and where nothing is."""
        return self.outside if self._unwarned.acquire(blocking=False) else None

    def problem(self, output: Any) -> str | None:
        """Say what is wrong with an output: the first place that fails and the keyword, as ``/weeks/0: minItems``.

        None: it is valid. A name that the schema does not hold is the model's own, and is written as ``*``.
        """
        try:
            error = dialect.first_error(self._validator, output)
        except RecursionError:
            return "the schema refers to itself without end"
        except TooMuchWork:
            return "it takes too long to check under its schema"
        return None if error is None else self._place(error, missing=0)

    def problems(self, output: Any, *, most: int) -> Sequence[str]:
        """List what is wrong with an output, so many places at most, each as ``problem`` writes it."""
        try:
            errors = dialect.errors(self._validator, output, most)
        except (RecursionError, TooMuchWork):
            problem = self.problem(output)
            return [problem] if problem is not None else []
        seen: Counter[str] = Counter()
        found = []
        for error in errors:
            at = f"{list(error.absolute_path)}{error.validator}{list(error.schema_path)}"
            found.append(self._place(error, missing=seen[at]))
            seen[at] += 1
        return found

    def _place(self, error: Any, *, missing: int) -> str:
        """Write where an error is, and its keyword; of names that are required, the missing one with this place."""
        path = list(error.absolute_path)
        if error.validator == "required":
            names = [name for name in error.validator_value if name not in error.instance]
            path += names[missing : missing + 1]
        return f"{dialect.pointer(path, known=self._words)}: {error.validator}"


def schema_of(schema: Mapping[str, Any]) -> ResponseSchema:
    """Check a schema of JSON Schema, draft 2020-12, or recall what the check found. No I/O; safe from any thread.

    Raises:
        ContextMissing: it is too large or too deep, is not a schema, holds a pattern that RE2 does not take or names
            matched by patterns, or a ``$ref`` of it leads outside. The same schema is refused again.
    """
    try:
        text = _canonical(dict(schema))
    except RecursionError:
        raise _refused(_TOO_DEEP) from None
    except (TypeError, ValueError):
        raise _refused("it can't be written as JSON") from None
    content = text.encode("utf-8", "surrogatepass")
    if len(content) > MAX_BYTES:
        raise _refused(f"it has {len(content)} bytes, and {MAX_BYTES} is the limit")
    found = _checked.get(content)
    if found is None:
        found = _check(text)
        _checked.put(content, found)
    if isinstance(found, str):
        raise _refused(found)
    return found


_TOO_DEEP = "it is nested too deeply"
_canonical: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def _check(text: str) -> ResponseSchema | str:
    """Check a schema, read anew so that it is ours; a string is the reason to refuse it."""
    try:
        schema = json.loads(text)
        count = sum(isinstance(each, Mapping) for _, each in dialect.subschemas(schema))
        if count > MAX_SUBSCHEMAS:
            return f"it has {count} subschemas, and {MAX_SUBSCHEMAS} is the limit"
        if _is_deep(schema):
            return f"it is nested deeper than {MAX_LEVELS} levels, which is the limit"
        return dialect.fault(schema) or ResponseSchema(schema)
    except RecursionError:
        return _TOO_DEEP
    except TooMuchWork:
        return "it takes too long to check"
    except (ValueError, OverflowError):
        return "a pattern or a $ref can't be read"


def _is_deep(schema: Any) -> bool:
    """Whether the nesting exceeds the limit; level by level, without recursion."""
    level = [schema]
    for _ in range(MAX_LEVELS):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [item for items in inner for item in items]
    return bool(level)


def _refused(problem: str) -> ContextMissing:
    return ContextMissing(f"response_schema: {problem}")


def _words(schema: Any) -> frozenset[str]:
    """Every word of the schema: a property name that is not among them is the model's own."""
    words: set[str] = set()
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            words.update(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            words.update(entry for entry in item if isinstance(entry, str))
            pending.extend(item)
    return frozenset(words)


class _Checked:
    """What was found of the schemas that were used last, bounded in bytes."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._found: OrderedDict[bytes, ResponseSchema | str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, content: bytes) -> ResponseSchema | str | None:
        """Recall one."""
        with self._lock:
            if content not in self._found:
                return None
            self._found.move_to_end(content)
            return self._found[content]

    def put(self, content: bytes, found: ResponseSchema | str) -> None:
        """Keep one, and forget those that were not used for longest; what another thread has kept meanwhile stays."""
        with self._lock:
            if content in self._found:
                return
            self._found[content] = found
            self._left -= len(content) + _OVERHEAD
            while self._left < 0:
                freed, _ = self._found.popitem(last=False)
                self._left += len(freed) + _OVERHEAD


_checked = _Checked(_KEPT_BYTES)
