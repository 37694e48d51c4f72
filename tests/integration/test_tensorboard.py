"""`modelyard tensorboard`: event files that TensorBoard reads, out of what the server has of its jobs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.schemas import catalogue, examples
from tests.live import Server, run_job, wait_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    from service.cli.event_files import graph_of, run_name

CLASSIFY_IMAGES: dict[str, Any] = {
    "kind": "train",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", 3, 8, 8]}],
        "root": {
            "type": "Sequential",
            "layers": [
                {"name": "conv", "type": "Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3},
                {"name": "relu", "type": "ReLU"},
                {"name": "flat", "type": "Flatten"},
                {"name": "head", "type": "Linear", "in_features": 144, "out_features": 2},
            ],
        },
    },
    "dataset": {"type": "striped_images", "classes": 2, "size": 8, "rows_per_class": 20, "seed": 1},
    "split": {"type": "stratified", "validation": 0.25, "seed": 1},
    "objective": {"type": "cross_entropy"},
    "optimizer": {"type": "Adam", "lr": 0.01},
    "batch_size": 10,
    "budget": {"epochs": 4},
    "output": {"model": "board"},
}


def modelyard(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "tensorboard", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def invoked(*arguments: str) -> Result:
    """The command without a process of its own."""
    return CliRunner().invoke(app, ["tensorboard", *arguments])


def read(folder: Path) -> EventAccumulator:
    """What TensorBoard itself finds in a run."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_a_job_is_written_as_tensorboard_reads_it(client: httpx.Client, shared_server: Server, tmp_path: Path) -> None:
    job = run_job(client, CLASSIFY_IMAGES)
    done = modelyard(job["id"], "--url", shared_server.url, "--logdir", str(tmp_path / "log"), "--once")
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "log").iterdir()
    found = read(run)
    tags = found.Tags()
    curves = {series["name"]: series for series in client.get(f"/v1/jobs/{job['id']}/metrics").json()["series"]}
    losses = found.Scalars("loss")
    plugins = found.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(plugins[metadata.SESSION_START_INFO_TAG])

    assert re.fullmatch(r"board-\d{14}-[0-9a-f]{8}", run.name)
    assert [event.step for event in losses] == curves["loss"]["steps"]
    assert [event.value for event in losses] == pytest.approx(curves["loss"]["values"])
    assert {"val_loss", "val_accuracy", "final/val_accuracy"} <= set(tags["scalars"])
    assert len([tag for tag in tags["images"] if tag.startswith("images/row ")]) == 10
    assert {"features/conv", "features/relu"} <= set(tags["images"])
    assert {"weights/conv.weight", "weights/head.bias"} <= set(tags["histograms"])
    assert [node.name for node in found.Graph().node] == ["x", "conv", "relu", "flat", "head", "output"]
    assert start.hparams["optimizer.type"].string_value == "Adam"
    assert start.hparams["optimizer.lr"].number_value == 0.01


def test_a_job_is_followed_while_it_runs(
    client: httpx.Client, shared_server: Server, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """TensorBoard is started on loopback, and shows what comes after that."""
    body = {**examples.TRAIN, "budget": {"max_seconds": 120}, "output": {"model": "followed"}}
    job = client.post("/v1/jobs", json=body).json()
    port = free_port()
    log = (tmp_path / "output").open("wb")
    viewer = subprocess.Popen(
        [
            *(sys.executable, "-m", "service.cli", "tensorboard", job["id"], "--url", shared_server.url),
            *("--logdir", str(tmp_path / "log"), "--port", str(port)),
        ],
        stdout=log,
        stderr=log,
    )

    def curve() -> Any:
        try:
            runs = httpx.get(f"http://127.0.0.1:{port}/data/plugin/scalars/tags").json()
            [run] = runs
            return httpx.get(
                f"http://127.0.0.1:{port}/data/plugin/scalars/scalars", params={"run": run, "tag": "loss"}
            ).json()
        except (httpx.HTTPError, ValueError):
            return None

    try:
        first = wait_for(curve, timeout=90, every=0.2)
        wait_for(lambda: (curve() or first)[-1][1] > first[-1][1], timeout=60, every=0.5)
    finally:
        viewer.terminate()
        client.post(f"/v1/jobs/{job['id']}/cancel")
        viewer.wait(20)
        log.close()
    with pytest.raises(httpx.HTTPError):  # TensorBoard ended with the command
        httpx.get(f"http://127.0.0.1:{port}/data/logdir")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port that nothing listens on."""
    import socket

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


def test_what_cannot_be_shown_is_said(shared_server: Server, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    full = invoked("--logdir", str(tmp_path / "full"), "--once", "--url", shared_server.url)
    nowhere = invoked("--once", "--url", shared_server.url)
    unknown = invoked("job_" + "0" * 32, "--once", "--logdir", str(tmp_path / "a"), "--url", shared_server.url)
    silent = invoked("--once", "--logdir", str(tmp_path / "b"), "--url", "http://127.0.0.1:9")

    assert (full.exit_code, nowhere.exit_code, unknown.exit_code, silent.exit_code) == (2, 2, 4, 3)
    assert "is not empty" in full.stderr
    assert "--logdir" in nowhere.stderr
    assert "There is no job job_0" in unknown.stderr
    assert "did not answer" in silent.stderr


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "__init__.py").write_text("raise ImportError(name='tensorboard')")
    done = modelyard(PYTHONPATH=str(tmp_path))

    assert done.returncode == 2
    assert "TensorBoard is not installed (tensorboard is missing): pip install 'modelyard[tensorboard]'" in done.stderr


@pytest.mark.parametrize("name", ["resnet18", "lstm_text", "transformer_text"])
def test_nets_of_the_catalogue_have_a_graph(name: str) -> None:
    document = catalogue.document(name)
    graph = graph_of(document)
    assert graph is not None
    names = [node.name for node in graph.node]

    assert len(set(names)) == len(names)
    assert {source for node in graph.node for source in node.input} <= set(names)
    assert all(re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*", name) for name in names)


def test_a_run_is_a_folders_name_and_never_a_path() -> None:
    job = {"resolved_spec": {"output": {"model": "../../etc"}}, "created_at": "2026-01-02T03:04:05Z", "id": "/../y"}

    assert "/" not in run_name(job)
    assert not run_name(job).startswith(".")
