"""``TokenVerifier`` against a real Auth server: the local stack's, whose HS256 tokens carry no issuer."""

from uuid import uuid4

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ai_retry.auth import TokenVerifier, Unauthenticated
from tools.stack import SignedInUser, Stack


@pytest.fixture
def user(stack: Stack) -> SignedInUser:
    """Sign up a new user."""
    return stack.sign_up(f"{uuid4()}@example.com", "correct horse battery")


@pytest.fixture(params=["by secret", "by asking Auth"])
def verifier(stack: Stack, request: pytest.FixtureRequest) -> TokenVerifier:
    """Give a verifier of the stack's tokens, of each kind that verifies HS256."""
    if request.param == "by secret":
        return TokenVerifier(stack.url, jwt_secret=stack.jwt_secret, require_issuer=False)
    return TokenVerifier(stack.url, publishable_key=stack.publishable_key, require_issuer=False)


def claims_of(token: str) -> dict[str, object]:
    """Read a token's claims."""
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_signed_in_user_named(verifier: TokenVerifier, user: SignedInUser) -> None:
    """A token that Auth issued names the user that Auth made."""
    assert verifier.verify(user.access_token) == user.id


def test_token_of_another_secret_refused(verifier: TokenVerifier, user: SignedInUser) -> None:
    """The same claims under another signature are refused, by this library and by Auth alike."""
    forged = jwt.encode(claims_of(user.access_token), "not-the-secret-of-this-project-at-all", "HS256")

    with pytest.raises(Unauthenticated):
        verifier.verify(forged)


def test_api_keys_refused(verifier: TokenVerifier, stack: Stack) -> None:
    """No API key of the project is a user."""
    for key in (stack.secret_key, stack.publishable_key):
        with pytest.raises(Unauthenticated):
            verifier.verify(key)


def test_issuer_required_unless_configured(stack: Stack, user: SignedInUser) -> None:
    """The stack's tokens without ``iss`` need a verifier that knows; hosted projects need no such setting."""
    verifier = TokenVerifier(stack.url, jwt_secret=stack.jwt_secret)

    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(user.access_token)

    assert caught.value.reason == "issuer"


def test_second_factor_required(stack: Stack, user: SignedInUser) -> None:
    """A real token of a user with a password alone is refused; the same with a second factor in it is not."""
    verifier = TokenVerifier(stack.url, jwt_secret=stack.jwt_secret, require_issuer=False, required_aal="aal2")
    stronger = jwt.encode(claims_of(user.access_token) | {"aal": "aal2"}, stack.jwt_secret, "HS256")

    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(user.access_token)

    assert caught.value.reason == "assurance level"
    assert verifier.verify(stronger) == user.id


def test_anonymous_user_refused_where_configured_so(stack: Stack, user: SignedInUser) -> None:
    """A signed-in user passes where anonymous ones don't, by the secret and when Auth is asked."""
    anonymous = jwt.encode(claims_of(user.access_token) | {"is_anonymous": True}, stack.jwt_secret, "HS256")
    for secret in (stack.jwt_secret, None):
        verifier = TokenVerifier(
            stack.url,
            jwt_secret=secret,
            publishable_key=stack.publishable_key,
            require_issuer=False,
            allow_anonymous=False,
        )
        assert verifier.verify(user.access_token) == user.id
        with pytest.raises(Unauthenticated) as caught:
            verifier.verify(anonymous)
        assert caught.value.reason == "anonymous"


def test_own_role_of_a_user_accepted(stack: Stack, user: SignedInUser) -> None:
    """A role that a hook of the project writes is a user's where it is named, and refused elsewhere."""
    token = jwt.encode(claims_of(user.access_token) | {"role": "coach"}, stack.jwt_secret, "HS256")

    def verifier(*roles: str) -> TokenVerifier:
        return TokenVerifier(stack.url, jwt_secret=stack.jwt_secret, require_issuer=False, accepted_roles=roles)

    assert verifier("authenticated", "coach").verify(token) == user.id
    with pytest.raises(Unauthenticated):
        verifier("authenticated").verify(token)


def test_inner_and_public_issuer_accepted(stack: Stack, user: SignedInUser) -> None:
    """Auth is asked at the inner address about tokens that it issues under its public one."""
    public = "https://auth.example.com/auth/v1"
    token = jwt.encode(claims_of(user.access_token) | {"iss": public}, stack.jwt_secret, "HS256")
    inner = TokenVerifier(stack.url, publishable_key=stack.publishable_key)
    both = TokenVerifier(stack.url, publishable_key=stack.publishable_key, issuer=(f"{stack.url}/auth/v1", public))

    assert both.verify(token) == user.id
    with pytest.raises(Unauthenticated) as caught:
        inner.verify(token)
    assert caught.value.reason == "issuer"


def test_token_of_an_unpublished_key_refused(verifier: TokenVerifier, stack: Stack, user: SignedInUser) -> None:
    """The stack publishes an empty key set, which refuses every asymmetric token."""
    claims = claims_of(user.access_token) | {"iss": f"{stack.url}/auth/v1"}
    token = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", {"kid": "invented"})

    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(token)

    assert caught.value.reason == "unknown key"


def test_deleted_user_refused_when_auth_is_asked(stack: Stack, user: SignedInUser) -> None:
    """Auth knows that a user is gone before their token expires."""
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("delete from auth.users where id = %s", [user.id])

    with pytest.raises(Unauthenticated) as caught:
        TokenVerifier(stack.url, publishable_key=stack.publishable_key, require_issuer=False).verify(user.access_token)

    assert caught.value.reason == "refused by Auth"
