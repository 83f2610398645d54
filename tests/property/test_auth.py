"""Whatever is sent as a token, ``TokenVerifier`` answers with its user or with ``Unauthenticated``, nothing else."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import jwt
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ai_retry.auth import TokenVerifier, Unauthenticated
from tests.unit.test_auth import (
    OTHER_SECRET,
    SECRET,
    SIGNER,
    USER,
    Project,
    Time,
    claims_of,
    forged,
    private_key,
    public_jwk,
    segment,
    serve,
    signed,
    signed_hs256,
    verifier,
)

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALGORITHMS = ["HS256", "ES256", "RS256", "EdDSA"]

algorithms = st.sampled_from(ALGORITHMS)
characters = st.one_of(st.sampled_from("ABCXYZabcxyz0189-_.=+/ \n"), st.characters())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from([*ALGORITHMS, "none", "HS512", "PS256"]) | json_values,
        "kid": st.sampled_from([*SIGNER.values(), "unknown"]) | json_values,
        "typ": json_values,
        "jku": json_values,
        "jwk": json_values,
        "crit": json_values,
        "b64": json_values,
    },
)
claim_names = st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "role", "sub", "jti", "is_anonymous", "x"])
claim_changes = st.dictionaries(claim_names, json_values, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """Give one project that publishes a key of each kind, for all examples."""
    for running in serve():
        running.publish(*(public_jwk(name) for name in SIGNER.values()))
        yield running


@pytest.fixture(scope="module")
def verify(project: Project) -> TokenVerifier:
    """Give one verifier that accepts every algorithm, on a clock that is still."""
    return verifier(project, Time(), jwt_secret=SECRET)


def token_of(project: Project, algorithm: str, **changes: Any) -> str:
    """Return a token that is well signed by the given algorithm."""
    claims = claims_of(project, **changes)
    return signed_hs256(claims) if algorithm == "HS256" else signed(claims, alg=algorithm)


def refused(verify: TokenVerifier, token: str) -> None:
    """Expect a refusal and no other error."""
    with pytest.raises(Unauthenticated):
        verify.verify(token)


@PATIENT
@given(algorithm=algorithms, place=st.integers(0, 2**16), character=characters)
def test_changed_character_refused(
    project: Project, verify: TokenVerifier, algorithm: str, place: int, character: str
) -> None:
    """No character of a token, in any segment, can be another one."""
    token = token_of(project, algorithm)
    place %= len(token)
    assume(token[place] != character)

    refused(verify, token[:place] + character + token[place + 1 :])


@PATIENT
@given(algorithm=algorithms, start=st.integers(0, 2**16), length=st.integers(1, 40), insert=st.text(max_size=8))
def test_changed_length_refused(
    project: Project, verify: TokenVerifier, algorithm: str, start: int, length: int, insert: str
) -> None:
    """Nothing can be cut out of a token or put into it."""
    token = token_of(project, algorithm)
    start %= len(token)
    changed = token[:start] + insert + token[start + length :]
    assume(changed != token)

    refused(verify, changed)


@PATIENT
@given(first=algorithms, second=algorithms, taken=st.integers(0, 2))
def test_exchanged_segment_refused(
    project: Project, verify: TokenVerifier, first: str, second: str, taken: int
) -> None:
    """A segment of one good token does not fit into another."""
    parts = token_of(project, first).split(".")
    other = token_of(project, second, sub="7a9cbf7e-54d4-4d3f-8a0c-6d1f3a2b5c7d").split(".")
    assume(parts[taken] != other[taken])
    parts[taken] = other[taken]

    refused(verify, ".".join(parts))


@PATIENT
@given(token=st.text() | st.from_regex(r"[A-Za-z0-9_-]{1,60}(\.[A-Za-z0-9_-]{0,60}){1,3}", fullmatch=True))
@example("\ud800.\ud800.\ud800")
@example("e30.e30.AA")
def test_arbitrary_text_refused(verify: TokenVerifier, token: str) -> None:
    """Text that is not signed is refused."""
    refused(verify, token)


@PATIENT
@given(header=st.binary(max_size=60), claims=st.binary(max_size=60))
def test_arbitrary_bytes_refused(verify: TokenVerifier, header: bytes, claims: bytes) -> None:
    """Segments that hold anything at all are refused, even signed with the secret."""
    refused(verify, forged(header, claims, SECRET.encode()))


@PATIENT
@given(header=headers, changes=st.just({}) | claim_changes)
def test_arbitrary_header_by_another_key_refused(
    project: Project, verify: TokenVerifier, header: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Without the project's keys no header makes a token good, whatever the claims."""
    claims = claims_of(project) | changes

    refused(verify, forged(header, claims, OTHER_SECRET.encode()))


@PATIENT
@given(algorithm=st.sampled_from(list(SIGNER)), header=headers, changes=st.just({}) | claim_changes)
def test_arbitrary_claims_by_another_key_refused(
    project: Project, verify: TokenVerifier, algorithm: str, header: dict[str, Any], changes: dict[str, Any]
) -> None:
    """A stranger's well-made signature is refused under every header."""
    parts = [segment(json.dumps(part).encode()) for part in (header, claims_of(project) | changes)]
    signer = jwt.PyJWS().get_algorithm_by_name(algorithm)
    signature = signer.sign(".".join(parts).encode(), private_key(SIGNER[algorithm].replace("1", "stranger")))

    refused(verify, ".".join([*parts, segment(signature)]))


@PATIENT
@given(algorithm=algorithms, changes=claim_changes)
def test_signed_claims_name_their_subject_or_are_refused(
    project: Project, verify: TokenVerifier, algorithm: str, changes: dict[str, Any]
) -> None:
    """Whatever the project itself signs, the answer is its subject or a refusal."""
    claims = claims_of(project) | changes
    parts = [segment(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims)]
    token = forged({"alg": "HS256"}, claims, SECRET.encode())
    if algorithm != "HS256":
        parts[0] = segment(json.dumps({"alg": algorithm, "kid": SIGNER[algorithm]}).encode())
        signer = jwt.PyJWS().get_algorithm_by_name(algorithm)
        token = ".".join([*parts, segment(signer.sign(".".join(parts).encode(), private_key(SIGNER[algorithm])))])

    try:
        user_id = verify.verify(token)
    except Unauthenticated:
        return

    assert user_id == USER == UUID(claims["sub"])
