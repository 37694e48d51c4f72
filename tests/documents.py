"""Hypothesis strategies of architecture documents: right ones over the whole language, and what mistakes make of them.

`documents` writes as an author would, with params, expressions, blocks, repeats and `auto`. It knows the language and
nothing of how it is read; that every document of it is right is for the tests to show.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import strategies as st

Node = dict[str, Any]
Size = int | str

CLASSES: Final = 7
"""How many tokens there are."""

LONGEST: Final = 6
"""The steps of a sequence, where its document says a number."""

BLOCKS: Final[dict[str, Node]] = {
    "dense": {
        "params": {"cin": None, "cout": None, "act": True},
        "body": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": "${cin}", "out_features": "${cout}"},
                {"type": "ReLU", "if": "${act}"},
            ],
        },
    },
    "residual": {
        "params": {"cin": None, "cout": None},
        "body": {
            "type": "Graph",
            "layers": [
                {"name": "fc", "type": "Linear", "in_features": "${cin}", "out_features": "${cout}"},
                {
                    "name": "skip",
                    "if": "${cin != cout}",
                    "type": "Linear",
                    "in_features": "${cin}",
                    "out_features": "${cout}",
                    "bias": False,
                },
            ],
            "forward": ["v1 = relu(fc(x))", "return v1 + skip(x)"],
        },
    },
    "conv": {
        "params": {"cin": None, "cout": None, "kernel": 3},
        "body": {
            "type": "Sequential",
            "layers": [
                {
                    "type": "Conv2d",
                    "in_channels": "${cin}",
                    "out_channels": "${cout}",
                    "kernel_size": "${kernel}",
                    "padding": "${kernel // 2}",
                    "bias": False,
                },
                {"type": "BatchNorm2d", "num_features": "${cout}"},
                {"type": "ReLU", "inplace": True},
            ],
        },
    },
}

_ACTIVATIONS: Final[tuple[Node, ...]] = (
    {"type": "ReLU"},
    {"type": "Tanh"},
    {"type": "GELU", "approximate": "tanh"},
    {"type": "LeakyReLU", "negative_slope": 0.2},
    {"type": "PReLU"},
    {"type": "Softplus"},
    {"type": "Hardswish"},
    {"type": "Softmax", "dim": 1},
    {"type": "Dropout", "p": 0.3},
    {"type": "Identity"},
)

_FUNCTIONS: Final = (
    *("relu({0})", "tanh({0})", "gelu({0}, 'tanh')", "leaky_relu({0}, 0.2)", "elu({0}, alpha=0.5)", "silu({0})"),
    *("softmax({0}, dim=1)", "log_softmax({0}, dim=-1)", "clamp({0}, -1, 1.5)", "dropout({0}, 0.5)", "sin({0})"),
    *("{0} * 2 - 1", "1 / ({0} * {0} + 1)", "-{0}", "0.5 - {0} / 4", "abs({0}) + 1e-3", "cumsum({0}, 1)"),
    *("flip({0}, -1)", "roll({0}, 1, 1)", "where(gt({0}, 0), {0}, 0.5)", "masked_fill({0}, lt({0}, 0), 0)"),
    *("minimum({0}, sigmoid({0}))", "pow({0}, 2)"),
)
"""What keeps a value's shape."""


@dataclass(frozen=True)
class _Value:
    """What a forward has a name for: `sizes` stand after the batch; a text is a size that is not known here."""

    name: str
    kind: str
    sizes: tuple[Size, ...]


@dataclass
class _Author:
    """Draws sizes, now as a number and now as an expression over the document's params."""

    draw: st.DrawFn
    params: dict[str, Any]
    blocks: set[str] = field(default_factory=set)

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def one_of(self, *choices: Any) -> Any:
        return copy.deepcopy(self.draw(st.sampled_from(choices)))

    def flag(self) -> Any:
        return self.one_of(False, True, "${on}", "${not on or wide[0] > w}")

    def size(self, n: Size, *, auto: bool = False) -> Any:
        """The number n, as it may be written."""
        assert isinstance(n, int)
        w, wide = self.params["w"], self.params["wide"][0]
        forms = [n, f"${{w * {n // w} + {n % w}}}", f"${{{n + wide} - wide[0]}}", f"${{ w + {n - w} }}"]
        return self.one_of(*forms, *(["auto"] if auto else []))

    def linear(self, wide: Size, high: int, **members: Any) -> Node:
        node = {"type": "Linear", "in_features": self.size(wide, auto=True), "out_features": self.size(high)}
        if self.number(0, 3) == 0:
            node["bias"] = self.flag()
        return node | members

    def use(self, block: str, **args: Any) -> Node:
        self.blocks.add(block)
        return {"type": "Use", "block": block, "args": args}

    # Layers of vectors.

    def dense(self, wide: int, high: int, depth: int) -> Node:
        """A layer from `wide` features to `high`."""
        kinds = ["linear", "use", "residual", "chain", "graph"][: 3 if depth <= 0 else None]
        match self.one_of(*kinds):
            case "linear":
                return self.linear(wide, high)
            case "use":
                node = self.use("dense", cin=self.size(wide), cout=self.size(high))
                if self.number(0, 1):
                    node["args"]["act"] = self.flag()
                return node
            case "residual":
                return self.use("residual", cin=self.size(wide), cout=self.size(high))
            case "graph":
                return self.residual(wide, high, depth)
            case _:
                return self.chain(wide, high, depth - 1)

    def chain(self, wide: int, high: int, depth: int) -> Node:
        """A Sequential from `wide` features to `high`."""
        layers: list[Node] = []
        for _ in range(self.number(0, 3)):
            match self.one_of("same", "dense", "repeat", "splice", "absent", "norm"):
                case "same":
                    layers.append(self.one_of(*_ACTIVATIONS, {"type": "ReLU", "inplace": True}))
                case "norm":
                    layers.append(self.norm(wide))
                case "absent":  # it is not there, so it may be anything
                    layers.append({"type": "Linear", "in_features": 99, "out_features": 1, "if": "${not on and on}"})
                case "dense":
                    middle = self.number(1, 6)
                    layers.append(self.dense(wide, middle, depth))
                    wide = middle
                case "splice":
                    middle = self.number(1, 6)
                    layers.append(self.use("dense", cin=self.size(wide), cout=self.size(middle)) | {"splice": True})
                    wide = middle
                case _:
                    layers.append(self.repeat(self.dense(wide, wide, depth - 1)))
        return {"type": "Sequential", "layers": [*layers, self.linear(wide, high)]}

    def repeat(self, layer: Node) -> Node:
        node: Node = {"type": "Repeat", "count": self.size(self.number(1, 3)), "layer": layer}
        if self.number(0, 1):
            node |= {"index": "n", "prefix": "part_"}
        return node

    def norm(self, wide: Size) -> Node:
        groups = ["GroupNorm"] if isinstance(wide, int) and wide > 1 else []  # a group of one has no variance
        kind = self.one_of("BatchNorm1d", "LayerNorm", "RMSNorm", *groups)
        match kind:
            case "BatchNorm1d":
                return {"type": kind, "num_features": self.size(wide, auto=True)}
            case "GroupNorm":
                return {"type": kind, "num_groups": 1, "num_channels": self.size(wide, auto=True)}
            case _:
                return {"type": kind, "normalized_shape": self.size(wide, auto=True), "eps": 0.1}

    def residual(self, wide: int, high: int, depth: int) -> Node:
        """A graph that calls one layer twice and adds what it gives."""
        same = self.dense(high, high, depth - 1) | {"name": "same"}
        into = self.dense(wide, high, depth - 1) | {"name": "into"}
        lines = self.one_of(
            ["v1 = into(x)", "v2 = same(v1) + v1", "return relu(same(v2))"],
            ["v1 = into(x)", "v1, v2 = same(v1), v1", "return v1 * 0.5 + v2"],
            ["return tanh(same(same(into(x))))"],
            ["v1 = into(x)", "v1 = v1 - mean(v1, dim=1, keepdim=True)", "return same(v1)"],
        )
        return {"type": "Graph", "layers": [into, same], "forward": lines}

    # Layers of images.

    def images(self, channels: int) -> tuple[Node, int]:
        """A Sequential that keeps the sides of an image, and how many channels it gives."""
        layers: list[Node] = []
        for _ in range(self.number(1, 3)):
            match self.one_of("conv", "block", "norm", "act", "pad", "pool"):
                case "conv":
                    high = self.number(1, 4)
                    kernel = self.one_of(1, 3, [3, 1], "${w * 0 + 3}")
                    node: Node = {"type": "Conv2d", "in_channels": self.size(channels, auto=True), "out_channels": high}
                    layers.append(node | {"kernel_size": kernel, "padding": "same", "bias": self.flag()})
                    channels = high
                case "block":
                    high = self.number(1, 4)
                    layers.append(
                        self.use("conv", cin=self.size(channels), cout=high, kernel=self.one_of(1, 3))
                        | {"splice": self.one_of(True, False)}
                    )
                    channels = high
                case "norm":
                    kind = self.one_of("BatchNorm2d", "InstanceNorm2d")
                    layers.append({"type": kind, "num_features": self.size(channels, auto=True)})
                case "pad":
                    layers += [
                        {"type": "ZeroPad2d", "padding": 1},
                        {"type": "AvgPool2d", "kernel_size": 3, "stride": 1},
                    ]
                case "pool":
                    layers.append({"type": "MaxPool2d", "kernel_size": 3, "stride": 1, "padding": 1})
                case _:
                    layers.append(self.one_of(*_ACTIVATIONS, {"type": "Dropout2d"}, {"type": "Softmax2d"}))
        return {"type": "Sequential", "layers": layers}, channels


@dataclass
class _Forward:
    """A graph that is being written, with the values that its forward has names for."""

    author: _Author
    layers: list[Node] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    values: list[_Value] = field(default_factory=list)
    unread: dict[str, None] = field(default_factory=dict)
    tie: list[Node] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """Keys of weights of two dimensions."""
    fresh: int = 0

    def made(self, kind: str, *sizes: Size) -> _Value:
        """A new name, for what the next line makes."""
        self.fresh += 1
        value = _Value(f"v{self.fresh}", kind, sizes)
        self.values.append(value)
        self.unread[value.name] = None
        return value

    def read(self, value: _Value) -> str:
        self.unread.pop(value.name, None)
        return value.name

    def unknown(self) -> str:
        self.fresh += 1
        return f"?{self.fresh}"

    def layer(self, node: Node, stem: str = "layer") -> str:
        name = f"{stem}_{len(self.layers)}"
        self.layers.append({"name": name} | node)
        return name

    def line(self, target: str, expression: str) -> None:
        self.lines.append(f"{target} = {expression}")

    def others(self, value: _Value) -> _Value:
        """A value of the same shape, which may be the same."""
        return self.author.one_of(
            *[other for other in self.values if (other.kind, other.sizes) == (value.kind, value.sizes)]
        )

    def write(self) -> None:
        """One more line, or a few."""
        author = self.author
        recent = self.values[-3:] if author.number(0, 2) else self.values
        value = author.one_of(*recent)
        if value.kind in _MOVES:
            author.one_of(*_MOVES[value.kind])(self, value)

    # Anything of floating point.

    def apply(self, value: _Value) -> None:
        expression = self.author.one_of(*_FUNCTIONS).format(self.read(value))
        self.line(self.made(value.kind, *value.sizes).name, expression)

    def combine(self, value: _Value) -> None:
        other = self.others(value)
        template = self.author.one_of("{0} + {1}", "{0} * {1} / 2", "{0} - {1}", "maximum({0}, {1})", "relu({0}) + {1}")
        expression = template.format(self.read(value), self.read(other))
        self.line(self.made(value.kind, *value.sizes).name, expression)

    def activate(self, value: _Value) -> None:
        name = self.layer(self.author.one_of(*_ACTIVATIONS), "act")
        if self.author.number(0, 2) == 0:
            self.layers[-1]["if"] = self.author.flag()  # a call of what is not there gives what it got
        expression = f"{name}({self.read(value)})"
        self.line(self.made(value.kind, *value.sizes).name, expression)

    # Vectors.

    def dense(self, value: _Value) -> None:
        author, (wide,) = self.author, value.sizes
        high = author.number(1, 6)
        if isinstance(wide, str):
            return self.apply(value)
        if author.number(0, 2):
            name = self.layer(author.dense(wide, high, 2), "dense")
        else:
            name = self.layer(author.linear(wide, high), "fc")
            self.keys.append(f"{name}.weight")
        expression = f"{name}({self.read(value)})"
        return self.line(self.made("vector", high).name, expression)

    def shared(self, value: _Value) -> None:
        (wide,) = value.sizes
        if isinstance(wide, str):
            return self.apply(value)
        name = self.layer(self.author.dense(wide, wide, 1), "shared")
        expression = f"{name}({self.read(value)})"
        first = self.made("vector", wide)
        self.line(first.name, expression)
        second = f"{name}({self.read(first)}) + {first.name}"
        return self.line(self.made("vector", wide).name, second)

    def tied(self, value: _Value) -> None:
        (wide,) = value.sizes
        if isinstance(wide, str):
            return self.apply(value)
        names = [self.layer(self.author.linear(wide, wide), "tied") for _ in range(2)]
        self.tie.append({"from": f"{names[0]}.weight", "to": f"{names[1]}.weight"})
        self.keys.append(f"{names[0]}.weight")
        expression = f"{names[1]}(relu({names[0]}({self.read(value)})))"
        return self.line(self.made("vector", wide).name, expression)

    def normalise(self, value: _Value) -> None:
        if isinstance(value.sizes[0], str):
            return self.apply(value)
        name = self.layer(self.author.norm(value.sizes[0]), "norm")
        expression = f"{name}({self.read(value)})"
        return self.line(self.made("vector", *value.sizes).name, expression)

    def join(self, value: _Value) -> None:
        other = self.author.one_of(*[each for each in self.values if each.kind == "vector"])
        wide = [*value.sizes, *other.sizes]
        high = sum(size for size in wide if isinstance(size, int))
        form = self.author.one_of("cat({0}, {1}, dim=1)", "cat([{0}, {1}], -1)")
        expression = form.format(self.read(value), self.read(other))
        if any(isinstance(size, str) for size in wide):
            self.line(self.made("vector", self.unknown()).name, expression)
        else:
            self.line(self.made("vector", high).name, expression)

    def part(self, value: _Value) -> None:
        (wide,) = value.sizes
        if isinstance(wide, str) or wide < 2:
            return self.apply(value)
        text = self.read(value)
        match self.author.one_of("split", "index", "chunk", "reshape", "several"):
            case "split":
                expression = f"split({text}, [1, {wide - 1}], dim=1)"
                self.line(f"{self.made('vector', 1).name}, {self.made('vector', wide - 1).name}", expression)
            case "chunk" if wide % 2 == 0:
                pair = [self.made("vector", wide // 2).name for _ in range(2)]
                self.line(", ".join(pair), f"chunk({text}, 2, dim=1)")
            case "reshape":
                self.line(self.made("sequence", wide, 1).name, f"reshape({text}, -1, 1)")
            case "several":
                name = self.layer(
                    {"type": "Graph", "inputs": ["p", "q"], "forward": ["v1 = p * q", "return v1, (p - q) / 2"]}, "pair"
                )
                pair = [self.made("vector", wide).name for _ in range(2)]
                self.line(", ".join(pair), f"{name}({text}, tanh({text}))")
            case _:
                self.line(self.made("vector", wide - 1).name, f"{text}[:, 1:]")
        return None

    def free(self, value: _Value) -> None:
        """A parameter or a buffer meets the last dimension."""
        wide = value.sizes[-1]
        shape = [1] if isinstance(wide, str) else self.author.one_of([wide], [1, wide], [1], [])
        node: Node = {"type": "Parameter", "shape": shape, "init": self.author.one_of("normal", "ones")}
        if self.author.number(0, 1):
            node = {"type": "Buffer", "shape": shape, "init": {"type": "constant", "value": 0.5}}
            if self.author.number(0, 2) == 0:
                node["persistent"] = self.author.flag()
        name = self.layer(node, "free")
        expression = self.author.one_of("{0} * {1}", "{1} + {0}", "{0} - {1} * 2").format(self.read(value), name)
        self.line(self.made(value.kind, *value.sizes).name, expression)

    # Images.

    def convolve(self, value: _Value) -> None:
        channels, *sides = value.sizes
        assert isinstance(channels, int)
        node, high = self.author.images(channels)
        expression = f"{self.layer(node, 'conv')}({self.read(value)})"
        self.line(self.made("image", high, *sides).name, expression)

    def shrink(self, value: _Value) -> None:
        channels, *sides = value.sizes
        if any(isinstance(side, int) and side < 4 for side in sides):
            return self.pool_out(value)
        high = channels
        pool = {"kernel_size": 2, "ceil_mode": self.author.flag(), "padding": self.author.number(0, 1)}
        if self.author.number(0, 1):
            high = self.author.number(1, 4)
            node: Node = {"type": "Conv2d", "in_channels": "auto", "out_channels": high, "kernel_size": 3, "stride": 2}
            node |= {"padding": 1, "padding_mode": self.author.one_of("zeros", "reflect", "circular", "replicate")}
        else:
            node = {"type": self.author.one_of("MaxPool2d", "AvgPool2d", "LPPool2d")} | pool
            if node["type"] == "LPPool2d":
                node = {"type": "LPPool2d", "norm_type": 2, "kernel_size": 2, "ceil_mode": pool["ceil_mode"]}
        expression = f"{self.layer(node, 'down')}({self.read(value)})"
        return self.line(self.made("image", high, self.unknown(), self.unknown()).name, expression)

    def enlarge(self, value: _Value) -> None:
        channels, *_ = value.sizes
        node: Node = {
            "type": "ConvTranspose2d",
            "in_channels": "auto",
            "out_channels": 2,
            "kernel_size": 2,
            "stride": 2,
        }
        if self.author.number(0, 1):
            node, channels = (
                {"type": "Upsample", "scale_factor": 2, "mode": self.author.one_of("nearest", "bilinear")},
                channels,
            )
        else:
            channels = 2
        expression = f"{self.layer(node, 'up')}({self.read(value)})"
        self.line(self.made("image", channels, self.unknown(), self.unknown()).name, expression)

    def pool_out(self, value: _Value) -> None:
        """A vector, or a sequence of pixels."""
        channels, *sides = value.sizes
        text = self.read(value)
        match self.author.one_of("mean", "pool", "flat", "pixels"):
            case "mean":
                self.line(self.made("vector", channels).name, f"mean({text}, dim=(2, 3))")
            case "flat" if all(isinstance(side, int) for side in sides):
                self.line(self.made("vector", math.prod(map(int, value.sizes))).name, f"flatten({text})")
            case "pixels":
                self.line(self.made("sequence", self.unknown(), channels).name, f"transpose(flatten({text}, 2), 1, 2)")
            case _:
                columns = self.author.number(1, 2)
                name = self.layer({"type": "AdaptiveAvgPool2d", "output_size": [1, columns]}, "pool")
                self.line(self.made("vector", int(channels) * columns).name, f"flatten({name}({text}))")

    def concatenate(self, value: _Value) -> None:
        others = [each for each in self.values if each.kind == "image" and each.sizes[1:] == value.sizes[1:]]
        other = self.author.one_of(*others)
        channels = sum(int(each.sizes[0]) for each in (value, other))
        expression = f"cat({self.read(value)}, {self.read(other)}, dim=1)"
        self.line(self.made("image", channels, *value.sizes[1:]).name, expression)

    # Sequences.

    def lengths(self, sequence: _Value) -> _Value | None:
        """The true lengths of a sequence, where there are any and it has the steps that they count."""
        found = [value for value in self.values if value.kind == "lengths" and value.sizes == sequence.sizes[:1]]
        return self.author.one_of(None, *found)

    def recur(self, value: _Value) -> None:
        author, (steps, wide) = self.author, value.sizes
        if isinstance(wide, str):
            return self.pool(value)
        kind, high, count = author.one_of("LSTM", "GRU", "RNN"), author.number(1, 4), author.number(1, 2)
        first, both = author.one_of(True, False), author.one_of(True, False)
        node: Node = {"type": kind, "input_size": author.size(wide, auto=True), "hidden_size": author.size(high)}
        node |= {"num_layers": count, "bidirectional": both, "batch_first": first}
        if count > 1:
            node["dropout"] = 0.2
        lengths = self.lengths(value)
        name, text = self.layer(node, "rnn"), self.read(value)
        more = f", lengths={self.read(lengths)}" if lengths else ""
        call = f"{name}({text if first else f'transpose({text}, 0, 1)'}{more})"
        directions = 2 if both else 1
        target = self.author.one_of("all", "state", "out")
        self.fresh += 1
        out, h, c = (f"v{self.fresh}_{end}" for end in "ohc")
        states = f"({h}, {c})" if kind == "LSTM" else h
        self.line(f"{out}, {states}", call)
        if target != "state":
            made = self.made("sequence", steps, high * directions)
            self.line(made.name, out if first else f"transpose({out}, 0, 1)")
        if target != "out":
            made = self.made("sequence", count * directions, high)
            self.line(made.name, f"transpose({h}, 0, 1)")
        if target == "all" and kind == "LSTM":
            last = author.one_of(f"{c}[-1]", f"{c}[0]", f"transpose({c}, 0, 1)[:, 0]")
            self.line(self.made("vector", high).name, last)
        return None

    def encode(self, value: _Value) -> None:
        """A transformer's layer, or several, over features that two heads can share."""
        author, (steps, wide) = self.author, value.sizes
        if isinstance(wide, str):
            return self.pool(value)
        if wide % 2:
            value, wide = self.even(value), 4
        first = author.one_of(True, False)
        node: Node = {"type": "TransformerEncoderLayer", "d_model": author.size(wide), "nhead": 2, "dim_feedforward": 5}
        node |= {"activation": author.one_of("relu", "gelu"), "norm_first": author.flag(), "batch_first": first}
        node["layer_norm_eps"] = 0.1
        mask = "src_mask"
        if author.number(0, 1):
            node, mask = (
                {"type": "TransformerEncoder", "encoder_layer": node, "num_layers": author.number(1, 2)},
                "mask",
            )
        lengths = self.lengths(value)
        text = self.read(value)
        more = ""
        if lengths and author.number(0, 1):
            more = f", src_key_padding_mask=padding_mask({self.read(lengths)}, {text})"
        elif author.number(0, 1):
            more = f", {mask}=causal_mask({text})"
        name = self.layer(node, "encoder")
        call = f"{name}({text}{more})" if first else f"transpose({name}(transpose({text}, 0, 1){more}), 0, 1)"
        return self.line(self.made("sequence", steps, wide).name, call)

    def even(self, value: _Value) -> _Value:
        """Features by a Linear, so that their number is even."""
        name, text = self.layer(self.author.linear(value.sizes[1], 4), "into"), self.read(value)
        made = self.made("sequence", value.sizes[0], 4)
        self.line(made.name, f"{name}({text})")
        return made

    def attend(self, value: _Value) -> None:
        author, (steps, wide) = self.author, value.sizes
        text = self.read(value)
        if author.number(0, 1) or isinstance(wide, str):
            causal = author.one_of("", ", is_causal=True", ", attn_mask=logical_not(causal_mask({0}))").format(text)
            expression = f"scaled_dot_product_attention({text}, {text}, {text}{causal})"
            self.line(self.made("sequence", steps, wide).name, expression)
            return
        node: Node = {"type": "MultiheadAttention", "embed_dim": author.size(wide), "num_heads": 1 + (wide + 1) % 2}
        name = self.layer(node | {"batch_first": True, "bias": author.flag()}, "attention")
        lengths = self.lengths(value)
        more = f", key_padding_mask=padding_mask({self.read(lengths)}, {text})" if lengths else ""
        if author.number(0, 1):
            made = self.made("sequence", steps, wide)
            self.line(made.name, f"{name}({text}, {text}, {text}{more}, need_weights=False)[0]")
        else:
            pair = self.made("sequence", steps, wide), self.made("sequence", steps, steps)
            self.line(", ".join(each.name for each in pair), f"{name}({text}, {text}, {text}{more})")

    def stepwise(self, value: _Value) -> None:
        author, (steps, wide) = self.author, value.sizes
        text = self.read(value)
        if isinstance(wide, str):
            self.line(self.made("sequence", steps, wide).name, f"softmax({text}, -1)")
            return
        match author.one_of("linear", "conv", "class", "norm"):
            case "linear":
                high = author.number(1, 6)
                self.line(
                    self.made("sequence", steps, high).name, f"{self.layer(author.linear(wide, high), 'fc')}({text})"
                )
            case "conv":
                node = {"type": "Conv1d", "in_channels": "auto", "out_channels": 3, "kernel_size": 3, "padding": 1}
                call = f"transpose({self.layer(node, 'conv')}(transpose({text}, 1, 2)), 1, 2)"
                self.line(self.made("sequence", steps, 3).name, call)
            case "class":
                name = self.layer({"type": "Parameter", "shape": [1, 1, author.size(wide)], "init": "normal"}, "token")
                call = f"cat(expand_batch({name}, {text}), {text}, dim=1)"
                self.line(self.made("sequence", self.unknown(), wide).name, call)
            case _:
                name = self.layer({"type": "LayerNorm", "normalized_shape": "auto", "eps": 0.1}, "norm")
                self.line(self.made("sequence", steps, wide).name, f"{name}({text})")

    def pool(self, value: _Value) -> None:
        wide, lengths, text = value.sizes[1], self.lengths(value), self.read(value)
        if lengths:
            op = self.author.one_of("masked_mean", "masked_max", "last_valid")
            expression = f"{op}({text}, {self.read(lengths)})"
        else:
            expression = self.author.one_of("{0}[:, -1]", "mean({0}, dim=1)", "amax({0}, 1)", "sum({0}, dim=1) / 4")
            expression = expression.format(text)
        self.line(self.made("vector", wide).name, expression)

    # Whole numbers.

    def embed(self, value: _Value) -> None:
        author, (steps,) = self.author, value.sizes
        wide, text = author.one_of(2, 4, 5), self.read(value)
        node: Node = {"type": "Embedding", "num_embeddings": author.size(CLASSES), "embedding_dim": author.size(wide)}
        if author.number(0, 1):
            node["padding_idx"] = 0
        name = self.layer(node, "embedding")
        made = self.made("sequence", steps, wide)
        self.line(made.name, f"{name}({text})")
        match author.one_of("plain", "positions", "head", "bag"):
            case "positions" if isinstance(steps, int):
                table = self.layer({"type": "Embedding", "num_embeddings": 9, "embedding_dim": wide}, "position")
                self.read(made)
                self.line(self.made("sequence", steps, wide).name, f"{made.name} + {table}(positions({made.name}))")
            case "head":
                head = {"type": "Linear", "in_features": wide, "out_features": CLASSES, "bias": False}
                head_name = self.layer(head, "head")
                self.tie.append({"from": f"{name}.weight", "to": f"{head_name}.weight"})
                self.read(made)
                self.line(self.made("sequence", steps, CLASSES).name, f"{head_name}({made.name})")
            case "bag":
                bag = {"type": "EmbeddingBag", "num_embeddings": CLASSES, "embedding_dim": 3, "mode": "sum"}
                self.line(self.made("vector", 3).name, f"{self.layer(bag, 'bag')}({text})")
            case _:
                pass

    def convert(self, value: _Value) -> None:
        text = self.read(value)
        match self.author.one_of("cast", "one_hot", "shift"):
            case "cast":
                self.line(self.made("vector", *value.sizes).name, f"cast({text})")
            case "one_hot":
                expression = f"cast(one_hot({text}, {CLASSES}))"
                self.line(self.made("sequence", *value.sizes, CLASSES).name, expression)
            case _:
                self.line(self.made("integers", *value.sizes).name, f"{text} * 2 + 1")

    def result(self) -> Node:
        """The graph, which gives every value that nothing has read."""
        return {"layers": self.layers, "forward": [*self.lines, f"return {', '.join(self.unread)}"]}


_Move = Callable[[_Forward, _Value], None]
_ANY: Final[tuple[_Move, ...]] = (_Forward.apply, _Forward.combine, _Forward.activate)
_MOVES: Final[dict[str, tuple[_Move, ...]]] = {
    "vector": (
        *_ANY,
        *(_Forward.dense, _Forward.dense, _Forward.shared, _Forward.tied, _Forward.normalise),
        *(_Forward.join, _Forward.part, _Forward.free),
    ),
    "image": (
        *_ANY,
        *(_Forward.convolve, _Forward.convolve, _Forward.shrink, _Forward.enlarge),
        *(_Forward.pool_out, _Forward.concatenate),
    ),
    "sequence": (
        *_ANY,
        *(_Forward.recur, _Forward.recur, _Forward.encode, _Forward.attend, _Forward.stepwise),
        *(_Forward.pool, _Forward.free),
    ),
    "tokens": (_Forward.embed, _Forward.embed, _Forward.convert),
}


@st.composite
def documents(draw: st.DrawFn) -> Node:
    """A document that is right."""
    author = _Author(draw, {"w": draw(st.integers(1, 3)), "wide": [draw(st.integers(1, 4)), 2], "on": True})
    inputs, given = _inputs(author)
    document: Node = {"schema": "arch/1", "inputs": inputs, "params": author.params}
    if len(given) == 1 and given[0].kind == "vector" and author.number(0, 2) == 0:
        root = author.chain(int(given[0].sizes[0]), author.number(1, 5), 2)
    else:
        graph = _Forward(author, values=list(given), unread={value.name: None for value in given})
        for _ in range(author.number(2, 7)):
            graph.write()
        root = {"type": "Graph", "inputs": [value.name for value in given], **graph.result()}
        if author.number(0, 1):
            root["class_name"] = "Net"
        if graph.tie:
            document["tie"] = graph.tie
        if graph.keys:
            document["init"] = [
                {"match": author.one_of("**.weight", graph.keys[0]), "init": {"type": "normal", "std": 0.3}},
                {"match": graph.keys[-1], "init": author.one_of("xavier_uniform", "kaiming_normal", "orthogonal")},
            ]
            if author.number(0, 1):
                document["init"][0]["layers"] = ["Linear"]
    blocks = {name: BLOCKS[name] for name in sorted(author.blocks)}
    if blocks:
        document["blocks"] = copy.deepcopy(blocks)
    if author.number(0, 3) == 0:
        document["labels"] = {"written by": "somebody"}
    return document | {"root": root}


def _inputs(author: _Author) -> tuple[list[Node], list[_Value]]:
    inputs: list[Node] = []
    values: list[_Value] = []

    def give(name: str, kind: str, sizes: tuple[Size, ...], dtype: str = "float32") -> None:
        node: Node = {"name": name, "shape": ["B", *sizes]}
        inputs.append(node | ({} if dtype == "float32" else {"dtype": dtype}))
        values.append(_Value(name, kind, sizes if kind != "lengths" else (steps,)))

    steps: Size = author.one_of(LONGEST, "T")
    chosen = author.one_of(*_CHOICES)
    for kind in chosen:
        match kind:
            case "vector":
                give("x" if chosen == ("vector",) else "features", kind, (author.number(1, 6),))
            case "image":
                sides = author.one_of((8, 8), (9, 8), ("H", "W"), ("H", 8))
                give("image", kind, (author.number(1, 3), *sides))
            case "sequence":
                give("seq", kind, (steps, author.number(1, 5)))
            case "tokens":
                give("tokens", kind, (steps,), author.one_of("int64", "int64", "int32"))
            case _:
                give("lengths", kind, (), "int64")
    if inputs[0].get("dtype") == "int32":
        inputs[0]["dtype"] = "int64"
    return inputs, values


_CHOICES: Final = (
    *(("vector",), ("vector",), ("image",), ("image",), ("sequence",), ("tokens",)),
    *(("tokens", "lengths"), ("sequence", "lengths"), ("vector", "image"), ("tokens", "vector")),
    ("tokens", "sequence", "lengths"),
)


def renamed(document: Node) -> Node:
    """The same document with other names for what its forwards make."""
    text = re.sub(r"\bv(\d+)", r"another_\1", json.dumps(document))
    found: Node = json.loads(text)
    return found


# Mistakes.

JUNK: Final[tuple[Any, ...]] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 1.5, -0.0, 2**24, 2**31, 2**63, 10**30, 1e300, "", "x", "auto", "B", "T"),
    *("${w}", "${w", "${w / 0}", "${w ** 9}", "${nobody}", "${wide}", "${wide[9]}", "${on}", "Graph", "Sequential"),
    *("Linear", "LSTM", "Use", "Repeat", "Parameter", "same", "valid", "%1", "a\x00b", "zeros", [], {}, [1], [1, 2]),
    *("eye", "dirac", "normal", "orthogonal", {"type": "constant", "value": -1}, {"type": "uniform"}, "uint8", "bool"),
    *(["B"], [[1]], {"type": "Linear"}, {"type": "Identity"}, {"type": "ReLU", "if": False}, {"a": {"b": []}}),
)
_MEMBERS: Final = (
    "if",
    "name",
    "type",
    "in_features",
    "bias",
    "nobody",
    "layers",
    "absent",
    "init",
    "dtype",
    "persistent",
)
_WORDS: Final = (
    *(
        "x",
        "v1",
        "v2",
        "relu",
        "layer_0",
        "fc_0",
        "nobody",
        "flatten",
        "cat",
        "return",
        "dim=1",
        "dim=0",
        "0",
        "-1",
        "2",
    ),
    *(
        "+",
        "*",
        "@",
        "/",
        "(",
        ")",
        "[",
        "]",
        "[0]",
        "[:, 0]",
        ",",
        "=",
        "None",
        "'x'",
        "x.view",
        "transpose",
        "lambda",
    ),
    *("__class__", "import os", "1e999", "//", "if", "*x", "v1 = v1", "mean", "one_hot", "split", ";", "é", "\n"),
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A document after one mistake, or a few."""
    document: Any = copy.deepcopy(draw(documents()))
    if draw(st.booleans()):
        for _ in range(draw(st.sampled_from([1, 1, 2]))):
            _nudge(draw, document)
        return document
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        places = list(_places(document))
        if not places:
            return draw(st.sampled_from(JUNK))
        at, key = places[draw(st.integers(0, len(places) - 1))]
        junk = copy.deepcopy(draw(st.sampled_from(JUNK)))
        match draw(st.sampled_from(["drop", "replace", "replace", "junk", "swap", "text", "text", "number", "again"])):
            case "drop":
                del at[key]
            case "replace":
                at[key] = junk
            case "junk" if isinstance(at, dict):
                at[draw(st.sampled_from(_MEMBERS))] = junk
            case "junk":
                at.insert(key, junk)
            case "swap":
                other, place = places[draw(st.integers(0, len(places) - 1))]
                at[key] = copy.deepcopy(other[place])
            case "again" if isinstance(at, list):
                at.append(copy.deepcopy(at[key]))
            case "number" if isinstance(at[key], int) and not isinstance(at[key], bool):
                at[key] += draw(st.sampled_from([-3, -1, 1, 2]))
            case _ if isinstance(at[key], str):
                at[key] = _misspelt(draw, at[key])
            case _:
                at[key] = junk
    return document


_OPERATIONS: Final = (
    *("relu", "softmax", "mean", "amax", "var", "norm", "prod", "argmax", "cumsum", "flip", "squeeze", "unsqueeze"),
    *("flatten", "transpose", "permute", "reshape", "chunk", "split", "roll", "cat", "stack", "maximum", "where", "eq"),
    *("lt", "logical_not", "logical_and", "masked_fill", "pad", "interpolate", "one_hot", "embedding", "positions"),
    *("causal_mask", "padding_mask", "masked_mean", "masked_max", "last_valid", "expand_batch", "cast", "clamp", "pow"),
    *("max_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "layer_norm", "normalize", "matmul", "sqrt", "log_softmax"),
    *("scaled_dot_product_attention", "unflatten", "pixel_shuffle", "pixel_unshuffle", "argmin", "std", "minimum"),
)
_KINDS: Final = (
    *("Linear", "Conv1d", "Conv2d", "ConvTranspose2d", "BatchNorm1d", "BatchNorm2d", "InstanceNorm1d", "LayerNorm"),
    *("RMSNorm", "MaxPool1d", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "Flatten", "PReLU"),
    *("ReLU", "Softmax", "GLU", "Dropout", "LSTM", "GRU", "RNN", "GRUCell", "LSTMCell", "Embedding", "EmbeddingBag"),
    *("MultiheadAttention", "TransformerEncoderLayer", "Upsample", "Identity", "Parameter", "Buffer", "Threshold"),
)


def _nudge(draw: st.DrawFn, document: Any) -> None:
    """A mistake that only shapes show, as a rule: another number, name, operation or kind."""
    numbers, kinds, lines = [], [], []
    for at, key in _places(document):
        if isinstance(at[key], int) and not isinstance(at[key], bool):
            numbers.append((at, key))
        elif key == "type" and at[key] not in ("Graph", "Sequential", "Use", "Repeat"):
            kinds.append((at, key))
        elif isinstance(at, list) and isinstance(at[key], str) and re.search(r"[=(]", at[key]):
            lines.append((at, key))
    wanted = draw(st.sampled_from([numbers, numbers, lines, lines, lines, kinds]))
    at, key = draw(st.sampled_from(wanted or numbers or lines or kinds))
    if key == "type":
        at[key] = draw(st.sampled_from(_KINDS))
    elif isinstance(at[key], int):
        at[key] = max(0, at[key] + draw(st.sampled_from([-2, -1, 1, 1, 2, 5])))
    else:
        words = re.split(r"(\W+)", at[key])
        kept = ("", "return", "dim", "keepdim", "lengths", "B")
        place = draw(st.sampled_from([place for place in range(0, len(words), 2) if words[place] not in kept] or [0]))
        word, inside = words[place], re.findall(r"\bv\d+\w*|\bx\b|\b[a-z]+_\d+\b", " ".join(map(str, at)))
        if word.isdecimal():
            words[place] = draw(st.sampled_from(["0", "1", "2", "3", "-1", "-2"]))
        elif word in inside:
            words[place] = draw(st.sampled_from(inside))
        else:
            words[place] = draw(st.sampled_from(_OPERATIONS))
        at[key] = "".join(words)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member and item, as its container and its place there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inner):
        yield value, key
        yield from _places(item)


def _misspelt(draw: st.DrawFn, text: str) -> str:
    words = re.findall(r"\w+|\s+|[^\w\s]", text) or [""]
    place = draw(st.integers(0, len(words) - 1))
    match draw(st.sampled_from(["replace", "drop", "insert", "letter", "other"])):
        case "drop":
            del words[place]
        case "insert":
            words.insert(place, draw(st.sampled_from(_WORDS)))
        case "letter":
            words[place] = words[place][:-1]
        case "other":
            words[place] = words[draw(st.integers(0, len(words) - 1))]
        case _:
            words[place] = draw(st.sampled_from(_WORDS))
    return "".join(words)
