"""What five PyTorch tutorials do by hand, done over HTTP, with their numbers; docstrings name the case (R1, C1 …)."""

from __future__ import annotations

import io
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from httpx_sse import connect_sse
from torch import Tensor
from torch.nn import functional

from service.schemas.examples import CLASSIFY, CLOUDS, PARABOLA, SEQUENTIAL, TRAIN
from tests.live import run_job

RELU = {"type": "ReLU"}
TANH = {"type": "Tanh"}
POOL = {"type": "MaxPool2d", "kernel_size": 2}
IMAGE = [[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]]
KERNEL = [[1, 2, 1], [0, 1, 0], [2, 1, 0]]


def linear(inputs: int, outputs: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": inputs, "out_features": outputs}


def conv(inputs: int, outputs: int, kernel: int, **more: Any) -> dict[str, Any]:
    return {"type": "Conv2d", "in_channels": inputs, "out_channels": outputs, "kernel_size": kernel, **more}


def document(root: dict[str, Any], *row: int, dtype: str = "float32") -> dict[str, Any]:
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", *row], "dtype": dtype}], "root": root}


def sequential(*layers: dict[str, Any], row: tuple[int, ...], dtype: str = "float32") -> dict[str, Any]:
    return document({"type": "Sequential", "layers": list(layers)}, *row, dtype=dtype)


def graph(*lines: str, layers: tuple[dict[str, Any], ...] = (), row: tuple[int, ...]) -> dict[str, Any]:
    return document({"type": "Graph", "layers": list(layers), "forward": list(lines)}, *row)


def training(model: str, **changes: Any) -> dict[str, Any]:
    """The first tutorial's job, changed."""
    return {**TRAIN, "output": {"model": model}, **changes}


def imported(client: httpx.Client, model: str, architecture: dict[str, Any], **more: Any) -> None:
    run_job(client, {"kind": "import", "architecture": architecture, "output": {"model": model}, **more})


def predicted(client: httpx.Client, model: str, inputs: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={"model": model, "inputs": inputs})
    assert answer.status_code == 200, answer.text
    return answer.json()


def weights(client: httpx.Client, model: str) -> dict[str, Tensor]:
    """The state_dict of a model's first version, read as anybody would."""
    answer = client.get(f"/v1/models/{model}/versions/1/weights", params={"format": "pt"})
    assert answer.status_code == 200, answer.text
    return torch.load(io.BytesIO(answer.content), weights_only=True)


def curve(client: httpx.Client, job: dict[str, Any], name: str = "loss") -> dict[str, Any]:
    """A job's metrics, and among them one series."""
    answer = client.get(f"/v1/jobs/{job['id']}/metrics").json()
    return {**answer, **next(series for series in answer["series"] if series["name"] == name)}


def refused(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """The only mistake of a job that is not taken."""
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    [entry] = answer.json()["errors"]
    return entry


def validated(client: httpx.Client, architecture: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/architectures/validate", json=architecture)
    assert answer.status_code == 200, answer.text
    return answer.json()


# -- regression -----------------------------------------------------------------------------------------------------


def test_a_net_with_named_layers_fits_the_parabola(client: httpx.Client):
    """R1."""
    job = run_job(client, training("r1"))

    assert job["metrics"]["last"]["loss"] < 0.01
    state = weights(client, "r1")
    assert sorted(state) == ["hidden.bias", "hidden.weight", "predict.bias", "predict.weight"]
    assert sum(tensor.numel() for tensor in state.values()) == 31
    [low, high] = predicted(client, "r1", [[0.0], [0.9]])["outputs"]
    assert abs(low[0] - 0.1) < 0.15  # x² and the mean of the noise
    assert abs(high[0] - 0.91) < 0.15


def test_the_sequential_form_is_the_same_function_when_the_weights_are_copied(client: httpx.Client):
    """R2."""
    run_job(client, training("r2-named"))
    copied = {
        key.replace("hidden", "0").replace("predict", "2"): tensor.tolist()
        for key, tensor in weights(client, "r2-named").items()
    }
    imported(client, "r2", SEQUENTIAL, state_dict=copied)
    rows = torch.linspace(-1, 1, 100).unsqueeze(1).tolist()

    assert list(weights(client, "r2")) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert predicted(client, "r2", rows)["outputs"] == predicted(client, "r2-named", rows)["outputs"]


def test_a_job_is_watched_live_and_keeps_its_whole_loss_curve(client: httpx.Client):
    """R3."""
    cube = {**PARABOLA, "coefficients": [0, 0, 0, 1], "noise": {"type": "normal", "scale": 0.1}}
    net = sequential(linear(1, 20), RELU, linear(20, 20), RELU, linear(20, 1), row=(1,))
    sgd = {"type": "SGD", "lr": 0.05}
    body = training("r3", architecture=net, dataset=cube, optimizer=sgd, budget={"steps": 2000})
    job = client.post("/v1/jobs", json=body).json()
    with connect_sse(client, "GET", f"/v1/jobs/{job['id']}/events") as stream:
        events = list(stream.iter_sse())

    assert events[-1].event == "done"
    ids = [int(event.id) for event in events]
    assert ids == sorted(set(ids))
    fractions = [event.json()["data"]["fraction"] for event in events if event.event == "progress"]
    assert fractions == sorted(fractions)
    assert fractions[0] < 1
    parts = [
        series["values"]
        for event in events
        if event.event == "metrics"
        for series in event.json()["data"]["series"]
        if series["name"] == "loss"
    ]
    loss = curve(client, job)
    assert len(parts[0]) < 2000  # told piece by piece, the first right after the first step
    assert loss["steps"] == list(range(1, 2001))
    assert loss["values"] == [value for part in parts for value in part]
    assert not loss["thinned"]
    assert loss["values"][-1] < loss["values"][0] / 5


def test_a_sequential_inside_a_class_keeps_its_nested_names(client: httpx.Client):
    """R4."""
    hidden = {"name": "hidden", "type": "Sequential", "layers": [linear(1, 10), RELU, linear(10, 1)]}
    net = graph("return hidden(x)", layers=(hidden,), row=(1,))
    adam = {"type": "Adam", "lr": 0.001}
    job = run_job(client, training("r4", architecture=net, optimizer=adam, budget={"epochs": 100}))

    assert list(weights(client, "r4")) == ["hidden.0.weight", "hidden.0.bias", "hidden.2.weight", "hidden.2.bias"]
    loss = curve(client, job)
    assert len(loss["values"]) == 100
    assert loss["values"][-1] < loss["values"][0]


def test_a_long_job_and_a_prediction_outside_its_training_range(client: httpx.Client):
    """R5."""
    source = {**PARABOLA, "coefficients": [-2, 3, 1], "low": -2, "high": 2, "noise": {"type": "uniform", "scale": 0.5}}
    net = sequential(linear(1, 10), TANH, linear(10, 1), row=(1,))
    sgd = {"type": "SGD", "lr": 0.05}
    body = training("r5", architecture=net, dataset=source, optimizer=sgd, budget={"steps": 50_000})
    job = client.post("/v1/jobs", json=body).json()
    with connect_sse(client, "GET", f"/v1/jobs/{job['id']}/events") as stream:
        for event in stream.iter_sse():
            if event.event == "metrics":
                while_told = client.get(f"/v1/jobs/{job['id']}").json()
                break
    with connect_sse(client, "GET", f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": event.id}) as stream:
        later = [int(event.id) for event in stream.iter_sse()]
    job = client.get(f"/v1/jobs/{job['id']}").json()

    assert while_told["state"] == "running"
    assert while_told["progress"]["fraction"] < 0.5
    assert later[0] > int(event.id)
    assert job["state"] == "succeeded"
    assert job["metrics"]["last"]["loss"] < 0.03  # the noise alone has a variance of 0.021
    loss = curve(client, job)
    assert loss["total"] >= 50_000
    assert loss["thinned"]
    assert loss["steps"][0] == 1
    assert loss["steps"][-1] == 50_000
    assert predicted(client, "r5", [[-2.0], [0.0], [2.0]])["warnings"] == []
    outside = predicted(client, "r5", [[x] for x in np.linspace(2, 2.5, 6).tolist()])
    assert len(outside["outputs"]) == 6
    assert {entry["code"] for entry in outside["warnings"]} == {"outside-training-range"}
    assert [entry["pointer"] for entry in outside["warnings"]] == [f"/inputs/{row}/0" for row in range(1, 6)]
    assert outside["warnings"][0]["expected"] == "-2 to 2"
    assert outside["warnings"][0]["got"] == "2.1"


@pytest.mark.parametrize(("drop_last", "steps"), [(False, 4), (True, 3)], ids=["last-kept", "last-dropped"])
def test_mini_batches_of_32_from_100_rows(client: httpx.Client, drop_last: bool, steps: int):
    """R6."""
    body = training(f"r6-{steps}", batch_size=32, shuffle=True, drop_last=drop_last, budget={"epochs": 5})
    job = run_job(client, body)

    assert job["progress"]["step"] == 5 * steps
    loss = curve(client, job)
    assert loss["steps"] == list(range(1, 5 * steps + 1))
    assert loss["epochs"] == [epoch for epoch in range(1, 6) for _ in range(steps)]
    assert len(set(loss["values"])) == 5 * steps


# -- classification -------------------------------------------------------------------------------------------------


def test_two_clouds_are_told_apart(client: httpx.Client):
    """C1."""
    job = run_job(client, {**CLASSIFY, "output": {"model": "c1"}})
    fresh = {
        "kind": "evaluate",
        "model": "c1",
        "dataset": {**CLOUDS, "seed": 2},
        "objective": {"type": "cross_entropy"},
    }
    measured = run_job(client, fresh)
    answer = predicted(client, "c1", [[2, 2], [-2, -2]])

    assert job["metrics"]["last"]["val_accuracy"] >= 0.98
    assert measured["metrics"]["last"]["accuracy"] >= 0.98
    assert answer["classes"] == ["0", "1"]
    assert answer["labels"] == ["0", "1"]
    expected = torch.tensor(answer["outputs"]).softmax(dim=1)
    assert torch.allclose(torch.tensor(answer["probabilities"]), expected, atol=1e-6)


# -- operators ------------------------------------------------------------------------------------------------------


def test_a_net_without_parameters_is_an_expression(client: httpx.Client):
    """N1."""
    imported(client, "n1", graph("return x + 1", row=()))

    assert predicted(client, "n1", [1.0])["outputs"] == [2.0]
    assert weights(client, "n1") == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [[10, 12, 12], [18, 16, 16], [13, 9, 3]]),
        ({"stride": 2}, [[10, 12], [13, 3]]),
        (
            {"padding": 1},
            [[1, 3, 4, 10, 8], [5, 10, 12, 12, 6], [7, 18, 16, 16, 8], [11, 13, 9, 3, 4], [14, 13, 9, 7, 4]],
        ),
    ],
    ids=["stride-1", "stride-2", "padding-1"],
)
def test_a_convolution_with_a_given_kernel(
    client: httpx.Client, arguments: dict[str, int], expected: list[list[int]], request: pytest.FixtureRequest
):
    """N2."""
    model = f"n2-{request.node.callspec.id}"
    net = sequential(conv(1, 1, 3, bias=False, **arguments), row=(1, 5, 5))
    imported(client, model, net, state_dict={"0.weight": [[KERNEL]]})

    assert predicted(client, model, [[IMAGE]])["outputs"] == [[expected]]


@pytest.mark.parametrize(("ceil_mode", "expected"), [(True, [[2, 3], [5, 1]]), (False, [[2]])], ids=["ceil", "floor"])
def test_max_pooling_of_an_image_of_whole_numbers(
    client: httpx.Client, ceil_mode: bool, expected: list[list[int]], request: pytest.FixtureRequest
):
    """N3, and the trap: torch itself has no max_pool2d for 'Long'."""
    model = f"n3-{request.node.callspec.id}"
    imported(client, model, sequential({"type": "MaxPool2d", "kernel_size": 3, "ceil_mode": ceil_mode}, row=(1, 5, 5)))

    assert predicted(client, model, [[IMAGE]])["outputs"] == [[expected]]


def test_activations(client: httpx.Client):
    """N4."""
    imported(client, "n4-relu", sequential(RELU, row=(2,)))
    imported(client, "n4-sigmoid", sequential({"type": "Sigmoid"}, row=(2,)))
    rows = [[1, -0.5], [-1, 3]]

    assert predicted(client, "n4-relu", rows)["outputs"] == [[1, 0], [0, 3]]
    sigmoid = torch.tensor(predicted(client, "n4-sigmoid", rows)["outputs"])
    assert torch.allclose(sigmoid, torch.tensor([[0.7310586, 0.3775407], [0.2689414, 0.9525741]]), atol=1e-6)


def test_a_batch_of_photographs_becomes_feature_maps(client: httpx.Client):
    """N5."""
    imported(client, "n5", sequential(conv(3, 6, 3), row=(3, 32, 32)), seed=5)
    photographs = cifar10_images()
    images = photographs.repeat(64 // len(photographs) + 1, 1, 1, 1)[:64]
    maps = torch.tensor(predicted(client, "n5", images.tolist())["outputs"])

    assert maps.shape == (64, 6, 30, 30)
    state = weights(client, "n5")
    assert torch.allclose(maps, functional.conv2d(images, state["0.weight"], state["0.bias"]), atol=1e-5)


def test_the_cifar10_net_is_checked_trained_and_served(client: httpx.Client):
    """N6."""
    same = {"padding": 2}
    net = sequential(
        conv(3, 32, 5, **same), POOL, conv(32, 32, 5, **same), POOL, conv(32, 64, 5, **same), POOL,
        {"type": "Flatten"}, linear(1024, 64), linear(64, 10),
        row=(3, 32, 32),
    )  # fmt: skip
    verdict = validated(client, net)
    body = training(
        "n6",
        architecture=net,
        dataset={"type": "striped_images", "classes": 10, "rows_per_class": 20, "seed": 1},
        objective={"type": "cross_entropy"},
        optimizer={"type": "SGD", "lr": 0.01},
        batch_size=64,
        budget={"epochs": 1},
    )
    job = run_job(client, body)
    outputs = torch.tensor(predicted(client, "n6", torch.ones(64, 3, 32, 32).tolist())["outputs"])

    assert verdict["valid"]
    assert verdict["summary"]["parameters"] == 145_578
    assert [output["shape"] for output in verdict["summary"]["outputs"]] == [["B", 10]]
    assert job["progress"]["step"] == 4
    assert sum(tensor.numel() for tensor in weights(client, "n6").values()) == 145_578
    assert outputs.shape == (64, 10)
    assert torch.equal(outputs, outputs[:1].expand(64, 10))


@pytest.mark.parametrize(
    ("objective", "inputs", "targets", "expected"),
    [
        ({"type": "l1"}, [[1], [2], [3]], [1, 2, 5], 0.6667),
        ({"type": "l1", "reduction": "sum"}, [[1], [2], [3]], [1, 2, 5], 2.0),
        ({"type": "mse"}, [[1], [2], [3]], [1, 2, 5], 1.3333),
        ({"type": "cross_entropy"}, [[0.1, 0.2, 0.3]], [1], 1.1019),
    ],
    ids=["l1-mean", "l1-sum", "mse", "cross-entropy"],
)
def test_losses_with_their_reduction(
    client: httpx.Client,
    objective: dict[str, str],
    inputs: list[list[float]],
    targets: list[float],
    expected: float,
    request: pytest.FixtureRequest,
):
    """L1."""
    model = f"l1-{request.node.callspec.id}"
    imported(client, model, sequential({"type": "Identity"}, row=(len(inputs[0]),)))
    dataset = {"type": "inline", "inputs": inputs, "targets": targets}
    job = run_job(client, {"kind": "evaluate", "model": model, "dataset": dataset, "objective": objective})

    assert round(job["metrics"]["last"]["loss"], 4) == expected


# -- traps ----------------------------------------------------------------------------------------------------------


def test_a_misspelt_layer_is_refused_with_the_name_that_was_meant(client: httpx.Client):
    net = graph("return conv1(x)", layers=({"name": "conc1", **conv(1, 1, 3)},), row=(1, 5, 5))
    answer = client.post("/v1/architectures", json=net)

    assert answer.status_code == 422
    [entry] = answer.json()["errors"]
    assert entry["pointer"] == "/root/forward/0"
    assert entry["detail"] == "`conv1` is not a layer here; did you mean `conc1`?"


def test_a_layer_that_is_never_called_is_refused(client: httpx.Client):
    layers = ({"name": "head", **linear(2, 4)}, {"name": "add_linear", **linear(4, 2)})
    [entry] = validated(client, graph("return head(x)", layers=layers, row=(2,)))["errors"]

    assert entry["layer"] == "add_linear"
    assert "never called" in entry["detail"]


@pytest.mark.parametrize(
    "net",
    [
        sequential({"type": "Flatten", "start_dim": 0}, linear(196_608, 10), row=(3, 32, 32)),
        graph(
            "x = reshape(x, 1, 1, 1, -1)",
            "return head(x)",
            layers=({"name": "head", **linear(196_608, 10)},),
            row=(3, 32, 32),
        ),
    ],
    ids=["flatten", "reshape"],
)
def test_a_batch_folded_into_the_features_is_refused_with_both_sizes(client: httpx.Client, net: dict[str, Any]):
    answer = client.post("/v1/architectures", json=net)

    assert answer.status_code == 422
    entry = answer.json()["errors"][-1]
    assert entry["code"] == "batch-folded"
    assert "196608" in entry["detail"]
    assert "64 rows of 3072" in entry["detail"]
    assert "3072" in entry["hint"]


def test_flat_targets_against_a_column_of_answers_are_refused_before_the_job_starts(client: httpx.Client):
    buffer = io.BytesIO()
    x = np.linspace(-1, 1, 100, dtype=np.float32)
    np.savez(buffer, x=x[:, None], y=x**2)
    upload = client.post("/v1/uploads", content=buffer.getvalue()).json()["id"]
    dataset = {"type": "npz", "upload": upload, "inputs": "x", "target": "y"}
    run_job(client, training("stretched"))
    jobs_before = client.get("/v1/jobs").json()["data"]
    entry = refused(client, training("stretched", dataset=dataset))
    measured = refused(
        client, {"kind": "evaluate", "model": "stretched", "dataset": dataset, "objective": {"type": "mse"}}
    )

    for each in (entry, measured):
        assert each["code"] == "shape-mismatch"
        assert (each["got"], each["expected"]) == ("[N, 1]", "[N]")
        assert "[N, 1]" in each["hint"]
    assert client.get("/v1/jobs").json()["data"] == jobs_before


def test_a_softmax_without_a_dimension_is_warned_of(client: httpx.Client):
    verdict = validated(client, graph("return softmax(head(x))", layers=({"name": "head", **linear(2, 2)},), row=(2,)))

    assert verdict["valid"]
    [warning] = verdict["warnings"]
    assert warning["code"] == "softmax-dim"
    assert "dim=1" in warning["detail"]


def test_a_softmax_before_cross_entropy_is_warned_of(client: httpx.Client):
    layers = [*CLASSIFY["architecture"]["root"]["layers"], {"type": "Softmax", "dim": 1}]
    net = sequential(*layers, row=(2,))
    job = run_job(client, {**CLASSIFY, "architecture": net, "budget": {"steps": 1}, "output": {"model": "twice"}})

    [warning] = job["warnings"]
    assert warning["code"] == "softmax-twice"


def test_a_learning_rate_too_high_fails_with_the_step_and_publishes_nothing(client: httpx.Client):
    body = training("exploded", optimizer={"type": "SGD", "lr": 1000})
    job = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()

    assert job["state"] == "failed"
    assert job["error"]["code"] == "non_finite_loss"
    assert job["error"]["pointer"] == "/optimizer/lr"
    assert 1 < job["error"]["step"] < 200
    assert f"at step {job['error']['step'] - 1}" in job["error"]["detail"]  # the last good loss
    assert "version" not in job["output"]
    assert client.get("/v1/models/exploded").status_code == 404


def test_inputs_are_cast_only_when_that_is_exact(client: httpx.Client):
    table = {"type": "Embedding", "num_embeddings": 5, "embedding_dim": 2}
    imported(client, "table", sequential(table, row=(3,), dtype="int64"))
    rows = [[0, 1, 2], [0, 1.5, 2]]
    answer = client.post("/predict", json={"model": "table", "inputs": rows})

    assert predicted(client, "table", [[0, 1.0, 2]])["outputs"] == predicted(client, "table", [[0, 1, 2]])["outputs"]
    assert answer.status_code == 422
    [entry] = answer.json()["errors"]
    assert (entry["pointer"], entry["code"], entry["got"]) == ("/inputs/1/1", "dtype-mismatch", "1.5")


# -- pictures -------------------------------------------------------------------------------------------------------


def cifar10_images() -> Tensor:
    """[20, 3, 32, 32] from 0 to 1: the photographs that foolbox brings; found by path, since its imports are many."""
    spec = find_spec("foolbox")
    assert spec is not None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [file for folder in folders for file in sorted(folder.glob("data/cifar10_*.png"))]
    assert len(files) == 20
    return torch.stack([png(file.read_bytes()) for file in files]).permute(0, 3, 1, 2) / 255


def png(content: bytes) -> Tensor:
    """An 8-bit RGB picture [height, width, 3]: enough of the format for photographs of 32 by 32."""
    width, height, depth, colours = struct.unpack(">IIBB", content[16:26])
    assert (depth, colours) == (8, 2)
    data, place = b"", 8
    while place < len(content):
        [length] = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] == b"IDAT":
            data += content[place + 8 : place + 8 + length]
        place += length + 12
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + 3 * width)
    picture = np.zeros((height + 1, 3 + 3 * width), np.int64)  # a black margin above and at the left
    for y, line in enumerate(lines, start=1):
        kind = int(line[0])
        for x, value in enumerate(line[1:].tolist(), start=3):
            left, above, corner = picture[y, x - 3], picture[y - 1, x], picture[y - 1, x - 3]
            nearest = min((left, above, corner), key=lambda near: abs(left + above - corner - near))
            guess = (0, left, above, (left + above) // 2, nearest)[kind]
            picture[y, x] = (value + guess) % 256
    return torch.from_numpy(picture[1:, 3:].reshape(height, width, 3)).float()
