"""What a binding of an older version lacks: functions ``ai_retry.app_*`` that are not there, and nothing else."""

import re
from collections.abc import Collection, Iterator
from typing import Any, Final

import psycopg

from ai_retry.cli.doctor.shipped import BINDING, shipped

_FUNCTION: Final = re.compile(
    r"^create (?:or replace )?function (ai_retry\.app_\w+)\(.*?"
    r"(?=^create (?:or replace )?function |^exception when duplicate_function|^revoke )",
    re.MULTILINE | re.DOTALL,
)
_STANDING: Final = """
select p.pronamespace::regnamespace || '.' || p.proname
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname = 'ai_retry' and p.proname like 'app\\_%'
"""
_HEAD: Final = """\
-- What this version of ai-retry calls, and the binding did not have: {names}.
--
-- Written by `ai-retry init --upgrade`; nothing that was there is replaced. The functions belong to the app: edit them.

"""
_GRANTS: Final = """\
revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;
"""


def standing(connection: "psycopg.Connection[Any]") -> frozenset[str]:
    """Name the functions of the binding that the database has.

    Raises:
        psycopg.Error: as the server says it.
    """
    return frozenset(name for (name,) in connection.execute(_STANDING))


def lacking(there: Collection[str]) -> list[str]:
    """Name the functions that this version calls and that are not there."""
    return sorted(name for name in shipped().functions if name.startswith(BINDING) and name not in there)


def upgrade_sql(binding: str, there: Collection[str]) -> str:
    """Take what is lacking out of a whole binding, with those of its other functions that it calls."""
    functions = {match[1]: match[0].rstrip() + "\n" for match in _FUNCTION.finditer(binding)}
    wanted = lacking(there)
    names = [*dict.fromkeys(helper for name in wanted for helper in _called(functions, name, there)), *wanted]
    head = _HEAD.format(names=", ".join(name.partition(".")[2] for name in wanted))
    return head + "\n".join([*(functions[each] for each in names), _GRANTS])


def _called(functions: dict[str, str], name: str, there: Collection[str]) -> Iterator[str]:
    """Name the helpers of a function that no version ships, such as ``app_status``, and that are not there."""
    helpers = functions.keys() - shipped().functions.keys() - set(there)
    yield from sorted(each for each in helpers if f"{each}(" in functions[name])
