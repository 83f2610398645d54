"""Verifies a Supabase access token and names its user.

It exists so that one place decides who is asking, by RFC 7519 (claims), RFC 7517 (keys) and RFC 8725 (what goes wrong
with both). What a user may do, HTTP statuses and reading settings don't belong here.

PyJWT does the cryptography. Its ``PyJWKClient`` is not used: it reads answers of any length, lets readers of known keys
wait for a fetch, and asks a failing server once per token.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.cookiejar import DefaultCookiePolicy
from logging import WARNING
from threading import Event, Lock
from typing import Any, Final
from uuid import UUID

import jwt
import requests

from ai_retry.clock import SystemClock
from ai_retry.deadline import Deadline, DeadlineAdapter, bounded_by
from ai_retry.domain.errors import AuthUnavailable, Unauthenticated
from ai_retry.domain.ports import Clock
from ai_retry.logs import write_line

__all__ = ["AuthUnavailable", "TokenVerifier", "Unauthenticated"]

_AUTHENTICATED: Final = "authenticated"
_KEYS: Final = ("anon", "service_role")  # roles of API keys
_LEVELS: Final = ("aal1", "aal2", "aal3")  # what an ``aal`` claim may be, ascending
_ALGORITHMS: Final = {("EC", "P-256"): "ES256", ("RSA", None): "RS256", ("OKP", "Ed25519"): "EdDSA"}
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
_MAX_TOKEN, _MAX_KID, _MAX_BODY, _MIN_SECRET = 8 * 1024, 256, 64 * 1024, 32
_IDLE_CONNECTIONS: Final = 10  # kept; more may be in use
_YEAR_10000: Final = 253_402_300_800
_JWS: Final = jwt.PyJWS(options={"verify_signature": False})


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, taken apart; nothing of it is verified."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


class _Key:
    """A key that was read once, and fixes the algorithm of what it signs.

    Raises:
        jwt.PyJWTError: it is no key of this algorithm.
    """

    def __init__(self, key: Any, algorithm: str) -> None:
        self.algorithm: Final = algorithm
        self._verifier = _JWS.get_algorithm_by_name(algorithm)
        self._key = self._verifier.prepare_key(key)
        self._is_too_short = self._verifier.check_key_length(self._key) is not None

    def has_signed(self, token: _Token) -> bool:
        """Whether this key, by this algorithm, has signed a token; the token's own ``alg`` must agree.

        A key that is shorter than RFC 7518 allows proves nothing.
        """
        if self._is_too_short or token.header.get("alg") != self.algorithm:
            return False
        return self._verifier.verify(token.signed, self._key, token.signature)


class _AuthServer:
    """The two questions that are put to Supabase Auth, each under one deadline."""

    def __init__(self, url: str, *, api_key: str | None, timeout: timedelta, clock: Clock) -> None:
        self._url, self._api_key, self._timeout, self._clock = url, api_key, timeout, clock
        self._session = _session()

    def keys(self) -> dict[str, _Key]:
        """Fetch the project's usable keys by ``kid``."""
        status, answer = self._get(".well-known/jwks.json", {})
        keys = answer.get("keys")
        if status != requests.codes.ok or not isinstance(keys, list):
            raise AuthUnavailable(f"HTTP {status}")
        return {jwk["kid"]: key for jwk in keys if (key := _public_key(jwk)) is not None}

    def user_of(self, token: str) -> UUID:
        """Ask whose token it is.

        Auth's own refusals carry a code. A gateway's, such as that of a wrong API key, don't, and say nothing about
        the token.
        """
        if self._api_key is None:
            raise Unauthenticated("algorithm")
        status, answer = self._get("user", {"Authorization": f"Bearer {token}", "apikey": self._api_key})
        if status in {401, 403, 404} and not answer.keys().isdisjoint({"code", "error_code"}):
            raise Unauthenticated("refused by Auth")
        if status != requests.codes.ok or "id" not in answer:
            raise AuthUnavailable(f"HTTP {status}")
        return _uuid(answer["id"])

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object that came with it, an empty one for anything else.

        Without ``auth`` requests would put the credentials of a ``.netrc`` over the bearer token.
        """
        body = b""
        try:
            with (
                bounded_by(Deadline(self._clock, self._timeout.total_seconds())),
                self._session.get(
                    f"{self._url}/{path}",
                    headers=headers,
                    auth=lambda request: request,
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                for chunk in response.iter_content(_MAX_BODY + 1):
                    body += chunk
                    if len(body) > _MAX_BODY:
                        raise AuthUnavailable("answer too long")
        except (OSError, ValueError) as error:  # every error of requests is an OSError; an unusable proxy a ValueError
            raise AuthUnavailable(type(error).__name__) from None
        try:
            return response.status_code, _json_object(body)
        except ValueError:
            return response.status_code, {}


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the keys; replaced as a whole, so that readers need no lock."""

    keys: Mapping[str, _Key] = field(default_factory=dict)
    fetched_at: float = -math.inf
    tried_at: float = -math.inf
    """Differs from ``fetched_at`` while the latest try has not succeeded."""


class JwksCache:
    """The project's public keys by ``kid``.

    Fetched when older than ``ttl`` or when a ``kid`` is unknown, but at most once per ``min_interval``, failures
    included: a flood of invented ids costs one request. One thread fetches; a reader of a known key never waits for it,
    and a reader of an unknown key takes its outcome, so that no reader waits longer than one fetch may take.
    Keys outlive failing fetches until ``max_age``; a removed key is refused after the first good fetch past ``ttl``.
    """

    def __init__(
        self,
        fetch: Callable[[], Mapping[str, _Key]],
        *,
        ttl: timedelta,
        min_interval: timedelta,
        max_age: timedelta,
        patience: timedelta,
        monotonic: Callable[[], float],
    ) -> None:
        """Take how to fetch, and for how long a reader of an unknown key waits for another's fetch."""
        self._fetch, self._monotonic = fetch, monotonic
        self._ttl, self._min_interval = ttl.total_seconds(), min_interval.total_seconds()
        self._max_age, self._patience = max_age.total_seconds(), patience.total_seconds()
        self._known = _Known()
        self._fetching: Event | None = None  # set at the end of the fetch that is under way
        self._lock = Lock()  # of the two above; held for no longer than it takes to look at them

    def key(self, kid: str) -> _Key | None:
        """Find a key; None when the project has no such key.

        Raises:
            AuthUnavailable: the key is not known, and the latest try to fetch the keys has not succeeded.
        """
        key, age = self._look_up(kid)
        if key is None or age >= self._ttl:
            self._refresh(patience=self._patience if key is None else 0)
            key, _ = self._look_up(kid)
        known = self._known
        if key is None and known.tried_at != known.fetched_at:
            raise AuthUnavailable("no keys")
        return key

    def _look_up(self, kid: str) -> tuple[_Key | None, float]:
        known = self._known
        age = self._monotonic() - known.fetched_at
        return (known.keys.get(kid) if age < self._max_age else None), age

    def _refresh(self, patience: float) -> None:
        """Fetch the keys if that is due, or wait for the fetch that is under way.

        One that goes on for too long has no thread: it was under way when this process was forked.
        """
        with self._lock:
            fetching, now = self._fetching, self._monotonic()
            since = now - self._known.tried_at
            if fetching is None and since < self._min_interval:
                return
            is_mine = fetching is None or since >= max(self._min_interval, 2 * self._patience)
            if is_mine:
                fetching = self._fetching = Event()
                self._known = replace(self._known, tried_at=now)
        assert fetching is not None  # noqa: S101 (else it is ours, and made)
        if is_mine:
            self._fetch_as_of(now, fetching)
        else:
            fetching.wait(patience)

    def _fetch_as_of(self, now: float, fetching: Event) -> None:
        known = self._known
        try:
            known = _Known(self._fetch(), fetched_at=now, tried_at=now)
        except AuthUnavailable as error:
            write_line(WARNING, "signing_keys_failed", reason=error.reason)
        finally:
            with self._lock:
                if self._fetching is fetching:
                    self._known, self._fetching = known, None
            fetching.set()


@dataclass(frozen=True, slots=True)
class _Accepted:
    """What a project's tokens may say of where they come from and of their user."""

    issuers: tuple[str, ...]
    roles: tuple[str, ...]
    required_aal: str | None
    anonymous: bool

    def __post_init__(self) -> None:
        """Refuse settings that would accept no user, or by mistake every user."""
        if not self.issuers or not self.roles:
            raise ValueError("at least one issuer and one role must be accepted")
        if not set(self.roles).isdisjoint(_KEYS):
            raise ValueError(f"{' and '.join(_KEYS)} are roles of API keys, and no user's")
        if self.required_aal not in (None, *_LEVELS):
            raise ValueError(f"required_aal must be one of {', '.join(_LEVELS)}, or None")

    def check(self, claims: Mapping[str, Any], *, issuer_required: bool) -> None:
        if ("iss" in claims or issuer_required) and claims.get("iss") not in self.issuers:
            raise Unauthenticated("issuer")
        if claims.get("role") not in self.roles:
            raise Unauthenticated("role")
        if self.required_aal is not None and claims.get("aal") not in _LEVELS[_LEVELS.index(self.required_aal) :]:
            raise Unauthenticated("assurance level")
        if not self.anonymous and claims.get("is_anonymous", False) is not False:
            raise Unauthenticated("anonymous")


class TokenVerifier:
    """Returns the user that an access token belongs to, or refuses it. Safe to share between threads.

    ES256, RS256 and EdDSA are verified by the project's published keys; the key fixes the algorithm, never the token
    (RFC 8725, sections 2.1 and 3.1). HS256 is verified by ``jwt_secret`` where one is given; otherwise Auth is asked,
    once per call; without a ``publishable_key`` to ask with it is refused.

    A token verified here stays good until it expires, though its user signed out; Auth, when asked, knows better.
    Remove ``jwt_secret`` when the project revokes its legacy secret: this class can't know of it.
    """

    def __init__(
        self,
        supabase_url: str,
        *,
        jwt_secret: str | None = None,
        publishable_key: str | None = None,
        issuer: str | Collection[str] | None = None,
        require_issuer: bool = True,
        accepted_roles: Collection[str] = (_AUTHENTICATED,),
        required_aal: str | None = None,
        allow_anonymous: bool = True,
        leeway: timedelta = timedelta(seconds=10),
        jwks_ttl: timedelta = timedelta(minutes=10),
        jwks_min_interval: timedelta = timedelta(seconds=30),
        jwks_max_age: timedelta = timedelta(hours=24),
        timeout: timedelta = timedelta(seconds=5),
        clock: Clock | None = None,
    ) -> None:
        """Connect nothing yet; the first token that needs it does.

        Args:
            supabase_url: the project's address, without a path.
            jwt_secret: the project's HS256 secret, as text.
            publishable_key: the API key that Auth's gateway wants; not a secret.
            issuer: what ``iss`` must equal, or several, one of which it must equal: where Auth is asked at an inner
                address, and issues tokens under a public one. ``{supabase_url}/auth/v1`` when None.
            require_issuer: False lets an HS256 token come without ``iss``, as Supabase Lite's do; one that has it is
                still compared. Little is lost: the shared secret, or Auth's word, binds such a token to the project.
            accepted_roles: what ``role`` may be, where a hook of the project gives users roles of their own.
            required_aal: ``aal2`` refuses who has not signed in with a second factor, as a restrictive policy of the
                project would; None: any level.
            allow_anonymous: False refuses users who signed in anonymously.
            leeway: by how much this machine's clock may differ from Auth's.
            jwks_ttl: see ``JwksCache``, like the next two.
            jwks_min_interval: see above.
            jwks_max_age: see above.
            timeout: for a whole question to Auth: name lookup, connection, TLS, headers and body. A thread that waits
                for the keys that another one fetches waits no longer either.
            clock: this machine's when None.

        Raises:
            ValueError: the address is not HTTP, the secret is shorter than RFC 7518, section 3.2 allows, no issuer or
                no role is given, or there is no such level.
        """
        if not supabase_url.startswith(("https://", "http://")):
            raise ValueError("supabase_url must start with https:// or http://")
        url = f"{supabase_url.rstrip('/')}/auth/v1"
        self._asks_auth = jwt_secret is None
        self._secret = _secret_key(jwt_secret) if jwt_secret is not None else None
        self._require_issuer = require_issuer
        self._accepted = _Accepted(
            issuers=(issuer or url,) if issuer is None or isinstance(issuer, str) else tuple(issuer),
            roles=tuple(accepted_roles),
            required_aal=required_aal,
            anonymous=allow_anonymous,
        )
        self._leeway, self._clock = leeway.total_seconds(), clock or SystemClock()
        self._server = _AuthServer(url, api_key=publishable_key, timeout=timeout, clock=self._clock)
        self._jwks = JwksCache(
            self._server.keys,
            ttl=jwks_ttl,
            min_interval=jwks_min_interval,
            max_age=jwks_max_age,
            patience=timeout,
            monotonic=self._clock.monotonic,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(issuer={', '.join(self._accepted.issuers)!r})"

    def verify(self, token: str) -> UUID:
        """Return the id of the user whose valid access token this is, anonymous users included.

        Claims are checked first: a token that fails them costs no request.

        Raises:
            Unauthenticated: anything is wrong with the token.
            AuthUnavailable: it could not be found out.
        """
        parsed = _parse(token)
        algorithm, kid = parsed.header.get("alg"), parsed.header.get("kid")
        symmetric = algorithm == "HS256"
        user_id = self._user_of(parsed.claims, issuer_required=self._require_issuer or not symmetric)
        if symmetric and self._asks_auth:
            if self._server.user_of(token) != user_id:
                raise Unauthenticated("subject")
        elif symmetric:
            _check_signature(parsed, self._secret)
        elif algorithm in _ALGORITHMS.values() and kid is not None:
            key = self._jwks.key(kid)
            if key is None:
                raise Unauthenticated("unknown key")
            _check_signature(parsed, key)
        else:
            raise Unauthenticated("algorithm")
        return user_id

    def _user_of(self, claims: dict[str, Any], *, issuer_required: bool) -> UUID:
        """Check the claims (RFC 7519, section 4.1) and return the subject."""
        now = self._clock.now().timestamp()
        if now >= _instant(claims.get("exp")) + self._leeway:
            raise Unauthenticated("expired")
        if any(_instant(claims[name]) > now + self._leeway for name in ("nbf", "iat") if name in claims):
            raise Unauthenticated("not yet valid")
        audience = claims.get("aud")
        if _AUTHENTICATED not in (audience if isinstance(audience, list) else [audience]):
            raise Unauthenticated("audience")
        self._accepted.check(claims, issuer_required=issuer_required)
        return _uuid(claims.get("sub"))


def _parse(token: str) -> _Token:
    """Take a token apart. Unknown headers are ignored, ``crit`` is refused."""
    if len(token) > _MAX_TOKEN or _COMPACT.fullmatch(token) is None:
        raise Unauthenticated("malformed")
    try:
        unverified = _JWS.decode_complete(token)
        header, claims = unverified["header"], _json_object(unverified["payload"])
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unauthenticated("malformed") from None
    kid = header.get("kid", "")
    if "crit" in header or not isinstance(kid, str) or len(kid) > _MAX_KID:
        raise Unauthenticated("header")
    return _Token(header, claims, token.rpartition(".")[0].encode(), unverified["signature"])


def _check_signature(token: _Token, key: _Key | None) -> None:
    """Refuse a token that this key did not sign."""
    if key is None or not key.has_signed(token):
        raise Unauthenticated("signature")


def _secret_key(secret: str) -> _Key | None:
    """Read the project's secret; None for a public key or a certificate, which would verify what any user signs."""
    if len(secret.encode()) < _MIN_SECRET:
        raise ValueError(f"jwt_secret must have at least {_MIN_SECRET} bytes")
    try:
        return _Key(secret, "HS256")
    except jwt.PyJWTError:
        return None


def _public_key(jwk: Any) -> _Key | None:
    """Return the key if it may verify tokens (RFC 7517, section 4): public, asymmetric, of a known algorithm."""
    try:
        algorithm = _ALGORITHMS[jwk["kty"], jwk.get("crv")]
        fits = jwk.get("alg", algorithm) == algorithm and isinstance(jwk["kid"], str)
        verifies = jwk.get("use", "sig") == "sig" and "verify" in jwk.get("key_ops", ["verify"])
        return _Key(jwt.PyJWK(jwk, algorithm).key, algorithm) if fits and verifies and "d" not in jwk else None
    except (AttributeError, KeyError, TypeError, ValueError, jwt.PyJWTError):
        return None


def _json_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: it is none, or it names a member twice: RFC 7519, section 4 lets a parser refuse that, and parsers
            that choose differently see different users.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise ValueError("duplicate member")
        return members

    try:
        value = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(value, dict):
        return value
    raise ValueError("not an object")


def _instant(value: Any) -> float:
    """Return a NumericDate (RFC 7519, section 2), in seconds since the epoch."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _YEAR_10000:
        return value
    raise Unauthenticated("time")


def _uuid(value: Any) -> UUID:
    """Return a UUID that is written the canonical way."""
    try:
        parsed = UUID(value)
    except (AttributeError, TypeError, ValueError):
        raise Unauthenticated("subject") from None
    if str(parsed) != value:
        raise Unauthenticated("subject")
    return parsed


def _session() -> requests.Session:
    """Return a session that keeps the deadline, and in which no user's answer leaves anything for the next request."""
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("https://", "http://"):
        session.mount(scheme, DeadlineAdapter(pool_size=_IDLE_CONNECTIONS))
    return session
