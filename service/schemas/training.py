"""How a model is trained: budgets, stopping, preprocessing, and what holds it all together.

Objectives, optimizers and schedulers have modules of their own. Knows no tensors; `engine/train` reads these.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from service.errors import Entry
from service.schemas import schedulers
from service.schemas.datasets import Seed, Split
from service.schemas.document import Document, disagreement
from service.schemas.edits import FromVersion
from service.schemas.objectives import Objective
from service.schemas.optimizers import NonNegative, Optimizer
from service.schemas.schedulers import ReduceLrOnPlateau, Scheduler
from service.schemas.transforms import PreprocessingStep


class Budget(Document):
    """When training ends: the first of the given limits that is reached."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> Budget:
        if self.epochs is None and self.steps is None and self.max_seconds is None:
            detail = "A budget needs at least one of epochs, steps and max_seconds."
            raise disagreement(Entry("", "missing", detail, hint='Say when to stop, for example {"epochs": 10}.'))
        return self


MetricName = Literal[
    "loss",
    "accuracy",
    "balanced_accuracy",
    "top5_accuracy",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "average_precision",
    "ece",
    "mae",
    "mse",
    "rmse",
    "mape",
    "r2",
]
WatchedMetric = Literal[
    "loss",
    "val_loss",
    "val_accuracy",
    "val_balanced_accuracy",
    "val_top5_accuracy",
    "val_precision",
    "val_recall",
    "val_f1",
    "val_roc_auc",
    "val_average_precision",
    "val_ece",
    "val_mae",
    "val_mse",
    "val_rmse",
    "val_mape",
    "val_r2",
]


class EarlyStopping(Document):
    """Stop when `metric` has not improved by more than `min_delta` for `patience` epochs."""

    metric: WatchedMetric = "val_loss"
    patience: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    min_delta: NonNegative = 0.0


class Checkpointing(Document):
    """How often the state is kept for resuming, and whether the last or the best weights are published."""

    every_s: Annotated[float, Field(ge=0.05, le=86_400)] = 30.0
    publish: Literal["last", "best"] = "last"


Reference = Annotated[str, StringConstraints(max_length=140)]


def _named(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


class Init(Document):
    """What training begins with, and what of it stays as it is.

    `freeze` has globs over paths, as edits freeze by: of all that name a tensor the last decides, and "!" before one
    lets train what those before it froze. With `freeze_batchnorm_stats` the running statistics under these paths
    stay too, and such a layer computes as in evaluation; else only its parameters do.

    `from` is a version by reference (`name`, `name@alias`, `name/3`, or an object with `model` and `version`), or the
    id of a train job: its version, or before there is one its best checkpoint. Weights are taken over where key and
    shape are the same; the others are drawn from the seed.
    """

    from_: Annotated[
        Annotated[FromVersion, BeforeValidator(_named, json_schema_input_type=Reference | FromVersion)] | None,
        Field(alias="from"),
    ] = None
    freeze: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...], Field(max_length=256)
    ] = ()
    freeze_batchnorm_stats: bool = True

    @model_validator(mode="after")
    def _something(self) -> Init:
        if self.from_ is None and not self.freeze:
            hint = "Name a version in `from`, or what to freeze."
            raise disagreement(Entry("", "missing", "This begins with nothing in particular.", hint=hint))
        return self


class TrainingConfig(Document):
    """Everything of a train request but architecture, dataset and output."""

    preprocessing: Annotated[tuple[PreprocessingStep, ...], Field(max_length=64)] = ()
    objective: Objective
    optimizer: Optimizer
    scheduler: Scheduler | None = None
    metrics: Annotated[tuple[MetricName, ...], Field(max_length=16)] | None = None
    """None = what suits the objective: loss and accuracy, or loss, mae and r2."""
    budget: Budget
    batch_size: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    shuffle: bool | None = None
    """None = true with a batch size, false for full batches."""
    drop_last: bool = False
    split: Split | None = None
    early_stopping: EarlyStopping | None = None
    clip_grad_norm: Annotated[float, Field(gt=0, le=1e12)] | None = None
    clip_grad_value: Annotated[float, Field(gt=0, le=1e12)] | None = None
    accumulate: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Batches whose gradients make one update: that of the mean over all their rows. A step is one batch."""
    amp: Literal["bf16"] | None = None
    """The net computes in bfloat16 where torch holds that to be safe; weights and loss stay in float32."""
    channels_last: bool = False
    """Images and filters lie in memory with their channels last: faster for convolutions, and rounded otherwise."""
    device: Annotated[str, StringConstraints(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")] = "cpu"
    cuda_graphs: bool = False
    """Record forward and backward once for each shape of batch and replay them: faster for small nets on cuda."""
    seed: Seed = 0
    deterministic: bool = False
    """Refuse what would not give the same bits again: operations without a deterministic form, budgets of seconds."""
    init: Init | None = None
    checkpoint: Checkpointing = Checkpointing()

    @model_validator(mode="after")
    def _agreement(self) -> TrainingConfig:
        found = []
        if self.drop_last and self.batch_size is None:
            detail = "Without a batch_size there is one batch, of which nothing can be dropped."
            found.append(Entry("/drop_last", "invalid", detail, hint="Add `batch_size`, or leave `drop_last` out."))
        held_out = self.split is not None and "val" in self.split.parts
        stopping = self.early_stopping
        if stopping is not None and stopping.metric.startswith("val_") and not held_out:
            found.append(
                Entry(
                    "/early_stopping/metric",
                    "invalid",
                    f"This watches {stopping.metric}, but no rows are held out for validation.",
                    hint='Add "split": {"type": "random", "validation": 0.2}, or watch the metric loss.',
                    got=stopping.metric,
                )
            )
        found += self._schedule_mistakes(held_out)
        if self.cuda_graphs and not self.device.startswith("cuda"):
            hint = 'Add "device": "cuda", or leave `cuda_graphs` out.'
            found.append(Entry("/cuda_graphs", "conflict", f"The device is {self.device}.", hint=hint))
        if self.cuda_graphs and self.accumulate > 1:
            detail = "Batches that are parts of an update are not recorded."
            found.append(Entry("/cuda_graphs", "conflict", detail, hint="Leave `accumulate` or `cuda_graphs` out."))
        if self.cuda_graphs and self.objective.type == "ctc":
            detail = "ctc looks at its targets' lengths, which a recording cannot."
            found.append(Entry("/cuda_graphs", "conflict", detail, hint="Leave `cuda_graphs` out."))
        if self.deterministic and self.budget.max_seconds is not None:
            detail = "Where a budget of seconds ends depends on the machine's load."
            hint = "Give epochs or steps alone, or leave `deterministic` out."
            found.append(Entry("/budget/max_seconds", "conflict", detail, hint=hint))
        if found:
            raise disagreement(*found)
        return self

    def _schedule_mistakes(self, held_out: bool) -> list[Entry]:
        scheduler, budget = self.scheduler, self.budget
        if scheduler is None:
            return []
        found = []
        if isinstance(scheduler, ReduceLrOnPlateau) and scheduler.metric.startswith("val_") and not held_out:
            detail = f"This watches {scheduler.metric}, but no rows are held out for validation."
            hint = 'Add "split": {"type": "random", "validation": 0.2}, or watch the metric loss.'
            found.append(Entry("/scheduler/metric", "invalid", detail, hint=hint, got=scheduler.metric))
        if schedulers.cycles_momentum(scheduler) and not {"momentum", "betas"} & set(type(self.optimizer).model_fields):
            detail = f"{self.optimizer.type} has no momentum that {scheduler.type} could move."
            hint = '"cycle_momentum": false leaves it.'
            found.append(Entry("/scheduler/cycle_momentum", "conflict", detail, hint=hint))
        by_epochs = scheduler.interval == "epoch" and budget.epochs is None and budget.steps is None
        if schedulers.needs_total(scheduler) and by_epochs:
            detail = f"How many epochs fit into {budget.max_seconds:g} seconds is not known beforehand."
            hint = 'Go by updates, "interval": "step", which are measured; or give the budget epochs or steps too.'
            found.append(Entry("/scheduler/interval", "conflict", detail, hint=hint))
        return found
