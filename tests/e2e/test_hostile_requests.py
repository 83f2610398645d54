"""What strangers and signed-in users can send to the app, in gunicorn, on a stack that logs each of its statements.

There are two doors. Behind ``secret`` HS256 tokens are checked by the project's secret and data goes through the Data
API; behind ``keys`` tokens are checked by published keys, served by a server that counts, and data goes straight to
PostgreSQL.
"""

import http.client
import json
import re
import socket
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from time import time
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.types.json import Jsonb

from ai_retry.domain.listing import NEWEST, write_cursor
from ai_retry.domain.recovery import Cursor
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat, reply
from tests.helpers.worlds import PROMPT_DATA
from tools.app_server import running_app
from tools.stack import SignedInUser, Stack, running_stack
from tools.waiting import eventually, skipping_without_stack

LOGS_STATEMENTS = {
    "logging_collector": "on",
    "log_filename": "statements.log",
    "log_statement": "all",
    "log_line_prefix": "",
    "log_parameter_max_length": "0",
}
JWKS_PATH = "/auth/v1/.well-known/jwks.json"
KEY = ec.generate_private_key(ec.SECP256R1())
KID = "the-project's-key"
STRANGERS_KEY = ec.generate_private_key(ec.SECP256R1())
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def jwk_of(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """Give the public half as a JWK."""
    jwk: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return jwk | {"kid": KID, "alg": "ES256", "use": "sig"}


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Give the public half as PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


APP = "tests.helpers.first_calls_app:create_app()"


def base64url(content: Any) -> str:
    """Write a segment of a token."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Answer:
    """What came back, its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Read the body."""
        return json.loads(self.body)

    def but_for(self, *echoed: object) -> tuple[int, Mapping[str, str], str]:
        """Give all of it but for what differs between any two requests, and what was sent along."""
        body = self.body.decode()
        for text in (self.headers.get("x-request-id", "none"), *echoed):
            body = body.replace(str(text), "…")
        return self.status, {k: v for k, v in self.headers.items() if k not in {"date", "x-request-id"}}, body


@dataclass(frozen=True)
class Door:
    """The app behind one way of verifying tokens."""

    url: str
    user: SignedInUser
    issuer: str
    secret: str = field(repr=False)
    asymmetric: bool

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Say what a good token of the user says, but for the changes; ``...`` leaves a claim out."""
        now = int(time())
        claims = {
            "sub": str(self.user.id),
            "aud": "authenticated",
            "role": "authenticated",
            "iss": self.issuer,
            "iat": now - 60,
            "exp": now + 3600,
        }
        return {name: value for name, value in (claims | changes).items() if value is not ...}

    def token(self, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """Sign claims as Auth does."""
        if self.asymmetric:
            return jwt.encode(self.claims(**changes), KEY, "ES256", {"kid": KID, **(header or {})})
        return jwt.encode(self.claims(**changes), self.secret, "HS256", dict(header or {}))

    def send(
        self,
        method: str,
        path: str,
        token: str | None = None,
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send a request as it is: no client tidies the path or joins headers."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=15)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in [*([("Authorization", f"Bearer {token}")] if token else []), *(headers or [])]:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, response.read())
        finally:
            connection.close()

    def send_raw(self, request: bytes) -> int:
        """Put bytes on the wire and end the sending half; return the status, 0 when nothing came back."""
        parts = urlsplit(self.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=15) as connection:
            received = b""
            with suppress(OSError):  # refused before all of it was sent: what it answered counts
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while b"\r\n" not in received and (data := connection.recv(4096)):
                    received += data
        match = re.match(rb"HTTP/1\.\d (\d{3})", received)
        return int(match[1]) if match else 0


@dataclass(frozen=True)
class House:
    """Both doors, and what is behind them."""

    doors: Mapping[str, Door]
    stack: Stack
    database: psycopg.Connection
    keys: ScriptedServer
    provider: ScriptedServer
    user: SignedInUser
    other: SignedInUser

    def add_generation(self, user: SignedInUser, status: str = "error") -> UUID:
        """Store a generation."""
        generation_id = uuid4()
        self.database.execute(
            "insert into public.generations (id, user_id, status, model, prompt_data) values (%s, %s, %s, 'small', %s)",
            [generation_id, user.id, status, Jsonb(PROMPT_DATA)],
        )
        return generation_id

    def statements_of(self, act: Callable[[], object]) -> list[str]:
        """List the statements that reach the database while something is done, ids taken out."""
        begin, end = (f"marker {uuid4().hex}" for _ in range(2))
        self.database.execute(f"select '{begin}'".encode())
        act()
        self.database.execute(f"select '{end}'".encode())
        eventually(lambda: end in self._log())
        between = self._log().partition(begin)[2].partition(end)[0]
        lines = [line for line in between.splitlines()[1:-1] if line.startswith("LOG:  ")]
        return [_UUID.sub("…", line) for line in lines]

    def _log(self) -> str:
        """Read the server's log of statements; the reading itself is logged too, after the end."""
        row = self.database.execute("select pg_read_file(pg_current_logfile())").fetchone()
        assert row is not None
        return str(row[0])


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Start everything once for the module."""

    def project(request: Request) -> Script:
        return reply(json={"keys": [jwk_of(KEY)]}) if request.path == JWKS_PATH else reply(404, json={})

    with ExitStack() as cleanup:
        with skipping_without_stack():
            stack = cleanup.enter_context(running_stack(postgres_settings=LOGS_STATEMENTS))
        provider = cleanup.enter_context(ScriptedServer(default=chat({"title": "Easy run"})))
        keys = cleanup.enter_context(ScriptedServer(default=project))
        database = cleanup.enter_context(psycopg.connect(stack.database_url, autocommit=True))
        user, other = (stack.sign_up(f"{uuid4()}@example.com", "correct horse battery") for _ in range(2))
        for each in (user, other):  # quotas are other tests' business
            database.execute("insert into public.ai_retry_quotas values (%s, 1000)", [each.id])
        env = stack.env()
        ai = {"AI_BASE_URL": provider.base_url, "AI_MODEL": "small", "AI_RETRY_BACKOFF_BASE_SECONDS": "0.001"}
        by_secret = {name: value for name, value in env.items() if name != "DATABASE_URL"}
        by_keys = {"SUPABASE_URL": keys.base_url.removesuffix("/v1"), "DATABASE_URL": env["DATABASE_URL"]}
        doors = {}
        for name, settings in (("secret", by_secret), ("keys", by_keys)):
            with skipping_without_stack():
                url = cleanup.enter_context(running_app(settings | ai, threads=8, app=APP))
            issuer = f"{settings['SUPABASE_URL']}/auth/v1"
            doors[name] = Door(url, user, issuer, stack.jwt_secret, name == "keys")
        yield House(doors, stack, database, keys, provider, user, other)


@pytest.fixture(params=["secret", "keys"])
def door(house: House, request: pytest.FixtureRequest) -> Door:
    """Each door."""
    return house.doors[request.param]


def test_good_token_opens(house: House, door: Door) -> None:
    """A good token is let in: the tests below refuse for the reason they name."""
    generation_id = house.add_generation(house.user)

    assert door.send("GET", f"/sessions/ai/{generation_id}", door.token()).status == 200
    assert door.send("POST", f"/sessions/ai/{generation_id}/retry", door.token()).status == 200


# Tokens


def unsigned(door: Door, alg: str) -> str:
    """Give a token without a signature."""
    return f"{base64url({'alg': alg, 'typ': 'JWT', 'kid': KID})}.{base64url(door.claims())}."


def hs256(door: Door, secret: bytes, **header: Any) -> str:
    """Sign with any bytes: PyJWT refuses a public key as a secret."""
    signed = f"{base64url({'alg': 'HS256', 'typ': 'JWT', **header})}.{base64url(door.claims())}"
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{signed}.{base64url(algorithm.sign(signed.encode(), secret))}"


def strangers(door: Door, **header: Any) -> str:
    """Sign with a key of one's own."""
    return jwt.encode(door.claims(), STRANGERS_KEY, "ES256", {"kid": KID, **header})


def bad_tokens(house: House, door: Door) -> dict[str, str]:
    """Give a token for each way of being wrong."""
    now = int(time())
    stack, key = house.stack, jwk_of(KEY)
    tokens = {f"alg {alg}": unsigned(door, alg) for alg in ("none", "None", "nOnE", "NONE")}
    tokens |= {
        "alg none, signed": unsigned(door, "none") + base64url(b"x" * 64),
        "HS256 by PEM": hs256(door, pem_of(KEY)),
        "HS256 by PEM, kid": hs256(door, pem_of(KEY), kid=KID),
        "HS256 by JWK": hs256(door, json.dumps(key).encode(), kid=KID),
        "HS256 by x": hs256(door, key["x"].encode(), kid=KID),
        "HS256 by nothing": hs256(door, b""),
        "HS256 by publishable key": hs256(door, stack.publishable_key.encode()),
        "stranger's key": strangers(door),
        "stranger's key in the token": strangers(door, jwk=jwk_of(STRANGERS_KEY)),
        "stranger's key elsewhere": strangers(door, jku=f"{house.keys.base_url}/jwks", x5u="http://127.0.0.1:1/x"),
        "crit": strangers(door, crit=["exp"]),
    }
    claims: dict[str, dict[str, Any]] = {
        "wrong audience": {"aud": "anon"},
        "no audience": {"aud": ...},
        "audiences of others": {"aud": ["anon", "service_role"]},
        "wrong issuer": {"iss": "https://elsewhere.example/auth/v1"},
        "issuer with a slash": {"iss": f"{door.issuer}/"},
        "expired": {"exp": now - 60},
        "expired long ago": {"exp": 0},
        "no expiry": {"exp": ...},
        "expiry beyond time": {"exp": 10**30},
        "not yet valid": {"nbf": now + 600},
        "issued tomorrow": {"iat": now + 86_400},
        "service role": {"role": "service_role"},
        "service role without user": {"role": "service_role", "sub": ..., "aud": ...},
        "anon": {"role": "anon"},
        "no role": {"role": ...},
        "no subject": {"sub": ...},
        "empty subject": {"sub": ""},
        "subject no UUID": {"sub": "1 or 1=1"},
        "subject with NUL": {"sub": f"{house.user.id}\0"},
        "subject in upper case": {"sub": str(house.other.id).upper()},
        "subject as URN": {"sub": house.user.id.urn},
        "subject in other digits": {"sub": "\u0660" * 8 + "-0000-0000-0000-" + "0" * 12},
    }
    tokens |= {name: door.token(**changes) for name, changes in claims.items()}
    tokens |= {
        f"kid {kid[:20]!r}": jwt.encode(door.claims(), STRANGERS_KEY, "ES256", {"kid": kid})
        for kid in (
            "../../../etc/passwd",
            "/dev/null",
            "http://127.0.0.1:1/k",
            "k' or '1'='1",
            "\0",
            "k" * 3000,
            "ключ",
        )
    }
    tokens |= {
        "secret key": stack.secret_key,
        "publishable key": stack.publishable_key,
        "not a token": "x",
        "dots": "..",
        "no signature": door.token().rpartition(".")[0] + ".",
        "two tokens": f"{door.token()}.{door.token()}",
        "seven KiB": ".".join(["e" * 2400] * 3),
        "other signature": door.token()[:-8] + "AAAAAAAA",
    }
    return tokens


def test_bad_tokens_all_answered_alike(house: House, door: Door) -> None:
    """Whatever is wrong with a token, the answer is the same 401, for whatever is asked, and nothing is read."""
    generation_id = house.add_generation(house.user)
    path = f"/sessions/ai/{generation_id}"
    bare = door.send("GET", path)
    assert (bare.status, bare.headers["www-authenticate"]) == (401, "Bearer")
    expected = bare.but_for()
    tokens = bad_tokens(house, door)
    answers: dict[str, Answer] = {}

    def knock() -> None:
        for name, token in tokens.items():
            answers[f"GET {name}"] = door.send("GET", path, token)
            answers[f"POST {name}"] = door.send("POST", f"{path}/retry", token)
            answers[f"DELETE {name}"] = door.send("DELETE", f"{path}/retry", token)

    statements = house.statements_of(knock)

    assert {name: a.but_for() for name, a in answers.items() if a.but_for() != expected} == {}
    assert statements == []


def test_bad_credentials_all_answered_alike(house: House, door: Door) -> None:
    """A good token counts only in the one Authorization header: not doubled, not elsewhere, not by another scheme."""
    generation_id = house.add_generation(house.user)
    path, good = f"/sessions/ai/{generation_id}", door.token()
    basic = urlsafe_b64encode(f"user:{good}".encode()).decode()[:4000]
    requests: list[tuple[str, list[tuple[str, str]]]] = [
        (path, [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]),
        (path, [("Authorization", f"Bearer {good}"), ("Authorization", "Basic x")]),
        (path, [("Authorization", f"Bearer {good}, Bearer {good}")]),
        (path, [("Authorization", f"Basic {basic}")]),
        (path, [("Authorization", good)]),
        (path, [("Authorization", f"Token {good}")]),
        (path, [("Authorization", f"Bearer{good}")]),
        (path, [("Authorization", f"Bearer\t{good}")]),
        (path, [("Authorization", f'Bearer "{good}"')]),
        (path, [("Authorization", "Bearer")]),
        (path, [("Authorization", "")]),
        (path, [("apikey", house.stack.secret_key)]),
        (path, [("X-Authorization", f"Bearer {good}"), ("Proxy-Authorization", f"Bearer {good}")]),
        (path, [("Cookie", f"access_token={good}; sb-access-token={good}")]),
        (f"{path}?access_token={good}&token={good}&apikey={good}", []),
    ]
    expected = door.send("GET", path).but_for()

    answers = [door.send("GET", target, headers=headers).but_for() for target, headers in requests]
    body = door.send("POST", f"{path}/retry", body=f"access_token={good}".encode()).but_for()

    assert [answer for answer in [*answers, body] if answer != expected] == []


def test_huge_token_refused_by_the_server(door: Door) -> None:
    """A token of 64 KiB never reaches the app: gunicorn takes headers of 8 KiB. The verifier itself would say 401."""
    token = ".".join(["e" * 21_845] * 3)

    assert (
        400
        <= door.send_raw(f"GET /sessions/ai/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        < 500
    )


def test_flood_of_unknown_keys_costs_one_fetch(house: House) -> None:
    """Hundreds of tokens that name invented keys, side by side, are all 401 and cost at most one request for keys."""
    door = house.doors["keys"]
    path = f"/sessions/ai/{uuid4()}"
    assert door.send("GET", path, door.token()).status == 404
    before = len(house.keys.requests)

    def knock(number: int) -> int:
        token = jwt.encode(door.claims(), STRANGERS_KEY, "ES256", {"kid": f"invented-{number}"})
        return door.send("GET", path, token).status

    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(knock, range(200)))

    assert statuses == {401}
    assert len(house.keys.requests) - before <= 1
    assert {request.path for request in house.keys.requests} == {JWKS_PATH}


# Other users' ids


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("status", ["error", "success", "processing"])
def test_foreign_id_looks_like_an_absent_one(house: House, door: Door, method: str, status: str) -> None:
    """Another user's generation and one that never was: same status, headers, body and statements."""
    foreign, absent = house.add_generation(house.other, status), uuid4()
    token, suffix = door.token(), "" if method == "GET" else "/retry"
    answers: dict[UUID, Answer] = {}

    def ask(generation_id: UUID) -> None:
        headers = [("Idempotency-Key", "k"), ("Prefer", "respond-async")]
        answers[generation_id] = door.send(method, f"/sessions/ai/{generation_id}{suffix}", token, headers)

    ask(absent)  # connections are warm from here on
    of_foreign, of_absent = (house.statements_of(partial(ask, each)) for each in (foreign, absent))

    assert answers[foreign].status == 404
    assert answers[foreign].but_for(foreign) == answers[absent].but_for(absent)
    assert of_foreign == of_absent
    assert any("ai_retry_load" in statement for statement in of_foreign)


def test_list_holds_no_foreign_generation(house: House, door: Door) -> None:
    """Whoever's place a cursor names, and whatever the query says, one's own are listed, or it is refused."""
    own, foreign = house.add_generation(house.user), house.add_generation(house.other)
    token = door.token()
    row = house.database.execute("select created_at::text from public.generations where id = %s", [foreign]).fetchone()
    assert row is not None
    places = [Cursor(at=row[0].replace(" ", "T") + ":00", id=foreign), Cursor(at=None, id=foreign), NEWEST]
    queries = [
        *(f"cursor={write_cursor(each)}" for each in places),
        *(
            "",
            "status=error",
            "user_id=" + str(house.other.id),
            "status=error'--",
            "limit=-1",
            "limit=1e9",
            "limit=NaN",
        ),
        *(
            "cursor=%00",
            "cursor=%ff",
            "cursor=" + "A" * 3000,
            "&".join(["status=error"] * 200),
            "status=%ED%A0%80",
            "%",
        ),
        *(f"cursor={write_cursor(Cursor(at=at, id=own))}" for at in ("now", "2026-02-30T00:00:00+00:00", "x'--")),
    ]

    answers = {query: door.send("GET", f"/sessions/ai?{query}", token) for query in queries}

    assert {query: each.status for query, each in answers.items() if each.status not in {200, 400}} == {}
    assert all(str(foreign) not in each.body.decode() for each in answers.values())
    assert answers["user_id=" + str(house.other.id)].status == 400
    assert str(own) in answers["status=error"].body.decode()
    assert [door.send("GET", f"/sessions/ai?{query}").status for query in queries] == [401] * len(queries)


# Paths, methods, headers and bodies


def strange_paths(generation_id: UUID) -> list[str]:
    """Give paths that try to be others."""
    arabic = "".join(f"%D9%A{digit}" for digit in "01234567")
    ids = [
        *("..", "%2e%2e", "..%2f..%2fhealthz", "%2e%2e%2f", "..%5c..", "%252e%252e", ".", "%00", "%0a", "%20", "%09"),
        *(f"{generation_id}%00", f"%00{generation_id}", f"{generation_id}%0a", f"{generation_id}%20"),
        *(f"{generation_id}%2f", f"{generation_id};x=1", f"{generation_id}'--", f"%7B{generation_id}%7D"),
        *(generation_id.hex, generation_id.urn, f"{generation_id}{generation_id}", f"{generation_id},{uuid4()}"),
        *(f"{arabic}-0000-0000-0000-000000000000", "%EF%BC%90" * 8, "%ff%fe", "%c0%ae%c0%ae", "%ed%a0%80", "%"),
        *("%zz", "x" * 3000, "0" * 3000, "-1", "1e309", "null", "undefined", "*", "%25s%25n", "{{7*7}}", "${x}"),
    ]
    return [
        *(f"/sessions/ai/{each}{suffix}" for each in ids for suffix in ("", "/retry", "/retry/", "//retry")),
        *(
            "//",
            "/../../etc/passwd",
            "/sessions/ai/../../healthz",
            "/healthz/../sessions/ai",
            "/healthz%00",
            "/?%00=%ff",
        ),
    ]


def test_strange_paths_never_break(house: House, door: Door) -> None:
    """No spelling of a path is a 5xx, or reaches a generation that its canonical id would not; no call is made."""
    generation_id = house.add_generation(house.user)
    calls, token = len(house.provider.requests), door.token()

    answers = {
        (method, path): door.send(method, path, token).status
        for path in strange_paths(generation_id)
        for method in ("GET", "POST", "DELETE")
    }

    assert {key: status for key, status in answers.items() if status not in {308, 400, 404, 405}} == {}
    assert len(house.provider.requests) == calls


def test_wrong_methods_are_405(house: House, door: Door) -> None:
    """A method that a route does not have is the host's 405 or, unknown to the server, its 400; never more."""
    path = f"/sessions/ai/{house.add_generation(house.user)}"
    methods = ("PUT", "PATCH", "TRACE", "PROPFIND", "BREW", "GETGET")

    answers = {
        (method, target): door.send(method, target, door.token()).status
        for method in methods
        for target in (path, f"{path}/retry", "/healthz", "/sessions/ai/openapi.json")
    }

    assert {key: status for key, status in answers.items() if status not in {400, 405}} == {}
    assert {door.send(method, path, door.token()).status for method in ("POST", "DELETE")} == {405}
    assert door.send("GET", f"{path}/retry", door.token()).status == 405


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "k" * 256),
        ("Idempotency-Key", '"'),
        ("Idempotency-Key", '"a\\"'),
        ("Idempotency-Key", "a b"),
        ("Idempotency-Key", "ключ"),
        ("Idempotency-Key", "\xff\xfe"),
        ("X-Request-Id", "x" * 5000),
        ("X-Request-Id", "a b\tc"),
        ("X-Request-Id", "<script>"),
        ("Prefer", "respond-async; wait=" + "9" * 4000),
        ("Content-Type", "application/json; charset=no-such"),
        ("Content-Type", "\xff"),
        ("Accept", "text/html;q=9999999999999"),
        ("Host", "evil.example:99999999"),
        ("Forwarded", "for=[::1"),
        ("X-Forwarded-For", "1" * 4000),
        ("Range", "bytes=9-1"),
        ("If-Match", '"' * 1000),
        ("Expect", "100-continue"),
    ],
    ids=lambda text: text[:24].encode("unicode_escape").decode(),
)
def test_strange_headers_never_break(house: House, door: Door, name: str, value: str) -> None:
    """No header's value is a 5xx, and none is echoed unless it is a sane request id."""
    target = f"/sessions/ai/{house.add_generation(house.other)}/retry"
    encoded = value.encode("utf-8" if max(map(ord, value), default=0) > 255 else "latin-1").decode("latin-1")

    answer = door.send("POST", target, door.token(), [(name, encoded)], body=b"")

    assert 400 <= answer.status < 500
    assert answer.headers.get("x-request-id") != value


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_foreign_queued_retry_looks_like_an_absent_one(house: House, door: Door, method: str) -> None:
    """Whether another user's generation is queued is not disclosed, and it stays queued."""
    foreign, absent = house.add_generation(house.other), uuid4()
    headers = [("Prefer", "respond-async")]
    others = Door(door.url, house.other, door.issuer, door.secret, door.asymmetric)
    path = f"/sessions/ai/{foreign}/retry"
    assert others.send("POST", path, others.token(), headers).status == 202

    of_foreign = door.send(method, path, door.token(), headers)
    of_absent = door.send(method, f"/sessions/ai/{absent}/retry", door.token(), headers)

    assert of_foreign.status == 404
    assert of_foreign.but_for(foreign) == of_absent.but_for(absent)
    row = "select lease_expires_at, accepted_at is not null from public.ai_retry_open where generation_id = %s"
    assert house.database.execute(row, [foreign]).fetchall() == [(None, True)]


@pytest.mark.parametrize(
    "prefer",
    [
        *("\xff\xfe", "ключ", '"', '"respond-async', 'respond-async="', "respond-async;" * 500, "," * 4000, "=;=,;="),
        *("respond-async; wait=" + "9" * 4000, "respond-async=false", "respond-async=1; ;", "\t respond-async \t"),
    ],
    ids=lambda text: text[:24].encode("unicode_escape").decode(),
)
def test_strange_preferences_never_break(house: House, door: Door, prefer: str) -> None:
    """Whatever is preferred, in any form, a retry is answered: now or, if that was asked, later."""
    target = f"/sessions/ai/{house.add_generation(house.user)}/retry"
    encoded = prefer.encode("utf-8" if max(map(ord, prefer)) > 255 else "latin-1").decode("latin-1")

    assert door.send("POST", target, door.token(), [("Prefer", encoded)]).status in {200, 202}
    assert door.send("DELETE", target, door.token(), [("Prefer", encoded)]).status == 200


def test_bodies_are_ignored(house: House, door: Door) -> None:
    """Bodies of any kind and length neither help nor harm a retry."""
    for body, kind in (
        (b"{" * 1_000_000, "application/json"),
        (b"\x00\xff" * 500_000, "multipart/form-data; boundary=x"),
        (b"--x\r\n" * 10_000, "multipart/form-data; boundary=x"),
        (b"a=1&" * 100_000, "application/x-www-form-urlencoded"),
    ):
        target = f"/sessions/ai/{house.add_generation(house.user)}/retry"
        assert door.send("POST", target, door.token(), [("Content-Type", kind)], body).status == 200
        assert door.send("POST", target, door.token(), [("Content-Type", kind)], body).status == 409


def strange_bodies() -> list[bytes]:
    """Give bodies of first calls that try to break something."""
    wish = b'{"wish": %s}'
    return [
        *(b"", b"{", b"null", b"[]", b"\xff" * 100, b"[" * 60_000, b'{"a":' * 10_000, b'{"wish": NaN}'),
        *(wish % each for each in (b"1e999", rb'"\u0000"', rb'"\ud800"', b"9" * 60_000, b"[" * 50 + b"]" * 50, b"{}")),
        *(wish % (b'"' + b"x" * length + b'"') for length in (60_001, 65_523, 65_600, 2_000_000)),
        *(
            b'{"wish": "x", "user_id": "%s"}' % bytes(str(uuid4()), "ascii"),
            b'{"__proto__": {}}',
            b'{"wish": "x", "wish": 1}',
        ),
    ]


def test_strange_bodies_make_no_call(house: House, door: Door) -> None:
    """No body of a first call is a 5xx, or a call; each is refused before a generation is created."""
    token, calls = door.token(), len(house.provider.requests)
    json_ = [("Content-Type", "application/json")]
    before = house.database.execute("select count(*) from public.generations").fetchone()

    answers = [door.send("POST", "/sessions/ai", token, json_, each).status for each in strange_bodies()]
    types = [
        door.send("POST", "/sessions/ai", token, [("Content-Type", each)], b'{"wish": "x"}').status
        for each in (
            "text/plain",
            "application/json; charset=utf-16",
            "application/xml",
            "a" * 5000,
            "application/json/x",
        )
    ]
    cut = [
        b"POST /sessions/ai HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n%s"
        % (token.encode(), rest)
        for rest in (
            b'Content-Length: 100\r\n\r\n{"wish": "x"}',
            b'Transfer-Encoding: chunked\r\n\r\nFF\r\n{"wish": "x',
            b'Transfer-Encoding: chunked\r\n\r\nzz\r\n{"wish": "x"}\r\n0\r\n\r\n',
            b"Content-Length: -1\r\n\r\n",
            b'Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{"wish": "x"}',
        )
    ]

    assert set(answers) <= {400, 413}
    assert set(types) == {415}
    assert {each[-60:]: status for each in cut if (status := door.send_raw(each)) not in {0, 400}} == {}
    assert house.database.execute("select count(*) from public.generations").fetchone() == before
    assert len(house.provider.requests) == calls


def test_strange_wire_never_breaks(house: House, door: Door) -> None:
    """Malformed HTTP and oversized headers are refused by the server, no connection is a 5xx, and all goes on."""
    path, token = f"/sessions/ai/{house.add_generation(house.other)}/retry", door.token()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n".encode()
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    requests = {
        "chunked": chunked + b"5\r\nhello\r\n0\r\n\r\n",
        "chunks without end": chunked + b"5\r\nhel",
        "chunk of bad size": chunked + b"zz\r\nhello\r\n0\r\n\r\n",
        "chunk of negative size": chunked + b"-5\r\nhello\r\n0\r\n\r\n",
        "chunk of huge size": chunked + b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n",
        "chunk extension": chunked + b"5;" + b"x" * 9000 + b"\r\nhello\r\n0\r\n\r\n",
        "length and chunks": head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "negative length": head + b"Content-Length: -1\r\n\r\n",
        "length no number": head + b"Content-Length: \xd9\xa5\r\n\r\nhello",
        "body cut off": head + b"Content-Length: 1000\r\n\r\nhello",
        "large header": head + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        "many headers": head + b"".join(b"X-%d: x\r\n" % each for each in range(1000)) + b"\r\n",
        "NUL in header": head + b"X: a\x00b\r\n\r\n",
        "no colon": head + b"nothing\r\n\r\n",
        "blank in name": head + b"X : 1\r\n\r\n",
        "underscored twin": head + b"Idempotency_Key: x\r\n\r\n",
        "folded header": head + b"X: a\r\n b\r\n\r\n",
        "bare LF": head.replace(b"\r\n", b"\n") + b"\n",
        "bare CR": head + b"X: a\rb\r\n\r\n",
        "no host": f"GET {path} HTTP/1.1\r\n\r\n".encode(),
        "absolute": f"GET http://evil.example{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "connect": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
        "long line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/0.9": b"GET /healthz\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        "nothing": b"\r\n\r\n",
        "raw bytes in path": b"GET /sessions/ai/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    }

    statuses = {name: door.send_raw(request) for name, request in requests.items()}

    assert {name: status for name, status in statuses.items() if status >= 500} == {}
    assert statuses["chunked"] == 404
    assert door.send("GET", "/healthz").status == 200
