"""Judges what a database holds: facts and the manifest of the migrations in, findings out."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from ai_retry.cli.doctor.case import APPLY, END_USERS, Case, listed, signature, statements, title
from ai_retry.cli.doctor.model import Check, Finding, Function, Level
from ai_retry.cli.doctor.objects import binding, changed, missing, overloads
from ai_retry.cli.doctor.shipped import BINDING, DESCRIBE
from ai_retry.cli.doctor.writes import broken, new_triggers, publications, required_columns, restrictive, words

_OLDEST_SERVER = 150000
_OF_A_PROCESS = 16  # connections, at most
_FOR_THE_OWNER = ("public.ai_retry_create_queue", "public.ai_retry_publish")


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


def _schema(case: Case) -> Iterator[Finding]:
    schema, role = case.database.schema, case.database.role
    if schema is None:
        return
    if not schema.usable:
        yield Finding(
            Check.GRANTS,
            f"{role} may not use the schema ai_retry",
            statements([f"grant usage on schema ai_retry to {role}"]),
        )
    if schema.end_users:
        yield Finding(
            Check.GRANTS,
            f"{' and '.join(schema.end_users)} may use the schema ai_retry",
            statements([f"revoke all on schema ai_retry from {END_USERS}"]),
        )


def _as_the_caller(case: Case) -> Iterator[Finding]:
    """How functions of ours run; the binding may run as the app wants it to."""
    for each in case.ours():
        if each.qualified.startswith(BINDING):
            continue
        if each.security_definer:
            yield Finding(
                Check.GRANTS,
                f"{title(each.qualified)} runs with its owner's rights",
                statements([f"alter function {signature(each)} security invoker"]),
            )
        wanted = case.shipped.functions[each.qualified].search_path
        if each.search_path != wanted:
            found_by = "its caller's search_path" if each.search_path is None else f"search_path {each.search_path}"
            yield Finding(
                Check.GRANTS,
                f"{title(each.qualified)} finds tables, functions and types by {found_by}",
                statements([f"alter function {signature(each)} set search_path = {wanted}"]),
            )


def _own_grants(case: Case) -> Iterator[Finding]:
    """What the role that asks must be allowed."""
    role, described = case.database.role, case.database.binding
    apps = described.tables if described is not None else {}
    needs: dict[str, Sequence[str]] = {**case.shipped.grants, **apps}
    for name, needed in needs.items():
        table = case.database.tables.get(name)
        if table is None:
            if name in apps:
                yield Finding(
                    Check.MIGRATIONS,
                    f"there is no table {name}",
                    f"create it, or {APPLY}, or correct {BINDING}describe",
                )
        elif lacking := [each for each in needed if each not in table.privileges]:
            yield Finding(
                Check.GRANTS,
                f"{role} may not {' or '.join(lacking)} in {name}",
                statements([f"grant {', '.join(lacking)} on table {name} to {role}"]),
            )
    refused = [each for each in case.ours() if not each.executable and each.qualified not in _FOR_THE_OWNER]
    if refused:
        yield Finding(
            Check.GRANTS,
            f"{role} may not execute {listed([title(each.qualified) for each in refused])}",
            statements(f"grant execute on function {signature(each)} to {role}" for each in refused),
        )


def _end_users_grants(case: Case) -> Iterator[Finding]:
    """What only the service may do."""
    for table in case.database.tables.values():
        if table.is_ours and table.end_users:
            yield Finding(
                Check.GRANTS,
                f"end users may {', '.join(table.end_users)} in {table.name}",
                statements([f"revoke all on table {table.name} from {END_USERS}"]),
            )
    for each in case.database.functions:
        if each.end_users and not each.creates_sessions:
            yield Finding(
                Check.GRANTS,
                f"{' and '.join(each.end_users)} may execute {title(each.qualified)}",
                statements([f"revoke all on function {signature(each)} from {END_USERS}"]),
            )


def _row_level_security(case: Case) -> Iterator[Finding]:
    for table in case.database.tables.values():
        on = statements([f"alter table {table.name} enable row level security"])
        if not table.row_level_security and table.is_ours:
            yield Finding(Check.ROW_LEVEL_SECURITY, f"it is off on {table.name}", on)
        elif not table.row_level_security and table.end_users:
            yield Finding(
                Check.ROW_LEVEL_SECURITY,
                f"it is off on {table.name}: any user may {', '.join(table.end_users)} everybody's rows",
                f"{on}, with a policy for what users may see",
            )
    if filtered := [title(table.name) for table in case.database.tables.values() if table.filtered]:
        yield Finding(
            Check.ROW_LEVEL_SECURITY,
            f"it hides rows from {case.database.role} in {listed(filtered)}",
            "connect as service_role, or as another role that has bypassrls",
        )


def _writable_generations(case: Case) -> Iterator[Finding]:
    """Say what an app's policies open. Our decisions don't rest on those columns."""
    described = case.database.binding
    table = case.database.tables.get(described.generations) if described is not None else None
    if table is None or not table.row_level_security:
        return
    for policy in case.database.policies:
        commands = {"insert", "update"} if policy.command == "all" else {policy.command} & {"insert", "update"}
        if policy.table == table.name and commands & set(table.end_users):
            models = "" if case.models_are_restricted else "set AI_MODELS, which restricts the models; "
            yield Finding(
                Check.ROW_LEVEL_SECURITY,
                f'the policy "{policy.name}" lets end users write {table.name}: prompt_data and model are theirs '
                "to choose, and id, status and created_at, by which attempts and your own successes are counted",
                f"{models}guard id, status and created_at, or let users write only columns of their own",
                Level.HINT,
            )


def _session_function(case: Case) -> Iterator[Finding]:
    described = case.database.binding
    wanted = described.session_function if described is not None else None
    creator = next((each for each in case.database.functions if each.creates_sessions), None)
    if not case.creates_sessions():
        yield Finding(
            Check.SESSION_FUNCTION,
            f"there is no function {wanted} that returns jsonb",
            f"create it as {case.shipped.functions[DESCRIBE].migration} does; `ai-retry migrations copy DIR` writes "
            "it. Until then every retry is refused, before any call",
        )
    if creator is not None:
        yield from _creator_grants(case, creator)


def _creator_grants(case: Case, creator: Function) -> Iterator[Finding]:
    if not creator.executable:
        yield Finding(
            Check.SESSION_FUNCTION,
            f"{case.database.role} may not execute {title(creator.qualified)}",
            statements([f"grant execute on function {signature(creator)} to {case.database.role}"]),
        )
    if creator.end_users:
        yield Finding(
            Check.SESSION_FUNCTION,
            f"{' and '.join(creator.end_users)} may execute {title(creator.qualified)}: sessions that were charged to"
            " no one",
            statements([f"revoke all on function {signature(creator)} from {END_USERS}"]),
        )


def _connections(case: Case) -> Iterator[Finding]:
    server = case.around
    free = server.most_connections - server.used_connections if server is not None else _OF_A_PROCESS
    if server is not None and free < _OF_A_PROCESS:
        yield Finding(
            Check.CONNECTION,
            f"the server has {free} of its {server.most_connections} connections left, of which a process opens "
            f"up to {_OF_A_PROCESS}",
            "connect through the project's pooler at its port 6543, or end what holds the others",
            Level.HINT,
        )


def _queue(case: Case) -> Iterator[Finding]:
    queue = case.database.queue
    make = "run as the migrations' owner: select public.ai_retry_create_queue()"
    if not queue.made:
        problem = "the queue ai_retry is not made yet: retries can't be queued for later"
        if not queue.installed and not queue.available:
            problem = "pgmq (Supabase Queues) is not there: retries can't be queued for later"
            make = (
                f"turn on Queues under Integrations in the project's dashboard, or install pgmq in the database; {make}"
            )
        if case.accepted:
            problem += f", and no worker finds the {case.accepted} that were accepted"
            yield Finding(Check.QUEUE, problem, make)
        else:
            yield Finding(Check.QUEUE, problem, f"nothing, if you queue none; else {make}", Level.HINT)
    elif not queue.usable:
        yield Finding(Check.QUEUE, f"{case.database.role} may not use the queue pgmq.q_ai_retry", make)


_CHECKS: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    _server,
    missing,
    changed,
    overloads,
    binding,
    _schema,
    _as_the_caller,
    _own_grants,
    _end_users_grants,
    _row_level_security,
    _writable_generations,
    restrictive,
    _session_function,
    words,
    broken,
    required_columns,
    new_triggers,
    publications,
    _connections,
    _queue,
)
