"""JSON Schema (draft 2020-12) as it is applied here: in bounded time and without I/O.

Schemas may come from users, and none of them may hold the process or reach another machine.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

import attrs
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ai_retry.providers.keywords import KEYWORDS, bounded_work, compile_pattern

Path: TypeAlias = Sequence[str | int]

_LONGEST_NAME = 40  # characters of a name in a pointer: a longer one may be anything
_LONGEST_PATH = 40  # parts of a pointer
_ONE = frozenset(
    {
        *("additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then"),
        *("unevaluatedItems", "unevaluatedProperties"),
    }
)
_LISTED = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_REFERENCES = ("$ref", "$dynamicRef")


def subschemas(schema: Any) -> Iterator[tuple[Path, Any]]:
    """Give every subschema, the schema itself first, with the way to it; what is malformed is passed over."""
    pending: list[tuple[Path, Any]] = [((), schema)]
    while pending:
        path, each = pending.pop()
        yield path, each
        if not isinstance(each, Mapping):
            continue
        for keyword, value in each.items():
            if keyword in _ONE and isinstance(value, Mapping | bool):
                pending.append(((*path, keyword), value))
            elif keyword in _LISTED and isinstance(value, list):
                pending.extend(((*path, keyword, index), item) for index, item in enumerate(value))
            elif keyword in _NAMED and isinstance(value, Mapping):
                pending.extend(((*path, keyword, name), item) for name, item in value.items())


def fault(schema: Mapping[str, Any]) -> str | None:
    """Say why outputs can't be validated under ``schema``; None: they can. No I/O."""
    error = first_error(_META, schema)
    if error is not None:
        return f"{pointer(error.absolute_path)} is not valid in JSON Schema draft 2020-12"
    found = [each for _, each in subschemas(schema) if isinstance(each, Mapping)]
    if _leads_astray(schema):
        return "a $ref leads to no schema within it"
    if not all(compile_pattern(each["pattern"]) for each in found if "pattern" in each):
        return "a pattern is not one that RE2 can match in linear time"
    if any("patternProperties" in each for each in found):  # the library matches names with Python's engine
        return "patternProperties is not supported"
    return None


def validator_of(schema: Mapping[str, Any]) -> Any:
    """Make the validator of a schema that has no ``fault``; many threads may use it at once."""
    return _Validator(schema, registry=_registry(schema))


def first_error(validator: Any, instance: Any) -> ValidationError | None:
    """Validate.

    Raises:
        TooMuchWork: an answer could not be had in time.
        RecursionError: the schema refers to itself without end, or is nested too deeply.
    """
    with bounded_work():
        error: ValidationError | None = next(validator.iter_errors(instance), None)
    return error


def errors(validator: Any, instance: Any, most: int) -> list[ValidationError]:
    """List the first errors, so many at most; raises what ``first_error`` does."""
    with bounded_work():
        return list(islice(validator.iter_errors(instance), most))


def pointer(path: Path, *, known: frozenset[str] | None = None) -> str:
    """Write a JSON pointer (RFC 6901).

    ``*`` replaces a name that is too long to be one, or that is not among the ``known`` ones;
    ``…`` replaces what follows the first parts of a long pointer.
    """
    parts = ["*" if _is_private(part, known) else str(part) for part in islice(path, _LONGEST_PATH)]
    parts += ["…"] if len(path) > _LONGEST_PATH else []
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts) or "the root"


def _is_private(part: str | int, known: frozenset[str] | None) -> bool:
    if isinstance(part, int):
        return False
    return not part.isprintable() or len(part) > _LONGEST_NAME or (known is not None and part not in known)


def _leads_astray(schema: Mapping[str, Any]) -> bool:
    """Whether a reference leads to no schema within it: the meta-schema can't see that."""
    checked = {id(each) for _, each in subschemas(schema)}
    seen: set[int] = set()
    pending = [(_registry(schema).resolver(_id(schema)), DRAFT202012.create_resource(schema))]
    while pending:
        resolver, resource = pending.pop()
        if id(resource.contents) in seen:
            continue
        seen.add(id(resource.contents))
        for reference in _references(resource.contents):
            try:
                target = resolver.lookup(reference)
            except Unresolvable:
                return True
            if id(target.contents) not in checked:
                if first_error(_META, target.contents) is not None:
                    return True
                checked.update(id(each) for _, each in subschemas(target.contents))
            pending.append((target.resolver, DRAFT202012.create_resource(target.contents)))
        pending.extend((resolver.in_subresource(child), child) for child in resource.subresources())
    return False


def _references(schema: Any) -> list[str]:
    return [schema[keyword] for keyword in _REFERENCES if keyword in schema] if isinstance(schema, Mapping) else []


def _registry(schema: Mapping[str, Any]) -> Registry[Any]:
    """Know the schema's own anchors and ids beforehand, and retrieve nothing: a reference never causes I/O."""
    registry: Registry[Any] = Registry().with_resource(_id(schema), DRAFT202012.create_resource(schema)).crawl()
    return registry


def _id(schema: Mapping[str, Any]) -> str:
    return DRAFT202012.create_resource(schema).id() or ""


_Validator: Any = validators.extend(Draft202012Validator, KEYWORDS)  # type: ignore[no-untyped-call]
_Validator.evolve = attrs.evolve  # the library's would leave this class wherever a subschema names its ``$schema``
_META = _Validator(Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
