"""Every objective: torch's settings, torch's numbers, JSON and back, finite losses, the same bits resumed."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from sklearn.metrics import mean_pinball_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.modules import loss as torch_losses

from service.engine import checkpoint
from service.engine.evaluate import default_metrics, evaluate, report, suited_metrics
from service.engine.objectives import answers, fit, fits, loss_function
from service.engine.train import Report, StopFlag, Trainer
from service.errors import JobFailed
from service.schemas.objectives import (
    BESIDE_TORCHS,
    LEFT_OUT,
    SETTINGS_LEFT_OUT,
    AnyObjective,
    Objective,
    is_fitted,
)
from service.schemas.training import TrainingConfig

OBJECTIVE: TypeAdapter[Any] = TypeAdapter(Objective)
KINDS = get_args(AnyObjective)
TAGS = [get_args(kind.model_fields["type"].annotation)[0] for kind in KINDS]
OF_TORCH = [pytest.param(kind, id=tag) for kind, tag in zip(KINDS, TAGS, strict=True) if tag not in BESIDE_TORCHS]
TORCHS = {name.removesuffix("Loss").lower(): name for name in torch_losses.__all__}

ROWS, WIDTH, STEPS = 24, 3, 5


def torchs(tag):
    return getattr(nn, TORCHS[tag.replace("_", "")])


def example(kind) -> tuple[Tensor, int, nn.Module | None]:
    """Targets that the objective takes, the width of the net beside them, and the layer that its net ends in."""
    torch.manual_seed(0)
    numbers = torch.randn(ROWS, WIDTH)
    ends: dict[str, nn.Module] = {
        "bce": nn.Sigmoid(),
        "nll": nn.LogSoftmax(dim=1),
        "kl_div": nn.LogSoftmax(dim=1),
        "margin_ranking": nn.Flatten(),
        "cosine_embedding": nn.Unflatten(1, (2, WIDTH)),
        "triplet_margin": nn.Unflatten(1, (3, WIDTH)),
        "triplet_margin_with_distance": nn.Unflatten(1, (3, WIDTH)),
        "ctc": nn.Sequential(nn.Unflatten(1, (STEPS, WIDTH)), nn.LogSoftmax(dim=2)),
    }
    tag = get_args(kind.model_fields["type"].annotation)[0]
    end = ends.get(tag)
    match kind.targets:
        case "classes":
            return torch.arange(ROWS) % WIDTH, WIDTH, end
        case "binary":
            return (numbers > 0).float(), WIDTH, end
        case "probabilities":
            return numbers.softmax(dim=1), WIDTH, end
        case "label_lists" if kind.shape == "sequence":  # of two classes beside the blank
            return torch.tensor([[1.0, 2.0, -1.0], [2.0, 2.0, 1.0], [1.0, -1.0, 2.0]]).repeat(8, 1), WIDTH * STEPS, end
        case "label_lists":
            return torch.tensor([[0.0, 2.0, -1.0], [1.0, -1.0, 0.0]]).repeat(ROWS // 2, 1), WIDTH, end
        case "signs" if kind.shape == "triple":
            return numbers[:, :1].sign(), 3 * WIDTH, end
        case "signs" if kind.shape == "pair":
            return numbers[:, :1].sign(), 2 * WIDTH if tag == "cosine_embedding" else 2, end
        case "signs":
            return numbers.sign(), WIDTH, end
        case _:
            pass
    counts = numbers.abs().round() if tag == "poisson_nll" else numbers
    return counts, 2 * WIDTH if kind.shape == "half" else WIDTH, end


def net(kind):
    _, width, end = example(kind)
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, width), *([] if end is None else [end]))


def inputs():
    return torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))


def config(objective, **members):
    document = {
        "objective": objective,
        "optimizer": {"type": "Adam", "lr": 0.01},
        "budget": {"steps": 12},
        "batch_size": 8,
    }
    return TrainingConfig.model_validate({**document, **members})


def test_every_loss_of_torch_is_a_document_or_has_a_reason_not_to_be():
    ours = {torchs(tag).__name__ for tag in TAGS if tag not in BESIDE_TORCHS}

    assert ours | set(LEFT_OUT) == set(torch_losses.__all__)
    assert not ours & set(LEFT_OUT)
    assert set(BESIDE_TORCHS) < set(TAGS)


@pytest.mark.parametrize("kind", OF_TORCH)
def test_settings_and_defaults_are_those_of_torch(kind):
    tag = get_args(kind.model_fields["type"].annotation)[0]
    signature = inspect.signature(torchs(tag))
    theirs = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name not in SETTINGS_LEFT_OUT and f"{name} of {tag}" not in SETTINGS_LEFT_OUT
    }

    document = OBJECTIVE.validate_python({"type": tag})

    assert document.model_dump(exclude={"type", "distance"}) == theirs


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", OF_TORCH)
def test_the_number_is_that_of_torchs_module(kind, reduction):
    tag = get_args(kind.model_fields["type"].annotation)[0]
    targets, _, _ = example(kind)
    outputs = net(kind)(inputs()).detach()
    assert fits(kind(type=tag), outputs.shape, targets.shape)

    ours = loss_function(OBJECTIVE.validate_python({"type": tag, "reduction": reduction}))(outputs, targets)

    module = torchs(tag)(reduction=reduction)
    match tag:
        case "gaussian_nll":
            theirs = module(outputs[:, :WIDTH], targets, nn.functional.softplus(outputs[:, WIDTH:]))
        case "margin_ranking" | "cosine_embedding":
            theirs = module(outputs[:, 0], outputs[:, 1], targets[:, 0])
        case "triplet_margin" | "triplet_margin_with_distance":
            other = (targets[:, 0] < 0)[:, None]
            theirs = module(
                outputs[:, 0],
                torch.where(other, outputs[:, 2], outputs[:, 1]),
                torch.where(other, outputs[:, 1], outputs[:, 2]),
            )
        case "ctc":  # of sequences end to end, as torch takes them too
            sequences = torch.tensor([1, 2, 2, 2, 1, 1] * 8)
            theirs = module(
                outputs.transpose(0, 1), sequences, torch.full((ROWS,), STEPS), torch.tensor([2, 3, 1]).repeat(8)
            )
        case "multilabel_margin":
            theirs = module(outputs, targets.long())
        case "kl_div" if reduction == "mean":
            with pytest.warns(UserWarning, match="batchmean"):
                theirs = module(outputs, targets)
        case _:
            theirs = module(outputs, targets)
    assert torch.equal(ours, theirs)
    assert ours.isfinite()


@pytest.mark.parametrize("kind", KINDS, ids=TAGS)
def test_each_goes_through_json_trains_to_a_smaller_loss_and_resumes_with_the_same_bits(kind, tmp_path):
    tag = get_args(kind.model_fields["type"].annotation)[0]
    targets, _, _ = example(kind)
    document = config({"type": tag})
    assert TrainingConfig.model_validate_json(document.model_dump_json()) == document

    whole = net(kind)
    straight = [event for event in Trainer(whole, document, (inputs(),), targets).run() if isinstance(event, Report)]
    losses = [loss for event in straight for loss in event.losses]
    assert len(losses) == 12
    assert torch.tensor(losses).isfinite().all()
    assert sum(losses[-3:]) < sum(losses[:3])

    stop, first = StopFlag(), net(kind)
    interrupted = Trainer(first, document, (inputs(),), targets, stop=stop)
    first.register_forward_hook(lambda *_: stop.set() if interrupted.step == 6 else None)
    list(interrupted.run())
    checkpoint.save(tmp_path / "state.pt", interrupted.state())
    second = net(kind)
    resumed = Trainer(second, document, (inputs(),), targets)
    resumed.restore(checkpoint.load(tmp_path / "state.pt"))
    list(resumed.run())

    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    found = evaluate(whole, (inputs(),), targets, document.objective)
    assert set(found) == set(default_metrics(document.objective))
    assert set(default_metrics(document.objective)) <= set(suited_metrics(document.objective))
    everything = evaluate(whole, (inputs(),), targets, document.objective, suited_metrics(document.objective))
    assert set(everything) == set(suited_metrics(document.objective)) - ({"mape"} if tag == "poisson_nll" else set())
    drawn = report(whole, (inputs(),), targets, document.objective)
    assert (drawn is None) == (kind.targets not in ("numbers", "classes", "binary"))


@pytest.mark.parametrize(
    "kind",  # of class indices torch itself says what is wrong
    [pytest.param(kind, id=tag) for kind, tag in zip(KINDS, TAGS, strict=True) if kind.shape != "classes"],
)
def test_outputs_that_do_not_lie_beside_the_targets_are_refused(kind):
    targets, width, _ = example(kind)
    torch.manual_seed(0)
    wrong = nn.Linear(4, width + 1)

    with pytest.raises(JobFailed) as failed:
        list(
            Trainer(
                wrong, config({"type": kind.model_fields["type"].annotation.__args__[0]}), (inputs(),), targets
            ).run()
        )
    assert failed.value.failure == "shape_error"


# -- objectives that are none of torch's -------------------------------------------------------------------------------


def number(objective: dict[str, Any], outputs: Tensor, targets: Tensor) -> float:
    return loss_function(OBJECTIVE.validate_python(objective))(outputs, targets).item()


@pytest.mark.parametrize("alpha", [0.25, 0.9, None], ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoid_focal_is_equation_five_of_its_paper(alpha, gamma):
    outputs, targets = torch.randn(ROWS, WIDTH).double(), (torch.arange(ROWS * WIDTH) % 2).double().reshape(ROWS, WIDTH)
    p = 1 / (1 + np.exp(-outputs.numpy()))
    truth = np.where(targets == 1, p, 1 - p)
    factor = 1.0 if alpha is None else np.where(targets == 1, alpha, 1 - alpha)
    each = -factor * (1 - truth) ** gamma * np.log(truth)

    document = {"type": "sigmoid_focal", "alpha": alpha, "gamma": gamma}
    assert number(document, outputs, targets) == pytest.approx(each.mean())
    assert number({**document, "reduction": "sum"}, outputs, targets) == pytest.approx(each.sum())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "members", [{}, {"weight": [1, 2, 3]}, {"ignore_index": 1}, {"weight": [0, 2], "ignore_index": 0}]
)
def test_softmax_focal_is_cross_entropy_times_a_power_of_the_doubt(members, reduction):
    outputs, targets = torch.randn(ROWS, 3).double(), torch.arange(ROWS) % 3
    same = number({"type": "softmax_focal", "gamma": 0, "reduction": reduction, **members}, outputs, targets)
    focal = number({"type": "softmax_focal", "gamma": 1.5, "reduction": "sum", **members}, outputs, targets)

    assert same == pytest.approx(number({"type": "cross_entropy", "reduction": reduction, **members}, outputs, targets))
    sure = outputs.softmax(dim=1).gather(1, targets[:, None])[:, 0].numpy()
    factors = np.array([*members.get("weight", []), 1.0, 1.0, 1.0])[targets.numpy()]
    factors = factors * (targets != members.get("ignore_index", -100)).numpy()
    assert focal == pytest.approx((-factors * (1 - sure) ** 1.5 * np.log(sure)).sum())


@pytest.mark.parametrize("kind", ["sigmoid_focal", "softmax_focal"])
def test_a_focal_loss_has_a_gradient_where_there_is_no_doubt(kind):
    outputs = torch.tensor([[500.0, -500.0]], requires_grad=True)
    targets = torch.tensor([0]) if kind == "softmax_focal" else torch.tensor([[1.0, 0.0]])
    loss_function(OBJECTIVE.validate_python({"type": kind, "gamma": 0.5}))(outputs, targets).backward()

    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros(1, 2))


def test_quantile_is_the_pinball_loss_of_scikit_learn():
    outputs, targets = torch.randn(ROWS, 3), torch.randn(ROWS, 1)
    of = [mean_pinball_loss(targets[:, 0], outputs[:, i], alpha=alpha) for i, alpha in enumerate((0.05, 0.5, 0.95))]

    several = {"type": "quantile", "quantiles": [0.05, 0.5, 0.95]}
    assert number({"type": "quantile", "quantiles": [0.05]}, outputs[:, :1], targets) == pytest.approx(of[0])
    assert number(several, outputs, targets) == pytest.approx(sum(of) / 3)
    assert number({**several, "reduction": "sum"}, outputs, targets) == pytest.approx(sum(of) / 3 * ROWS)
    assert torch.equal(answers(OBJECTIVE.validate_python(several), outputs), outputs[:, 1:2])


def test_a_net_trained_for_quantiles_answers_them():
    drawn = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    members = {"batch_size": None, "budget": {"steps": 300}, "optimizer": {"type": "Adam", "lr": 0.05}}
    told = nn.Linear(1, 2)
    document = config({"type": "quantile", "quantiles": [0.1, 0.9]}, **members)
    list(Trainer(told, document, (torch.zeros(4000, 1),), drawn).run())

    assert [float((drawn < bound).double().mean()) for bound in told.bias] == pytest.approx([0.1, 0.9], abs=0.01)


def test_log_cosh_is_what_it_is_called_and_does_not_overflow():
    outputs, targets = torch.randn(ROWS, WIDTH).double(), torch.randn(ROWS, WIDTH).double()

    expected = np.log(np.cosh((outputs - targets).numpy())).mean()
    assert number({"type": "log_cosh"}, outputs, targets) == pytest.approx(expected)
    assert number({"type": "log_cosh"}, torch.tensor([[1e4]]), torch.zeros(1, 1)) == pytest.approx(1e4 - np.log(2))


def test_dice_is_one_for_no_overlap_and_nought_for_the_same_mask():
    masks = torch.tensor([[[1.0, 1], [0, 0]], [[0, 0], [1, 0]]])
    sure = (masks * 2 - 1) * 200
    half = torch.zeros(2, 2, 2)

    assert number({"type": "dice", "smooth": 0}, sure, masks) == 0
    assert number({"type": "dice", "smooth": 0}, -sure, masks) == 1
    expected = [1 - (2 * 0.5 * ones + 1) / (2 + ones + 1) for ones in (2, 1)]
    assert number({"type": "dice"}, half, masks) == pytest.approx(sum(expected) / 2)
    assert number({"type": "dice", "reduction": "sum"}, half, masks) == pytest.approx(sum(expected))


# -- triplets and sequences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [{}, {"swap": True, "margin": 0.3, "p": 1.0}, {"reduction": "sum", "eps": 0.01}])
def test_a_triplet_of_target_minus_one_is_the_other_way_round(members):
    outputs, ones = torch.randn(ROWS, 3, 4), torch.ones(ROWS, 1)

    theirs = nn.TripletMarginLoss(**members)(*outputs.unbind(1)).item()
    assert number({"type": "triplet_margin", **members}, outputs, ones) == theirs
    assert number({"type": "triplet_margin", **members}, outputs[:, [0, 2, 1]], -ones) == theirs


DISTANCES: dict[str, Any] = {
    "euclidean": nn.PairwiseDistance(),
    "squared_euclidean": lambda a, b: nn.PairwiseDistance(eps=0)(a, b) ** 2,
    "manhattan": nn.PairwiseDistance(p=1, eps=0),
    "chebyshev": nn.PairwiseDistance(p=float("inf"), eps=0),
    "cosine": lambda a, b: 1 - nn.CosineSimilarity()(a, b),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("swap", [False, True])
def test_a_triplet_is_measured_by_the_distance_that_is_named(distance, swap):
    outputs = torch.randn(ROWS, 3, 4)
    module = nn.TripletMarginWithDistanceLoss(distance_function=DISTANCES[distance], swap=swap)

    document = {"type": "triplet_margin_with_distance", "distance": distance, "swap": swap}
    assert number(document, outputs, torch.ones(ROWS, 1)) == pytest.approx(module(*outputs.unbind(1)).item())


def test_ctc_has_its_blank_where_it_is_said_and_passes_over_what_cannot_be():
    outputs = torch.randn(2, 4, 3).log_softmax(dim=2)
    targets = torch.tensor([[0.0, 1.0, -1.0], [1.0, 1.0, 1.0]])  # three of a kind need five steps
    theirs = nn.CTCLoss(blank=2, reduction="sum")(
        outputs[:1].transpose(0, 1), torch.tensor([[0, 1]]), torch.tensor([4]), torch.tensor([2])
    )

    document = {"type": "ctc", "blank": 2, "reduction": "sum"}
    assert number({**document, "zero_infinity": True}, outputs, targets) == theirs.item()
    assert number(document, outputs, targets) == float("inf")
    with pytest.raises(IndexError, match="Target 3 is out of bounds"):  # where torch reads beyond its memory
        number(document, outputs, targets + 2)


# -- weights of classes ------------------------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_scikit_learn():
    targets = torch.tensor([0] * 10 + [1] * 5 + [3] * 2)

    fitted: Any = fit(OBJECTIVE.validate_python({"type": "cross_entropy", "weight": "balanced"}), targets)

    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=targets.numpy())
    assert fitted.weight == pytest.approx((expected[0], expected[1], 1.0, expected[2]))  # class 2 has no rows
    loss_function(fitted)(torch.randn(17, 6), targets)  # nor have classes 4 and 5


def test_balanced_weights_of_ones_are_zeros_over_ones():
    targets = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 1]])

    fitted: Any = fit(OBJECTIVE.validate_python({"type": "bce_with_logits", "pos_weight": "balanced"}), targets)

    assert fitted.pos_weight == (3.0, 3.0)
    by_torch = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0, 3.0]))
    outputs = torch.randn(4, 2)
    assert torch.equal(loss_function(fitted)(outputs, targets), by_torch(outputs, targets))


def test_what_is_not_fitted_yet_is_no_function():
    objective = OBJECTIVE.validate_python({"type": "nll", "weight": "balanced"})

    assert not is_fitted(objective)
    with pytest.raises(ValueError, match="fitted"):
        loss_function(objective)


@pytest.mark.parametrize(
    "members",
    [{"weight": [1, 2, 3]}, {"ignore_index": 1}, {"weight": [1, 2, 3], "ignore_index": 0, "label_smoothing": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("size", [5, 24])
def test_the_loss_of_weighted_classes_is_the_same_by_any_batches(members, size):
    objective = OBJECTIVE.validate_python({"type": "cross_entropy", **members})
    outputs, targets = torch.randn(ROWS, 3), torch.arange(ROWS) % 3

    found = evaluate(nn.Identity(), (outputs,), targets, objective, ["loss", "accuracy"], batch_size=size)

    settings = {**members, **({"weight": torch.tensor([1.0, 2, 3])} if "weight" in members else {})}
    assert found["loss"] == pytest.approx(nn.CrossEntropyLoss(**settings)(outputs, targets).item(), rel=1e-6)
    counted = targets != members.get("ignore_index", -100)
    assert found["accuracy"] == pytest.approx((outputs.argmax(1) == targets)[counted].float().mean().item())


def test_answers_are_means_rates_or_the_outputs_themselves():
    outputs = torch.randn(5, 4)

    assert torch.equal(answers(OBJECTIVE.validate_python({"type": "gaussian_nll"}), outputs), outputs[:, :2])
    assert torch.equal(answers(OBJECTIVE.validate_python({"type": "poisson_nll"}), outputs), outputs.exp())
    assert answers(OBJECTIVE.validate_python({"type": "mse"}), outputs) is outputs


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError):
        OBJECTIVE.validate_python({"type": "mse", "weight": [1.0]})
    with pytest.raises(ValidationError):
        OBJECTIVE.validate_python({"type": "triplet_margin_with_distance", "distance": "hamming"})
    with pytest.raises(ValidationError):
        OBJECTIVE.validate_python({"type": "quantile", "quantiles": [0.5, 1.0]})
