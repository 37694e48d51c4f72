"""Looking at a net while it is trained: what is kept, how often, and that nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.engine import build, data, preprocessing, seen
from service.engine.examples import open_dataset, split_rows
from service.engine.preprocessing import Preprocessor
from service.engine.train import CheckpointDue, Finished, Trainer
from service.jobs import watching
from service.jobs.watching import Watch
from service.schemas import architecture as architectures
from service.schemas.datasets import RandomSplit, StripedImages
from service.schemas.judgement import require
from service.schemas.training import TrainingConfig

NET: dict[str, Any] = {
    "schema": "arch/1",
    "inputs": [{"name": "x", "shape": ["B", 3, 8, 8]}],
    "root": {
        "type": "Sequential",
        "layers": [
            {"type": "Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3},
            {"type": "BatchNorm2d", "num_features": 4},
            {"type": "ReLU"},
            {"type": "FractionalMaxPool2d", "kernel_size": 2, "output_size": 3},
            {"type": "Flatten"},
            {"type": "Dropout", "p": 0.5},
            {"type": "Linear", "in_features": 36, "out_features": 3},
        ],
    },
}
CONFIG = TrainingConfig.model_validate(
    {
        "objective": {"type": "cross_entropy"},
        "optimizer": {"type": "AdamW", "lr": 0.01},
        "batch_size": 8,
        "budget": {"epochs": 4},
        "checkpoint": {"every_s": 0.05},
        "seed": 3,
    }
)


class Clock:
    """Moves when it is told to, or a little whenever it is read."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More of them wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plenty() -> Iterator[float]:
    """Times between which there is enough for a look, and looks that take none."""
    yield 0.0
    for hour in count(1):
        yield from (hour * 3600.0, hour * 3600.0)


@pytest.fixture
def scene(tmp_path: Path) -> seen.Scene:
    """Sixty images in three classes, a quarter of them held out."""
    folder = tmp_path / "data"
    folder.mkdir()
    source = StripedImages(type="striped_images", classes=3, size=8, rows_per_class=20, seed=1)
    examples = open_dataset(folder, data.materialize(source, folder))
    rows = split_rows(RandomSplit(type="random", validation=0.25), examples)
    fitted, _ = preprocessing.fit(
        (), examples, rows["train"], objective=CONFIG.objective, classes=("0", "1", "2"), inputs=["x"]
    )
    document = require(architectures.parse(NET)).architecture
    assert document is not None
    return seen.Scene(document, examples, rows, Preprocessor(fitted), CONFIG.objective, 3)


@pytest.fixture
def train(scene: seen.Scene) -> Callable[[Watch | None], tuple[dict[str, Tensor], int]]:
    """Train the net, with a glance at every step or without; its state and how often it was looked at."""

    def run(watch: Watch | None) -> tuple[dict[str, Tensor], int]:
        chosen = scene.rows["train"]
        inputs = scene.preprocessor.all_inputs(scene.examples, chosen, dtypes={"x": torch.float32})
        targets = scene.preprocessor.targets(scene.examples, chosen, objective=CONFIG.objective, width=3)
        torch.manual_seed(3)
        module = build.build(scene.architecture)
        trainer = Trainer(module, CONFIG, inputs, targets, clock=Clock(0.1))
        glances = 0
        for event in trainer.run():
            if watch is not None and isinstance(event, (CheckpointDue, Finished)):
                glances += watch.glance(module, step=event.step, epoch=event.epoch)
                assert module.training
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}, glances

    return run


def test_looking_changes_no_bit_of_the_training(
    scene: seen.Scene, train: Callable[[Watch | None], tuple[dict[str, Tensor], int]], tmp_path: Path
) -> None:
    """The net draws random numbers in both modes, and has running statistics."""
    watched, glances = train(Watch(tmp_path, scene, clock=plenty().__next__))
    alone, _ = train(None)

    assert glances > 4
    assert watched.keys() == alone.keys()
    for name, tensor in alone.items():
        assert torch.equal(watched[name], tensor), name


def test_a_look_is_kept_as_one_file(scene: seen.Scene, tmp_path: Path) -> None:
    module = build.build(scene.architecture)
    watch = Watch(tmp_path, scene, clock=Clock(100.0))
    assert watch.glance(module, step=7, epoch=2)
    early = json.loads((tmp_path / watching.FILE).read_bytes())
    watch.behold(module, step=9, epoch=3)
    late = json.loads((tmp_path / watching.FILE).read_bytes())

    assert (early["step"], early["epoch"], early["final"], early["later"]) == (7, 2, False, ["features"])
    assert early["report"]["parts"]["val"]["rows"] == 15
    assert {"weights", "images"} <= early.keys()
    assert (late["step"], late["final"]) == (9, True)
    assert [layer["path"] for layer in late["features"]["layers"]] == ["0", "1", "2", "3"]
    assert set(late["absent"]) == {"fit", "decision"}
    assert {one["truth"] for one in late["images"]["rows"]} <= {"0", "1", "2"}


def test_looks_take_a_fiftieth_of_the_time(scene: seen.Scene, tmp_path: Path) -> None:
    module = nn.Sequential(build.build(scene.architecture))
    clock = Clock()
    watch = Watch(tmp_path, scene, clock=clock)

    def slowly(_: nn.Module, __: object) -> None:
        clock.now += 0.4  # a pass

    module.register_forward_pre_hook(slowly)
    looks, began = [], clock.now
    while clock.now < 300:
        clock.now += 0.1
        before = clock.now
        if watch.glance(module, step=1, epoch=1):
            looks.append(clock.now - before)

    assert looks
    assert sum(looks) <= 0.02 * (clock.now - began) + max(looks)


def test_a_look_that_fails_is_a_line_in_the_log(
    scene: seen.Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = build.build(scene.architecture)
    module.register_forward_pre_hook(_broken)
    Watch(tmp_path, scene).behold(module, step=12, epoch=1)
    Watch(tmp_path / "nowhere", scene).behold(module, step=13, epoch=1)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / watching.FILE).read_bytes())

    assert "At step 12, images could not be drawn (RuntimeError: no memory)." in said
    assert "At step 13, the net could not be drawn (FileNotFoundError: " in said
    assert found["absent"]["images"] == "It could not be drawn: RuntimeError."
    assert found["weights"]


def test_a_net_that_has_diverged_is_drawn_as_far_as_it_can_be(scene: seen.Scene, tmp_path: Path) -> None:
    module = build.build(scene.architecture)
    with torch.no_grad():
        module.state_dict()["6.bias"].fill_(float("nan"))
    Watch(tmp_path, scene).behold(module, step=1, epoch=1)
    found = json.loads((tmp_path / watching.FILE).read_bytes())

    assert found["absent"]["images"] == "The net's answers are not finite."
    assert "6.bias" not in {one["name"] for one in found["weights"]}


def _broken(_: nn.Module, __: object) -> None:
    raise RuntimeError("no memory")
