"""Versions outlive the process that made them: the same answers from a new one, from torch alone, or no answer."""

from __future__ import annotations

import io
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import Tensor, nn

from service.schemas.examples import CLASSIFY, TRAIN
from tests.live import Server, run_job
from tests.problems import assert_problem

ROWS = torch.linspace(-1, 1, 64).unsqueeze(1)


class Net(nn.Module):
    """The first tutorial's class, as its reader writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, 10)
        self.predict = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(torch.relu(self.hidden(x)))


def downloaded(client: httpx.Client, model: str, version: int = 1) -> dict[str, Tensor]:
    answer = client.get(f"/v1/models/{model}/versions/{version}/weights", params={"format": "pt"})
    assert answer.status_code == 200, answer.text
    return torch.load(io.BytesIO(answer.content), map_location="cpu", weights_only=True)


def predicted(client: httpx.Client, model: str, inputs: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"model": model, "inputs": inputs})
    assert answer.status_code == 200, answer.text
    return answer.json()


def constant(model: str, value: float) -> dict[str, Any]:
    """An import of a net that answers `value` to everything."""
    root = {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 1, "out_features": 1}]}
    return {
        "kind": "import",
        "architecture": {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": root},
        "state_dict": {"0.weight": [[0]], "0.bias": [value]},
        "output": {"model": model},
    }


def set_alias(client: httpx.Client, model: str, alias: str, version: int) -> dict[str, Any]:
    """Point an alias at a version, by the ETag that was seen."""
    url = f"/v1/models/{model}/aliases/{alias}"
    seen = client.get(url)
    headers = {"If-None-Match": "*"} if seen.status_code == 404 else {"If-Match": seen.headers["ETag"]}
    answer = client.put(url, json={"version": version}, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def test_a_new_process_answers_the_same_bits(make_server: Callable[..., Server]):
    """S1."""
    server = make_server()
    with server.client() as client:
        run_job(client, TRAIN)
        run_job(client, CLASSIFY)
        before = [predicted(client, "quadratic", ROWS.tolist()), predicted(client, "clouds", [[1, 2], [-0.3, 0.2]])]
        version = client.get("/v1/models/quadratic/versions/1").json()
    first_process = server.process
    assert server.stop() == 0
    server.start()
    with server.client() as client:
        after = [predicted(client, "quadratic", ROWS.tolist()), predicted(client, "clouds", [[1, 2], [-0.3, 0.2]])]
        version_after = client.get("/v1/models/quadratic/versions/1").json()

    assert first_process is not server.process
    assert before == after  # every number of them, and the digests
    assert before[0]["digest"] == version["digest"]
    assert version == version_after


def test_a_class_written_by_hand_loads_the_weights_and_answers_the_same_bits(client: httpx.Client):
    """S1, S2: what is stored is a plain state_dict, and the document's net is the tutorial's."""
    run_job(client, {**TRAIN, "output": {"model": "by-hand"}})
    net = Net()
    keys = net.load_state_dict(downloaded(client, "by-hand"))
    with torch.inference_mode():
        expected = net(ROWS).numpy()
    outputs = np.array(predicted(client, "by-hand", ROWS.tolist())["outputs"], dtype=np.float32)

    assert str(keys) == "<All keys matched successfully>"
    assert np.array_equal(outputs, expected)


def test_weights_of_another_layout_are_refused_with_every_key(client: httpx.Client):
    """S2: strict, with missing, unexpected and mis-shaped keys listed."""
    run_job(client, {**TRAIN, "output": {"model": "strict"}})
    state = {key: tensor.tolist() for key, tensor in downloaded(client, "strict").items()}
    state["prediction.weight"] = state.pop("predict.weight")
    state["hidden.bias"] = state["hidden.bias"][:9]
    body = {
        "kind": "import",
        "architecture": TRAIN["architecture"],
        "state_dict": state,
        "output": {"model": "strict-copy"},
    }
    answer = client.post("/v1/jobs", json=body)

    assert_problem(answer, 422, "checkpoint-refused")
    told = {entry["code"]: entry for entry in answer.json()["errors"]}
    assert told.keys() == {"missing", "unexpected", "shapes"}
    assert "predict.weight" in told["missing"]["detail"]
    assert told["unexpected"]["pointer"] == "/state_dict/prediction.weight"
    assert (told["shapes"]["expected"], told["shapes"]["got"]) == ("[10]", "[9]")
    assert client.get("/v1/models/strict-copy").status_code == 404


def test_a_damaged_version_never_answers_and_the_others_go_on(shared_server: Server, client: httpx.Client):
    for value in (1.0, 2.0):
        run_job(client, constant("pair", value))
    set_alias(client, "pair", "champion", 1)
    assert client.post("/v1/models/pair/versions/1/unload").json()["drained"]  # a copy in memory would go on
    flip_a_bit_of_the_last_weight(shared_server.store / "models" / "pair" / "1" / "weights.pt")
    refusals = [
        client.post("/predict", json={"model": reference, "inputs": [[0]]})
        for reference in ("pair/1", "pair@champion", "pair", "pair/1")
    ]
    measured = client.post("/v1/jobs", json=evaluation("pair/1"))
    other = predicted(client, "pair/2", [[0]])
    state = client.get("/v1/models/pair/versions/1").json()["state"]
    check = client.post("/v1/models/pair/versions/1/verify").json()
    download = client.get("/v1/models/pair/versions/1/weights")
    set_alias(client, "pair", "champion", 2)
    healed = predicted(client, "pair", [[0]])

    assert [refusal.status_code for refusal in refusals] == [503] * 4
    assert {refusal.json()["code"] for refusal in refusals} == {"model-quarantined"}
    assert "weights.pt" in refusals[0].json()["detail"]
    assert (measured.status_code, measured.json()["code"]) == (503, "model-quarantined")
    assert other["outputs"] == [[2.0]]
    assert state == "quarantined"
    assert (download.status_code, download.json()["code"]) == (503, "model-quarantined")
    assert check == {"ok": False, "mismatches": [{"file": "weights.pt"}]}
    assert healed["outputs"] == [[2.0]]


def test_a_damaged_version_does_not_get_an_alias(shared_server: Server, client: httpx.Client):
    for value in (2.0, 1.0):
        run_job(client, constant("kept", value))
    set_alias(client, "kept", "live", 1)
    flip_a_bit_of_the_last_weight(shared_server.store / "models" / "kept" / "2" / "weights.pt")
    refused = client.put("/v1/models/kept/aliases/live", json={"version": 2}, headers={"If-Match": "*"})

    assert (refused.status_code, refused.json()["code"]) == (503, "model-quarantined")
    assert client.get("/v1/models/kept/aliases/live").json()["version"] == 1
    assert predicted(client, "kept@live", [[0]])["outputs"] == [[2.0]]
    assert 'modelyard_alias_swaps_total{outcome="failed"}' in client.get("/metrics").text


def test_a_damaged_version_is_not_measured_either(shared_server: Server, client: httpx.Client):
    run_job(client, constant("single", 1.0))
    assert run_job(client, evaluation("single"))["metrics"]["last"]["loss"] == 0
    flip_a_bit_of_the_last_weight(shared_server.store / "models" / "single" / "1" / "weights.pt")
    measured = client.post("/v1/jobs", json=evaluation("single"))
    state = client.get("/v1/models/single/versions/1").json()["state"]

    assert (measured.status_code, measured.json()["code"]) == (503, "model-quarantined")
    assert state == "quarantined"


def test_a_version_whose_files_are_whole_again_is_served_again(shared_server: Server, client: httpx.Client):
    run_job(client, constant("mended", 1.0))
    weights = shared_server.store / "models" / "mended" / "1" / "weights.pt"
    content = weights.read_bytes()
    flip_a_bit_of_the_last_weight(weights)
    refused = client.post("/predict", json={"model": "mended", "inputs": [[0]]})
    weights.write_bytes(content)
    check = client.post("/v1/models/mended/versions/1/verify").json()

    assert refused.status_code == 503
    assert check["ok"]
    assert predicted(client, "mended", [[0]])["outputs"] == [[1.0]]


def test_a_moment_without_memory_harms_no_version(make_server: Callable[..., Server]):
    server = make_server()
    layers = [{"type": "Linear", "in_features": size, "out_features": 3000} for size in (1, 3000)]
    net = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}]}
    whole = {**net, "root": {"type": "Sequential", "layers": layers}}
    with server.client() as client:
        run_job(client, {"kind": "import", "architecture": whole, "output": {"model": "large"}})
    server.stop()
    server.start()  # which has not loaded it yet
    assert server.process is not None
    pid = server.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    ask = {"model": "large", "inputs": [[1.0]]}
    with server.client() as client:
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + 20 * 2**20, before[1]))
        short = client.post("/predict", json=ask)
        resource.prlimit(pid, resource.RLIMIT_AS, before)
        enough = client.post("/predict", json=ask)

    assert_problem(short, 507, "memory-full")
    assert str(server.store) not in short.text
    assert enough.status_code == 200


def evaluation(model: str) -> dict[str, Any]:
    """How far a model's answer to 0 is from 1."""
    dataset = {"type": "inline", "inputs": [[0]], "targets": [1]}
    return {"kind": "evaluate", "model": model, "dataset": dataset, "objective": {"type": "mse"}}


def flip_a_bit_of_the_last_weight(path: Path) -> None:
    """The smallest damage: the file stays one that torch reads."""
    content = bytearray(path.read_bytes())
    place = content.rindex(np.float32(1.0).tobytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["0.bias"].item() != 1.0


def test_an_alias_change_serves_the_new_version_at_once_without_a_failed_or_mixed_answer(
    shared_server: Server, client: httpx.Client
):
    for value in (1.0, 2.0):
        run_job(client, constant("switched", value))
    set_alias(client, "switched", "live", 1)
    answers: list[httpx.Response] = []
    ended = threading.Event()

    def ask() -> None:
        with shared_server.client() as asking:
            while not ended.is_set() and len(answers) < 2000:
                answers.append(asking.post("/predict", json={"model": "switched@live", "inputs": [[0], [0]]}))

    thread = threading.Thread(target=ask)
    thread.start()
    at_once = []
    try:
        for change in range(20):
            version = 2 - change % 2
            set_alias(client, "switched", "live", version)
            at_once.append((version, predicted(client, "switched@live", [[0]])["version"]))
    finally:
        ended.set()
        thread.join(30)

    assert at_once == [(version, version) for version, _ in at_once]
    assert len(answers) > 20
    assert {answer.status_code for answer in answers} == {200}
    seen = {(answer.json()["version"], str(answer.json()["outputs"])) for answer in answers}
    assert seen == {(1, "[[1.0], [1.0]]"), (2, "[[2.0], [2.0]]")}
    assert {answer.headers["X-Model-Version"] for answer in answers} == {"1", "2"}
    digests = {(answer.json()["version"], answer.json()["digest"]) for answer in answers}
    assert len(digests) == 2
