"""Optimizers: torch's that are data, by torch's class names and with its names and defaults for their settings.

Each may treat groups of parameters apart, by pattern. Knows no tensors; `engine/optimizers` makes torch's objects.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from service.errors import Entry
from service.schemas.document import Document, disagreement

Rate = Annotated[float, Field(gt=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Eps = Annotated[float, Field(gt=0, le=1)]
Betas = tuple[Fraction, Fraction]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class ParameterGroup(Document):
    """Parameters with settings of their own.

    `match` is a glob over paths, as edits freeze by: it names tensors (`layer4.*.weight`) or layers above them
    (`features`); of several groups that name a parameter the first has it.
    """

    match: Glob
    lr: Rate | None = None
    lr_scale: Positive | None = None
    """A factor of the optimizer's lr."""
    weight_decay: NonNegative | None = None

    @model_validator(mode="after")
    def _one_rate(self) -> ParameterGroup:
        if self.lr is not None and self.lr_scale is not None:
            detail, hint = "A group has either an lr or an lr_scale.", "Leave one of the two out."
            raise disagreement(Entry("/lr_scale", "conflict", detail, hint=hint))
        if self.lr is None and self.lr_scale is None and self.weight_decay is None:
            detail = "This group changes nothing."
            raise disagreement(Entry("", "missing", detail, hint="Give it an lr, an lr_scale or a weight_decay."))
        return self


class _Groups(Document):
    """What every optimizer has beside torch's own settings."""

    groups: Annotated[tuple[ParameterGroup, ...], Field(max_length=64)] = ()


class Sgd(_Groups):
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


class Adam(_Groups):
    """torch.optim.Adam."""

    type: Literal["Adam"]
    lr: Rate = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Eps = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False


class AdamW(_Groups):
    """torch.optim.AdamW: Adam whose weight decay does not pass through its moments."""

    type: Literal["AdamW"]
    lr: Rate = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Eps = 1e-8
    weight_decay: NonNegative = 0.01
    amsgrad: bool = False


class Adamax(_Groups):
    """torch.optim.Adamax: Adam with the largest gradient in the place of the mean square."""

    type: Literal["Adamax"]
    lr: Rate = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: Eps = 1e-8
    weight_decay: NonNegative = 0.0


class NAdam(_Groups):
    """torch.optim.NAdam: Adam with Nesterov's momentum."""

    type: Literal["NAdam"]
    lr: Rate = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: Eps = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 0.004
    decoupled_weight_decay: bool = False


class RAdam(_Groups):
    """torch.optim.RAdam: Adam whose first steps are rectified, which replaces a warm-up."""

    type: Literal["RAdam"]
    lr: Rate = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Eps = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False


class Adagrad(_Groups):
    """torch.optim.Adagrad."""

    type: Literal["Adagrad"]
    lr: Rate = 1e-2
    lr_decay: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: Eps = 1e-10


class Adadelta(_Groups):
    """torch.optim.Adadelta."""

    type: Literal["Adadelta"]
    lr: Rate = 1.0
    rho: Annotated[float, Field(ge=0, le=1)] = 0.9
    eps: Eps = 1e-6
    weight_decay: NonNegative = 0.0


class Adafactor(_Groups):
    """torch.optim.Adafactor: moments of matrices are kept by rows and columns; memory for large nets is saved."""

    type: Literal["Adafactor"]
    lr: Rate = 1e-2
    beta2_decay: Annotated[float, Field(ge=-1e3, le=0)] = -0.8
    eps: tuple[Eps | None, Eps] = (None, 1e-3)
    d: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    weight_decay: NonNegative = 0.0


class Asgd(_Groups):
    """torch.optim.ASGD: averaged stochastic gradient descent."""

    type: Literal["ASGD"]
    lr: Rate = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: Annotated[float, Field(ge=0, le=1e12)] = 1e6
    weight_decay: NonNegative = 0.0


class RmsProp(_Groups):
    """torch.optim.RMSprop."""

    type: Literal["RMSprop"]
    lr: Rate = 1e-2
    alpha: Fraction = 0.99
    eps: Eps = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: Fraction = 0.0
    centered: bool = False


class Rprop(_Groups):
    """torch.optim.Rprop: looks at signs of gradients alone, and so wants full batches."""

    type: Literal["Rprop"]
    lr: Rate = 1e-2
    etas: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=1, le=1e3)]] = (0.5, 1.2)
    step_sizes: tuple[Positive, Positive] = (1e-6, 50.0)

    @model_validator(mode="after")
    def _no_decay(self) -> Rprop:
        for place, group in enumerate(self.groups):
            if group.weight_decay is not None:
                detail = "Rprop has no weight decay."
                raise disagreement(Entry(f"/groups/{place}/weight_decay", "invalid", detail, hint="Leave it out."))
        return self


AnyOptimizer: TypeAlias = (
    Sgd | Adam | AdamW | Adamax | NAdam | RAdam | Adagrad | Adadelta | Adafactor | Asgd | RmsProp | Rprop
)
Optimizer = Annotated[AnyOptimizer, Field(discriminator="type")]

LEFT_OUT: Final = {
    "LBFGS": "It calls the net many times a step, by a function given as code.",
    "SparseAdam": "It takes sparse gradients alone, which no layer here gives.",
    "Muon": "It takes matrices alone; the biases and norms of a net would need a second optimizer.",
}
"""torch's optimizers that are no documents, with the reason."""

SETTINGS_LEFT_OUT: Final = {
    "params": "The net's.",
    "foreach": "All parameters at a time wherever that changes no bit.",
    "fused": "It rounds otherwise than the others.",
    "maximize": "An objective is to become small.",
    "capturable": "About CUDA graphs, not about what is computed.",
    "differentiable": "Nothing here differentiates through a step.",
}
"""Settings of torch's optimizers that no document has, with the reason."""
