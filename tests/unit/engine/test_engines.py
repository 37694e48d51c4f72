"""Engines and layouts: which layout a net gets, what an engine answers, and when it is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from service.engine import build, checkpoint, engines
from service.engine.predictor import GOLDEN, Predictor, Rows, rows_of
from service.errors import JobFailed, ValidationFailed
from service.jobs.staging import stage
from service.schemas.engines import AotInductor, EngineRecord, OnnxRuntime
from service.schemas.judgement import require
from service.schemas.preprocessing import NONE
from service.schemas.versions import VersionDraft, VersionFile

ONNX = {"type": "onnxruntime"}


def document(layers: list[dict[str, Any]], *shape: int | str, dtype: str = "float32") -> dict[str, Any]:
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", *shape], "dtype": dtype}],
        "root": {"type": "Sequential", "layers": layers},
    }


def convolution(given: int, gives: int, size: int = 3, **more: Any) -> dict[str, Any]:
    return {"type": "Conv2d", "in_channels": given, "out_channels": gives, "kernel_size": size, **more}


POOL = {"type": "MaxPool2d", "kernel_size": 2}
FLAT = {"type": "Flatten"}


def linear(given: int, gives: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": given, "out_features": gives}


TOP = [FLAT, linear(32 * 7 * 7, 4)]
PICTURES = document([convolution(3, 16), {"type": "ReLU"}, convolution(16, 32, padding=1), POOL, *TOP], 3, 16, 16)
WORDS = document(
    [{"type": "Embedding", "num_embeddings": 5, "embedding_dim": 4}, FLAT, linear(12, 2)], 3, dtype="int64"
)


def staged(folder: Path, raw: dict[str, Any], engine: dict[str, Any] | None = None, *, kind: str = "import"):
    architecture = require(raw).architecture
    assert architecture is not None
    torch.manual_seed(0)
    spec = {"kind": kind, "output": {"model": "net", "engine": engine}}
    threads = torch.get_num_threads()
    try:
        lineage = {"resolved_spec": spec}
        folder.mkdir(exist_ok=True)
        return stage(folder / "staged", architecture, NONE, build.build(architecture), None, {}, lineage, 1)
    finally:
        torch.set_num_threads(threads)


def served(folder: Path, draft: VersionDraft) -> Predictor:
    whole = folder / "staged"
    plan = Predictor.load(whole, layout=engines.layout_of(draft.engine))
    return engines.engaged(plan, draft, whole, checkpoint.load(whole / GOLDEN))


# -- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "layout"),
    [
        pytest.param([convolution(3, 16), POOL, FLAT, linear(16 * 49, 2)], "channels_last", id="pooled"),
        pytest.param([convolution(3, 16), FLAT, linear(16 * 196, 2)], "contiguous", id="not pooled"),
        pytest.param([convolution(3, 6), POOL, FLAT, linear(6 * 49, 2)], "contiguous", id="few channels"),
        pytest.param(
            [convolution(3, 16), convolution(16, 16, groups=4), POOL, FLAT, linear(16 * 36, 2)],
            "contiguous",
            id="groups",
        ),
        pytest.param(
            [convolution(3, 16), convolution(16, 16, groups=16), POOL, FLAT, linear(16 * 36, 2)],
            "channels_last",
            id="depthwise",
        ),
        pytest.param([convolution(3, 16, 4, stride=4), POOL, FLAT, linear(16 * 4, 2)], "contiguous", id="patches"),
        pytest.param([FLAT, linear(768, 2)], "contiguous", id="no convolution"),
    ],
)
def test_the_layout_follows_from_the_document(layers, layout):
    architecture = require(document(layers, 3, 16, 16)).architecture
    assert architecture is not None

    assert engines.layout_for(architecture) == layout


def test_a_pooling_in_a_forward_counts_too():
    root = {
        "type": "Graph",
        "inputs": ["x"],
        "layers": [{"name": "conv", **convolution(3, 16)}],
        "forward": ["return max_pool2d(conv(x), 2)"],
    }
    architecture = require({**document([], 3, 16, 16), "root": root}).architecture
    assert architecture is not None

    assert engines.layout_for(architecture) == "channels_last"


def test_a_version_in_the_other_layout_has_the_same_weights_and_digest(tmp_path: Path):
    there = {layout: tmp_path / layout for layout in ("auto", "contiguous", "channels_last")}
    drafts = {name: staged(folder, PICTURES, {"type": "eager", "layout": name}) for name, folder in there.items()}

    assert {name: draft.engine.layout for name, draft in drafts.items()} == {
        "auto": "channels_last",
        "contiguous": "contiguous",
        "channels_last": "channels_last",
    }
    assert len({draft.digest for draft in drafts.values()}) == 1
    assert len({(folder / "staged" / "weights.pt").read_bytes() for folder in there.values()}) == 1
    answers = {name: served(folder, drafts[name]).run(_rows(there["auto"]))[0] for name, folder in there.items()}
    assert torch.equal(answers["auto"], answers["channels_last"])
    torch.testing.assert_close(answers["auto"], answers["contiguous"], rtol=1e-5, atol=1e-6)


def test_golden_rows_have_the_bits_of_the_layout_that_serves(tmp_path: Path):
    draft = staged(tmp_path, PICTURES)
    golden = checkpoint.load(tmp_path / "staged" / GOLDEN)

    assert draft.engine == EngineRecord(layout="channels_last")
    assert served(tmp_path, draft).deviation(golden) is None


def test_a_version_of_before_there_was_a_choice_is_contiguous():
    assert engines.layout_of(None) == "contiguous"


def _rows(folder: Path) -> list[Rows]:
    return rows_of(checkpoint.load(folder / "staged" / GOLDEN))


# -- engines ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VersionDraft]:
    """A version with a table, served by ONNX Runtime."""
    folder = tmp_path_factory.mktemp("words")
    return folder, staged(folder, WORDS, ONNX)


@pytest.fixture
def copied(words: tuple[Path, VersionDraft], tmp_path: Path) -> tuple[Path, VersionDraft]:
    """The same, to be damaged."""
    shutil.copytree(words[0] / "staged", tmp_path / "staged")
    return tmp_path, words[1]


def forged(folder: Path, draft: VersionDraft, content: bytes, name: str = "engine.onnx") -> VersionDraft:
    """A version that has another file, and says so."""
    (folder / "staged" / name).write_bytes(content)
    file = VersionFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return draft.model_copy(update={"files": (*[one for one in draft.files if one.name != name], file)})


def test_onnx_runtime_answers_as_the_plan_does(tmp_path: Path):
    draft = staged(tmp_path, PICTURES, ONNX)
    assert draft.engine is not None
    assert (draft.engine.type, draft.engine.file) == ("onnxruntime", "engine.onnx")
    assert "engine.onnx" in {file.name for file in draft.files}
    assert draft.engine.deviation is not None
    assert draft.engine.deviation <= 1e-5
    assert draft.batch_independence is not None
    assert draft.batch_independence.independent

    found = served(tmp_path, draft)
    plan = Predictor.load(tmp_path / "staged", layout=draft.engine.layout)
    rows = plan.drawn(33)

    assert (found.engine, plan.layout) == ("onnxruntime", "channels_last")
    torch.testing.assert_close(found.run(rows), plan.run(rows), rtol=1e-4, atol=1e-5)


def test_an_engine_refuses_what_a_table_does_not_have(words):
    found = served(*words)

    for number in (-1, 5):
        with pytest.raises(ValidationFailed) as refused:
            found.run([Rows(torch.tensor([[0, 1, 2], [0, number, 2]]).numpy())])
        assert refused.value.errors[0].pointer == "/inputs/1/1"


def test_an_engine_whose_file_is_another_one_is_not_opened(copied):
    folder, draft = copied
    path = folder / "staged" / "engine.onnx"
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(engines.EngineUnusableError, match="not the one of the manifest"):
        served(folder, draft)


def test_an_engine_that_answers_otherwise_does_not_serve(copied):
    folder, draft = copied
    document = onnx.load(folder / "staged" / "engine.onnx")
    bias = next(one for one in document.graph.initializer if list(one.dims) == [2])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.01, bias.name))

    with pytest.raises(engines.EngineUnusableError, match="differ by"):
        served(folder, forged(folder, draft, document.SerializeToString()))


def test_a_file_that_no_engine_is_called_by_is_not_opened(copied):
    folder, draft = copied
    record = EngineRecord(type="aot_inductor", file="weights.pt")

    with pytest.raises(engines.EngineUnusableError, match="no engine"):
        served(folder, draft.model_copy(update={"engine": record}))


def test_native_code_of_another_processor_is_not_loaded(copied):
    folder, draft = copied
    record = EngineRecord(type="aot_inductor", file="engine.pt2", built_with={"machine": "other"})
    told = forged(folder, draft, b"code", "engine.pt2")

    with pytest.raises(engines.EngineUnusableError, match="another processor"):
        served(folder, told.model_copy(update={"engine": record}))


FREE = document([convolution(3, 16), {"type": "AdaptiveAvgPool2d", "output_size": 1}, FLAT, linear(16, 2)], 3, "H", "W")


def test_an_import_of_a_net_that_the_engine_cannot_take_fails(tmp_path: Path):
    with pytest.raises(JobFailed, match=r"cannot be served by aot_inductor: .* free sizes") as refused:
        staged(tmp_path, FREE, {"type": "aot_inductor"})

    assert refused.value.to_dict()["code"] == "engine_refused"
    assert not (tmp_path / "staged" / "engine.pt2").exists()


def test_a_training_is_not_lost_for_an_engine(tmp_path: Path):
    draft = staged(tmp_path, FREE, {"type": "aot_inductor"}, kind="train")

    assert draft.engine == EngineRecord()
    assert "cannot be served by aot_inductor" in draft.lineage["engine_refused"]


def test_what_is_lacking_is_named_before_anything_is_built():
    def nothing(_: str) -> None:
        return None

    assert engines.lacking(OnnxRuntime(type="onnxruntime"), found=nothing) == ("onnx", "onnxscript", "onnxruntime")
    assert engines.lacking(AotInductor(type="aot_inductor"), which=nothing) == ("g++",)
    assert engines.lacking(None, found=nothing, which=nothing) == ()
