"""Tokens of an identity provider: what is believed of them, and where the provider's keys come from."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import orjson
import pytest
from joserfc import jwk, jwt

from service.errors import Forbidden, Unauthenticated, ValidationFailed
from service.keys import Guard, Scope
from service.oidc import Document, Verifier
from tests.live import wait_for

ISSUER = "https://login.example"
NOW = 1_900_000_000.0
KEY = jwk.ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})
OTHER = jwk.ECKey.generate_key("P-256", {"kid": "one"})
RSA = jwk.RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": "yard",
    "sub": "ann",
    "exp": NOW + 60,
    "scope": "openid modelyard:train",
}


def token(key: Any = KEY, algorithm: str = "ES256", **changed: Any) -> bytes:
    claims = {name: value for name, value in {**CLAIMS, **changed}.items() if value is not None}
    return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key, algorithms=[algorithm]).encode()


def key_set(*keys: Any) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False) for key in keys]}


@pytest.fixture
def verifier(tmp_path: Path) -> Verifier:
    file = tmp_path / "jwks.json"
    file.write_bytes(orjson.dumps(key_set(KEY, RSA)))
    return Verifier(issuer=ISSUER, audience="yard", jwks_file=file)


@pytest.mark.parametrize(("key", "algorithm"), [(KEY, "ES256"), (RSA, "RS256"), (RSA, "PS384")])
def test_a_token_of_the_provider_is_its_subject_with_the_greatest_scope(
    verifier: Verifier, key: Any, algorithm: str
) -> None:
    found = verifier.verify(token(key, algorithm, scope=["modelyard:read", "modelyard:publish"]), NOW)

    assert found is not None
    assert (found.name, found.id, found.scope) == ("oidc:ann", "", Scope.PUBLISH)


@pytest.mark.parametrize(
    "changed",
    [
        *({"iss": "https://evil.example"}, {"iss": None}, {"aud": "other"}, {"aud": None}, {"aud": ["a", "b"]}),
        *({"exp": NOW - 31}, {"exp": None}, {"exp": "soon"}, {"nbf": NOW + 31}, {"sub": None}),
        *({"scope": "train"}, {"scope": None}, {"scope": {"modelyard:admin": 1}}, {"scope": "modelyard:root"}),
    ],
    ids=str,
)
def test_a_token_that_says_something_else_is_not_valid(verifier: Verifier, changed: dict[str, Any]) -> None:
    assert verifier.verify(token(**changed), NOW) is None


def test_a_token_of_somebody_else_is_not_valid(verifier: Verifier) -> None:
    right = token()
    head, claims, signature = right.split(b".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=")
    shared = jwk.OctKey.import_key(orjson.dumps(KEY.as_dict(private=False)), {"kid": "one"})
    forged = [token(OTHER), token(shared, "HS256"), b".".join([none, claims, b""]), b".".join([head, claims, b""])]
    forged += [right[:-4] + b"AAAA", right + b".", b"..", b"a.b.c", b"\xff.\xff.\xff", right + b"a" * 20_000, signature]

    assert verifier.verify(right, NOW) is not None
    assert [verifier.verify(item, NOW) for item in forged] == [None] * len(forged)


def test_a_token_that_was_believed_once_still_ends(verifier: Verifier) -> None:
    right = token()

    assert verifier.verify(right, NOW) is not None
    assert verifier.verify(right, NOW + 59) is not None
    assert verifier.verify(right, NOW + 100) is None


def test_the_guard_takes_tokens_beside_keys(verifier: Verifier) -> None:
    guard = Guard(tokens=verifier, clock=lambda: NOW)
    headers = [(b"authorization", b"Bearer " + token())]

    assert not guard.open
    assert guard.admit(headers, "192.0.2.1", Scope.TRAIN).name == "oidc:ann"
    with pytest.raises(Forbidden):
        guard.admit(headers, "192.0.2.1", Scope.PUBLISH)
    with pytest.raises(Unauthenticated):
        guard.admit([(b"authorization", b"Bearer " + token(OTHER))], "192.0.2.1", Scope.PREDICT)


class Provider:
    """What stands at the issuer's addresses."""

    def __init__(self) -> None:
        self.pages: dict[str, Document] = {
            f"{ISSUER}/.well-known/openid-configuration": {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"},
            f"{ISSUER}/keys": key_set(KEY),
        }
        self.asked: list[str] = []

    def __call__(self, url: str) -> Document:
        self.asked.append(url)
        if url not in self.pages:
            raise OSError
        return self.pages[url]


def test_keys_come_from_the_issuer_and_again_when_it_signs_with_a_new_one() -> None:
    provider = Provider()
    verifier = Verifier(issuer=ISSUER, audience="yard", fetch=provider)
    new = jwk.ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})
    assert verifier.verify(token(), NOW) is not None
    provider.pages[f"{ISSUER}/keys"] = key_set(KEY, new)
    for second in range(50):  # whoever sends nonsense does not make us ask again and again
        assert verifier.verify(token(new, exp=NOW + 600), NOW + second) is None
    assert len(provider.asked) == 2

    assert verifier.verify(token(new, exp=NOW + 600), NOW + 61) is None
    wait_for(lambda: verifier.verify(token(new, exp=NOW + 600), NOW + 62) is not None)
    assert len(provider.asked) == 4


def test_a_provider_that_is_away_changes_nothing() -> None:
    provider = Provider()
    verifier = Verifier(issuer=ISSUER, audience="yard", fetch=provider)
    assert verifier.verify(token(), NOW) is not None
    provider.pages.clear()
    verifier.verify(b"a.b.c", NOW + 61)
    wait_for(lambda: len(provider.asked) == 3 and not verifier._looking.locked())

    assert verifier.verify(token(exp=NOW + 99), NOW + 62) is not None


@pytest.mark.parametrize(
    "about",
    [
        {"issuer": "https://evil.example", "jwks_uri": f"{ISSUER}/keys"},
        {"issuer": ISSUER, "jwks_uri": "https://evil.example/keys"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
        {"issuer": ISSUER},
        {},
    ],
)
def test_an_issuer_that_points_elsewhere_is_not_followed(about: Document) -> None:
    provider = Provider()
    provider.pages[f"{ISSUER}/.well-known/openid-configuration"] = about
    with pytest.raises(ValidationFailed):
        Verifier(issuer=ISSUER, audience="yard", fetch=provider)

    assert len(provider.asked) == 1


@pytest.mark.parametrize("issuer", ["http://login.example", "ftp://login.example", "login.example", ""])
def test_an_issuer_is_asked_over_https(issuer: str) -> None:
    with pytest.raises(ValidationFailed, match="must be an https address"):
        Verifier(issuer=issuer, audience="yard", fetch=Provider())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": [1]}', b'{"keys": [{"kty": "EC"}]}'])
def test_a_key_set_that_is_none_is_told_at_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(content)

    with pytest.raises(ValidationFailed, match="cannot be read"):
        Verifier(issuer=ISSUER, audience="yard", jwks_file=file)


def test_without_an_audience_tokens_for_others_would_do() -> None:
    with pytest.raises(ValidationFailed, match="MODELYARD_OIDC_AUDIENCE"):
        Verifier(issuer=ISSUER, audience="", fetch=Provider())
