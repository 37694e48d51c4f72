"""Published versions: manifest, signature, aliases. Knows no store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from service.errors import Entry, InvalidName, shorten
from service.schemas.document import NAME_RULE, RESOURCE_NAME, Digest, Document, cleaned_name
from service.schemas.engines import EngineRecord

DEFAULT_ALIAS: Final = "champion"
RESERVED_NAMES: Final = frozenset({"stats"})


class TensorSpec(Document):
    """One input or output of a version: name, dtype (torch's word), shape of which the first entry is the batch "B"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Signature(Document):
    """What a version takes and answers, before and after its own preprocessing.

    `columns` names the values of one flat input row, in order, where the training data had named columns.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    columns: tuple[str, ...] | None = None


class VersionFile(Document):
    """A file of a version."""

    name: str
    size_bytes: int
    sha256: str


class BatchIndependence(Document):
    """Whether a row's answer is the same alone and among others: tried when the version was made.

    Only such a version's requests may ever be merged. `deviation` is the largest one seen, relative to the largest
    answer; null when even the shapes differ.
    """

    independent: bool
    deviation: float | None
    rows: int


class Manifest(Document):
    """Everything about a version but its weights; written last, so a folder with a manifest is whole."""

    format: Literal[1] = 1
    model: str
    version: int
    digest: Digest
    architecture_digest: Digest
    weights_digest: Digest
    created_at: str
    metrics: dict[str, float]
    signature: Signature
    classes: tuple[str, ...] | None = None
    batch_independence: BatchIndependence | None = None
    engine: EngineRecord | None = None
    """What serves it; None for versions of before there was a choice: the plan, contiguous."""
    lineage: dict[str, Any]
    files: tuple[VersionFile, ...]
    size_bytes: int


class VersionDraft(Document):
    """What a worker says about the version it has staged; the store adds name, number and time."""

    digest: Digest
    architecture_digest: Digest
    weights_digest: Digest
    metrics: dict[str, float]
    signature: Signature
    classes: tuple[str, ...] | None = None
    batch_independence: BatchIndependence | None = None
    engine: EngineRecord | None = None
    lineage: dict[str, Any]
    files: tuple[VersionFile, ...]
    """As the worker measured them; the store measures again before it publishes."""


JOB_REFERENCE: Final = r"job_[0-9a-f]{32}"
"""The id of a job, where a model reference stands: its version, or before there is one its best checkpoint."""


def same_rows(first: Manifest, second: Manifest) -> bool | None:
    """Whether the metrics of two versions come from the same rows: those of one dataset, or of one
    file with other columns, parted in one way.

    None where one of them says nothing of rows: an import, or a version published once more.
    """
    found = []
    for lineage in (first.lineage, second.lineage):
        if "dataset" not in lineage or "split" not in lineage["resolved_spec"]:
            return None
        found.append((lineage["dataset"], lineage["resolved_spec"]["split"]))
    (one, parted), (other, parted_too) = found
    both = one.get("rows_digest"), other.get("rows_digest")
    alike = both[0] == both[1] if None not in both else one["digest"] == other["digest"]
    return alike and parted == parted_too


@dataclass(frozen=True, slots=True)
class Reference:
    """A model reference: `name`, `name@alias` or `name/3`."""

    model: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.model}@{self.alias}"
        return self.model if self.version is None else f"{self.model}/{self.version}"


def parse_reference(text: str, *, at: str = "/model") -> Reference:
    """Read a model reference.

    Raises:
        InvalidName: the text is not of the form `name`, `name@alias` or `name/3`.
    """
    match = re.fullmatch(r"([^@/]+)(?:@([^@/]+)|/([1-9][0-9]{0,8}))?", text)
    if match is None:
        raise InvalidName(
            "This is not a model reference.",
            errors=[
                Entry(
                    at,
                    "invalid-name",
                    "Not a model reference.",
                    expected="name, name@alias or name/3",
                    got=shorten(text),
                )
            ],
        )
    name, alias, version = match.groups()
    check_name(name, at=at)
    if alias is not None:
        check_alias(alias, at=at)
    return Reference(name, alias, int(version) if version else None)


def reference_of(model: str, version: int | None, *, at: str) -> Reference:
    """A reference in two members: `model`, which is one by itself, and beside a bare name `version`.

    Args:
        at: the pointer to the object whose members they are.

    Raises:
        InvalidName: `model` is no reference, or names a version already.
    """
    found = parse_reference(model, at=f"{at}/model")
    if version is None:
        return found
    if found.alias is not None or found.version not in (None, version):
        detail = f"{shorten(model)} says already which version is meant."
        hint = "Leave `version` out, or the part of `model` behind the name."
        raise InvalidName(detail, errors=[Entry(f"{at}/version", "conflict", detail, hint=hint, got=str(version))])
    return Reference(found.model, version=version)


def check_name(name: str, *, at: str) -> str:
    """The name itself when a model may have it.

    Raises:
        InvalidName: the pattern does not hold, or the name is reserved.
    """
    problem = None
    if re.fullmatch(RESOURCE_NAME, name) is None:
        problem = NAME_RULE
    elif name in RESERVED_NAMES or name.startswith("job_"):
        problem = "This name is reserved."
    if problem:
        raise InvalidName(
            f"{shorten(name)} cannot be the name of a model.",
            errors=[
                Entry(
                    at,
                    "invalid-name",
                    problem,
                    expected="a name such as my-model.v2",
                    got=shorten(name),
                    hint=cleaned_name(name),
                )
            ],
        )
    return name


def check_alias(alias: str, *, at: str) -> str:
    """The alias itself when it may be one: the pattern of names, but not only digits.

    Raises:
        InvalidName: otherwise.
    """
    if re.fullmatch(RESOURCE_NAME, alias) is None or alias.isdigit():
        raise InvalidName(
            f"{shorten(alias)} cannot be an alias.",
            errors=[
                Entry(
                    at,
                    "invalid-name",
                    "Aliases follow the rule of names and are not all digits.",
                    expected="a name such as champion",
                    got=shorten(alias),
                    hint=cleaned_name(alias),
                )
            ],
        )
    return alias
