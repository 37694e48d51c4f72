from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.engine import build, bundle, checkpoint
from service.engine.bundle import assemble, read_bundle, recognises, zipped
from service.engine.predictor import Predictor, Rows
from service.errors import ArchitectureInvalid, CheckpointRefused
from service.jobs.staging import stage
from service.schemas import architecture as architectures
from service.schemas import examples
from service.schemas.judgement import require
from service.schemas.preprocessing import (
    NONE,
    ArrayRow,
    FittedMinMax,
    FittedOneHot,
    FittedStandardize,
    NumberColumn,
    NumberTarget,
    Preprocessing,
    TableRow,
    TextColumn,
)
from service.schemas.versions import Manifest

SEQUENTIAL = {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 5, "out_features": 2}]}
IMAGES = {
    "schema": "arch/1",
    "inputs": [{"name": "image", "shape": ["B", 2, 3, 3]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"type": "Conv2d", "in_channels": 2, "out_channels": 1, "kernel_size": 3},
            {"type": "BatchNorm2d", "num_features": 1},
            {"type": "Flatten"},
        ],
    },
}
TOKENS = {
    "schema": "arch/1",
    "inputs": [{"name": "tokens", "shape": ["B", "T"], "dtype": "int64"}],
    "root": {
        "type": "Graph",
        "class_name": "Tagger",
        "layers": [
            {"name": "embed", "type": "Embedding", "num_embeddings": 9, "embedding_dim": 4},
            {"name": "lstm", "type": "LSTM", "input_size": 4, "hidden_size": 3, "batch_first": True},
        ],
        "forward": ["x = embed(tokens)", "out, (h, c) = lstm(x)", "return out[:, -1]"],
        "inputs": ["tokens"],
    },
}
TWO_INPUTS = {
    "schema": "arch/1",
    "inputs": [{"name": "a", "shape": ["B", 2]}, {"name": "b", "shape": ["B", 2]}],
    "root": {
        "type": "Graph",
        "inputs": ["a", "b"],
        "layers": [{"name": "left", "type": "Linear", "in_features": 2, "out_features": 3}],
        "forward": ["x = left(a)", "y = left(b)", "return x, y"],
    },
}
TABLE = Preprocessing(
    row=TableRow(
        columns=(
            NumberColumn(name="age"),
            TextColumn(name="city", categories=("Bern", "Thun", "Uri")),
            NumberColumn(name="rooms"),
        )
    ),
    steps=(
        FittedStandardize(columns=("age",), mean=(40.0,), std=(12.5,)),
        FittedOneHot(columns=("city",)),
        FittedMinMax(columns=("rooms", "age"), low=(1.0, -2.0), high=(9.0, 2.0)),
    ),
    target=NumberTarget(steps=(FittedStandardize(mean=(3.0, -1.0), std=(10.0, 0.1)),)),
)
SCALED_IMAGES = Preprocessing(
    row=ArrayRow(row_shape=(2, 3, 3)), steps=(FittedStandardize(mean=(0.5, 0.25), std=(2.0, 3.0)),)
)

Made = tuple[Path, Manifest]


def rows_of_table() -> list[Rows]:
    numbers = np.array([[31.0, 2.0], [52.5, 4.0], [18.0, 8.5]], dtype=np.float32)
    return [Rows(numbers, np.array([[0], [2], [-1]]))]


VERSIONS: dict[str, tuple[Any, Preprocessing, list[Rows] | None]] = {
    "a small net": (examples.NET, NONE, None),
    "images that are scaled": (IMAGES, SCALED_IMAGES, None),
    "a table with texts": (
        {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 5]}], "root": SEQUENTIAL},
        TABLE,
        rows_of_table(),
    ),
    "tokens of any length": (TOKENS, NONE, None),
    "two inputs and outputs": (TWO_INPUTS, NONE, None),
}


def make_version(folder: Path, document: Any, fitted: Preprocessing, rows: list[Rows] | None) -> Made:
    judged = require(architectures.parse(document))
    assert judged.architecture is not None
    torch.manual_seed(1)
    module = build.build(judged.architecture)
    draft = stage(folder, judged.architecture, fitted, module, rows, {"loss": 0.5}, {"resolved_spec": {}}, 1)
    manifest = Manifest(model="net", version=3, created_at="2026-01-31T12:00:00.000Z", size_bytes=1, **dict(draft))
    return folder, manifest


@pytest.fixture
def small(tmp_path: Path) -> Made:
    return make_version(tmp_path / "version", *VERSIONS["a small net"])


def whole(made: Made) -> bytes:
    return b"".join(assemble(*made).read())


class TestABundle:
    def test_is_the_same_each_time(self, small: Made) -> None:
        assert whole(small) == whole(small)

    def test_has_documents_weights_and_python(self, small: Made) -> None:
        with zipfile.ZipFile(BytesIO(whole(small))) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == [
                *("README.md", "architecture.json", "golden.safetensors", "load.py", "manifest.json", "model.py"),
                *("preprocessing.json", "rows.py", "weights.pt"),
            ]
            for name in ("architecture.json", "preprocessing.json", "weights.pt"):
                assert archive.read(name) == (small[0] / name).read_bytes()
            about = json.loads(archive.read("manifest.json"))
            assert about["format"] == "modelyard-bundle"
            assert about["version"]["digest"] == small[1].digest
            for file in about["files"]:
                assert hashlib.sha256(archive.read(file["name"])).hexdigest() == file["sha256"]
            assert "class Net(nn.Module)" in archive.read("model.py").decode()

    @pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
    def test_answers_its_golden_rows_with_plain_torch(self, version: Any, tmp_path: Path) -> None:
        made = make_version(tmp_path / "version", *version)
        elsewhere = tmp_path / "elsewhere"
        with zipfile.ZipFile(BytesIO(whole(made))) as archive:
            archive.extractall(elsewhere)
        compare = "import runpy, torch; found = runpy.run_path('load.py'); torch.save(found['answers'], 'answers.pt')"

        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.'); {compare}"],
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        answers = torch.load(elsewhere / "answers.pt", weights_only=True)
        golden = checkpoint.load(made[0] / "golden.pt")
        assert "tensor(" in done.stdout
        for answer, recorded in zip(answers, golden["outputs"], strict=True):
            torch.testing.assert_close(answer, recorded, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
    def test_comes_apart_as_what_it_was_made_of(self, version: Any, tmp_path: Path) -> None:
        folder, manifest = make_version(tmp_path / "version", *version)
        file = BytesIO(whole((folder, manifest)))

        parts = read_bundle(file)

        assert parts.version == manifest
        assert architectures.digest_of(parts.architecture) == manifest.architecture_digest
        assert parts.preprocessing == version[1]
        weights = BytesIO()
        parts.unpack_weights(file, weights)
        assert weights.getvalue() == (folder / "weights.pt").read_bytes()
        assert Predictor.load(folder).deviation(parts.golden) is None

    def test_is_recognised(self, small: Made, tmp_path: Path) -> None:
        path = tmp_path / "some.zip"
        path.write_bytes(whole(small))

        assert recognises(path)
        assert not recognises(small[0] / "weights.pt")
        assert not recognises(small[0] / "architecture.json")

    def test_what_is_made_of_it_must_have_its_digests(self, small: Made) -> None:
        parts = read_bundle(BytesIO(whole(small)))

        parts.require_same(small[1])  # type: ignore[arg-type]  # a manifest has a draft's members
        other = small[1].model_copy(update={"weights_digest": "sha256:" + "0" * 64, "digest": "sha256:" + "1" * 64})
        with pytest.raises(CheckpointRefused, match="manifest: weights digest, digest"):
            parts.require_same(other)  # type: ignore[arg-type]

    def test_names_without_a_prefix_are_found(self) -> None:
        assert bundle.sources_of(["module.a.b", "c"], ["a.b", "c"]) == {"module.a.b": ("a.b",), "c": ("c",)}
        with pytest.raises(CheckpointRefused, match="lack 'd'"):
            bundle.sources_of(["d"], ["c"])


# -- hostile ones -----------------------------------------------------------------------------------------------------

Contents = dict[str, bytes]


def sealed(contents: Contents, **changes: Any) -> bytes:
    """A bundle of these contents whose manifest has their digests."""
    about = json.loads(contents["manifest.json"]) | changes
    if "files" not in changes:
        about["files"] = [
            {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
            if name != "manifest.json"
        ]
        for file in about["version"]["files"]:
            if file["name"] in contents:
                file["sha256"] = hashlib.sha256(contents[file["name"]]).hexdigest()
    contents["manifest.json"] = json.dumps(about).encode()
    return b"".join(zipped({name: (data,) for name, data in contents.items()}).read())


def without(name: str) -> Callable[[Contents], bytes]:
    def change(contents: Contents) -> bytes:
        del contents[name]
        return sealed(contents)

    return change


def with_(name: str, data: bytes) -> Callable[[Contents], bytes]:
    return lambda contents: sealed({**contents, name: data})


def compressed(contents: Contents) -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return target.getvalue()


def doubled(contents: Contents) -> bytes:
    target = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")
        for name, data in [*contents.items(), ("weights.pt", b"other")]:
            archive.writestr(name, data)
    return target.getvalue()


def flipped(contents: Contents) -> bytes:
    data = bytearray(sealed(contents))
    data[data.index(b"torch.save") + 2] ^= 1
    return bytes(data)


def unsealed(contents: Contents) -> bytes:
    contents["model.py"] += b"\nimport os\n"
    return b"".join(zipped({name: (data,) for name, data in contents.items()}).read())


def listed_twice(contents: Contents) -> bytes:
    files = json.loads(contents["manifest.json"])["files"]
    return sealed(contents, files=[*files, files[0]])


def of_another_net(contents: Contents) -> bytes:
    document = json.loads(contents["architecture.json"])
    document["root"]["layers"][0]["out_features"] = 11
    return sealed({**contents, "architecture.json": json.dumps(document).encode()})


def many(contents: Contents) -> bytes:
    return sealed({**contents, **{f"f{place}": b"" for place in range(40)}})


GOLDEN_HEADER = b'{"input.0.numbers":{"dtype":"F32","shape":[9,1],"data_offsets":[0,36]}}'
HOSTILE: dict[str, tuple[Callable[[Contents], bytes], str]] = {
    "weights are missing": (without("weights.pt"), "truncated"),
    "document is missing": (without("architecture.json"), "truncated"),
    "golden rows are missing": (without("golden.safetensors"), "truncated"),
    "compressed": (compressed, "compressed"),
    "an entry twice": (doubled, "duplicate-entry"),
    "a flipped bit": (flipped, "digest-mismatch"),
    "a file changed": (unsealed, "digest-mismatch"),
    "a file listed twice": (listed_twice, "duplicate-entry"),
    "a path that leads out": (with_("../escape.py", b"x"), "damaged"),
    "another document": (of_another_net, "digest-mismatch"),
    "too many entries": (many, "too-large"),
    "a huge document": (with_("architecture.json", b" " * (9 * 2**20)), "too-large"),
    "deep JSON": (with_("architecture.json", b"[" * 100_000), "damaged"),
    "wrong preprocessing": (with_("preprocessing.json", b'{"steps": [{"type": "exec"}]}'), "damaged"),
    "NaN": (with_("preprocessing.json", b'{"format": NaN}'), "damaged"),
    "golden rows of no net": (
        with_("golden.safetensors", len(GOLDEN_HEADER).to_bytes(8, "little") + GOLDEN_HEADER + bytes(36)),
        "damaged",
    ),
    "golden rows beyond the file": (
        with_("golden.safetensors", len(GOLDEN_HEADER).to_bytes(8, "little") + GOLDEN_HEADER + bytes(8)),
        "geometry",
    ),
    "another format": (lambda contents: sealed(contents, format="other"), "damaged"),
    "a later format": (lambda contents: sealed(contents, format_version=2), "damaged"),
    "cut off": (lambda contents: sealed(contents)[:-30], "truncated"),
    "no manifest": (
        lambda contents: b"".join(zipped({"weights.pt": (contents["weights.pt"],)}).read()),
        "not-a-checkpoint",
    ),
}


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_bundle_is_refused(change: Callable[[Contents], bytes], reason: str, small: Made) -> None:
    with zipfile.ZipFile(BytesIO(whole(small))) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}

    with pytest.raises(CheckpointRefused) as refused:
        read_bundle(BytesIO(change(contents)))

    assert refused.value.reason == reason
    assert refused.value.message.endswith(".")


def test_the_mistakes_of_its_document_are_told(small: Made) -> None:
    with zipfile.ZipFile(BytesIO(whole(small))) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(contents["architecture.json"])
    document["root"]["layers"][0]["out_features"] = -1

    with pytest.raises(ArchitectureInvalid):
        read_bundle(BytesIO(sealed({**contents, "architecture.json": json.dumps(document).encode()})))
