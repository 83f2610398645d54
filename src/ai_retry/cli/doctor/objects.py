"""Judges whether everything that was shipped is in the database: ours as shipped, the binding in its form."""

from collections import defaultdict
from collections.abc import Iterator

from ai_retry.cli.doctor.case import APPLY, Case, listed, signature, statements, title
from ai_retry.cli.doctor.model import Check, Finding
from ai_retry.cli.doctor.shipped import BINDING, BINDING_VERSION, DESCRIBE, Shipped

_AGAIN = "run {} again in the SQL editor: twice changes nothing"


def missing(case: Case) -> Iterator[Finding]:
    """Name what is not there."""
    shipped, database = case.shipped, case.database
    functions = {name: each.migration for name, each in shipped.functions.items() if not case.standing(name)}
    if case.standing(DESCRIBE):  # the binding is there, and may be of an older version
        yield from _older_binding([name for name in functions if name.startswith(BINDING)], shipped)
        functions = {name: each for name, each in functions.items() if not name.startswith(BINDING)}
    tables = {name: each for name, each in shipped.tables.items() if name not in database.tables}
    indexes = {name: each for name, each in shipped.indexes.items() if name not in database.indexes}
    constraints = {name: each for name, each in shipped.constraints.items() if name not in database.constraints}
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for name, migration in (functions | tables | indexes | constraints).items():
        lacking[migration].append(title(name))
    for migration, names in sorted(lacking.items()):
        again = f"if it was applied before, {_AGAIN.format('it')}"
        if constraints.keys() & set(names):
            again += ", and add a constraint by hand, as it is there"
        yield Finding(
            Check.MIGRATIONS,
            f"{migration} is not applied, or not whole: {listed(names)} missing",
            f"{APPLY}; {again}",
        )


def _older_binding(lacking: list[str], shipped: Shipped) -> Iterator[Finding]:
    if lacking:
        yield Finding(
            Check.MIGRATIONS,
            f"the binding is of an older version, or not whole: {listed(lacking)} missing",
            "run `ai-retry init --upgrade`, which writes these and no others, and `supabase db push`; where "
            f"{shipped.functions[DESCRIBE].migration} is the binding, {_AGAIN.format('that')}",
        )


def changed(case: Case) -> Iterator[Finding]:
    """Compare our functions with their source; of several of one name another check says more."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, shipped in case.shipped.functions.items():
        standing = case.standing(name)
        same = (shipped.source, shipped.signature)
        if shipped.source is not None and standing and same not in [(each.source, each.signature) for each in standing]:
            found[shipped.migration].append(title(name))
    for migration, names in sorted(found.items()):
        yield Finding(
            Check.MIGRATIONS,
            f"not as shipped: {listed(names)}; changed by hand, or of another version of ai-retry",
            f"{_AGAIN.format(migration)}; or install the version of ai-retry that the database has",
        )


def overloads(case: Case) -> Iterator[Finding]:
    """Find functions of one name, between which a call can't choose."""
    for name, shipped in case.shipped.functions.items():
        standing = case.standing(name)
        if shipped.source is not None and len(standing) > 1:
            surplus = [each for each in standing if each.source != shipped.source] or standing[1:]
            yield Finding(
                Check.MIGRATIONS,
                f"there are {len(standing)} functions {title(name)}, and a call can't choose one",
                statements(f"drop function {signature(each)}" for each in surplus),
            )


def binding(case: Case) -> Iterator[Finding]:
    """Judge the app's own functions by what they take and return; their source is the app's business."""
    for name, shipped in case.shipped.functions.items():
        standing = case.standing(name)
        if shipped.source is None and standing and shipped.signature not in [each.signature for each in standing]:
            yield Finding(
                Check.MIGRATIONS,
                f"the binding has no function {name}{shipped.signature}",
                f"give yours this form; what it must do is said in {shipped.migration}",
            )
    described, schema = case.database.binding, case.database.schema
    can_be_asked = schema is not None and schema.usable and any(each.executable for each in case.standing(DESCRIBE))
    if described is None and can_be_asked:
        problem = f"{DESCRIBE} returns something else than version, tables, generations and session_function"
        yield Finding(Check.MIGRATIONS, problem, "return them as the default binding does")
    if described is not None and described.version != BINDING_VERSION:
        problem = f"the binding is of version {described.version}, and this ai-retry needs version {BINDING_VERSION}"
        yield Finding(Check.MIGRATIONS, problem, "install the version of ai-retry that it was written for, or adapt it")
