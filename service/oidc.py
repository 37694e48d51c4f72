"""Bearer tokens of an OpenID Connect provider, as an addition to keys; needs the extra `oidc`.

Verifies signature, issuer, audience and times, and turns a claim into a scope. Signing keys come from a file, or from
the configured issuer and nobody else: nothing in a token is followed. Knows no HTTP request and no route.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from service.errors import ServiceError, ValidationFailed
from service.keys import Principal, Scope
from service.telemetry import log

_log = log(__name__)

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""Asymmetric ones only: with a shared secret, whoever verifies could sign too."""

_LONGEST: Final = 16 * 1024
_MOST_BYTES: Final = 1024 * 1024
_REMEMBERED: Final = 1024
_LEEWAY_S: Final = 30
_FETCH_TIMEOUT_S: Final = 5.0
_AGAIN_AFTER_S: Final = 60.0
_STALE_AFTER_S: Final = 3600.0

Document = Mapping[str, Any]


class Verifier:
    """Tells who holds a token. `verify` is called on one thread, as `keys.Guard` is; it never waits for the network.

    Args:
        issuer: the provider's address, exactly as it stands in `iss`.
        audience: what must stand in `aud`.
        jwks_file: JSON Web Key Set of the provider; None fetches it from the issuer.
        claim: the claim that names scopes, as words in one text or as a list.
        prefix: what precedes our words there, as in "modelyard:train".
        fetch: the JSON document at an address of the issuer.

    Raises:
        ValidationFailed: the extra `oidc` is not installed, the issuer is no address, there is no audience, or the keys
            cannot be had.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        jwks_file: Path | None = None,
        claim: str = "scope",
        prefix: str = "modelyard:",
        fetch: Callable[[str], Document] | None = None,
    ) -> None:
        try:
            from joserfc import errors, jwk, jwt
        except ImportError:
            raise ValidationFailed("OpenID Connect needs the extra `oidc`: pip install 'modelyard[oidc]'.") from None
        if not audience:
            raise ValidationFailed("OpenID Connect needs an audience: set MODELYARD_OIDC_AUDIENCE.")
        self._refused = (errors.JoseError, ValueError, KeyError, TypeError)
        self._jwk = jwk
        self._jwt = jwt
        self._issuer = issuer
        self._audience = audience
        self._file = jwks_file
        self._claim = claim
        self._prefix = prefix
        self._fetch = fetch or _get
        if jwks_file is None:
            _check_issuer(issuer)
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._keys = self._read()

    def verify(self, token: bytes, now: float) -> Principal | None:
        """Who holds the token, or None where it is not valid at this time (seconds since the epoch)."""
        if len(token) > _LONGEST or token.count(b".") != 2:
            return None
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        self._perhaps_look(now, after=_STALE_AFTER_S)
        try:
            claims = self._jwt.decode(token, self._keys, algorithms=ALGORITHMS).claims
            self._jwt.JWTClaimsRegistry(
                now=int(now),
                leeway=_LEEWAY_S,
                iss={"essential": True, "value": self._issuer},
                aud={"essential": True, "value": self._audience},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(claims)
        except self._refused:
            self._perhaps_look(now, after=_AGAIN_AFTER_S)  # perhaps the provider signs with a new key
            return None
        scope = self._scope(claims)
        if scope is None:
            return None
        principal = Principal(_name(str(claims["sub"])), "", scope)
        self._known[digest] = (principal, float(claims["exp"]))
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return principal

    def _scope(self, claims: Document) -> Scope | None:
        """The greatest of our scopes that the claim names."""
        value = claims.get(self._claim)
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        named = {f"{self._prefix}{scope.word}": scope for scope in Scope}
        return max((named[word] for word in words if isinstance(word, str) and word in named), default=None)

    def _perhaps_look(self, now: float, *, after: float) -> None:
        """Get the provider's keys anew in a thread of its own, if they were not looked at for so long."""
        if self._looked_at is None:
            self._looked_at = now
        if now - self._looked_at < after or not self._looking.acquire(blocking=False):
            return
        self._looked_at = now
        threading.Thread(target=self._look, name="oidc-keys", daemon=True).start()

    def _look(self) -> None:
        try:
            self._keys = self._read()
        except ServiceError as error:
            _log.warning(
                "The provider's keys cannot be had; those from before stay.", action="oidc_keys", detail=error.message
            )
        finally:
            self._looking.release()

    def _read(self) -> Any:
        """The provider's key set."""
        where = str(self._file or self._issuer)
        try:
            if self._file is not None:
                found = orjson.loads(self._file.read_bytes())
            else:
                about = self._fetch(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
                if about["issuer"] != self._issuer or _origin(about["jwks_uri"]) != _origin(self._issuer):
                    raise ValidationFailed(
                        f"{where} names another issuer, or keeps its keys elsewhere.",
                        hint="Download them, and set MODELYARD_OIDC_JWKS_FILE.",
                    )
                found = self._fetch(about["jwks_uri"])
            public = [key for key in found["keys"] if key.get("kty") != "oct" and key.get("use", "sig") == "sig"]
            return self._jwk.KeySet.import_key_set({"keys": public})
        except ServiceError:
            raise
        except (OSError, httpx.HTTPError, AttributeError, *self._refused) as error:
            raise ValidationFailed(f"The signing keys of {where} cannot be read: {type(error).__name__}.") from None


def _get(url: str) -> Document:
    """A JSON object of the issuer's; redirects are not followed."""
    with httpx.stream("GET", url, timeout=_FETCH_TIMEOUT_S, follow_redirects=False) as answer:
        answer.raise_for_status()
        data = b""
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > _MOST_BYTES:
                raise ValueError
    found: Document = orjson.loads(data)
    return found


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _check_issuer(issuer: str) -> None:
    parts = urlsplit(issuer)
    if parts.scheme == "https" and parts.hostname:
        return
    try:
        local = parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValidationFailed("The OpenID Connect issuer must be an https address.")


def _name(subject: str) -> str:
    """The subject where it is short, else its digest: names stand in logs and in the database."""
    return f"oidc:{subject if len(subject) <= 64 else hashlib.sha256(subject.encode()).hexdigest()}"
