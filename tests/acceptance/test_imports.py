"""Old checkpoints over HTTP: files of torch 1.13 and of today's become versions that answer as their nets did.

The files are real, written by these releases in processes of their own; S1, S2 and V1 of the tutorials among them.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.corpus import corpus, hostile
from tests.live import Server, wait_for

NETS = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import torch
import torchvision
import write_corpus

torch.manual_seed(0)
folder, shape = Path(sys.argv[2]), (1, 3, 224, 224)
for name in ("resnet18", "vgg16"):
    net = getattr(torchvision.models, name)().eval()
    with torch.no_grad():
        output = net(write_corpus.ramp(shape)).reshape(-1).tolist()
    saved = net.state_dict() if name == "resnet18" else net
    write_corpus.write(folder, name, saved, {}, ["zip"], output=output)
"""
"""Writes what torchvision 0.14 has, drawn from a seed, with what it answers: ResNet18's state_dict and VGG16 whole."""

FORWARD = ["x = pool(relu(conv1(x)))", "return head(x)"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Where a file is, by its writer and name, such as "debian/zbx.zip"; beside it is what its writer knew of it."""
    folder = tmp_path_factory.mktemp("files")
    small = [[python, "-W", "ignore", str(corpus.WRITER), str(folder / label)] for label, python in WRITERS.items()]
    nets = [str(corpus.DEBIAN_PYTHON), "-W", "ignore", "-c", NETS, str(corpus.WRITER.parent), str(folder / "debian")]
    (folder / "debian").mkdir()
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in (nets, *small)]
    for writer in writers:
        _, told = writer.communicate(timeout=120)
        assert writer.returncode == 0, f"{corpus.MISSING}\n{told[-2000:]}"
    yield lambda name: folder / f"{name}.pt"
    shutil.rmtree(folder)


WRITERS = {"debian": str(corpus.DEBIAN_PYTHON), "today": sys.executable}


def known(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return found


def ramp(*shape: int) -> np.ndarray:
    """The input that the writers gave their nets."""
    return ((np.arange(np.prod(shape)) % 251).astype(np.float32) / 251 - np.float32(0.5)).reshape(shape)


def upload(client: httpx.Client, data: bytes | Path) -> str:
    """The id of an uploaded file."""
    if isinstance(data, Path):
        with data.open("rb") as stream:
            answer = client.post("/v1/uploads", content=stream, headers=BYTES)
    else:
        answer = client.post("/v1/uploads", content=data, headers=BYTES)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert found["digest"].startswith("sha256:")
    return str(found["id"])


BYTES = {"Content-Type": "application/octet-stream"}


def imported(client: httpx.Client, upload_id: str, model: str, **members: Any) -> dict[str, Any]:
    """The finished job, whether it succeeded or not."""
    body = {"kind": "import", "upload": upload_id, "output": {"model": model}, **members}
    answer = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"})
    assert answer.status_code in (200, 202), answer.text
    at = f"/v1/jobs/{answer.json()['id']}"

    def finished() -> Any:
        job = client.get(at).json()
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    job: dict[str, Any] = wait_for(finished, timeout=60, every=0.1)
    return job


def succeeded(client: httpx.Client, upload_id: str, model: str, **members: Any) -> dict[str, Any]:
    job = imported(client, upload_id, model, **members)
    assert job["state"] == "succeeded", job["error"]
    assert job["output"] == {"model": model, "version": 1}
    return job


def failed(client: httpx.Client, upload_id: str, code: str, **members: Any) -> dict[str, Any]:
    job = imported(client, upload_id, "not-to-be", **members)
    assert (job["state"], job["error"] and job["error"]["code"]) == ("failed", code), job["error"]
    assert client.get("/v1/models/not-to-be").status_code == 404
    return job


def predicted(client: httpx.Client, model: str, rows: Any) -> Any:
    body = {"model": model, "inputs": rows.tolist() if isinstance(rows, np.ndarray) else rows}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"]


def assert_answers_as_recorded(client: httpx.Client, model: str, path: Path) -> None:
    facts = known(path)
    got = np.array(predicted(client, model, ramp(*facts["input"]))).reshape(-1)
    assert np.abs(got - facts["output"]).max() < 1e-5 * max(1, np.abs(got).max())


def weights(client: httpx.Client, model: str) -> dict[str, Tensor]:
    answer = client.get(f"/v1/models/{model}/versions/1/weights", params={"format": "pt"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Tensor] = torch.load(io.BytesIO(answer.content), weights_only=True)
    return found


def digests(state: dict[str, Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(value.contiguous().numpy().data).hexdigest() for name, value in state.items()}


def written_weights(path: Path) -> dict[str, str]:
    return {name: digest for name, _, _, digest in known(path)["weights"]}


# A whole net without its class.


@pytest.mark.parametrize("writer", WRITERS)
def test_an_old_whole_module_is_imported_without_a_question(
    client: httpx.Client, files: Callable[[str], Path], writer: str
) -> None:
    """The class is nowhere, but files of the old format have its text beside the weights: S1."""
    path = files(f"{writer}/zbx.old")
    job = succeeded(client, upload(client, path), f"zbx-old-{writer}")

    assert (job["report"]["outcome"], job["report"]["needs"]) == ("translated", [])
    assert "__main__.ZBX" in job["report"]["classes"]
    assert digests(weights(client, f"zbx-old-{writer}")) == written_weights(path)
    assert_answers_as_recorded(client, f"zbx-old-{writer}", path)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_whole_module_without_its_class_asks_for_the_forward_alone(
    client: httpx.Client, files: Callable[[str], Path], writer: str
) -> None:
    path = files(f"{writer}/zbx.zip")
    upload_id = upload(client, path)
    job = failed(client, upload_id, "architecture_needed")
    report = job["report"]

    assert (report["outcome"], [need["what"] for need in report["needs"]]) == ("tree_only", ["forward"])
    assert report["layers"][0] == {
        "path": "conv1",
        "type": "Conv2d",
        "arguments": {"in_channels": 3, "out_channels": 64, "kernel_size": 3, "padding": 1},
    }
    assert [layer["path"] for layer in report["layers"]][-1] == "head.3"
    assert report["proposal"]["forward"] == ["x = conv1(x)", "x = pool(x)", "return head(x)"]

    model = f"zbx-{writer}"
    job = succeeded(client, upload_id, model, forward=FORWARD)

    assert job["report"]["outcome"] == "translated"
    assert digests(weights(client, model)) == written_weights(path)
    assert_answers_as_recorded(client, model, path)
    version = client.get(f"/v1/models/{model}/versions/1").json()
    assert version["lineage"]["imported"]["digest"].startswith("sha256:")
    assert version["signature"]["inputs"][0]["shape"] == ["B", 3, 8, 8]


def test_a_restarted_server_gives_the_bits_that_it_gave(
    make_server: Callable[..., Server], files: Callable[[str], Path]
) -> None:
    """S1: the restored model's predictions are those of the original."""
    path = files("debian/zbx.zip")
    server = make_server()
    with server.client() as client:
        succeeded(client, upload(client, path), "zbx", forward=FORWARD)
        rows = np.concatenate([ramp(1, 3, 8, 8), -ramp(1, 3, 8, 8)])
        before = predicted(client, "zbx", rows)
    assert server.stop() == 0
    with server.start().client() as client:
        after = predicted(client, "zbx", rows)

    assert after == before


# torchvision's.


def test_a_bare_state_dict_of_resnet18_is_recognised(client: httpx.Client, files: Callable[[str], Path]) -> None:
    path = files("debian/resnet18.zip")
    upload_id = upload(client, path)
    report = failed(client, upload_id, "architecture_needed")["report"]

    assert report["outcome"] == "weights_only"
    assert report["proposal"] == {"catalogue": "resnet18"}

    job = succeeded(client, upload_id, "resnet18", architecture=report["proposal"])

    assert job["report"]["outcome"] == "exact"
    assert_net_answers(client, "resnet18", path)


def test_a_whole_vgg16_is_imported(client: httpx.Client, files: Callable[[str], Path]) -> None:
    path = files("debian/vgg16.zip")
    job = succeeded(client, upload(client, path), "vgg16-whole")

    assert job["report"]["outcome"] == "translated"
    assert "torchvision.models.vgg.VGG" in job["report"]["classes"]
    architecture = client.get(f"/v1/architectures/{version_of(client, 'vgg16-whole')['architecture_digest']}").json()
    assert architecture["summary"]["parameters"] == 138_357_544
    assert_net_answers(client, "vgg16-whole", path)


def assert_net_answers(client: httpx.Client, model: str, path: Path) -> None:
    [got] = predicted(client, model, ramp(1, 3, 224, 224))
    wanted = known(path)["output"]
    assert len(got) == len(wanted) == 1000
    assert np.abs(np.array(got) - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


def version_of(client: httpx.Client, model: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/models/{model}/versions/1").json()
    return found


# Weights alone.

LINEARS: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 2]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "in_features": 2, "out_features": 3},
            {"type": "Linear", "in_features": 3, "out_features": 1},
        ],
    },
}
STATE = {
    "0.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "0.bias": torch.zeros(3),
    "1.weight": torch.ones(1, 3),
    "1.bias": torch.ones(1),
}


@pytest.fixture(scope="module")
def linears(shared_server: Server) -> str:
    with shared_server.client() as client:
        return str(client.post("/v1/architectures", json=LINEARS).json()["digest"])


def test_safetensors_are_read(client: httpx.Client, linears: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    job = succeeded(client, upload(client, tmp_path / "weights.safetensors"), "safe", architecture=linears)

    assert job["report"]["format"] == "safetensors"
    assert predicted(client, "safe", [[1, 1], [0, 0]]) == [[22], [1]]


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_half_a_character_in_a_files_notes_is_told_as_its_escape(
    client: httpx.Client, linears: str, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(STATE, path, metadata={"note": "XXXXXX"})
        path.write_bytes(path.read_bytes().replace(b"XXXXXX", rb"\ud800"))
    else:
        torch.save({"state_dict": STATE, "note": "\ud800"}, path)
    job = succeeded(client, upload(client, path), f"half-{kind}", architecture=linears)

    assert job["report"]["others"] == {"note": r"\ud800"}
    assert predicted(client, f"half-{kind}", [[1, 1]]) == [[22]]
    assert client.get(f"/v1/models/half-{kind}/versions/1").is_success


def test_a_torchserve_archive_gives_its_weights_and_none_of_its_code(
    client: httpx.Client, linears: str, tmp_path: Path
) -> None:
    canary = tmp_path / "ran"
    state = io.BytesIO()
    torch.save(STATE, state)
    manifest = {
        "runtime": "python",
        "model": {"modelName": "m", "serializedFile": "weights.pt", "modelFile": "net.py", "handler": "handler.py"},
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        made.writestr("weights.pt", state.getvalue())
        for name in ("net.py", "handler.py"):
            made.writestr(name, f"open({str(canary)!r}, 'w')")
    job = succeeded(client, upload(client, archive.getvalue()), "mar", architecture=linears)
    told = json.dumps(job["report"])

    assert job["report"]["format"].startswith("TorchServe archive")
    assert "net.py" in told
    assert "handler.py" in told
    assert not canary.exists()
    assert predicted(client, "mar", [[1, 1]]) == [[22]]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_training_checkpoint_and_prefixes_are_seen_through(
    client: httpx.Client, linears: str, files: Callable[[str], Path], writer: str
) -> None:
    """Weights beside an optimizer, under `module.` of data parallel training."""
    for name, told in (("training", "optimizer"), ("prefixed", "module.")):
        for form in ("zip", "old"):
            path = files(f"{writer}/{name}.{form}")
            model = f"{name}-{form}-{writer}"
            job = succeeded(client, upload(client, path), model, architecture=linears)

            assert told in json.dumps(job["report"]), job["report"]
            assert digests(weights(client, model)) == written_weights(path)


def test_keys_are_renamed_by_rules_and_what_does_not_fit_is_listed(client: httpx.Client, linears: str) -> None:
    """S2: strict by default."""
    file = io.BytesIO()
    torch.save(
        {key.replace("0.", "backbone.first.").replace("1.", "head."): value for key, value in STATE.items()}, file
    )
    upload_id = upload(client, file.getvalue())
    job = failed(client, upload_id, "checkpoint_refused", architecture=linears)

    assert job["error"]["reason"] == "keys"
    assert job["report"]["missing"] == list(STATE)
    assert "backbone.first.weight" in job["report"]["unexpected"]

    rules = [{"from": "backbone.first", "to": "0"}, {"from": "head.*", "to": "1.*"}]
    succeeded(client, upload_id, "renamed-keys", architecture=linears, rename=rules)

    assert predicted(client, "renamed-keys", [[1, 1]]) == [[22]]


def test_a_file_of_a_gpu_is_read_where_there_is_none(
    client: httpx.Client, files: Callable[[str], Path], tmp_path: Path
) -> None:
    """S2: what a GPU saved loads on a CPU."""
    path = files("debian/zbx.zip")
    on_cuda = corpus.on_cuda(path, tmp_path / "cuda.pt")
    succeeded(client, upload(client, on_cuda), "from-cuda", forward=FORWARD)

    assert digests(weights(client, "from-cuda")) == written_weights(path)


# Refused.


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("reduce at the root", "code"),
        ("legacy with code", "code"),
        ("hook of the system", "code"),
        ("shared library", "code"),
        ("stride-0 bomb", "geometry"),
        ("storage by a path", "truncated"),
        ("many dimensions", "too-large"),
    ],
)
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(
    client: httpx.Client, tmp_path: Path, name: str, reason: str
) -> None:
    canary = tmp_path / "ran"
    [case] = [case for case in hostile.every(str(canary)) if case.name == name]
    job = failed(client, upload(client, case.data), "unsafe_checkpoint" if reason == "code" else "checkpoint_refused")

    assert (job["error"]["reason"], job["report"]["outcome"]) == (reason, "refused")
    assert job["error"]["detail"].endswith(".")
    assert not canary.exists()


def test_programs_of_torch_are_recognised_and_the_way_out_is_told(client: httpx.Client) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    exported = io.BytesIO()
    torch.export.save(torch.export.export(Twice(), (torch.ones(2, 2),)), exported)
    scripted = hostile.archive(hostile.table(), extra={"constants.pkl": b"", "code/__torch__.py": b"", "version": b"3"})
    for data, told in ((scripted, "TorchScript"), (exported.getvalue(), "torch.export")):
        job = failed(client, upload(client, data), "unsafe_checkpoint")

        assert told in job["error"]["detail"], job["error"]
        assert "state_dict" in job["error"]["hint"], job["error"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "not-a-checkpoint", id="nothing"),
        pytest.param(b"<!doctype html><p>404", "not-a-checkpoint", id="a-page"),
        pytest.param(struct.pack("<Q", 2**62) + b"{}", "too-large", id="a-long-header"),
    ],
)
def test_what_is_no_checkpoint_is_told_so(client: httpx.Client, data: bytes, reason: str) -> None:
    answer = client.post("/v1/uploads", content=data, headers=BYTES)
    if answer.status_code == 201:
        job = failed(client, answer.json()["id"], "checkpoint_refused")
        assert job["error"]["reason"] in (reason, "not-a-checkpoint"), job["error"]
    else:
        assert answer.status_code == 422, answer.text
