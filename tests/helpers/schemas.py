"""Tables as `ai-retry init` finds them, built without a database."""

from collections.abc import Mapping, Sequence

from ai_retry.cli.init.facts import Column, Constraint, Facts, ForeignKey, Index, Table, Trigger

_KINDS = {"integer": "int4", "bigint": "int8", "boolean": "bool", "varchar(20)": "varchar"}


def column(name: str, said: str, labels: Sequence[str] = ()) -> Column:
    """Read a column as a statement would say it: ``text not null default 'x'``."""
    definition, _, default = said.partition(" default ")
    kind = definition.removesuffix(" not null")
    return Column(
        name=name,
        quoted=name if name.islower() else f'"{name}"',
        type=kind,
        kind=_KINDS.get(kind, kind),
        not_null=definition.endswith(" not null"),
        default=default or None,
        labels=tuple(labels),
    )


def table(
    name: str,
    columns: Mapping[str, str],
    *,
    references: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
    labels: Sequence[str] = (),
    indexes: Sequence[Index] = (),
    triggers: Sequence[Trigger] = (),
) -> Table:
    """Build a table: its key is ``id``, its check or its enum allows words of ``status``."""
    schema, _, plain = name.partition(".")
    allowed = " OR ".join(f"(status = '{each}'::text)" for each in words)
    return Table(
        schema=schema,
        name=plain,
        quoted=name,
        columns={
            each: column(each, said, labels if each == "status" else ())
            for each, said in ({"id": "uuid not null default gen_random_uuid()"} | dict(columns)).items()
        },
        key=("id",),
        foreign_keys=[ForeignKey((each,), target, ("id",)) for each, target in (references or {}).items()],
        checks=[Constraint("words", ("status",), f"({allowed})")] if words else [],
        indexes=list(indexes),
        triggers=list(triggers),
        granted=frozenset({"select", "insert", "update"}),
    )


def facts(*tables: Table) -> Facts:
    """A project with these tables."""
    return Facts(tables={each.quoted: each for each in tables}, usable_schemas=frozenset({"public"}))


GENERATION = {
    "user_id": "uuid not null",
    "status": "text not null default 'pending'::text",
    "model": "text",
    "prompt": "text not null",
    "created_at": "timestamptz not null default now()",
}
