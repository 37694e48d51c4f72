"""A net as the Python that the tutorials would write: for reading, and for taking a net elsewhere.

The text is made of names that documents allow, numbers and words of our own; no label or other free text of the author
is in it. Nothing here runs it: that its keys and outputs are those of the built net is for the tests to show. Knows
documents and no torch.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, assert_never

from service.schemas import steps
from service.schemas.architecture import Architecture
from service.schemas.initial import (
    Constant,
    Filled,
    Initializer,
    Kaiming,
    Normal,
    Orthogonal,
    Tie,
    TruncatedNormal,
    Uniform,
    Xavier,
)
from service.schemas.layers import Buffer, Graph, Layer, LogSoftmax, Parameter, Sequential, Softmax, Softmin, Unflatten
from service.schemas.leaf import Leaf
from service.schemas.operation import tidy
from service.schemas.statements import (
    ATOM,
    COMPARED,
    SUM,
    Text,
    arguments,
    called,
    constant,
    grouped,
    indexed,
    operator,
    statements,
)
from service.schemas.steps import Step

_WIDTH: Final = 88
"""What black and `ruff format` take unless told otherwise."""


def python_source(architecture: Architecture) -> str:
    """A module whose `net` has the keys, shapes and outputs of the built net.

    The initial weights for a seed are equal too, unless the document has rules for them (`init`), which are not told.

    Args:
        architecture: a judged document, in which no "auto" is left.
    """
    writer = _Writer()
    writer.write(architecture.root)
    root = _plain(writer.layer(architecture.root))
    body = [*writer.classes, "\n".join(_wrapped(f"net = {root}", 0))]
    code = "\n".join(body)
    body = [text for name, text in _HELPERS.items() if re.search(rf"(?<![\w.]){name}\(", code)] + body
    ties = "".join("\n" + line for rule in architecture.tie for line in _wrapped(_tied(rule), 0))
    if architecture.init:
        ties += "\n# The document fills its weights by rules of its own (init) before training."
    loading = '# net.load_state_dict(torch.load("weights.pt", weights_only=True))'
    gap = "\n\n" if len(body) > 1 else "\n"
    return _imports("\n".join(body)) + gap + "\n\n\n".join(body) + ties + "\n" + loading + "\n"


def _imports(code: str) -> str:
    """What the code needs; torch itself is always there, since the last line speaks of it."""
    lines = ["import torch"]
    if re.search(r"\bF\.", code):
        lines.append("import torch.nn.functional as F")
    if re.search(r"\bnn\.", code):
        lines.append("from torch import nn")
    if "pack_padded_sequence(" in code:
        lines.append("from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence")
    first = "from collections import OrderedDict\n\n" if "OrderedDict(" in code else ""
    return first + "\n".join(lines) + "\n"


_HELPERS: Final[Mapping[str, str]] = {
    "causal_mask": """\
def causal_mask(x, dim=1):
    size = x.shape[dim]
    return torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)""",
    "padding_mask": """\
def padding_mask(lengths, like, dim=1):
    return torch.arange(like.shape[dim], device=lengths.device) >= lengths[:, None]""",
    "expand_batch": """\
def expand_batch(constant, like):
    return constant.expand(like.shape[0], *constant.shape[1:])""",
    "masked_mean": """\
def masked_mean(x, lengths):
    lengths = lengths.clamp(1, x.shape[1])
    mask = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    mask = mask.reshape(*mask.shape, *[1] * (x.dim() - 2))
    return x.masked_fill(mask, 0).sum(1) / lengths.reshape(-1, *[1] * (x.dim() - 2))""",
    "masked_max": """\
def masked_max(x, lengths):
    lengths = lengths.clamp(1, x.shape[1])
    mask = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    mask = mask.reshape(*mask.shape, *[1] * (x.dim() - 2))
    return x.masked_fill(mask, float("-inf")).amax(1)""",
    "last_valid": """\
def last_valid(x, lengths):
    rows = torch.arange(x.shape[0], device=x.device)
    return x[rows, lengths.clamp(1, x.shape[1]) - 1]""",
    "run_packed": """\
def run_packed(layer, x, lengths, hx=None):
    longest = x.shape[1 if layer.batch_first else 0]
    lengths = lengths.detach().to("cpu", torch.int64).clamp(1, longest)
    x = pack_padded_sequence(x, lengths, layer.batch_first, enforce_sorted=False)
    out, state = layer(x, hx)
    out, _ = pad_packed_sequence(out, layer.batch_first, total_length=longest)
    return out, state""",
    **{
        f"FractionalMaxPool{n}d": f"""\
class FractionalMaxPool{n}d(nn.FractionalMaxPool{n}d):
    def forward(self, input):
        if not self.training:  # the same windows for every call
            shape = input.shape[:-{n}] if input.dim() == {n + 2} else (1, input.shape[0])
            self._random_samples = input.new_full((*shape, {n}), 0.5)
        out = super().forward(input)
        self._random_samples = None
        return out"""
        for n in (2, 3)
    },
}
"""What torch has no word for, as functions and classes of the module's own."""


def _tied(rule: Tie) -> str:
    """The line that makes two keys one tensor."""
    owner, _, name = rule.to.rpartition(".")
    source, _, source_name = rule.from_.rpartition(".")
    shared = _attribute(_submodule(source), source_name)
    if _is_word(name):
        return f"{_submodule(owner)}.{name} = {shared}"
    return f'setattr({_submodule(owner)}, "{name}", {shared})'


def _submodule(path: str) -> str:
    if not path:
        return "net"
    return f"net.{path}" if all(map(_is_word, path.split("."))) else f'net.get_submodule("{path}")'


# Names.

_TAKEN: Final = frozenset(
    {"torch", "nn", "F", "OrderedDict", "net", "super", "getattr", "setattr", "self", "float"}
    | {"pack_padded_sequence", "pad_packed_sequence"}
    | set(_HELPERS)
)


def _is_word(name: str) -> bool:
    """Whether an attribute of this name can be written after a dot; two leading underscores would be mangled."""
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")


def _attribute(of: str, name: str) -> str:
    return f"{of}.{name}" if _is_word(name) else f'getattr({of}, "{name}")'


def _class_name(graph: Graph, otherwise: str) -> str:
    name = graph.class_name or otherwise
    return name + "_" if keyword.iskeyword(name) or name in _TAKEN else name


def _camel(name: str) -> str:
    """`layer_1` as a class: `Layer1`; a name that says nothing, as "0", is a Block."""
    words = [word[:1].upper() + word[1:] for word in name.split("_") if word]
    text = "".join(words)
    return text if text.isidentifier() and re.search("[A-Za-z]", text) else "Block"


# Layers.


@dataclass
class _Writer:
    """Collects the classes that a net needs, those of inner graphs first.

    Graphs that read the same are one class; where they differ in numbers alone, these are what the class is made with.
    Until that is known, numbers stand in the text as marks with the names of their members.
    """

    classes: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    calls: dict[int, str] = field(default_factory=dict)

    def write(self, root: Layer) -> None:
        """Write the classes of all graphs in a net."""
        levels: dict[int, list[tuple[Graph, str]]] = {}
        _height(root, "Net", levels)
        for _, graphs in sorted(levels.items()):
            alike: dict[tuple[str, ...], list[tuple[Graph, str, list[str]]]] = {}
            for graph, otherwise in graphs:
                marked = self._registrations(graph)
                shape = [_MARK.sub(lambda mark: f"{mark[1]}?", line) for line in marked]
                key = (graph.class_name or "", *shape, "", *_forward(graph))
                alike.setdefault(key, []).append((graph, otherwise, marked))
            for several in alike.values():
                self._define(several)

    def layer(self, layer: Layer) -> str:
        """The expression that makes a layer, with marks."""
        match layer:
            case Graph():
                return self.calls[id(layer)]
            case Sequential():
                return self._sequential(layer)
            case _:
                return _made(layer)

    def _sequential(self, layer: Sequential) -> str:
        children = [(name, self.layer(child)) for name, child in zip(layer.names, layer.layers, strict=True)]
        if not children:
            return "nn.Sequential()"
        if layer.names == tuple(str(place) for place in range(len(children))):
            return f"nn.Sequential({', '.join(text for _, text in children)}{_SPREAD})"
        pairs = ", ".join(f'("{name}", {text})' for name, text in children)
        return f"nn.Sequential(OrderedDict([{pairs}{_SPREAD}]))"

    def _define(self, alike: list[tuple[Graph, str, list[str]]]) -> None:
        """Write the class of graphs that differ in numbers alone, and how each of them is made."""
        graph, otherwise, marked = alike[0]
        rows = [[(mark[1], mark[2]) for line in lines for mark in _MARK.finditer(line)] for _, _, lines in alike]
        columns = [tuple(value for _, value in column) for column in zip(*rows, strict=True)]
        members: dict[tuple[str, ...], list[str]] = {}
        for column, (member, _) in zip(columns, rows[0], strict=True):
            if len(set(column)) > 1:
                members.setdefault(column, []).append(member)
        name = self._named(graph, otherwise)
        parameters = self._parameters(members)
        pieces = iter(columns)
        lines = [_MARK.sub(lambda mark: parameters.get(next(pieces), mark[2]), line) for line in marked]
        body = "\n\n".join(
            "\n".join(["    " + line if line else "" for line in part])
            for part in (_init(lines, list(parameters.values())), _forward(graph))
            if part
        )
        self.classes.append(f"class {name}(nn.Module):\n{body}")
        for place, (other, _, _) in enumerate(alike):
            given = ", ".join(_marked(word, column[place]) for column, word in parameters.items())
            self.calls[id(other)] = f"{name}({given})"

    def _named(self, graph: Graph, otherwise: str) -> str:
        wanted = name = _class_name(graph, otherwise)
        number = 1
        while name in self.names:
            number += 1
            name = f"{wanted}{number}"
        self.names.add(name)
        return name

    def _parameters(self, members: Mapping[tuple[str, ...], Sequence[str]]) -> dict[tuple[str, ...], str]:
        """A name for each number that varies, made of the members that it is."""
        found: dict[tuple[str, ...], str] = {}
        for column, fields in members.items():
            name = fields[0]
            for what in ("channels", "features"):
                if {f"in_{what}", f"out_{what}"} <= set(fields):
                    name = what
            wanted, number = name, 1
            while name in found.values() or name in self.names or name in _TAKEN:
                number += 1
                name = f"{wanted}{number}"
            found[column] = name
        return found

    def _registrations(self, graph: Graph) -> list[str]:
        return [self._registered(name, child) for name, child in zip(graph.names, graph.layers, strict=True)]

    def _registered(self, name: str, child: Layer) -> str:
        match child:
            case Parameter():
                made = f"nn.Parameter({_tensor(child)})"
                return f"self.{name} = {made}" if _is_word(name) else f'self.register_parameter("{name}", {made})'
            case Buffer():
                kept = "" if child.persistent else ", persistent=False"
                return f'self.register_buffer("{name}", {_tensor(child)}{kept})'
            case _:
                made = self.layer(child)
                return f"self.{name} = {made}" if _is_word(name) else f'self.add_module("{name}", {made})'


def _height(layer: Layer, otherwise: str, levels: dict[int, list[tuple[Graph, str]]]) -> int:
    """Sort the graphs in a layer by how many are nested in them; gives that of the layer."""
    if not isinstance(layer, (Sequential, Graph)):
        return 0
    children = zip(layer.names, layer.layers, strict=True)
    height = max((_height(child, _camel(name), levels) for name, child in children), default=0)
    if isinstance(layer, Graph):
        levels.setdefault(height, []).append((layer, otherwise))
        return height + 1
    return height


def _init(lines: Sequence[str], parameters: Sequence[str]) -> list[str]:
    if not lines:
        return []
    head = _wrapped(f"def __init__({', '.join(['self', *parameters])}):", 4)
    rest = [line for statement in lines for line in _wrapped(statement, 8)]
    return [*head, "    super().__init__()", *("    " + line for line in rest)]


_MARK: Final = re.compile("\x02([^\x03]*)\x03([^\x04]*)\x04")


def _marked(member: str, value: str) -> str:
    return f"\x02{member}\x03{value}\x04"


def _plain(text: str) -> str:
    """The text with its numbers."""
    return _MARK.sub(lambda mark: mark[2], text)


_POSITIONAL: Final = frozenset({"p", "negative_slope", "alpha"})
"""First arguments that have a default and are written without their name, as in `nn.Dropout(0.3)`."""


def _made(layer: Leaf) -> str:
    """The expression that makes a layer."""
    module = "" if layer.type in _HELPERS else "nn."
    return module + _constructor(layer, module="nn.")


def constructor(layer: Leaf) -> str:
    """How people write a layer: `Conv2d(3, 64, 3, padding=1)`."""
    return _plain(_constructor(layer, module=""))


def _constructor(layer: Leaf, *, module: str) -> str:
    """The same with marks; `module` stands before the layers inside it, as in a TransformerEncoder."""
    written = layer.model_dump(exclude={"type", "name"}, exclude_defaults=True, by_alias=True)
    if isinstance(layer, (Softmin, Softmax, LogSoftmax)) and layer.dim is None:
        written["dim"] = 1  # what torch would take, which it does with a warning
    if isinstance(layer, Unflatten):
        written["unflattened_size"] = layer.unflattened_size  # torch takes no single number
    if layer.type in ("RNN", "LSTM", "GRU") and written.get("num_layers", 1) == 1:
        written.pop("dropout", None)  # there is nothing to drop out between, of which torch would warn
    given: list[str] = []
    leading = True
    for member_name, info in type(layer).model_fields.items():
        name = info.alias or member_name
        if member_name in ("type", "name", "inplace"):  # nothing is computed in place
            continue
        if name not in written:
            leading = False
            continue
        leading = leading and (info.is_required() or (name in _POSITIONAL and not given))
        member = getattr(layer, member_name)
        if isinstance(member, Leaf):
            value = module + _constructor(member, module=module)
        elif type(written[name]) in (int, float):
            value = _marked(name, constant(written[name]))
        else:
            value = constant(written[name])
        given.append(value if leading else f"{name}={value}")
    if module and layer.type == "TransformerEncoder":
        given.append(_UNNESTED)
    if module and layer.type == "Transformer":
        given.append(f"custom_encoder={_encoder(layer)}")
    return f"{layer.type}({', '.join(given)})"


_UNNESTED: Final = "enable_nested_tensor=False"
"""With nested tensors, what stands in padded places depends on the other rows of the batch."""


def _encoder(layer: Any) -> str:
    """The encoder of a Transformer, without nested tensors."""
    shared = ("dim_feedforward", "dropout", "activation", "layer_norm_eps", "batch_first", "norm_first", "bias")
    written = layer.model_dump(include=set(shared), exclude_defaults=True)
    options = "".join(f", {name}={constant(written[name])}" for name in shared if name in written)
    first = f"nn.TransformerEncoderLayer({layer.d_model}, {layer.nhead}{options})"
    norm = "".join(
        f", {name}={constant(written[member])}"
        for name, member in (("eps", "layer_norm_eps"), ("bias", "bias"))
        if member in written
    )
    return (
        f"nn.TransformerEncoder({first}, {layer.num_encoder_layers}, nn.LayerNorm({layer.d_model}{norm}), {_UNNESTED})"
    )


def _tensor(layer: Parameter | Buffer) -> str:
    """The expression that makes a free tensor, filled as its document says."""
    dtype = layer.tensor_dtype if isinstance(layer, Buffer) else "float32"
    shape = "()" if not layer.shape else ", ".join(map(str, layer.shape))
    kind = "" if dtype == "float32" else f", dtype=torch.{dtype}"
    match layer.init:
        case Filled(type="zeros" | "ones" as function):
            return f"torch.{function}({shape}{kind})"
        case Normal(mean=0, std=1) if dtype == "float32":
            return f"torch.randn({shape})"
        case Constant(value=value):
            return f"torch.full({constant(tuple(layer.shape))}, {value!r}{kind})"
        case _:
            return _filled(f"torch.empty({shape}{kind})", layer.init)


def _filled(tensor: str, init: Initializer) -> str:
    """The call of torch.nn.init that fills a tensor."""
    match init:
        case Constant(value=value):
            return f"nn.init.constant_({tensor}, {value!r})"
        case Filled() | Normal() | TruncatedNormal() | Uniform() | Xavier() | Kaiming() | Orthogonal():
            options = init.model_dump(exclude={"type"}, exclude_defaults=True)
            given = ", ".join([tensor, *(f"{name}={constant(value)}" for name, value in options.items())])
            return f"nn.init.{init.type}_({given})"
        case _:
            assert_never(init)


# Forward.


def _forward(graph: Graph) -> list[str]:
    python = _Python(graph)
    taken = set(python.reserved) | set(graph.inputs)
    names: dict[str, str] = {}
    for name in graph.inputs:
        word = name
        while word in python.reserved or (word != name and word in taken):
            word += "_"
        taken.add(word)
        names[name] = word
    head = _wrapped(f"def forward({', '.join(['self', *names.values()])}):", 4)
    body = statements(graph, python, names)
    return head + ["    " + line for statement in body for line in _wrapped(statement, 8)]


@dataclass(frozen=True, slots=True)
class _Form:
    """How an operation of one value is written.

    Args:
        callee: a function such as `F.relu`, or a method such as `.mean`.
        leading: the constants that are written without their names, whether or not they have their default.
    """

    callee: str
    leading: tuple[str, ...] = ()


_FORMS: Final[Mapping[str, _Form]] = {
    **{op: _Form(f"F.{op}") for op in ("relu", "relu6", "silu", "logsigmoid", "hardswish", "hardsigmoid", "selu")},
    **{op: _Form(f"F.{op}") for op in ("mish", "softsign", "gelu", "softplus", "embedding", "normalize")},
    **{op: _Form(f"torch.{op}") for op in ("sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "erf")},
    **{op: _Form(f"torch.{op}") for op in ("abs", "square", "minimum", "maximum", "where")},
    **{op: _Form(f"torch.{op}") for op in ("logical_not", "logical_and", "logical_or")},
    **{op: _Form(f".{op}") for op in ("mean", "sum", "amax", "amin", "var", "std", "prod", "argmax", "argmin")},
    **{op: _Form(op) for op in ("causal_mask", "padding_mask", "masked_mean", "masked_max", "last_valid")},
    **{f"{kind}_pool{n}d": _Form(f"F.{kind}_pool{n}d", ("kernel_size",)) for kind in ("max", "avg") for n in (1, 2)},
    **{
        f"adaptive_{kind}_pool{n}d": _Form(f"F.adaptive_{kind}_pool{n}d", ("output_size",))
        for kind in ("max", "avg")
        for n in (1, 2)
    },
    "leaky_relu": _Form("F.leaky_relu", ("negative_slope",)),
    "elu": _Form("F.elu", ("alpha",)),
    "flatten": _Form("torch.flatten", ("start_dim",)),
    "transpose": _Form(".transpose", ("dim0", "dim1")),
    "squeeze": _Form(".squeeze", ("dim",)),
    "unsqueeze": _Form(".unsqueeze", ("dim",)),
    "cumsum": _Form(".cumsum"),
    "chunk": _Form(".chunk", ("chunks",)),
    "one_hot": _Form("F.one_hot", ("num_classes",)),
    "pixel_shuffle": _Form("F.pixel_shuffle", ("upscale_factor",)),
    "pixel_unshuffle": _Form("F.pixel_unshuffle", ("downscale_factor",)),
}
"""Operations that need no more than a row here; the others have a case in `_Python.expression`."""

_COMPARISONS: Final[Mapping[str, str]] = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@dataclass(frozen=True)
class _Python:
    """Layers are attributes of `self`; operations have the names that torch has for them."""

    graph: Graph
    reserved = frozenset({"self", "torch", "nn", "F", "getattr", "float", "_", *_HELPERS})

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        """The graph's layers by their names."""
        return dict(zip(self.graph.names, self.graph.layers, strict=True))

    def repeats(self, step: Step) -> bool:
        return isinstance(step, steps.Positions) or (isinstance(step, steps.Reshape) and not _simply_reshaped(step))

    def expression(self, step: Step, operands: Sequence[Text]) -> Text:
        match step:
            case steps.Call():
                return self._call(step, operands)
            case steps.Param():
                return Text(_attribute("self", step.layer))
            case steps.Tuple():
                return grouped(operands)
            case steps.Arithmetic() | steps.MatMul() | steps.Negative():
                return operator(step, operands)
            case steps.Comparison(op=op):
                left, right = (item.within(SUM) for item in operands)
                return Text(f"{left} {_COMPARISONS[op]} {right}", COMPARED, max(item.depth for item in operands))
            case steps.Item() | steps.GetItem():
                return indexed(step, operands)
            case steps.ExpandBatch():
                return self._expanded(step, operands)
            case _:
                return _operation(step, operands)

    def _call(self, step: steps.Call, operands: Sequence[Text]) -> Text:
        layer = self.layers[step.layer]
        callee = _attribute("self", step.layer)
        if layer.type not in ("RNN", "LSTM", "GRU") or (len(step.inputs) < 3 and "lengths" not in step.named):
            return called(callee, [item.text for item in arguments(step, operands)], operands)
        # torch's own class takes no lengths
        given = dict(zip(("input", "hx", "lengths"), (item.text for item in operands), strict=False))
        given = {name: given[name] for name in list(given)[: len(step.inputs)]}
        given |= dict(zip(step.named, (item.text for item in operands[len(step.inputs) :]), strict=True))
        state = [given["hx"]] if "hx" in given else []
        return called("run_packed", [callee, given["input"], given["lengths"], *state], operands)

    def _expanded(self, step: steps.ExpandBatch, operands: Sequence[Text]) -> Text:
        """A free tensor once for each row; how many dimensions it has is known, where it is one of the graph's."""
        name = step.inputs[0]
        source = self.graph.steps[int(name[1:]) - 1] if name.startswith("%") else None
        if isinstance(source, steps.Param):
            layer = self.layers[source.layer]
            if isinstance(layer, (Parameter, Buffer)):
                rest = ["-1"] * (len(layer.shape) - 1)
                return _method(operands[0], "expand", [f"{operands[1].within(ATOM)}.shape[0]", *rest], *operands[1:])
        return called("expand_batch", [item.text for item in operands], operands)


def _simply_reshaped(step: steps.Reshape) -> bool:
    """Whether -1 may stand for the batch."""
    return all(size > 0 for size in step.shape)


def _operation(step: Step, operands: Sequence[Text]) -> Text:
    values = [item.text for item in operands]
    match step:
        case steps.Join(op=op, dim=dim):
            return called(f"torch.{op}", [grouped(operands).text, f"dim={dim}"], operands)
        case steps.Softmax(op=op, dim=dim):
            return called(f"F.{op}", [*values, f"dim={1 if dim is None else dim}"], operands)
        case steps.Dropout():
            return called("F.dropout", [*values, *_constants(step), "training=self.training"], operands)
        case steps.Reshape(shape=shape):
            first = "-1" if _simply_reshaped(step) else f"{values[0]}.shape[0]"
            return _method(operands[0], "reshape", [first, *map(str, shape)])
        case steps.Unflatten(dim=dim, sizes=sizes):
            return _method(operands[0], "unflatten", [str(dim), constant(sizes)])
        case steps.Permute(dims=dims):
            return _method(operands[0], "permute", list(map(str, dims)))
        case steps.Flip(dims=dims):
            return _method(operands[0], "flip", list(map(str, dims)))
        case steps.Roll(shifts=shifts, dims=dims):
            return _method(operands[0], "roll", [constant(shifts), constant(dims)])
        case steps.Split(split_size_or_sections=sections, dim=dim):
            return _method(operands[0], "split", [constant(sections), f"dim={dim}"])
        case steps.Positions(dim=dim):
            place = operands[0].within(ATOM)
            return called("torch.arange", [f"{place}.shape[{dim}]", f"device={place}.device"], operands)
        case steps.Power(exponent=exponent):
            return called("torch.pow", [*values, constant(tidy(exponent))], operands)
        case steps.Clamp():
            bounds = [f"{name}={tidy(item)!r}" for name in ("min", "max") if (item := getattr(step, name)) is not None]
            return _method(operands[0], "clamp", bounds)
        case steps.Cast(dtype=dtype):
            return _method(operands[0], "to", [f"torch.{dtype}"])
        case steps.MaskedFill(value=value):
            fill = 'float("-inf")' if value == "-inf" else constant(tidy(value))
            return _method(operands[0], "masked_fill", [values[1], fill], *operands[1:])
        case steps.Norm():
            order = [f"ord={constant(step.p)}"] if step.p != 2 else []
            rest = [item for item in _constants(step) if not item.startswith("p=")]
            return called("torch.linalg.vector_norm", [*values, *order, *rest], operands)
        case steps.LayerNorm(normalized_shape=shape):
            rest = [item for item in _constants(step) if item.startswith("eps=")]
            return called("F.layer_norm", [*values, constant(tuple(shape)), *rest], operands)
        case steps.Pad(pad=pad, mode=mode):
            options = [f"mode={constant(mode)}"] if mode != "constant" else []
            options += [f"value={tidy(step.value)!r}"] if mode == "constant" and step.value else []
            return called("F.pad", [*values, constant(tuple(pad)), *options], operands)
        case steps.Interpolate():
            options = []
            for name in ("size", "scale_factor", "mode", "align_corners"):
                item = getattr(step, name)
                if item is not None and (name, item) != ("mode", "nearest"):
                    alone = isinstance(item, tuple) and len(item) == 1  # one number stands for every dimension
                    options.append(f"{name}={constant(item[0] if alone else item)}")
            return called("F.interpolate", [*values, *options], operands)
        case steps.Attention():
            mask = [f"attn_mask={values[3]}"] if len(values) == 4 else []
            dropout = [f"dropout_p={step.dropout_p!r} if self.training else 0.0"] if step.dropout_p else []
            causal = ["is_causal=True"] if step.is_causal and not mask else []
            scale = [] if step.scale is None else [f"scale={step.scale!r}"]
            given = [*values[:3], *mask, *dropout, *causal, *scale]
            return called("F.scaled_dot_product_attention", given, operands)
        case _:
            return _by_form(step, operands)


def _by_form(step: Step, operands: Sequence[Text]) -> Text:
    form = _FORMS.get(step.op)
    if form is None:
        raise NotImplementedError(f"the operation {step.op} has no row in _FORMS and no case in _operation")
    given = _constants(step, form.leading)
    if form.callee.startswith("."):
        return _method(operands[0], form.callee[1:], given)
    return called(form.callee, [*(item.text for item in operands), *given], operands)


def _method(of: Text, name: str, given: Sequence[str], *others: Text) -> Text:
    return called(f"{of.within(ATOM)}.{name}", given, [of, *others])


def _constants(step: Step, leading: Sequence[str] = ()) -> list[str]:
    """The constants of a step, those that have their default left out."""
    everything = step.model_dump(exclude={"op", "inputs"})
    changed = step.model_dump(exclude={"op", "inputs"}, exclude_defaults=True)
    first = [constant(everything[name]) for name in leading if name in changed or len(leading) == 1]
    return first + [f"{name}={constant(value)}" for name, value in changed.items() if name not in leading]


# Layout, as black and `ruff format` have it.

_SPREAD: Final = "\x1f"
"""Stands before a closing bracket whose items get a line each, however short they are."""


def _wrapped(text: str, indent: int) -> list[str]:
    """A statement in lines, of which the first is to be indented by `indent`."""
    if _SPREAD not in text and indent + len(text) <= _WIDTH:
        return [text]
    start, end = _last_bracket(text)
    if start < 0:
        return [text]
    head, body, tail = text[: start + 1], text[start + 1 : end], text[end:]
    if not body:
        return [text.replace(_SPREAD, "")]
    spread = body.endswith(_SPREAD)
    body = body.removesuffix(_SPREAD)
    if not spread and _SPREAD not in body and indent + 4 + len(body) <= _WIDTH:
        return [head, "    " + body, tail]
    items = _split(body)
    comma = "," if spread or len(items) > 1 else ""
    inner: list[str] = []
    for item in items:
        *lines, last = _wrapped(item + comma, indent + 4)
        inner += ["    " + line for line in (*lines, last)]
    return [head, *inner, tail]


def _last_bracket(text: str) -> tuple[int, int]:
    """Where the last pair of brackets that is in no other opens and closes; -1 for none."""
    end = max(text.rfind(")"), text.rfind("]"))
    depth = 0
    for place in range(end, -1, -1):
        if text[place] in ")]":
            depth += 1
        elif text[place] in "([":
            depth -= 1
            if depth == 0:
                return place, end
    return -1, -1


def _split(text: str) -> list[str]:
    """The items between commas that are in no brackets."""
    items, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        if letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0:
            items.append(text[start:place].strip())
            start = place + 1
    return [item for item in [*items, text[start:].strip()] if item]
