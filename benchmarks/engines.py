"""How long a forward pass takes by engine and layout: two nets, as versions that the worker's own code stages.

    .venv/bin/python benchmarks/engines.py [rounds]

The engines take turns; the least processor time of each is told, and how many times faster than the contiguous plan
that is. Only the net is timed: rows are tensors before and after. An engine that is not installed is left out.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from service.engine import build, checkpoint, engines
from service.engine.predictor import GOLDEN, Predictor
from service.jobs.staging import stage
from service.schemas.judgement import require
from service.schemas.outputs import Output
from service.schemas.preprocessing import NONE

SLICE_S = 0.03


def net(shape: list[int], *layers: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": "arch/1",
        "inputs": [{"name": "x", "shape": ["B", *shape]}],
        "root": {"type": "Sequential", "layers": list(layers)},
    }


def linear(given: int, gives: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": given, "out_features": gives}


def convolution(given: int, gives: int) -> list[dict[str, Any]]:
    conv = {"type": "Conv2d", "in_channels": given, "out_channels": gives, "kernel_size": 5, "padding": 2}
    return [conv, {"type": "MaxPool2d", "kernel_size": 2}]


NETS = {
    "M1, 1-10-1": net([1], linear(1, 10), {"type": "ReLU"}, linear(10, 1)),
    "CIFAR net": net(
        [3, 32, 32],
        *convolution(3, 32),
        *convolution(32, 32),
        *convolution(32, 64),
        {"type": "Flatten"},
        linear(1024, 64),
        linear(64, 10),
    ),
}
WISHES: dict[str, dict[str, Any]] = {
    "eager, contiguous": {"type": "eager", "layout": "contiguous"},
    "eager, channels_last": {"type": "eager", "layout": "channels_last"},
    "onnxruntime": {"type": "onnxruntime"},
    "aot_inductor": {"type": "aot_inductor"},
}


def versions(document: dict[str, Any], folder: Path) -> dict[str, Predictor]:
    """The net by engine, as a server has it loaded."""
    architecture = require(document).architecture
    assert architecture is not None
    found = {}
    for name, wish in WISHES.items():
        if lacks := engines.lacking(Output.model_validate({"model": "m", "engine": wish}).engine):
            print(f"{name} is left out: {', '.join(lacks)} is not installed", file=sys.stderr)
            continue
        place = folder / name.replace(" ", "").replace(",", "-")
        place.mkdir(parents=True)
        torch.manual_seed(0)
        spec = {"kind": "import", "output": {"model": "m", "engine": wish}}
        draft = stage(
            place / "staged", architecture, NONE, build.build(architecture), None, {}, {"resolved_spec": spec}, 1
        )
        plan = Predictor.load(place / "staged", layout=engines.layout_of(draft.engine))
        found[name] = engines.engaged(plan, draft, place / "staged", checkpoint.load(place / "staged" / GOLDEN))
    return found


def least(run: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
    """The mean processor time of one pass over a slice of time."""
    count, started = 0, time.thread_time()
    while True:
        run(x)
        count += 1
        ended = time.thread_time()
        if ended - started > SLICE_S:
            return (ended - started) / count


def main(rounds: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print("| net | rows | " + " | ".join(WISHES) + " |")
    print("| --- | --- |" + " --- |" * len(WISHES))
    for name, document in NETS.items():
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            loaded = versions(document, Path(folder))
            for rows in (1, 32):
                x = torch.randn(rows, *document["inputs"][0]["shape"][1:])
                times = dict.fromkeys(loaded, float("inf"))
                for _ in range(rounds):
                    for each, version in loaded.items():
                        times[each] = min(times[each], least(version.plan, x))
                base = times["eager, contiguous"]
                cells = [
                    f"{times[each] * 1e6:.1f} µs ({base / times[each]:.2f}×)" if each in times else ""
                    for each in WISHES
                ]
                print(f"| {name} | {rows} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
