"""What people want to see of a net while it learns: its curve or regions, its weights, its answers to some images.

Bounded in rows, time and size, and plain data with finite numbers, in the units of the rows as they were sent. Looking
changes nothing: no random number is drawn, modes and statistics stay. Knows no file and no figure.
"""

from __future__ import annotations

import base64
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from service.engine.evaluate import evaluating
from service.engine.evaluate import report as report_of
from service.engine.examples import Examples
from service.engine.mapped import Array
from service.engine.objectives import answers, scores
from service.engine.preprocessing import Preprocessor
from service.schemas.architecture import Architecture
from service.schemas.objectives import AnyObjective, answers_classes
from service.schemas.preprocessing import ClassTarget, TableRow

_MOST_ROWS: Final = 2000
_MOST_NUMBERS: Final = 2**22
"""Rows that are looked at for a report of the answers, and the numbers that these may have together."""
_MOST_POINTS: Final = 1000
"""Rows of each part that are drawn as points."""
_CURVE: Final = 200
_GRID: Final = 60
_SMALLEST_GRID: Final = 20
_MOST_PARAMETERS: Final = 64
_BINS: Final = 40
_SAMPLED: Final = 100_000
"""Numbers of a parameter that are counted, evenly chosen."""
_IMAGES: Final = 16
_IMAGE_SIZE: Final = 64
_MOST_LAYERS: Final = 16
_CHANNELS: Final = 16
_MAP_SIZE: Final = 32
_MOST_CLASSES: Final = 20
"""That can be told apart as regions."""
_HELD_OUT: Final = ("val", "test", "train")


@dataclass(frozen=True, slots=True)
class Scene:
    """What a net is looked at with."""

    architecture: Architecture
    examples: Examples
    rows: Mapping[str, Tensor]
    """int64 numbers of the rows of each part."""
    preprocessor: Preprocessor
    objective: AnyObjective
    width: int | None
    """Of the net's output, where it is known."""
    scratch: dict[str, Any] = field(default_factory=dict)
    """What was made ready for the next look; its owner lets it be."""


class _Lacking(Exception):
    """Why a section is not there."""


def look(
    scene: Scene, module: nn.Module, *, whole: bool, seconds: float
) -> tuple[dict[str, Any], Mapping[str, Exception]]:
    """What there is to see of `module`, which is on any device.

    Args:
        scene: the same for every look at one training.
        module: left as it is.
        whole: with feature maps, which are for the end.
        seconds: after so many no further section is begun, and grids are coarser; one pass may take longer.

    Returns:
        The sections that apply by their names, and under `absent` why the others do not; `later` names those that come
        with a whole look. And what went wrong, by section.
    """
    until = time.perf_counter() + seconds
    found: dict[str, Any] = {"absent": {}, "later": []}
    failed: dict[str, Exception] = {}
    with _untouched(module):
        for name, section in _SECTIONS.items():
            if name == "features" and not whole:
                found["absent"][name] = "Feature maps are kept at the end of the training."
                found["later"].append(name)
                continue
            if time.perf_counter() > until:
                found["absent"][name] = "There was no time to look at it."
                found["later"].append(name)
                continue
            try:
                found[name] = section(scene, module, until)
            except _Lacking as lacking:
                found["absent"][name] = str(lacking)
            except Exception as error:  # of one section the others need not know
                found["absent"][name] = f"It could not be drawn: {type(error).__name__}."
                failed[name] = error
    return found, failed


def report(scene: Scene, module: nn.Module, *, seconds: float) -> tuple[str, dict[str, Any] | None]:
    """What `evaluate.report` says of up to 2,000 rows of one part, and its name: of rows that are held out, if any are.

    Args:
        scene, module: as for `look`.
        seconds: about as long as it may take; rows are fewer then.
    """
    part = next(name for name in _HELD_OUT if len(scene.rows.get(name, ())))
    kept: tuple[tuple[Tensor, ...], Tensor] | None = scene.scratch.get("rows")
    if kept is None:
        width = max(1, math.prod(scene.examples.numbers.shape[1:]))
        chosen = _spread(scene.rows[part], max(1, min(_MOST_ROWS, _MOST_NUMBERS // width)))
        dtypes = {spec.name: getattr(torch, spec.dtype) for spec in scene.architecture.inputs}
        inputs = scene.preprocessor.all_inputs(scene.examples, chosen, dtypes=dtypes)
        targets = scene.preprocessor.targets(scene.examples, chosen, objective=scene.objective, width=scene.width)
        kept = scene.scratch["rows"] = inputs, targets
    inputs, targets = kept
    scaled = scene.preprocessor.scales_target
    with _untouched(module):
        began = time.perf_counter()
        _ask(module, [each[:1] for each in inputs])
        rows = int(seconds / max(time.perf_counter() - began, 1e-9)) + 1
        return part, report_of(
            module,
            inputs,
            targets,
            scene.objective,
            batch_size=256,
            unscale=scene.preprocessor.invert_target if scaled else None,
            most_rows=rows,
        )


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and the random generators' states are put back."""
    devices = sorted({each.device for each in module.parameters() if each.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices), evaluating(module):
        yield


# -- curve and regions ------------------------------------------------------------------------------------------------


def _fit(scene: Scene, module: nn.Module, until: float) -> dict[str, Any]:
    if scene.objective.targets != "numbers":
        raise _Lacking("A fit is drawn of numbers, and this net is trained for another objective.")
    names = _numbers_taken(scene)
    if len(names) != 1:
        raise _Lacking(f"A fit needs one input number; the rows have {len(names)}.")
    if scene.examples.targets is None or math.prod(scene.examples.targets.shape[1:]) != 1:
        raise _Lacking("A fit needs one target number a row.")
    points = _points(scene)
    low, high = _range(points, 0)
    x = np.linspace(low, high, _CURVE)
    outputs = _outputs(scene, module, x[:, None])
    y = scene.preprocessor.invert_target(answers(scene.objective, outputs)).double().reshape(len(x), -1)
    if y.shape[1] != 1:
        raise _Lacking("A fit needs a net with one output.")
    return {
        "input": names[0],
        "x": _told(x),
        "y": _told(y[:, 0].numpy()),
        "rows": {
            part: {"x": _told(rows[:, 0]), "y": _told(targets.reshape(len(rows), -1)[:, 0])}
            for part, (rows, targets) in points.items()
        },
    }


def _decision(scene: Scene, module: nn.Module, until: float) -> dict[str, Any]:
    if not answers_classes(scene.objective):
        raise _Lacking("Decision regions are drawn of classes, and this net is trained for another objective.")
    names = _numbers_taken(scene)
    if len(names) != 2:
        raise _Lacking(f"Decision regions need two input numbers; the rows have {len(names)}.")
    points = _points(scene)
    began = time.perf_counter()
    _sure(scene, _outputs(scene, module, next(iter(points.values()))[0][:100]))
    each = (time.perf_counter() - began) / 100
    left = max(0.0, until - time.perf_counter())
    size = min(_GRID, max(_SMALLEST_GRID, int(math.sqrt(left / max(each, 1e-9)))))
    axes = [np.linspace(*_range(points, place), size) for place in (0, 1)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    index, score = _sure(scene, _outputs(scene, module, grid))
    classes = _classes(scene, int(index.max()) + 1)
    if len(classes) > _MOST_CLASSES:
        raise _Lacking(f"{len(classes)} classes cannot be told apart as regions.")
    return {
        "inputs": names,
        "classes": classes,
        "x": _told(axes[0]),
        "y": _told(axes[1]),
        "index": index.reshape(size, size).tolist(),
        "score": [[round(value, 3) for value in row] for row in score.reshape(size, size).tolist()],
        "rows": {
            part: {
                "x": _told(rows[:, 0]),
                "y": _told(rows[:, 1]),
                "class": [int(value) for value in targets.reshape(-1).tolist()],
            }
            for part, (rows, targets) in points.items()
        },
    }


def _numbers_taken(scene: Scene) -> list[str]:
    """Names of the numbers of a raw row; more than two are counted and not named."""
    if scene.examples.parts or len(scene.architecture.inputs) != 1:
        raise _Lacking("The net has several inputs.")
    [spec] = scene.architecture.inputs
    if not getattr(torch, spec.dtype).is_floating_point:
        raise _Lacking(f"The net takes {spec.dtype}, and nothing lies between whole numbers.")
    row = scene.preprocessor.parts[0].row
    if isinstance(row, TableRow):
        if row.texts:
            raise _Lacking("The rows have texts.")
        return list(row.numbers)
    count = math.prod(scene.examples.numbers.shape[1:])
    return [spec.name] if count == 1 else [f"{spec.name}[{place}]" for place in range(count)]


def _points(scene: Scene) -> dict[str, tuple[Array, Array]]:
    """Raw rows [N, numbers] and targets of the training and the validation part, evenly chosen; complete rows only."""
    kept: dict[str, tuple[Array, Array]] | None = scene.scratch.get("points")
    if kept is None:
        kept = {}
        for part in ("train", "val"):
            if part not in scene.rows:
                continue
            chosen = _spread(scene.rows[part], _MOST_POINTS)
            [(numbers, _)] = scene.preprocessor.raw(scene.examples, chosen.numpy())
            targets = _targets(scene, chosen)
            flat = numbers.reshape(len(numbers), -1).astype(np.float64)
            complete = np.isfinite(flat).all(axis=1)
            kept[part] = flat[complete], targets[complete]
        scene.scratch["points"] = kept
    if not any(len(rows) for rows, _ in kept.values()):
        raise _Lacking("No row is complete.")
    return kept


def _targets(scene: Scene, chosen: Tensor) -> Array:
    """Indices of classes, or numbers in their own units."""
    found = scene.preprocessor.targets(scene.examples, chosen, objective=scene.objective, width=scene.width)
    if scene.objective.targets == "numbers":
        found = scene.preprocessor.invert_target(found)
    return found.double().numpy()


def _range(points: Mapping[str, tuple[Array, Array]], place: int) -> tuple[float, float]:
    """From a little below the smallest value to a little above the largest."""
    every = np.concatenate([rows[:, place] for rows, _ in points.values()])
    low, high = float(every.min()), float(every.max())
    margin = (high - low) * 0.05 or 1.0
    return low - margin, high + margin


def _outputs(scene: Scene, module: nn.Module, rows: Array) -> Tensor:
    """What the net says of raw rows [N, numbers] of its only input, in main memory."""
    [spec] = scene.architecture.inputs
    shape = scene.examples.numbers.shape[1:]
    inputs = scene.preprocessor.inputs(rows.reshape(len(rows), *shape), dtype=getattr(torch, spec.dtype))
    return _ask(module, (inputs,))


def _ask(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    outputs: Tensor = module(*(each.to(device) for each in inputs)).cpu()
    if not bool(outputs.isfinite().all()):
        raise _Lacking("The net's answers are not finite.")
    return outputs


def _sure(scene: Scene, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each row, and how sure the net is of it."""
    sure = scores(scene.objective, outputs)
    if scene.objective.targets == "classes":
        if sure.dim() != 2:
            raise _Lacking("There is more than one class a row.")
        best = sure.max(dim=1)
        return best.indices, best.values
    if sure.numel() != len(sure):
        raise _Lacking("There are several labels a row.")
    one = sure.reshape(-1)
    return (one > 0.5).long(), torch.where(one > 0.5, one, 1 - one)


def _classes(scene: Scene, at_least: int) -> list[str]:
    """Names by index; an output that no class has is told by its number."""
    target = scene.preprocessor.document.target
    names = [str(name) for name in target.classes] if isinstance(target, ClassTarget) else []
    return names + [str(place) for place in range(len(names), max(at_least, 2))]


# -- weights ----------------------------------------------------------------------------------------------------------


def _weights(_: Scene, module: nn.Module, until: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, parameter in module.named_parameters():
        if len(found) == _MOST_PARAMETERS or (found and time.perf_counter() > until):
            break
        every = parameter.detach().reshape(-1)
        sampled = every[:: math.ceil(len(every) / _SAMPLED)].float().cpu().numpy() if len(every) else every.numpy()
        finite = sampled[np.isfinite(sampled)].astype(np.float64)
        if not len(finite):
            continue
        counts, edges = np.histogram(finite, bins=_BINS)
        found.append(
            {
                "name": name,
                "shape": list(parameter.shape),
                "low": _short(edges[0]),
                "high": _short(edges[-1]),
                "counts": [int(count) for count in counts],
            }
        )
    if not found:
        raise _Lacking("The net has no parameters.")
    return found


# -- images and feature maps ----------------------------------------------------------------------------------------


def _images(scene: Scene, module: nn.Module, until: float) -> dict[str, Any]:
    part, chosen, pixels = _pictures(scene)
    dtypes = {spec.name: getattr(torch, spec.dtype) for spec in scene.architecture.inputs}
    began = time.perf_counter()
    inputs = scene.preprocessor.all_inputs(scene.examples, chosen[:1], dtypes=dtypes)
    outputs = [_ask(module, inputs)]
    left = until - time.perf_counter()
    count = min(len(chosen), 1 + max(0, int(left / max(time.perf_counter() - began, 1e-9))))
    if count > 1:
        inputs = scene.preprocessor.all_inputs(scene.examples, chosen[1:count], dtypes=dtypes)
        outputs.append(_ask(module, inputs))
    answered = torch.cat(outputs)
    targets = _targets(scene, chosen[:count])
    said: list[tuple[str, str | None, float | None]]
    if answers_classes(scene.objective):
        index, sure = _sure(scene, answered)
        names = _classes(scene, int(max(index.max(), targets.max())) + 1)
        known = [names[int(value)] if 0 <= value < len(names) else "none" for value in targets.reshape(-1)]
        said = [
            (truth, names[one], round(float(score), 4))
            for truth, one, score in zip(known, index.tolist(), sure.tolist(), strict=True)
        ]
    elif scene.objective.targets == "numbers" and targets.size == count:
        numbers = scene.preprocessor.invert_target(answers(scene.objective, answered)).double().reshape(count, -1)
        said = [
            (f"{truth:.4g}", f"{number:.4g}" if numbers.shape[1] == 1 else None, None)
            for truth, number in zip(targets.reshape(-1).tolist(), numbers[:, 0].tolist(), strict=True)
        ]
    else:
        said = [("", None, None)] * count
    return {
        "part": part,
        "rows": [
            {"row": row, "png": picture, "truth": truth, "answer": answer, "score": score}
            for row, picture, (truth, answer, score) in zip(chosen.tolist(), pixels, said, strict=False)
        ],
    }


def _pictures(scene: Scene) -> tuple[str, Tensor, list[str]]:
    """Up to 16 rows of the part that says most, and their PNG files in base64."""
    kept: tuple[str, Tensor, list[str]] | None = scene.scratch.get("pictures")
    if kept is not None:
        return kept
    if scene.examples.parts or len(scene.architecture.inputs) != 1:
        raise _Lacking("The net has several inputs.")
    shape = scene.examples.numbers.shape[1:]
    is_picture = (len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) >= 4) or (
        len(shape) == 2 and min(shape) >= 8
    )
    if not is_picture:
        raise _Lacking(f"The rows are no images: their shape is {list(shape)}, not [channels, height, width].")
    part = next(name for name in _HELD_OUT if len(scene.rows.get(name, ())))
    chosen = _spread(scene.rows[part], _IMAGES)
    raw = np.asarray(scene.examples.numbers)[chosen.numpy()]
    raw = raw.reshape(len(raw), -1, *shape[-2:]).astype(np.float64)
    raw = raw[:, :, :: _stride(shape[-2], _IMAGE_SIZE), :: _stride(shape[-1], _IMAGE_SIZE)]
    raw = np.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(raw.min()), float(raw.max())
    if low >= 0 and high <= 255 and (high > 1 or scene.examples.manifest.image is not None):
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    levels = np.round((raw - low) * (255 / ((high - low) or 1))).clip(0, 255).astype(np.uint8)
    kept = part, chosen, [base64.b64encode(png(picture)).decode() for picture in levels]
    scene.scratch["pictures"] = kept
    return kept


def _features(scene: Scene, module: nn.Module, until: float) -> dict[str, Any]:
    dtypes = {spec.name: getattr(torch, spec.dtype) for spec in scene.architecture.inputs}
    part = next(name for name in _HELD_OUT if len(scene.rows.get(name, ())))
    chosen = scene.rows[part][:1]
    maps: dict[str, Tensor] = {}
    kinds = {name: type(child).__name__ for name, child in module.named_modules()}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[0] == 1 and output.shape[-1] > 1:
                maps[name] = output[0, :_CHANNELS].detach().float().cpu().clone()
                shapes[name] = tuple(output.shape[1:])

        return hook

    shapes: dict[str, tuple[int, ...]] = {}
    leaves = [(name, child) for name, child in module.named_modules() if name and not list(child.children())]
    handles = [child.register_forward_hook(keep(name)) for name, child in leaves]
    try:
        _ask(module, scene.preprocessor.all_inputs(scene.examples, chosen, dtypes=dtypes))
    finally:
        for handle in handles:
            handle.remove()
    if not maps:
        raise _Lacking("No layer of this net has maps [channels, height, width] as its output.")
    names = list(maps)
    layers = []
    for place in _spread(torch.arange(len(names)), _MOST_LAYERS).tolist():
        name = names[place]
        values = maps[name][:, :: _stride(shapes[name][1], _MAP_SIZE), :: _stride(shapes[name][2], _MAP_SIZE)]
        if not bool(values.isfinite().all()):
            continue
        low, high = float(values.min()), float(values.max())
        levels = ((values - low) * (255 / ((high - low) or 1))).round().clamp(0, 255).to(torch.uint8).contiguous()
        layers.append(
            {
                "path": name,
                "type": kinds[name],
                "shape": list(shapes[name]),
                "thinned": list(values.shape[1:]),
                "low": _short(low),
                "high": _short(high),
                "channels": [base64.b64encode(channel.numpy().tobytes()).decode() for channel in levels],
            }
        )
    if not layers:
        raise _Lacking("The feature maps are not finite.")
    return {"row": int(chosen[0]), "part": part, "layers": layers}


def png(levels: Array) -> bytes:
    """An image as a PNG file (W3C Portable Network Graphics, 3rd edition).

    Args:
        levels: uint8 [channels, height, width], of 1, 3 or 4 channels.
    """
    channels, height, width = levels.shape
    colour = {1: 0, 3: 2, 4: 6}[channels]
    lines = np.ascontiguousarray(levels.transpose(1, 2, 0)).reshape(height, width * channels)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1)  # filter 0: none

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly chosen."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, dtype=torch.float64).round().long()]


def _stride(size: int, most: int) -> int:
    return math.ceil(size / most)


def _told(values: Array) -> list[float | None]:
    return [_short(value) if math.isfinite(value) else None for value in values.tolist()]


def _short(value: float) -> float:
    return float(f"{float(value):.6g}")


_SECTIONS: Final[Mapping[str, Callable[[Scene, nn.Module, float], Any]]] = {
    "fit": _fit,
    "decision": _decision,
    "weights": _weights,
    "images": _images,
    "features": _features,
}
