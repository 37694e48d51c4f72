"""What a job request needs and how it could be mended: patches for known mistakes, memory by arithmetic.

A patch is a JSON Patch (RFC 6902) for the request as it was sent. It is a proposal: who shows it tries it first. Knows
request bodies and numbers; builds no net and runs none.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.errors import Entry
from service.schemas import catalogue
from service.schemas.document import pointer

Patch = list[dict[str, Any]]
"""Operations of RFC 6902: add, remove, replace."""

_ROOT: Final = "/architecture/root"
_ACTIVATIONS: Final = frozenset(
    {"ReLU", "ReLU6", "Softplus", "Sigmoid", "Softmax", "LogSoftmax", "Hardsigmoid", "Tanh", "Dropout", "Identity"}
)
_ITEM: Final = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "uint8": 1, "int8": 1, "bool": 1}
_STATE_TENSORS: Final = {
    **{"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "Adamax": 2, "Adadelta": 2, "Rprop": 2},
    **{"Adagrad": 1, "RMSprop": 1, "ASGD": 1, "Adafactor": 1, "SGD": 0},
}
"""Tensors of a parameter's size that an optimizer keeps for it in any case."""


# -- patches ----------------------------------------------------------------------------------------------------------


def patch_for(entry: Entry, body: Mapping[str, Any]) -> Patch | None:
    """What would mend a mistake or warning about a train request; None where that is not for a program to decide."""
    match entry.code:
        case "softmax-twice" | "sigmoid-twice" | "relu-on-output":
            return _without_last(body)
        case "batch-of-one":
            return _no_batch_of_one(body)
        case "large-batch":
            return [{"op": "remove", "path": "/batch_size"}]
        case "label-out-of-range" | "shape-mismatch" if entry.pointer == _ROOT:
            return _left_to_data("num_classes", body) or _other_output(entry, body)
        case "shape-mismatch" if re.fullmatch("/architecture/inputs/[0-9]+/shape", entry.pointer):
            return _left_to_data("in_features", body) or _other_input(entry, body)
        case "dtype-mismatch" if entry.pointer.endswith("/dtype"):
            return [{"op": "add", "path": entry.pointer, "value": "float32"}]
        case "text-column":
            return _with_step({"type": "one_hot"}, body, at="0")
        case "unscaled-inputs" | "unscaled-targets" if entry.expected is not None:
            return _with_step(json.loads(entry.expected), body, at="-")
        case "nearly-numbers" if entry.expected is not None:
            return _of_source(json.loads(entry.expected), body)
        case "no-device":
            return [{"op": "remove", "path": "/device"}]
        case "memory-limit" if entry.expected is not None:
            return [{"op": "add", "path": "/batch_size", "value": int(entry.expected)}]
        case "learning-rate-high" | "learning-rate-low" if entry.expected is not None:
            return [{"op": "add", "path": "/optimizer/lr", "value": float(entry.expected)}]
        case "invalid" if entry.pointer == "/objective":
            named = re.search(r'"type": "(cross_entropy|bce_with_logits)"', entry.hint or "")
            return None if named is None else [{"op": "replace", "path": "/objective", "value": {"type": named[1]}}]
        case "invalid" if re.fullmatch("/metrics/[0-9]+", entry.pointer):
            return [{"op": "remove", "path": entry.pointer}]
        case "invalid" if entry.pointer == "/batch_size" and body.get("drop_last"):
            return [{"op": "remove", "path": "/drop_last"}, {"op": "remove", "path": "/batch_size"}]
        case _:
            return None


def patched(body: Mapping[str, Any], patch: Patch) -> Any:
    """A copy of `body` after the patch.

    Raises:
        LookupError, TypeError, ValueError: a path leads nowhere.
    """
    changed: Any = copy.deepcopy(dict(body))
    for operation in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place = changed
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key: Any = last
        if isinstance(place, list):
            key = len(place) if last == "-" else int(last)
        match operation["op"]:
            case "remove":
                del place[key]
            case "add" if isinstance(place, list):
                place.insert(key, operation["value"])
            case _:
                place[key] = operation["value"]
    return changed


def _root(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The net of a request that brings one as a document."""
    architecture = body.get("architecture")
    root = architecture.get("root") if isinstance(architecture, Mapping) else None
    return root if isinstance(root, Mapping) else None


def _last_layer(root: Mapping[str, Any], at: Sequence[str | int]) -> tuple[list[str | int], Mapping[str, Any]] | None:
    """The layer that a net's answer comes from, through nested nets, with its path."""
    layers = root.get("layers")
    if not isinstance(layers, list) or not layers:
        return None if root.get("type") in ("Sequential", "Graph") else (list(at), root)
    place = len(layers) - 1
    if root.get("type") == "Graph":
        found = re.fullmatch(r"\s*return\s+([A-Za-z_]\w*)\(.*\)\s*", str((root.get("forward") or [""])[-1]))
        names = [layer.get("name") for layer in layers]
        if found is None or found[1] not in names:
            return None
        place = names.index(found[1])
    elif root.get("type") != "Sequential":
        return list(at), root
    return _last_layer(layers[place], [*at, "layers", place])


def _without_last(body: Mapping[str, Any]) -> Patch | None:
    """The net without what its answer goes through last."""
    root = _root(body)
    if root is None:
        return None
    if root.get("type") == "Graph" and root.get("forward"):
        line = str(root["forward"][-1])
        found = re.fullmatch(r"return (?:torch\.|F\.)?[a-z_0-9]+\((.+?)(?:, *dim=-?[0-9]+)?\)", line.strip())
        if found is not None and found[1].count("(") == found[1].count(")"):
            path = f"{_ROOT}/forward/{len(root['forward']) - 1}"
            return [{"op": "replace", "path": path, "value": f"return {found[1]}"}]
    last = _last_layer(root, ["architecture", "root"])
    if last is None or last[1].get("type") not in _ACTIVATIONS or len(last[0]) < 3:
        return None
    return [{"op": "remove", "path": pointer(last[0])}]


def _with_step(step: dict[str, Any], body: Mapping[str, Any], *, at: str) -> Patch:
    """The request with one more step of preprocessing."""
    if body.get("preprocessing"):
        return [{"op": "add", "path": f"/preprocessing/{at}", "value": step}]
    return [{"op": "add", "path": "/preprocessing", "value": [step]}]


def _left_to_data(param: str, body: Mapping[str, Any]) -> Patch | None:
    """The request with a net of the catalogue that takes this param from the data; None where it brings another net."""
    reference = body.get("architecture")
    if not isinstance(reference, Mapping) or not catalogue.is_reference(reference):
        return None
    if param not in catalogue.document(reference["catalogue"])["params"]:
        return None
    if "params" not in reference:
        return [{"op": "add", "path": "/architecture/params", "value": {param: catalogue.AUTO}}]
    return [{"op": "add", "path": f"/architecture/params/{param}", "value": catalogue.AUTO}]


def _of_source(members: Mapping[str, Any], body: Mapping[str, Any]) -> Patch | None:
    """The source with these members, and missing values filled in if it keeps some; None where a dataset is named."""
    if not isinstance(body.get("dataset"), Mapping):
        return None
    patch = [{"op": "add", "path": f"/dataset/{name}", "value": value} for name, value in members.items()]
    if "missing" not in members or "unlabelled" in members:  # the missing values are those of the target
        return patch
    steps, impute = body.get("preprocessing") or [], {"type": "impute"}
    if not steps:
        patch.append({"op": "add", "path": "/preprocessing", "value": [impute]})
    elif not any(step.get("type") == "impute" for step in steps):
        patch.append({"op": "add", "path": "/preprocessing/0", "value": impute})
    return patch


def _no_batch_of_one(body: Mapping[str, Any]) -> Patch | None:
    size = body.get("batch_size")
    if isinstance(size, int) and size > 1:
        return [{"op": "add", "path": "/drop_last", "value": True}]
    return [{"op": "replace", "path": "/batch_size", "value": 2}] if size == 1 else None


def _other_output(entry: Entry, body: Mapping[str, Any]) -> Patch | None:
    """The net with answers in the shape of the targets."""
    root = _root(body)
    wanted, given = _shape(entry.expected), _shape(entry.got)
    if root is None or wanted is None or given is None:
        return None
    if len(wanted) != len(given):
        # a size of one more or less at the end
        if given == [*wanted, 1]:
            call = f"squeeze(net({{}}), {len(wanted) + 1})"
        elif wanted == [*given, 1]:
            call = f"unsqueeze(net({{}}), {len(given) + 1})"
        else:
            return None
        names = [str(each.get("name", "x")) for each in body["architecture"].get("inputs", [])]
        whole = {
            "type": "Graph",
            "layers": [{**root, "name": "net"}],
            "forward": [f"return {call.format(', '.join(names))}"],
        }
        return [{"op": "replace", "path": _ROOT, "value": whole}]
    if len(wanted) != 1:
        return None
    last = _last_linear(root)
    return None if last is None else [{"op": "replace", "path": f"{last}/out_features", "value": wanted[0]}]


def _last_linear(root: Mapping[str, Any]) -> str | None:
    """The pointer to the linear layer that gives a net's answers, activations after it passed over."""
    layers = root.get("layers")
    if root.get("type") == "Sequential" and isinstance(layers, list):
        while layers and layers[-1].get("type") in _ACTIVATIONS:
            layers = layers[:-1]
        root = {**root, "layers": layers}
    last = _last_layer(root, ["architecture", "root"])
    return pointer(last[0]) if last is not None and last[1].get("type") == "Linear" else None


def _other_input(entry: Entry, body: Mapping[str, Any]) -> Patch | None:
    """The net with inputs of the width of the dataset's rows."""
    root, wanted = _root(body), _shape(entry.expected)
    if root is None or wanted is None or len(wanted) != 1:
        return None
    patch: Patch = [{"op": "replace", "path": entry.pointer, "value": ["B", *wanted]}]
    first, at = root, [*("architecture", "root")]
    while first.get("type") == "Sequential" and first.get("layers"):
        first, at = first["layers"][0], [*at, "layers", "0"]
    if first.get("type") == "Graph":
        layers = first.get("layers") or [{}]
        first, at = layers[0], [*at, "layers", "0"]
    if first.get("type") == "Linear" and isinstance(first.get("in_features"), int):
        patch.append({"op": "replace", "path": f"{pointer(at)}/in_features", "value": wanted[0]})
    return patch


def _shape(text: str | None) -> list[int] | None:
    """The sizes after the batch in what an entry shows, such as [N, 3] or ['B', 3]."""
    try:
        sizes = json.loads(re.sub(r"'?\b[A-Za-z]\w*\b'?", '"B"', text or "").replace("'", '"'))
    except ValueError:
        return None
    if not isinstance(sizes, list) or not all(isinstance(size, int) for size in sizes[1:]):
        return None
    return sizes[1:]


# -- memory -----------------------------------------------------------------------------------------------------------


def memory(
    summary: Mapping[str, Any],
    *,
    sizes: Mapping[str, int],
    batch: int,
    optimizer: Mapping[str, Any],
    data_bytes: int,
) -> dict[str, int]:
    """Bytes that a training takes beside the process itself, by what takes them.

    Counted are the weights, a gradient for each trained one, the optimizer's state, what every layer answers to a
    batch (kept for the backward pass) and the data. Kernels take more for a moment; views and in-place layers less.

    Args:
        summary: of the architecture, with layers, parameters and trainable_parameters.
        sizes: what the free sizes of its shapes stand for.
        batch: rows of a step.
        optimizer: the document.
        data_bytes: of the dataset.
    """
    item = _ITEM.get(str(summary["inputs"][0]["dtype"]), 4) if summary.get("inputs") else 4
    item = max(item, 4) if item != 2 else 2
    activations = sum(math.prod(_numbers(layer["output_shape"], sizes)) for layer in summary["layers"])
    inputs = sum(math.prod(_numbers(each["shape"], sizes)) for each in summary["inputs"])
    kind = str(optimizer["type"])
    tensors = _STATE_TENSORS.get(kind, 2)
    extras = ("momentum", "amsgrad", "centered") if kind != "Adagrad" else ()
    tensors += sum(bool(optimizer.get(name)) for name in extras)
    trained = int(summary["trainable_parameters"])
    found = {
        "weights": int(summary["parameters"]) * item,
        "gradients": trained * item,
        "optimizer": trained * item * tensors,
        "activations": (activations + inputs) * batch * item,
        "data": data_bytes,
    }
    return {**found, "total": sum(found.values())}


def _numbers(shape: Any, sizes: Mapping[str, int]) -> list[int]:
    """The sizes of one row's answer; a layer with several answers counts with all."""
    if shape and isinstance(shape[0], (list, tuple)):
        return [sum(math.prod(_numbers(each, sizes)) for each in shape)]
    rest = list(shape)[1:] if shape and isinstance(shape[0], str) else list(shape)
    return [size if isinstance(size, int) else sizes.get(size, 1) for size in rest]


# -- the measured second ----------------------------------------------------------------------------------------------

_GROWS: Final = 2.0
"""The loss has grown if its last values are so many times its first."""


def grows(losses: Sequence[float]) -> bool:
    """Whether a run's loss goes up: its last quarter against its first value."""
    return len(losses) >= 8 and _late(losses) > _GROWS * max(losses[0], 1e-12)


def falls(losses: Sequence[float]) -> bool:
    """Whether a run's loss goes down."""
    return len(losses) >= 2 and _late(losses) < losses[0]


def _late(losses: Sequence[float]) -> float:
    """The mean of the last quarter."""
    last = losses[-max(1, len(losses) // 4) :]
    return sum(last) / len(last)
