"""Attention and the transformer's layers: what goes in and out, by name, and what it costs. Knows no torch."""

# ruff: noqa: D102 - what an overriding method does stands once, at `Leaf`
from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from service.schemas.leaf import Argument, Arguments, Leaf, Value, Work
from service.schemas.norms import LayerNorm, RMSNorm
from service.schemas.recurrent import LayerCount
from service.schemas.shapes import Flag, Mismatch, Positive, Probability, Row, Size, TensorSpec

Activation = Literal["relu", "gelu"]


class _Attending(Leaf):
    """A layer over sequences, [T, B, features] unless `batch_first`."""

    takes = "float32"
    masks: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """For each attention mask, the sequences whose lengths are its rows and columns."""
    paddings: ClassVar[Mapping[str, tuple[str, str | None]]] = {}
    """For each padding mask, the sequence that it marks, and the attention mask used together with it."""
    hints: ClassVar[Mapping[str, str]] = {}
    """For each flag that says a mask is causal, that mask."""

    @property
    def _batch_first(self) -> bool:
        return getattr(self, "batch_first", False)

    def _sequences(self, given: Arguments, widths: Mapping[str, tuple[str, int]]) -> dict[str, TensorSpec]:
        """The sequences among the arguments, of which each has its width and all have one batch.

        Args:
            widths: for each argument, the member that says its width, and the width.
        """
        place = 0 if self._batch_first else 1
        form = "[B, T, features]" if self._batch_first else "[T, B, features]"
        found: dict[str, TensorSpec] = {}
        for name, (field, width) in widths.items():
            spec = given[name]
            assert isinstance(spec, TensorSpec)
            if len(spec.sizes) != 3 or spec.sizes[-1] is None:
                detail = f"{self.type} takes {form} for `{name}`, but gets {spec.shown}."
                raise Mismatch(detail, expected=form, got=spec.shown)
            if spec.batch not in (place, None):
                raise Mismatch(
                    f"{self.type} takes {form} for `{name}`, but gets {spec.shown}: the batch would be taken for time.",
                    code="batch-not-first",
                    hint='Set "batch_first": true, or write transpose(x, 0, 1) before it.'
                    if place
                    else 'Leave "batch_first" out, or write transpose(x, 0, 1) before it.',
                    expected=form,
                    got=spec.shown,
                )
            if spec.dtype != "float32":
                detail = f"{self.type} takes float32 for `{name}`, but gets {spec.dtype}."
                raise Mismatch(detail, code="dtype-mismatch", expected="float32", got=spec.dtype)
            if spec.sizes[-1] != width:
                raise Mismatch(
                    f"{self.type} expects {width} features for `{name}` and gets {spec.sizes[-1]}.",
                    field=field,
                    expected=str(width),
                    got=str(spec.sizes[-1]),
                )
            found[name] = spec
        (first, one), *others = found.items()
        for name, other in others:
            if other.sizes[place] != one.sizes[place]:
                constant = None in (other.batch, one.batch) and other.batch != one.batch
                raise Mismatch(
                    f"{self.type} takes one batch for `{first}` and `{name}`, but gets {one.shown} and {other.shown}.",
                    hint="One is a constant: give it the batch with expand_batch." if constant else None,
                    expected=one.shown,
                    got=other.shown,
                )
        return found

    def _length(self, spec: TensorSpec) -> int:
        length = spec.sizes[1 if self._batch_first else 0]
        assert length is not None
        return length

    def _check_masks(self, given: Arguments, sequences: Mapping[str, TensorSpec]) -> None:
        """See that masks have the lengths of what they mask."""
        for name, (left, right) in self.masks.items():
            mask = given.get(name)
            if isinstance(mask, TensorSpec):
                self._check_mask(name, mask, self._length(sequences[left]), self._length(sequences[right]))
        for name, (marked, together) in self.paddings.items():
            mask = given.get(name)
            if isinstance(mask, TensorSpec):
                self._check_padding(name, mask, sequences[marked])
                other = given.get(together or "")
                if isinstance(other, TensorSpec) and other.dtype != mask.dtype:
                    raise Mismatch(
                        f"{self.type} takes `{name}` and `{together}` of one dtype, but gets {mask.dtype} and "
                        f"{other.dtype}.",
                        code="dtype-mismatch",
                        expected=other.dtype,
                        got=mask.dtype,
                    )
        for flag, name in self.hints.items():
            if given.get(flag) is True and given.get(name) is None:
                detail = f"{self.type} takes {flag}=True as a word about `{name}`, which must be given too."
                raise Mismatch(detail, code="wrong-argument")

    def _check_mask(self, name: str, mask: TensorSpec, length: int, source: int) -> None:
        self._check_mask_dtype(name, mask)
        wanted = f"[{length}, {source}]"
        if mask.batch is not None:
            raise Mismatch(
                f"`{name}` of {self.type} is one for all rows, {wanted}, but gets {mask.shown}.",
                hint="What differs from row to row is said with a padding mask.",
                expected=wanted,
                got=mask.shown,
            )
        if mask.row != (length, source):
            detail = f"{self.type} takes {wanted} for `{name}`, but gets {mask.shown}."
            raise Mismatch(detail, expected=wanted, got=mask.shown)

    def _check_padding(self, name: str, mask: TensorSpec, marked: TensorSpec) -> None:
        self._check_mask_dtype(name, mask)
        batch = marked.sizes[0 if self._batch_first else 1]
        length = self._length(marked)
        if mask.sizes != (batch, length):
            wanted = f"[{'B' if batch is None else batch}, {length}]"
            detail = f"{self.type} takes {wanted} for `{name}`, but gets {mask.shown}."
            raise Mismatch(detail, expected=wanted, got=mask.shown)

    def _check_mask_dtype(self, name: str, mask: TensorSpec) -> None:
        if mask.dtype not in ("bool", "float32"):
            raise Mismatch(
                f"{self.type} takes bool for `{name}`, true where nothing is read, or float32, which is added; it "
                f"gets {mask.dtype}.",
                code="dtype-mismatch",
                expected="bool or float32",
                got=mask.dtype,
            )

    def _rows(self, spec: TensorSpec) -> int:
        """How many rows a constant has; what has a batch is counted by the row."""
        return spec.sizes[0 if self._batch_first else 1] or 1


def _prefixed(prefix: str, rows: Mapping[str, Row]) -> dict[str, Row]:
    return {f"{prefix}.{name}": row for name, row in rows.items()}


def _linear(outputs: int, inputs: int, bias: bool) -> dict[str, Row]:
    return {"weight": (outputs, inputs)} | ({"bias": (outputs,)} if bias else {})


def _attention_rows(width: int, bias: bool) -> dict[str, Row]:
    """The parameters of a MultiheadAttention whose query, key and value are of one width."""
    own: dict[str, Row] = {"in_proj_weight": (3 * width, width)} | ({"in_proj_bias": (3 * width,)} if bias else {})
    return own | _prefixed("out_proj", _linear(width, width, bias))


def _attention_work(width: int, heads: int, length: int, source: int, kdim: int, vdim: int) -> Work:
    """Projections in and out, scores, and the sums weighted by them."""
    projections = 2 * width * (2 * length * width + source * (kdim + vdim))
    scores = heads * length * source
    return Work(projections + 4 * length * source * width + scores, scores + (length + 2 * source) * width)


class MultiheadAttention(_Attending):
    """Attention of several heads; gives (out, weights), the weights unless need_weights=False."""

    arguments = (
        Argument("query"),
        Argument("key"),
        Argument("value"),
        Argument("key_padding_mask", required=False),
        Argument("need_weights", required=False, form="flag"),
        Argument("attn_mask", required=False),
        Argument("average_attn_weights", required=False, form="flag"),
        Argument("is_causal", required=False, form="flag"),
    )
    masks: ClassVar = {"attn_mask": ("query", "key")}
    paddings: ClassVar = {"key_padding_mask": ("key", "attn_mask")}
    hints: ClassVar = {"is_causal": "attn_mask"}
    type: Literal["MultiheadAttention"]
    embed_dim: Size
    num_heads: Size
    dropout: Probability = 0.0
    bias: Flag = True
    add_bias_kv: Flag = False
    add_zero_attn: Flag = False
    kdim: Size | None = None
    vdim: Size | None = None
    batch_first: Flag = False

    @field_validator("num_heads")
    @classmethod
    def _heads_divide(cls, heads: int, info: Any) -> int:
        return _heads(heads, info.data, "embed_dim")

    @property
    def _widths(self) -> dict[str, tuple[str, int]]:
        return {
            "query": ("embed_dim", self.embed_dim),
            "key": ("kdim", self.kdim or self.embed_dim),
            "value": ("vdim", self.vdim or self.embed_dim),
        }

    def parameters(self) -> dict[str, Row]:
        width = self.embed_dim
        _, key, value = (size for _, size in self._widths.values())
        rows: dict[str, Row] = {}
        if key == value == width:
            rows["in_proj_weight"] = (3 * width, width)
        else:
            rows |= {"q_proj_weight": (width, width), "k_proj_weight": (width, key), "v_proj_weight": (width, value)}
        if self.bias:
            rows["in_proj_bias"] = (3 * width,)
        if self.add_bias_kv:
            rows |= {"bias_k": (1, 1, width), "bias_v": (1, 1, width)}
        return rows | _prefixed("out_proj", _linear(width, width, self.bias))

    def outcome(self, given: Arguments) -> Value:
        found = self._sequences(given, self._widths)
        query, key, value = found["query"], found["key"], found["value"]
        if self._length(key) != self._length(value):
            raise Mismatch(
                f"MultiheadAttention takes a value for every key, but gets {key.shown} and {value.shown}.",
                expected=key.shown,
                got=value.shown,
            )
        self._check_masks(given, found)
        if given.get("need_weights") is False:
            return (query, ())
        batch = query.sizes[0 if self.batch_first else 1]
        source = self._length(key) + self.add_bias_kv + self.add_zero_attn
        averaged = given.get("average_attn_weights") is not False
        heads = () if averaged else (self.num_heads,)
        return (query, query.resized((batch, *heads, self._length(query), source)))

    def work(self, given: Arguments, out: Value) -> Work:
        query, key = given["query"], given["key"]
        assert isinstance(query, TensorSpec)
        assert isinstance(key, TensorSpec)
        _, kdim, vdim = (size for _, size in self._widths.values())
        work = _attention_work(self.embed_dim, self.num_heads, self._length(query), self._length(key), kdim, vdim)
        rows = self._rows(query)
        return Work(rows * work.flops, rows * work.held)


def _heads(heads: int, members: Mapping[str, Any], field: str) -> int:
    width = members.get(field)
    if isinstance(width, int) and width % heads:
        raise PydanticCustomError(
            "heads",
            "{field} {width} is not a multiple of the {heads} heads.",
            {"field": field, "width": width, "heads": heads},
        )
    return heads


# The transformer.


class _Block(_Attending):
    if TYPE_CHECKING:  # every kind declares its own, in torch's order
        d_model: Size
        nhead: Size
        dim_feedforward: Size
        bias: Flag
        batch_first: Flag

    @field_validator("nhead", check_fields=False)
    @classmethod
    def _heads_divide(cls, heads: int, info: Any) -> int:
        return _heads(heads, info.data, "d_model")

    def _tail(self, norms: int) -> dict[str, Row]:
        """The parameters after those of the attentions."""
        rows = _prefixed("linear1", _linear(self.dim_feedforward, self.d_model, self.bias))
        rows |= _prefixed("linear2", _linear(self.d_model, self.dim_feedforward, self.bias))
        norm: dict[str, Row] = {"weight": (self.d_model,), "bias": (self.d_model,)}
        if not self.bias:
            del norm["bias"]
        for number in range(1, norms + 1):
            rows |= _prefixed(f"norm{number}", norm)
        return rows

    def _attention(self, length: int, source: int) -> Work:
        return _attention_work(self.d_model, self.nhead, length, source, self.d_model, self.d_model)

    def _feed_forward(self, length: int, norms: int) -> Work:
        wide = length * self.dim_feedforward
        each = 2 * norms * length * self.d_model  # a norm and a sum with what went in
        return Work(4 * wide * self.d_model + wide + each, 2 * wide + each)


class TransformerEncoderLayer(_Block):
    """Self-attention and a feed-forward net, each with a norm and a way around it."""

    arguments = (
        Argument("src"),
        Argument("src_mask", required=False),
        Argument("src_key_padding_mask", required=False),
        Argument("is_causal", required=False, form="flag"),
    )
    masks: ClassVar = {"src_mask": ("src", "src")}
    paddings: ClassVar = {"src_key_padding_mask": ("src", "src_mask")}
    hints: ClassVar = {"is_causal": "src_mask"}
    type: Literal["TransformerEncoderLayer"]
    d_model: Size
    nhead: Size
    dim_feedforward: Size = 2048
    dropout: Probability = 0.1
    activation: Activation = "relu"
    layer_norm_eps: Positive = 1e-5
    batch_first: Flag = False
    norm_first: Flag = False
    bias: Flag = True

    @property
    def modules(self) -> int:
        return 10  # as torch has them: attention and its projection, 2 Linear, 2 LayerNorm, 3 Dropout, itself

    def parameters(self) -> dict[str, Row]:
        return _prefixed("self_attn", _attention_rows(self.d_model, self.bias)) | self._tail(2)

    def outcome(self, given: Arguments) -> Value:
        found = self._sequences(given, {"src": ("d_model", self.d_model)})
        self._check_masks(given, found)
        return found["src"]

    def cost(self, length: int) -> Work:
        """What a sequence of `length` costs."""
        attention, rest = self._attention(length, length), self._feed_forward(length, 2)
        return Work(attention.flops + rest.flops, attention.held + rest.held)

    def work(self, given: Arguments, out: Value) -> Work:
        return _times(self, given["src"], self.cost, 1)


def _times(layer: _Attending, spec: Value | bool, cost: Any, count: int) -> Work:
    assert isinstance(spec, TensorSpec)
    one, rows = cost(layer._length(spec)), count * layer._rows(spec)
    return Work(rows * one.flops, rows * one.held)


class TransformerDecoderLayer(_Block):
    """Self-attention, attention to the encoder's memory, and a feed-forward net."""

    arguments = (
        Argument("tgt"),
        Argument("memory"),
        Argument("tgt_mask", required=False),
        Argument("memory_mask", required=False),
        Argument("tgt_key_padding_mask", required=False),
        Argument("memory_key_padding_mask", required=False),
        Argument("tgt_is_causal", required=False, form="flag"),
        Argument("memory_is_causal", required=False, form="flag"),
    )
    masks: ClassVar = {"tgt_mask": ("tgt", "tgt"), "memory_mask": ("tgt", "memory")}
    paddings: ClassVar = {
        "tgt_key_padding_mask": ("tgt", "tgt_mask"),
        "memory_key_padding_mask": ("memory", "memory_mask"),
    }
    hints: ClassVar = {"tgt_is_causal": "tgt_mask", "memory_is_causal": "memory_mask"}
    type: Literal["TransformerDecoderLayer"]
    d_model: Size
    nhead: Size
    dim_feedforward: Size = 2048
    dropout: Probability = 0.1
    activation: Activation = "relu"
    layer_norm_eps: Positive = 1e-5
    batch_first: Flag = False
    norm_first: Flag = False
    bias: Flag = True

    @property
    def modules(self) -> int:
        return 14

    def parameters(self) -> dict[str, Row]:
        attention = _attention_rows(self.d_model, self.bias)
        return _prefixed("self_attn", attention) | _prefixed("multihead_attn", attention) | self._tail(3)

    def outcome(self, given: Arguments) -> Value:
        width = ("d_model", self.d_model)
        found = self._sequences(given, {"tgt": width, "memory": width})
        self._check_masks(given, found)
        return found["tgt"]

    def cost(self, length: int, source: int) -> Work:
        """What a sequence of `length` costs with a memory of `source`."""
        parts = (self._attention(length, length), self._attention(length, source), self._feed_forward(length, 3))
        return Work(sum(part.flops for part in parts), sum(part.held for part in parts))

    def work(self, given: Arguments, out: Value) -> Work:
        memory = given["memory"]
        assert isinstance(memory, TensorSpec)
        return _times(self, given["tgt"], lambda length: self.cost(length, self._length(memory)), 1)


_Norm = Annotated[LayerNorm | RMSNorm, Field(discriminator="type")]


def _unnamed(layer: Leaf | None) -> Any:
    if layer is not None and layer.name is not None:
        raise PydanticCustomError("layer_name", "It has no name here: torch names it itself.")
    return layer


class _Stack(_Attending):
    """Copies of one layer, and perhaps a norm."""

    if TYPE_CHECKING:
        num_layers: int
        norm: LayerNorm | RMSNorm | None

    @field_validator("norm", check_fields=False)
    @classmethod
    def _norm_fits(cls, norm: Any, info: Any) -> Any:
        layer = info.data.get("encoder_layer") or info.data.get("decoder_layer")
        if norm is not None and layer is not None and norm.normalized_shape != (layer.d_model,):
            raise PydanticCustomError("norm", "The normalized_shape is d_model, {size}.", {"size": layer.d_model})
        return _unnamed(norm)

    @property
    def _layer(self) -> TransformerEncoderLayer | TransformerDecoderLayer:
        raise NotImplementedError

    @property
    def _batch_first(self) -> bool:
        return self._layer.batch_first

    @property
    def modules(self) -> int:
        return self.num_layers * self._layer.modules

    @cached_property
    def _listed(self) -> dict[str, Row]:
        each = self._layer.parameters()
        rows: dict[str, Row] = {}
        for number in range(self.num_layers):
            rows |= _prefixed(f"layers.{number}", each)
        return rows | (_prefixed("norm", self.norm.parameters()) if self.norm else {})

    def parameters(self) -> dict[str, Row]:
        return self._listed


class TransformerEncoder(_Stack):
    """Several TransformerEncoderLayers of one form, one after the other."""

    arguments = (
        Argument("src"),
        Argument("mask", required=False),
        Argument("src_key_padding_mask", required=False),
        Argument("is_causal", required=False, form="flag"),
    )
    masks: ClassVar = {"mask": ("src", "src")}
    paddings: ClassVar = {"src_key_padding_mask": ("src", "mask")}
    hints: ClassVar = {"is_causal": "mask"}
    type: Literal["TransformerEncoder"]
    encoder_layer: TransformerEncoderLayer
    num_layers: LayerCount
    norm: _Norm | None = None

    @field_validator("encoder_layer")
    @classmethod
    def _has_no_name(cls, layer: Leaf) -> Any:
        return _unnamed(layer)

    @property
    def _layer(self) -> TransformerEncoderLayer:
        return self.encoder_layer

    def outcome(self, given: Arguments) -> Value:
        found = self._sequences(given, {"src": ("encoder_layer", self.encoder_layer.d_model)})
        self._check_masks(given, found)
        return found["src"]

    def work(self, given: Arguments, out: Value) -> Work:
        return _times(self, given["src"], self.encoder_layer.cost, self.num_layers)


class TransformerDecoder(_Stack):
    """Several TransformerDecoderLayers of one form, one after the other."""

    arguments = TransformerDecoderLayer.arguments
    masks = TransformerDecoderLayer.masks
    paddings = TransformerDecoderLayer.paddings
    hints = TransformerDecoderLayer.hints
    type: Literal["TransformerDecoder"]
    decoder_layer: TransformerDecoderLayer
    num_layers: LayerCount
    norm: _Norm | None = None

    @field_validator("decoder_layer")
    @classmethod
    def _has_no_name(cls, layer: Leaf) -> Any:
        return _unnamed(layer)

    @property
    def _layer(self) -> TransformerDecoderLayer:
        return self.decoder_layer

    def outcome(self, given: Arguments) -> Value:
        width = ("decoder_layer", self.decoder_layer.d_model)
        found = self._sequences(given, {"tgt": width, "memory": width})
        self._check_masks(given, found)
        return found["tgt"]

    def work(self, given: Arguments, out: Value) -> Work:
        memory = given["memory"]
        assert isinstance(memory, TensorSpec)
        source = self._length(memory)
        return _times(self, given["tgt"], lambda length: self.decoder_layer.cost(length, source), self.num_layers)


class Transformer(_Attending):
    """An encoder of `src`, and a decoder of `tgt` that attends to it."""

    arguments = (
        Argument("src"),
        Argument("tgt"),
        Argument("src_mask", required=False),
        Argument("tgt_mask", required=False),
        Argument("memory_mask", required=False),
        Argument("src_key_padding_mask", required=False),
        Argument("tgt_key_padding_mask", required=False),
        Argument("memory_key_padding_mask", required=False),
        Argument("src_is_causal", required=False, form="flag"),
        Argument("tgt_is_causal", required=False, form="flag"),
        Argument("memory_is_causal", required=False, form="flag"),
    )
    masks: ClassVar = {"src_mask": ("src", "src"), "tgt_mask": ("tgt", "tgt"), "memory_mask": ("tgt", "src")}
    paddings: ClassVar = {
        "src_key_padding_mask": ("src", "src_mask"),
        "tgt_key_padding_mask": ("tgt", "tgt_mask"),
        "memory_key_padding_mask": ("src", "memory_mask"),
    }
    hints: ClassVar = {"src_is_causal": "src_mask", "tgt_is_causal": "tgt_mask", "memory_is_causal": "memory_mask"}
    type: Literal["Transformer"]
    d_model: Size = 512
    nhead: Size = Field(8, validate_default=True)
    num_encoder_layers: LayerCount = 6
    num_decoder_layers: LayerCount = 6
    dim_feedforward: Size = 2048
    dropout: Probability = 0.1
    activation: Activation = "relu"
    layer_norm_eps: Positive = 1e-5
    batch_first: Flag = False
    norm_first: Flag = False
    bias: Flag = True

    @field_validator("nhead")
    @classmethod
    def _heads_divide(cls, heads: int, info: Any) -> int:
        return _heads(heads, info.data, "d_model")

    @property
    def _members(self) -> dict[str, Any]:
        """What both kinds of layers have in common with it."""
        same = ("d_model", "nhead", "dim_feedforward", "dropout", "activation", "layer_norm_eps")
        return {name: getattr(self, name) for name in (*same, "batch_first", "norm_first", "bias")}

    @cached_property
    def _norm(self) -> LayerNorm:
        return LayerNorm(type="LayerNorm", normalized_shape=(self.d_model,), eps=self.layer_norm_eps, bias=self.bias)

    @cached_property
    def _encoder(self) -> TransformerEncoder:
        layer = TransformerEncoderLayer(type="TransformerEncoderLayer", **self._members)
        count = self.num_encoder_layers
        return TransformerEncoder(type="TransformerEncoder", encoder_layer=layer, num_layers=count, norm=self._norm)

    @cached_property
    def _decoder(self) -> TransformerDecoder:
        layer = TransformerDecoderLayer(type="TransformerDecoderLayer", **self._members)
        count = self.num_decoder_layers
        return TransformerDecoder(type="TransformerDecoder", decoder_layer=layer, num_layers=count, norm=self._norm)

    @property
    def modules(self) -> int:
        return self._encoder.modules + self._decoder.modules

    def parameters(self) -> dict[str, Row]:
        return _prefixed("encoder", self._encoder.parameters()) | _prefixed("decoder", self._decoder.parameters())

    def outcome(self, given: Arguments) -> Value:
        width = ("d_model", self.d_model)
        found = self._sequences(given, {"src": width, "tgt": width})
        self._check_masks(given, found)
        return found["tgt"]

    def work(self, given: Arguments, out: Value) -> Work:
        memory = given["src"]
        encoder = _times(self, memory, self._encoder.encoder_layer.cost, self.num_encoder_layers)
        assert isinstance(memory, TensorSpec)
        source, layer = self._length(memory), self._decoder.decoder_layer
        decoder = _times(self, given["tgt"], lambda length: layer.cost(length, source), self.num_decoder_layers)
        return Work(encoder.flops + decoder.flops, encoder.held + decoder.held)
