"""What every document has in common: the frozen base, names, canonical bytes, digests, and how mistakes are told.

Knows no particular document and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
import rfc8785
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from service.errors import Entry, shorten

T = TypeVar("T")

RESOURCE_NAME: Final = r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9_-])?$"
"""Names of models and aliases: lower case, at most 63 characters, not ending in a dot."""

ResourceName = Annotated[str, StringConstraints(pattern=RESOURCE_NAME)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

_ID_KINDS: Final = ("job", "ds", "up")


class Document(BaseModel):
    """A frozen record that refuses members it does not know and numbers that are not finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )


def canonical(value: Any) -> bytes:
    """The one byte string for a JSON value (RFC 8785), so that equal values have equal digests."""
    return rfc8785.dumps(value)


def digest(data: bytes) -> str:
    """`sha256:` and the hexadecimal digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def new_id(kind: Literal["job", "ds", "up"]) -> str:
    """A fresh id, `kind` and a UUIDv7 (RFC 9562) in 32 hex digits: ids sort by the time they were made."""
    millis = time.time_ns() // 1_000_000
    bits = int.from_bytes(os.urandom(10), "big")
    value = (millis & (2**48 - 1)) << 80 | 0x7 << 76 | (bits >> 68) << 64 | 0b10 << 62 | (bits & (2**62 - 1))
    return f"{kind}_{value:032x}"


def is_id(kind: Literal["job", "ds", "up"], text: str) -> bool:
    """Whether `text` is an id of this kind."""
    return re.fullmatch(kind + "_[0-9a-f]{32}", text) is not None


def utc_now() -> str:
    """The wall clock as RFC 3339 in UTC with milliseconds: only ever shown, never compared."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pointer(parts: Iterable[str | int], prefix: str = "") -> str:
    """RFC 6901 pointer made of `parts`."""
    return prefix + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def entries(error: ValidationError, body: object, prefix: str = "") -> list[Entry]:
    """A pydantic error as our entries: pointers into `body`, without the tags of unions, one entry a mistake."""
    found: dict[tuple[str, str], Entry] = {}
    for item in error.errors(include_url=False, include_context=True):
        at = pointer(_path(item["loc"], body), prefix)
        entry = _entry(at, item)
        found.setdefault((at, entry.code), entry)
    return list(found.values())


def parameter_entry(item: Mapping[str, Any]) -> Entry:
    """One of pydantic's errors about a parameter; its location is its pointer, with headers in lower case."""
    at = pointer(item["loc"])
    return _entry(at.lower() if item["loc"][0] == "header" else at, item)


def read(adapter: TypeAdapter[T], value: object) -> T:
    """JSON values as a document, strictly: no text is taken for a number, no number for a text.

    Raises:
        pydantic.ValidationError: with every mistake.
    """
    try:
        data = orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits, which orjson refuses and JSON does not
        data = json.dumps(value).encode()
    # By way of JSON, since only there pydantic's strict mode takes a list for a tuple.
    return adapter.validate_json(data, strict=True)


def _path(loc: Sequence[str | int], body: object) -> list[str | int]:
    """The part of a pydantic location that is in the body: tags of unions and names of validators fall out."""
    path: list[str | int] = []
    value = body
    for place, part in enumerate(loc):
        last = place == len(loc) - 1
        if isinstance(value, Mapping) and isinstance(part, str):
            if part in value:
                value = value[part]
                path.append(part)
            elif last:
                path.append(part)
        elif isinstance(value, (list, tuple)) and isinstance(part, int):
            value = value[part] if part < len(value) else None
            path.append(part)
    return path


_EXPECTED: Final = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _entry(at: str, item: Any) -> Entry:
    kind, context = item["type"], item.get("ctx") or {}
    discriminator = str(context.get("discriminator", "type")).strip("'")
    got = None if kind == "missing" else shorten(item.get("input"))
    match kind:
        case "missing":
            return Entry(at, "missing", "This member is required.", hint="Add it.")
        case "extra_forbidden":
            return Entry(at, "unknown-member", "This member is not known here.", hint="Remove it, or correct its name.")
        case "union_tag_invalid":
            expected = str(context.get("expected_tags", ""))
            tag = str(context.get("tag", ""))
            return Entry(
                at,
                "unknown-type",
                f"{shorten(tag)} is not a known {discriminator}.",
                hint=nearest_hint(tag, re.findall(r"'([^']*)'", expected)),
                expected="one of " + expected if len(expected) <= 400 else None,
                got=shorten(tag),
            )
        case "union_tag_not_found":
            detail = f"The member {discriminator!r}, which says what this is, is missing."
            return Entry(at, "missing", detail, hint=f"Add {discriminator!r}.", got=got)
        case "value_error":
            rule = _sentence(str(context.get("error", item["msg"])))
            return Entry(at, "invalid", rule, hint="Change it so that this holds.", got=got)
        case "literal_error" | "enum":
            return Entry(
                at,
                "invalid",
                "This value is not among the allowed ones.",
                hint=nearest_hint(str(item.get("input")), re.findall(r"'([^']*)'", str(context.get("expected", "")))),
                expected=str(context.get("expected", "")),
                got=got,
            )
        case "string_pattern_mismatch":
            return Entry(at, "invalid", "This text has another form.", expected=str(context.get("pattern")), got=got)
        case _:
            wanted = _EXPECTED.get(kind) or _bounds(context)
            return Entry(at, _slug(kind), _sentence(item["msg"]), expected=wanted, got=got)


_BOUNDS: Final = {
    "ge": "at least {}",
    "gt": "more than {}",
    "le": "at most {}",
    "lt": "less than {}",
    "min_length": "a length of at least {}",
    "max_length": "a length of at most {}",
}


def _bounds(context: Mapping[str, Any]) -> str | None:
    return ", ".join(words.format(context[name]) for name, words in _BOUNDS.items() if name in context) or None


def _slug(kind: str) -> str:
    if kind.endswith(("_type", "_parsing")) or kind == "int_from_float":
        return "wrong-type"
    if kind == "finite_number":
        return "not-finite"
    if kind.startswith(("greater_than", "less_than", "multiple_of")) or kind.startswith(("too_", "string_too")):
        return "out-of-range"
    return "invalid"


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


def nearest_hint(word: str, known: Iterable[str]) -> str | None:
    """ "Did you mean …?" for a misspelt word, or None when nothing is near."""
    import difflib

    choices = list(known)
    lower = {choice.lower(): choice for choice in choices}
    if word.lower() in lower:
        return f"Did you mean {lower[word.lower()]!r}?"
    near = difflib.get_close_matches(word[:100], choices, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else None
