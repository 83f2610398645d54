"""Judges what stands in a database: facts and the shipped migrations in, findings out."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ai_retry.doctor.model import Check, Database, Finding, Function, Level
from ai_retry.doctor.shipped import DROPPED, SEAM, Shipped

_OLDEST_SERVER = 150000
_FOR_THE_OWNER = ("ai_retry_create_queue", "ai_retry_publish")
_END_USERS = "public, anon, authenticated"
_APPLY = "run `ai-retry migrations copy supabase/migrations` and `supabase db push`"
_AGAIN = "run {} and the later ones again, in their order, in the SQL editor: twice changes nothing"


@dataclass(frozen=True, slots=True)
class Case:
    """What the checks of a database look at."""

    database: Database
    shipped: Shipped
    models_are_restricted: bool  # AI_MODELS is set


def judge(case: Case) -> list[Finding]:
    """List what is wrong; nothing when everything is as it should be."""
    return [finding for check in _CHECKS for finding in check(case)]


def _server(case: Case) -> Iterator[Finding]:
    database = case.database
    if database.server_version < _OLDEST_SERVER:
        major = database.server_version // 10000
        yield Finding(Check.CONNECTION, f"this is PostgreSQL {major}", "upgrade the project to PostgreSQL 15 or newer")
    if database.read_only:
        yield Finding(
            Check.CONNECTION,
            "the database takes no writes: it is a replica, or default_transaction_read_only is on",
            "connect to the primary, and take that setting away from the database and the role",
        )
    if database.isolation != "read committed":
        yield Finding(
            Check.CONNECTION,
            f"transactions run in {database.isolation}, and a claim must see what the last one committed",
            f"run: alter role {database.role} set default_transaction_isolation = 'read committed'",
        )


def _functions(case: Case) -> Iterator[Finding]:
    """Compare each function with every version that was ever shipped."""
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    changed: defaultdict[str, list[str]] = defaultdict(list)
    for name, versions in case.shipped.functions.items():
        wanted, migration = next(reversed(versions.items()))
        standing = {each.source for each in case.database.functions if each.name == name}
        if wanted in (standing or {DROPPED}):
            continue
        (changed if standing - versions.keys() else lacking)[migration].append(name)
    for name, migration in (case.shipped.tables | case.shipped.indexes | case.shipped.constraints).items():
        if name not in {*case.database.tables, *case.database.indexes, *case.database.constraints}:
            lacking[migration].append(name)
    for migration, names in sorted(lacking.items()):
        yield Finding(
            Check.MIGRATIONS,
            f"{migration} is not applied, or not whole: {_listed(names)} missing or older",
            f"{_APPLY}; if it was applied before, {_AGAIN.format('it')}",
        )
    for migration, names in sorted(changed.items()):
        yield Finding(
            Check.MIGRATIONS,
            f"not as shipped: {_listed(names)}; changed by hand, or of another version of ai-retry",
            f"{_AGAIN.format(migration)}; or install the version of ai-retry that the database has",
        )


def _overloads(case: Case) -> Iterator[Finding]:
    """Find functions of one name: the Data API refuses to choose."""
    for name, versions in case.shipped.functions.items():
        standing = [each for each in case.database.functions if each.name == name]
        wanted = next(reversed(versions))
        surplus = [each for each in standing if each.source != wanted] or standing[1:]
        if len(standing) > 1:
            yield Finding(
                Check.MIGRATIONS,
                f"there are {len(standing)} functions {name}, and the Data API can't tell them apart",
                _statements(f"drop function {_signature(each)}" for each in surplus),
            )


def _as_the_caller(case: Case) -> Iterator[Finding]:
    for each in case.database.functions:
        if each.security_definer and each.name != SEAM:
            yield Finding(
                Check.GRANTS,
                f"{each.name} runs with its owner's rights",
                _statements([f"alter function {_signature(each)} security invoker"]),
            )
        if not each.own_search_path and each.name != SEAM:
            yield Finding(
                Check.GRANTS,
                f"{each.name} finds tables and functions by its caller's search_path",
                _statements([f"alter function {_signature(each)} set search_path = ''"]),
            )


def _own_grants(case: Case) -> Iterator[Finding]:
    """What the role that asks must be allowed."""
    role = case.database.role
    for name, needed in case.shipped.grants.items():
        table = case.database.tables.get(name)
        if table is None:
            if name not in case.shipped.tables:
                yield Finding(Check.MIGRATIONS, f"there is no table public.{name}", f"make it, or {_APPLY}")
        elif missing := [each for each in needed if each not in table.privileges]:
            yield Finding(
                Check.GRANTS,
                f"{role} may not {' or '.join(missing)} in public.{name}",
                _statements([f"grant {', '.join(missing)} on table public.{name} to {role}"]),
            )
    refused = [
        each for each in case.database.functions if not each.executable and each.name not in (*_FOR_THE_OWNER, SEAM)
    ]
    if refused:
        yield Finding(
            Check.GRANTS,
            f"{role} may not execute {_listed([each.name for each in refused])}",
            _statements(f"grant execute on function {_signature(each)} to {role}" for each in refused),
        )


def _end_users_grants(case: Case) -> Iterator[Finding]:
    """What nobody but the service may do."""
    for table in case.database.tables.values():
        if table.name.startswith("ai_retry_") and table.end_users:
            yield Finding(
                Check.GRANTS,
                f"end users may {', '.join(table.end_users)} in public.{table.name}",
                _statements([f"revoke all on table public.{table.name} from {_END_USERS}"]),
            )
    for each in case.database.functions:
        if each.end_users and each.name != SEAM:
            yield Finding(
                Check.GRANTS,
                f"{' and '.join(each.end_users)} may execute {each.name}",
                _statements([f"revoke all on function {_signature(each)} from {_END_USERS}"]),
            )


def _row_level_security(case: Case) -> Iterator[Finding]:
    for table in case.database.tables.values():
        on = _statements([f"alter table public.{table.name} enable row level security"])
        if not table.row_level_security and table.name.startswith("ai_retry_"):
            yield Finding(Check.ROW_LEVEL_SECURITY, f"it is off on public.{table.name}", on)
        elif not table.row_level_security and table.end_users:
            yield Finding(
                Check.ROW_LEVEL_SECURITY,
                f"it is off on public.{table.name}: any user may {', '.join(table.end_users)} everybody's rows",
                f"{on}, with a policy for what users may see",
            )
    if filtered := [table.name for table in case.database.tables.values() if table.filtered]:
        yield Finding(
            Check.ROW_LEVEL_SECURITY,
            f"it hides rows from {case.database.role} in {_listed(filtered)}",
            "connect as service_role, or as another role that has bypassrls",
        )


def _writable_generations(case: Case) -> Iterator[Finding]:
    """Tell what an app's policies open. Our decisions don't rest on those columns."""
    table = case.database.tables.get("generations")
    if table is None or not table.row_level_security:
        return
    for policy in case.database.policies:
        commands = {"insert", "update"} if policy.command == "all" else {policy.command} & {"insert", "update"}
        if policy.table == "generations" and commands & set(table.end_users):
            models = "" if case.models_are_restricted else "set AI_MODELS, which restricts the models; "
            yield Finding(
                Check.ROW_LEVEL_SECURITY,
                f'the policy "{policy.name}" lets end users write public.generations: prompt_data and model are theirs '
                "to choose, and id, status and created_at, by which attempts and your own successes are counted",
                f"{models}guard id, status and created_at, or let users write columns of their own alone",
                Level.HINT,
            )


def _seam(case: Case) -> Iterator[Finding]:
    seams = [each for each in case.database.functions if each.name == SEAM]
    if not case.database.seam:
        yield Finding(
            Check.SEAM,
            f"there is no function public.{SEAM}(public.generations, jsonb) that returns jsonb",
            "create it: README, Your own tables and prompts; until then every retry is refused, before any call",
        )
    for each in seams:
        if not each.executable:
            yield Finding(
                Check.SEAM,
                f"{case.database.role} may not execute {SEAM}",
                _statements([f"grant execute on function {_signature(each)} to {case.database.role}"]),
            )
        if each.end_users:
            yield Finding(
                Check.SEAM,
                f"{' and '.join(each.end_users)} may execute {SEAM}: sessions that nobody was charged for",
                _statements([f"revoke all on function {_signature(each)} from {_END_USERS}"]),
            )


def _queue(case: Case) -> Iterator[Finding]:
    queue = case.database.queue
    make = "run as the migrations' owner: select public.ai_retry_create_queue()"
    if not queue.installed and not queue.available:
        problem = "pgmq (Supabase Queues) is not there: retries can't be queued for later"
        yield Finding(Check.QUEUE, problem, f"nothing, if you queue none; else load pgmq.sql and {make}", Level.HINT)
    elif not queue.made:
        problem = "the queue ai_retry is not made yet: retries can't be queued for later"
        yield Finding(Check.QUEUE, problem, f"nothing, if you queue none; else {make}", Level.HINT)
    elif not queue.usable:
        yield Finding(Check.QUEUE, f"{case.database.role} may not use the queue pgmq.q_ai_retry", make)


_CHECKS: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    _server,
    _functions,
    _overloads,
    _as_the_caller,
    _own_grants,
    _end_users_grants,
    _row_level_security,
    _writable_generations,
    _seam,
    _queue,
)


def _signature(function: Function) -> str:
    return f"public.{function.name}({function.arguments})"


def _statements(statements: Iterable[str]) -> str:
    return f"run: {'; '.join(statements)}"


def _listed(names: list[str], most: int = 4) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
