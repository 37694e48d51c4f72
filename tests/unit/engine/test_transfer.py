"""Weights of edited nets: kept bit for bit, reshaped by policy, or drawn from the seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from service.engine.build import build
from service.engine.transfer import by_key, freeze, transfer
from service.errors import CheckpointRefused
from service.schemas.architecture import StateRow, parse, state_rows
from service.schemas.edits import EDITS, apply
from service.schemas.judgement import require

NET: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 3, 8, 8]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"name": "conv", "type": "Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1},
            {"name": "norm", "type": "BatchNorm2d", "num_features": 4},
            {"name": "pool", "type": "AdaptiveAvgPool2d", "output_size": 1},
            {"name": "flat", "type": "Flatten"},
            {"name": "head", "type": "Linear", "in_features": 4, "out_features": 6},
        ],
    },
}


def built(document: dict[str, Any], *, seed: int) -> torch.nn.Module:
    architecture = require(document).architecture
    assert architecture is not None
    torch.manual_seed(seed)
    return build(architecture).eval()


def moved(*edits: dict[str, Any]) -> tuple[torch.nn.Module, torch.nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """The net, the edited net with its weights moved over, the source's state_dict, and the fresh one."""
    old = built(NET, seed=1)
    found = apply(parse(NET), EDITS.validate_python(edits))
    new = built(found.document, seed=2)
    fresh = {key: tensor.clone() for key, tensor in new.state_dict().items()}
    new.load_state_dict(transfer(old.state_dict(), new.state_dict(), found.weights))
    return old, new, old.state_dict(), fresh


def resize(field: str, value: int, policy: str, *, path: str = "head") -> dict[str, Any]:
    return {"op": "resize", "path": path, "field": field, "value": value, "policy": policy}


def test_kept_tensors_follow_their_layers_bit_for_bit() -> None:
    _, new, before, _ = moved({"op": "rename", "path": "conv", "name": "stem"}, {"op": "remove", "path": "norm"})

    assert set(new.state_dict()) == {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    assert torch.equal(new.state_dict()["stem.weight"], before["conv.weight"])
    assert torch.equal(new.state_dict()["head.bias"], before["head.bias"])


def test_an_edit_without_effect_on_weights_leaves_the_outputs_bit_for_bit() -> None:
    old, new, _, _ = moved({"op": "insert_before", "path": "head", "name": "drop", "layer": {"type": "Dropout"}})
    x = torch.randn(5, 3, 8, 8)

    assert torch.equal(old(x), new(x))


def test_a_replaced_layer_is_drawn_from_the_seed() -> None:
    layer = {"type": "Linear", "in_features": "auto", "out_features": 2}
    _, new, before, fresh = moved({"op": "replace", "path": "head", "layer": layer})

    assert torch.equal(new.state_dict()["head.weight"], fresh["head.weight"])
    assert torch.equal(new.state_dict()["conv.weight"], before["conv.weight"])


def test_slicing_keeps_the_first_outputs() -> None:
    old, new, _, _ = moved(resize("out_features", 2, "slice"))
    x = torch.randn(5, 3, 8, 8)

    torch.testing.assert_close(new(x), old(x)[:, :2])


def test_padding_outputs_keeps_the_old_ones_and_draws_the_others() -> None:
    old, new, _, fresh = moved(resize("out_features", 9, "pad"))
    x = torch.randn(5, 3, 8, 8)

    torch.testing.assert_close(new(x)[:, :6], old(x))
    assert torch.equal(new.state_dict()["head.weight"][6:], fresh["head.weight"][6:])


def test_padding_inside_keeps_the_outputs() -> None:
    old, new, _, _ = moved(
        resize("out_channels", 7, "pad", path="conv"),
        resize("num_features", 7, "pad", path="norm"),
        resize("in_features", 7, "pad"),
    )
    x = torch.randn(5, 3, 8, 8)

    torch.testing.assert_close(new(x), old(x))
    assert torch.equal(new.state_dict()["norm.running_var"], torch.ones(7))


def test_the_mean_of_channels_makes_a_net_for_grey_images() -> None:
    _, new, before, _ = moved(resize("in_channels", 1, "mean_channels", path="conv"))

    torch.testing.assert_close(new.state_dict()["conv.weight"][:, 0], before["conv.weight"].mean(1))
    assert new(torch.randn(2, 1, 8, 8)).shape == (2, 6)


def test_weights_of_another_net_are_refused() -> None:
    found = apply(parse(NET), EDITS.validate_python([{"op": "remove", "path": "norm"}]))
    new = built(found.document, seed=2)
    other = {key: tensor for key, tensor in new.state_dict().items() if key != "head.bias"}

    with pytest.raises(CheckpointRefused, match="not those that the map was made for") as caught:
        transfer(other, new.state_dict(), found.weights)
    assert [entry.code for entry in caught.value.errors] == ["missing"]
    with pytest.raises(CheckpointRefused):
        transfer({**new.state_dict(), "head.bias": torch.zeros(5)}, new.state_dict(), found.weights)


def test_by_key_what_has_the_same_shape_is_kept_and_the_rest_is_drawn() -> None:
    def rows(**members: Any) -> tuple[torch.nn.Module, dict[str, StateRow]]:
        head = {**NET["root"]["layers"][4], **members}
        document = {**NET, "root": {**NET["root"], "layers": [*NET["root"]["layers"][:4], head]}}
        architecture = require(document).architecture
        assert architecture is not None
        return built(document, seed=len(members)), state_rows(architecture)

    old, source = rows()
    new, wanted = rows(out_features=9, bias=False)
    weights = by_key(source, wanted)
    taken = transfer(old.state_dict(), new.state_dict(), weights)

    body = [key for key in source if not key.startswith("head.")]
    assert [each.to for each in weights.kept] == [each.from_ for each in weights.kept] == body
    [reshaped] = weights.reshaped
    assert (reshaped.key, reshaped.from_shape, reshaped.to_shape) == ("head.weight", (6, 4), (9, 4))
    assert (weights.new, weights.dropped) == ((), ("head.bias",))
    assert all(torch.equal(taken[key], old.state_dict()[key]) for key in body)
    assert torch.equal(taken["head.weight"], new.state_dict()["head.weight"])


def test_by_key_a_tensor_of_another_type_is_a_new_one() -> None:
    here, there = (StateRow((2,), dtype, "buffer", "") for dtype in ("int64", "float32"))

    found = by_key({"a": there, "b": here}, {"a": here, "b": here})

    assert [each.to for each in found.kept] == ["b"]
    assert (found.reshaped, found.new, found.dropped) == ((), ("a",), ("a",))


def test_frozen_tensors_stay_bit_for_bit_while_the_others_learn() -> None:
    module = built(NET, seed=1)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    frozen = [key for key in before if not key.startswith("head.")]
    freeze(module, frozen)
    module.train()
    optimizer = torch.optim.SGD([each for each in module.parameters() if each.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.randn(4, 3, 8, 8) + 5).square().mean().backward()
        optimizer.step()

    after = module.state_dict()
    assert [key for key in before if torch.equal(before[key], after[key])] == frozen


def test_statistics_that_are_not_frozen_move() -> None:
    module = built(NET, seed=1)
    freeze(module, ["norm.weight", "norm.bias"])
    module.train()
    module(torch.randn(4, 3, 8, 8) + 5)

    assert not torch.equal(module.state_dict()["norm.running_mean"], torch.zeros(4))
