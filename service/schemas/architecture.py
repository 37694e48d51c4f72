"""A whole net as a document: its inputs, its tree of layers, its canonical form and digest.

Finds every mistake that shows without computing a shape; what the shapes say is for `judgement`. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry, shorten
from service.schemas.catalogue import is_reference, referred
from service.schemas.document import Document, canonical, digest, entries, nearest_hint
from service.schemas.expand import ABSENT, MAX_DEPTH, MAX_LAYERS, Expansion, authored_schema, expand, merged
from service.schemas.expand import too_large as _too_large
from service.schemas.forward import (
    MAX_LINES,
    Fault,
    from_lines,
    from_steps,
    is_value_name,
    resembles_operation,
    words_in,
)
from service.schemas.initial import InitRule, Tie
from service.schemas.layers import Buffer, Graph, Layer, Parameter, Sequential
from service.schemas.leaf import Leaf, is_layer_name
from service.schemas.shapes import LARGEST, DType, counted
from service.schemas.steps import Step

BATCH: Final = "B"
"""The symbol that every input's shape begins with."""

MAX_INPUTS: Final = 64
MAX_SYMBOLS: Final = 16

_SYMBOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,15}")


def _read_shape(value: object) -> Any:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 8:
        raise PydanticCustomError("shape_type", 'Expected a list such as ["B", 3, 32, 32].')
    if value[0] != BATCH:
        raise PydanticCustomError("shape", 'A shape begins with "B", the batch, as in ["B", 3, 32, 32].')
    for item in value[1:]:
        if isinstance(item, str):
            if item == BATCH:
                raise PydanticCustomError("shape", '"B" is the batch and stands first alone.')
            if not _SYMBOL.fullmatch(item):
                raise PydanticCustomError("shape", 'A size that varies is a letter or a short word, such as "H".')
        elif isinstance(item, bool) or not isinstance(item, int):
            raise PydanticCustomError("shape_type", 'A size is a whole number, or a symbol such as "H".')
        elif not 1 <= item <= LARGEST:
            raise PydanticCustomError("greater_than_equal", "A size is a whole number, 1 or more.")
    return tuple(value)


def _read_input_name(value: object) -> Any:
    if isinstance(value, str) and is_value_name(value):
        return value
    raise PydanticCustomError("input_name", "An input's name is a letter followed by letters, digits and underscores.")


Shape = Annotated[
    tuple[str | int, ...],
    PlainValidator(_read_shape, json_schema_input_type=list[str | int]),
    PlainSerializer(list, return_type=list[str | int]),
]


class InputSpec(Document):
    """What the net is given: `shape` begins with "B"; other sizes are numbers, or symbols for sizes that vary."""

    name: Annotated[str, BeforeValidator(_read_input_name)]
    shape: Shape
    dtype: DType = "float32"


_Label = Annotated[str, StringConstraints(max_length=256)]


class Architecture(Document):
    """A net. `labels` are the author's own words: they are kept, and are no part of the digest."""

    schema_: Literal["arch/1"] = Field(alias="schema")
    inputs: Annotated[tuple[InputSpec, ...], counted(1, MAX_INPUTS)]
    root: Layer
    tie: Annotated[tuple[Tie, ...], counted(0, 1024)] = ()
    init: Annotated[tuple[InitRule, ...], counted(0, 256)] = ()
    labels: Annotated[dict[_Label, _Label], Field(default_factory=dict, max_length=64)]
    _expansion: Expansion | None = PrivateAttr(None)

    @property
    def expansion(self) -> Expansion | None:
        """How the document was written, where that was not plainly."""
        return self._expansion

    def with_root(self, root: Layer) -> Self:
        """The plain document with another root; how the former one was written is no longer true of it."""
        changed = self.model_copy(update={"root": root})
        changed._expansion = None
        return changed


def parse(raw: object, *, prefix: str = "") -> Architecture:
    """Read a document.

    A Graph at the root that does not say its `inputs` takes those of the document, by their names. Only where the
    document has one input, and the forward calls it `x` or does not read it by its name, it is `x`: documents of old
    keep their meaning and their digest. The canonical form always says which.

    Args:
        raw: the document as JSON values, or what names a net of the catalogue.
        prefix: the pointer to it in the request's body.

    Raises:
        ArchitectureInvalid: with every mistake that shows without shapes.
        ArchitectureTooLarge: it has too many layers, or too deep ones.
    """
    if not isinstance(raw, Mapping):
        got = shorten(raw)
        raise ArchitectureInvalid(
            errors=[Entry(prefix, "wrong-type", "An architecture is an object.", expected="an object", got=got)]
        )
    expansion = _expanded(raw, prefix)
    raw, plain = expansion.authored, expansion.raw
    expanded = plain is not raw
    plain = _with_root_inputs(plain)
    nodes = list(_nodes(plain.get("root"), prefix + "/root"))
    paths = {node.pointer: node.path for node in nodes}
    found: list[Entry] = []
    more = 0
    architecture: Architecture | None = None
    try:
        architecture = Architecture.model_validate(plain)
    except ValidationError as error:
        found, more = entries(error, plain, prefix, schema=Architecture.__pydantic_core_schema__)
        found = [_authored_hint(entry, raw, prefix) for entry in found]
    graphs = _graphs(architecture, prefix) if architecture is not None else {}
    for node in nodes:
        found += _misnamed(node)
        if node.raw.get("type") == "Graph":
            found += _forward_mistakes(node, graphs.get(node.pointer))
    found += _input_mistakes(plain, prefix)
    told = _in_order(found, paths)
    if expanded:
        told = _where_written(expansion, told)
    if told or architecture is None:
        raise ArchitectureInvalid(errors=told, more=more + expansion.more)
    if expanded:
        architecture._expansion = expansion
    return architecture


def as_sent(architecture: Architecture) -> dict[str, Any]:
    """What `parse` was given: the document as it was written, or what names it."""
    if architecture.expansion is not None and architecture.expansion.sent is not None:
        return dict(architecture.expansion.sent)
    return authored(architecture)


def authored(architecture: Architecture) -> dict[str, Any]:
    """The document as it was written: with its blocks and expressions, or plain and with defaults left out."""
    if architecture.expansion is not None:
        return dict(architecture.expansion.authored)
    return architecture.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def canonical_form(architecture: Architecture) -> dict[str, Any]:
    """The one document for this net: every child named, every forward in steps, no defaults and no labels.

    It is itself a document with the same digest.
    """
    form: dict[str, Any] = {
        "schema": architecture.schema_,
        "inputs": [spec.model_dump(mode="json", exclude_defaults=True) for spec in architecture.inputs],
        "root": _canonical_layer(architecture.root, None),
    }
    for member in ("tie", "init"):
        rules = [
            rule.model_dump(mode="json", by_alias=True, exclude_defaults=True) for rule in getattr(architecture, member)
        ]
        if rules:
            form[member] = rules
    return form


def digest_of(architecture: Architecture) -> str:
    """The digest of the canonical form. "auto" counts as written: resolve it first (`judgement.judge`)."""
    return digest(canonical(canonical_form(architecture)))


@lru_cache(maxsize=1)
def json_schema() -> dict[str, Any]:
    """The JSON Schema of a document."""
    return authored_schema(Architecture.model_json_schema(by_alias=True))


def leaves(architecture: Architecture) -> Iterator[tuple[str, str, Leaf]]:
    """Every layer without children as (dotted path, pointer, layer), in the order of registration.

    The path of a net that is one single layer is "".
    """
    stack: list[tuple[str, str, Any]] = [("", "/root", architecture.root)]
    while stack:
        path, at, layer = stack.pop()
        if isinstance(layer, (Sequential, Graph)):
            children = [
                (f"{path}.{name}" if path else name, f"{at}/layers/{place}", child)
                for place, (name, child) in enumerate(zip(layer.names, layer.layers, strict=True))
            ]
            stack.extend(reversed(children))
        else:
            yield path, at, layer


@dataclass(frozen=True, slots=True)
class StateRow:
    """One tensor of a state_dict before it exists.

    Args:
        layer: the dotted path of the layer that it belongs to.
    """

    shape: tuple[int, ...]
    dtype: DType
    kind: Literal["parameter", "buffer"]
    layer: str


def state_rows(architecture: Architecture) -> dict[str, StateRow]:
    """The keys of a resolved document's state_dict in torch's order, with shapes, before anything is built.

    Raises:
        Mismatch: an "auto" is left.
    """
    rows: dict[str, StateRow] = {}

    def own(path: str, layer: Any) -> None:
        for name, shape in layer.parameters().items():
            rows[_dotted(path, name)] = StateRow(shape, "float32", "parameter", path)
        for name, shape in layer.buffers().items():
            dtype: DType = layer.tensor_dtype if isinstance(layer, Buffer) else "float32" if shape else "int64"
            rows[_dotted(path, name)] = StateRow(shape, dtype, "buffer", path)

    stack: list[tuple[str, Any]] = [("", architecture.root)]
    while stack:
        path, layer = stack.pop()
        if not isinstance(layer, (Sequential, Graph)):
            own(path, layer)
            continue
        children = list(zip(layer.names, layer.layers, strict=True))
        for kind in (Parameter, Buffer):  # torch tells a module's own tensors before its children's
            for name, child in children:
                if isinstance(child, kind):
                    own(_dotted(path, name), child)
        rest = [(_dotted(path, name), child) for name, child in children if not isinstance(child, (Parameter, Buffer))]
        stack.extend(reversed(rest))
    return rows


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _canonical_layer(layer: Any, name: str | None) -> dict[str, Any]:
    members: dict[str, Any] = {"type": layer.type}
    if name is not None:
        members["name"] = name
    match layer:
        case Sequential():
            children = zip(layer.names, layer.layers, strict=True)
            members["layers"] = [_canonical_layer(child, child_name) for child_name, child in children]
        case Graph():
            members |= layer.model_dump(mode="json", exclude_defaults=True, include={"inputs", "class_name"})
            children = zip(layer.names, layer.layers, strict=True)
            if layer.layers:
                members["layers"] = [_canonical_layer(child, child_name) for child_name, child in children]
            members["forward"] = [step.model_dump(mode="json", exclude_defaults=True) for step in layer.steps]
        case _:
            members |= layer.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"name", "inplace"})
    return members


def _expanded(raw: Mapping[str, Any], prefix: str) -> Expansion:
    """The plain form of a document, or of the net of the catalogue that is named instead."""
    if not is_reference(raw):
        return expand(raw, prefix=prefix)
    try:
        return expand(referred(raw, prefix=prefix), prefix=prefix).named_by(raw)
    except ArchitectureTooLarge as refused:
        errors = [replace(entry, pointer=prefix + "/params") for entry in refused.errors]
        raise ArchitectureTooLarge(errors=errors, limit=refused.limit) from None


def _with_root_inputs(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with the inputs of its root, where that is a Graph that does not say them; see `parse`."""
    root, inputs = plain.get("root"), plain.get("inputs")
    if not isinstance(root, Mapping) or root.get("type") != "Graph" or "inputs" in root:
        return plain
    if not isinstance(inputs, (list, tuple)) or not 1 <= len(inputs) <= MAX_INPUTS:
        return plain
    names = [spec.get("name") if isinstance(spec, Mapping) else None for spec in inputs]
    if not all(isinstance(name, str) and is_value_name(name) for name in names) or len(set(names)) < len(names):
        return plain
    forward = root.get("forward")
    said = words_in(forward) if isinstance(forward, (list, tuple)) else set()
    if len(names) == 1 and ("x" in said or names[0] not in said):
        return plain
    return {**plain, "root": {**root, "inputs": names}}


# Reading. What follows walks the JSON itself, so that mistakes in one place do not hide those in another.


@dataclass(frozen=True, slots=True)
class _RawNode:
    """A container or layer as it was sent, where it is, and its children's effective names."""

    raw: Mapping[str, Any]
    pointer: str
    path: str
    children: tuple[Any, ...]
    names: tuple[str | None, ...]


def _nodes(root: object, start: str) -> Iterator[_RawNode]:
    """Every layer of the tree, parents first and without recursion.

    Raises:
        ArchitectureTooLarge: there are too many, or they nest too deeply.
    """
    stack: list[tuple[object, str, str, int]] = [(root, start, "", 1)]
    count = 0
    while stack:
        raw, at, path, depth = stack.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise _too_large("depth", MAX_DEPTH, depth, at, f"Layers nest at most {MAX_DEPTH} deep.")
        if not isinstance(raw, Mapping):
            continue
        layers = raw.get("layers")
        children = tuple(layers) if isinstance(layers, (list, tuple)) else ()
        if count + len(stack) + len(children) > MAX_LAYERS:
            total = count + len(stack) + len(children)
            raise _too_large("layers", MAX_LAYERS, total, at, f"There are at most {MAX_LAYERS:,} layers.")
        indexed = raw.get("type") == "Sequential"
        names = tuple(_effective_name(child, place if indexed else None) for place, child in enumerate(children))
        yield _RawNode(raw, at, path, children, names)
        for place in reversed(range(len(children))):
            name = names[place] if names[place] is not None else str(place)
            deeper = f"{path}.{name}" if path else f"{name}"
            stack.append((children[place], f"{at}/layers/{place}", deeper[:1024], depth + 1))


def _effective_name(child: object, place: int | None) -> str | None:
    name = child.get("name") if isinstance(child, Mapping) else None
    if name is None:
        return None if place is None else str(place)
    return name[:65] if isinstance(name, str) else None


_FREE: Final = ("Parameter", "Buffer")


def _misnamed(node: _RawNode) -> Iterator[Entry]:
    """Children without a name in a graph, and names that two siblings have."""
    if not node.path and node.pointer.endswith("/root") and node.raw.get("name") is not None:
        yield Entry(
            node.pointer + "/name", "invalid-name", "The root has no parent and therefore no name.", hint="Remove it."
        )
    if node.raw.get("type") in _FREE and node.pointer.endswith("/root"):
        yield Entry(node.pointer, "misplaced", "A net is a layer: a tensor alone computes nothing.")
    first: dict[str, int] = {}
    for place, name in enumerate(node.names):
        at = f"{node.pointer}/layers/{place}"
        child = node.children[place]
        if node.raw.get("type") != "Graph" and isinstance(child, Mapping) and child.get("type") in _FREE:
            detail = f"A {child['type']} stands in a Graph, whose forward reads it by its name."
            yield Entry(at, "misplaced", detail, hint="Make this Sequential a Graph.")
        if name is None:
            if node.raw.get("type") == "Graph" and isinstance(child, Mapping) and child.get("name") is None:
                detail = "A graph's layers have names, by which its forward calls them."
                yield Entry(at + "/name", "missing", detail, hint='Add "name".')
        elif name in first:
            other = node.children[first[name]]
            unnamed = [one for one in (child, other) if isinstance(one, Mapping) and one.get("name") is None]
            yield Entry(
                at + "/name",
                "duplicate-name",
                f"`{name}` is also the name of layer {first[name]} here.",
                hint="A layer without a name is called by its place." if unnamed else "Choose another name.",
                got=shorten(name),
            )
        else:
            first[name] = place


_STEPS: Final[TypeAdapter[tuple[Step, ...]]] = TypeAdapter(tuple[Annotated[Step, Field(discriminator="op")], ...])


def _graphs(architecture: Architecture, prefix: str) -> dict[str, Graph]:
    """The graphs of a document by their pointers."""
    found: dict[str, Graph] = {}
    stack: list[tuple[str, Any]] = [(prefix + "/root", architecture.root)]
    while stack:
        at, layer = stack.pop()
        if isinstance(layer, Graph):
            found[at] = layer
        if isinstance(layer, (Graph, Sequential)):
            stack.extend((f"{at}/layers/{place}", child) for place, child in enumerate(layer.layers))
    return found


def _forward_mistakes(node: _RawNode, graph: Graph | None) -> Iterator[Entry]:
    inputs = node.raw.get("inputs", ("x",))
    if not isinstance(inputs, (list, tuple)) or len(inputs) > MAX_INPUTS:
        return  # told by pydantic
    if not all(isinstance(name, str) for name in inputs):
        return
    bad = [place for place, name in enumerate(inputs) if not is_value_name(name) or name in inputs[:place]]
    for place in bad:
        yield Entry(
            f"{node.pointer}/inputs/{place}",
            "invalid-name",
            "The names of a graph's inputs are different words of letters, digits and underscores.",
            layer=node.path or None,
            got=shorten(inputs[place]),
        )
    forward = node.raw.get("forward")
    if bad or not inputs or not isinstance(forward, (list, tuple)) or not 1 <= len(forward) <= MAX_LINES:
        return
    layers = node.raw.get("layers", ())
    names = tuple(name for name in node.names if name is not None)
    if isinstance(layers, Mapping):  # no list, which is told; its names are most likely those that were meant
        names = tuple(name for name in layers if isinstance(name, str))
    wrong = {name for place, name in enumerate(names) if not is_layer_name(name) or name in names[:place]}
    # Of layers whose names are wrong nobody knows what the forward calls them: that alone is told.
    unclear = bool(wrong) or len(names) < len(node.children) or not isinstance(layers, (list, tuple))
    if None in node.names:
        graph = None  # its program calls a layer without a name by ""; told by `_misnamed`
    free = frozenset(
        child["name"]
        for child in node.children
        if isinstance(child, Mapping) and child.get("type") in _FREE and isinstance(child.get("name"), str)
    )
    absent = frozenset(node.raw.get(ABSENT, ()))
    faults: tuple[Fault, ...] = ()
    if all(isinstance(line, str) for line in forward):
        faults = (graph.program if graph else from_lines(tuple(forward), tuple(inputs), names, free, absent)).faults
    elif any(isinstance(line, str) for line in forward):
        detail = "A forward is written in lines or in steps, not in both."
        yield Entry(node.pointer + "/forward", "forward-invalid", detail, layer=node.path or None)
    elif graph:
        faults = graph.program.faults
    else:
        try:
            steps = _STEPS.validate_python(forward)
        except ValidationError:
            return  # told with the whole document
        faults = from_steps(steps, tuple(inputs), names, free, absent).faults
    places = {name: place for place, name in enumerate(node.names)}
    for fault in faults:
        if not (unclear and _follows(fault, wrong, forward, places)):
            yield _fault_entry(fault, node, places)


def _follows(fault: Fault, wrong: set[str], forward: Sequence[Any], places: Mapping[str | None, int]) -> bool:
    """Whether a mistake in a forward follows from layers with wrong names, as far as one can tell."""
    if fault.layer is not None:
        return fault.layer in wrong or fault.layer not in places
    if fault.code == "unknown-layer":
        return fault.got is None or fault.got in wrong or not resembles_operation(fault.got)
    line = forward[fault.line] if fault.line is not None else None
    return fault.code in ("syntax", "not-in-language") and isinstance(line, str) and any(name in line for name in wrong)


def _fault_entry(fault: Fault, node: _RawNode, places: Mapping[str | None, int]) -> Entry:
    path, at = node.path, f"{node.pointer}/forward"
    if fault.layer is not None:
        at = f"{node.pointer}/layers/{places[fault.layer]}"
        path = f"{path}.{fault.layer}" if path else fault.layer
    elif fault.line is not None:
        at = f"{at}/{fault.line}"
    return Entry(
        at,
        fault.code,
        fault.detail,
        layer=path or None,
        hint=fault.hint,
        expected=fault.expected,
        got=None if fault.got is None else shorten(fault.got),
    )


def _input_mistakes(raw: Mapping[str, Any], prefix: str) -> Iterator[Entry]:
    """Inputs of one name, and a root that takes other inputs than there are."""
    inputs, root = raw.get("inputs"), raw.get("root")
    if not isinstance(inputs, (list, tuple)):
        return
    if len(inputs) > MAX_INPUTS:
        return  # told by pydantic
    names = [spec.get("name") if isinstance(spec, Mapping) else None for spec in inputs]
    symbols = {
        size
        for spec in inputs
        if isinstance(spec, Mapping) and isinstance(spec.get("shape"), (list, tuple))
        for size in spec["shape"]
        if isinstance(size, str)
    }
    if len(symbols) > MAX_SYMBOLS + 1:
        detail = f"At most {MAX_SYMBOLS} sizes vary besides the batch."
        yield Entry(prefix + "/inputs", "out-of-range", detail, got=str(len(symbols) - 1))
    for place, name in enumerate(names):
        if isinstance(name, str) and name in names[:place]:
            detail = "Another input has this name."
            yield Entry(f"{prefix}/inputs/{place}/name", "duplicate-name", detail, got=shorten(name))
    if not isinstance(root, Mapping) or not names or not all(isinstance(name, str) for name in names):
        return
    taken = root.get("inputs", ["x"]) if root.get("type") == "Graph" else ["x"]
    if (
        not isinstance(taken, (list, tuple))
        or len(taken) > MAX_INPUTS
        or not all(isinstance(name, str) for name in taken)
    ):
        return
    if taken and len(taken) != len(names):
        yield Entry(
            prefix + "/root" + ("/inputs" if root.get("type") == "Graph" else ""),
            "wrong-inputs",
            f"The root takes {len(taken)} of the {len(names)} inputs."
            if len(taken) < len(names)
            else f"The root takes {len(taken)} inputs, but the architecture has {len(names)}.",
            hint=f'Write "inputs": {names} in a Graph at the root.'.replace("'", '"')[:256],
            expected=str(len(names)),
            got=str(len(taken)),
        )
    elif list(taken) != names and set(taken) == set(names):
        yield Entry(
            prefix + "/root/inputs",
            "wrong-inputs",
            "The root takes the same inputs in another order; they are passed by their place.",
            hint="Use one order in both.",
        )


def _in_order(found: list[Entry], paths: Mapping[str, str]) -> list[Entry]:
    """The entries in the order of the document, each with the path of its layer."""
    return [
        entry if entry.layer is not None else _with_layer(entry, _path_of(entry.pointer, paths))
        for entry in sorted(dict.fromkeys(found), key=_place)
    ]


def _place(entry: Entry) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in entry.pointer.split("/")]


_MEMBERS: Final = ("schema", "params", "blocks", "inputs", "root", "tie", "init", "labels")


def _authored_hint(entry: Entry, raw: Mapping[str, Any], prefix: str) -> Entry:
    """A mistake of the plain form with what the authored form has besides: more members, and blocks."""
    blocks = raw.get("blocks")
    if entry.code == "unknown-type" and isinstance(blocks, Mapping):
        for name in blocks:
            if isinstance(name, str) and entry.got == shorten(name):
                return replace(entry, hint=f'It is a block: write {{"type": "Use", "block": "{name[:64]}"}}.')
    top, _, name = entry.pointer.rpartition("/")
    if entry.code == "unknown-member" and top == prefix and not (entry.hint or "").startswith("Write it in"):
        hint = nearest_hint(name, _MEMBERS)
        expected = None if hint else f"one of {', '.join(_MEMBERS)}"
        return replace(entry, hint=hint or "Remove it, or correct its name.", expected=expected)
    return entry


def _where_written(expansion: Expansion, found: list[Entry]) -> list[Entry]:
    """The entries with the mistakes of the authored form, all where the author wrote what is wrong."""
    return sorted(merged([*expansion.errors, *expansion.told(found)]), key=_place)


def _path_of(at: str, paths: Mapping[str, str]) -> str | None:
    while at:
        if at in paths:
            return paths[at] or None
        at = at.rpartition("/")[0]
    return None


def _with_layer(entry: Entry, path: str | None) -> Entry:
    if path is None:
        return entry
    return Entry(entry.pointer, entry.code, entry.detail, path, entry.hint, entry.expected, entry.got)
