"""What counts as valid output: strict JSON, storable in PostgreSQL, valid under the schema.

Messages name the place by JSON pointer (RFC 6901) in words of the schema alone: never the content, nor a property name
that the model made up. Nothing here knows of providers or HTTP.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import re2
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ai_retry.domain.errors import ContextMissing

_DEEPEST = 100  # levels of nesting; more is no answer, and would trouble whoever stores or reads it
_LARGEST_INTEGER = 2**53 - 1  # RFC 7493 (I-JSON), section 2.2: beyond it, readers disagree about the value
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL refuses them in jsonb
_NO_REGISTRY: Registry[Any] = Registry()  # retrieves nothing, so that a $ref never causes I/O


def _unique_items(validator: Any, wanted: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """``uniqueItems`` in linear time: the library compares each item with each, hours for a large answer."""
    if wanted and validator.is_type(instance, "array"):
        keys = [_key(item) for item in instance]
        if len(set(keys)) < len(keys):
            yield ValidationError("has items that are equal")


def _key(value: Any) -> Any:
    """Equal for values that are equal in JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return frozenset((name, _key(item)) for name, item in value.items())
    if isinstance(value, list):
        return list, tuple(_key(item) for item in value)
    return (bool, value) if isinstance(value, bool) else value


def _pattern(validator: Any, pattern: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """``pattern`` in linear time: schemas may come from users, and Python's engine can be made to run for ever."""
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError("does not match")


def _matches(pattern: str, text: str) -> bool:
    expression = _compile(pattern)
    return expression is not None and expression.search(text) is not None


def _compile(pattern: str) -> Any:
    """Compile with RE2; None for what it doesn't take: look-around, back references, enormous counts."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


_Validator: Any = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"uniqueItems": _unique_items, "pattern": _pattern}
)


class InvalidOutput(ValueError):
    """The content is not valid; the message says where and by which rule, never what stands there.

    Attributes:
        broken: it is not JSON at all, as cut content is.
    """

    def __init__(self, problem: str, *, broken: bool = False) -> None:
        super().__init__(problem)
        self.broken = broken


def check_schema(schema: Mapping[str, Any]) -> None:
    """Make sure that outputs can be validated under ``schema``, a JSON Schema of draft 2020-12; no I/O.

    Raises:
        ContextMissing: it is not a schema, a pattern is none that RE2 takes, names are matched by patterns, or a
            ``$ref`` leads outside of it.
    """
    problem = None
    try:
        Draft202012Validator.check_schema(dict(schema))
        if _lead_astray(dict(schema)):
            problem = "a $ref leads to no schema within it"
        elif not all(_compile(pattern) for pattern in _patterns(dict(schema))):
            problem = "a pattern is not one that RE2 can match in linear time"
        elif _has_pattern_properties(schema):
            problem = "patternProperties is not supported"
    except SchemaError as error:
        problem = f"{_pointer(error.absolute_path)} is not valid in JSON Schema draft 2020-12"
    except RecursionError:
        problem = "it is nested too deeply"
    except (ValueError, OverflowError):
        problem = "a pattern or a $ref can't be read"
    if problem is not None:
        raise ContextMissing(f"response_schema: {problem}")


def parse(content: str) -> Any:
    """Read ``content`` as exactly one JSON value (RFC 8259) that can be stored and read without loss.

    Refused beyond the RFC's grammar: duplicate names, ``NaN`` and ``Infinity``, numbers out of range, strings with
    U+0000 or lone surrogates, and nesting of more than 100 levels.

    Raises:
        InvalidOutput: with the reason.
    """
    try:
        value = json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except InvalidOutput:
        raise
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    else:
        _check_values(value)
        return value
    raise InvalidOutput(problem, broken=True)


def validate(output: Any, schema: Mapping[str, Any]) -> None:
    """Check ``output`` under a schema that ``check_schema`` has accepted.

    Raises:
        InvalidOutput: names the first place that fails and the keyword, as in ``/weeks/0/days: minItems``.
    """
    validator = _Validator(dict(schema), registry=_NO_REGISTRY)
    try:
        error = next(validator.iter_errors(output), None)
    except RecursionError:
        problem = "the schema refers to itself without end"
    else:
        if error is None:
            return
        problem = _describe(error, schema)
    raise InvalidOutput(problem)


def _lead_astray(schema: Mapping[str, Any]) -> bool:
    """Whether a reference leads to no schema within it: the meta-schema can't see that."""
    root = DRAFT202012.create_resource(schema)
    pending = [(_NO_REGISTRY.with_resource("", root).resolver(), root)]
    seen = {id(schema)}
    while pending:
        resolver, resource = pending.pop()
        for reference in _references(resource.contents):
            try:
                target = resolver.lookup(reference)
                Draft202012Validator.check_schema(target.contents)
            except (Unresolvable, SchemaError):
                return True
            if id(target.contents) not in seen:
                seen.add(id(target.contents))
                pending.append((target.resolver, DRAFT202012.create_resource(target.contents)))
        pending.extend((resolver.in_subresource(child), child) for child in resource.subresources())
    return False


def _patterns(schema: Any) -> list[str]:
    return [
        subschema["pattern"]
        for subschema in _subschemas(schema)
        if isinstance(subschema, Mapping) and isinstance(subschema.get("pattern"), str)
    ]


def _has_pattern_properties(schema: Any) -> bool:
    """Whether names are matched, which the library does with Python's engine."""
    return any(isinstance(each, Mapping) and "patternProperties" in each for each in _subschemas(schema))


def _subschemas(schema: Any) -> Iterator[Any]:
    pending = [DRAFT202012.create_resource(schema)]
    while pending:
        resource = pending.pop()
        yield resource.contents
        pending.extend(resource.subresources())


def _references(schema: Any) -> list[str]:
    keywords = ("$ref", "$dynamicRef") if isinstance(schema, Mapping) else ()
    return [schema[keyword] for keyword in keywords if keyword in schema]


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidOutput("NaN and Infinity are not JSON")


def _integer(digits: str) -> int:
    if len(digits) > len(str(-_LARGEST_INTEGER)) or abs(int(digits)) > _LARGEST_INTEGER:
        raise InvalidOutput("an integer is too large")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InvalidOutput("a number is too large")
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidOutput("an object has a duplicate name")
    return members


def _check_values(value: Any) -> None:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(_DEEPEST):
        if not level:
            return
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                storable(item)
        level = below
    if level:
        raise InvalidOutput("it is nested too deeply")


def storable(text: str) -> str:
    """Return ``text`` if PostgreSQL can store it.

    Raises:
        InvalidOutput: it holds U+0000 or a lone surrogate.
    """
    if _UNSTORABLE.search(text):
        raise InvalidOutput("a string holds U+0000 or a lone surrogate")
    return text


def _describe(error: ValidationError, schema: Mapping[str, Any]) -> str:
    path = list(error.absolute_path)
    if error.validator == "required":
        required: Any = error.validator_value
        present: Any = error.instance
        path += [name for name in required if name not in present][:1]
    return f"{_pointer(path, known=_names(schema))}: {error.validator}"


def _names(schema: Any) -> set[str]:
    """Every word of the schema: a property name that is not among them is the model's own."""
    names: set[str] = set()
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            names.update(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            names.update(entry for entry in item if isinstance(entry, str))
            pending.extend(item)
    return names


def _pointer(path: Sequence[str | int], *, known: set[str] | None = None) -> str:
    """A JSON pointer (RFC 6901); ``*`` stands for a name that is not to be told."""
    parts = [str(part) if _may_be_told(part, known) else "*" for part in path]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts) or "the root"


def _may_be_told(part: str | int, known: set[str] | None) -> bool:
    return isinstance(part, int) or (part.isprintable() and (known is None or part in known))
