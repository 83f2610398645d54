"""What came of trying to connect: why the latest try failed, in words of ours, and what to do.

libpq gives no SQLSTATE where a connection is refused, only the server's or the pooler's words, which may name users and
databases: they are read here, and go no further.
"""

import re
from dataclasses import dataclass
from time import monotonic
from typing import Final


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no connection."""

    reason: str
    remedy: str | None  # what an operator has to do; None: it may pass by itself


_REFUSALS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), Refusal(reason, remedy))
    for pattern, reason, remedy in (
        (
            r"max client|maxclients|EMAXCONN|EMAXCLIENT|max_client_conn|no more connections allowed|too many (clients|"
            r"connections)|connection slots are reserved|query_wait_timeout|pool_size",
            "all connections that the database or its pooler allows are taken",
            None,
        ),
        (
            r"tenant|ENOTFOUND|no such database: postgres\.|external_id",
            "the pooler does not know the project",
            "copy the address from Connect in the project's dashboard: a pooler's user is postgres.<project>",
        ),
        (
            r"password authentication failed|SASL authentication failed|wrong password|no password supplied|"
            r"password is empty|auth(entication)? failed|EAUTH",
            "the database refuses the password, or the user, in DATABASE_URL",
            "set the password of that user in it, percent-encoded",
        ),
        (
            r"role \".*\" does not exist|no such user|no pg_hba\.conf entry|is not permitted to log in",
            "the database does not let the user in DATABASE_URL in",
            "check user, password and database in it",
        ),
        (
            r"database \".*\" does not exist|no such database",
            "there is no database of that name",
            "check user, password and database in DATABASE_URL",
        ),
        (
            r"unsupported startup parameter",
            "the pooler takes no options in DATABASE_URL",
            "take options= out of it, and let a role of that name log in",
        ),
        (
            r"invalid response to SSL negotiation|expected authentication request",
            "what answers there is not PostgreSQL",
            "check host and port in DATABASE_URL",
        ),
        (
            r"SSL|TLS|certificate",
            "the database and DATABASE_URL do not agree on encryption",
            "check sslmode and sslrootcert in it",
        ),
        (
            r"starting up|shutting down|in recovery mode|not yet accepting",
            "the database is just starting or ending",
            None,
        ),
        (r"translate host name|Name or service not known|getaddrinfo|resolve", "there is no such host", None),
        (r"Connection refused", "nothing listens there", None),
        (r"timeout expired|timed out", "nothing answers there", None),
    )
)
_OTHER: Final = Refusal("no connection", None)
NO_ANSWER: Final = Refusal("nothing answers there", None)


class Door:
    """Shared by the connections of one pool; each field is replaced as a whole, so that readers need no lock."""

    def __init__(self) -> None:
        self.was_open: bool = False
        """Whether anything ever connected."""
        self._latest: tuple[float, Refusal] | None = None

    def opened(self) -> None:
        """Note that a connection was made."""
        self.was_open, self._latest = True, None

    def refused(self, words: str) -> None:
        """Note why none was made."""
        known = (refusal for pattern, refusal in _REFUSALS if pattern.search(words))
        self._latest = monotonic(), next(known, _OTHER)

    def refusal_since(self, instant: float) -> Refusal | None:
        """Return the latest refusal, unless it is older than that, or a connection was made since."""
        latest = self._latest
        return latest[1] if latest is not None and latest[0] >= instant else None
