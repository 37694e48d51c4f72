"""Jobs: their kinds, their states and transitions, their events.

    queued ──▶ starting ──▶ running ──▶ succeeded
      │  ▲         │         │  │ └───▶ failed
      │  │         │         │  └─────▶ cancelling ──▶ cancelled
      │  └─ interrupted ◀────┴───────── (the worker is gone, or the server is stopping)
      └─────────────────────────────────────────────▶ cancelled

Knows no queue and no process.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, WithJsonSchema

from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry, ServiceError, ValidationFailed
from service.schemas import architecture as architectures
from service.schemas.architecture import Architecture
from service.schemas.datasets import DatasetId, Seed, Source
from service.schemas.document import Digest, Document, ResourceName, entries, read
from service.schemas.training import MetricName, Objective, TrainingConfig


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    """Waits for a free slot."""
    STARTING = "starting"
    """Claimed; its worker process is being made."""
    RUNNING = "running"
    """The worker works, or its result is being published."""
    CANCELLING = "cancelling"
    """The worker was told to stop and to keep its checkpoint."""
    INTERRUPTED = "interrupted"
    """The worker is gone without a result; goes back to the queue while attempts remain."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ACTIVE: Final = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CANCELLING})

TRANSITIONS: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.CANCELLED}),
    JobState.STARTING: frozenset(
        {JobState.RUNNING, JobState.CANCELLING, JobState.INTERRUPTED, JobState.SUCCEEDED, JobState.FAILED}
    ),
    JobState.RUNNING: frozenset({JobState.CANCELLING, JobState.INTERRUPTED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.INTERRUPTED: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

EventType = Literal["state", "progress", "metrics", "checkpoint", "warning", "log", "done"]

ModelReference = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}(?:@[a-z0-9][a-z0-9._-]{0,62}|/[1-9][0-9]{0,8})?$"),
]

ArchitectureField = Annotated[
    Any,
    WithJsonSchema(
        {
            "title": "Architecture",
            "description": (
                "An architecture document (its JSON Schema stands at /v1/architectures/schema), or the digest of a "
                "stored one."
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
            ],
        }
    ),
]


class Output(Document):
    """Where a job's version goes: a model, and the alias that is set when the job succeeds."""

    model: ResourceName
    alias_on_success: ResourceName | None = None


class TrainSpec(TrainingConfig):
    """Train an architecture on a dataset and publish the result as a version."""

    kind: Literal["train"]
    architecture: ArchitectureField
    dataset: DatasetId | Source
    output: Output
    labels: dict[str, str] = Field(default={}, max_length=32)


class EvaluateSpec(Document):
    """Measure a version on a dataset, without preprocessing other than the version's own."""

    kind: Literal["evaluate"]
    model: ModelReference
    dataset: DatasetId | Source
    objective: Objective
    metrics: Annotated[tuple[MetricName, ...], Field(max_length=16)] | None = None
    labels: dict[str, str] = Field(default={}, max_length=32)


class ImportSpec(Document):
    """Make a version from an architecture and weights: inline, or initialised from the seed."""

    kind: Literal["import"]
    architecture: ArchitectureField
    state_dict: dict[str, Any] | None = None
    allow_nonfinite: bool = False
    seed: Seed = 0
    output: Output
    labels: dict[str, str] = Field(default={}, max_length=32)


JobSpec = Annotated[TrainSpec | EvaluateSpec | ImportSpec, Field(discriminator="kind")]
JOB_SPEC: Final[TypeAdapter[TrainSpec | EvaluateSpec | ImportSpec]] = TypeAdapter(JobSpec)


def parse_job(body: object) -> tuple[TrainSpec | EvaluateSpec | ImportSpec, Architecture | str | None]:
    """A job request as its document and its architecture: a parsed document, a digest, or None for kinds without one.

    Raises:
        ValidationFailed: with every mistake of the request, those in the architecture included.
    """
    found: list[Entry] = []
    too_large: ServiceError | None = None
    parsed: Architecture | str | None = None
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
                    expected="sha256: and 64 hexadecimal digits, or an architecture document",
                    got=given[:32],
                )
            )
    elif "architecture" in members:
        try:
            parsed = architectures.parse(given, prefix="/architecture")
        except (ArchitectureInvalid, ArchitectureTooLarge) as refused:
            found += refused.errors
            too_large = refused if isinstance(refused, ArchitectureTooLarge) else None
    try:
        spec = read(JOB_SPEC, body)
    except ValidationError as error:
        found = entries(error, body) + found
        raise ValidationFailed("The job request has mistakes.", errors=found) from None
    if too_large is not None:
        raise too_large
    if found:
        raise ArchitectureInvalid(errors=found)
    return spec, parsed
