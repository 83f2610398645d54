"""Traits of real apps, drawn at random: how they name, type, guard and note what users asked for."""

import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final

_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "queued": ("pending", "queued", "created", "new", "waiting", "in line"),
    "processing": ("running", "processing", "generating", "started", "cooking", "in_progress"),
    "success": ("completed", "succeeded", "success", "done", "finished", "ready", "Served"),
    "error": ("failed", "error", "broken", "burnt", "FAILED"),
    "timeout": ("timeout", "expired", "timed out"),
}
_KNOWN: Final = {
    "queued": ("pending", "queued", "created"),
    "processing": ("running", "processing", "generating", "started"),
    "success": ("completed", "succeeded", "success", "done", "finished", "ready"),
    "error": ("failed", "error"),
    "timeout": ("timeout", "expired"),
}
_CODES: Final = {"queued": ["0"], "processing": ["1"], "success": ["2"], "error": ["3", "4"], "timeout": ["9"]}
QUIRKS: Final = (
    "machine",  # a trigger refuses that what failed runs again
    "linked",  # what is done has its result, says a check
    "required",  # a column that only the app's own insert can fill
    "no default",  # the app makes the ids
    "extensions",  # a trigger's function is found by the path that Supabase gives its roles
    "deferred",  # a trigger looks when the transaction ends
    "notify",  # a trigger notifies listeners, once a statement
    "elsewhere",  # results are in another schema
)
_TABLES: Final = ("generations", "ai_generations", "requests", "ai_jobs", "plans", "order")
_OWNERS: Final = ("user_id", "owner_id", "created_by", "author_id", "account_id")
_SESSIONS: Final = ("sessions", "results", "workouts", "documents")
_LOGS: Final = ("generation_error_logs", "ai_errors", "failures")
_EVENTS: Final = ("events", "activity", "app_events")


@dataclass
class Traits:
    """What was drawn, and the names that follow from it."""

    schema: str
    table: str
    camel: bool
    owner: str
    profiles: bool
    status: str  # text, varchar, domain, enum, smallint, none
    words: Mapping[str, Sequence[str]]
    null_is: str | None  # which of our words a status that is null means
    prompt: str  # jsonb, json, columns
    model: bool
    duration: str | None
    created: str
    updated: str | None
    touch: bool
    result: str  # table, columns, function, row
    reference: str  # uuid, text
    sessions: str
    logs: str  # none, bound, identity, required
    events: str  # none, bound, serial, calendar
    hiding: str | None
    refund: bool
    audit: bool
    one_active: bool
    one_planned: bool
    policies: str
    legacy: bool
    generated: bool
    partitioned: bool
    quirks: Set[str]
    bare: bool  # by such names and words that init learns nothing
    obstacle: str | None

    def column(self, name: str) -> str:
        """The column's name in the catalogue."""
        if not self.camel:
            return name
        first, *rest = name.split("_")
        return first + "".join(part.title() for part in rest)

    def sql(self, name: str) -> str:
        """The column's name in a statement."""
        return f'"{self.column(name)}"'

    @property
    def full_table(self) -> str:
        """The table that holds generations, in a statement."""
        return f'{self.schema}."{self.table}"'

    @property
    def logs_table(self) -> str:
        """The table of the error log, in a statement."""
        return f"{self.schema}.{_LOGS[len(self.owner) % len(_LOGS)]}"

    @property
    def events_table(self) -> str:
        """The table of events, in a statement."""
        return f"{self.schema}.{_EVENTS[len(self.owner) % len(_EVENTS)]}"

    @property
    def sessions_table(self) -> str:
        """The table of sessions, in a statement."""
        return f"{'library' if 'elsewhere' in self.quirks else self.schema}.{self.sessions}"

    @property
    def writes_status(self) -> bool:
        """Whether a retry that waits or runs shows in the status."""
        return self.status != "none" and not self.refund and "machine" not in self.quirks


def drawn(rng: random.Random) -> Traits:
    """Draw traits that one app can have together."""
    one_of = rng.choice

    def chance(share: float) -> bool:
        return rng.random() < share

    status = one_of(("text", "text", "varchar", "domain", "enum", "smallint", "none"))
    words = {word: rng.sample(known, one_of((1, 1, 2))) for word, known in _WORDS.items()}
    if status == "smallint":
        words = _CODES
    result = one_of(("table", "columns", "function", "row"))
    traits = Traits(
        schema=one_of(("public", "public", "studio")),
        table=one_of(_TABLES),
        camel=chance(0.25),
        owner=one_of(_OWNERS),
        profiles=chance(0.25),
        status=status,
        words=words,
        null_is=one_of((None, None, None, "error")) if status != "none" else None,
        prompt=one_of(("jsonb", "jsonb", "json", "columns")),
        model=chance(0.7),
        duration=one_of(("integer", "bigint", "numeric", "double precision", None)),
        created=one_of(("timestamptz", "timestamptz", "timestamp")),
        updated=one_of(("timestamptz", "timestamp", None)),
        touch=chance(0.3),
        result=result,
        reference="text" if result in ("table", "columns") and chance(0.25) else "uuid",
        sessions=one_of(_SESSIONS),
        logs=one_of(("none", "bound", "identity", "required")),
        events=one_of(("none", "bound", "serial", "calendar")),
        hiding=one_of((None, None, "deleted_at", "archived")),
        refund=status in ("text", "varchar") and chance(0.25),
        audit=chance(0.3),
        one_active=status != "none" and chance(0.2),
        one_planned=result in ("table", "columns") and chance(0.15),
        policies=one_of(("none", "own", "restrictive")),
        legacy=chance(0.6),
        generated=chance(0.3),
        partitioned=chance(0.08),
        quirks=frozenset(quirk for quirk in QUIRKS if chance(0.15)),
        bare=chance(0.12),
        obstacle=one_of((None,) * 17 + ("bigint id", "text owner", "no owner")),
    )
    return _together(_told_nothing(traits, rng) if traits.bare else traits)


def _told_nothing(traits: Traits, rng: random.Random) -> Traits:
    """Take names and words that everyone knows."""
    return replace(
        traits,
        table=rng.choice(("generations", "ai_generations")),
        camel=False,
        owner="user_id",
        status=rng.choice(("text", "varchar", "enum")),
        words={word: [rng.choice(known)] for word, known in _KNOWN.items()},
        null_is=None,
        prompt="jsonb",
        created="timestamptz",
        updated=rng.choice(("timestamptz", None)),
        result="table",
        reference="uuid",
        sessions=rng.choice(("sessions", "results")),
        logs=rng.choice(("none", "bound", "identity")),
        refund=False,
        one_planned=False,
        quirks=traits.quirks - {"machine"},
        obstacle=None,
    )


def _together(traits: Traits) -> Traits:
    """Leave out what an app can't have together."""
    t = traits
    if t.status not in ("text", "varchar", "domain") or t.refund:
        t = replace(t, quirks=t.quirks - {"machine"})
    if t.status == "none":
        t = replace(t, quirks=t.quirks - {"linked"})
    if t.refund or "machine" in t.quirks:
        t = replace(t, one_active=False)
    if t.partitioned:  # a key has to hold the instant, and a unique index would as well
        t = replace(t, one_active=False, obstacle=None, quirks=t.quirks - {"linked"})
    if t.sessions == t.table or t.obstacle == "no owner":
        t = replace(t, sessions="documents", policies="none")
    if t.obstacle is not None:
        t = replace(t, refund=False, one_planned=False, one_active=False, policies="none", quirks=frozenset())
    return t


def now(kind: str | None) -> str:
    """This instant, as a column of that type holds it."""
    return "(now() at time zone 'Asia/Tokyo')" if kind == "timestamp" else "now()"


def described(traits: Traits) -> dict[str, Any]:
    """What was drawn, for whoever reads a failure."""
    return dict(vars(traits))
