"""Which number of an input a net looks up in a table that has no such row: asked only after the net has failed.

Walks the resolved document with the values themselves as far as they are only moved, cut or counted with, each with
the place of the input that it comes from, and stops where a layer makes something else of them. Knows nothing of
versions, rows and requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from service.engine.operations import function_of
from service.schemas import layers, steps
from service.schemas.architecture import Architecture
from service.schemas.layers import Graph, Layer, Sequential
from service.schemas.operation import Elementwise


@dataclass(frozen=True, slots=True)
class Beyond:
    """A number that is not a row of the table in which it is looked up.

    Args:
        input: the place of the net's input.
        place: where in it the number stands, the row first; None for a position, which is beyond the table because the
            input is too long.
        number: what is looked up; where the net has computed with the input's number, it is another one.
        rows: how many rows the table has.
        table: the layer's path, or the operation.
    """

    input: int
    place: tuple[int, ...] | None
    number: int
    rows: int
    table: str


def beyond(architecture: Architecture, module: nn.Module, inputs: Sequence[Tensor]) -> list[Beyond]:
    """Every number that is beyond its table, in the order of the forward; none where something else is wrong.

    Args:
        architecture: the resolved document.
        module: what `build` made of it.
        inputs: what the net was given, [N, …] each.
    """
    walk = _Walk([tuple(part.shape) for part in inputs])
    given: list[_Value] = []
    start = 0
    for part in inputs:
        given.append(_Traced(part, torch.arange(start, start + part.numel()).reshape(part.shape)))
        start += part.numel()
    try:
        walk.layer(architecture.root, module, "", given)
    except (RuntimeError, IndexError, ValueError, TypeError):
        pass  # it is here that the net fails, for another reason
    return list(dict.fromkeys(walk.found))


@dataclass(frozen=True, slots=True)
class _Traced:
    """Values, and for each the place in all inputs one after the other; `_COUNTED` less the input's place for one that
    counts an input's elements, `_NOWHERE` for a constant."""

    values: Tensor
    places: Tensor


_NOWHERE: Final = -1
_COUNTED: Final = -2

_Value: TypeAlias = "_Traced | tuple[_Value, ...] | None"
"""What is known of a value: None for what a layer has made."""

_MOVES: Final = (
    steps.Reshape,
    steps.Flatten,
    steps.Unflatten,
    steps.Permute,
    steps.Transpose,
    steps.Squeeze,
    steps.Unsqueeze,
    steps.ExpandBatch,
    steps.Join,
    steps.Chunk,
    steps.Split,
    steps.GetItem,
    steps.Flip,
    steps.Roll,
)
_STILL: Final = (
    layers.Identity,
    layers.Dropout,
    layers.Dropout1d,
    layers.Dropout2d,
    layers.Dropout3d,
    layers.AlphaDropout,
    layers.FeatureAlphaDropout,
)


@dataclass
class _Walk:
    shapes: list[tuple[int, ...]]
    found: list[Beyond] = field(default_factory=list)

    def layer(self, layer: Layer, module: nn.Module, path: str, given: Sequence[_Value]) -> _Value:
        """What a layer makes of values, as far as it is known."""
        match layer:
            case Sequential():
                (value,) = given
                for name, child in zip(layer.names, layer.layers, strict=True):
                    value = self.layer(child, module.get_submodule(name), _join(path, name), [value])
                return value
            case Graph():
                return self._graph(layer, module, path, given)
            case layers.Embedding() | layers.EmbeddingBag():
                self._look_up(given[0], layer.num_embeddings, path or layer.type)
                return None
            case layers.Flatten() | layers.Unflatten():
                return _moved(module.forward, given)
            case _:
                return given[0] if isinstance(layer, _STILL) else None

    def _graph(self, graph: Graph, module: nn.Module, path: str, given: Sequence[_Value]) -> _Value:
        values: dict[str, _Value] = dict(zip(graph.inputs, given, strict=True))
        children = dict(zip(graph.names, graph.layers, strict=True))
        tables: dict[str, str] = {}
        for number, step in enumerate(graph.steps, 1):
            taken = [values[item] if isinstance(item, str) else None for item in step.inputs]
            value: _Value = None
            match step:
                case steps.Return():
                    return taken[0] if len(taken) == 1 else tuple(taken)
                case steps.Call(layer=name):
                    value = self.layer(children[name], module.get_submodule(name), _join(path, name), taken)
                case steps.Param(layer=name):
                    constant = getattr(module, name).detach()
                    tables[f"%{number}"] = _join(path, name)
                    value = _Traced(constant, torch.full(constant.shape, _NOWHERE))
                case steps.Tuple():
                    value = tuple(taken)
                case steps.Item(index=index):
                    (whole,) = taken
                    if isinstance(whole, tuple):
                        value = whole[index]
                    elif whole is not None:
                        value = _Traced(whole.values[index], whole.places[index])
                case steps.Embed():
                    table = taken[1]
                    if isinstance(table, _Traced):
                        self._look_up(taken[0], len(table.values), tables.get(step.inputs[1], step.op))
                case steps.OneHot():
                    self._look_up(taken[0], step.num_classes, step.op)
                case steps.Positions():
                    value = self._positions(step, taken[0])
                case _ if isinstance(step, _MOVES):
                    value = _moved(function_of(step), taken)
                case _ if isinstance(step, (Elementwise, steps.Arithmetic)):
                    value = _computed(step, taken)
                case _:
                    pass
            values[f"%{number}"] = value
        return None

    def _positions(self, step: steps.Positions, value: _Value) -> _Value:
        if not isinstance(value, _Traced):
            return None
        first = int(value.places.flatten()[0]) if value.places.numel() else _NOWHERE
        made = function_of(step)(value.values)
        return _Traced(made, torch.full(made.shape, _COUNTED - self._input_of(first)[0] if first >= 0 else _NOWHERE))

    def _look_up(self, value: _Value, rows: int, table: str) -> None:
        if not isinstance(value, _Traced) or value.values.is_floating_point():
            return
        wrong = (value.values < 0) | (value.values >= rows)
        for number, place in zip(value.values[wrong].tolist(), value.places[wrong].tolist(), strict=True):
            if place >= 0:
                self.found.append(Beyond(*self._input_of(place), int(number), rows, table))
            elif place <= _COUNTED:
                self.found.append(Beyond(_COUNTED - place, None, int(number), rows, table))

    def _input_of(self, place: int) -> tuple[int, tuple[int, ...]]:
        """The input and the place in it."""
        for number, shape in enumerate(self.shapes):
            size = torch.Size(shape).numel()
            if place < size:
                index: list[int] = []
                for length in reversed(shape):
                    place, rest = divmod(place, length)
                    index.append(rest)
                return number, tuple(reversed(index))
            place -= size
        raise ValueError("a place is in some input")


def _moved(function: Any, taken: Sequence[_Value]) -> _Value:
    """The same of values and of their places."""
    known = [value for value in taken if isinstance(value, _Traced)]
    if len(known) < len(taken):
        return None
    values, places = function(*[one.values for one in known]), function(*[one.places for one in known])
    if isinstance(values, Tensor):
        return _Traced(values, places)
    return tuple(_Traced(*pair) for pair in zip(values, places, strict=True))


def _computed(step: Any, taken: Sequence[_Value]) -> _Value:
    """What arithmetic makes of values; it comes from where the first of them does."""
    known = [value for value in taken if isinstance(value, _Traced)]
    if len(known) < sum(isinstance(item, str) for item in step.inputs):
        return None
    values = function_of(step)(*[one.values for one in known])
    places = known[0].places.broadcast_to(values.shape)
    for one in known[1:]:
        places = torch.where(places == _NOWHERE, one.places.broadcast_to(values.shape), places)
    return _Traced(values, places)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
