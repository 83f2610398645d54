"""What the files of the package say of each other is true."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tools.npm import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(\[[\w,]+\])?>=(?P<lowest>[\w.]+)")
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, tuple[int, ...]]:
    """The versions that a constraints file fixes, by lower-case name."""
    lines = (REPOSITORY / name).read_text().splitlines()
    return {package.lower(): numbers(version) for package, _, version in (line.partition("==") for line in lines)}


def numbers(version: str) -> tuple[int, ...]:
    """A version for comparison: 3.2 and 3.2.0 are the same."""
    found = [int(part) for part in re.findall(r"\d+", version)]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def lowest() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each requirement of the package and its extras, with the lowest version that it allows."""
    for requirement in [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]:
        found = REQUIREMENT.fullmatch(requirement)
        assert found, f"{requirement} names no lowest version"
        yield found["name"].lower(), numbers(found["lowest"])


@pytest.mark.parametrize(("name", "version"), sorted(set(lowest())))
def test_lowest_versions_are_those_that_are_tested(name: str, version: tuple[int, ...]) -> None:
    """What pyproject.toml allows at least is what `make test-oldest` installs."""
    assert pins("constraints-min.txt")[name] == version


def test_every_older_pin_has_a_newer_one() -> None:
    """What is tested with its oldest version is tested with a newer one, too."""
    newest = pins("constraints.txt")

    assert [name for name, version in pins("constraints-min.txt").items() if newest[name] < version] == []


def test_constraints_are_in_order() -> None:
    """Pins are in the order of their names, so that two people who add one meet in no conflict."""
    for name in ("constraints.txt", "constraints-min.txt"):
        lines = (REPOSITORY / name).read_text().splitlines()
        assert lines == sorted(lines, key=str.lower)
