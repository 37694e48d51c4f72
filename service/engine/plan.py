"""A net as a plan for serving: the document's calls in one flat list of functions with the weights already in them.

A plan computes what the module computes in evaluation mode, bit for bit, and skips what `nn.Module` does around each
call: hooks, attribute lookups, containers. It is compiled once when a version is loaded, from the resolved document and
the module with its weights; whoever changes the module's tensors afterwards (other than in place) compiles again. Knows
nothing of versions, rows and requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from service.engine import operations
from service.schemas import layers, norms, pools, steps
from service.schemas.architecture import Architecture
from service.schemas.layers import Graph, Layer, Sequential
from service.schemas.leaf import Leaf

Function: TypeAlias = Callable[..., Any]
Plan: TypeAlias = Callable[..., Any]
"""Takes the net's inputs in the order of the document, gives what the module gives."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """A value that the plan computes; 0, 1, … are the net's inputs."""

    number: int


_Value: TypeAlias = "_Reference | tuple[_Value, ...] | Tensor | int | float | bool"
"""A computed value, several, or what is known beforehand."""


@dataclass(frozen=True, slots=True)
class _Operation:
    function: Function
    taken: tuple[int, ...]
    out: int


@dataclass
class _Planner:
    """Walks the document as the forward would and writes down what is called with what."""

    count: int
    operations: list[_Operation] = field(default_factory=list)

    def layer(self, layer: Layer, module: nn.Module, given: Sequence[_Value], named: Mapping[str, _Value]) -> _Value:
        match layer:
            case Sequential():
                (value,) = given
                for name, child in zip(layer.names, layer.layers, strict=True):
                    value = self.layer(child, module.get_submodule(name), [value], {})
                return value
            case Graph():
                return self._graph(layer, module, given)
            case _:
                return self._leaf(layer, module, given, named)

    def _leaf(self, layer: Leaf, module: nn.Module, given: Sequence[_Value], named: Mapping[str, _Value]) -> _Value:
        if isinstance(layer, _PASSED_THROUGH):
            return given[0]
        compiled = _COMPILED.get(type(layer))
        function: Function | None = compiled(layer, module) if compiled and not named and len(given) == 1 else None
        return self._call(function or module.forward, given, named)

    def _graph(self, graph: Graph, module: nn.Module, given: Sequence[_Value]) -> _Value:
        values: dict[str, _Value] = dict(zip(graph.inputs, given, strict=True))
        children = dict(zip(graph.names, graph.layers, strict=True))
        for number, step in enumerate(graph.steps, 1):
            taken = [values[item] if isinstance(item, str) else item for item in step.inputs]
            value: _Value
            match step:
                case steps.Return():
                    return taken[0] if len(taken) == 1 else tuple(taken)
                case steps.Call(layer=name):
                    named = {key: item if isinstance(item, bool) else values[item] for key, item in step.named.items()}
                    value = self.layer(children[name], module.get_submodule(name), taken, named)
                case steps.Param(layer=name):
                    value = getattr(module, name).detach()
                case steps.Tuple():
                    value = tuple(taken)
                case steps.Item(index=index):
                    (whole,) = taken
                    value = whole[index] if isinstance(whole, tuple) else self._call(lambda x, i=index: x[i], taken, {})
                case steps.Dropout():
                    value = taken[0]
                case _:
                    tensors = [item for item in taken if isinstance(item, (_Reference, tuple, Tensor))]
                    value = self._call(_function(step, [isinstance(item, str) for item in step.inputs]), tensors, {})
            values[f"%{number}"] = value
        raise ValueError("a forward ends with a return")  # parse has seen to it

    def _call(self, function: Function, given: Sequence[_Value], named: Mapping[str, _Value]) -> _Value:
        references: list[int] = []
        plain = not named and all(isinstance(value, _Reference) for value in given)

        def place(value: _Value) -> Any:
            """The argument as a recipe: the place of a reference, or the constant itself."""
            if isinstance(value, _Reference):
                references.append(value.number)
                return _Slot(len(references) - 1)
            return tuple(place(item) for item in value) if isinstance(value, tuple) else value

        recipe = [place(value) for value in given]
        words = {key: place(value) for key, value in named.items()}
        if not plain:
            function = _applied(function, recipe, words)
        out = _Reference(self.count)
        self.count += 1
        self.operations.append(_Operation(function, tuple(references), out.number))
        return out


class _Slot(int):
    """The n-th computed argument, told apart from a constant."""


def _applied(function: Function, recipe: Sequence[Any], words: Mapping[str, Any]) -> Function:
    def run(*values: Any) -> Any:
        return function(
            *[_filled(part, values) for part in recipe], **{key: _filled(part, values) for key, part in words.items()}
        )

    return run


def _filled(part: Any, values: Sequence[Any]) -> Any:
    if isinstance(part, _Slot):
        return values[part]
    if isinstance(part, tuple):
        return tuple([_filled(item, values) for item in part])
    return part


def compile_plan(architecture: Architecture, module: nn.Module) -> Plan:
    """The plan of a net.

    Args:
        architecture: the resolved document.
        module: what `build` made of it, with its weights, in evaluation mode.
    """
    planner = _Planner(len(architecture.inputs))
    given = [_Reference(place) for place in range(planner.count)]
    result = planner.layer(architecture.root, module, given, {})
    results = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(item, _Reference) for item in results):
        return module.forward  # it gives a constant, or values in values: nothing to gain
    wanted = [item.number for item in results if isinstance(item, _Reference)]
    return _assembled(planner.operations, len(architecture.inputs), wanted, single=not isinstance(result, tuple))


# Assembly.


def _assembled(operations: list[_Operation], inputs: int, wanted: list[int], *, single: bool) -> Plan:
    uses: dict[int, int] = {}
    for number in [number for operation in operations for number in operation.taken] + wanted:
        uses[number] = uses.get(number, 0) + 1
    fused: list[_Operation] = []
    for operation in operations:
        before = fused[-1] if fused else None
        if before and operation.taken == (before.out,) and uses[before.out] == 1:
            fused[-1] = _Operation(_Chain.joined(before.function, operation.function), before.taken, operation.out)
        else:
            fused.append(operation)
    fused = [
        _Operation(
            each.function.composed() if isinstance(each.function, _Chain) else each.function, each.taken, each.out
        )
        for each in fused
    ]
    if single and inputs == 1 and len(fused) == 1 and fused[0].taken == (0,) and wanted == [fused[0].out]:
        return fused[0].function
    return _scheduled(fused, inputs, wanted, single=single)


class _Chain:
    """Functions of one value that follow each other."""

    def __init__(self, functions: list[Function]) -> None:
        self.functions = functions

    @classmethod
    def joined(cls, first: Function, then: Function) -> _Chain:
        return cls([*(first.functions if isinstance(first, _Chain) else [first]), then])

    def __call__(self, *values: Any) -> Any:  # pragma: no cover - composed before it runs
        return self.composed()(*values)

    def composed(self) -> Function:
        """One function; the first may take several values."""
        functions = self.functions
        match functions:
            case [one]:
                return one
            case [one, two]:
                return lambda *x: two(one(*x))
            case [one, two, three]:
                return lambda *x: three(two(one(*x)))
            case [one, two, three, four]:
                return lambda *x: four(three(two(one(*x))))
            case _:
                pass
        first, rest = functions[0], tuple(functions[1:])

        def run(*values: Any) -> Any:
            x = first(*values)
            for function in rest:
                x = function(x)
            return x

        return run


def _scheduled(operations: Sequence[_Operation], inputs: int, wanted: list[int], *, single: bool) -> Plan:
    """Operations over a list of places; a place is used again as soon as its value is read for the last time."""
    last: dict[int, int] = {}
    for at, operation in enumerate(operations):
        last.update(dict.fromkeys(operation.taken, at))
    last.update(dict.fromkeys(wanted, len(operations)))
    places = {number: number for number in range(inputs)}
    free = [number for number in range(inputs) if number not in last]
    width = inputs
    program: list[tuple[Function, tuple[int, ...], int, tuple[int, ...]]] = []
    for at, operation in enumerate(operations):
        taken = tuple(places[number] for number in operation.taken)
        dying = list(dict.fromkeys(places[number] for number in operation.taken if last[number] == at))
        free += dying
        if free:
            out = free.pop()
        else:
            out, width = width, width + 1
        places[operation.out] = out
        if operation.out not in last:
            free.append(out)
        program.append((operation.function, taken, out, tuple(place for place in dying if place != out)))
    runs = tuple(_bound(*line) for line in program)
    blank = [None] * (width - inputs)
    results = [places[number] for number in wanted]

    def plan(*given: Tensor) -> Any:
        values: list[Any] = [*given, *blank]
        for run in runs:
            run(values)
        return values[results[0]] if single else tuple([values[place] for place in results])

    return plan


def _bound(
    function: Function, taken: tuple[int, ...], out: int, emptied: tuple[int, ...]
) -> Callable[[list[Any]], None]:
    if emptied:

        def run_and_empty(values: list[Any]) -> None:
            values[out] = function(*[values[place] for place in taken])
            for place in emptied:
                values[place] = None

        return run_and_empty
    if len(taken) == 1:
        (one,) = taken

        def run(values: list[Any]) -> None:
            values[out] = function(values[one])

        return run
    if len(taken) == 2:
        left, right = taken

        def run_two(values: list[Any]) -> None:
            values[out] = function(values[left], values[right])

        return run_two

    def run_several(values: list[Any]) -> None:
        values[out] = function(*[values[place] for place in taken])

    return run_several


# Functions. Each calls the kernel that the layer's own forward would call, with the same arguments.

_MANY: Final = 33_000
"""Numbers from which on two passes over them cost less than one of torch's max-pooling."""

_PASSED_THROUGH: Final = (
    layers.Identity,
    layers.Dropout,
    layers.Dropout1d,
    layers.Dropout2d,
    layers.AlphaDropout,
    layers.FeatureAlphaDropout,
)
"""What does nothing in evaluation mode."""


def _linear(_: Any, module: Any) -> Function:
    weight, bias = module.weight, module.bias
    linear = F.linear
    return lambda x: linear(x, weight, bias)


_CONVOLUTIONS: Final[Mapping[type[Leaf], Function]] = {layers.Conv1d: torch.conv1d, layers.Conv2d: torch.conv2d}


def _convolution(layer: Any, module: Any) -> Function | None:
    if module.padding_mode != "zeros":
        return None
    function = _CONVOLUTIONS[type(layer)]
    weight, bias = module.weight, module.bias
    stride, padding, dilation, groups = module.stride, module.padding, module.dilation, module.groups
    return lambda x: function(x, weight, bias, stride, padding, dilation, groups)


def _batch_norm(_: Any, module: Any) -> Function | None:
    if module.running_mean is None:
        return None
    weight, bias, mean, var = module.weight, module.bias, module.running_mean, module.running_var
    momentum, eps = 0.0 if module.momentum is None else module.momentum, module.eps
    function, cudnn = torch.batch_norm, torch.backends.cudnn.enabled
    return lambda x: function(x, weight, bias, mean, var, False, momentum, eps, cudnn)


def _layer_norm(_: Any, module: Any) -> Function:
    shape, weight, bias, eps = module.normalized_shape, module.weight, module.bias, module.eps
    function, cudnn = torch.layer_norm, torch.backends.cudnn.enabled
    return lambda x: function(x, shape, weight, bias, eps, cudnn)


def _flatten(_: Any, module: Any) -> Function:
    start, end = module.start_dim, module.end_dim
    return lambda x: x.flatten(start, end)


def _max_pool(_: Any, module: Any) -> Function | None:
    if module.return_indices:
        return None
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    dilation, ceil_mode = module.dilation, module.ceil_mode
    function, maximum = torch.max_pool2d, torch.maximum

    def pool(x: Tensor) -> Tensor:
        return function(x, kernel, stride, padding, dilation, ceil_mode)

    def pool_pairs(x: Tensor) -> Tensor:
        """Rows by pairs, then columns: the same maxima, without the search for where each of them lies."""
        if x.numel() < _MANY or not x.is_cpu:
            return function(x, kernel, stride, padding, dilation, ceil_mode)
        height, width = x.shape[-2:]
        if height < 2 or width < 2:
            return pool(x)
        x = maximum(x[..., 0 : height - 1 : 2, :], x[..., 1::2, :])
        return maximum(x[..., 0 : width - 1 : 2], x[..., 1::2])

    pairs = all(_both(given) == (2, 2) for given in (kernel, stride))
    plain = _both(padding) == (0, 0) and _both(dilation) == (1, 1) and not ceil_mode
    return pool_pairs if pairs and plain else pool


def _both(given: int | Sequence[int]) -> tuple[int, ...]:
    return (given, given) if isinstance(given, int) else tuple(given)


def _plain(function: Function) -> Callable[[Any, Any], Function | None]:
    return lambda *_: function


_COMPILED: Final[Mapping[type[Leaf], Callable[[Any, Any], Function | None]]] = {
    layers.Linear: _linear,
    layers.Conv1d: _convolution,
    layers.Conv2d: _convolution,
    norms.BatchNorm1d: _batch_norm,
    norms.BatchNorm2d: _batch_norm,
    norms.LayerNorm: _layer_norm,
    layers.Flatten: _flatten,
    pools.MaxPool2d: _max_pool,
    layers.ReLU: _plain(torch.relu),
    layers.Tanh: _plain(torch.tanh),
    layers.Sigmoid: _plain(torch.sigmoid),
}
"""What is worth compiling: the layers of small nets, where Python costs more than the numbers. None stands for the
module's own forward, which all other layers take."""

_QUICK: Final[Mapping[str, Function]] = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def _function(step: Any, tensors: Sequence[bool]) -> Function:
    """The function of an operation over its tensors; numbers among its inputs are in it."""
    if isinstance(step, steps.Activation) and step.op in _QUICK:
        return _QUICK[step.op]
    if isinstance(step, steps.Arithmetic) and step.op == "add" and all(tensors):
        return torch.add
    return operations.function_of(step, training=False)
