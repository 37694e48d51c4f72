"""What a document costs: plans against nn.Sequential and classes written by hand, loading weights, validating.

Every comparison is interleaved in one run, on one thread. Peak memory is taken in processes of their own.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.engine import build, checkpoint, plan
from service.schemas import catalogue
from service.schemas.architecture import parse
from service.schemas.judgement import judge, require


class Small(nn.Module):
    """The tutorials' Net(1, 10, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, 10)
        self.predict = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        """As tutorials write it."""
        return self.predict(torch.relu(self.hidden(x)))


class Digits(nn.Module):
    """784-512-512-10."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """As tutorials write it."""
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Cifar(nn.Module):
    """The net of the CIFAR-10 tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(32, 32, 5, padding=2), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 64), nn.Linear(64, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """As tutorials write it."""
        return self.model(x)


def _linear(wide: int, high: int) -> dict[str, Any]:
    return {"type": "Linear", "in_features": wide, "out_features": high}


def _conv(wide: int, high: int) -> dict[str, Any]:
    return {"type": "Conv2d", "in_channels": wide, "out_channels": high, "kernel_size": 5, "padding": 2}


RELU, POOL = {"type": "ReLU"}, {"type": "MaxPool2d", "kernel_size": 2}
NETS: dict[str, tuple[list[int], list[dict[str, Any]], type[nn.Module], int]] = {
    "1-10-1": ([1], [_linear(1, 10), RELU, _linear(10, 1)], Small, 3000),
    "784-512-512-10": ([784], [_linear(784, 512), RELU, _linear(512, 512), RELU, _linear(512, 10)], Digits, 500),
    "CIFAR": (
        [3, 32, 32],
        [*(_conv(3, 32), POOL, _conv(32, 32), POOL, _conv(32, 64), POOL), {"type": "Flatten"},
         _linear(1024, 64), _linear(64, 10)],
        Cifar,
        100,
    ),
}  # fmt: skip


def plans(rounds: int) -> None:
    """The forward of one row: plan, nn.Sequential of the same layers, a class written by hand."""
    torch.set_num_threads(1)
    for name, (row, layers, written, calls) in NETS.items():
        document = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", *row]}],
                    "root": {"type": "Sequential", "layers": layers}}  # fmt: skip
        architecture = require(document).architecture
        assert architecture is not None
        sequential = build.build(architecture).eval()
        by_hand = written().eval()
        by_hand.load_state_dict(dict(zip(by_hand.state_dict(), sequential.state_dict().values(), strict=True)))
        compiled = plan.compile_plan(architecture, sequential)
        x = torch.randn(1, *row)
        with torch.inference_mode():
            assert torch.equal(compiled(x), sequential(x))
            assert torch.equal(compiled(x), by_hand(x))
            found = _interleaved({"plan": compiled, "nn.Sequential": sequential, "by hand": by_hand}, x, rounds, calls)
        ours = statistics.median(found["plan"])
        told = ", ".join(f"{statistics.median(times) * 1e6:.1f} µs {kind}" for kind, times in found.items())
        ratios = ", ".join(
            f"{statistics.median(found[kind]) / ours:.2f} × {kind}" for kind in ("nn.Sequential", "by hand")
        )
        print(f"plan {name}: {told}; faster {ratios} (bit-equal)")


def _interleaved(functions: dict[str, Any], x: Tensor, rounds: int, calls: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(max(5, rounds)):
        for name, function in functions.items():
            started = time.perf_counter()
            for _ in range(calls):
                function(x)
            found[name].append((time.perf_counter() - started) / calls)
    return found


def loading(rounds: int) -> None:
    """VGG16's weights: mapped into a net on meta, against build + torch.load + load_state_dict."""
    architecture = require(catalogue.document("vgg16", {})).architecture
    assert architecture is not None
    with tempfile.TemporaryDirectory(prefix="modelyard-bench-") as folder:
        file = Path(folder) / "weights.pt"
        checkpoint.save(file, build.build(architecture).state_dict())
        mapped: list[float] = []
        tutorial: list[float] = []
        for _ in range(min(3, max(1, rounds))):
            module = build.build(architecture, device="meta")
            mapped.append(_timed(lambda module=module: checkpoint.load_weights(module, file)))  # type: ignore[misc]
            tutorial.append(_timed(lambda: _as_tutorials_do(file)))
        ratio = statistics.median(tutorial) / statistics.median(mapped)
        first, then = statistics.median(mapped) * 1e3, statistics.median(tutorial) * 1e3
        told = f"{first:.1f} ms mapped, {then:.0f} ms as tutorials do"
        print(f"load VGG16: {told}; {ratio:.0f} ×")
        digest = _timed(lambda: _sha256(file))
        module = build.build(architecture, device="meta")
        checkpoint.load_weights(module, file)
        forward = plan.compile_plan(architecture, module.eval())
        with torch.inference_mode():
            golden = _timed(lambda: forward(torch.zeros(4, 3, 224, 224)))
        print(f"  once a process besides: digest {digest * 1e3:.0f} ms, 4 golden rows {golden * 1e3:.0f} ms")
        peaks = {how: _peak(how, file) for how in ("mapped", "tutorial")}
        print(f"  peak memory: {peaks['mapped']:.0f} MB mapped, {peaks['tutorial']:.0f} MB as tutorials do; "
              f"{peaks['mapped'] / peaks['tutorial']:.2f} ×")  # fmt: skip


def _as_tutorials_do(file: Path) -> nn.Module:
    module = build.build(parse(catalogue.document("vgg16", {})))
    module.load_state_dict(checkpoint.load(file))
    return module


def _peak(how: str, file: Path) -> float:
    program = [sys.executable, __file__, how, str(file)]
    return float(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


def _sha256(file: Path) -> None:
    import hashlib

    with file.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")


def validating(rounds: int) -> None:
    """ResNet50, from the catalogue's document to the answer."""
    for name in ("vgg16", "resnet50", "vit_b_16"):
        document = catalogue.document(name, {})
        times = [_timed(lambda document=document: judge(document)) for _ in range(min(5, max(1, rounds)))]  # type: ignore[misc]
        assert judge(document).valid
        print(f"validate {name}: median {statistics.median(times) * 1e3:.0f} ms, most {max(times) * 1e3:.0f} ms")


def _timed(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def run(rounds: int) -> None:
    """All of it."""
    plans(rounds)
    loading(rounds)
    validating(rounds)


if __name__ == "__main__":  # one way of loading, in a process of its own
    how, weights = sys.argv[1], Path(sys.argv[2])
    if how == "mapped":
        net = require(catalogue.document("vgg16", {})).architecture
        assert net is not None
        checkpoint.load_weights(build.build(net, device="meta"), weights)
    else:
        _as_tutorials_do(weights)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss would count the parent's
    assert peak is not None
    print(int(peak[1]) / 1024)
