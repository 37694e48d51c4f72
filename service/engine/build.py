"""From a judged document to an `nn.Module` with the keys and initial weights of the class one would write by hand.

Knows documents and torch, and nothing of files, datasets or training. Every name in a document meets a closed table
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, assert_never

import torch
from torch import Tensor, nn

from service.engine import operations
from service.engine.modules import OURS
from service.errors import ArchitectureInvalid, Entry
from service.schemas import layers, steps
from service.schemas.architecture import BATCH, Architecture, leaves, state_rows
from service.schemas.initial import (
    Constant,
    Filled,
    Initializer,
    Kaiming,
    Normal,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    Xavier,
    matches,
)
from service.schemas.judgement import Judgement, require
from service.schemas.layers import LAYER_KINDS, Buffer, Graph, Layer, Parameter, Sequential
from service.schemas.leaf import Leaf
from service.schemas.steps import Step, reads

TORCH_LAYERS: Final[Mapping[type[Leaf], type[nn.Module]]] = {
    kind: OURS[name] if name in OURS else getattr(nn, name) for name, kind in LAYER_KINDS.items()
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
            module = _built(architecture.root)
        tie(module, architecture)
        return module
    # Weights are drawn on the CPU for every device, so that a seed means the same everywhere.
    module = _built(architecture.root)
    initialise(module, architecture)
    tie(module, architecture)
    return module if device == "cpu" else module.to(device)


def complete(module: nn.Module, architecture: Architecture) -> None:
    """After weights were assigned to a net that was built on meta: what no state_dict holds.

    Tied keys become one tensor again, and buffers that are not stored get their values.
    """
    tie(module, architecture)
    for path, _, layer in leaves(architecture):
        if isinstance(layer, Buffer) and not layer.persistent:
            owner, _, name = path.rpartition(".")
            setattr(module.get_submodule(owner), name, _tensor(layer))


def tie(module: nn.Module, architecture: Architecture) -> None:
    """Make tied keys one tensor."""
    for rule in architecture.tie:
        owner, _, name = rule.to.rpartition(".")
        source, _, source_name = rule.from_.rpartition(".")
        setattr(module.get_submodule(owner), name, getattr(module.get_submodule(source), source_name))


def initialise(module: nn.Module, architecture: Architecture) -> None:
    """Fill parameters by the document's own rules, in order; those that no rule names keep torch's initial values."""
    if not architecture.init:
        return
    types = {path: layer.type for path, _, layer in leaves(architecture)}
    rows = state_rows(architecture)
    with torch.no_grad():
        for rule in architecture.init:
            for key, parameter in module.named_parameters(remove_duplicate=False):
                narrowed = rule.layers is None or types.get(rows[key].layer) in rule.layers
                if narrowed and matches(rule.match, key):
                    _fill(parameter, rule.init)


MOST_CONFIRMED: Final = 1_000
"""Calls of layers and operations. A call costs about a millisecond on meta; a larger net is taken by the judge's word
until a worker runs it."""


def confirm(architecture: Architecture) -> None:
    """See that torch makes of a document what the judge said, on the meta device and with batches of 2 and 3.

    Nets of more than MOST_CONFIRMED calls are left to the worker that runs them.

    Raises:
        ArchitectureInvalid: it does not; the layer is named.
    """
    judgement = require(architecture)
    judged = judgement.architecture
    if judged is None or judgement.calls > MOST_CONFIRMED:
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
    while isinstance(out, tuple) and out:
        out = out[0]
    if not isinstance(out, Tensor):
        return
    known = {**sizes, BATCH: batch}
    wanted = [known.get(size, size) if isinstance(size, str) else size for size in shape]
    same = len(wanted) == out.dim() and all(want in ("?", have) for want, have in zip(wanted, out.shape, strict=True))
    if not same:
        raise _refuted(path, f"torch gives the shape {list(out.shape)}, not {wanted}")


def _refuted(path: str, what: str) -> ArchitectureInvalid:
    entry = Entry("/root", "torch-disagrees", f"{f'`{path}`' if path else 'The net'}: {what}.", layer=path or None)
    return ArchitectureInvalid(errors=[entry])


DTYPES: Final = operations.DTYPES
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
        match child:
            case Parameter():
                module.register_parameter(name, nn.Parameter(_tensor(child)))
            case Buffer():
                module.register_buffer(name, _tensor(child), persistent=child.persistent)
            case _:
                module.add_module(name, _built(child))
    return module


def _tensor(layer: Parameter | Buffer) -> Tensor:
    dtype = DTYPES[layer.tensor_dtype] if isinstance(layer, Buffer) else torch.float32
    tensor = torch.empty(layer.shape, dtype=dtype)
    with torch.no_grad():
        _fill(tensor, layer.init)
    return tensor


def _fill(tensor: Tensor, init: Initializer) -> None:
    """Fill a tensor as its document says."""
    match init:
        case Constant(value=value):
            nn.init.constant_(tensor, value)
        case Filled(type=kind):
            _FILLED[kind](tensor)
        case Normal():
            nn.init.normal_(tensor, init.mean, init.std)
        case TruncatedNormal():
            nn.init.trunc_normal_(tensor, init.mean, init.std, init.a, init.b)
        case Uniform():
            nn.init.uniform_(tensor, init.a, init.b)
        case Xavier(type=kind, gain=gain):
            (nn.init.xavier_uniform_ if kind == "xavier_uniform" else nn.init.xavier_normal_)(tensor, gain)
        case Kaiming(type=kind):
            function = nn.init.kaiming_uniform_ if kind == "kaiming_uniform" else nn.init.kaiming_normal_
            function(tensor, init.a, init.mode, init.nonlinearity)
        case Orthogonal(gain=gain):
            nn.init.orthogonal_(tensor, gain)
        case _:
            assert_never(init)


_FILLED: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "eye": nn.init.eye_,
    "dirac": nn.init.dirac_,
}


def _leaf(layer: Leaf) -> nn.Module:
    # The short form: sizes as people write them, so that the net prints as if they had written it.
    # Never in place: a value may be an input's memory, or be read again.
    written = layer.model_dump(exclude={"type", "name", "inplace"})
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in written.items()}
    for name in arguments:
        member = getattr(layer, name)
        if isinstance(member, Leaf):  # the layer that a TransformerEncoder copies, and its norm
            arguments[name] = _leaf(member)
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
        named = {key: value if isinstance(value, bool) else Place(places[value]) for key, value in _named(step).items()}
        free += dying
        if free:
            out = free.pop()
        else:
            out, width = width, width + 1
        places[f"%{number + 1}"] = out
        plan.append(bound(step, taken, named, out))
        emptied = tuple(place for place in dying if place != out)
        if emptied:
            plan.append(_emptying(emptied))
    raise ValueError("a forward ends with a return")  # parse has seen to it


def _emptying(emptied: tuple[int, ...]) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        for place in emptied:
            values[place] = None

    return run


class Place(int):
    """A place in the list of values, told apart from a constant."""


def _named(step: Step) -> Mapping[str, str | bool]:
    return step.named if isinstance(step, steps.Call) else {}


def bound(step: Step, taken: Sequence[Any], named: Mapping[str, Place | bool], out: int) -> _Run:
    """The step as a closure over places and constants."""
    match step:
        case steps.Call(layer=name):
            return _calling(name, taken, named, out)
        case steps.Tuple():
            return _grouping(taken, out)
        case steps.Param(layer=name):
            return _reading(name, out)
        case steps.Item(index=index):
            return _unary(lambda value: value[index], taken[0], out)
        case steps.Return():
            raise ValueError("a return ends the plan")
        case _:
            return _computing(step, taken, out)


def _calling(name: str, taken: Sequence[int], named: Mapping[str, Place | bool], out: int) -> _Run:
    if named:

        def run_named(values: list[Any], children: Mapping[str, Any], _: nn.Module) -> None:
            given = {key: values[item] if isinstance(item, Place) else item for key, item in named.items()}
            values[out] = children[name](*[values[place] for place in taken], **given)

        return run_named
    if len(taken) == 1:
        (place,) = taken

        def run(values: list[Any], children: Mapping[str, Any], _: nn.Module) -> None:
            values[out] = children[name](values[place])

        return run

    def run_several(values: list[Any], children: Mapping[str, Any], _: nn.Module) -> None:
        values[out] = children[name](*[values[place] for place in taken])

    return run_several


def _grouping(taken: Sequence[int], out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        values[out] = tuple([values[place] for place in taken])

    return run


def _reading(name: str, out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], module: nn.Module) -> None:
        values[out] = getattr(module, name)

    return run


def _unary(function: Callable[[Any], Any], place: int, out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        values[out] = function(values[place])

    return run


def _binary(function: Callable[[Any, Any], Any], left: int, right: int, out: int) -> _Run:
    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        values[out] = function(values[left], values[right])

    return run


def _computing(step: steps.Operation, taken: Sequence[Any], out: int) -> _Run:
    places = [place for place, item in zip(taken, step.inputs, strict=True) if isinstance(item, str)]
    function = operations.function_of(step)
    if operations.follows_training(step):
        training = operations.function_of(step, training=True)

        def run_either(values: list[Any], _: Mapping[str, Any], module: nn.Module) -> None:
            values[out] = (training if module.training else function)(*[values[place] for place in places])

        return run_either
    if len(places) == 1:
        return _unary(function, places[0], out)
    if len(places) == 2:
        return _binary(function, places[0], places[1], out)

    def run(values: list[Any], _: Mapping[str, Any], __: nn.Module) -> None:
        values[out] = function(*[values[place] for place in places])

    return run
