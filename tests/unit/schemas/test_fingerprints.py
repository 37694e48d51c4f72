"""Bare tensors are recognised as a net of the catalogue, with the params that their shapes tell of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.schemas import catalogue
from service.schemas.architecture import parse, state_rows
from service.schemas.fingerprints import Proposal, fingerprint


def tensors(name: str, **params: object) -> dict[str, tuple[int, ...]]:
    return {key: row.shape for key, row in state_rows(parse(catalogue.document(name, params))).items()}


@pytest.mark.parametrize("name", catalogue.names())
def test_every_net_is_recognised(name):
    (proposal,) = fingerprint(tensors(name))

    assert proposal == Proposal(name, {}, ordered=True)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnet50", {"num_classes": 10, "in_channels": 1}),
        ("vgg16_bn", {"num_classes": 3}),
        ("alexnet", {"num_classes": 10}),
        ("vit_b_16", {"num_classes": 5, "image_size": 384}),
        ("vit_b_16", {"patch_size": 32, "depth": 3}),
        ("mlp", {"in_features": 4, "hidden": [7, 8, 9], "num_classes": 3}),
        ("mlp", {"hidden": []}),
        ("mlp", {"hidden": [5, 6], "dropout": 0.5}),
        ("lstm_text", {"vocab": 77, "hidden": 64, "depth": 3, "num_classes": 5}),
        ("transformer_text", {"vocab": 77, "d": 64, "depth": 3, "feedforward": 100, "max_length": 9}),
    ],
    ids=str,
)
def test_params_are_read_from_the_tensors(name, params):
    (proposal,) = fingerprint(tensors(name, **params))

    assert (proposal.name, proposal.params) == (name, params)
    assert dict(state_rows(parse(proposal.reference))) == dict(state_rows(parse(proposal.document)))


def test_the_order_of_the_tensors_is_told():
    shapes = tensors("resnet18")

    (proposal,) = fingerprint(dict(reversed(shapes.items())))

    assert not proposal.ordered


def test_counters_of_batches_may_be_missing():
    shapes = {key: shape for key, shape in tensors("resnet18").items() if not key.endswith("num_batches_tracked")}

    assert [proposal.name for proposal in fingerprint(shapes)] == ["resnet18"]


@pytest.mark.parametrize(
    "change",
    [
        lambda shapes: shapes | {"extra.weight": (1,)},
        lambda shapes: {key: shape for key, shape in shapes.items() if key != "bn1.weight"},
        lambda shapes: shapes | {"bn1.weight": (65,)},
        lambda shapes: shapes | {"fc.weight": (10, 512)},
        lambda shapes: shapes | {"fc.weight": ()},
    ],
    ids=["one more", "one less", "another shape", "a head and its bias that differ", "a number for a matrix"],
)
def test_what_differs_is_not_taken_for_a_net(change):
    assert fingerprint(change(tensors("resnet18"))) == []


def test_nothing_is_no_net():
    assert fingerprint({}) == []


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["lstm_text", "vit_b_16", "mlp"]), st.data())
def test_any_shapes_are_looked_at_without_harm(name, data):
    shapes = tensors(name, hidden=[3, 4]) if name == "mlp" else tensors(name)
    key = data.draw(st.sampled_from(sorted(shapes)))
    shapes[key] = tuple(data.draw(st.lists(st.integers(0, 2**40), max_size=4)))

    for proposal in fingerprint(shapes):
        assert tensors(proposal.name, **proposal.params) == shapes
