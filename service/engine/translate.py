"""From the tree of a foreign module, read as data, to a document: layers by their attributes, classes by their text.

Knows what `legacy` reads and what documents say; opens no file, knows no torch, and runs nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from service.engine.inspection import Inspection, Module, TensorInfo
from service.engine.sources import Instance, Translation, classes, is_python, translate
from service.schemas.layers import LAYER_KINDS
from service.schemas.leaf import RESERVED_NAMES

WEIGHT_NORM: Final = "torch.nn.utils.weight_norm.WeightNorm"
"""The one hook that is read: its two tensors are multiplied into the weight that they stand for."""

_TORCH: Final = ("torch.nn.", "torch.ao.nn.", "torch.nn.quantizable.")
_CONTAINERS: Final = frozenset({"Sequential", "ModuleList", "ModuleDict"})


@dataclass(frozen=True, slots=True)
class Need:
    """What is missing to build the net, and how to give it."""

    what: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        """As reports show it."""
        return {"what": self.what, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Tree:
    """What a module tree says.

    Args:
        root: the layer document, or None where something is missing.
        outcome: "exact" when only classes of torch.nn were met, "translated" when a forward was read from text,
            "tree_only" when one is missing.
        inputs: what the root's forward calls its inputs.
        classes: the classes met, each once.
        layers: every leaf as `{path, type, arguments}`.
        notes: what was read otherwise than it stands there.
        prefix: what stands before every key of the file in the document's keys.
        unused: paths of layers that the forward never calls, which the document leaves out.
    """

    root: dict[str, Any] | None
    outcome: str
    inputs: tuple[str, ...]
    classes: tuple[str, ...]
    layers: tuple[dict[str, Any], ...]
    needs: tuple[Need, ...] = ()
    notes: tuple[str, ...] = ()
    prefix: str = ""
    unused: tuple[str, ...] = ()


Forwards: TypeAlias = Mapping[str, Sequence[str]]
"""Forwards as a client writes them, by a module's path ("" is the root) or its class's name: lines of the forward
language, or Python text of the method, of its class, or of several classes."""


def tree_of(inspection: Inspection, *, forward: Forwards | None = None) -> Tree:
    """The document of the module tree that a file holds.

    Args:
        inspection: of a file that holds a module.
        forward: what the client knows of the forwards.
    """
    assert inspection.module is not None
    reader = _Reader(inspection, forward or {})
    document = reader.layer(inspection.module, "")
    prefix = ""
    if not reader.needs:
        document, prefix = reader.wrapped(document)
    outcome = "tree_only" if reader.needs else "translated" if reader.translated else "exact"
    return Tree(
        root=None if reader.needs else document,
        outcome=outcome,
        inputs=reader.inputs or ("x",),
        classes=tuple(dict.fromkeys(reader.classes)),
        layers=tuple(reader.layers),
        needs=tuple(reader.needs),
        notes=tuple(dict.fromkeys(reader.notes)),
        prefix=prefix,
        unused=tuple(reader.unused),
    )


def short_name(name: str) -> str:
    """A class's name without its module."""
    return name.rpartition(".")[2]


def is_torchs(name: str) -> bool:
    """Whether a class is one of torch.nn's own."""
    return name.startswith(_TORCH)


@dataclass
class _Reader:
    inspection: Inspection
    forward: Forwards
    classes: list[str] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs: tuple[str, ...] = ()
    unused: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    translated: bool = False

    def __post_init__(self) -> None:
        root = self.inspection.module
        self.modules: dict[str, Module] = {} if root is None else {each.path: each for each in root.walk()}
        self.sent = {name: text for lines in self.forward.values() for name, text in classes("\n".join(lines)).items()}
        self.rows: dict[str, TensorInfo] = {tensor.name: tensor for tensor in self.inspection.tensors}

    def layer(self, module: Module, path: str) -> dict[str, Any]:
        if module.same_as is not None:
            module = self.modules[module.same_as]
        self.classes.append(module.kind)
        for hook in module.hooks:
            if hook != WEIGHT_NORM:
                detail = f"`{path}`: {hook} is hung on it, which changes what it computes and is not run."
                self.needs.append(Need("architecture", detail))
        kind = short_name(module.kind)
        if is_torchs(module.kind) and kind in _CONTAINERS:
            return {"type": "Sequential", "layers": [self._child(child, path) for child in module.children]}
        if is_torchs(module.kind):
            return self._leaf(module, kind, path)
        return self._graph(module, path)

    def wrapped(self, document: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """A lone layer that gives several values, or takes the time before the batch, inside a graph that does not."""
        kind = document["type"]
        several, first = kind in SEVERAL, bool(_member(document, "batch_first"))
        if not several and (first or kind not in _TIME_FIRST):
            return document, ""
        inputs = (
            ("query", "key", "value")
            if kind == "MultiheadAttention"
            else ("src", "tgt")
            if kind == "Transformer"
            else ("x",)
        )
        given = ", ".join(inputs if first else [f"transpose({name}, 0, 1)" for name in inputs])
        out = "out" if first else "transpose(out, 0, 1)"
        self.inputs = inputs
        self.notes.append(
            f"The file is one {kind} alone. The net calls it `layer` and gives its outputs"
            + ("" if first else "; the batch comes before the time, as everywhere here")
            + "."
        )
        graph: dict[str, Any] = {
            "type": "Graph",
            "layers": [{"name": "layer", **document}],
            "forward": [f"{'out, rest' if several else 'out'} = layer({given})", f"return {out}"],
        }
        if inputs != ("x",):
            graph["inputs"] = list(inputs)
        return graph, "layer."

    def _child(self, child: Module, path: str) -> dict[str, Any]:
        name = child.path.rpartition(".")[2]
        inner = f"{path}.{name}" if path else name
        if name in RESERVED_NAMES:
            self.needs.append(Need("architecture", f"`{inner}`: a document has no layer called {name!r}."))
        return {"name": name, **self.layer(child, inner)}

    def _leaf(self, module: Module, kind: str, path: str) -> dict[str, Any]:
        name = _RENAMED.get(kind, kind)
        if name != kind:
            self.notes.append(f"`{path}`: {kind} is read as {name}, which computes the same while predicting.")
        if name not in LAYER_KINDS:
            self.needs.append(Need("architecture", f"`{path or kind}`: documents have no {kind}."))
            return {"type": name}
        document = {"type": name, **_members(module, name)}
        try:
            read = LAYER_KINDS[name].model_validate(document)
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
            self.needs.append(Need("architecture", f"`{path or kind}`: {kind} cannot be said in a document: {told}"))
            return {"type": name}
        for attribute, usual in _UNSAID.get(name, {}).items():
            value = module.attributes.get(attribute, usual)
            if value != usual:
                self.needs.append(
                    Need("architecture", f"`{path or kind}`: {kind} with {attribute} = {value!r} is no document.")
                )
        arguments = read.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"type", "name"})
        self.layers.append({"path": path, "type": name, "arguments": arguments})
        return {"type": name, **arguments}

    def _graph(self, module: Module, path: str) -> dict[str, Any]:
        layers: list[dict[str, Any]] = []
        for name, key in module.parameters.items():
            if key is not None:
                layers.append({"name": name, "type": "Parameter", "shape": list(self.rows[key].shape)})
        for name, key in module.buffers.items():
            if key is not None:
                dtype = self.rows[key].dtype
                said = {} if dtype in ("float32", "float16", "bfloat16") else {"dtype": dtype}
                layers.append({"name": name, "type": "Buffer", "shape": list(self.rows[key].shape), **said})
        layers += [self._child(child, path) for child in module.children]
        found = self._forward(module, path, [layer["name"] for layer in layers])
        if found is None:
            return {"type": "Graph", "layers": layers, "forward": []}
        inputs, lines = found
        if not path:
            self.inputs = inputs
        called = _called(lines)
        unused = [layer["name"] for layer in layers if layer["name"] not in called]
        for name in unused:
            inner = f"{path}.{name}" if path else name
            self.unused.append(inner)
            self.notes.append(f"`{inner}` is never used by the forward and is left out.")
        kept = [layer for layer in layers if layer["name"] in called]
        class_name = short_name(module.kind)
        graph: dict[str, Any] = {"type": "Graph", "layers": kept, "forward": list(lines)}
        if inputs != ("x",):
            graph["inputs"] = list(inputs)
        if class_name.isidentifier() and not class_name.startswith("__"):
            graph["class_name"] = class_name[:64]
        return graph

    def _forward(
        self, module: Module, path: str, names: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """The forward of a class: as the client gave it, else read from its text."""
        children = {
            child.path.rpartition(".")[2]: short_name(self.modules.get(child.same_as or "", child).kind)
            for child in module.children
        }
        tensors = {**module.parameters, **module.buffers}
        constants: dict[str, Any] = {
            name: value
            for name, value in module.attributes.items()
            if value is None or isinstance(value, (bool, int, float, str))
        }
        constants |= {name: None for name, key in tensors.items() if key is None}
        instance = Instance(children, frozenset(tensors) - set(constants), constants)
        where = f"`{path}` ({module.kind})" if path else module.kind
        text = self._text(module, path)
        if isinstance(text, tuple):
            self.translated = True
            return _inputs_of(text, names), text
        if text is None:
            if module.kind not in self.asked:
                self.asked.add(module.kind)
                key = f'{{"{short_name(module.kind)}": […]}}' if path else "lines"
                detail = (
                    f"{where}: the file does not say how it calls its layers: {', '.join(names[:20])}. Send `forward` "
                    f"as {key}, as the Python text of its class, or send a whole `architecture`."
                )
                self.needs.append(Need("forward", detail))
            return None
        translation = _translated(text, instance)
        if translation.problems:
            told = " ".join(translation.problems)
            detail = f"{where}: its forward cannot be said in the forward language. {told}"
            self.needs.append(Need("forward", f"{detail} Send `forward` as lines of the forward language."))
            return None
        self.translated = True
        return translation.inputs, translation.lines

    def _text(self, module: Module, path: str) -> str | tuple[str, ...] | None:
        """What is known of a module's forward: lines of the forward language, or Python text."""
        name = short_name(module.kind)
        for key in (path, module.kind, name):
            lines = self.forward.get(key)
            if lines is None:
                continue
            text = "\n".join(lines)
            if name in classes(text):
                return classes(text)[name]
            if not any(line.lstrip().startswith("class ") for line in lines):
                return text if is_python(text) else tuple(lines)
        return self.sent.get(name) or self.inspection.sources.get(module.kind)


SEVERAL: Final = frozenset({"RNN", "LSTM", "GRU", "MultiheadAttention"})
_TIME_FIRST: Final = frozenset({"TransformerEncoderLayer", "TransformerEncoder", "Transformer"})


def _member(document: Mapping[str, Any], name: str) -> Any:
    inner = document.get("encoder_layer", document)
    return inner.get(name)


def _translated(text: str, instance: Instance) -> Translation:
    if "def forward" in text or "class " in text:
        return translate(text, instance)
    return translate(text, instance, bare=True)


def _inputs_of(lines: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """`x`, unless the lines read other names that nothing makes."""
    made: set[str] = set()
    inputs: list[str] = []
    for line in lines:
        try:
            statement = ast.parse(line.strip()).body[0]
        except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
            continue
        called = {id(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)}
        for node in ast.walk(statement):
            read = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in called
            if read and node.id not in {*made, *inputs, *names}:  # type: ignore[attr-defined]
                inputs.append(node.id)  # type: ignore[attr-defined]
        made |= {
            node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
    return tuple(inputs) or ("x",)


def _called(lines: Sequence[str]) -> set[str]:
    """Every name that the lines speak."""
    return {name for line in lines for name in re.findall(r"[A-Za-z0-9_]+", line)}


# Members of layers.


def _members(module: Module, kind: str) -> dict[str, Any]:
    """The members of a layer's document by the attributes and tensors of the instance."""
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(module)
    found: dict[str, Any] = {}
    for name in LAYER_KINDS[kind].model_fields:
        if name in ("type", "name"):
            continue
        if name == "bias" and kind not in _BIAS_IS_AN_ATTRIBUTE:
            if "bias" in module.parameters:
                found[name] = module.parameters["bias"] is not None
        elif name in module.attributes:
            found[name] = module.attributes[name]
    return found


_BIAS_IS_AN_ATTRIBUTE: Final = frozenset({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})

_RENAMED: Final = {
    "NonDynamicallyQuantizableLinear": "Linear",
    "SyncBatchNorm": "BatchNorm2d",
}

_UNSAID: Final[Mapping[str, Mapping[str, Any]]] = {
    "Embedding": {"max_norm": None, "scale_grad_by_freq": False, "sparse": False},
}
"""Attributes that change what a layer computes and that documents do not have, with the value that changes nothing."""


def _attention(module: Module) -> dict[str, Any]:
    attributes = module.attributes
    found = {
        name: attributes[name]
        for name in ("embed_dim", "num_heads", "dropout", "add_zero_attn", "batch_first")
        if name in attributes
    }
    found["bias"] = module.parameters.get("in_proj_bias") is not None
    found["add_bias_kv"] = module.parameters.get("bias_k") is not None
    for name in ("kdim", "vdim"):
        if attributes.get(name) not in (None, attributes.get("embed_dim")):
            found[name] = attributes[name]
    return found


def _child(module: Module, name: str) -> Module:
    for child in module.children:
        if child.path.rpartition(".")[2] == name:
            return child
    return Module(path="", kind="")


def _activation(module: Module) -> str:
    """`relu` or `gelu`, whether it is a function, a layer or a name."""
    given: Any = module.attributes.get("activation")
    text = str(given if given is not None else _child(module, "activation").kind).lower()
    return "gelu" if "gelu" in text else "relu"


def _transformer_layer(module: Module) -> dict[str, Any]:
    attention = _child(module, "self_attn")
    return {
        "d_model": attention.attributes.get("embed_dim"),
        "nhead": attention.attributes.get("num_heads"),
        "dim_feedforward": _child(module, "linear1").attributes.get("out_features"),
        "dropout": _child(module, "dropout").attributes.get("p", 0.1),
        "activation": _activation(module),
        "layer_norm_eps": _child(module, "norm1").attributes.get("eps", 1e-5),
        "batch_first": bool(attention.attributes.get("batch_first", False)),
        "norm_first": bool(module.attributes.get("norm_first", False)),
        "bias": _child(module, "linear1").parameters.get("bias") is not None,
    }


def _transformer_stack(module: Module) -> dict[str, Any]:
    layers = list(_child(module, "layers").children)
    kind = "TransformerEncoderLayer" if "Encoder" in module.kind else "TransformerDecoderLayer"
    found: dict[str, Any] = {"num_layers": len(layers)}
    if layers:
        name = "encoder_layer" if "Encoder" in kind else "decoder_layer"
        found[name] = {"type": kind, **_transformer_layer(layers[0])}
    norm = _child(module, "norm")
    if norm.kind:
        found["norm"] = {"type": short_name(norm.kind), **_members(norm, short_name(norm.kind))}
    return found


def _transformer(module: Module) -> dict[str, Any]:
    encoder, decoder = _child(module, "encoder"), _child(module, "decoder")
    stacks = [_transformer_stack(part) for part in (encoder, decoder)]
    layer = dict(stacks[0].get("encoder_layer", {}))
    layer.pop("type", None)
    return {**layer, "num_encoder_layers": stacks[0]["num_layers"], "num_decoder_layers": stacks[1]["num_layers"]}


_SPECIAL: Final[Mapping[str, Any]] = {
    "MultiheadAttention": _attention,
    "TransformerEncoderLayer": _transformer_layer,
    "TransformerDecoderLayer": _transformer_layer,
    "TransformerEncoder": _transformer_stack,
    "TransformerDecoder": _transformer_stack,
    "Transformer": _transformer,
}


# Inputs.


def first_inputs(root: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]] | None:
    """What the net seems to take, by the first layer that each input meets; None when that does not show."""
    found = []
    for name in names:
        spec = _met(root, name)
        if spec is None:
            return None
        found.append({"name": name, **spec})
    return found


def _met(layer: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    kind = layer.get("type")
    if kind == "Sequential":
        for child in layer.get("layers", ()):
            spec = _met(child, "x")
            if spec is not None:
                return spec
        return None
    if kind == "Graph":
        inputs = list(layer.get("inputs", ["x"]))
        if name not in inputs:
            name = inputs[0]
        children = {child.get("name"): child for child in layer.get("layers", ())}
        for called, given in _calls(layer.get("forward", ())):
            if given == name and called in children:
                spec = _met(children[called], name)
                if spec is not None:
                    return spec
            if given == name and called in ("lengths", "masked_mean"):
                return None
        return None
    return _spec(layer)


def _calls(forward: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Calls in lines as (called, first argument that is a name), the innermost first."""
    for line in forward:
        if not isinstance(line, str):
            continue
        try:
            tree = ast.parse(line.strip())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for arg in node.args:
                    inner = arg
                    while isinstance(inner, ast.Call) and inner.args and isinstance(inner.func, ast.Name):
                        if inner.func.id not in ("relu", "dropout", "tanh", "sigmoid", "gelu", "transpose"):
                            break
                        inner = inner.args[0]
                    if isinstance(inner, ast.Name):
                        yield node.func.id, inner.id


def _spec(layer: Mapping[str, Any]) -> dict[str, Any] | None:
    match layer.get("type"):
        case "Linear":
            return {"shape": ["B", layer["in_features"]]}
        case "Conv1d":
            return {"shape": ["B", layer["in_channels"], "L"]}
        case "Conv2d" | "ConvTranspose2d":
            return {"shape": ["B", layer["in_channels"], "H", "W"]}
        case "Conv3d":
            return {"shape": ["B", layer["in_channels"], "D", "H", "W"]}
        case "BatchNorm1d":
            return {"shape": ["B", layer["num_features"]]}
        case "BatchNorm2d" | "InstanceNorm2d":
            return {"shape": ["B", layer["num_features"], "H", "W"]}
        case "Embedding":
            return {"shape": ["B", "T"], "dtype": "int64"}
        case "RNN" | "LSTM" | "GRU":
            size = layer["input_size"]
            return {"shape": ["B", "T", size]}
        case "TransformerEncoderLayer":
            return {"shape": ["B", "T", layer["d_model"]]}
        case "TransformerEncoder":
            return {"shape": ["B", "T", layer["encoder_layer"]["d_model"]]}
        case "LayerNorm":
            shape = layer["normalized_shape"]
            return {"shape": ["B", *(shape if isinstance(shape, list) else [shape])]}
        case _:
            return None
