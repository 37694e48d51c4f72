"""What the API answers, as types: for its OpenAPI description and for clients. Nothing is computed here.

Fields are those of the HTTP contract; a server may add members, so clients ignore what they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from service.errors import CheckpointReason
from service.schemas.engines import EngineRecord
from service.schemas.outputs import Output
from service.schemas.routing import Canary, Guard, Routing, Version
from service.schemas.states import JobState
from service.schemas.versions import BatchIndependence

T = TypeVar("T")


class View(BaseModel):
    """An answer; members may be added later."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class EntryView(View):
    """One mistake or warning: where, what, and what would be right."""

    pointer: str = Field(
        description="RFC 6901 pointer into the body; /path/…, /query/… and /header/… are the request's parameters."
    )
    code: str
    detail: str
    layer: str | None = None
    hint: str | None = None
    expected: str | None = None
    got: str | None = None


class Problem(View):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[EntryView] | None = None
    more: int | None = None
    limit: dict[str, Any] | None = None


class PageView(View, Generic[T]):
    """A page of a collection; `next` goes into the next request's `after`."""

    data: list[T]
    next: str | None


class LayerView(View):
    """A layer with its output for one batch."""

    path: str
    type: str
    output_shape: Any
    parameters: int
    flops: int


class TensorView(View):
    """An input or output; the first entry of its shape is the batch."""

    name: str
    dtype: str
    shape: list[int | str]


class Summary(View):
    """What a net consists of and costs: FLOPs and memory for one row."""

    layers: list[LayerView]
    parameters: int
    trainable_parameters: int
    flops: int
    memory_bytes: int
    inputs: list[TensorView]
    outputs: list[TensorView]


class Validation(View):
    """The verdict on a document."""

    valid: bool
    digest: str | None
    errors: list[EntryView]
    warnings: list[EntryView]
    summary: Summary | None
    mermaid: str | None = Field(None, description="The net as a flowchart, where `drawing` asked for it.")


Reading = Literal["authored", "canonical", "python", "mermaid", "summary", "table"]
"""A form in which a stored document can be read."""


class ArchitectureView(View):
    """A stored document."""

    digest: str
    authored: dict[str, Any]
    canonical: dict[str, Any]
    summary: Summary
    created_at: str


class CatalogueView(View):
    """A well-known net and what may be changed of it."""

    name: str
    params: dict[str, Any]


class ChangeView(View):
    """One difference between two nets, in words and with the values of both."""

    kind: str
    path: str
    detail: str
    field: str | None = None
    before: Any = None
    after: Any = None


class EffectView(View):
    """A total in both nets."""

    before: Any
    after: Any


class DiffView(View):
    """What differs between two nets."""

    a: str
    b: str
    equal: bool
    changes: list[ChangeView]
    parameters: EffectView
    outputs: EffectView
    text: str


class WeightMapView(View):
    """What becomes of every tensor of the source, and where those of the edited net come from."""

    kept: list[dict[str, str]]
    reshaped: list[dict[str, Any]]
    new: list[str]
    dropped: list[str]


class EditView(View):
    """A net after edits."""

    digest: str
    document: dict[str, Any]
    weights: WeightMapView
    freeze: list[str]
    frozen: list[str]
    source: dict[str, Any]
    summary: Summary
    warnings: list[EntryView]
    stored: bool


class UploadView(View):
    """Bytes in staging, for a dataset."""

    id: str
    size_bytes: int
    digest: str
    created_at: str


class ColumnView(View):
    """A column of a dataset."""

    name: str
    role: str
    dtype: str
    shape: list[int]
    classes: list[str] | None = None
    missing: int | None = None
    input: str | None = None


class DatasetView(View):
    """An immutable dataset."""

    id: str
    name: str | None
    state: Literal["processing", "ready", "failed"]
    digest: str | None
    source: dict[str, Any]
    rows: int | None
    columns: list[ColumnView]
    size_bytes: int | None
    warnings: list[EntryView]
    created_at: str
    error: dict[str, Any] | None = None


class PreviewView(View):
    """The first rows of a dataset."""

    columns: list[Any]
    rows: list[Any]


class ProfileView(View):
    """Each column's type, range, missing values and histogram, and what may trouble a training.

    `sampled` is how many rows the numbers are from, where these are too many to look at all.
    """

    columns: list[dict[str, Any]]
    sampled: int | None = None
    warnings: list[EntryView]


class AttemptView(View):
    """One worker's try at a job."""

    number: int
    pid: int | None
    state: str
    started_at: str
    ended_at: str | None
    resumed_from_step: int | None


class FailureView(View):
    """Why a job failed; `code` is from a closed list, and so is the `reason` of some codes."""

    code: str
    reason: CheckpointReason | None = None
    detail: str
    hint: str | None = None
    pointer: str | None = None
    epoch: int | None = None
    step: int | None = None


class JobSummary(View):
    """A job in a list: without its documents."""

    id: str
    kind: Literal["train", "evaluate", "import", "export"]
    replay_of: str | None
    state: JobState
    state_reason: str | None
    priority: int
    progress: dict[str, Any] | None
    metrics: dict[str, Any]
    error: FailureView | None
    attempts: list[AttemptView]
    dataset: dict[str, Any] | None
    seed: int | None
    environment: dict[str, Any] | None
    output: dict[str, Any] | None
    labels: dict[str, str]
    warnings: list[EntryView]
    created_at: str
    started_at: str | None
    finished_at: str | None


class JobView(JobSummary):
    """A job; `spec` is the request as sent, `resolved_spec` has every default filled in."""

    spec: dict[str, Any]
    resolved_spec: dict[str, Any]
    report: dict[str, Any] | None = None


class AdviceView(EntryView):
    """A warning of a dry run, with a JSON Patch (RFC 6902) that mends the request, if there is one."""

    severity: Literal["error", "warning"]
    patch: list[dict[str, Any]] | None


class ExaminationView(View):
    """What a job would come to; `valid` is false where a submit would be refused."""

    valid: bool
    resolved_spec: dict[str, Any]
    plan: dict[str, Any]
    memory_bytes: int | None
    memory: dict[str, int] | None
    estimate_s: float | None
    estimate: dict[str, Any]
    warnings: list[AdviceView]


class EventView(View):
    """Something that happened to a job; ids only ever grow."""

    id: int
    job_id: str
    at: str
    type: Literal["state", "progress", "metrics", "checkpoint", "warning", "log", "done"]
    data: dict[str, Any]


class SeriesView(View):
    """One metric over the steps."""

    name: str
    steps: list[int]
    epochs: list[int]
    values: list[float | None]


class MetricsView(View):
    """The metrics of a job; `thinned` says that values were left out."""

    series: list[SeriesView]
    total: int
    thinned: bool


PartOfRows: TypeAlias = Literal["train", "val", "test", "all"]
"""A part of the rows; `all` are those of an evaluation."""


class FigureEntryView(View):
    """A figure that there is or could be; `reason` says why it is not available."""

    name: str
    title: str
    available: bool
    reason: str | None
    url: str


class FigureView(View):
    """A figure as plotly takes it."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]


class CheckpointView(View):
    """A checkpoint that a job keeps."""

    kind: Literal["resume", "best"]
    step: int
    epoch: int
    size_bytes: int
    sha256: str
    at: str


class ModelView(View):
    """A model: a name with versions."""

    model: str
    versions: int
    latest: int | None
    aliases: dict[str, int]
    notes: str
    tags: dict[str, str]
    created_at: str
    updated_at: str


class FileView(View):
    """A file of a version."""

    name: str
    size_bytes: int
    sha256: str


class SignatureView(View):
    """What a version takes and answers."""

    inputs: list[TensorView]
    outputs: list[TensorView]
    columns: list[str] | None = None


class RowColumnView(View):
    """A column of a raw row; of texts with the `categories` that training had, None for free text."""

    name: str
    kind: Literal["number", "text", "tokens"]
    optional: bool
    categories: list[str] | None


class RowView(View):
    """How a raw row looks: the columns of a table in order, or an array's shape and the range of all its numbers."""

    layout: Literal["table", "array"]
    columns: list[RowColumnView] | None = None
    row_shape: list[int] | None = None
    training_range: tuple[float, float] | None = None


class AskedInputView(TensorView):
    """An input, and how a raw row for it looks; None where nothing is known but the tensor."""

    row: RowView | None


class WrittenView(View):
    """How numbers and missing values were written in the data that a version learnt from."""

    decimal: str
    thousands: str | None
    missing_texts: list[str]


class ModelSignatureView(View):
    """What a version takes and answers: all that a caller needs to ask it, and nothing about single training rows."""

    model: str
    version: int
    alias: str | None
    digest: str
    inputs: list[AskedInputView]
    outputs: list[TensorView]
    classes: list[str] | None
    written: WrittenView | None


class VersionView(View):
    """An immutable version; only notes and tags can change."""

    model: str
    version: int
    digest: str
    architecture_digest: str
    weights_digest: str
    state: Literal["ready", "quarantined", "deleted"]
    created_at: str
    metrics: dict[str, float | None]
    signature: SignatureView
    classes: list[str] | None
    batch_independence: BatchIndependence | None
    engine: EngineRecord | None = None
    preprocessing: dict[str, Any] | None
    lineage: dict[str, Any]
    aliases: list[str]
    files: list[FileView]
    size_bytes: int
    notes: str
    tags: dict[str, str]


class BesideView(View):
    """A metric of two versions; null where one has none."""

    a: float | None
    b: float | None


class CompareView(View):
    """Two versions of a model side by side."""

    model: str
    a: int
    b: int
    metrics: dict[str, BesideView]
    same_rows: bool | None
    """Whether the metrics of both come from the same rows, by dataset and split; null where a version does not know."""
    same_weights: bool
    architecture: DiffView


class AliasView(View):
    """Where an alias points."""

    model: str
    alias: str
    version: int
    canary: Canary | None
    shadow: tuple[int, ...]
    guard: Guard | None
    updated_at: str


class AliasChangeView(View):
    """One change of an alias."""

    version: int | None
    previous: int | None
    action: str
    at: str
    by: str | None
    reason: str | None
    canary: Canary | None
    shadow: tuple[int, ...]
    guard: Guard | None


class ShadowView(View):
    """What a shadow version made of the rows that an alias answered."""

    version: int
    requests: int
    rows: int
    disagreeing_rows: int
    disagreement: float | None
    largest_difference: float
    failed: int
    dropped: int


class ShadowsView(View):
    """The shadows of an alias."""

    model: str
    alias: str
    shadows: list[ShadowView]


class VerifyView(View):
    """Whether a version's files still have the digests of its manifest."""

    ok: bool
    mismatches: list[dict[str, Any]]


class PredictionView(View):
    """The answer of a version to some rows; or of a job's checkpoint, which has no model, version and digest."""

    model: str | None
    version: int | None
    alias: str | None = None
    digest: str | None
    job: str | None = None
    step: int | None = None
    epoch: int | None = None
    outputs: Any = Field(description="One entry a row, or an object of such lists where the net has several outputs.")
    labels: list[str] | None = None
    probabilities: list[list[float | None]] | None = None
    classes: list[str] | None = None
    warnings: list[EntryView]


class PredictRequest(BaseModel):
    """Rows for a version. `model` is a reference: name, name@alias or name/3; or the id of a job."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="Needed where the path names no model.", max_length=160)
    inputs: list[Any] | dict[str, list[Any]] = Field(description="A list of rows, or one such list for each input.")
    timeout_s: float | None = Field(None, ge=0.001, le=3600, description="Answer 504 rather than later than this.")
    priority: int | None = Field(None, ge=0, le=9, description="Higher goes first; nothing given is 0.")


class CostPointView(BaseModel):
    """A measured point of a cost curve."""

    rows: float
    seconds: float = Field(description="For which a forward pass of about so many rows keeps a processor busy.")
    samples: int


class LastBatchView(BaseModel):
    """The forward pass that ended last."""

    closed: Literal["engine-free", "full", "waited", "alone"] = Field(
        description="Why it had the rows that it had: all that waited, as many as pay, what a wait had brought, or one "
        "request, since those of the version are not merged."
    )
    requests: int
    rows: int
    waited_s: float = Field(description="Of its first request.")
    ran_s: float
    in_thread: bool = Field(description="False: it was so short that it ran where the requests arrive.")


class BatchGroupView(BaseModel):
    """Requests that may ride together: of one version, data type and row shape."""

    curve: list[CostPointView]
    most_rows: int = Field(description="Rows that pay in one forward pass, by the curve.")
    waiting_requests: int
    waiting_rows: int
    room_rows: int | None = Field(description="Rows that may wait; null before anything was measured.")
    running_rows: int
    waits_for_s: float = Field(description="About how long a request that came now would wait.")
    rows_per_s: float = Field(description="The rate at which waiting rows were seen to be answered.")
    arriving_rows_per_s: float
    batches: int
    rows: int
    refused: int
    expired: int
    last: LastBatchView | None


class BatchedVersionView(BaseModel):
    """A version that is loaded."""

    version: int
    mergeable: bool = Field(description="Whether it was shown that its rows do not depend on each other.")
    engine: str = Field("eager", description="What computes it here: eager where its engine cannot be used.")
    groups: list[BatchGroupView]


class BatchingView(BaseModel):
    """How the predictions of a model are batched in this process."""

    model: str
    mode: Literal["fast", "reproducible"]
    max_rows: int
    fixed_rows: int | None
    queue_rows: int
    max_wait_s: float
    target_s: float
    inline_s: float
    versions: list[BatchedVersionView]


class ResidentView(View):
    """A version that is loaded in this process; `size_bytes` are those of its files."""

    model: str
    version: int
    size_bytes: int
    pinned: bool


class LoadView(View):
    """What loading a version takes, or took, and what went for it, or would."""

    model: str
    version: int
    loaded: bool
    pinned: bool
    size_bytes: int
    budget_bytes: int
    loaded_bytes: int
    evicts: list[ResidentView] = Field(description="What goes to make room, in this order.")
    fits: bool
    detail: str = Field(description="All of it in a sentence.")


class UnloadView(View):
    """A version that was let go."""

    model: str
    version: int
    drained: bool = Field(description="Whether the requests that it had begun have all ended.")


class LoadedVersionView(ResidentView):
    """A loaded version, and the predictions that wait for it or are computed in threads."""

    in_flight: int


class LoadedView(View):
    """The versions that are loaded in this process, the one that was asked longest ago first."""

    budget_bytes: int
    loaded_bytes: int
    data: list[LoadedVersionView]


class AliasRequest(BaseModel):
    """Where an alias should point."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, le=999_999_999)
    canary: Canary | None = None
    shadow: Annotated[tuple[Version, ...], Field(max_length=4)] = Field(
        (), description="Versions that compute the same rows afterwards and are compared; nobody sees their answers."
    )
    guard: Guard | None = None
    reason: str | None = Field(None, max_length=1000)

    @property
    def routing(self) -> Routing:
        """What the alias shall do beside pointing."""
        return Routing(canary=self.canary, shadow=self.shadow, guard=self.guard)


class RollbackRequest(BaseModel):
    """Set an alias back to where it pointed before."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(None, max_length=1000)


class Notes(BaseModel):
    """What may be changed about a model or version."""

    model_config = ConfigDict(extra="forbid")

    notes: str | None = Field(None, max_length=10_000)
    tags: dict[str, str] | None = Field(None, max_length=64)


class RetryRequest(BaseModel):
    """Where another attempt begins: at the newest checkpoint, if one is kept, or at the start."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: Literal["checkpoint", "start"] = Field("checkpoint", alias="from")


class PromoteRequest(BaseModel):
    """Where the version goes; by default to the job's own model, without an alias."""

    model_config = ConfigDict(extra="forbid")

    output: Output | None = None


class JobPatch(BaseModel):
    """What may be changed about a job."""

    model_config = ConfigDict(extra="forbid")

    priority: int | None = Field(None, ge=-100, le=100)
    labels: dict[str, str] | None = Field(None, max_length=32)
