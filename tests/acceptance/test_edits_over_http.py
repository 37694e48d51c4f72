"""Surgery on VGG16 with its real weights, over HTTP: V1 and V2 of the tutorials."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.live import Server, run_job

HEAD = {"type": "Linear", "in_features": "auto", "out_features": 10}
TAIL = {"type": "Linear", "in_features": 1000, "out_features": 10}

REPLACE = {"op": "replace", "path": "classifier.6", "layer": HEAD, "policy": "reinit"}
APPEND = {"op": "append", "path": "", "name": "add_linear", "layer": TAIL}
APPEND_INSIDE = {"op": "append", "path": "classifier", "name": "add_linear", "layer": TAIL}
RENAME = {"op": "rename", "path": "classifier", "name": "head"}
REPLACE_RENAMED = {**REPLACE, "path": "head.6"}
FREEZE = {"op": "freeze", "path": "features.**"}

IMAGE = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32).tolist()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with vgg16/1, whose weights are drawn from a seed; its store goes with it: each version is half a GB."""
    server = Server(tmp_path_factory.mktemp("edits") / "store").start()
    with server.client() as client:
        net = {"catalogue": "vgg16"}
        run_job(client, {"kind": "import", "architecture": net, "seed": 1, "output": {"model": "vgg16"}})
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def weights(server: Server) -> Callable[[str], dict[str, Tensor]]:
    """The state_dict of a model's first version, as anybody would read it."""

    @cache
    def read(model: str) -> dict[str, Tensor]:
        with server.client() as client:
            answer = client.get(f"/v1/models/{model}/versions/1/weights", params={"format": "pt"})
        assert answer.status_code == 200, answer.text
        found: dict[str, Tensor] = torch.load(io.BytesIO(answer.content), weights_only=True)
        return found

    return read


def looked_at(client: httpx.Client, *edits: dict[str, Any]) -> dict[str, Any]:
    """The dry run of edits of vgg16/1."""
    body = {"from": {"model": "vgg16", "version": 1}, "edits": edits, "dry_run": True}
    answer = client.post("/v1/architectures/edit", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["stored"] is False
    return found


def counts(weights: dict[str, Any]) -> dict[str, int]:
    return {name: len(weights[name]) for name in ("kept", "reshaped", "new", "dropped")}


def published(client: httpx.Client, model: str, *edits: dict[str, Any]) -> dict[str, Any]:
    """The version that an import without a file makes of vgg16/1 and edits."""
    architecture = {"from": {"model": "vgg16", "version": 1}, "edits": edits}
    run_job(client, {"kind": "import", "architecture": architecture, "seed": 2, "output": {"model": model}})
    version: dict[str, Any] = client.get(f"/v1/models/{model}/versions/1").json()
    return version


def predicted(client: httpx.Client, model: str) -> np.ndarray:
    answer = client.post("/predict", json={"model": model, "inputs": IMAGE})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"])


def test_vgg16_of_the_catalogue_is_torchvisions(
    client: httpx.Client, weights: Callable[[str], dict[str, Tensor]]
) -> None:
    """V1."""
    state = weights("vgg16")

    assert len(state) == 32
    assert (next(iter(state)), list(state)[-1]) == ("features.0.weight", "classifier.6.bias")
    assert sum(tensor.numel() for tensor in state.values()) == 138_357_544
    assert predicted(client, "vgg16").shape == (1, 1000)


@pytest.mark.parametrize(
    ("edits", "wanted", "outputs"),
    [
        pytest.param([REPLACE], (30, 2, 0, 0), 10, id="another-head"),
        pytest.param([APPEND_INSIDE], (32, 0, 2, 0), 10, id="append-to-the-classifier"),
        pytest.param([APPEND], (32, 0, 2, 0), 10, id="append-at-the-root"),
        pytest.param([RENAME, REPLACE_RENAMED], (30, 2, 0, 0), 10, id="another-head-under-another-name"),
        pytest.param([FREEZE], (32, 0, 0, 0), 1000, id="freeze"),
    ],
)
def test_a_dry_run_tells_what_becomes_of_every_weight(
    client: httpx.Client, edits: list[dict[str, Any]], wanted: tuple[int, ...], outputs: int
) -> None:
    """V2, before any training."""
    found = looked_at(client, *edits)

    assert tuple(counts(found["weights"]).values()) == wanted
    assert found["summary"]["outputs"][0]["shape"] == ["B", outputs]
    assert len(found["frozen"]) == (26 if FREEZE in edits else 0)


def test_a_layer_appended_at_the_root_runs_and_the_others_stay_as_they_were(
    client: httpx.Client, weights: Callable[[str], dict[str, Tensor]]
) -> None:
    """V2: it is called; all that was there is there bit by bit, what was renamed too."""
    version = published(client, "longer", APPEND, RENAME)
    state, before = weights("longer"), weights("vgg16")
    told = version["lineage"]["resolved_spec"]["edited"]["weights"]

    assert version["lineage"]["origin"] == "edited from vgg16/1"
    assert counts(told) == {"kept": 32, "reshaped": 0, "new": 2, "dropped": 0}
    assert list(state) == [name.replace("classifier.", "head.") for name in before] + told["new"]
    for name, tensor in before.items():
        assert torch.equal(state[name.replace("classifier.", "head.")], tensor), name

    old, new = predicted(client, "vgg16"), predicted(client, "longer")
    by_hand = old @ state["add_linear.weight"].double().numpy().T + state["add_linear.bias"].double().numpy()

    assert new.shape == (1, 10)
    assert np.abs(new - by_hand).max() < 1e-5
