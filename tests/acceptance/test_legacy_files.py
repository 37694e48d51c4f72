"""Foreign checkpoints of two releases of torch: tree, keys and every byte, without torch and without their classes."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from service.engine import cage, legacy
from service.engine.inspection import ITEM_SIZES, Inspection, Module
from service.errors import CheckpointRefused
from tests.corpus import corpus
from tests.corpus.corpus import Written

WRITERS = ["debian", "today"]
FORMATS = ["zip", "legacy"]

Cases = dict[tuple[str, str, str], Written]


def test_every_file_of_both_releases_is_read_and_every_tensor_is_bit_equal(written: Cases) -> None:
    assert len(written) >= 120
    for case in written.values():
        inspection = legacy.inspect(case.path)

        assert inspection.format == case.format, case
        # The wrapper of data parallel training is taken off, as another test says.
        known = [[name.removeprefix("module."), *rest] for name, *rest in case.known["weights"]]
        assert [[t.name, t.dtype, list(t.shape)] for t in _weights(inspection)] == [row[:3] for row in known], case
        assert _digests(case.path, inspection) == [row[3] for row in known], case


def test_every_whole_module_gives_its_tree_in_the_order_of_registration(written: Cases) -> None:
    trees = [case for case in written.values() if "tree" in case.known and case.name != "parallel"]
    assert trees
    for case in trees:
        inspection = legacy.inspect(case.path)

        assert inspection.holds == "module"
        assert inspection.module is not None
        seen = [[module.path, module.kind] for module in inspection.module.walk() if module.same_as is None]
        assert seen == case.known["tree"], case


def test_every_inspection_survives_json(written: Cases) -> None:
    for case in written.values():
        inspection = legacy.inspect(case.path)

        assert Inspection.from_json(json.loads(json.dumps(inspection.to_json()))) == inspection


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("form", FORMATS)
def test_the_tutorials_net_is_read_without_its_class(written: Cases, writer: str, form: str) -> None:
    inspection = legacy.inspect(written[writer, "zbx", form].path)

    tree = _by_path(inspection)
    assert tree[""].kind == "__main__.ZBX"
    conv = tree["conv1"]
    assert conv.kind == "torch.nn.modules.conv.Conv2d"
    assert conv.attributes["in_channels"] == 3
    assert conv.attributes["kernel_size"] == [3, 3]
    assert conv.attributes["padding"] == [1, 1]
    assert conv.parameters == {"weight": "conv1.weight", "bias": "conv1.bias"}
    assert tree["head.3"].attributes["out_features"] == 10
    assert not tree[""].training
    assert inspection.tensor("conv1.weight").shape == (64, 3, 3, 3)
    assert inspection.tensor("conv1.weight").requires_grad is True
    source = inspection.sources.get("__main__.ZBX", "")
    assert ("def forward(self, x)" in source) == (form == "legacy")  # the zip format keeps no text


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("form", FORMATS)
def test_parameters_buffers_and_attributes_are_told_apart(written: Cases, writer: str, form: str) -> None:
    inspection = legacy.inspect(written[writer, "nested", form].path)

    root = _by_path(inspection)[""]
    assert root.parameters == {"scale": "scale", "frozen": "frozen", "absent": None}
    assert root.buffers == {"steps": "steps", "cache": "cache"}
    assert root.not_persistent == ("cache",)
    assert "cache" not in inspection.weights
    assert inspection.tensor("frozen").requires_grad is False
    assert inspection.tensor("steps").kind == "buffer"
    assert root.attributes["names"] == ["a", "b"]
    assert root.attributes["options"] == {
        "rate": 0.1,
        "size": [2, 3],
        "kind": {"$class": "torch.float32"},
        "device": {"$object": "torch.device", "arguments": ["cpu"]},
    }
    assert root.attributes["act"] == {"$class": "torch.nn.functional.relu"}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_hook_is_told_of(written: Cases, writer: str) -> None:
    inspection = legacy.inspect(written[writer, "weight_norm", "zip"].path)

    assert _by_path(inspection)["0"].hooks == ("torch.nn.utils.weight_norm.WeightNorm",)
    assert inspection.weights == ("0.bias", "0.weight_g", "0.weight_v")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("form", FORMATS)
def test_tied_tensors_and_shared_modules_are_told(written: Cases, writer: str, form: str) -> None:
    inspection = legacy.inspect(written[writer, "tied", form].path)

    assert inspection.tied == (("embed.weight", "out.weight", "again.weight"),)
    assert _by_path(inspection)["again"].same_as == "embed"


@pytest.mark.parametrize("writer", WRITERS)
def test_views_of_one_storage_are_told(written: Cases, writer: str) -> None:
    inspection = legacy.inspect(written[writer, "views", "zip"].path)

    assert ("whole", "same") in inspection.tied
    assert any({"row", "column", "turned", "whole"} <= set(group) for group in inspection.shared)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("form", FORMATS)
def test_extra_state_is_kept_apart_from_tensors(written: Cases, writer: str, form: str) -> None:
    inspection = legacy.inspect(written[writer, "extra_state_state", form].path)

    assert inspection.weights == ("layer.weight", "layer.bias")
    assert inspection.extra_state == {"_extra_state": {"seen": 3, "words": ["a", "b"]}}
    assert inspection.left_out == ()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("form", FORMATS)
def test_the_weights_of_a_training_checkpoint_are_found(written: Cases, writer: str, form: str) -> None:
    inspection = legacy.inspect(written[writer, "training", form].path)

    assert (inspection.part, inspection.parts) == ("model", ("model",))
    assert inspection.module_paths == ("", "0", "1")
    assert inspection.others["epoch"] == 3
    assert inspection.others["best"] == 0.25
    assert inspection.others["args"] == {"lr": 0.1, "name": "run", "seed": 2**70, "nan": {"$float": "nan"}}
    assert inspection.left_out == ()


@pytest.mark.parametrize("writer", WRITERS)
def test_prefixes_of_wrappers_are_taken_off_and_told(written: Cases, writer: str) -> None:
    parallel = legacy.inspect(written[writer, "prefixed", "zip"].path)
    compiled = legacy.inspect(written[writer, "compiled", "zip"].path)
    whole = legacy.inspect(written[writer, "parallel", "zip"].path)

    assert parallel.weights == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert ["module." in told for told in parallel.repaired] == [True]
    assert compiled.weights[0] == "a.0.weight"
    assert len(compiled.repaired) == 2
    assert whole.module is not None
    assert whole.module.kind == "torch.nn.modules.container.Sequential"
    assert "DataParallel" in whole.repaired[0]


def test_a_file_saved_from_a_gpu_is_read_where_there_is_none(written: Cases, tmp_path: Path) -> None:
    case = written["debian", "zbx", "zip"]
    path = corpus.on_cuda(case.path, tmp_path / "cuda.pt")

    inspection = legacy.inspect(path)

    assert {storage.device for storage in inspection.storages.values()} == {"cuda:0"}
    assert _digests(path, inspection) == [row[3] for row in case.known["weights"]]


def test_a_part_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    torch.save({"a": {"w": torch.zeros(1)}, "b": {"inner": {"w": torch.ones(2)}}}, path)

    with pytest.raises(CheckpointRefused, match="several sets") as refused:
        legacy.inspect(path)
    assert refused.value.reason == "keys"
    assert refused.value.hint is not None
    assert "b.inner" in refused.value.hint
    assert legacy.inspect(path, part="b.inner").tensor("w").shape == (2,)
    with pytest.raises(CheckpointRefused, match="no weights at 'c'"):
        legacy.inspect(path, part="c")


def test_a_whole_module_inside_a_checkpoint_is_found(tmp_path: Path) -> None:
    path = tmp_path / "inside.pt"
    torch.save({"epoch": 1, "model": nn.Sequential(nn.Linear(1, 2))}, path)

    inspection = legacy.inspect(path)

    assert (inspection.part, inspection.holds) == ("model", "module")
    assert inspection.weights == ("0.weight", "0.bias")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(3).to_sparse(), "sparse"),
        (torch.ones(2, dtype=torch.complex64).conj(), "conjugated"),
        (torch.ones(3, device="meta"), "meta"),
    ],
    ids=["sparse", "conjugated", "meta"],
)
def test_tensors_of_other_sorts_are_refused_by_name(tmp_path: Path, value: torch.Tensor, words: str) -> None:
    path = tmp_path / "odd.pt"
    torch.save({"odd": value, "even": torch.ones(1)}, path)

    with pytest.raises(CheckpointRefused) as refused:
        legacy.inspect(path)
    assert refused.value.reason == "dtype"
    assert "'odd'" in refused.value.errors[0].detail
    assert words in refused.value.errors[0].detail


@pytest.mark.filterwarnings("ignore:.*quantized.*")
def test_quantised_tensors_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "quantised.pt"
    torch.save({"q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)}, path)

    with pytest.raises(CheckpointRefused, match="quantised") as refused:
        legacy.inspect(path)
    assert refused.value.reason == "dtype"
    assert refused.value.hint is not None


def test_an_expanded_tensor_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "expanded.pt"
    torch.save({"w": torch.ones(1).expand(1000)}, path)

    with pytest.raises(CheckpointRefused) as refused:
        legacy.inspect(path)
    assert refused.value.reason == "geometry"
    assert "contiguous" in (refused.value.hint or "")


def test_a_class_of_an_unknown_package_is_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "config.pt"
    torch.save({"config": _Stranger(3), "model": {"w": torch.ones(1)}}, path)

    inspection = legacy.inspect(path)

    assert inspection.weights == ("w",)
    kind = f"{_Stranger.__module__}._Stranger"
    assert kind in inspection.classes
    assert inspection.others["config"] == {"$object": kind, "state": {"value": 3}}


class _Stranger:
    def __init__(self, value: int) -> None:
        self.value = value


def test_buffers_are_private_and_can_be_given_to_torch(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    net = nn.Linear(3, 2)
    torch.save(net.state_dict(), path)
    before = path.read_bytes()

    tensors = {}
    for info, data in legacy.read_tensors(path, legacy.inspect(path)):
        tensors[info.name] = torch.frombuffer(data, dtype=getattr(torch, info.dtype)).reshape(info.shape)

    assert torch.equal(tensors["weight"], net.weight)
    tensors["weight"].zero_()
    assert path.read_bytes() == before


def test_a_flipped_bit_in_a_tensor_is_found_by_the_check_sum(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    inspection = legacy.inspect(path)
    data = bytearray(path.read_bytes())
    data[inspection.storages["0"].start + 17] ^= 4
    path.write_bytes(data)

    with pytest.raises(CheckpointRefused) as refused:
        list(legacy.read_tensors(path, legacy.inspect(path)))
    assert refused.value.reason == "crc-mismatch"


def test_a_file_that_was_cut_after_it_was_inspected_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    inspection = legacy.inspect(path)
    path.write_bytes(path.read_bytes()[:2000])

    with pytest.raises(CheckpointRefused) as refused:
        list(legacy.read_tensors(path, inspection))
    assert refused.value.reason == "truncated"


def test_safetensors_are_read_with_prefixes_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    values: dict[str, np.ndarray] = {
        "module.b": np.arange(3, dtype=np.float32),
        "module.a": np.arange(4, dtype=np.int64).reshape(2, 2),
    }
    path.write_bytes(_safetensors(values, {"format": "pt"}))

    inspection = legacy.inspect(path)

    assert inspection.weights == ("b", "a")
    assert inspection.others == {"format": "pt"}
    assert inspection.repaired
    found = {t.name: bytes(data) for t, data in legacy.read_tensors(path, inspection)}
    assert found == {name.removeprefix("module."): value.tobytes() for name, value in values.items()}


def test_reading_needs_no_torch_and_no_packages(written: Cases) -> None:
    path = written["today", "zbx", "legacy"].path
    root = Path(legacy.__file__).parents[2]
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from pathlib import Path\n"
        "from service.engine import legacy\n"
        f"print(len(legacy.inspect(Path({str(path)!r})).weights))\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'pickle') if name in sys.modules])\n"
    )

    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:2] == ["6", "[]"]


@pytest.mark.slow
def test_nets_of_torchvision_are_read_in_the_cage_bit_equal(nets: list[Written], tmp_path: Path) -> None:
    assert {case.name for case in nets} == {"alexnet", "resnet18", "resnet18_state", "vgg16"}
    for case in nets:
        found = cage.inspect(case.path, scratch=tmp_path / "scratch")

        inspection = found.inspection
        assert found.memory_bytes <= 100_000_000
        assert _digests(case.path, inspection) == [row[3] for row in case.known["weights"]], case
        if "tree" in case.known:
            assert inspection.module is not None
            assert [[m.path, m.kind] for m in inspection.module.walk()] == case.known["tree"]
            names = {kind for _, kind in case.known["tree"]}
            assert names <= set(inspection.sources) or case.format == "zip"


def _weights(inspection: Inspection) -> list[Any]:
    return [inspection.tensor(name) for name in inspection.weights]


def _digests(path: Path, inspection: Inspection) -> list[str]:
    found = []
    for tensor, data in legacy.read_tensors(path, inspection):
        assert len(data) == math.prod(tensor.shape) * ITEM_SIZES[tensor.dtype]
        found.append(hashlib.sha256(data).hexdigest())
    return found


def _by_path(inspection: Inspection) -> dict[str, Module]:
    assert inspection.module is not None
    return {module.path: module for module in inspection.module.walk()}


def _safetensors(values: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    names = {"float32": "F32", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": metadata}
    body = b""
    for name, value in values.items():
        data = value.tobytes()
        header[name] = {
            "dtype": names[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
