"""From a judged document to an `nn.Module` with the keys and initial weights of the class one would write by hand.

Knows documents and torch, and nothing of files, datasets or training. Every name in a document meets a closed table
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, assert_never

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from service.errors import ArchitectureInvalid, Entry
from service.schemas import layers, steps
from service.schemas.architecture import Architecture
from service.schemas.judgement import Judgement, require
from service.schemas.layers import Graph, Layer, Leaf, Sequential
from service.schemas.steps import Step, reads

TORCH_LAYERS: Final[Mapping[type[Leaf], Callable[..., nn.Module]]] = {
    layers.Identity: nn.Identity,
    layers.Linear: nn.Linear,
    layers.Flatten: nn.Flatten,
    layers.Unflatten: nn.Unflatten,
    layers.Dropout: nn.Dropout,
    layers.Dropout1d: nn.Dropout1d,
    layers.Dropout2d: nn.Dropout2d,
    layers.AlphaDropout: nn.AlphaDropout,
    layers.FeatureAlphaDropout: nn.FeatureAlphaDropout,
    layers.Conv1d: nn.Conv1d,
    layers.Conv2d: nn.Conv2d,
    layers.ConvTranspose1d: nn.ConvTranspose1d,
    layers.ConvTranspose2d: nn.ConvTranspose2d,
    layers.MaxPool1d: nn.MaxPool1d,
    layers.MaxPool2d: nn.MaxPool2d,
    layers.AvgPool1d: nn.AvgPool1d,
    layers.AvgPool2d: nn.AvgPool2d,
    layers.AdaptiveAvgPool1d: nn.AdaptiveAvgPool1d,
    layers.AdaptiveAvgPool2d: nn.AdaptiveAvgPool2d,
    layers.AdaptiveMaxPool1d: nn.AdaptiveMaxPool1d,
    layers.AdaptiveMaxPool2d: nn.AdaptiveMaxPool2d,
    layers.BatchNorm1d: nn.BatchNorm1d,
    layers.BatchNorm2d: nn.BatchNorm2d,
    layers.InstanceNorm1d: nn.InstanceNorm1d,
    layers.InstanceNorm2d: nn.InstanceNorm2d,
    layers.GroupNorm: nn.GroupNorm,
    layers.LayerNorm: nn.LayerNorm,
    layers.RMSNorm: nn.RMSNorm,
    layers.LocalResponseNorm: nn.LocalResponseNorm,
    layers.Embedding: nn.Embedding,
    layers.ReLU: nn.ReLU,
    layers.ReLU6: nn.ReLU6,
    layers.LeakyReLU: nn.LeakyReLU,
    layers.PReLU: nn.PReLU,
    layers.RReLU: nn.RReLU,
    layers.ELU: nn.ELU,
    layers.CELU: nn.CELU,
    layers.SELU: nn.SELU,
    layers.GELU: nn.GELU,
    layers.SiLU: nn.SiLU,
    layers.Mish: nn.Mish,
    layers.Sigmoid: nn.Sigmoid,
    layers.LogSigmoid: nn.LogSigmoid,
    layers.Tanh: nn.Tanh,
    layers.Hardtanh: nn.Hardtanh,
    layers.Hardsigmoid: nn.Hardsigmoid,
    layers.Hardswish: nn.Hardswish,
    layers.Hardshrink: nn.Hardshrink,
    layers.Softshrink: nn.Softshrink,
    layers.Threshold: nn.Threshold,
    layers.Softplus: nn.Softplus,
    layers.Softsign: nn.Softsign,
    layers.Tanhshrink: nn.Tanhshrink,
    layers.Softmin: nn.Softmin,
    layers.Softmax: nn.Softmax,
    layers.LogSoftmax: nn.LogSoftmax,
    layers.Softmax2d: nn.Softmax2d,
    layers.GLU: nn.GLU,
    layers.ZeroPad1d: nn.ZeroPad1d,
    layers.ZeroPad2d: nn.ZeroPad2d,
    layers.ConstantPad1d: nn.ConstantPad1d,
    layers.ConstantPad2d: nn.ConstantPad2d,
    layers.ReflectionPad1d: nn.ReflectionPad1d,
    layers.ReflectionPad2d: nn.ReflectionPad2d,
    layers.ReplicationPad1d: nn.ReplicationPad1d,
    layers.ReplicationPad2d: nn.ReplicationPad2d,
    layers.CircularPad2d: nn.CircularPad2d,
    layers.Upsample: nn.Upsample,
    layers.PixelShuffle: nn.PixelShuffle,
    layers.PixelUnshuffle: nn.PixelUnshuffle,
    layers.ChannelShuffle: nn.ChannelShuffle,
}
"""The class of every layer that is not a container."""


def build(architecture: Architecture, *, device: str = "cpu") -> nn.Module:
    """The net of a judged document, freshly initialised from torch's generator.

    Children are registered in the document's order, so that a seed gives the weights that the class written by hand
    would have. `forward` takes the inputs in the order of `architecture.inputs`.

    Args:
        architecture: `Judgement.architecture`, in which no "auto" is left.
        device: where the weights are; "meta" for shapes without memory.
    """
    if device == "meta":
        with torch.device("meta"):
            return _built(architecture.root)
    # Weights are drawn on the CPU for every device, so that a seed means the same everywhere.
    module = _built(architecture.root)
    return module if device == "cpu" else module.to(device)


def confirm(architecture: Architecture) -> None:
    """See that torch makes of a document what the judge said, on the meta device and with batches of 2 and 3.

    Raises:
        ArchitectureInvalid: it does not; the layer is named.
    """
    judgement = require(architecture)
    judged = judgement.architecture
    if judged is None:  # pragma: no cover - `require` gives one
        return
    module = build(judged, device="meta").eval()  # in training some layers read numbers, which meta has none of
    for batch in (2, 3):
        _run_on_meta(module, judged, judgement, batch)


def _run_on_meta(module: nn.Module, judged: Architecture, judgement: Judgement, batch: int) -> None:
    told = {layer["path"]: layer for layer in (judgement.summary or {})["layers"]}
    running = [""]

    def started(path: str) -> Callable[..., None]:
        return lambda *_: running.append(path)

    def finished(path: str) -> Callable[..., None]:
        def check(_: nn.Module, __: Any, out: Any) -> None:
            running.pop()
            if path in told:
                _compare(out, told[path]["output_shape"], batch, judgement.sizes, path)

        return check

    handles = []
    for path, child in module.named_modules():
        handles += [child.register_forward_pre_hook(started(path)), child.register_forward_hook(finished(path))]
    inputs = [
        torch.zeros(
            [batch, *(judgement.sizes[size] if isinstance(size, str) else size for size in spec.shape[1:])],
            dtype=DTYPES[spec.dtype],
            device="meta",
        )
        for spec in judged.inputs
    ]
    try:
        with torch.no_grad():
            result = module(*inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise _refuted(running[-1], f"torch cannot run it: {str(error).splitlines()[0][:300]}") from error
    finally:
        for handle in handles:
            handle.remove()
    results = result if isinstance(result, tuple) else (result,)
    for out, spec in zip(results, (judgement.summary or {})["outputs"], strict=True):
        _compare(out, spec["shape"], batch, judgement.sizes, "")
        if out.dtype != DTYPES[spec["dtype"]]:
            raise _refuted("", f"torch gives {out.dtype}, not {spec['dtype']}")


def _compare(out: Any, shape: Sequence[str | int], batch: int, sizes: Mapping[str, int], path: str) -> None:
    if not isinstance(out, Tensor):
        return
    wanted = [batch, *(sizes.get(size, size) if isinstance(size, str) else size for size in shape[1:])]
    same = len(wanted) == out.dim() and all(want in ("?", have) for want, have in zip(wanted, out.shape, strict=True))
    if not same:
        raise _refuted(path, f"torch gives the shape {list(out.shape)}, not {wanted}")


def _refuted(path: str, what: str) -> ArchitectureInvalid:
    entry = Entry("/root", "torch-disagrees", f"{f'`{path}`' if path else 'The net'}: {what}.", layer=path or None)
    return ArchitectureInvalid(errors=[entry])


DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
"""torch's name of every dtype that documents have."""


# Layers.


def _built(layer: Layer) -> nn.Module:
    match layer:
        case Graph():
            module: nn.Module = _class_of(layer)()
        case Sequential():
            module = nn.Sequential()
        case _:
            return _leaf(layer)
    for name, child in zip(layer.names, layer.layers, strict=True):
        module.add_module(name, _built(child))
    return module


def _leaf(layer: Leaf) -> nn.Module:
    # The short form: sizes as people write them, so that the net prints as if they had written it.
    written = layer.model_dump(exclude={"type", "name"})
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in written.items()}
    if isinstance(layer, (layers.Softmin, layers.Softmax, layers.LogSoftmax)) and layer.dim is None:
        arguments["dim"] = 1  # what torch would take, which it does with a warning
    return TORCH_LAYERS[type(layer)](**arguments)


# Graphs.

_Run: TypeAlias = Callable[[list[Any], Mapping[str, Any], nn.Module], None]
"""One step: reads and writes places in a list of values; gets the children and the module itself.

The closures hold constants alone. Whatever belongs to a module comes in with the call, so that a deep copy of a net
runs its own layers, and a child that is replaced is really replaced.
"""


def _class_of(graph: Graph) -> type[nn.Module]:
    """The class of one graph: `forward` runs its steps, compiled once.

    It is a class of its own because an instance has no free name for anything: all names belong to layers.
    """
    plan, width, results = _compiled(graph)
    count = len(graph.inputs)
    blank = [None] * (width - count)

    def forward(self: nn.Module, *inputs: Tensor) -> Any:
        if len(inputs) != count:
            raise TypeError(f"forward takes {count} inputs, but gets {len(inputs)}")
        values = [*inputs, *blank]
        children = self._modules
        for run in plan:
            run(values, children, self)
        if len(results) == 1:
            return values[results[0]]
        return tuple([values[place] for place in results])

    return type(graph.class_name or "Graph", (nn.Module,), {"forward": forward, "__module__": __name__})


def _compiled(graph: Graph) -> tuple[tuple[_Run, ...], int, tuple[int, ...]]:
    """The plan of a graph, how many places it needs, and where its results are.

    Places are used again as soon as nothing reads them any more, so that a forward holds no tensor longer than the code
    written by hand would.
    """
    last = reads(graph.steps)
    places = {name: place for place, name in enumerate(graph.inputs)}
    free = [places[name] for name in graph.inputs if name not in last]
    width = len(places)
    plan: list[_Run] = []
    for number, step in enumerate(graph.steps):
        taken: list[Any] = [places[item] if isinstance(item, str) else item for item in step.inputs]
        if isinstance(step, steps.Return):
            return tuple(plan), width, tuple(taken)
        dying = list(dict.fromkeys(places[name] for name in step.references() if last[name] == number))
        free += dying
        if free:
            out = free.pop()
        else:
            out, width = width, width + 1
        places[f"%{number + 1}"] = out
        plan.append(_bound(step, taken, out))
        emptied = tuple(place for place in dying if place != out)
        if emptied:
            plan.append(_emptying(emptied))
    raise ValueError("a forward ends with a return")  # parse has seen to it


def _emptying(emptied: tuple[int, ...]) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        for place in emptied:
            values[place] = None

    return run


def _bound(step: Step, taken: Sequence[Any], out: int) -> _Run:
    """The step as a closure over places and constants."""
    match step:
        case steps.Call(layer=name):
            return _calling(name, taken, out)
        case steps.Item(index=index):
            return _unary(lambda value: value[index], taken[0], out)
        case steps.Return():
            raise ValueError("a return ends the plan")
        case steps.Arithmetic():
            return _arithmetic(step, taken, out)
        case steps.MatMul():
            return _binary(torch.matmul, taken[0], taken[1], out)
        case steps.Join(op=op, dim=dim):
            return _joining(_JOINS[op], taken, dim, out)
        case steps.Dropout(p=p):
            return _dropping(p, taken[0], out)
        case _:
            return _unary(_function(step), taken[0], out)


def _calling(name: str, taken: Sequence[int], out: int) -> _Run:
    if len(taken) == 1:
        (place,) = taken

        def run(values: list[Any], children: Mapping[str, Any], _: nn.Module) -> None:
            values[out] = children[name](values[place])

        return run

    def run_several(values: list[Any], children: Mapping[str, Any], _: nn.Module) -> None:
        values[out] = children[name](*[values[place] for place in taken])

    return run_several


def _unary(function: Callable[[Any], Any], place: int, out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        values[out] = function(values[place])

    return run


def _binary(function: Callable[[Any, Any], Any], left: int, right: int, out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        values[out] = function(values[left], values[right])

    return run


def _arithmetic(step: steps.Arithmetic, taken: Sequence[Any], out: int) -> _Run:
    function = _ARITHMETIC[step.op]
    left, right = step.inputs
    if isinstance(left, str) and isinstance(right, str):
        return _binary(function, taken[0], taken[1], out)
    if isinstance(left, str):
        return _unary(lambda value: function(value, right), taken[0], out)
    return _unary(lambda value: function(left, value), taken[1], out)


def _joining(function: Callable[..., Any], taken: Sequence[int], dim: int, out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        values[out] = function([values[place] for place in taken], dim)

    return run


def _dropping(p: float, place: int, out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], module: nn.Module) -> None:
        values[out] = F.dropout(values[place], p, module.training)

    return run


_JOINS: Final[Mapping[str, Callable[..., Any]]] = {"cat": torch.cat, "stack": torch.stack}

_ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}

_ACTIVATIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "relu": F.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

_REDUCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
}

_SOFTMAXES: Final[Mapping[str, Callable[..., Any]]] = {"softmax": F.softmax, "log_softmax": F.log_softmax}

_Unary: TypeAlias = (
    steps.Negative
    | steps.Activation
    | steps.Gelu
    | steps.LeakyRelu
    | steps.Elu
    | steps.Softplus
    | steps.Softmax
    | steps.Flatten
    | steps.Reshape
    | steps.Permute
    | steps.Transpose
    | steps.Squeeze
    | steps.Unsqueeze
    | steps.GetItem
    | steps.Reduce
    | steps.MaxPool2d
    | steps.AvgPool2d
    | steps.AdaptiveAvgPool2d
)


def _function(step: _Unary) -> Callable[[Any], Any]:
    """The function of a step that takes one tensor."""
    match step:
        case steps.Negative():
            return torch.neg
        case steps.Activation(op=op):
            return _ACTIVATIONS[op]
        case steps.Gelu(approximate=approximate):
            return lambda x: F.gelu(x, approximate=approximate)
        case steps.LeakyRelu(negative_slope=slope):
            return lambda x: F.leaky_relu(x, slope)
        case steps.Elu(alpha=alpha):
            return lambda x: F.elu(x, alpha)
        case steps.Softplus(beta=beta, threshold=threshold):
            return lambda x: F.softplus(x, beta, threshold)
        case steps.Softmax(op=op, dim=dim):
            function, along = _SOFTMAXES[op], 1 if dim is None else dim
            return lambda x: function(x, along)
        case steps.Flatten(start_dim=start, end_dim=end):
            return lambda x: torch.flatten(x, start, end)
        case steps.Reshape(shape=shape):
            return lambda x: x.reshape(x.shape[0], *shape)
        case steps.Permute(dims=dims):
            return lambda x: x.permute(dims)
        case steps.Transpose(dim0=dim0, dim1=dim1):
            return lambda x: x.transpose(dim0, dim1)
        case steps.Squeeze(dim=dim):
            return lambda x: x.squeeze(dim)
        case steps.Unsqueeze(dim=dim):
            return lambda x: x.unsqueeze(dim)
        case steps.GetItem(index=index):
            indices = tuple(item if isinstance(item, int) else slice(*item) for item in index)
            return lambda x: x[indices]
        case steps.Reduce(op=op, dim=dim, keepdim=keepdim):
            reduction = _REDUCTIONS[op]
            return lambda x: reduction(x, dim, keepdim)
        case steps.MaxPool2d():
            kernel, stride, padding = step.kernel_size, step.stride, step.padding
            dilation, ceil_mode = step.dilation, step.ceil_mode
            return lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
        case steps.AvgPool2d():
            kernel, stride, padding = step.kernel_size, step.stride, step.padding
            ceil_mode, include = step.ceil_mode, step.count_include_pad
            return lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil_mode, include)
        case steps.AdaptiveAvgPool2d(output_size=size):
            return lambda x: F.adaptive_avg_pool2d(x, size)
        case _:
            assert_never(step)
