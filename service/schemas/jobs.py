"""Jobs: their kinds and what is asked for. Their states stand in `states`. Knows no queue and no process."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from service.errors import (
    ArchitectureInvalid,
    ArchitectureTooLarge,
    Entry,
    InvalidName,
    ServiceError,
    ValidationFailed,
)
from service.schemas import architecture as architectures
from service.schemas import catalogue
from service.schemas.architecture import Architecture, InputSpec
from service.schemas.catalogue import Unsized
from service.schemas.datasets import DatasetId, Seed, Source, UploadId
from service.schemas.document import Digest, Document, disagreement, entries, read
from service.schemas.edits import EDITED_ARCHITECTURE, EditedArchitecture
from service.schemas.judgement import Limits, require
from service.schemas.objectives import Objective
from service.schemas.outputs import Output as Output
from service.schemas.outputs import checked
from service.schemas.states import ACTIVE as ACTIVE  # these stand apart, since clients need no more of jobs
from service.schemas.states import FINAL as FINAL
from service.schemas.states import RETRIABLE as RETRIABLE
from service.schemas.states import TRANSITIONS as TRANSITIONS
from service.schemas.states import JobState as JobState
from service.schemas.training import MetricName, TrainingConfig
from service.schemas.versions import JOB_REFERENCE, parse_reference

ModelReference = Annotated[
    str,
    checked(parse_reference),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[a-z0-9][a-z0-9._-]{0,62}(?:@[a-z0-9][a-z0-9._-]{0,62}|/[1-9][0-9]{0,8})?$",
        }
    ),
]

ArchitectureField = Annotated[
    Any,
    WithJsonSchema(
        {
            "title": "Architecture",
            "description": (
                "An architecture document (its JSON Schema stands at /v1/architectures/schema), the digest of a "
                "stored one, a net of the catalogue, or edits of a version or document: with a version its weights "
                "are taken over."
            ),
            "anyOf": [
                {
                    "type": "object",
                    "required": ["schema", "inputs", "root"],
                    "properties": {
                        "schema": {"const": "arch/1"},
                        "inputs": {"type": "array", "items": {"type": "object"}, "minItems": 1},
                        "root": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}},
                    },
                },
                {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
                {
                    "type": "object",
                    "description": (
                        "A net of the catalogue with values for some of its params. In a training `in_features`, "
                        '`in_channels` and `num_classes` may be "auto": as the data have them.'
                    ),
                    "required": ["catalogue"],
                    "properties": {"catalogue": {"enum": list(catalogue.names())}, "params": {"type": "object"}},
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "required": ["from", "edits"],
                    "properties": {
                        "from": {
                            "anyOf": [
                                {"type": "object", "required": ["model"]},
                                {"type": "object", "required": ["architecture"]},
                                {"type": "object", "required": ["catalogue"]},
                            ]
                        },
                        "edits": {"type": "array", "items": {"type": "object", "required": ["op"]}, "minItems": 1},
                    },
                },
            ],
        }
    ),
]


Priority = Annotated[int, Field(ge=-100, le=100)]
"""The next job is the oldest of the highest."""


class TrainSpec(TrainingConfig):
    """Train an architecture on a dataset and publish the result as a version."""

    kind: Literal["train"]
    architecture: ArchitectureField
    dataset: DatasetId | Source
    output: Output
    labels: dict[str, str] = Field(default={}, max_length=32)
    priority: Priority = 0


class EvaluateSpec(Document):
    """Measure a version on a dataset, without preprocessing other than the version's own."""

    kind: Literal["evaluate"]
    model: ModelReference
    dataset: DatasetId | Source
    objective: Objective
    metrics: Annotated[tuple[MetricName, ...], Field(max_length=16)] | None = None
    labels: dict[str, str] = Field(default={}, max_length=32)
    priority: Priority = 0


class ExportSpec(Document):
    """Write the net of a version, without its preprocessing, in another program's format; the job keeps the file."""

    kind: Literal["export"]
    model: ModelReference
    format: Literal["onnx"]
    labels: dict[str, str] = Field(default={}, max_length=32)
    priority: Priority = 0


class RenameRule(Document):
    """Rename the keys of a file: `from` is a key or its beginning, where `*` is a name and `**` are several.

    What the stars stand for is put in the place of those of `to`, in order.
    """

    from_: Annotated[str, StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9_.*-]*$"), Field(alias="from")]
    to: Annotated[str, StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9_.*-]*$")]


ForwardLines = Annotated[
    tuple[Annotated[str, StringConstraints(max_length=4096)], ...], Field(min_length=1, max_length=4096)
]
ForwardOf = Annotated[str, StringConstraints(max_length=255)]


class ImportSpec(Document):
    """Make a version from weights: of an uploaded file, inline, of a checkpoint, or initialised from the seed.

    An upload may bring its architecture along; `inputs` say what such a net takes, `forward` how it and its parts call
    their layers (lines for the net itself, or lines by path or class), where the file does not. `part` names the
    weights in a checkpoint that has several sets of them. `job` is a train job that has made no version: its best
    checkpoint is taken, with all that belongs to it. `model` is a version that is published once more as it is, to be
    served by another engine.
    """

    kind: Literal["import"]
    model: ModelReference | None = None
    architecture: ArchitectureField | None = None
    upload: UploadId | None = None
    job: Annotated[str, StringConstraints(pattern=f"^{JOB_REFERENCE}$")] | None = None
    state_dict: dict[str, Any] | None = None
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1, max_length=64)] | None = None
    forward: ForwardLines | Annotated[dict[ForwardOf, ForwardLines], Field(min_length=1, max_length=256)] | None = None
    rename: Annotated[tuple[RenameRule, ...], Field(max_length=256)] = ()
    part: Annotated[str, StringConstraints(max_length=255)] | None = None
    allow_nonfinite: bool = False
    seed: Seed = 0
    output: Output
    labels: dict[str, str] = Field(default={}, max_length=32)
    priority: Priority = 0

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        found: list[Entry] = []
        if self.model is not None or self.job is not None:
            whole, whose = ("model", "version") if self.model is not None else ("job", "job's checkpoint")
            also = ("job",) if self.model is not None else ()
            for name in (*also, "architecture", "upload", "state_dict", "inputs", "forward", "rename", "part"):
                if getattr(self, name):
                    detail, hint = f"The {whose} brings this along.", f"Leave `{name}` or `{whole}` out."
                    found.append(Entry(f"/{name}", "conflict", detail, hint=hint))
        elif self.upload is None:
            if self.architecture is None:
                hint = "Send `architecture`, or an `upload` that brings it along."
                found.append(Entry("/architecture", "missing", "This member is required without an upload.", hint=hint))
            for name in ("inputs", "forward", "rename", "part"):
                if getattr(self, name):
                    detail = f"`{name}` is about an uploaded file, and there is no `upload`."
                    found.append(Entry(f"/{name}", "conflict", detail, hint="Send `upload`, or leave this out."))
        else:
            if self.state_dict is not None:
                detail, hint = "The weights come from the upload.", "Leave `state_dict` or `upload` out."
                found.append(Entry("/state_dict", "conflict", detail, hint=hint))
            for name in ("inputs", "forward"):
                if self.architecture is not None and getattr(self, name):
                    detail, hint = f"The architecture says the {name} already.", "Leave one of the two out."
                    found.append(Entry(f"/{name}", "conflict", detail, hint=hint))
        if found:
            raise disagreement(*found)
        return self


JobSpec = Annotated[TrainSpec | EvaluateSpec | ImportSpec | ExportSpec, Field(discriminator="kind")]
JOB_SPEC: Final[TypeAdapter[TrainSpec | EvaluateSpec | ImportSpec | ExportSpec]] = TypeAdapter(JobSpec)


Net: TypeAlias = Architecture | EditedArchitecture | str | None
"""A job's architecture: a document, edits of a net, a digest, or None for kinds without one."""

Given: TypeAlias = Net | Unsized
"""A job's architecture as its request says it: of a training, the sizes may be left to the data."""


def parse_job(
    body: object, *, limits: Limits | None = None
) -> tuple[TrainSpec | EvaluateSpec | ImportSpec | ExportSpec, Given]:
    """A job request as its document and its architecture.

    Raises:
        ValidationFailed: with every mistake of the request, those in the architecture included.
        InvalidName: if nothing but names is wrong.
        ArchitectureInvalid, ArchitectureTooLarge: if nothing but the architecture is wrong.
    """
    found: list[Entry] = []
    more = 0
    too_large: ServiceError | None = None
    parsed: Given = None
    members = body if isinstance(body, dict) else {}
    given = members.get("architecture")
    if isinstance(given, str):
        try:
            parsed = TypeAdapter(Digest).validate_python(given)
        except ValidationError:
            found.append(
                Entry(
                    "/architecture",
                    "invalid",
                    "A text here must be the digest of a stored architecture.",
                    hint=catalogue.hint_for(given),
                    expected="sha256: and 64 hexadecimal digits, or an architecture document",
                    got=given[:32],
                )
            )
    elif isinstance(given, dict) and ("edits" in given or "from" in given):
        try:
            parsed = read(EDITED_ARCHITECTURE, given)
        except ValidationError as error:
            found, more = entries(error, given, "/architecture", schema=EDITED_ARCHITECTURE.core_schema)
    elif "architecture" in members:
        unsized = catalogue.unsized(given) if members.get("kind") == "train" else None
        try:
            usual = architectures.parse(given if unsized is None else unsized.sized({}), prefix="/architecture")
            parsed = unsized or usual
        except (ArchitectureInvalid, ArchitectureTooLarge) as refused:
            found += refused.errors
            more = refused.more
            too_large = refused if isinstance(refused, ArchitectureTooLarge) else None
    try:
        spec = read(JOB_SPEC, body)
    except ValidationError as error:
        told, also = entries(error, body, schema=JOB_SPEC.core_schema)
        if isinstance(parsed, Architecture):  # its shapes are judged later; now is the time to tell of them too
            try:
                require(parsed, limits=limits, prefix="/architecture")
            except (ArchitectureInvalid, ArchitectureTooLarge) as refused:
                found += refused.errors
                more += refused.more
        found = [replace(entry, hint=_DATASET_HINTS.get(entry.pointer, entry.hint)) for entry in told] + found
        if all(entry.code == "invalid-name" and entry.pointer in _NAMES for entry in found):
            raise InvalidName("A name in the job request is not allowed.", errors=found) from None
        raise ValidationFailed("The job request has mistakes.", errors=found, more=more + also) from None
    if too_large is not None:
        raise too_large
    if found:
        raise ArchitectureInvalid(errors=found, more=more)
    return spec, parsed


_NAMES: Final = frozenset({"/model", "/output/model", "/output/alias_on_success"})
_UPLOAD_HINT: Final = "Send the file to POST /v1/uploads first, and write the id that it answers as `upload`."
_DATASET_HINTS: Final = {
    "/dataset": (
        "Name a dataset by its id, or bring a source: an object with its `type`, such as inline, or csv with the "
        "`upload` that POST /v1/uploads answers for a file."
    ),
    "/dataset/upload": _UPLOAD_HINT,
    "/dataset/file": _UPLOAD_HINT,
}
