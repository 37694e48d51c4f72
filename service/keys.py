"""API keys: how they look, where they are kept, and who may do what with one.

A key is `msk_<id>_<secret>`; only its sha256 is stored, in a file or a setting that an operator writes. `Guard.admit`
turns a request's headers into a `Principal` or an error. Knows header bytes, scopes and clocks; no HTTP and no route.
Limits are kept in the memory of this process, so that each process of a server has its own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
import time
import tomllib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol

import orjson
from pydantic import AwareDatetime, Field, StringConstraints, TypeAdapter, ValidationError

from service.errors import (
    Conflict,
    DeadlinePassed,
    Entry,
    Forbidden,
    NotFound,
    RateLimited,
    Unauthenticated,
    ValidationFailed,
)
from service.schemas import document
from service.schemas.document import Document, ResourceName
from service.store.files import write_atomic
from service.telemetry import log

_log = log(__name__)

LIVE_KEYS: Final = 2
"""So many keys of one name may be live: the old one and its successor."""

_ID_LENGTH: Final = 12
_LONGEST: Final = 256
"""Bytes of a header that may be a key. Ours have 60; a longer one is not worth a hash."""
_MOST_BYTES: Final = 4 * 1024 * 1024
_MOST_ADDRESSES: Final = 4096
_LOOK_EVERY_S: Final = 1.0
_JSON: Final = re.compile(r"\s*(\{|\[\s*[{\]])")
_NO_KEY: Final = bytes(32)
"""Compared with when there is no such key, so that this takes as long."""


class Scope(IntEnum):
    """What a key is for; each one includes those before it."""

    PREDICT = 1
    """Ask versions for answers."""
    READ = 2
    """See models, jobs, datasets, architectures and metrics."""
    TRAIN = 3
    """Upload, make datasets and documents, run jobs."""
    PUBLISH = 4
    """Move aliases, delete versions and what they were made of."""
    ADMIN = 5
    """Everything, such as loading and unloading models."""

    @property
    def word(self) -> str:
        """As it is written in files, requests and answers."""
        return self.name.lower()


ScopeWord = Literal["predict", "read", "train", "publish", "admin"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Args:
        name: the name of its key or the subject of its token; "anonymous" where no keys are asked for.
        id: the public part of the key; "" for others.
        scope: the most that it may do.
    """

    name: str
    id: str
    scope: Scope


ANONYMOUS: Final = Principal("anonymous", "", Scope.ADMIN)
"""Everybody, on a server without keys."""


class Key(Document):
    """One stored key: all that a server knows of it."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{6,32}$")]
    name: ResourceName
    scope: ScopeWord
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=10**9)] | None = None
    rows_per_minute: Annotated[int, Field(ge=1, le=10**12)] | None = None

    def live(self, at: datetime) -> bool:
        """Whether it is accepted at this time."""
        return self.expires is None or at < self.expires


class Keys(Document):
    """A keys file."""

    keys: Annotated[tuple[Key, ...], Field(max_length=10_000)] = ()


class TokenVerifier(Protocol):
    """Whatever else may stand behind `Authorization: Bearer`, such as a token of an identity provider."""

    def verify(self, token: bytes, now: float) -> Principal | None:
        """Who holds the token at this time (seconds since the epoch), or None where it is not valid."""


_KEYS: Final = TypeAdapter(Keys)


# -- keys and files ---------------------------------------------------------------------------------------------------


def make(
    name: str,
    scope: Scope,
    *,
    now: datetime,
    expires: datetime | None = None,
    requests_per_minute: int | None = None,
    rows_per_minute: int | None = None,
) -> tuple[str, Key]:
    """A fresh key and what is stored of it. The key itself is shown once and kept nowhere.

    Raises:
        ValidationFailed: the name or a limit is not allowed.
    """
    identifier = secrets.token_hex(_ID_LENGTH // 2)
    text = f"msk_{identifier}_{secrets.token_hex(32)}"
    stored = {
        "id": identifier,
        "name": name,
        "scope": scope.word,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "created": now.replace(microsecond=0),
        "expires": expires.replace(microsecond=0) if expires else None,
        "requests_per_minute": requests_per_minute,
        "rows_per_minute": rows_per_minute,
    }
    return text, _checked({"keys": [stored]}, "This key").keys[0]


def parse(text: str, *, source: str, json_only: bool = False) -> Keys:
    """The keys of a TOML or JSON text; what begins with a brace or a bracket is JSON, and may be the bare list.

    Args:
        text: what was read.
        source: where it stands, for the message.
        json_only: TOML is not expected here.

    Raises:
        ValidationFailed: with every mistake; no value of the text is repeated.
    """
    value: Any
    try:
        if json_only or _JSON.match(text):
            value = json.loads(text)
            value = {"keys": value} if isinstance(value, list) else value
        else:
            value = tomllib.loads(text)
    except (ValueError, RecursionError):  # whose messages would show a part of the text
        kind = "JSON" if json_only else "TOML or JSON"
        raise ValidationFailed(f"{source} is not well-formed {kind}.") from None
    return _checked(value, source)


def read(path: Path) -> Keys:
    """The keys of a file.

    Raises:
        NotFound: there is no such file, or it cannot be read.
        ValidationFailed: with every mistake in it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise NotFound(f"The keys file {path} cannot be read: {error.strerror}.") from None
    if len(data) > _MOST_BYTES:
        raise ValidationFailed(f"The keys file {path} is larger than {_MOST_BYTES} bytes.")
    return parse(data.decode("utf-8", "replace"), source=f"The keys file {path}")


def write(path: Path, keys: Keys) -> None:
    """Replace a keys file as a whole, as JSON where its name ends so, else as TOML. A new one only its owner reads."""
    members = [key.model_dump(mode="json", exclude_none=True) for key in keys.keys]
    if path.suffix == ".json":
        data = orjson.dumps({"keys": members}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    else:
        data = "".join(_TOML_HEAD + _toml(key) for key in keys.keys).encode() or b"# No keys yet.\n"
    write_atomic(path, data, private=True)


def add(keys: Keys, key: Key, *, now: datetime) -> Keys:
    """The keys and one more.

    Raises:
        Conflict: two keys of its name are live already.
    """
    live = [other for other in keys.keys if other.name == key.name and other.live(now)]
    if len(live) >= LIVE_KEYS:
        raise Conflict(
            f"{len(live)} keys of the name {key.name!r} are live: {', '.join(other.id for other in live)}.",
            hint="Revoke one of them by its id.",
        )
    return Keys(keys=(*keys.keys, key))


def rotate(
    keys: Keys, name: str, *, now: datetime, overlap: timedelta, expires: datetime | None
) -> tuple[str, Key, Keys]:
    """A successor for the live key of a name: of the same scope and limits, and where `expires` is None of the same
    length of life. The old one ends after `overlap`.

    Returns:
        The new key, what is stored of it, and all keys.

    Raises:
        NotFound: no key of this name is live.
        Conflict: two are.
    """
    live = [key for key in keys.keys if key.name == name and key.live(now)]
    if not live:
        raise NotFound(f"No key of the name {name!r} is live.")
    old = live[-1]
    if expires is None and old.expires is not None and old.created is not None:
        expires = now + (old.expires - old.created)
    text, new = make(
        name,
        Scope[old.scope.upper()],
        now=now,
        expires=expires,
        requests_per_minute=old.requests_per_minute,
        rows_per_minute=old.rows_per_minute,
    )
    more = add(keys, new, now=now)
    end = (now + overlap).replace(microsecond=0)
    ended = old.model_copy(update={"expires": min(end, old.expires) if old.expires else end})
    return text, new, Keys(keys=tuple(ended if key is old else key for key in more.keys))


def revoke(keys: Keys, which: str) -> tuple[Keys, tuple[Key, ...]]:
    """Take away the key of an id, or every key of a name.

    Returns:
        What remains, and what was taken away.

    Raises:
        NotFound: there is none.
    """
    gone = tuple(key for key in keys.keys if key.id == which) or tuple(key for key in keys.keys if key.name == which)
    if not gone:
        raise NotFound(f"There is no key of the id or name {which!r}.")
    return Keys(keys=tuple(key for key in keys.keys if key not in gone)), gone


def _checked(value: object, source: str) -> Keys:
    try:
        keys = document.read(_KEYS, value)
    except ValidationError as error:
        found, more = document.entries(error, value, schema=_KEYS.core_schema)
        told = [replace(entry, got=None) for entry in found]  # it may be the key, pasted into the wrong place
        raise ValidationFailed(f"{source} is wrong.", errors=told, more=more) from None
    twice = [name for name, count in Counter(key.id for key in keys.keys).items() if count > 1]
    if twice:
        told = [Entry("/keys", "duplicate", f"The id {name!r} stands there more than once.") for name in twice]
        raise ValidationFailed(f"{source} is wrong.", errors=told)
    return keys


_TOML_HEAD: Final = "[[keys]]\n"


def _toml(key: Key) -> str:
    lines = []
    for name, value in key.model_dump(exclude_none=True).items():
        if isinstance(value, datetime):
            text = value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        else:  # words of fixed patterns and whole numbers: TOML writes them as JSON does
            text = json.dumps(value)
        lines.append(f"{name} = {text}\n")
    return "".join(lines) + "\n"


# -- at work ----------------------------------------------------------------------------------------------------------


def steady_clock() -> Callable[[], float]:
    """Seconds since the epoch, by the machine's time since its start: setting its clock ends no key early or late."""
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: offset + time.clock_gettime(time.CLOCK_BOOTTIME)


class Guard:
    """Decides who may come in. All of its methods are called on one thread, that of the event loop.

    Args:
        file: a keys file, looked at again each second at most, and read again when it has changed.
        inline: a JSON text of keys as in the file, such as a setting's.
        failures_per_minute: wrong keys from one address that are answered; further ones get `RateLimited`.
        tokens: verifies bearer tokens that are no keys.
        clock: seconds since the epoch.
        on_refusal: told the reason of each refusal, one of `REASONS`.

    Raises:
        NotFound: the file cannot be read.
        ValidationFailed: the file or the text is wrong; every mistake is told.
    """

    REASONS: Final = ("missing", "wrong", "expired", "scope", "failures", "quota")

    def __init__(
        self,
        *,
        file: Path | None = None,
        inline: str | None = None,
        failures_per_minute: int = 10,
        tokens: TokenVerifier | None = None,
        clock: Callable[[], float] | None = None,
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.open = file is None and inline is None and tokens is None
        """Whether everybody may do everything, since no keys were given."""
        self._file = file
        self._inline = () if inline is None else parse(inline, source="MODELYARD_API_KEYS", json_only=True).keys
        self._tokens = tokens
        self._clock = clock or steady_clock()
        self._on_refusal = on_refusal
        self._failures = _Failures(failures_per_minute)
        self._held: dict[bytes, _Held] = {}
        self._taken = 0  # how often keys were taken
        self._row_buckets: dict[str, _Bucket] = {}
        self._stamp: tuple[int, ...] | None = None
        self._look_again = math.inf
        if file is not None:
            self._stamp = _stamp(file)  # before it is read: a change in between is seen next time
            self._look_again = self._clock() + _LOOK_EVERY_S
        if not self.open:
            self._take(read(file).keys if file else (), self._clock())

    def admit(self, headers: Sequence[tuple[bytes, bytes]], client: str, scope: Scope) -> Principal:
        """Who asks, if it may do what needs `scope`.

        Args:
            headers: of the request, with names in lower case, as in ASGI.
            client: the address that it comes from.
            scope: the least that is needed.

        Raises:
            Unauthenticated: there is no valid key; missing and wrong ones are not told apart.
            Forbidden: the key is valid but its scope is a lesser one.
            RateLimited: too many wrong keys came from this address, or the key's quota of requests is used up.
        """
        if self.open:
            return ANONYMOUS
        now = self._clock()
        if now >= self._look_again:
            self._look(now)
        credential = _credential(headers)
        if credential is None:
            self._on_refusal("missing")
            raise Unauthenticated
        held = self._find(credential)
        if held is None:
            principal = self._tokens.verify(credential, now) if self._tokens else None
            if principal is None:
                raise self._failed("wrong", client, now)
        elif now >= held.expires:
            raise self._failed("expired", client, now)
        else:
            principal = held.principal
        if principal.scope < scope:
            self._on_refusal("scope")
            raise Forbidden(
                f"This needs the scope {scope.word}; the key {principal.name!r} has {principal.scope.word}.",
                scope=scope.word,
            )
        if held is not None and held.requests is not None:
            self._spend(held.requests, 1, now, "requests_per_minute")
        return principal

    def admission(self, headers: Sequence[tuple[bytes, bytes]], scope: Scope) -> Admission | None:
        """What `readmit` lets in again later, without the headers; None where only `admit` decides. Nothing is counted.

        Args:
            headers: of a request that may be sent again with the very same ones.
            scope: the least that is needed.
        """
        credential = _credential(headers)
        held = None if credential is None else self._find(credential)
        if held is None or held.principal.scope < scope:
            return None
        return Admission(held, self._taken)

    def readmit(self, admission: Admission) -> Principal | None:
        """Who asks with headers that `admission` has seen; None where `admit` must look at them again.

        Raises:
            RateLimited: the key's quota of requests is used up.
        """
        now = self._clock()
        if now >= self._look_again:
            self._look(now)
        held, taken = admission
        if taken != self._taken or now >= held.expires:
            return None
        if held.requests is not None:
            self._spend(held.requests, 1, now, "requests_per_minute")
        return held.principal

    def holds(self, headers: Sequence[tuple[bytes, bytes]], scope: Scope) -> bool:
        """Whether `admit` would still let these headers in: for answers that go on for long. Nothing is counted."""
        if self.open:
            return True
        now = self._clock()
        if now >= self._look_again:
            self._look(now)
        credential = _credential(headers)
        if credential is None:
            return False
        held = self._find(credential)
        if held is not None:
            return now < held.expires and held.principal.scope >= scope
        principal = self._tokens.verify(credential, now) if self._tokens else None
        return principal is not None and principal.scope >= scope

    def charge(self, principal: Principal, rows: int) -> None:
        """Count rows that are about to be predicted. One request may pass the quota; the next ones wait for it.

        Raises:
            RateLimited: the key's quota of rows is used up.
        """
        bucket = self._row_buckets.get(principal.id)
        if bucket is not None:
            self._spend(bucket, rows, self._clock(), "rows_per_minute")

    def give_back(self, principal: Principal, rows: int) -> None:
        """Undo `charge`: the request is refused after all."""
        bucket = self._row_buckets.get(principal.id)
        if bucket is not None:
            bucket.give(rows)

    @contextmanager
    def charging(self, principal: Principal) -> Iterator[Callable[[int], None]]:
        """What charges the rows of one request, which are given back where that ends in a refusal.

        One that comes too late, or whose client has gone, stays charged: it may have been worked for.
        """
        charged = 0

        def charge(rows: int) -> None:
            nonlocal charged
            self.charge(principal, rows)
            charged += rows

        try:
            yield charge
        except DeadlinePassed:
            raise
        except Exception:
            self.give_back(principal, charged)
            raise

    def _find(self, credential: bytes) -> _Held | None:
        """The stored key, compared in a time that tells nothing of how much of it was right."""
        parts = credential.split(b"_", 2) if len(credential) <= _LONGEST else ()
        held = self._held.get(parts[1]) if len(parts) == 3 else None
        same = hmac.compare_digest(
            hashlib.sha256(credential[:_LONGEST]).digest(), _NO_KEY if held is None else held.digest
        )
        return held if same else None

    def _failed(self, reason: str, client: str, now: float) -> Unauthenticated | RateLimited:
        wait = self._failures.note(client, now)
        if wait is not None:
            self._on_refusal("failures")
            return RateLimited(
                "Too many wrong API keys came from this address.",
                limit={"name": "key_failures_per_minute", "value": self._failures.per_minute},
                retry_after_s=wait,
                hint="Correct the key. Valid keys are answered meanwhile.",
            )
        self._on_refusal(reason)
        if reason == "expired":  # its holder has shown the whole key, so this tells nothing to others
            return Unauthenticated("This API key has expired.", hint="Ask for its successor.")
        return Unauthenticated()

    def _spend(self, bucket: _Bucket, amount: int, now: float, name: str) -> None:
        wait = bucket.take(amount, now)
        if wait is not None:
            self._on_refusal("quota")
            raise RateLimited(
                "The quota of this API key is used up.",
                limit={"name": name, "value": bucket.per_minute},
                retry_after_s=wait,
            )

    def _look(self, now: float) -> None:
        """Read the file again if it has changed; a file that is wrong changes nothing."""
        self._look_again = now + _LOOK_EVERY_S
        assert self._file is not None
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(read(self._file).keys, now)
        except (NotFound, ValidationFailed) as error:
            _log.error(
                "The keys file has changed and cannot be used; the keys from before stay valid.",
                action="keys_refused",
                detail=error.message,
                mistakes=[f"{entry.pointer}: {entry.code}" for entry in error.errors],
            )
        else:
            _log.info("The keys file was read again.", action="keys_read", keys=len(self._held))

    def _take(self, from_file: Sequence[Key], now: float) -> None:
        """Use these keys and the inline ones; what is left of a quota goes on where the quota is the same."""
        before = self._held
        self._taken += 1
        self._held = {}
        self._row_buckets = {}
        for key in (*self._inline, *from_file):
            old = before.get(key.id.encode())
            held = _Held(
                digest=bytes.fromhex(key.sha256),
                principal=Principal(key.name, key.id, Scope[key.scope.upper()]),
                expires=key.expires.timestamp() if key.expires else math.inf,
                requests=_bucket(key.requests_per_minute, now, old.requests if old else None),
                rows=_bucket(key.rows_per_minute, now, old.rows if old else None),
            )
            self._held[key.id.encode()] = held
            if held.rows is not None:
                self._row_buckets[key.id] = held.rows


@dataclass(frozen=True, slots=True)
class _Held:
    """A key, ready for comparing."""

    digest: bytes
    principal: Principal
    expires: float
    requests: _Bucket | None
    rows: _Bucket | None


class Admission(NamedTuple):
    """A key that was shown, as long as the keys are what they were then."""

    held: _Held
    taken: int


class _Bucket:
    """A token bucket: a minute's worth at most, filled evenly. Times come from outside."""

    __slots__ = ("_at", "_level", "_per_second", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._per_second = per_minute / 60
        self._level: float = per_minute
        self._at = now

    def take(self, amount: int, now: float) -> float | None:
        """Take it if anything is left, into debt where it is more than that; else the seconds until something is."""
        level = self._level
        if now > self._at:
            level += (now - self._at) * self._per_second
            if level > self.per_minute:
                level = self.per_minute
            self._at = now
        if level < 1 <= amount:
            self._level = level
            return (1 - level) / self._per_second
        self._level = level - amount
        return None

    def give(self, amount: int) -> None:
        """Put back what was taken."""
        self._level = min(self._level + amount, self.per_minute)


class _Failures:
    """Wrong keys by address, of so many addresses as fit; those not heard of for longest are forgotten."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def note(self, client: str, now: float) -> float | None:
        """Count one; the seconds to wait if it was one too many."""
        address = network(client)
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = _Bucket(self.per_minute, now)
            if len(self._buckets) > _MOST_ADDRESSES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(address)
        return bucket.take(1, now)


def network(client: str) -> str:
    """The address, or the part of an IPv6 address that one customer is given."""
    if ":" not in client:
        return client
    try:
        return str(ip_network((IPv6Address(client.partition("%")[0]), 64), strict=False))
    except ValueError:
        return client


def _bucket(per_minute: int | None, now: float, old: _Bucket | None) -> _Bucket | None:
    if per_minute is None:
        return None
    return old if old is not None and old.per_minute == per_minute else _Bucket(per_minute, now)


def _credential(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """What the request shows; two that differ are none that is valid."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if value[:7].lower() != b"bearer ":
                return b""
            shown = value[7:].strip()
        elif name == b"x-api-key":
            shown = value.strip()
        else:
            continue
        if found is not None and found != shown:
            return b""
        found = shown
    return found


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
