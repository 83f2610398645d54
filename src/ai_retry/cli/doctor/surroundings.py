"""The surroundings of the binding, as ``around`` found them. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A function of the binding that can't even be planned; its message names objects, and holds no value."""

    function: str
    sqlstate: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger of the app's that fires on what the binding writes."""

    table: str
    name: str
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """A restrictive policy on a table of the binding."""

    table: str
    name: str
    asks_for_aal: bool  # it reads the token's assurance level


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Tables of ours that a publication sends elsewhere."""

    name: str
    is_of_all: bool  # it publishes all tables
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The surroundings of the binding."""

    words: Mapping[str | None, int] | None = None  # statuses of the newest generations; None: they can't be searched
    broken: tuple[Broken, ...] = ()
    required: Mapping[str, tuple[str, ...]]  # by table, the columns that inserts must name and no function names
    triggers: tuple[Trigger, ...] = ()
    restrictions: tuple[Restriction, ...] = ()
    publications: tuple[Published, ...] = ()
    most_connections: int
    used_connections: int
