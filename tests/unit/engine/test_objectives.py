"""Every objective: torch's settings, torch's numbers, JSON and back, finite losses, the same bits resumed."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.modules import loss as torch_losses

from service.engine import checkpoint
from service.engine.evaluate import default_metrics, evaluate, report, suited_metrics
from service.engine.objectives import answers, fit, fits, loss_function
from service.engine.train import Report, StopFlag, Trainer
from service.errors import JobFailed
from service.schemas.objectives import LEFT_OUT, SETTINGS_LEFT_OUT, AnyObjective, Objective, is_fitted
from service.schemas.training import TrainingConfig

OBJECTIVE: TypeAdapter[Any] = TypeAdapter(Objective)
KINDS = get_args(AnyObjective)
TAGS = [get_args(kind.model_fields["type"].annotation)[0] for kind in KINDS]
TORCHS = {name.removesuffix("Loss").lower(): name for name in torch_losses.__all__}

ROWS, WIDTH = 24, 3


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
        case "label_lists":
            return torch.tensor([[0.0, 2.0, -1.0], [1.0, -1.0, 0.0]]).repeat(ROWS // 2, 1), WIDTH, end
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
    assert {torchs(tag).__name__ for tag in TAGS} | set(LEFT_OUT) == set(torch_losses.__all__)
    assert not {torchs(tag).__name__ for tag in TAGS} & set(LEFT_OUT)


@pytest.mark.parametrize("kind", KINDS, ids=TAGS)
def test_settings_and_defaults_are_those_of_torch(kind):
    tag = get_args(kind.model_fields["type"].annotation)[0]
    signature = inspect.signature(torchs(tag))
    theirs = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name not in SETTINGS_LEFT_OUT and f"{name} of {tag}" not in SETTINGS_LEFT_OUT
    }

    document = OBJECTIVE.validate_python({"type": tag})

    assert document.model_dump(exclude={"type"}) == theirs


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS, ids=TAGS)
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
        OBJECTIVE.validate_python({"type": "ctc"})
