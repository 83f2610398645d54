"""Reads a connection string before it is used: libpq's errors, and the pool's log, would quote what was misread."""

import re
from urllib.parse import quote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from ai_retry.domain.errors import NotConfigured

_PORTS = re.compile("[0-9,]*")  # one for each host
_ENCODE = 'percent-encode the password ("@" is %40, "/" is %2F, "%" is %25)'


def passwords_of(conninfo: str) -> list[str]:
    """Return what a connection string keeps secret, as it is written there and as it is sent.

    Raises:
        NotConfigured: libpq can't read it, or reads a part of the password as host, port or database; it is not quoted.
    """
    try:
        parameters = conninfo_to_dict(conninfo)
    except ProgrammingError:
        parameters = None
    if parameters is None:
        raise NotConfigured(f"DATABASE_URL can't be read: check the names of its parameters, and {_ENCODE}")
    host, database, port = (str(parameters.get(name, "")) for name in ("host", "dbname", "port"))
    if "@" in host + database or _PORTS.fullmatch(port) is None:
        raise NotConfigured(f"DATABASE_URL is ambiguous: {_ENCODE}")
    secrets = [str(parameters[name]) for name in ("password", "sslpassword") if parameters.get(name)]
    return [*secrets, *(quote(secret, safe="") for secret in secrets)]
