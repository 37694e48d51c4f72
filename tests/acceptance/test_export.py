from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch

from service.engine import build, checkpoint, export
from service.engine.bundle import zipped
from service.engine.export import Assembly, onnx_missing, pack_safetensors, write_onnx
from service.errors import CheckpointRefused, JobFailed
from service.schemas import architecture as architectures
from service.schemas.judgement import require


def whole(assembly: Assembly) -> bytes:
    return b"".join(assembly.read())


class TestAnAssembly:
    def test_reads_any_part_of_its_pieces(self) -> None:
        assembly = Assembly((b"abc", b"", memoryview(b"defgh"), b"i"))

        assert assembly.size_bytes == 9
        assert whole(assembly) == b"abcdefghi"
        for start in range(9):
            for stop in range(start, 10):
                assert b"".join(assembly.read(start, stop)) == b"abcdefghi"[start:stop]

    def test_comes_a_mebibyte_at_a_time(self) -> None:
        sizes = [len(block) for block in Assembly((bytes(2**20 + 1), b"x")).read()]

        assert sizes == [2**20, 1, 1]


class TestSafetensors:
    def test_are_the_bytes_that_the_library_would_write(self) -> None:
        state = {"b.weight": torch.randn(3, 2), "a": torch.randn(4), "c": torch.tensor(2.5)}

        assert whole(pack_safetensors(state)) == safetensors.torch.save(state)

    def test_give_every_type_back_bit_for_bit(self) -> None:
        state = {
            str(dtype): (torch.rand(3) * 2).to(dtype) for dtype in export._SAFETENSORS if dtype != torch.complex64
        } | {"odd": torch.tensor([True, False, True]), "empty": torch.empty(0, 4), "scalar": torch.tensor(7)}

        found = safetensors.torch.load(whole(pack_safetensors(state)))

        assert found.keys() == state.keys()
        for name, tensor in state.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert found[name].view(torch.uint8).equal(tensor.view(torch.uint8)) if tensor.dim() else True

    def test_depend_on_the_tensors_alone(self, tmp_path: Path) -> None:
        state = {"z": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.int64)}
        turned = {"a": torch.ones(4, dtype=torch.int64)[::2], "z": torch.arange(6.0).reshape(2, 3).t().contiguous().t()}
        checkpoint.save(tmp_path / "one.pt", state)
        checkpoint.save(tmp_path / "two.pt", turned)

        one, two = export.safetensors(tmp_path / "one.pt"), export.safetensors(tmp_path / "two.pt")

        assert whole(one) == whole(two)
        assert one.sha256() == two.sha256()
        header = json.loads(whole(one)[8:].partition(b"}}")[0] + b"}}")
        assert list(header) == ["a", "z"]

    def test_hold_tied_tensors_once_for_each_name(self, tmp_path: Path) -> None:
        weight = torch.randn(2, 2)
        checkpoint.save(tmp_path / "tied.pt", {"in.weight": weight, "out.weight": weight})

        found = safetensors.torch.load(whole(export.safetensors(tmp_path / "tied.pt")))

        assert found["in.weight"].equal(weight)
        assert found["out.weight"].equal(weight)

    def test_have_no_type_for_everything(self) -> None:
        with pytest.raises(CheckpointRefused, match=r"no type for 'z'"):
            pack_safetensors({"z": torch.zeros(2, dtype=torch.complex128)})

    def test_of_something_else_are_refused(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path / "list.pt", {"a": [1, 2]})

        with pytest.raises(CheckpointRefused, match="no state_dict"):
            export.safetensors(tmp_path / "list.pt")


class TestAZipFile:
    CONTENTS: ClassVar[dict[str, tuple[bytes, ...]]] = {"b.txt": (b"two", b"parts"), "a.txt": (b"one",), "c": (b"",)}

    def test_is_sorted_stored_and_without_times(self) -> None:
        data = whole(zipped(self.CONTENTS))

        assert data == whole(zipped(dict(reversed(self.CONTENTS.items()))))
        with zipfile.ZipFile(BytesIO(data)) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["a.txt", "b.txt", "c"]
            assert archive.read("b.txt") == b"twoparts"
            assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}

    @pytest.mark.parametrize("narrow", [1, 4, 60])
    def test_of_more_than_4_gib_is_a_zip64(self, narrow: int) -> None:
        """With a smaller limit, so that the test needs no such file."""
        data = whole(zipped(self.CONTENTS, narrow=narrow))

        with zipfile.ZipFile(BytesIO(data)) as archive:
            assert archive.testzip() is None
            assert {name: archive.read(name) for name in archive.namelist()} == {
                name: b"".join(parts) for name, parts in self.CONTENTS.items()
            }
        assert struct.pack("<L", 0xFFFFFFFF) in data


# -- ONNX -------------------------------------------------------------------------------------------------------------


def layer(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def net(
    layers: list[dict[str, Any]], shape: list[Any], *, forward: list[str] | None = None, dtype: str = "float32"
) -> dict[str, Any]:
    root: dict[str, Any] = {"type": "Sequential", "layers": layers}
    if forward is not None:
        root = {"type": "Graph", "class_name": "Net", "layers": layers, "forward": forward}
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": shape, "dtype": dtype}], "root": root}


NETS = {
    "linear": (net([layer("Linear", in_features=3, out_features=4), layer("Tanh")], ["B", 3]), [(3,)]),
    "convolutional": (
        net(
            [
                layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3, padding=1),
                layer("BatchNorm2d", num_features=4),
                layer("ReLU"),
                layer("MaxPool2d", kernel_size=2),
                layer("Flatten"),
                layer("Linear", in_features=64, out_features=5),
            ],
            ["B", 1, 8, 8],
        ),
        [(1, 8, 8)],
    ),
    "of a free size": (
        net(
            [layer("Conv2d", in_channels=1, out_channels=2, kernel_size=3), layer("ReLU")],
            ["B", 1, "H", "W"],
        ),
        [(1, 9, 12), (1, 17, 5)],
    ),
    "recurrent": (
        net(
            [
                layer("Embedding", name="embed", num_embeddings=11, embedding_dim=6),
                layer("LSTM", name="lstm", input_size=6, hidden_size=5, batch_first=True),
                layer("Linear", name="head", in_features=5, out_features=2),
            ],
            ["B", 7],
            forward=["x = embed(x)", "out, (h, c) = lstm(x)", "return head(out[:, -1])"],
            dtype="int64",
        ),
        [(7,)],
    ),
}


@pytest.fixture
def exported(tmp_path: Path) -> Callable[[Any], tuple[torch.nn.Module, Path, dict[str, Any]]]:
    def write(document: Any) -> tuple[torch.nn.Module, Path, dict[str, Any]]:
        judged = require(architectures.parse(document))
        assert judged.architecture is not None
        torch.manual_seed(0)
        module = build.build(judged.architecture).eval()
        path = tmp_path / "net.onnx"
        return module, path, write_onnx(judged.architecture, module, path)

    return write


class TestOnnx:
    @pytest.mark.parametrize(("document", "rows"), NETS.values(), ids=NETS)
    def test_gives_the_same_answers_in_another_runtime(
        self, document: Any, rows: list[tuple[int, ...]], exported: Callable[..., Any]
    ) -> None:
        module, path, about = exported(document)
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

        for count in (1, 5):
            for shape in rows:
                whole_numbers = document["inputs"][0]["dtype"] == "int64"
                x = torch.randint(0, 11, (count, *shape)) if whole_numbers else torch.randn(count, *shape)
                (answer,) = session.run(["output"], {"x": x.numpy()})
                with torch.no_grad():
                    torch.testing.assert_close(torch.from_numpy(answer), module(x), rtol=1e-4, atol=1e-5)
        assert about["inputs"] == [document["inputs"][0]]
        assert about["outputs"][0]["shape"][0] == "B"

    def test_says_nothing_of_the_machine_and_is_the_same_each_time(self, exported: Callable[..., Any]) -> None:
        _, path, _ = exported(NETS["linear"][0])
        first = path.read_bytes()
        _, path, _ = exported(NETS["linear"][0])

        assert path.read_bytes() == first
        assert b"/" not in first.replace(b"pkg.torch", b"")
        assert b"service" not in first
        assert [tensor.name for tensor in onnx.load(path).graph.initializer] == ["0.weight", "0.bias"]

    @pytest.mark.parametrize(
        ("layers", "path"),
        [
            pytest.param([layer("ReLU"), layer("AdaptiveMaxPool2d", output_size=3)], "1", id="no-counterpart"),
            pytest.param(
                [layer("Sequential", name="body", layers=[layer("ReLU"), layer("AdaptiveMaxPool2d", output_size=3)])],
                "body.1",
                id="nested",
            ),
        ],
    )
    def test_a_refusal_names_the_layer(
        self, layers: list[dict[str, Any]], path: str, exported: Callable[..., Any]
    ) -> None:
        with pytest.raises(JobFailed) as refused:
            exported(net(layers, ["B", 2, 8, 8]))

        assert refused.value.failure == "export_refused"
        assert [entry.layer for entry in refused.value.errors] == [path]
        assert "adaptive_max_pool2d" in refused.value.message

    def test_no_hook_is_left_on_the_net(self, exported: Callable[..., Any]) -> None:
        module, _, _ = exported(NETS["linear"][0])

        assert not any(each._forward_pre_hooks or each._forward_hooks for each in module.modules())


def test_the_packages_that_are_missing_are_named() -> None:
    assert onnx_missing() == ()
    assert onnx_missing(lambda name: None if name == "onnxscript" else object()) == ("onnxscript",)


def test_nothing_but_writing_imports_onnx() -> None:
    """The fork server and the front do without it."""
    code = "import sys, service.engine.export; sys.exit('onnx' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
