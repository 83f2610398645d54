"""What the sources say of themselves: docstrings, and the comments behind fields."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

_COMMENT = re.compile(r"\s{2}# (?P<text>.+)$")


@cache
def package() -> griffe.Module:
    """Read the package without importing it."""
    module = griffe.load("ai_retry", docstring_parser=griffe.Parser.google, resolve_aliases=True)
    assert isinstance(module, griffe.Module)
    return module


def member(path: str) -> Any:
    """Find an object by its path within the package: ``client.Client``."""
    found = package()[path]
    return found.final_target if isinstance(found, griffe.Alias) else found


def meaning(attribute: griffe.Attribute) -> str:
    """Return what a field means: its docstring, or the comment behind it."""
    if attribute.docstring is not None:
        return attribute.docstring.value
    assert attribute.lineno is not None
    assert isinstance(attribute.filepath, Path)
    line = attribute.lines_collection[attribute.filepath][(attribute.endlineno or attribute.lineno) - 1]
    comment = _COMMENT.search(line)
    return "" if comment is None else comment["text"]
