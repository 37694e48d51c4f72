"""What torch makes of the catalogue's nets."""

import pytest
import torch

from service.engine.build import build, confirm
from service.schemas import catalogue
from service.schemas.architecture import parse, state_rows
from service.schemas.judgement import require


@pytest.mark.parametrize("name", catalogue.names())
def test_a_net_has_the_tensors_that_were_promised(name):
    architecture = require(catalogue.document(name)).architecture
    assert architecture is not None

    module = build(architecture, device="meta")

    assert [(key, tuple(tensor.shape)) for key, tensor in module.state_dict().items()] == [
        (key, row.shape) for key, row in state_rows(architecture).items()
    ]


@pytest.mark.parametrize("name", catalogue.names())
def test_torch_agrees_with_the_judge(name):
    confirm(parse(catalogue.document(name)))


def test_a_residual_block_without_a_projection_adds_its_input():
    architecture = require(catalogue.document("resnet18", {"num_classes": 3})).architecture
    assert architecture is not None
    net = build(architecture).eval()
    block = net.get_submodule("layer1.0")
    x = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        inner = block.get_submodule("bn1")(block.get_submodule("conv1")(x)).relu()
        expected = (block.get_submodule("bn2")(block.get_submodule("conv2")(inner)) + x).relu()

        found = block(x)

    assert torch.equal(found, expected)
