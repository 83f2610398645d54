"""Looks at the surroundings of the binding: words, columns, triggers, policies, publications. Over a direct connection.

Facts only; ``writes`` judges them.
"""

from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.cli.doctor.model import Binding
from ai_retry.cli.doctor.surroundings import Around, Broken, Published, Restriction, Trigger
from ai_retry.domain.errors import StorageUnavailable
from ai_retry.storage._connection_string import read_connection_string

_PATIENCE = 3  # seconds to connect
_DOES_NOT_FIT: Final = "42"  # the class of errors whose messages name objects
_NEWEST: Final = 10_000  # generations

_WORDS = """
select f.status, count(*)
from ai_retry.app_find(null, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', null, %s) f
group by f.status order by count(*) desc limit 50
"""
# What reads is asked about ids that nothing has: a function that no longer fits the tables fails all the same.
_READS: Final = (
    *("app_read(u)", "app_session(u::text, u)", "app_may_create_session(u, u)", "app_look_up(array[u])"),
    *("app_own_successes(u, now(), 1, now())", "app_strangers(array[u], u)", "app_last_error(u)", "app_lock(u, '5ms')"),
    "app_find(null, now(), u, null, 1)",
)
# That no function of the app names a column, or inserts without naming any, shows that nothing writes it.
_REQUIRED = r"""
select t.name, array_agg(a.attname::text order by a.attnum)
from jsonb_object_keys(%(tables)s) t (name)
join pg_class c on c.oid = to_regclass(t.name) join pg_attribute a on a.attrelid = c.oid
where t.name <> %(generations)s
  and a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef and a.attidentity = ''
  and not exists (
    select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    join pg_language l on l.oid = p.prolang and l.lanname in ('sql', 'plpgsql')
    where n.nspname not like 'pg\_%%' and n.nspname <> 'information_schema' and p.prokind in ('f', 'p')
      and (n.nspname <> 'ai_retry' or p.proname like 'app\_%%')
      and (p.proname not like 'ai\_retry\_%%' or p.oid is not distinct from to_regprocedure(%(session)s::text)::oid)
      and regexp_replace(coalesce(nullif(p.prosrc, ''), pg_get_function_sqlbody(p.oid)), '--[^\n]*', '', 'g')
        ~* ('\m' || regexp_replace(a.attname, '\W', '.', 'g') || '\M|insert\s+into\s+(\S+\.)?"?'
          || regexp_replace(c.relname, '\W', '.', 'g') || '"?(\s+as\s+\w+)?\s+(values|select|table)\M'))
group by t.name order by t.name
"""
_TRIGGERS = """
select t.name, g.tgname::text, format('%%I.%%I', n.nspname, p.proname)
from jsonb_each(%(tables)s) t (name, privileges) join pg_trigger g on g.tgrelid = to_regclass(t.name)
join pg_proc p on p.oid = g.tgfoid join pg_namespace n on n.oid = p.pronamespace
where not g.tgisinternal and g.tgenabled <> 'D'
  and (g.tgtype & 4 > 0 and t.privileges ? 'insert' or g.tgtype & 16 > 0 and t.privileges ? 'update')
order by t.name, g.tgname
"""
_RESTRICTIVE = """
select format('%%I.%%I', p.schemaname, p.tablename), p.policyname::text, concat(p.qual, p.with_check) like '%%aal%%'
from pg_policies p
where p.permissive = 'RESTRICTIVE' and %(tables)s ? format('%%I.%%I', p.schemaname, p.tablename)
order by p.policyname
"""
_PUBLICATIONS = r"""
select p.pubname::text, b.puballtables, array_agg(format('%%I.%%I', p.schemaname, p.tablename) order by p.tablename)
from pg_publication_tables p join pg_publication b on b.pubname = p.pubname
where p.schemaname = 'public' and p.tablename like 'ai\_retry\_%%'
group by p.pubname, b.puballtables order by p.pubname
"""
_CONNECTIONS = """
select current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer,
  (select count(*) from pg_stat_activity s where s.backend_type = 'client backend')
"""


def look_around(database_url: str, binding: Binding | None) -> Around:
    """Ask the catalogue and the binding.

    Raises:
        StorageUnavailable: the connection was lost, or what the binding describes can't be looked up.
    """
    try:
        return _looked(database_url, binding)
    except psycopg.Error as error:
        failure = StorageUnavailable(error.sqlstate or "connection lost")
    raise failure


def _looked(database_url: str, binding: Binding | None) -> Around:
    conninfo = read_connection_string(database_url).conninfo
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None, connect_timeout=_PATIENCE) as connection:

        def rows(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query.encode(), names).fetchall()

        names = {
            "tables": Jsonb({name: list(needed) for name, needed in binding.tables.items()} if binding else {}),
            "generations": binding.generations if binding else "",
            "session": binding.session_function if binding else None,
        }
        most, used = rows(_CONNECTIONS)[0]
        return Around(
            words=_words(connection),
            broken=tuple(each for call in _READS if (each := _broken(connection, call)) is not None),
            required={table: tuple(columns) for table, columns in rows(_REQUIRED)},
            triggers=tuple(Trigger(table=table, name=name, function=run) for table, name, run in rows(_TRIGGERS)),
            restrictions=tuple(
                Restriction(table=table, name=name, asks_for_aal=asks) for table, name, asks in rows(_RESTRICTIVE)
            ),
            publications=tuple(
                Published(name=name, is_of_all=is_all, tables=tuple(tables))
                for name, is_all, tables in rows(_PUBLICATIONS)
            ),
            most_connections=most,
            used_connections=used,
        )


def _words(connection: "psycopg.Connection[Any]") -> Mapping[str | None, int] | None:
    try:
        return dict(connection.execute(_WORDS.encode(), [_NEWEST]).fetchall())
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return None


def _broken(connection: "psycopg.Connection[Any]", call: str) -> Broken | None:
    try:
        connection.execute(f"select ai_retry.{call} from pg_catalog.gen_random_uuid() u".encode())  # noqa: S608 (ours)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        if error.sqlstate is not None and error.sqlstate.startswith(_DOES_NOT_FIT):
            function, said = f"ai_retry.{call.partition('(')[0]}", error.diag.message_primary or ""
            return Broken(function=function, sqlstate=error.sqlstate, message=said)
    return None
