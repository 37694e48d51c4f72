"""Objectives: torch's losses that are data and a few more, each a document with torch's names for its settings.

Says of each what its targets are and what the net's outputs mean beside them. Knows no tensors; `engine/objectives`
computes them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pydantic import Field

from service.schemas.document import Document

Reduction = Literal["mean", "sum"]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Eps = Annotated[float, Field(gt=0, le=1)]
Weights = Annotated[tuple[NonNegative, ...], Field(min_length=1, max_length=100_000)]
ClassIndex = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]

TargetKind = Literal["numbers", "classes", "binary", "probabilities", "signs", "label_lists"]
"""What targets are: numbers to be met; class indices, one a row; 0 or 1 (or between) for each output; probabilities
that sum to 1; −1 or 1; or indices of the classes of a row, ended by −1."""

Shape = Literal["outputs", "classes", "half", "pair", "triple", "quantiles", "sequence"]
"""How outputs lie beside targets: in the same shape; [N, classes] beside [N]; [N, 2k] beside [N, k]; two values (or
vectors) a row beside one target; three vectors a row beside one target; [N, q] beside [N, 1], or for one quantile in
the same shape; [N, T, classes] beside [N, S]."""

Distance = Literal["euclidean", "squared_euclidean", "manhattan", "chebyshev", "cosine"]
"""Between two vectors: the norm of the difference (as torch's pairwise_distance has it), its square, the sum and the
largest of the differences, 1 − the cosine of the angle."""


class Mse(Document):
    """torch.nn.MSELoss: (output − target)²."""

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["mse"]
    reduction: Reduction = "mean"


class L1(Document):
    """torch.nn.L1Loss: |output − target|."""

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["l1"]
    reduction: Reduction = "mean"


class SmoothL1(Document):
    """torch.nn.SmoothL1Loss: squared within `beta` of the target, and linear beyond; divided by `beta`."""

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["smooth_l1"]
    reduction: Reduction = "mean"
    beta: Positive = 1.0


class Huber(Document):
    """torch.nn.HuberLoss: squared within `delta` of the target, and linear beyond."""

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["huber"]
    reduction: Reduction = "mean"
    delta: Positive = 1.0


class PoissonNll(Document):
    """torch.nn.PoissonNLLLoss: targets are counts; the net answers the logarithm of their rate, or with `log_input`
    false the rate."""

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["poisson_nll"]
    reduction: Reduction = "mean"
    log_input: bool = True
    full: bool = False
    eps: Eps = 1e-8


class GaussianNll(Document):
    """torch.nn.GaussianNLLLoss: for k targets a row the net answers 2k numbers, the means and then what softplus turns
    into their variances."""

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "half"
    type: Literal["gaussian_nll"]
    reduction: Reduction = "mean"
    full: bool = False
    eps: Eps = 1e-6


class CrossEntropy(Document):
    """torch.nn.CrossEntropyLoss over class indices; the net's outputs are logits [rows, classes].

    `weight` has a factor for each class; "balanced" makes those of rare classes larger, by the training rows: rows /
    (classes × rows of the class). Targets of `ignore_index` count for nothing.
    """

    targets: ClassVar[TargetKind] = "classes"
    shape: ClassVar[Shape] = "classes"
    type: Literal["cross_entropy"]
    reduction: Reduction = "mean"
    weight: Weights | Literal["balanced"] | None = None
    ignore_index: ClassIndex = -100
    label_smoothing: Annotated[float, Field(ge=0, le=1)] = 0.0


class Nll(Document):
    """torch.nn.NLLLoss over class indices; the net ends in LogSoftmax, its outputs are log-probabilities.

    `weight` and `ignore_index` are as in cross_entropy.
    """

    targets: ClassVar[TargetKind] = "classes"
    shape: ClassVar[Shape] = "classes"
    type: Literal["nll"]
    reduction: Reduction = "mean"
    weight: Weights | Literal["balanced"] | None = None
    ignore_index: ClassIndex = -100


class MultiMargin(Document):
    """torch.nn.MultiMarginLoss over class indices: the right class is to lead every other by `margin`."""

    targets: ClassVar[TargetKind] = "classes"
    shape: ClassVar[Shape] = "classes"
    type: Literal["multi_margin"]
    reduction: Reduction = "mean"
    p: Literal[1, 2] = 1
    margin: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    weight: Weights | Literal["balanced"] | None = None


class Bce(Document):
    """torch.nn.BCELoss: outputs are probabilities, of a net that ends in Sigmoid; targets are 0 or 1 in their shape."""

    targets: ClassVar[TargetKind] = "binary"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["bce"]
    reduction: Reduction = "mean"


class BceWithLogits(Document):
    """torch.nn.BCEWithLogitsLoss; targets are 0 or 1 in the outputs' shape.

    `pos_weight` has a factor for the ones of each output, or one for all; "balanced" is zeros / ones among the training
    rows.
    """

    targets: ClassVar[TargetKind] = "binary"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["bce_with_logits"]
    reduction: Reduction = "mean"
    pos_weight: Weights | Literal["balanced"] | None = None


class MultiLabelSoftMargin(Document):
    """torch.nn.MultiLabelSoftMarginLoss: targets [N, labels] are 0 or 1 for each label, outputs are logits.

    `weight` has a factor for each label.
    """

    targets: ClassVar[TargetKind] = "binary"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["multilabel_soft_margin"]
    reduction: Reduction = "mean"
    weight: Weights | None = None


class MultiLabelMargin(Document):
    """torch.nn.MultiLabelMarginLoss: a row's target lists the indices of its labels, filled up with −1 to the width of
    the outputs."""

    targets: ClassVar[TargetKind] = "label_lists"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["multilabel_margin"]
    reduction: Reduction = "mean"


class SoftMargin(Document):
    """torch.nn.SoftMarginLoss: log(1 + exp(−target · output)), targets are −1 or 1 in the outputs' shape."""

    targets: ClassVar[TargetKind] = "signs"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["soft_margin"]
    reduction: Reduction = "mean"


class HingeEmbedding(Document):
    """torch.nn.HingeEmbeddingLoss: outputs are distances, small where the target is 1 and beyond `margin` where −1."""

    targets: ClassVar[TargetKind] = "signs"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["hinge_embedding"]
    reduction: Reduction = "mean"
    margin: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0


class KlDiv(Document):
    """torch.nn.KLDivLoss: outputs are log-probabilities, targets probabilities (or their logarithms, `log_target`).

    The divergence itself is the reduction "batchmean"; "mean" divides by the number of values too, as torch does.
    """

    targets: ClassVar[TargetKind] = "probabilities"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["kl_div"]
    reduction: Literal["mean", "sum", "batchmean"] = "mean"
    log_target: bool = False


class MarginRanking(Document):
    """torch.nn.MarginRankingLoss: the net answers two scores a row, [N, 2]; of a target 1 the first is to lead by
    `margin`, of −1 the second."""

    targets: ClassVar[TargetKind] = "signs"
    shape: ClassVar[Shape] = "pair"
    type: Literal["margin_ranking"]
    reduction: Reduction = "mean"
    margin: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0


class CosineEmbedding(Document):
    """torch.nn.CosineEmbeddingLoss: the net answers two vectors a row, [N, 2, d], alike where the target is 1 and not
    where it is −1."""

    targets: ClassVar[TargetKind] = "signs"
    shape: ClassVar[Shape] = "pair"
    type: Literal["cosine_embedding"]
    reduction: Reduction = "mean"
    margin: Annotated[float, Field(ge=-1, le=1)] = 0.0


class TripletMargin(Document):
    """torch.nn.TripletMarginLoss: the net answers three vectors a row, [N, 3, d]; of a target 1 the second is to be
    nearer to the first than the third is, by `margin`, of −1 the third.

    torch has no targets: its rows are those of the target 1. `swap` counts the distance of the second and the third too
    (Balntas et al. 2016).
    """

    targets: ClassVar[TargetKind] = "signs"
    shape: ClassVar[Shape] = "triple"
    type: Literal["triplet_margin"]
    reduction: Reduction = "mean"
    margin: Positive = 1.0
    p: Annotated[float, Field(ge=1, le=100)] = 2.0
    eps: Eps = 1e-6
    swap: bool = False


class TripletMarginWithDistance(Document):
    """torch.nn.TripletMarginWithDistanceLoss: triplet_margin by a `distance` of another kind."""

    targets: ClassVar[TargetKind] = "signs"
    shape: ClassVar[Shape] = "triple"
    type: Literal["triplet_margin_with_distance"]
    reduction: Reduction = "mean"
    distance: Distance = "euclidean"
    margin: Positive = 1.0
    swap: bool = False


class Ctc(Document):
    """torch.nn.CTCLoss: the net answers the log-probabilities of classes at each of T steps, [N, T, classes]; a row's
    target lists its classes, filled up with −1, without places.

    `blank` is the class that means none. All T steps of a row count. A row whose target is too long for them has an
    infinite loss, or with `zero_infinity` none.
    """

    targets: ClassVar[TargetKind] = "label_lists"
    shape: ClassVar[Shape] = "sequence"
    type: Literal["ctc"]
    reduction: Reduction = "mean"
    blank: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    zero_infinity: bool = False


class SigmoidFocal(Document):
    """bce_with_logits, where what is told apart well counts less: times (1 − p)^`gamma`, p being the probability of the
    truth; the ones count by `alpha`, the zeros by 1 − `alpha`."""

    targets: ClassVar[TargetKind] = "binary"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["sigmoid_focal"]
    reduction: Reduction = "mean"
    alpha: Annotated[float, Field(ge=0, le=1)] | None = 0.25
    gamma: Annotated[float, Field(ge=0, le=100)] = 2.0


class SoftmaxFocal(Document):
    """cross_entropy, where what is told apart well counts less: times (1 − p)^`gamma`, p being the probability of the
    right class.

    `weight` and `ignore_index` are as in cross_entropy, and with `gamma` 0 so is all of it.
    """

    targets: ClassVar[TargetKind] = "classes"
    shape: ClassVar[Shape] = "classes"
    type: Literal["softmax_focal"]
    reduction: Reduction = "mean"
    gamma: Annotated[float, Field(ge=0, le=100)] = 2.0
    weight: Weights | Literal["balanced"] | None = None
    ignore_index: ClassIndex = -100


class Quantile(Document):
    """The pinball loss: the net answers the value below which the target lies with a probability, for each of
    `quantiles` one, [N, q] beside targets [N, 1]; their losses are averaged.

    mae and r2 are of the quantile that is nearest to one half. Two quantiles such as 0.05 and 0.95 are an interval.
    """

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "quantiles"
    type: Literal["quantile"]
    reduction: Reduction = "mean"
    quantiles: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=1000)] = (0.5,)


class LogCosh(Document):
    """log(cosh(output − target)): squared, halved, near the target, and linear beyond."""

    targets: ClassVar[TargetKind] = "numbers"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["log_cosh"]
    reduction: Reduction = "mean"


class Dice(Document):
    """1 − 2 · overlap / size of a row's mask of ones, targets and probabilities together: for masks of which few
    numbers are ones. Outputs are logits in the targets' shape; `smooth` is added to both sides of the fraction."""

    targets: ClassVar[TargetKind] = "binary"
    shape: ClassVar[Shape] = "outputs"
    type: Literal["dice"]
    reduction: Reduction = "mean"
    smooth: NonNegative = 1.0


AnyObjective: TypeAlias = (
    Mse
    | L1
    | SmoothL1
    | Huber
    | PoissonNll
    | GaussianNll
    | CrossEntropy
    | Nll
    | MultiMargin
    | Bce
    | BceWithLogits
    | MultiLabelSoftMargin
    | MultiLabelMargin
    | SoftMargin
    | HingeEmbedding
    | KlDiv
    | MarginRanking
    | CosineEmbedding
    | TripletMargin
    | TripletMarginWithDistance
    | Ctc
    | SigmoidFocal
    | SoftmaxFocal
    | Quantile
    | LogCosh
    | Dice
)
Objective = Annotated[AnyObjective, Field(discriminator="type")]

LEFT_OUT: Final = {
    "NLLLoss2d": "An old name of NLLLoss.",
    "LinearCrossEntropyLoss": "It holds weights of its own: a net with a last Linear and cross_entropy says the same.",
}
"""torch's losses that are no documents, with the reason."""

BESIDE_TORCHS: Final = {
    "sigmoid_focal": "Lin et al. 2017, Focal Loss for Dense Object Detection (arXiv 1708.02002), equation 5.",
    "softmax_focal": "The same, equation 4, over classes.",
    "quantile": "Koenker and Bassett 1978, Regression Quantiles (Econometrica 46); scikit-learn's mean_pinball_loss.",
    "log_cosh": "Chen et al. 2019, Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder; Keras' LogCosh.",
    "dice": "Milletari et al. 2016, V-Net (arXiv 1606.04797), with sizes that are not squared, as Sudre et al. 2017"
    " (arXiv 1707.03237) have them.",
}
"""Objectives that are none of torch's losses, with their source."""

SETTINGS_LEFT_OUT: Final = {
    "size_average": "An old name of reduction.",
    "reduce": "An old name of reduction.",
    "weight of bce": "It is about the rows of one batch, which no document can know.",
    "weight of bce_with_logits": "It is about the rows of one batch, which no document can know.",
    "distance_function": "It is code; `distance` names one.",
}
"""Settings of torch's losses that no document has, with the reason."""


def is_fitted(objective: AnyObjective) -> bool:
    """Whether nothing in the objective waits for the training rows; "balanced" does."""
    settings = vars(objective)
    return "balanced" not in (settings.get("weight"), settings.get("pos_weight"))


def answers_classes(objective: AnyObjective) -> bool:
    """Whether accuracy is what is asked of such a net: it tells classes or labels apart."""
    return objective.targets in ("classes", "binary")


def tells_two_classes(objective: AnyObjective) -> bool:
    """Whether targets may be two named classes, of which a logit a row is the second's."""
    return isinstance(objective, (BceWithLogits, SigmoidFocal))
