"""What ``ai_retry.auth`` promises about tokens, keys and the Auth server, over real sockets."""

import base64
import hashlib
import hmac
import json
import logging
import pickle
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from ai_retry.auth import AuthUnavailable, TokenVerifier, Unauthenticated

SIGNER = {"ES256": "ec-1", "RS256": "rsa-1", "EdDSA": "ed-1"}
USER = UUID("0b9cbf7e-54d4-4d3f-8a0c-6d1f3a2b5c7d")
SECRET = "a-project-secret-that-is-long-enough-for-hs256"
OTHER_SECRET = "another-secret-that-is-also-long-enough-to-sign"
PUBLISHABLE_KEY = "sb_publishable_test"
JWKS_PATH = "/auth/v1/.well-known/jwks.json"
USER_PATH = "/auth/v1/user"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Time:
    """A wall clock and a monotonic one that move together, when they are advanced."""

    elapsed: timedelta = timedelta()

    def now(self) -> datetime:
        """Return the wall clock's time."""
        return NOW + self.elapsed

    def monotonic(self) -> float:
        """Return the monotonic clock's seconds."""
        return 1000 + self.elapsed.total_seconds()

    def sleep(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.advance(seconds=seconds)

    def advance(self, **duration: float) -> None:
        """Move both clocks forward."""
        self.elapsed += timedelta(**duration)


@dataclass
class Reply:
    """What the server sends back for one path."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    """The reply waits for it."""


@dataclass
class Project:
    """A Supabase project's Auth: serves scripted replies and writes down what it was asked."""

    url: str
    replies: dict[str, Reply]
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def publish(self, *keys: object) -> None:
        """Let the key set consist of these keys."""
        self.replies[JWKS_PATH] = Reply(body={"keys": list(keys)})

    def count(self, path: str = JWKS_PATH) -> int:
        """Count the requests for a path."""
        return sum(asked == path for asked, _ in self.asked)

    @property
    def issuer(self) -> str:
        """The ``iss`` of its tokens."""
        return f"{self.url}/auth/v1"


def serve() -> Iterator[Project]:
    """Run a project's Auth on a free port of 127.0.0.1 until the generator is closed."""
    running = Project("", {})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked.append((self.path, dict(self.headers)))
            running.arrived.release()
            reply = running.replies.get(self.path, Reply(404))
            if reply.gate is not None:
                reply.gate.wait(timeout=30)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                """The client gave up first, as the tests of its limits want it to."""

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@pytest.fixture
def project() -> Iterator[Project]:
    """Give a project that publishes one key of each kind."""
    for running in serve():
        running.publish(*(public_jwk(name) for name in ("ec-1", "rsa-1", "ed-1")))
        yield running


@pytest.fixture
def clock() -> Time:
    """Give a clock that is still."""
    return Time()


@cache
def private_key(kid: str) -> Any:
    """Make the private key of that name; its first letters name the kind."""
    kind = kid.partition("-")[0]
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=1024 if kid == "rsa-short" else 2048)
    if kind == "ed":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    return ec.generate_private_key(ec.SECP384R1() if kind == "p384" else ec.SECP256R1())


def public_jwk(name: str, /, **members: Any) -> dict[str, Any]:
    """Return the public JWK of a key as Supabase publishes it; a member that is None is left out."""
    key = private_key(name).public_key()
    if isinstance(key, rsa.RSAPublicKey):
        jwk, algorithm = RSAAlgorithm.to_jwk(key, as_dict=True), "RS256"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        jwk, algorithm = ECAlgorithm.to_jwk(key, as_dict=True), "ES256"
    else:
        jwk, algorithm = OKPAlgorithm.to_jwk(key, as_dict=True), "EdDSA"
    jwk = {**jwk, "kid": name, "alg": algorithm, "use": "sig", "key_ops": ["verify"], **members}
    return {member: value for member, value in jwk.items() if value is not None}


def verifier(project: Project, clock: Time, **options: Any) -> TokenVerifier:
    """Build a verifier of the project on the test's clock."""
    return TokenVerifier(project.url, clock=clock, **options)


def claims_of(project: Project, **changes: Any) -> dict[str, Any]:
    """Return the claims of a normal user's token; a change to ``...`` leaves the claim out."""
    issued = int(NOW.timestamp())
    claims = {
        "iss": project.issuer,
        "sub": str(USER),
        "aud": "authenticated",
        "role": "authenticated",
        "iat": issued,
        "exp": issued + 3600,
        "session_id": "1f0c8cf4-9a5b-4d0b-9c43-1d7c7d9d2b11",
        "is_anonymous": False,
    }
    return {name: value for name, value in {**claims, **changes}.items() if value is not ...}


def signed(claims: dict[str, Any], *, alg: str = "ES256", kid: str | None = None, **headers: Any) -> str:
    """Sign claims with the published key of that algorithm, or with another key by its name."""
    kid = kid or SIGNER[alg]
    return jwt.encode(claims, private_key(kid), alg, {"kid": kid, **headers})


def signed_hs256(claims: dict[str, Any], secret: str = SECRET, **headers: Any) -> str:
    """Sign claims with a shared secret."""
    return jwt.encode(claims, secret, "HS256", headers)


def segment(data: bytes) -> str:
    """Encode one segment of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Any, claims: Any, secret: bytes = b"") -> str:
    """Build a token from any JSON or bytes, signed by HMAC with any secret: what PyJWT refuses to make."""
    parts = [segment(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims)]
    signature = hmac.new(secret, ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, segment(signature)])


def refusal(verify: TokenVerifier, token: str) -> str:
    """Return why the token is refused."""
    with pytest.raises(Unauthenticated) as caught:
        verify.verify(token)
    return caught.value.reason


class TestPublishedKeys:
    """Tokens signed by a key of the project's JWKS."""

    @pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
    def test_asymmetric_token_names_its_user(self, project: Project, clock: Time, alg: str) -> None:
        """A token signed by a published key is its subject's."""
        assert verifier(project, clock).verify(signed(claims_of(project), alg=alg)) == USER

    def test_keys_fetched_once_for_many_tokens(self, project: Project, clock: Time) -> None:
        """Within the cache's life, one fetch serves every token of every key."""
        verify = verifier(project, clock)

        for alg in ("ES256", "RS256", "EdDSA", "ES256"):
            verify.verify(signed(claims_of(project), alg=alg))

        assert project.asked == [(JWKS_PATH, project.asked[0][1])]

    @pytest.mark.parametrize(
        ("alg", "kid"),
        [("RS256", "ec-1"), ("ES256", "rsa-1"), ("EdDSA", "ec-1"), ("ES256", "ed-1")],
    )
    def test_algorithm_of_the_token_never_replaces_the_keys(
        self, project: Project, clock: Time, alg: str, kid: str
    ) -> None:
        """A key of one algorithm refuses a token that claims another, however well signed (RFC 8725, section 3.1)."""
        token = jwt.encode(claims_of(project), private_key(SIGNER[alg]), alg, {"kid": kid})

        assert refusal(verifier(project, clock), token) in {"signature", "algorithm"}

    @pytest.mark.parametrize("alg", ["RS512", "PS256"])
    def test_other_algorithm_of_the_same_key_refused(self, project: Project, clock: Time, alg: str) -> None:
        """A key verifies by its one algorithm, not by all that its type could do."""
        token = jwt.encode(claims_of(project), private_key("rsa-1"), alg, {"kid": "rsa-1"})

        assert refusal(verifier(project, clock), token) == "algorithm"

    def test_other_key_under_a_known_kid_refused(self, project: Project, clock: Time) -> None:
        """A known ``kid`` helps no one who lacks its key."""
        token = signed(claims_of(project), kid="ec-stranger")
        stolen = jwt.encode(claims_of(project), private_key("ec-stranger"), "ES256", {"kid": "ec-1"})

        assert refusal(verifier(project, clock), stolen) == "signature"
        assert refusal(verifier(project, clock), token) == "unknown key"

    def test_token_without_kid_refused_without_a_request(self, project: Project, clock: Time) -> None:
        """Keys are not tried one after another."""
        token = jwt.encode(claims_of(project), private_key("ec-1"), "ES256")

        assert refusal(verifier(project, clock), token) == "algorithm"
        assert project.asked == []

    def test_key_headers_of_the_token_ignored(self, project: Project, clock: Time) -> None:
        """A key or an address that a token brings along is never used (RFC 8725, section 3.10)."""
        stranger = public_jwk("ec-stranger")
        headers = {"kid": "ec-1", "jwk": stranger, "jku": f"{project.url}/keys", "x5u": f"{project.url}/cert"}
        token = jwt.encode(claims_of(project), private_key("ec-stranger"), "ES256", headers)

        assert refusal(verifier(project, clock), token) == "signature"
        assert project.count() == len(project.asked) == 1
        assert verifier(project, clock).verify(signed(claims_of(project), jwk=stranger)) == USER

    @pytest.mark.parametrize(
        "unusable",
        [
            public_jwk("ec-1", use="enc"),
            public_jwk("ec-1", key_ops=["sign"]),
            public_jwk("ec-1", key_ops=7),
            public_jwk("ec-1", alg="ES384"),
            public_jwk("ec-1", alg="HS256"),
            public_jwk("ec-1", alg="none"),
            public_jwk("ec-1", kid=None),
            public_jwk("ec-1", kid=["ec-1"]),
            public_jwk("ec-1", crv="secp256k1"),
            public_jwk("ec-1", x=None),
            public_jwk("ec-1", x=5),
            public_jwk("ec-1", x="AAAA"),
            public_jwk("ec-1", kty=["EC"]),
            public_jwk("ec-1", kty="oct", crv=None, alg=None, k="c2VjcmV0"),
            ECAlgorithm.to_jwk(private_key("ec-1"), as_dict=True) | {"kid": "ec-1"},
            "ec-1",
            None,
        ],
        ids=lambda _: "jwk",  # their numbers differ from run to run
    )
    def test_unusable_key_left_out_alone(self, project: Project, clock: Time, unusable: object) -> None:
        """A key that may not verify tokens is ignored, and its neighbours still work (RFC 7517, section 5)."""
        project.publish(unusable, public_jwk("rsa-1"))
        verify = verifier(project, clock)

        assert refusal(verify, signed(claims_of(project))) == "unknown key"
        assert verify.verify(signed(claims_of(project), alg="RS256")) == USER

    @pytest.mark.parametrize(("kid", "alg"), [("p384-1", "ES384"), ("ed448-1", "EdDSA")])
    def test_curve_that_supabase_does_not_use_refused(self, project: Project, clock: Time, kid: str, alg: str) -> None:
        """Only P-256 and Ed25519 are curves of a Supabase project."""
        project.publish(public_jwk(kid, alg=alg))

        assert refusal(verifier(project, clock), signed(claims_of(project), alg=alg, kid=kid)) in {
            "algorithm",
            "unknown key",
        }

    def test_short_rsa_key_refused(self, project: Project, clock: Time) -> None:
        """An RSA key below 2048 bits proves nothing (RFC 7518, section 3.3)."""
        project.publish(public_jwk("rsa-short"))
        with pytest.warns(match="RSA key is 1024 bits"):
            token = signed(claims_of(project), alg="RS256", kid="rsa-short")

        assert refusal(verifier(project, clock), token) == "signature"

    def test_key_without_optional_members_used(self, project: Project, clock: Time) -> None:
        """``alg``, ``use`` and ``key_ops`` may be absent: type and curve fix the algorithm."""
        project.publish(public_jwk("ec-1", alg=None, use=None, key_ops=None))

        assert verifier(project, clock).verify(signed(claims_of(project))) == USER


class TestKeyCache:
    """When the keys are fetched, and what happens when they can't be."""

    def test_flood_of_unknown_kids_makes_one_request(self, project: Project, clock: Time) -> None:
        """Invented key ids cost one request per interval, whatever their number."""
        verify = verifier(project, clock)
        tokens = [signed(claims_of(project), kid=f"ec-stranger-{n}") for n in range(50)]
        start = threading.Barrier(32)

        def flood(_: int) -> list[str]:
            start.wait(timeout=30)
            return [refusal(verify, token) for token in tokens]

        for interval in (1, 2):
            with ThreadPoolExecutor(32) as threads:
                reasons = [reason for batch in threads.map(flood, range(32)) for reason in batch]

            assert reasons == ["unknown key"] * 1600
            assert project.count() == interval
            clock.advance(seconds=30)

    def test_flood_while_keys_are_down_makes_one_request(self, project: Project, clock: Time) -> None:
        """Failed fetches are limited as good ones are, and say that nothing is known."""
        project.replies[JWKS_PATH] = Reply(503)
        verify = verifier(project, clock)
        token = signed(claims_of(project))

        def attempt(_: int) -> None:
            with pytest.raises(AuthUnavailable):
                verify.verify(token)

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(attempt, range(64)))

        assert project.count() == 1

    @pytest.mark.parametrize(
        "kid", ["../../x", "/etc/passwd", "ec-1\0", "http://127.0.0.1/keys", "k" * 256, "?a=b#c", "é\ud800"]
    )
    def test_strange_kid_only_looked_up(self, project: Project, clock: Time, kid: str) -> None:
        """The key id is a name to compare, never part of an address."""
        token = jwt.encode(claims_of(project), private_key("ec-1"), "ES256", {"kid": kid})

        assert refusal(verifier(project, clock), token) == "unknown key"
        assert {path for path, _ in project.asked} == {JWKS_PATH}

    def test_new_key_accepted_after_the_interval(self, project: Project, clock: Time) -> None:
        """A rotation is noticed by its unknown key id, without waiting for the cache to age."""
        verify = verifier(project, clock)
        verify.verify(signed(claims_of(project)))
        project.publish(public_jwk("ec-2"), public_jwk("ec-1"))

        clock.advance(seconds=29)
        assert refusal(verify, signed(claims_of(project), kid="ec-2")) == "unknown key"
        clock.advance(seconds=1)
        assert verify.verify(signed(claims_of(project), kid="ec-2")) == USER
        assert project.count() == 2

    def test_removed_key_refused_after_ttl(self, project: Project, clock: Time) -> None:
        """A key that the project took back stops working when the cache's life is over."""
        verify = verifier(project, clock)
        verify.verify(signed(claims_of(project)))
        project.publish(public_jwk("ec-2"))

        clock.advance(minutes=9, seconds=59)
        assert verify.verify(signed(claims_of(project))) == USER
        clock.advance(seconds=1)
        assert refusal(verify, signed(claims_of(project))) == "unknown key"

    def test_known_keys_outlive_an_outage(self, project: Project, clock: Time) -> None:
        """While the keys can't be fetched the known ones serve, for a day and no longer."""
        verify = verifier(project, clock)
        tomorrow = claims_of(project, exp=int(NOW.timestamp()) + 90_000)
        verify.verify(signed(tomorrow))
        project.replies[JWKS_PATH] = Reply(500)

        clock.advance(hours=23, minutes=59)
        assert verify.verify(signed(tomorrow)) == USER
        clock.advance(minutes=1)
        with pytest.raises(AuthUnavailable):
            verify.verify(signed(tomorrow))
        project.publish(public_jwk("ec-1"))
        clock.advance(seconds=30)
        assert verify.verify(signed(tomorrow)) == USER

    def test_unknown_key_in_an_outage_is_not_refused(self, project: Project, clock: Time) -> None:
        """A new key can't be distinguished from an invented one while the keys can't be fetched."""
        verify = verifier(project, clock)
        verify.verify(signed(claims_of(project)))
        project.replies[JWKS_PATH] = Reply(500)

        clock.advance(seconds=30)

        with pytest.raises(AuthUnavailable):
            verify.verify(signed(claims_of(project), kid="ec-2"))

    def test_reader_of_a_known_key_never_waits(self, project: Project, clock: Time) -> None:
        """While one thread fetches, others go on with the keys they know; unknown ones wait for the result."""
        verify = verifier(project, clock, timeout=timedelta(seconds=30))
        verify.verify(signed(claims_of(project)))
        gate = threading.Event()
        project.replies[JWKS_PATH] = Reply(body={"keys": [public_jwk("ec-1"), public_jwk("ec-2")]}, gate=gate)
        project.arrived.acquire(timeout=10)
        clock.advance(minutes=10)

        with ThreadPoolExecutor(2) as threads:
            fetching = threads.submit(verify.verify, signed(claims_of(project), kid="ec-2"))
            assert project.arrived.acquire(timeout=10)
            waiting = threads.submit(verify.verify, signed(claims_of(project), kid="ec-2"))

            assert verify.verify(signed(claims_of(project))) == USER
            assert not fetching.done()
            gate.set()
            assert fetching.result(10) == waiting.result(10) == USER

        assert project.count() == 2

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(404),
            Reply(200, b"not json"),
            Reply(200, b""),
            Reply(200, [public_jwk("ec-1")]),
            Reply(200, {"keys": {"ec-1": public_jwk("ec-1")}}),
            Reply(200, {"keys": [public_jwk("ec-1")], "padding": "x" * 65_536}),
            Reply(200, {"keys": [public_jwk("ec-1")]}, {"Content-Length": "99999"}),
            Reply(302, {"keys": [public_jwk("ec-1")]}, {"Location": "/elsewhere"}),
            Reply(200, b"[" * 60_000),
            Reply(200, b"not gzip", {"Content-Encoding": "gzip"}),
        ],
        ids=["404", "text", "empty", "list", "object", "long", "cut", "redirect", "deep", "encoding"],
    )
    def test_unusable_key_set_is_unavailability(self, project: Project, clock: Time, reply: Reply) -> None:
        """An answer that is no key set says nothing about a token, and a redirect is not followed."""
        project.replies |= {JWKS_PATH: reply, "/elsewhere": Reply(body={"keys": [public_jwk("ec-1")]})}

        with pytest.raises(AuthUnavailable):
            verifier(project, clock).verify(signed(claims_of(project)))

        assert len(project.asked) == 1

    def test_unreachable_keys_are_unavailability(self, clock: Time, caplog: pytest.LogCaptureFixture) -> None:
        """A server that is not there says nothing about a token, and the operator reads so in the log."""
        for gone in serve():
            claims = claims_of(gone)
        verify = verifier(gone, clock)

        with pytest.raises(AuthUnavailable):
            verify.verify(signed(claims))

        assert [each.getMessage() for each in caplog.records] == ["event=signing_keys_failed reason=ConnectionError"]
        assert caplog.records[0].name == "ai_retry"

    def test_silent_server_is_unavailability(self, project: Project, clock: Time) -> None:
        """A server that accepts and says nothing is given up after the timeout."""
        gate = threading.Event()
        project.replies[JWKS_PATH] = Reply(body={}, gate=gate)

        with pytest.raises(AuthUnavailable):
            verifier(project, clock, timeout=timedelta(seconds=0.05)).verify(signed(claims_of(project)))

        gate.set()

    def test_project_without_keys_refuses(self, project: Project, clock: Time) -> None:
        """An empty key set is an answer: the project signs with a secret."""
        project.publish()

        assert refusal(verifier(project, clock), signed(claims_of(project))) == "unknown key"


class TestSecret:
    """HS256 tokens, where the project's secret is configured."""

    def test_hs256_token_names_its_user(self, project: Project, clock: Time) -> None:
        """A token signed with the configured secret is its subject's, without any request."""
        verify = verifier(project, clock, jwt_secret=SECRET, publishable_key=PUBLISHABLE_KEY)

        assert verify.verify(signed_hs256(claims_of(project), kid="legacy")) == USER
        assert project.asked == []

    def test_wrong_secret_refused_without_a_request(self, project: Project, clock: Time) -> None:
        """The configured secret alone decides; Auth is not asked for a second opinion."""
        verify = verifier(project, clock, jwt_secret=SECRET, publishable_key=PUBLISHABLE_KEY)

        assert refusal(verify, signed_hs256(claims_of(project), OTHER_SECRET)) == "signature"
        assert project.asked == []

    @pytest.mark.parametrize("options", [{}, {"jwt_secret": SECRET}], ids=["no-secret", "secret"])
    @pytest.mark.parametrize(
        "public",
        [
            private_key("ec-1").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            private_key("rsa-1").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            private_key("ec-1").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            json.dumps(public_jwk("ec-1")).encode(),
            public_jwk("ec-1")["x"].encode(),
            b"",
        ],
        ids=["ec-pem", "rsa-pem", "ec-der", "jwk", "x", "empty"],
    )
    def test_public_key_as_secret_refused(
        self, project: Project, clock: Time, public: bytes, options: dict[str, str]
    ) -> None:
        """What everyone can read signs nothing (RFC 8725, section 2.1)."""
        verify = verifier(project, clock, **options)
        verify.verify(signed(claims_of(project)))
        token = forged({"alg": "HS256", "kid": "ec-1"}, claims_of(project), public)

        assert refusal(verify, token) in {"signature", "algorithm"}

    def test_secret_in_the_key_set_never_used(self, project: Project, clock: Time) -> None:
        """A symmetric key that is published by mistake opens nothing."""
        project.publish({"kty": "oct", "kid": "shared", "alg": "HS256", "k": segment(SECRET.encode())})

        assert refusal(verifier(project, clock), signed_hs256(claims_of(project), kid="shared")) == "algorithm"

    @pytest.mark.parametrize("alg", ["HS384", "HS512"])
    def test_other_hmac_refused(self, project: Project, clock: Time, alg: str) -> None:
        """The secret verifies HS256 alone."""
        secret = SECRET * 2
        token = jwt.encode(claims_of(project), secret, alg)

        assert refusal(verifier(project, clock, jwt_secret=secret), token) == "algorithm"

    @pytest.mark.parametrize("secret", ["", "short", "x" * 31])
    def test_short_secret_not_accepted(self, project: Project, clock: Time, secret: str) -> None:
        """A guessable or empty secret is found at the start, not by an attacker; it is not shown."""
        with pytest.raises(ValueError, match="at least 32 bytes"):
            verifier(project, clock, jwt_secret=secret)

    @pytest.mark.parametrize("url", ["", "project.supabase.co", "file:///etc/passwd"])
    def test_address_must_be_http(self, url: str) -> None:
        """Keys come over HTTP or not at all."""
        with pytest.raises(ValueError, match="https://"):
            TokenVerifier(url)

    def test_issuer_may_be_absent_when_configured_so(self, project: Project, clock: Time) -> None:
        """Supabase Lite's HS256 tokens carry no ``iss``: accepted only by a verifier that expects none."""
        token = signed_hs256(claims_of(project, iss=...))

        assert verifier(project, clock, jwt_secret=SECRET, require_issuer=False).verify(token) == USER
        assert refusal(verifier(project, clock, jwt_secret=SECRET), token) == "issuer"

    @pytest.mark.parametrize("issuer", ["", None, "https://elsewhere.example/auth/v1", 7])
    def test_wrong_issuer_refused_even_when_optional(self, project: Project, clock: Time, issuer: object) -> None:
        """An ``iss`` that is there is always compared."""
        verify = verifier(project, clock, jwt_secret=SECRET, require_issuer=False)
        claims = json.dumps(claims_of(project) | {"iss": issuer}).encode()

        assert refusal(verify, forged({"alg": "HS256"}, claims, SECRET.encode())) == "issuer"

    def test_issuer_never_optional_for_published_keys(self, project: Project, clock: Time) -> None:
        """Auth names itself in every token that it signs with a published key."""
        verify = verifier(project, clock, jwt_secret=SECRET, require_issuer=False)

        assert refusal(verify, signed(claims_of(project, iss=...))) == "issuer"


class TestAskedAuth:
    """HS256 tokens without a configured secret: Auth is asked."""

    def test_auth_confirms_the_user(self, project: Project, clock: Time) -> None:
        """Auth's word is enough; it is asked with the token and the API key."""
        project.replies[USER_PATH] = Reply(body={"id": str(USER), "aud": "authenticated"})
        token = signed_hs256(claims_of(project))

        assert verifier(project, clock, publishable_key=PUBLISHABLE_KEY).verify(token) == USER
        [(path, headers)] = project.asked
        assert (path, headers["Authorization"], headers["apikey"]) == (USER_PATH, f"Bearer {token}", PUBLISHABLE_KEY)

    @pytest.mark.parametrize("id_", ["7a9cbf7e-54d4-4d3f-8a0c-6d1f3a2b5c7d", str(USER).upper(), "", None, 7])
    def test_other_user_in_the_answer_refused(self, project: Project, clock: Time, id_: object) -> None:
        """The user that Auth names must be the token's subject."""
        project.replies[USER_PATH] = Reply(body={"id": id_})
        verify = verifier(project, clock, publishable_key=PUBLISHABLE_KEY)

        assert refusal(verify, signed_hs256(claims_of(project))) == "subject"

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (403, {"code": "bad_jwt", "message": "invalid JWT"}),
            (403, {"code": 403, "error_code": "session_not_found", "msg": "no session"}),
            (401, {"code": 401, "msg": "invalid token"}),
            (404, {"code": 404, "msg": "User not found"}),
        ],
    )
    def test_refusal_by_auth_refused(self, project: Project, clock: Time, status: int, body: object) -> None:
        """What Auth says of the token, old or new, is final."""
        project.replies[USER_PATH] = Reply(status, body)
        verify = verifier(project, clock, publishable_key=PUBLISHABLE_KEY)

        assert refusal(verify, signed_hs256(claims_of(project))) == "refused by Auth"

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(500, {"code": "unexpected_failure"}),
            Reply(500, {"id": str(USER)}),
            Reply(503),
            Reply(429, {"code": "over_request_rate_limit"}),
            Reply(401, {"message": "Invalid API key", "hint": "Double check your API key."}),
            Reply(403, b"<html>blocked</html>"),
            Reply(404, {"message": "no Route matched with those values"}),
            Reply(302, headers={"Location": "/elsewhere"}),
            Reply(200, b"<html>maintenance</html>"),
            Reply(200, {}),
            Reply(200, {"id": str(USER), "padding": "x" * 65_536}),
        ],
        ids=["500", "500-id", "503", "429", "api-key", "firewall", "route", "redirect", "page", "no user", "long"],
    )
    def test_anything_else_is_unavailability(self, project: Project, clock: Time, reply: Reply) -> None:
        """An answer that is not about the token signs no user out."""
        project.replies |= {USER_PATH: reply, "/elsewhere": Reply(body={"id": str(USER)})}
        verify = verifier(project, clock, publishable_key=PUBLISHABLE_KEY)

        with pytest.raises(AuthUnavailable):
            verify.verify(signed_hs256(claims_of(project)))

        assert len(project.asked) == 1

    @pytest.mark.parametrize(
        "changes",
        [{"exp": 1}, {"aud": "anon"}, {"role": "service_role"}, {"iss": "https://elsewhere.example"}, {"sub": "me"}],
        ids=str,
    )
    def test_visible_faults_cost_no_request(self, project: Project, clock: Time, changes: dict[str, Any]) -> None:
        """Auth is not asked about a token whose claims already fail."""
        verify = verifier(project, clock, publishable_key=PUBLISHABLE_KEY)

        refusal(verify, signed_hs256(claims_of(project, **changes)))

        assert project.asked == []

    def test_no_one_to_ask_refused(self, project: Project, clock: Time) -> None:
        """Without a secret and without a key to ask with, HS256 is not an algorithm of the project."""
        assert refusal(verifier(project, clock), signed_hs256(claims_of(project))) == "algorithm"
        assert project.asked == []

    def test_unreachable_auth_is_unavailability(self, clock: Time) -> None:
        """A server that is not there signs no user out, and its error, which holds the request, is not passed on."""
        for gone in serve():
            token = signed_hs256(claims_of(gone))

        with pytest.raises(AuthUnavailable) as caught:
            verifier(gone, clock, publishable_key=PUBLISHABLE_KEY).verify(token)

        assert caught.value.reason == "ConnectionError"
        assert caught.value.__cause__ is None

    def test_netrc_never_replaces_the_token(
        self, project: Project, clock: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Credentials of the machine's owner are not sent in place of the user's token."""
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login owner password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        project.replies[USER_PATH] = Reply(body={"id": str(USER)})

        verifier(project, clock, publishable_key=PUBLISHABLE_KEY).verify(signed_hs256(claims_of(project)))

        assert project.asked[0][1]["Authorization"].startswith("Bearer ")

    def test_cookies_never_kept(self, project: Project, clock: Time) -> None:
        """Nothing of one user's answer is sent with the next one's question."""
        project.replies[USER_PATH] = Reply(body={"id": str(USER)}, headers={"Set-Cookie": "user=one; Path=/"})
        verify = verifier(project, clock, publishable_key=PUBLISHABLE_KEY)

        for _ in range(2):
            verify.verify(signed_hs256(claims_of(project)))

        assert ["Cookie" in headers for _, headers in project.asked] == [False, False]


def at(seconds: float) -> float:
    """Return the NumericDate that lies so many seconds after the test's now."""
    return NOW.timestamp() + seconds


class TestClaims:
    """What a well-signed token must say."""

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"exp": ...}, "time"),
            ({"exp": None}, "time"),
            ({"exp": str(at(60))}, "time"),
            ({"exp": True}, "time"),
            ({"exp": -1}, "time"),
            ({"exp": 10**400}, "time"),
            ({"exp": float("inf")}, "time"),
            ({"exp": float("nan")}, "time"),
            ({"exp": at(-10)}, "expired"),
            ({"exp": 0}, "expired"),
            ({"nbf": at(10.5)}, "not yet valid"),
            ({"nbf": "soon"}, "time"),
            ({"nbf": None}, "time"),
            ({"iat": at(10.5)}, "not yet valid"),
            ({"iat": [1]}, "time"),
            ({"aud": ...}, "audience"),
            ({"aud": "anon"}, "audience"),
            ({"aud": "authenticated2"}, "audience"),
            ({"aud": "Authenticated"}, "audience"),
            ({"aud": []}, "audience"),
            ({"aud": ["anon", ["authenticated"]]}, "audience"),
            ({"aud": {"authenticated": True}}, "audience"),
            ({"iss": ...}, "issuer"),
            ({"iss": "https://elsewhere.example/auth/v1"}, "issuer"),
            ({"role": ...}, "role"),
            ({"role": "service_role"}, "role"),
            ({"role": "anon"}, "role"),
            ({"role": ["authenticated"]}, "role"),
            ({"sub": ...}, "subject"),
            ({"sub": ""}, "subject"),
            ({"sub": "me"}, "subject"),
            ({"sub": str(USER).upper()}, "subject"),
            ({"sub": f"{{{USER}}}"}, "subject"),
            ({"sub": USER.urn}, "subject"),
            ({"sub": USER.hex}, "subject"),
            ({"sub": f"{USER}\n"}, "subject"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_wrong_claim_refused(self, project: Project, clock: Time, changes: dict[str, Any], reason: str) -> None:
        """Each claim is required to be there, of its type, and right (RFC 7519, section 4.1)."""
        verify = verifier(project, clock, jwt_secret=SECRET)

        assert refusal(verify, signed_hs256(claims_of(project, **changes))) == reason
        assert refusal(verify, signed(claims_of(project, **changes))) == reason

    @pytest.mark.parametrize(
        "changes",
        [
            {"exp": at(-9.5)},
            {"exp": at(0.5), "iat": ...},
            {"nbf": at(10)},
            {"iat": at(10)},
            {"aud": ["other", "authenticated"]},
            {"is_anonymous": True},
            {"jti": 7, "custom": {"nested": [1, None]}},
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_right_claims_accepted(self, project: Project, clock: Time, changes: dict[str, Any]) -> None:
        """Ten seconds of clock difference, lists of audiences, anonymous users and claims unknown here are fine."""
        assert verifier(project, clock).verify(signed(claims_of(project, **changes))) == USER

    def test_sub_that_is_a_number_refused(self, project: Project, clock: Time) -> None:
        """A subject of another type is no user's id."""
        token = forged({"alg": "HS256"}, claims_of(project, sub=7), SECRET.encode())

        assert refusal(verifier(project, clock, jwt_secret=SECRET), token) == "subject"

    def test_token_expires_while_the_verifier_lives(self, project: Project, clock: Time) -> None:
        """A token that was good once is looked at anew each time."""
        verify = verifier(project, clock, leeway=timedelta())
        token = signed(claims_of(project))
        verify.verify(token)

        clock.advance(seconds=3600)

        assert refusal(verify, token) == "expired"

    def test_configured_issuer_replaces_the_default(self, project: Project, clock: Time) -> None:
        """A project behind its own domain names its issuer, and then no other."""
        verify = verifier(project, clock, issuer="https://auth.example.com/auth/v1")

        assert verify.verify(signed(claims_of(project, iss="https://auth.example.com/auth/v1"))) == USER
        assert refusal(verify, signed(claims_of(project))) == "issuer"

    def test_several_issuers_work_side_by_side(self, project: Project, clock: Time) -> None:
        """Auth that is asked at an inner address and issues under a public one: both are named, and no third."""
        public = "https://auth.example.com/auth/v1"
        verify = verifier(project, clock, issuer=(project.issuer, public))

        assert verify.verify(signed(claims_of(project))) == USER
        assert verify.verify(signed(claims_of(project, iss=public))) == USER
        assert refusal(verify, signed(claims_of(project, iss="https://elsewhere.example/auth/v1"))) == "issuer"
        listed = forged({"alg": "HS256"}, claims_of(project, iss=[public]), SECRET.encode())
        assert refusal(verify, listed) == "issuer"
        assert refusal(verify, signed(claims_of(project, iss=...))) == "issuer"

    @pytest.mark.parametrize(
        ("options", "claims", "reason"),
        [
            ({"required_aal": "aal2"}, {"aal": "aal2"}, None),
            ({"required_aal": "aal2"}, {"aal": "aal3"}, None),
            ({"required_aal": "aal1"}, {"aal": "aal1"}, None),
            ({"required_aal": "aal2"}, {"aal": "aal1"}, "assurance level"),
            ({"required_aal": "aal1"}, {}, "assurance level"),
            ({"required_aal": "aal2"}, {"aal": ["aal2"]}, "assurance level"),
            ({"required_aal": "aal2"}, {"aal": "AAL2"}, "assurance level"),
            ({"accepted_roles": ("authenticated", "coach")}, {"role": "coach"}, None),
            ({"accepted_roles": ("coach",)}, {}, "role"),
            ({"accepted_roles": ("coach",)}, {"role": ["coach"]}, "role"),
            ({"allow_anonymous": False}, {}, None),
            ({"allow_anonymous": False}, {"is_anonymous": False}, None),
            ({"allow_anonymous": False}, {"is_anonymous": True}, "anonymous"),
            ({"allow_anonymous": False}, {"is_anonymous": "false"}, "anonymous"),
            ({"allow_anonymous": False}, {"is_anonymous": None}, "anonymous"),
        ],
    )
    def test_options_say_whose_tokens_count(
        self, project: Project, clock: Time, options: dict[str, Any], claims: dict[str, Any], reason: str | None
    ) -> None:
        """Assurance level, roles and anonymous users are as the project wants them; what can't be read is refused."""
        verify, token = verifier(project, clock, **options), signed(claims_of(project, **claims))

        if reason is None:
            assert verify.verify(token) == USER
        else:
            assert refusal(verify, token) == reason

    @pytest.mark.parametrize(
        "options",
        [
            {"issuer": ()},
            {"accepted_roles": ()},
            {"accepted_roles": ("authenticated", "service_role")},
            {"accepted_roles": ("anon",)},
            {"required_aal": "aal4"},
            {"required_aal": ""},
        ],
        ids=str,
    )
    def test_options_that_make_no_sense_refused(self, project: Project, clock: Time, options: dict[str, Any]) -> None:
        """A verifier that would accept no user, or an API key, is not made."""
        with pytest.raises(ValueError, match=r"must be|API keys"):
            verifier(project, clock, **options)

    def test_slash_after_the_address_changes_nothing(self, project: Project, clock: Time) -> None:
        """An address is the same with and without its last slash."""
        verify = TokenVerifier(f"{project.url}/", clock=clock)

        assert verify.verify(signed(claims_of(project))) == USER

    def test_real_clock_used_by_default(self, project: Project) -> None:
        """Without a clock, the machine's own decides."""
        verify = TokenVerifier(project.url, jwt_secret=SECRET)
        now = int(datetime.now(UTC).timestamp())

        assert verify.verify(signed_hs256(claims_of(project, iat=now, exp=now + 60))) == USER
        assert refusal(verify, signed_hs256(claims_of(project, iat=now - 60, exp=now - 11))) == "expired"

    @pytest.mark.parametrize("name", ["sub", "exp", "role", "custom"])
    def test_duplicate_claim_refused(self, project: Project, clock: Time, name: str) -> None:
        """A claim that is there twice means two things, so it means nothing (RFC 7519, section 4)."""
        claims = claims_of(project, custom="x")
        text = json.dumps(claims)[:-1] + f", {json.dumps(name)}: {json.dumps(claims[name])}}}"
        token = forged({"alg": "HS256"}, text.encode(), SECRET.encode())

        assert refusal(verifier(project, clock, jwt_secret=SECRET), token) == "malformed"


class TestForm:
    """What does not even look like a token."""

    @pytest.mark.parametrize(
        "token",
        [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            "a.b.c.d.e",
            "Bearer x.y.z",
            "é.é.é",
            "x.y.z\n",
            "x y.z.w",
            "x" * 65_536,
            "x." * 32_768,
            f"{segment(b'{}')}.{segment(b'{}')}.",
        ],
        ids=lambda token: token[:12] or "empty",
    )
    def test_text_that_is_no_token_refused(self, project: Project, clock: Time, token: str) -> None:
        """Anything but three base64url segments of a decent length is refused unread."""
        assert refusal(verifier(project, clock, jwt_secret=SECRET), token) == "malformed"

    @pytest.mark.parametrize(
        "header",
        [b"", b"x", b"[]", b'"HS256"', b"null", b"7", b"\xff\xfe", b"[" * 2000, b'{"alg":' + b"9" * 5000 + b"}"],
        ids=lambda header: repr(header[:10]),
    )
    def test_header_that_is_no_object_refused(self, project: Project, clock: Time, header: bytes) -> None:
        """A header must be a JSON object (RFC 7515, section 4)."""
        token = forged(header, claims_of(project), SECRET.encode())

        assert refusal(verifier(project, clock, jwt_secret=SECRET), token) == "malformed"

    @pytest.mark.parametrize(
        "claims",
        [b"", b"x", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 2000, b'{"exp":' + b"9" * 5000 + b"}"],
        ids=lambda claims: repr(claims[:10]),
    )
    def test_claims_that_are_no_object_refused(self, project: Project, clock: Time, claims: bytes) -> None:
        """Claims must be a JSON object (RFC 7519, section 3)."""
        token = forged({"alg": "HS256"}, claims, SECRET.encode())

        assert refusal(verifier(project, clock, jwt_secret=SECRET), token) == "malformed"

    @pytest.mark.parametrize(
        "alg", ["none", "None", "NONE", "", None, ["HS256"], {"HS256": 1}, 7, "hs256", "ES256 ", "ES384"], ids=repr
    )
    @pytest.mark.parametrize("signature", ["", "AAAA"], ids=["unsigned", "signed"])
    def test_algorithm_out_of_use_refused(self, project: Project, clock: Time, alg: object, signature: str) -> None:
        """``none`` and anything unknown are refused, signed or not (RFC 8725, section 3.2)."""
        head, body, _ = forged({"alg": alg, "kid": "ec-1"}, claims_of(project)).split(".")
        verify = verifier(project, clock, jwt_secret=SECRET, publishable_key=PUBLISHABLE_KEY)

        assert refusal(verify, f"{head}.{body}.{signature}") in {"malformed", "algorithm"}
        assert project.asked == []

    @pytest.mark.parametrize(
        "member",
        [
            {"crit": ["exp"]},
            {"crit": []},
            {"crit": ["b64"], "b64": True},
            {"b64": False},
            {"kid": 7},
            {"kid": None},
            {"kid": ["ec-1"]},
            {"kid": "k" * 257},
        ],
        ids=lambda member: str(member)[:30],
    )
    def test_unacceptable_header_refused(self, project: Project, clock: Time, member: dict[str, Any]) -> None:
        """Demands that can't be met, and key ids that are none, refuse the token (RFC 7515, section 4.1.11)."""
        token = forged({"alg": "HS256", **member}, claims_of(project), SECRET.encode())

        assert refusal(verifier(project, clock, jwt_secret=SECRET), token) in {"malformed", "header"}

    def test_longest_token_accepted_one_longer_refused(self, project: Project, clock: Time) -> None:
        """Eight KiB are enough for any user's token, and a limit."""
        verify = verifier(project, clock, jwt_secret=SECRET)

        def of_length(length: int) -> str:
            candidates = (signed_hs256(claims_of(project, pad="x" * n)) for n in range(5_500, 6_200))
            return next(token for token in candidates if len(token) >= length)

        assert verify.verify(of_length(8_190)) == USER
        assert refusal(verify, of_length(8_193)) == "malformed"

    def test_padded_segment_refused(self, project: Project, clock: Time) -> None:
        """There is one spelling of a token: base64url without padding (RFC 7515, section 2)."""
        token = signed_hs256(claims_of(project))

        assert refusal(verifier(project, clock, jwt_secret=SECRET), f"{token}=") == "malformed"


def bad_tokens(project: Project) -> list[str]:
    """Return one token for each of several stages at which it fails."""
    return [
        f"{segment(b'{broken')}.{segment(b'{}')}.AAAA",
        forged({"alg": "HS256"}, b'{"sub": "broken', SECRET.encode()),
        signed_hs256(claims_of(project, exp=1)),
        signed_hs256(claims_of(project, sub="no-one-in-particular")),
        signed_hs256(claims_of(project), OTHER_SECRET),
        signed(claims_of(project), kid="ec-stranger"),
    ]


class TestSilence:
    """What errors, logs and reprs keep to themselves."""

    def test_refusals_read_alike(self, project: Project, clock: Time) -> None:
        """No user learns from the message which check failed."""
        verify = verifier(project, clock, jwt_secret=SECRET)
        messages = set()

        for token in bad_tokens(project):
            with pytest.raises(Unauthenticated) as caught:
                verify.verify(token)
            messages.add(str(caught.value))

        assert messages == {"A valid access token is needed: Authorization: Bearer <token>."}

    @pytest.mark.parametrize("outage", [False, True])
    def test_tokens_and_secrets_never_shown(
        self, project: Project, clock: Time, outage: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No traceback, no chained error and no log line holds a part of a token, its content or a secret."""
        caplog.set_level(logging.DEBUG)
        project.replies = {USER_PATH: Reply(500 if outage else 403, {"code": "bad_jwt"}), JWKS_PATH: Reply(500)}

        for options in ({"jwt_secret": SECRET}, {"publishable_key": PUBLISHABLE_KEY}):
            for token in bad_tokens(project):
                with pytest.raises((Unauthenticated, AuthUnavailable)) as caught:
                    verifier(project, clock, **options).verify(token)
                error = caught.value
                reported = "".join(traceback.format_exception(error)) + repr(vars(error)) + caplog.text

                assert not any(part in reported for part in [*token.split("."), SECRET, "broken", "no-one-in"])
                assert error.__cause__ is None
                assert error.__suppress_context__ or error.__context__ is None

    def test_repr_shows_no_secret(self, project: Project, clock: Time) -> None:
        """A verifier in a log line is named by its issuer alone."""
        verify = verifier(project, clock, jwt_secret=SECRET, publishable_key=PUBLISHABLE_KEY)

        assert repr(verify) == f"TokenVerifier(issuer='{project.issuer}')"

    @pytest.mark.parametrize("error", [Unauthenticated("expired"), AuthUnavailable("HTTP 502")])
    def test_errors_pickle_with_their_reason(self, error: Unauthenticated | AuthUnavailable) -> None:
        """An error crosses processes whole."""
        copy = pickle.loads(pickle.dumps(error))

        assert (type(copy), str(copy), copy.reason) == (type(error), str(error), error.reason)

    def test_verifier_is_safe_between_threads(self, project: Project, clock: Time) -> None:
        """Many threads on one cold verifier all get their user, for one fetch."""
        verify = verifier(project, clock)
        tokens = [signed(claims_of(project), alg=alg) for alg in ("ES256", "RS256", "EdDSA") * 20]

        with ThreadPoolExecutor(16) as threads:
            users = set(threads.map(verify.verify, tokens))

        assert users == {USER}
        assert project.count() == 1
