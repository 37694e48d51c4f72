"""A net's document while it is being changed: layers that remember where they came from, and forwards
in which steps come and go.

Knows no edit, no request and no weights; `edits` decides what is done with these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeGuard

from pydantic import ValidationError

from service.errors import shorten
from service.schemas.layers import LAYER_KINDS, Graph

Policy = Literal["reinit", "slice", "pad", "mean_channels"]
"""What becomes of a tensor whose shape changes.

reinit: it is drawn anew. slice: the first entries along every dimension are kept. pad: the old values come first; rows
that are added (along the first dimension) are drawn anew, and what is added to old rows is zero, so that old outputs
stay what they were. mean_channels: the mean over the second dimension, repeated: a net for colour images takes grey
ones.
"""

_MOST_DEPTH: Final = 64
"""Deeper layers are kept as they were sent: the reading of the result refuses them."""


@dataclass(eq=False, slots=True)
class Node:
    """A layer while the net is being changed.

    Args:
        members: its members but name and layers; a Graph's forward stands among them.
        children: of a container.
        origin: the dotted path in the source of the layer whose tensors these are.
        fresh: tensors that fit the origin's are drawn anew all the same.
        edit: the number of the edit that made or changed it last.
        made: that edit made it, so that its members stand in the request.
        changed: the member that the edit changed.
        stepped: the forward of a Graph is in steps that are known to be right.
    """

    members: dict[str, Any]
    name: str | None
    children: list[Node] | None
    origin: str | None = None
    policy: Policy = "reinit"
    fresh: bool = False
    edit: int | None = None
    made: bool = False
    changed: str | None = None
    stepped: bool = False

    @property
    def type(self) -> str:
        """The layer's type, or what was sent in its place."""
        return str(self.members.get("type"))

    def child(self, name: str) -> Node | None:
        """The child of this name."""
        return next((child for child in self.children or () if child.name == name), None)

    def raw(self) -> dict[str, Any]:
        """The layer as JSON values."""
        found = dict(self.members)
        if self.name is not None:
            found["name"] = self.name
        if self.children is not None:
            found["layers"] = [child.raw() for child in self.children]
        return found


def read_node(raw: Mapping[str, Any], *, edit: int | None = None, depth: int = 0) -> Node:
    """A layer as it was sent. What cannot be read stays as it is; the reading of the result tells of it."""
    layers = raw.get("layers")
    readable = raw.get("type") in ("Sequential", "Graph") and depth < _MOST_DEPTH
    children: list[Node] | None = None
    members = {key: value for key, value in raw.items() if key != "name"}
    if readable and (
        layers is None or (isinstance(layers, list) and all(isinstance(child, Mapping) for child in layers))
    ):
        children = []
        members.pop("layers", None)
        for place, child in enumerate(layers or ()):
            node = read_node(child, edit=edit, depth=depth + 1)
            if node.name is None and "name" not in node.members and raw["type"] == "Sequential":
                node.name = str(place)
            children.append(node)
    name = raw.get("name")
    if name is not None and not isinstance(name, str):
        members["name"], name = name, None
    return Node(members, name, children, edit=edit, made=edit is not None)


class Fault(Exception):
    """An edit that cannot be done; `member` is the one to blame."""

    def __init__(
        self,
        member: str,
        code: str,
        detail: str,
        *,
        hint: str | None = None,
        expected: str | None = None,
        got: Any = None,
    ) -> None:
        super().__init__(detail)
        self.member = member
        self.code = code
        self.detail = detail
        self.hint = hint
        self.expected = expected
        self.got = None if got is None else shorten(got)


def walk(root: Node) -> Iterator[tuple[str, Node]]:
    """Every layer with its dotted path, parents first."""
    stack = [("", root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        stack.extend((dotted(path, child.name or ""), child) for child in reversed(node.children or ()))


def dotted(path: str, name: str) -> str:
    """The path of a child; "" is the root."""
    return f"{path}.{name}" if path and name else path or name


def first_leaf(node: Node) -> Node:
    """The layer that takes what is given to `node`: itself, or the first one of a Sequential."""
    while node.type == "Sequential" and node.children:
        node = node.children[0]
    return node


def is_number(name: str | None) -> TypeGuard[str]:
    """Whether a name is a number as a Sequential counts its children."""
    return name is not None and re.fullmatch(r"0|[1-9][0-9]{0,8}", name) is not None


def follow(node: Node, old: Node, policy: Policy) -> None:
    """The tensors of a layer come, by `policy`, from those of the one that it replaces, where these are of one type."""
    if node.type != old.type:
        return
    node.origin, node.policy, node.fresh = old.origin, policy, True
    for child in node.children or ():
        before = old.child(child.name or "")
        if before is not None:
            follow(child, before, policy)


def change(node: Node, number: int, name: str, value: Any, policy: Policy) -> None:
    """Set a member of a layer, in the name of edit `number`."""
    node.members[name] = value
    node.edit, node.made, node.changed = number, False, name
    node.stepped = node.stepped and name != "forward"
    if not node.fresh:
        node.policy = policy


def settable(node: Node) -> list[str]:
    """The members that `set_field` may set."""
    if node.children is not None:
        return ["class_name", "forward"] if node.type == "Graph" else []
    kind = LAYER_KINDS.get(node.type)
    if kind is None:
        return []
    names = [info.alias or name for name, info in kind.model_fields.items()]
    return [name for name in names if name not in ("type", "name")]


def sizes_of(node: Node) -> dict[str, Any]:
    """The members that are whole numbers, or to be worked out, with what they are."""
    kind = LAYER_KINDS.get(node.type)
    if kind is None:
        return {}
    found = {name: node.members.get(name, kind.model_fields[name].default) for name in kind.model_fields}
    return {name: value for name, value in found.items() if type(value) is int or value == "auto"}


def require_free(name: str, parent: Node) -> None:
    """See that no other child has this name.

    Raises:
        Fault: one has.
    """
    if parent.child(name) is not None:
        detail = f"`{name}` is the name of another layer there."
        raise Fault("name", "duplicate-name", detail, hint="Choose another name.", got=name)


def required_name(node: Node, graph: Node) -> str:
    """The name of a layer that is to be added to a graph.

    Raises:
        Fault: it has none, or another one's.
    """
    if node.name is None:
        raise Fault(
            "name", "missing", "A graph's layers have names, by which its forward calls them.", hint='Add "name".'
        )
    require_free(node.name, graph)
    return node.name


def shift(children: Sequence[Node], at: int) -> None:
    """Numbers that are their layers' places move up by one, from `at` on."""
    for place in range(len(children) - 1, at - 1, -1):
        if children[place].name == str(place):
            moved = str(place + 1)
            if any(child.name == moved for child in children):
                detail = f"The layers' numbers cannot move up: `{moved}` is taken."
                raise Fault("name", "missing", detail, hint='Give the inserted layer a "name".')
            children[place].name = moved


# The forward of a graph while it is being changed.


class Steps:
    """Steps whose references stay right while steps come and go: values are named by marks, not by numbers."""

    def __init__(self, steps: Iterable[Mapping[str, Any]]) -> None:
        self._steps: list[dict[str, Any]] = [_copied(step) for step in steps]
        self._marks: dict[int, str] = {id(step): f"%{number}" for number, step in enumerate(self._steps, 1)}
        self._next = len(self._steps) + 1

    @classmethod
    def of(cls, graph: Node) -> Steps:
        """The forward of a graph, compiled when it was sent as lines.

        Raises:
            Fault: it has mistakes.
        """
        if graph.stepped:
            return cls(graph.members["forward"])
        try:
            read = Graph.model_validate(graph.raw())
        except ValidationError:
            read = None
        if read is None or read.program.faults:
            raise Fault("path", "forward-invalid", "The forward of this graph has mistakes: mend it first.")
        return cls(step.model_dump(mode="json", exclude_defaults=True) for step in read.steps)

    def value(self, step: Mapping[str, Any]) -> str:
        """What other steps call the value that a step makes."""
        return self._marks[id(step)]

    def returned(self) -> dict[str, Any]:
        """The last step."""
        return self._steps[-1]

    def calls(self, layer: str) -> list[dict[str, Any]]:
        """The steps that call a layer, or read a free tensor."""
        return [step for step in self._steps if step["op"] in ("call", "param") and step["layer"] == layer]

    def call(
        self,
        layer: str,
        inputs: Sequence[str],
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> str:
        """One more call, right before or after a step; its value."""
        step: dict[str, Any] = {"op": "call", "layer": layer, "inputs": list(inputs)}
        place = next(n for n, each in enumerate(self._steps) if each is before or each is after)
        self._steps.insert(place + (after is not None), step)
        self._marks[id(step)] = f"%{self._next}"
        self._next += 1
        return self.value(step)

    def redirect(self, value: str, to: str, *, but: str | None = None) -> None:
        """Read another value wherever `value` is read, except in the step that makes `but`."""
        for step in self._steps:
            if self.value(step) != but:
                _rewrite(step, {value: to})

    def drop(self, step: Mapping[str, Any]) -> None:
        """Take a step out."""
        self._steps = [each for each in self._steps if each is not step]

    def end_with(self, step: Mapping[str, Any]) -> set[str]:
        """Return what a step makes, and drop what is not needed for it; the layers that are still called."""
        needed = {self.value(step)}
        kept: list[dict[str, Any]] = []
        for each in reversed(self._steps):
            if self.value(each) in needed:
                needed.update(_references(each))
                kept.append(each)
        self._steps = [*reversed(kept), {"op": "return", "inputs": [self.value(step)]}]
        self._marks[id(self._steps[-1])] = f"%{self._next}"
        return {each["layer"] for each in kept if each["op"] in ("call", "param")}

    def write(self, graph: Node) -> None:
        """Make these the steps of the graph, numbered anew."""
        numbers = {self.value(step): f"%{number}" for number, step in enumerate(self._steps, 1)}
        steps = [_copied(step) for step in self._steps]
        for step in steps:
            _rewrite(step, numbers)
        graph.members["forward"], graph.stepped = steps, True


def _copied(step: Mapping[str, Any]) -> dict[str, Any]:
    found = {**step, "inputs": list(step.get("inputs", ()))}
    if "named" in step:
        found["named"] = dict(step["named"])
    return found


def _references(step: Mapping[str, Any]) -> Iterator[str]:
    yield from (item for item in step["inputs"] if isinstance(item, str))
    yield from (item for item in step.get("named", {}).values() if isinstance(item, str))


def _rewrite(step: dict[str, Any], names: Mapping[str, str]) -> None:
    step["inputs"] = [names.get(item, item) if isinstance(item, str) else item for item in step["inputs"]]
    if "named" in step:
        step["named"] = {
            key: names.get(item, item) if isinstance(item, str) else item for key, item in step["named"].items()
        }
