"""How a model is trained: objectives, optimizers, budgets, stopping, preprocessing, each a document with torch's words.

Knows no tensors; `engine/train` reads these.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from service.errors import Entry
from service.schemas.datasets import ColumnName, Seed, Split
from service.schemas.document import Document, disagreement

Reduction = Literal["mean", "sum"]
Rate = Annotated[float, Field(gt=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]


class Mse(Document):
    """torch.nn.MSELoss."""

    type: Literal["mse"]
    reduction: Reduction = "mean"


class L1(Document):
    """torch.nn.L1Loss."""

    type: Literal["l1"]
    reduction: Reduction = "mean"


class SmoothL1(Document):
    """torch.nn.SmoothL1Loss."""

    type: Literal["smooth_l1"]
    reduction: Reduction = "mean"
    beta: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class CrossEntropy(Document):
    """torch.nn.CrossEntropyLoss over class indices; the net's outputs are logits [rows, classes]."""

    type: Literal["cross_entropy"]
    reduction: Reduction = "mean"
    label_smoothing: Annotated[float, Field(ge=0, le=1)] = 0.0


class BceWithLogits(Document):
    """torch.nn.BCEWithLogitsLoss; targets are 0 or 1 in the outputs' shape."""

    type: Literal["bce_with_logits"]
    reduction: Reduction = "mean"


Objective = Annotated[Mse | L1 | SmoothL1 | CrossEntropy | BceWithLogits, Field(discriminator="type")]


class Sgd(Document):
    """torch.optim.SGD."""

    type: Literal["SGD"]
    lr: Rate
    momentum: Fraction = 0.0
    dampening: Annotated[float, Field(ge=0, le=1)] = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            at, wanted = ("/momentum", "more than 0") if self.momentum <= 0 else ("/dampening", "0")
            detail, hint = (
                "Nesterov needs a momentum above 0 and a dampening of 0.",
                "Mend it, or leave `nesterov` out.",
            )
            got = str(self.momentum if self.momentum <= 0 else self.dampening)
            raise disagreement(Entry(at, "invalid", detail, hint=hint, expected=wanted, got=got))
        return self


class Adam(Document):
    """torch.optim.Adam."""

    type: Literal["Adam"]
    lr: Rate = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False


class AdamW(Document):
    """torch.optim.AdamW."""

    type: Literal["AdamW"]
    lr: Rate = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    weight_decay: NonNegative = 0.01
    amsgrad: bool = False


Optimizer = Annotated[Sgd | Adam | AdamW, Field(discriminator="type")]


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


MetricName = Literal["loss", "accuracy", "mae", "r2"]


class EarlyStopping(Document):
    """Stop when `metric` has not improved by more than `min_delta` for `patience` epochs."""

    metric: Literal["val_loss", "val_accuracy", "val_mae", "val_r2", "loss"] = "val_loss"
    patience: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    min_delta: NonNegative = 0.0


class Checkpointing(Document):
    """How often the state is kept for resuming, and whether the last or the best weights are published."""

    every_s: Annotated[float, Field(ge=0.05, le=86_400)] = 30.0
    publish: Literal["last", "best"] = "last"


class Standardize(Document):
    """Subtract the mean, divide by the standard deviation, both fitted on the training rows.

    `of` is "inputs" (columns by name, "*" = every numeric one; one statistic per channel for rows with a shape such as
    [3, 32, 32]) or "target" (regression only; predictions are turned back into the target's units).
    """

    type: Literal["standardize"]
    of: Literal["inputs", "target"] = "inputs"
    columns: Literal["*"] | Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100_000)] = "*"


class MinMax(Document):
    """Scale to [0, 1] by the smallest and largest value of the training rows; fields as in Standardize."""

    type: Literal["min_max"]
    of: Literal["inputs", "target"] = "inputs"
    columns: Literal["*"] | Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100_000)] = "*"


class OneHot(Document):
    """One 0/1 column for each category of the training rows; "*" = every text column. Unseen ones are all zeros."""

    type: Literal["one_hot"]
    columns: Literal["*"] | Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=100_000)] = "*"


PreprocessingStep = Annotated[Standardize | MinMax | OneHot, Field(discriminator="type")]


class TrainingConfig(Document):
    """Everything of a train request but architecture, dataset and output."""

    preprocessing: Annotated[tuple[PreprocessingStep, ...], Field(max_length=64)] = ()
    objective: Objective
    optimizer: Optimizer
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
    seed: Seed = 0
    checkpoint: Checkpointing = Checkpointing()

    @model_validator(mode="after")
    def _agreement(self) -> TrainingConfig:
        found = []
        if self.drop_last and self.batch_size is None:
            detail = "Without a batch_size there is one batch, of which nothing can be dropped."
            found.append(Entry("/drop_last", "invalid", detail, hint="Add `batch_size`, or leave `drop_last` out."))
        held_out = self.split is not None and self.split.validation > 0
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
        if found:
            raise disagreement(*found)
        return self
