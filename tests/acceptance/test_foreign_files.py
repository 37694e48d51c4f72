"""Foreign checkpoints become nets of ours: the right document, every tensor in its place, the writer's own outputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from service.engine import build, checkpoint
from service.engine.foreign import Report, Understood, Wishes, understand
from service.engine.inspection import Inspection
from service.engine.legacy import inspect
from service.schemas.judgement import require
from tests.corpus.corpus import Written


def ramp(shape: list[int]) -> torch.Tensor:
    count = math.prod(shape)
    return ((torch.arange(count) % 251).float() / 251 - 0.5).reshape(shape)


def read(path: Path, **wishes: Any) -> tuple[Understood | None, Report, Inspection]:
    inspection = inspect(path)
    understood, report = understand(inspection, Wishes(**wishes))
    return understood, report, inspection


def net_of(path: Path, understood: Understood, inspection: Inspection) -> torch.nn.Module:
    module = build.build(understood.architecture, device="meta")
    sources = {key: source.keys if source else None for key, source in understood.sources.items()}
    module.load_state_dict(
        checkpoint.assemble(path, inspection, sources, module.state_dict()), strict=True, assign=True
    )
    build.complete(module, understood.architecture)
    return module.eval()


EXACT = ["sequential", "batchnorm", "lstm", "encoder", "weight_norm", "parallel"]


@pytest.mark.parametrize("writer", ["debian", "today"])
@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", [*EXACT, "gru"])
def test_a_module_of_known_classes_is_built_without_a_question(written, writer, form, name):
    case: Written = written[writer, name, form]
    understood, report, inspection = read(case.path)
    assert (report.outcome, report.needs) == ("exact", [])
    assert understood is not None
    module = net_of(case.path, understood, inspection)
    x = ramp(case.known["input"])
    if name in ("gru", "encoder"):  # written for [T, B, features]; here the batch comes first
        x = x.transpose(0, 1)
    with torch.no_grad():
        out = module(x)
    out = out.transpose(0, 1) if name in ("gru", "encoder") else out
    assert torch.allclose(out.reshape(-1), torch.tensor(case.known["output"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("writer", ["debian", "today"])
def test_a_class_without_its_text_is_a_tree_and_says_what_it_needs(written, writer):
    case = written[writer, "zbx", "zip"]
    understood, report, _ = read(case.path)
    assert understood is None
    assert report.outcome == "tree_only"
    assert [layer["path"] for layer in report.layers] == ["conv1", "pool", "head.0", "head.1", "head.2", "head.3"]
    assert report.layers[0]["arguments"] == {"in_channels": 3, "out_channels": 64, "kernel_size": 3, "padding": 1}
    assert [need.what for need in report.needs] == ["forward"]
    assert report.proposal is not None
    assert report.proposal["forward"] == ["x = conv1(x)", "x = pool(x)", "return head(x)"]


@pytest.mark.parametrize(
    "forward",
    [
        ["x = pool(relu(conv1(x)))", "return head(x)"],
        ["def forward(self, x):", "    x = self.pool(torch.relu(self.conv1(x)))", "    return self.head(x)"],
        ["return self.head(self.pool(F.relu(self.conv1(x))))"],
    ],
)
def test_a_forward_may_be_sent_as_lines_or_as_python(written, forward):
    case = written["today", "zbx", "zip"]
    understood, report, inspection = read(case.path, forward={"": forward})
    assert understood is not None
    assert report.outcome == "translated"
    assert understood.architecture.inputs[0].shape == ("B", 3, 8, 8)
    with torch.no_grad():
        out = net_of(case.path, understood, inspection)(ramp(case.known["input"]))
    assert torch.allclose(out.reshape(-1), torch.tensor(case.known["output"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("writer", ["debian", "today"])
def test_the_text_of_a_class_in_an_old_file_is_its_forward(written, writer):
    case = written[writer, "zbx", "legacy"]
    understood, report, inspection = read(case.path)
    assert understood is not None
    assert (report.outcome, report.needs) == ("translated", [])
    with torch.no_grad():
        out = net_of(case.path, understood, inspection)(ramp(case.known["input"]))
    assert torch.allclose(out.reshape(-1), torch.tensor(case.known["output"]), rtol=1e-5, atol=1e-6)


def test_a_forward_that_the_language_cannot_say_is_told_with_its_line(written):
    _, report, _ = read(written["today", "nested", "legacy"].path)
    assert report.outcome == "tree_only"
    assert "block" in report.needs[0].detail


def test_hooks_that_change_what_a_class_computes_are_named(written):
    understood, report, _ = read(written["today", "spectral_norm", "zip"].path)
    assert understood is None
    assert "SpectralNorm" in report.needs[0].detail


def test_tied_weights_stay_one_tensor_and_what_is_never_called_is_left_out(written):
    case = written["today", "tied", "legacy"]
    understood, report, inspection = read(case.path)
    assert understood is not None
    assert [note for note in report.repaired if "never used" in note]
    module = net_of(case.path, understood, inspection)
    assert module.out.weight is module.embed.weight  # type: ignore[union-attr]


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(4, 4)

    def forward(self, x):
        return x + torch.relu(self.lin(x))


class Nested(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.fc(x)


WHOLE = """
class Block(nn.Module):
    def forward(self, x):
        return x + torch.relu(self.lin(x))

class Nested(nn.Module):
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.fc(x)
"""


@pytest.mark.parametrize(
    "forward",
    [
        {"": WHOLE.splitlines()},
        {"": ["x = blocks(x)", "return fc(x)"], "Block": ["return x + relu(lin(x))"]},
        {"": ["return self.fc(self.blocks(x))"], "blocks.0": ["return x + relu(lin(x))"],
         "blocks.1": ["def forward(self, x):", "    return x + F.relu(self.lin(x))"]},
    ],
)  # fmt: skip
def test_forwards_of_inner_classes_are_sent_by_path_by_class_or_as_their_text(tmp_path, forward):
    net = Nested().eval()
    torch.save(net, tmp_path / "net.pt")
    _, report, _ = read(tmp_path / "net.pt")
    assert len(report.needs) == 2  # one for each class, not for each module
    understood, report, inspection = read(tmp_path / "net.pt", forward=forward)
    assert understood is not None, report.needs
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.allclose(net_of(tmp_path / "net.pt", understood, inspection)(x), net(x), atol=1e-6)


def test_a_slip_in_the_text_is_told_in_its_own_line_with_the_nearest_name(written):
    case = written["today", "zbx", "zip"]
    _, report, _ = read(case.path, forward={"": ["x = F.relu(self.convl(x))", "return self.head(self.pool(x))"]})
    assert "Line 1: `self.convl`" in report.needs[0].detail
    assert "'conv1'" in report.needs[0].detail


def test_three_values_make_attention(written):
    case = written["today", "attention", "zip"]
    understood, report, _ = read(case.path)
    assert report.outcome == "exact"
    assert report.needs  # the sizes of its three inputs do not show
    understood, _, inspection = read(
        case.path, inputs=[{"name": name, "shape": ["B", "T", 8]} for name in ("query", "key", "value")]
    )
    assert understood is not None
    x = ramp([2, 5, 8])
    module = net_of(case.path, understood, inspection)
    with torch.no_grad():
        assert module(x, x, x).shape == (2, 5, 8)


# State dicts.


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("writer", ["debian", "today"])
def test_a_state_dict_fits_the_document_of_its_net_bit_by_bit(written, writer, form):
    case = written[writer, "sequential_state", form]
    architecture = require(SEQUENTIAL).architecture
    understood, report, inspection = read(case.path, architecture=architecture)
    assert understood is not None
    assert report.outcome == "exact"
    module = net_of(case.path, understood, inspection)
    with torch.no_grad():
        out = module(ramp([2, 1]))
    assert torch.allclose(out.reshape(-1), torch.tensor(case.known["output"]), rtol=1e-6, atol=1e-7)
    assert checkpoint.weights_digest(module.state_dict()) == checkpoint.weights_digest(
        torch.load(case.path, weights_only=True)
    )


def test_without_a_document_a_state_dict_asks_for_one(written):
    understood, report, _ = read(written["today", "batchnorm_state", "zip"].path)
    assert understood is None
    assert report.outcome == "weights_only"
    assert [need.what for need in report.needs] == ["architecture"]


SEQUENTIAL = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 1]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "in_features": 1, "out_features": 10},
            {"type": "ReLU"},
            {"type": "Linear", "in_features": 10, "out_features": 1},
        ],
    },
}


@pytest.mark.parametrize(
    ("names", "rename", "wanted"),
    [
        (["hidden", "predict"], [("hidden", "0"), ("predict", "2")], True),
        (["net.0", "net.2"], [("net", "")], True),
        (["net.0", "net.2"], [("net.*", "*")], True),
        (["a.b.0.x", "a.b.2.x"], [("a.**.x", "**"), ("b", "")], True),
        (["0", "2"], [("nothing", "there")], False),
        (["0", "2"], [("*", "0")], False),
        (["hidden", "predict"], [], False),
    ],
)
def test_keys_are_renamed_by_rules(tmp_path, names, rename, wanted):
    first, second = names
    state = {f"{first}.weight": torch.ones(10, 1), f"{first}.bias": torch.ones(10)}
    state |= {f"{second}.weight": torch.ones(1, 10), f"{second}.bias": torch.ones(1)}
    file = tmp_path / "weights.pt"
    torch.save(state, file)
    understood, report, inspection = read(file, architecture=require(SEQUENTIAL).architecture, rename=rename)
    assert (understood is not None) == wanted
    if understood is not None:
        assert net_of(file, understood, inspection)(torch.ones(1, 1)).item() == 21
    else:
        assert report.needs


def test_no_rule_takes_long(tmp_path):
    torch.save({"a" * 200: torch.ones(1)}, tmp_path / "weights.pt")
    architecture = require(SEQUENTIAL).architecture
    understood, _, _ = read(tmp_path / "weights.pt", architecture=architecture, rename=[("**a" * 12 + "b", "x")])
    assert understood is None


def test_what_does_not_fit_is_listed_all_of_it(tmp_path):
    state = {"0.weight": torch.ones(10, 2), "0.bias": torch.ones(10, dtype=torch.int64), "3.weight": torch.ones(1)}
    torch.save(state, tmp_path / "weights.pt")
    understood, report, _ = read(tmp_path / "weights.pt", architecture=require(SEQUENTIAL).architecture)
    assert understood is None
    assert report.outcome == "refused"
    assert report.missing == ["2.weight", "2.bias"]
    assert report.unexpected == ["3.weight"]
    assert report.mismatched == [
        {"key": "0.weight", "expected": [10, 1], "got": [10, 2]},
        {"key": "0.bias", "expected": "float32", "got": "int64"},
    ]


def test_half_precision_and_new_weight_normalisation_are_read(tmp_path):
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(1, 10))
    second = torch.nn.Linear(10, 1).half()
    state = {f"0.{key}": value for key, value in normed.state_dict().items()}
    state |= {f"2.{key}": value for key, value in second.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    understood, report, inspection = read(tmp_path / "weights.pt", architecture=require(SEQUENTIAL).architecture)
    assert understood is not None
    module = net_of(tmp_path / "weights.pt", understood, inspection)
    x = torch.randn(3, 1)
    assert torch.allclose(module(x), second.float()(torch.relu(normed(x))), atol=1e-6)
    assert any("float16" in note for note in report.repaired)
    assert any("weight normalisation" in note for note in report.repaired)


def test_counters_that_old_files_lack_begin_at_zero(tmp_path):
    layer = torch.nn.BatchNorm1d(3)
    state = {f"0.{key}": value for key, value in layer.state_dict().items() if key != "num_batches_tracked"}
    torch.save(state, tmp_path / "weights.pt")
    document = {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3]}],
        "root": {"type": "Sequential", "layers": [{"type": "BatchNorm1d", "num_features": 3}]},
    }
    understood, _, inspection = read(tmp_path / "weights.pt", architecture=require(document).architecture)
    assert understood is not None
    assert net_of(tmp_path / "weights.pt", understood, inspection).state_dict()["0.num_batches_tracked"] == 0


# torchvision's nets.


def test_torchvisions_nets_are_built_whole_and_as_state_dicts(nets):
    seen = []
    for case in nets:
        understood, report, inspection = read(case.path)
        if "state" in case.name:
            assert understood is None
            assert report.proposal == {"catalogue": case.name.removesuffix("_state")}
            continue
        assert understood is not None, report.needs
        module = net_of(case.path, understood, inspection)
        with torch.no_grad():
            out = module(ramp(case.known["input"]))
        apart = (out.reshape(-1) - torch.tensor(case.known["output"])).abs().max().item()
        assert apart < 1e-5 * max(1.0, out.abs().max().item())
        assert [[name, list(tensor.shape)] for name, tensor in module.state_dict().items()] == [
            [name, shape] for name, _, shape, _ in case.known["weights"]
        ]
        seen.append((case.name, case.format, sum(p.numel() for p in module.parameters())))
    assert ("vgg16", "zip", 138_357_544) in seen
    assert {name for name, _, _ in seen} == {"alexnet", "resnet18", "vgg16"}
