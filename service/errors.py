"""Every exception that this service raises on purpose, and the entry that names one mistake.

Knows nothing of HTTP: each front has one table from these classes to its own status codes (`rest/problems.py`).

ServiceError
├── MalformedBody               the bytes are not what they claim to be
├── UnsupportedMediaType        another content type was expected
│   └── UnsupportedEncoding     the body is compressed
├── TooLarge                    a limit on size was passed; `limit` names it
│   ├── BodyTooLarge
│   └── BatchTooLarge
├── InvalidInput                readable but wrong; `errors` lists every mistake
│   ├── ValidationFailed
│   ├── NotFinite
│   ├── ShapeMismatch
│   ├── DtypeMismatch
│   ├── InvalidName
│   ├── ArchitectureInvalid
│   ├── ArchitectureTooLarge
│   ├── CheckpointRefused
│   ├── DatasetRefused
│   ├── DigestMismatch
│   ├── IdempotencyMismatch
├── Unauthenticated             nobody that is known asks
├── Forbidden                   somebody asks who may not
├── NotFound
├── Conflict                    the request is right, the state is not
│   ├── InUse
│   └── VersionInUse
├── PreconditionFailed          If-Match named another state
├── PreconditionRequired        a change that needs If-Match came without it
├── Busy                        try again after `retry_after_s`
│   ├── QueueFull
│   ├── Overloaded
│   ├── RateLimited             this caller asks too often
│   ├── Draining
│   ├── DatabaseBusy
│   └── TooManyConnections
├── DeadlinePassed
├── Unsupported                 known, and not done here
├── StoreError                  the store cannot do it now
│   ├── StoreReadOnly
│   ├── StoreFull
│   ├── StoreLocked             another server holds this store
│   ├── StoreTooNew             the store was written by a newer release
│   └── ModelQuarantined        the stored bytes are not the published ones
└── JobFailed                   a job's failure, with a code from the closed list `FAILURE_CODES`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

MAX_ENTRIES: Final = 20
"""At most so many mistakes are listed in one answer; a last entry counts the others."""

_MAX_GOT: Final = 64
_MAX_LISTED: Final = 10

CheckpointReason = Literal[
    "keys",
    "shapes",
    "dtype",
    "not-finite",
    "not-a-checkpoint",
    "digest-mismatch",
    "code",
    "truncated",
    "damaged",
    "crc-mismatch",
    "compressed",
    "duplicate-entry",
    "geometry",
    "too-large",
    "unsupported-format",
]
"""Why weights are refused: what a failed job has as `error.reason` beside the code `checkpoint_refused`."""

CHECKPOINT_REASONS: Final[Mapping[CheckpointReason, str]] = {
    "keys": "Tensors are missing, or are there that the architecture does not have.",
    "shapes": "A tensor has another shape than the architecture gives it.",
    "dtype": "A tensor has another type, or holds numbers that its type cannot.",
    "not-finite": "A weight is not finite, or too large for its type.",
    "not-a-checkpoint": "The file holds no state_dict, or is damaged.",
    "digest-mismatch": "The files of a stored version are not the published ones; it is quarantined.",
    "code": "The file asks for code to be run, or is made of code. Nothing of it ran.",
    "truncated": "The file ends before what it announces.",
    "damaged": "The bytes are not what the format asks for: a header, a name, a pickle, a place that lies outside.",
    "crc-mismatch": "An entry does not have the check sum that the file gives for it.",
    "compressed": "An entry is compressed; torch stores its entries as they are.",
    "duplicate-entry": "Two entries have one name, or lie over each other.",
    "geometry": "A tensor does not lie inside its storage, or claims more elements than the storage has.",
    "too-large": "A limit of the reader was passed: tensors, names, operations, nesting, memory or time.",
    "unsupported-format": "The format was recognised, and is not read here; `hint` says what to save instead.",
}
"""What each reason means."""

WARNINGS: Final[Mapping[str, tuple[str, str]]] = {
    "odd": ("architecture", "A layer's arguments are allowed, and hardly what is meant; the sentence says why."),
    "overwrites": (
        "architecture",
        "A layer is `inplace`, and its input is read again: torch would read the changed one.",
    ),
    "reshape-batch": ("architecture", "`reshape` takes the sizes after the batch: a leading -1 became 1."),
    "size-constrained": ("architecture", "Not every value of a symbol fits; the sentence names one that does not."),
    "softmax-dim": ("architecture", "A softmax has no `dim`; dimension 1 is taken."),
    "unused-block": ("architecture", "A block is declared and never used."),
    "unused-input": ("architecture", "A net or a graph never reads one of its inputs."),
    "unused-param": ("architecture", "A param is declared and never used."),
    "frozen-fresh": ("edits", "A tensor is frozen and new: it would keep the values that it is drawn with."),
    "input-changed": ("edits", "The shape of the net's input follows its new first layer."),
    "net-alone": ("edits", "The digest names the edited net without its weights and freezes."),
    "nearly-numbers": ("dataset", "A few cells, or how its numbers are written, make a column one of texts."),
    "unlabelled-rows": ("dataset", "Rows without a label are left out, as the source asks; the sentence counts them."),
    "class-imbalance": ("profile", "One class has many times the rows of another."),
    "constant-column": ("profile, job", "A column has one value in all rows."),
    "duplicate-rows": ("profile", "Rows have the same inputs as other rows."),
    "empty-class": ("profile", "No row is of a class that is declared."),
    "many-missing": ("profile", "Many rows have no value in a column."),
    "too-many-categories": (
        "profile, job",
        "A column has so many different texts that one-hot makes a wide net of it.",
    ),
    "unscaled-inputs": ("profile, job", "The inputs are numbers of a size on which nets train badly."),
    "unscaled-targets": ("job", "The targets are numbers of a size that nets learn slowly, and no step scales them."),
    "batch-of-one": ("job", "A batch has one row, and a BatchNorm cannot normalise a single value while training."),
    "frozen-new": ("job", "Something is frozen that no weights are taken over for: it stays as it was drawn."),
    "large-batch": ("job", "There are fewer training rows than a batch has; each step takes all of them."),
    "leakage": ("job", "Held-out rows have the inputs of training rows: metrics look better than they are."),
    "little-kept": ("job", "Less than half of the parameters begin with the weights that were asked for."),
    "logsoftmax-missing": ("job", "The objective takes log-probabilities, and the net gives others."),
    "nothing-kept": ("job", "No parameter begins with the weights that were asked for."),
    "preprocessing-left-out": ("job", "The exported file holds the net alone, without what prepares its rows."),
    "relu-on-output": ("job", "The net's last layer never answers below 0, and the objective is one of numbers."),
    "sigmoid-missing": ("job", "The objective takes probabilities, and the net gives others."),
    "sigmoid-twice": ("job", "The net ends in a sigmoid, and the objective applies one too."),
    "softmax-twice": ("job", "The net ends in a softmax, and the objective applies one too."),
    "learning-rate-high": ("dry run", "The loss grows in the first steps; `expected` has a rate with which it falls."),
    "memory-limit": (
        "dry run",
        "The job needs more memory than a worker may take; `expected` has a batch that would fit.",
    ),
    "engine-refused": ("event", "The engine that was asked for does not take the net; the version is served without."),
    "promotion-refused": ("event", "The condition does not hold: the version is published, the alias did not move."),
    "missing-value": (
        "prediction",
        "A value is missing where the version may do without; the sentence says what was taken.",
    ),
    "not-finite-output": ("prediction", "An output is not finite; it is answered as null."),
    "outside-training-range": ("prediction", "An input lies outside the range of the training rows."),
    "unknown-category": ("prediction", "A text was not among the training rows."),
    "unpublished": ("prediction", "A job's checkpoint has answered, not a version."),
}
"""The codes of warnings, of which none keeps a request from being done: where each is told, and what it means."""


def shorten(value: object) -> str:
    """A rendering of `value` that is safe to show: printable, at most 64 characters."""
    if isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, str):
        text = repr(value[: _MAX_GOT + 1])
    elif isinstance(value, int):
        text = str(value) if abs(value) < 10**40 else f"an integer of {value.bit_length()} bits"
    elif isinstance(value, float):
        text = repr(value)
    elif isinstance(value, Mapping):
        text = f"an object with {len(value)} members"
    elif isinstance(value, (list, tuple)):
        text = f"a list of {len(value)}"
    else:
        text = type(value).__name__
    if not text.isprintable():
        text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return text if len(text) <= _MAX_GOT else text[: _MAX_GOT - 1] + "…"


def listed(names: Sequence[str]) -> str:
    """Names that are safe to show, each in quotes of its own: the first ten, and how many more there are."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(shorten, names[:_MAX_LISTED])) + more


@dataclass(frozen=True, slots=True)
class Entry:
    """One mistake or warning: where it is, what is wrong, and what would be right.

    Args:
        pointer: RFC 6901 pointer into the request body ("" is the whole body).
        code: stable slug of the kind of mistake.
        detail: one sentence.
        layer: dotted path of the layer concerned.
        hint: what to do about it.
        expected: what would have been right.
        got: a short rendering of what was there, never the whole input.
    """

    pointer: str
    code: str
    detail: str
    layer: str | None = None
    hint: str | None = None
    expected: str | None = None
    got: str | None = None

    def to_dict(self) -> dict[str, str]:
        """The entry as JSON members; what is not known is left out."""
        members = {
            "pointer": self.pointer,
            "code": self.code,
            "detail": self.detail,
            "layer": self.layer,
            "hint": self.hint,
            "expected": self.expected,
            "got": self.got,
        }
        return {name: value for name, value in members.items() if value is not None}


def summary(message: str, entries: Sequence[Entry]) -> str:
    """A message and its first mistakes in one line, for clients that show nothing else."""
    told = []
    for entry in entries[:3]:
        inside = entry.pointer.startswith(("/inputs", "/outputs", "/parameters", "/id", "/raw"))
        told.append(f"{entry.pointer}: {entry.detail}" if inside else entry.detail)
    if not any(message in one for one in told):
        told.insert(0, message)
    return " ".join(told)[:1000]


class ServiceError(Exception):
    """The request could not be served."""

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str | None = None,
        *,
        errors: Sequence[Entry] = (),
        more: int = 0,
        limit: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.errors = tuple(errors)
        self.more = more  # mistakes that were counted, but not put down in `errors`
        self.limit = dict(limit) if limit else None
        self.retry_after_s = retry_after_s
        self.hint = hint  # what to do next, where there are no `errors` that say it
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("errors are sent as documents, not pickled")


class MalformedBody(ServiceError):
    """The body is not well-formed JSON, or is nested too deeply."""

    code = "malformed-json"


class UnsupportedMediaType(ServiceError):
    """The body's content type is not supported here."""

    code = "unsupported-media-type"


class UnsupportedEncoding(UnsupportedMediaType):
    """Compressed bodies are not read here."""

    code = "unsupported-encoding"


class TooLarge(ServiceError):
    """The request is larger than a limit allows."""

    code = "body-too-large"


class BodyTooLarge(TooLarge):
    """The body is larger than this server accepts."""


class BatchTooLarge(TooLarge):
    """The request holds more rows or elements than one prediction may."""

    code = "batch-too-large"


class InvalidInput(ServiceError):
    """The request is well-formed but wrong."""

    code = "validation-failed"


class ValidationFailed(InvalidInput):
    """The body does not fit what this operation takes."""


class NotFinite(InvalidInput):
    """A number is not finite, or too large for its type."""

    code = "not-finite"


class ShapeMismatch(InvalidInput):
    """The values do not have the shape that is expected."""

    code = "shape-mismatch"


class DtypeMismatch(InvalidInput):
    """The values do not have the type that is expected."""

    code = "dtype-mismatch"


class InvalidName(InvalidInput):
    """The name is not allowed."""

    code = "invalid-name"


class ArchitectureInvalid(InvalidInput):
    """The architecture cannot be built."""

    code = "architecture-invalid"


class ArchitectureTooLarge(InvalidInput):
    """The architecture is larger than this server accepts."""

    code = "architecture-too-large"


class CheckpointRefused(InvalidInput):
    """The weights do not fit the architecture."""

    code = "checkpoint-refused"

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: CheckpointReason,
        errors: Sequence[Entry] = (),
        more: int = 0,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, errors=errors, more=more, hint=hint)
        self.reason = reason

    @property
    def failure(self) -> str:
        """What a job fails with because of this: a file that holds code is told apart from one that does not fit."""
        return "unsafe_checkpoint" if self.reason == "code" else "checkpoint_refused"


class DatasetRefused(InvalidInput):
    """The data cannot be read as a dataset."""

    code = "dataset-refused"


class DigestMismatch(InvalidInput):
    """The bytes do not have the digest that was sent with them."""

    code = "digest-mismatch"


class IdempotencyMismatch(InvalidInput):
    """This Idempotency-Key was used before with another body."""

    code = "idempotency-mismatch"


class Unauthenticated(ServiceError):
    """This needs a valid API key."""

    code = "unauthenticated"


class Forbidden(ServiceError):
    """The API key does not allow this."""

    code = "forbidden"

    def __init__(self, message: str | None = None, *, scope: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or (f"Use a key of the scope {scope}." if scope else None))
        self.scope = scope  # the least one that is allowed this, if any is


class CrossOrigin(Forbidden):
    """A page of another site has made the browser send this."""

    code = "cross-origin"


class NotFound(ServiceError):
    """There is no such path or resource."""

    code = "not-found"

    def at(self, pointer: str) -> NotFound:
        """The same, told of the place in the request that names what is not there."""
        hint = self.errors[0].hint if self.errors else self.hint
        return NotFound(self.message, errors=[Entry(pointer, self.code, self.message, hint=hint)])


class Conflict(ServiceError):
    """The resource is in a state that does not allow this, or something else still refers to it."""

    code = "conflict"


class InUse(Conflict):
    """The resource is in a state that does not allow this, or something else still refers to it.

    Of the two it is the latter; the sentence is that of the code, which a plain `Conflict` has too.
    """


class VersionInUse(Conflict):
    """An alias still points at the version."""

    code = "version-in-use"


class PreconditionFailed(ServiceError):
    """The resource has changed since the state that If-Match names."""

    code = "precondition-failed"


class PreconditionRequired(ServiceError):
    """This change needs an If-Match header (or `If-None-Match: *` to create)."""

    code = "precondition-required"


class Busy(ServiceError):
    """The server is busy; try again later."""

    code = "overloaded"


class QueueFull(Busy):
    """The job queue is full."""

    code = "queue-full"


class Overloaded(Busy):
    """More work is waiting than this server accepts."""


class RateLimited(Busy):
    """The quota of the API key is used up, or too many wrong keys came from this address."""

    code = "rate-limited"


class Draining(Busy):
    """The server is starting or shutting down."""

    code = "draining"


class DatabaseBusy(Busy):
    """The database is busy."""

    code = "database-busy"


class TooManyConnections(Busy):
    """As many connections are open as this server holds, or as one address may have."""

    code = "too-many-connections"


class DeadlinePassed(ServiceError):
    """The deadline passed before there was an answer."""

    code = "deadline-passed"


class Unsupported(ServiceError):
    """The Open Inference Protocol has this extension, this server has not."""

    code = "unsupported"


class StoreError(ServiceError):
    """The store cannot be used: an error of the disk, or a damaged database."""

    code = "store-error"


class StoreReadOnly(StoreError):
    """The store cannot be written to."""

    code = "store-read-only"


class StoreFull(StoreError):
    """The store's disk is full."""

    code = "store-full"


class MemoryFull(StoreError):
    """There is not enough memory for this now."""

    code = "memory-full"


class StoreLocked(StoreError):
    """Another server holds this store."""

    code = "store-locked"


class StoreTooNew(StoreError):
    """This store was written by a newer release."""

    code = "store-too-new"


class ModelQuarantined(StoreError):
    """The stored files of this version are not the ones that were published."""

    code = "model-quarantined"


FAILURE_CODES: Final[Mapping[str, tuple[str, str]]] = {
    "out_of_memory": (
        "The worker needed more memory than it may take.",
        "Smaller batches or layers, or a larger `MODELYARD_JOB_MEMORY_BYTES`.",
    ),
    "non_finite_loss": (
        "The loss became NaN or infinite. Nothing was published.",
        "A lower learning rate, `clip_grad_norm`, standardised inputs.",
    ),
    "shape_error": (
        "Shapes did not fit while the net ran.",
        "Validate the architecture with the dataset's row shape.",
    ),
    "data_error": (
        "The data could not be read or prepared.",
        "See the sentence; look at the dataset's preview and profile.",
    ),
    "label_out_of_range": (
        "A class index is not below the number of outputs.",
        "As many outputs as classes; indices count from 0.",
    ),
    "not_deterministic": (
        "The job is to be deterministic, and an operation of its net cannot be.",
        "Leave `deterministic` out, or take another layer.",
    ),
    "timeout": ("The attempt ran longer than `MODELYARD_JOB_TIMEOUT_S`.", "A smaller budget."),
    "stalled": ("The worker reported nothing for too long.", "See the job's logs; retry."),
    "worker_lost": (
        "The worker ended without a result, as often as is allowed.",
        "See the job's logs; often the machine was short of memory.",
    ),
    "disk_full": ("There was no room for checkpoints or the version.", "Make room and submit again."),
    "cancelled_by_user": ("Somebody cancelled it.", "Nothing."),
    "unsafe_checkpoint": (
        "The file holds code, not only tensors. Nothing of it ran.",
        "Save a `state_dict` and send that.",
    ),
    "checkpoint_refused": (
        "The weights cannot be taken; `error.reason` says why.",
        "Compare keys, shapes and types with the architecture.",
    ),
    "architecture_needed": (
        "The weights alone do not say what the net computes.",
        "Submit again with a document; the report lists what is missing.",
    ),
    "export_refused": (
        "The net cannot be written in the format that was asked for; the layer is named.",
        "Take the bundle or the safetensors, or change the layer.",
    ),
    "engine_refused": (
        "The engine that was asked for cannot take the net, or does not answer as the plan does.",
        "Leave `engine` out, or ask for another one.",
    ),
    "internal": ("A bug of the service.", "Report it with the job's id."),
}
"""Why a job can fail: a closed list, part of the HTTP contract. What each means, and what to do about it."""


class JobFailed(ServiceError):
    """The job failed, or what is asked for needs one that failed."""

    code = "job-failed"

    def __init__(
        self,
        failure: str,
        detail: str,
        *,
        hint: str | None = None,
        pointer: str | None = None,
        epoch: int | None = None,
        step: int | None = None,
        reason: CheckpointReason | None = None,
        errors: Sequence[Entry] = (),
        more: int = 0,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        if failure not in FAILURE_CODES:
            raise ValueError(f"{failure!r} is not a failure code")
        super().__init__(detail, errors=errors, more=more)
        self.failure = failure
        self.hint = hint
        self.pointer = pointer
        self.epoch = epoch
        self.step = step
        self.reason = reason
        self.report = report

    def to_dict(self) -> dict[str, Any]:
        """The job's `error` member, with the job's `report` in it where there is one."""
        members: dict[str, Any] = {
            "code": self.failure,
            "detail": self.message,
            "hint": self.hint,
            "pointer": self.pointer,
            "epoch": self.epoch,
            "step": self.step,
            "reason": self.reason,
        }
        found = {name: value for name, value in members.items() if value is not None}
        if self.errors:
            found["errors"] = [entry.to_dict() for entry in self.errors]
        if self.more:
            found["more"] = self.more
        if self.report is not None:
            found["report"] = dict(self.report)
        return found
