"""Reads a connection string before it is used: libpq's errors, and the pool's log, would quote what was misread."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from ai_retry.domain.errors import NotConfigured

LINK: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "tcp_user_timeout": 10_000,
}  # of every connection: one that is dead is noticed soon
_PORTS = re.compile("[0-9,]*")  # one for each host
_ENCODE = 'percent-encode the password ("@" is %40, "/" is %2F, "%" is %25)'
_UNREADABLE = f"DATABASE_URL can't be read: check the names of its parameters, and {_ENCODE}"
_QUERY: Final = re.compile(r"(postgres(?:ql)?://(?:[^@/]*@)?+[^?]*)\?(.*)", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z]\w{0,40}")
_KNOWN: Final = frozenset({"ssl", *(each.keyword.decode() for each in Conninfo.get_defaults())})  # ssl in URLs only
_TRANSACTION_PORT: Final = "6543"  # of Supabase's pooler, and of the dedicated one
_OF_POOLERS: Final = ("pgbouncer", "supavisor")
_ALIKE: Final = 0.8  # from 0 to 1: so alike, a name is a misspelt one of libpq's, and may be about encryption


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """What a connection string says."""

    conninfo: str = field(repr=False)  # without what libpq does not know
    secrets: tuple[str, ...] = field(repr=False)  # as they are written there, and as they are sent
    left_out: tuple[str, ...]  # names of parameters that libpq does not know
    is_transaction_pooler: bool  # as far as it can be seen there
    host: str
    has_options: bool


def read_connection_string(text: str) -> ConnectionString:
    """Read one; parameters of an address that belong to other drivers, such as ``pgbouncer``, are left out.

    Raises:
        NotConfigured: libpq can't read it, or reads a part of the password as host, port or database; or a parameter
            looks like a misspelt one of libpq's. Nothing but that name is quoted.
    """
    text, left_out = _without_unknown(text)
    parameters = _parsed(text)
    host, database, port = (str(parameters.get(name, "")) for name in ("host", "dbname", "port"))
    if "@" in host + database or _PORTS.fullmatch(port) is None:
        raise NotConfigured(f"DATABASE_URL is ambiguous: {_ENCODE}")
    secrets = [str(parameters[name]) for name in ("password", "sslpassword") if parameters.get(name)]
    return ConnectionString(
        conninfo=make_conninfo(**parameters),
        secrets=(*secrets, *(quote(secret, safe="") for secret in secrets)),
        left_out=left_out,
        is_transaction_pooler=_TRANSACTION_PORT in port.split(",") or not set(left_out).isdisjoint(_OF_POOLERS),
        host=host,
        has_options=bool(parameters.get("options")),
    )


def _parsed(text: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(text)
    except ProgrammingError:
        pass
    raise NotConfigured(_UNREADABLE)


def _without_unknown(text: str) -> tuple[str, tuple[str, ...]]:
    """Leave out the parameters of an address that libpq does not know, and name them."""
    address = _QUERY.fullmatch(text)
    if address is None:
        return text, ()
    given = [(each.partition("=")[0], each) for each in address[2].split("&") if each]
    if not all(_NAME.fullmatch(name) for name, _ in given):
        raise NotConfigured(_UNREADABLE)
    unknown = tuple(name for name, _ in given if name not in _KNOWN)
    for name in unknown:
        if name.startswith("ssl") or difflib.get_close_matches(name, _KNOWN, n=1, cutoff=_ALIKE):
            close = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0)[0]
            raise NotConfigured(f"DATABASE_URL has a parameter {name}, which libpq does not know: write {close}")
    kept = "&".join(each for name, each in given if name in _KNOWN)
    return (f"{address[1]}?{kept}" if kept else address[1]), unknown
