"""What every document has in common: the frozen base, names, canonical bytes, digests, and how mistakes are told.

Knows no particular document and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
import rfc8785
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from service.errors import Entry, shorten

T = TypeVar("T")

RESOURCE_NAME: Final = r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9_-])?$"
"""Names of models and aliases: lower case, at most 63 characters, not ending in a dot."""

ResourceName = Annotated[str, StringConstraints(pattern=RESOURCE_NAME)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

NAME_RULE: Final = (
    "Names are lower-case letters, digits, '.', '_' and '-', begin with a letter or digit, end in no dot, and have at "
    "most 63 characters."
)
_FORMS: Final = {
    r"^job_[0-9a-f]{32}$": ("the id of a job", "job_ and 32 hexadecimal digits"),
    r"^ds_[0-9a-f]{32}$": ("the id of a dataset", "ds_ and 32 hexadecimal digits"),
    r"^up_[0-9a-f]{32}$": ("the id of an upload", "up_ and 32 hexadecimal digits"),
    r"^sha256:[0-9a-f]{64}$": ("a digest", "sha256: and 64 hexadecimal digits"),
}
"""Patterns in words."""

_MOST_TOLD: Final = 100
"""An answer shows twenty. Telling of each of 200,000 unknown members would take seconds."""


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


def disagreement(*found: Entry) -> PydanticCustomError:
    """What a validator of a whole document raises: mistakes with pointers that begin at that document."""
    return PydanticCustomError("disagreement", "The members of this document do not agree.", {"entries": found})


def entries(error: ValidationError, body: object, prefix: str = "", *, schema: Any) -> tuple[list[Entry], int]:
    """A pydantic error as our entries: pointers into `body`, without the tags of unions, one entry a mistake.

    Args:
        error: what was raised.
        body: the JSON values that were read.
        prefix: the pointer to `body`.
        schema: pydantic's schema of the type (`TypeAdapter.core_schema`), which tells members from tags of unions.

    Returns:
        The first hundred mistakes, and how many more there are.
    """
    items = error.errors(include_url=False, include_context=True)
    members = _Members(schema)
    found: dict[tuple[str, str], Entry] = {}
    for item in _of_one_branch(items[:_MOST_TOLD], body, members):
        at = pointer(_walk(item, body, members)[0], prefix)
        for entry in _told(at, item, members):
            found.setdefault((entry.pointer, entry.code), entry)
    return list(found.values()), max(0, len(items) - _MOST_TOLD)


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


def _walk(item: Any, body: object, members: _Members) -> tuple[list[str | int], list[tuple[int, str]]]:
    """The part of a pydantic location that is in the body, and what falls out of it: tags of unions and names of
    validators, each with the length of the path before it."""
    path: list[str | int] = []
    labels: list[tuple[int, str]] = []
    loc = item["loc"]
    value = body
    for place, part in enumerate(loc):
        if isinstance(value, (list, tuple)) and isinstance(part, int):
            value = value[part] if part < len(value) else None
            path.append(part)
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
            path.append(part)
        elif place == len(loc) - 1 and part in members.at(loc[:-1]):  # it is missing, or its default is wrong here
            path.append(part)
        elif isinstance(part, str):
            labels.append((len(path), part))
    return path, labels


def _of_one_branch(items: Sequence[Any], body: object, members: _Members) -> list[Any]:
    """The errors without those of union members that were not meant: an object is no misspelt id.

    Of a union without tags pydantic tells what is wrong with the value as each of its members. The one that was meant
    is the one that takes the value itself, if not all that is in it.
    """
    unions: dict[tuple[str, ...], dict[str, list[Any]]] = {}
    here: set[tuple[str, int]] = set()
    for item in items:
        path, labels = _walk(item, body, members)
        here.add((pointer(path), id(item)))
        for place, (length, label) in enumerate(labels):
            outer = [word for at, word in labels[:place] if at == length]  # a union in a union
            unions.setdefault((pointer(path[:length]), *outer), {}).setdefault(label, []).append(item)
    dropped: set[int] = set()
    combined: dict[int, str] = {}
    for (at, *_), branches in unions.items():
        if len(branches) == 1:
            continue
        distances = {}
        for label, told in branches.items():
            kinds = [item["type"] for item in told if (at, id(item)) in here]
            distances[label] = 2 if any(kind.endswith("_type") for kind in kinds) else 1 if kinds else 0
        meant = min(branches, key=distances.__getitem__)
        first = branches[meant][0]
        dropped |= {id(item) for label, told in branches.items() if label != meant for item in told}
        if distances[meant] and first["type"] in {*_EXPECTED, "literal_error", "string_pattern_mismatch"}:
            wanted = [_entry(at, told[0]).expected for told in branches.values()]
            combined[id(first)] = " or ".join(dict.fromkeys(words for words in wanted if words))
    return [
        {**item, "expected": combined[id(item)]} if id(item) in combined else item
        for item in items
        if id(item) not in dropped
    ]


class _Members:
    """Which members the documents have that a type is made of, as pydantic's own schema of it says."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._definitions: dict[str, Any] = {}

    def at(self, loc: Sequence[str | int]) -> dict[str, Any]:
        """The members of the document at a pydantic location, each with its schema."""
        found = [self._root]
        for part in loc:
            found = [inner for one in found for inner in self._into(one, part)]
        return {name: inner for one in found for name, inner in self.of(one).items()}

    def of(self, schema: Any) -> dict[str, Any]:
        """The members of a document, or of all that a union may be."""
        plain = self._plain(schema)
        match plain.get("type"):
            case "model-fields":
                return {field.get("validation_alias") or name: field for name, field in plain["fields"].items()}
            case "union" | "tagged-union":
                return {name: inner for choice in self._choices(plain) for name, inner in self.of(choice).items()}
            case _:
                return {}

    def _into(self, schema: Any, part: str | int) -> list[Any]:
        plain = self._plain(schema)
        match plain.get("type"):
            case "model-fields":
                field = self.of(plain).get(str(part))
                return [] if field is None else [field]
            case "tagged-union":
                return [plain["choices"][part]] if part in plain["choices"] else []
            case "union":
                return self._choices(plain)
            case "list":
                return [plain["items_schema"]]
            case "tuple":
                return list(plain["items_schema"][:1])
            case _:
                return []

    @staticmethod
    def _choices(union: Any) -> list[Any]:
        choices = union["choices"]
        return [
            choice[0] if isinstance(choice, tuple) else choice
            for choice in (choices.values() if isinstance(choices, dict) else choices)
        ]

    def _plain(self, schema: Any) -> Any:
        """The schema without validators, defaults and references around it."""
        while isinstance(schema, dict):
            if schema["type"] == "definitions":
                self._definitions |= {one["ref"]: one for one in schema["definitions"]}
            if schema["type"] == "definition-ref":
                schema = self._definitions.get(schema["schema_ref"])
            elif "schema" in schema:
                schema = schema["schema"]
            else:
                return schema
        return {}


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
    "layers_type": "a list of layers",
    "lines_type": "a list of lines",
}


def _told(at: str, item: Any, members: _Members) -> list[Entry]:
    """One of pydantic's errors as our entries: one, or as many as a validator of ours has found."""
    told = (item.get("ctx") or {}).get("entries")
    if item["type"] == "disagreement" and told is not None:
        return [replace(entry, pointer=at + entry.pointer) for entry in told]
    if item["type"] == "extra_forbidden":
        return [_unknown_member(at, item["loc"][-1], members.at(item["loc"][:-1]), members, got=item.get("input"))]
    entry = _entry(at, item)
    return [replace(entry, expected=item["expected"]) if "expected" in item else entry]


def _unknown_member(at: str, name: str, known: Mapping[str, Any], members: _Members, *, got: object) -> Entry:
    """A member that is misspelt, in the wrong place, or altogether unknown."""
    owners = [owner for owner, schema in known.items() if name in members.of(schema)]
    hint = f"Write it in {owners[0]!r}." if len(owners) == 1 else nearest_hint(name, known)
    listed = ", ".join(known)
    return Entry(
        at,
        "unknown-member",
        "This member is not known here.",
        hint=hint or "Remove it, or correct its name.",
        expected=f"one of {listed}" if known and not hint and len(listed) <= 400 else None,
        got=shorten(got),
    )


def _entry(at: str, item: Any) -> Entry:
    kind, context = item["type"], item.get("ctx") or {}
    discriminator = str(context.get("discriminator", "type")).strip("'")
    got = None if kind == "missing" else shorten(item.get("input"))
    match kind:
        case "missing":
            return Entry(at, "missing", "This member is required.", hint="Add it.")
        case "union_tag_invalid":
            expected = str(context.get("expected_tags", ""))
            tag = str(context.get("tag", ""))
            return Entry(
                f"{at}/{discriminator}",
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
            pattern = str(context.get("pattern"))
            if pattern == RESOURCE_NAME:
                hint = cleaned_name(str(item.get("input")))
                return Entry(at, "invalid-name", NAME_RULE, hint=hint, expected="a name such as my-model.v2", got=got)
            what, form = _FORMS.get(pattern, ("a text of the form that is expected", pattern))
            return Entry(at, "invalid", f"This is not {what}.", expected=f"{what} ({form})", got=got)
        case _:
            wanted = _EXPECTED.get(kind) or _bounds(context)
            ours = kind in _EXPECTED and str(item["msg"]).startswith("Input should be")  # else a validator's own words
            detail = f"Expected {wanted}." if ours else _sentence(item["msg"])
            return Entry(at, _slug(kind), detail, expected=wanted, got=got)


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
    if "_" not in text.split(" ")[0]:  # a member keeps its name
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


_DTYPES: Final = {
    "float": "float32",
    "single": "float32",
    "half": "float32",
    "float16": "float32",
    "bfloat16": "float32",
    "double": "float64",
    "long": "int64",
    "integer": "int64",
    "int": "int32",
    "short": "int16",
    "char": "int8",
    "byte": "uint8",
}
"""Other words for dtypes, as torch and people have them, and the dtype of documents that comes nearest."""


def nearest_hint(word: str, known: Iterable[str]) -> str | None:
    """ "Did you mean …?" for a misspelt word, or None when nothing is near."""
    import difflib

    choices = list(known)
    dtype = _DTYPES.get(word.lower().removeprefix("torch."))
    if dtype in choices:
        return f"Did you mean {dtype!r}?"
    lower = {choice.lower(): choice for choice in choices}
    if word.lower() in lower:
        return f"Did you mean {lower[word.lower()]!r}?"
    near = difflib.get_close_matches(word[:100], choices, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else None


_SPELT: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


def cleaned_name(name: str) -> str | None:
    """What would do instead of `name` as the name of a model or alias."""
    plain = unicodedata.normalize("NFKD", name[:200].lower().translate(_SPELT))
    bare = "".join(sign for sign in plain if not unicodedata.combining(sign))
    near = re.sub(r"[^a-z0-9._-]+", "-", bare).strip(".-_")[:63].rstrip(".")
    if near in ("", name):
        return None
    return nearest_hint(name, [near]) or f"{near!r} would do."
