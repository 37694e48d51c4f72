"""A net as a Mermaid flowchart: layers and operations as nodes, shapes on the edges, containers around their layers.

Knows documents and the judge's summary. Every text is written so that it can only be a label, and ids are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from service.schemas import steps
from service.schemas.architecture import Architecture
from service.schemas.layers import Buffer, Graph, Layer, Parameter, Sequential
from service.schemas.python_source import constructor
from service.schemas.statements import constant
from service.schemas.steps import Step


def mermaid(architecture: Architecture, summary: Mapping[str, Any]) -> str:
    """The flowchart.

    A layer that is called several times is one node; so is a container, whose inner layers are drawn once.

    Args:
        architecture: a judged document.
        summary: its summary.
    """
    drawing = _Drawing({layer["path"]: layer["output_shape"] for layer in summary["layers"]})
    given: list[_Value] = []
    for spec in architecture.inputs:
        node = drawing.node(f"{spec.name}<br/>{spec.dtype}", "([", "])")
        given.append(_Port(node, tuple(spec.shape)))
    results = _ports(drawing.layer(architecture.root, "", "", given))
    for spec, port in zip(summary["outputs"], results, strict=False):
        node = drawing.node(f"{spec['name']}<br/>{spec['dtype']}", "([", "])")
        drawing.edge(_Port(port.node, spec["shape"]), node)
    return "\n".join(["flowchart TD", *drawing.nodes, *drawing.edges]) + "\n"


@dataclass(frozen=True, slots=True)
class _Port:
    """Where a value comes from; its shape when that is known."""

    node: str
    shape: Sequence[Any] | None = None


_Value: TypeAlias = "_Port | tuple[_Value, ...]"


def _ports(value: _Value) -> Iterator[_Port]:
    if isinstance(value, _Port):
        yield value
    else:
        for item in value:
            yield from _ports(item)


def _part(value: _Value, index: int) -> _Value:
    if isinstance(value, _Port):
        return _Port(value.node)
    return value[index] if index < len(value) else value


@dataclass
class _Drawing:
    shapes: Mapping[str, Any]
    nodes: list[str] = field(default_factory=list)
    edges: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    drawn: dict[str, tuple[str | None, _Value]] = field(default_factory=dict)
    count: int = 0
    indent: int = 1

    def node(self, label: str, left: str = "[", right: str = "]") -> str:
        """A new node."""
        self.count += 1
        self.nodes.append("    " * self.indent + f'n{self.count}{left}"{_escaped(label)}"{right}')
        self.ids.append(f"n{self.count}")
        return self.ids[-1]

    def edge(self, port: _Port, node: str) -> None:
        """An edge, with the shape of what flows along it."""
        shape = port.shape
        known = shape is not None and all(isinstance(size, (int, str)) for size in shape)
        label = f'|"{_escaped(" × ".join(map(str, shape or ())))}"|' if known and shape else ""
        self.edges.append(f"    {port.node} -->{label} {node}")

    def _edges(self, ports: Iterable[_Port], node: str) -> None:
        for port in ports:
            self.edge(port, node)

    def layer(self, layer: Layer, path: str, name: str, given: Sequence[_Value]) -> _Value:
        """Draw a layer, once, with edges from what it is given; gives where its results come from."""
        ports = [port for value in given for port in _ports(value)]
        if path in self.drawn:
            node, result = self.drawn[path]
            if node is not None:
                self._edges(ports, node)
            return result
        match layer:
            case Sequential():
                node, result = self._inside(layer.type, name, lambda: self._sequential(layer, path, given))
            case Graph():
                title = layer.class_name or layer.type
                node, result = self._inside(title, name, lambda: self._graph(layer, path, given))
            case _:
                node = self.node("<br/>".join(text for text in (name, constructor(layer)) if text))
                result = _Port(node, self.shapes.get(path))
                self._edges(ports, node)
        self.drawn[path] = node, result
        return result

    def _inside(self, kind: str, name: str, draw: Callable[[], _Value]) -> tuple[str | None, _Value]:
        """A container around what `draw` draws; gives its first node, to which further calls lead.

        Mermaid has no edge from a node to the container that the node is in.
        """
        self.count += 1
        title = _escaped(" · ".join(text for text in (name, kind) if text))
        self.nodes.append("    " * self.indent + f'subgraph s{self.count}["{title}"]')
        self.indent += 1
        before = len(self.ids)
        result = draw()
        self.indent -= 1
        self.nodes.append("    " * self.indent + "end")
        return (self.ids[before] if len(self.ids) > before else None), result

    def _sequential(self, layer: Sequential, path: str, given: Sequence[_Value]) -> _Value:
        value: Sequence[_Value] = given
        for name, child in zip(layer.names, layer.layers, strict=True):
            value = [self.layer(child, f"{path}.{name}" if path else name, name, value)]
        return value[0]

    def _graph(self, graph: Graph, path: str, given: Sequence[_Value]) -> _Value:
        children = dict(zip(graph.names, graph.layers, strict=True))
        values: dict[str, _Value] = dict(zip(graph.inputs, given, strict=False))
        for place, step in enumerate(graph.steps, 1):
            taken = [values[item] for item in step.references()]
            match step:
                case steps.Return():
                    return taken[0] if len(taken) == 1 else tuple(taken)
                case steps.Call(layer=name):
                    deeper = f"{path}.{name}" if path else name
                    made: _Value = self.layer(children[name], deeper, name, taken)
                case steps.Item(index=index):
                    made = _part(taken[0], index)
                case steps.Tuple():
                    made = tuple(taken)
                case steps.Param(layer=name):
                    made = self._tensor(children[name], f"{path}.{name}", name)
                case _:
                    made = self._operation(step, taken)
            values[f"%{place}"] = made
        return ()

    def _tensor(self, layer: Layer, path: str, name: str) -> _Value:
        if path not in self.drawn:
            shape = layer.shape if isinstance(layer, (Parameter, Buffer)) else ()
            node = self.node(f"{name}<br/>{layer.type}", "[/", "/]")
            self.drawn[path] = node, _Port(node, shape)
        return self.drawn[path][1]

    def _operation(self, step: Step, taken: Sequence[_Value]) -> _Value:
        ports = [port for value in taken for port in _ports(value)]
        node = self.node(_operation_text(step), "(", ")")
        self._edges(ports, node)
        kept = isinstance(step, (steps.Activation, steps.Dropout, steps.Negative, steps.Softmax))
        return _Port(node, ports[0].shape if kept and ports else None)


_SIGNS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "matmul": "@", "neg": "−"}


def _operation_text(step: Step) -> str:
    sign = _SIGNS.get(step.op, step.op)
    numbers = [item for item in step.inputs if not isinstance(item, str)]
    if numbers:
        number = constant(numbers[0])
        return f"{sign} {number}" if isinstance(step.inputs[0], str) else f"{number} {sign}"
    given = step.model_dump(exclude={"op", "inputs"}, exclude_defaults=True, mode="json")
    inside = ", ".join(f"{name}={value}" for name, value in given.items())
    return f"{sign}({inside})" if inside else sign


_PLAIN = re.compile(r"<br/>|[A-Za-z0-9 _.,:=()+*×÷−·…@/\[\]-]")


def _escaped(text: str) -> str:
    """The text as a label: line breaks stay, and whatever could end a label or be markup is a numbered entity."""
    return "".join(
        piece if _PLAIN.fullmatch(piece) else f"#{ord(piece)};" for piece in re.findall(r"<br/>|.", text, re.DOTALL)
    )
