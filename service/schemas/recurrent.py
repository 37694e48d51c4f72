"""Recurrent layers: what goes in and out in closed form, for torch unrolls them over time. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, Strict, field_validator
from pydantic_core import PydanticCustomError

from service.schemas.leaf import Argument, Arguments, Leaf, Value, Work, known
from service.schemas.shapes import Flag, Mismatch, Probability, Row, Size, SizeOrAuto, TensorSpec, elements

MOST_LAYERS: Final = 1024
"""A stack of more is a mistake, and would take long to write down."""

LayerCount = Annotated[int, Strict(), Field(ge=1, le=MOST_LAYERS)]


def _layer_input(layer: _Recurrent | _Cell, given: Arguments, form: str) -> TensorSpec:
    """The sequence or step that a layer gets, if it is of this form and has `input_size` features."""
    spec = given["input"]
    assert isinstance(spec, TensorSpec)
    if len(spec.sizes) != form.count(",") + 1 or spec.sizes[-1] is None:
        raise Mismatch(f"{layer.type} takes {form}, but gets {spec.shown}.", expected=form, got=spec.shown)
    features = known(layer.input_size)
    if spec.sizes[-1] != features:
        raise Mismatch(
            f"{layer.type} expects {features} features and gets {spec.sizes[-1]}.",
            field="input_size",
            hint=f'Set input_size to {spec.sizes[-1]}, or to "auto".',
            expected=str(features),
            got=str(spec.sizes[-1]),
        )
    return spec


def _pair(layer: Leaf, value: Value | bool) -> tuple[TensorSpec, TensorSpec]:
    """The `(h, c)` that an LSTM gets."""
    if isinstance(value, tuple) and len(value) == 2:
        h, c = value
        if isinstance(h, TensorSpec) and isinstance(c, TensorSpec):
            return h, c
    count = len(value) if isinstance(value, tuple) else 1
    detail = f"{layer.type} takes two tensors, (h, c), for `hx`, but gets {count} values."
    raise Mismatch(detail, code="wrong-argument", expected="(h, c)", got=str(count))


def _expect_state(layer: Leaf, name: str, got: TensorSpec, wanted: TensorSpec) -> None:
    if got.dtype != "float32":
        detail = f"{layer.type} takes float32 for `{name}`, but gets {got.dtype}."
        raise Mismatch(detail, code="dtype-mismatch", expected="float32", got=got.dtype)
    if got.sizes != wanted.sizes:
        raise Mismatch(
            f"{layer.type} takes {wanted.shown} for `{name}`, but gets {got.shown}.",
            code="batch-not-first" if got.batch not in (wanted.batch, None) else "shape-mismatch",
            hint="It is a constant: give it the batch with expand_batch." if got.batch is None else None,
            expected=wanted.shown,
            got=got.shown,
        )


# Over sequences.


class _Recurrent(Leaf):
    guessed = "input_size"
    takes = "float32"
    gates: ClassVar[int]
    arguments = (Argument("input"), Argument("hx", required=False), Argument("lengths", required=False))

    if TYPE_CHECKING:  # every kind declares its own, in torch's order
        input_size: SizeOrAuto
        hidden_size: Size
        num_layers: int
        bias: Flag
        batch_first: Flag
        dropout: float
        bidirectional: Flag

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _width(self) -> int:
        """How many features one direction gives."""
        return getattr(self, "proj_size", 0) or self.hidden_size

    @property
    def modules(self) -> int:
        return self.num_layers * self._directions

    def guess(self, row: Row) -> Any:
        return row[-1] if len(row) == 2 else None

    def parameters(self) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        high = self.gates * self.hidden_size
        for number in range(self.num_layers):
            wide = self._width * self._directions if number else known(self.input_size)
            for end in ("", "_reverse")[: self._directions]:
                at = f"l{number}{end}"
                rows |= {f"weight_ih_{at}": (high, wide), f"weight_hh_{at}": (high, self._width)}
                if self.bias:
                    rows |= {f"bias_ih_{at}": (high,), f"bias_hh_{at}": (high,)}
                if self._width != self.hidden_size:
                    rows[f"weight_hr_{at}"] = (self._width, self.hidden_size)
        return rows

    def outcome(self, given: Arguments) -> Value:
        form = "[B, T, features]" if self.batch_first else "[T, B, features]"
        place = 0 if self.batch_first else 1
        first = given["input"]
        assert isinstance(first, TensorSpec)
        if len(first.sizes) == 3 and first.batch not in (place, None):
            raise Mismatch(
                f"{self.type} takes {form}, but gets {first.shown}: the batch would be taken for time.",
                code="batch-not-first",
                hint='Set "batch_first": true, or write transpose(x, 0, 1) before it.'
                if place
                else 'Leave "batch_first" out, or write transpose(x, 0, 1) before it.',
                field="batch_first",
                expected=form,
                got=first.shown,
            )
        spec = _layer_input(self, given, form)
        out = spec.resized((*spec.sizes[:2], self._width * self._directions))
        deep = self.num_layers * self._directions
        kept: tuple[int | None, ...] = (deep, spec.sizes[place], self._width)
        h = spec.resized(kept)
        state = self._state(given, h)
        lengths = given.get("lengths")
        if isinstance(lengths, TensorSpec):
            self._expect_lengths(lengths, spec.sizes[place])
        return (out, state)

    def _state(self, given: Arguments, h: TensorSpec) -> Value:
        hx = given.get("hx")
        if isinstance(hx, TensorSpec):
            _expect_state(self, "hx", hx, h)
        return h

    def _expect_lengths(self, lengths: TensorSpec, batch: int | None) -> None:
        if lengths.dtype not in ("int64", "int32"):
            detail = f"{self.type} takes int64 for `lengths`, but gets {lengths.dtype}."
            raise Mismatch(detail, code="dtype-mismatch", expected="int64", got=lengths.dtype)
        if lengths.sizes != (batch,):
            wanted = "[B]" if batch is None else f"[{batch}]"
            detail = f"{self.type} takes {wanted} for `lengths`, but gets {lengths.shown}."
            raise Mismatch(detail, expected=wanted, got=lengths.shown)

    def work(self, given: Arguments, out: Value) -> Work:
        spec = given["input"]
        assert isinstance(spec, TensorSpec)
        steps = spec.sizes[1 if self.batch_first else 0] or 1
        rows = spec.sizes[0 if self.batch_first else 1] or 1
        weights = sum(elements(row) for row in self.parameters().values() if len(row) == 2)
        gates = self.modules * self.gates * self.hidden_size
        return Work(rows * steps * (2 * weights + gates), rows * steps * gates)

    def remarks(self) -> Iterator[str]:
        if self.dropout and self.num_layers == 1:
            yield f"{self.type} has one layer: its dropout, which is between layers, does nothing."


class RNN(_Recurrent):
    """Recurrent layers of tanh or ReLU, one after the other; `lengths` are the rows' true lengths."""

    gates = 1
    type: Literal["RNN"]
    input_size: SizeOrAuto
    hidden_size: Size
    num_layers: LayerCount = 1
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    bias: Flag = True
    batch_first: Flag = False
    dropout: Probability = 0.0
    bidirectional: Flag = False


class LSTM(_Recurrent):
    """Long short-term memory; gives (out, (h, c)), and takes (h, c) and the rows' true `lengths`."""

    gates = 4
    arguments = (
        Argument("input"),
        Argument("hx", required=False, form="values"),
        Argument("lengths", required=False),
    )
    type: Literal["LSTM"]
    input_size: SizeOrAuto
    hidden_size: Size
    num_layers: LayerCount = 1
    bias: Flag = True
    batch_first: Flag = False
    dropout: Probability = 0.0
    bidirectional: Flag = False
    proj_size: Annotated[int, Strict(), Field(ge=0)] = 0

    @field_validator("proj_size")
    @classmethod
    def _projects_to_less(cls, size: int, info: Any) -> int:
        if size >= info.data.get("hidden_size", size + 1):
            raise PydanticCustomError("less_than", "proj_size is less than hidden_size, or 0 for none.")
        return size

    def _state(self, given: Arguments, h: TensorSpec) -> Value:
        c = h.resized((*h.sizes[:2], self.hidden_size))
        hx = given.get("hx")
        if hx is not None:
            got_h, got_c = _pair(self, hx)
            _expect_state(self, "h", got_h, h)
            _expect_state(self, "c", got_c, c)
        return (h, c)


class GRU(_Recurrent):
    """Gated recurrent units; gives (out, h), and takes h and the rows' true `lengths`."""

    gates = 3
    type: Literal["GRU"]
    input_size: SizeOrAuto
    hidden_size: Size
    num_layers: LayerCount = 1
    bias: Flag = True
    batch_first: Flag = False
    dropout: Probability = 0.0
    bidirectional: Flag = False


# One step.


class _Cell(Leaf):
    guessed = "input_size"
    takes = "float32"
    gates: ClassVar[int]
    arguments = (Argument("input"), Argument("hx", required=False))

    if TYPE_CHECKING:
        input_size: SizeOrAuto
        hidden_size: Size
        bias: Flag

    def guess(self, row: Row) -> Any:
        return row[0] if len(row) == 1 else None

    def parameters(self) -> dict[str, Row]:
        high = self.gates * self.hidden_size
        rows: dict[str, Row] = {"weight_ih": (high, known(self.input_size)), "weight_hh": (high, self.hidden_size)}
        return rows | ({"bias_ih": (high,), "bias_hh": (high,)} if self.bias else {})

    def outcome(self, given: Arguments) -> Value:
        spec = _layer_input(self, given, "[B, features]")
        h = spec.resized((spec.sizes[0], self.hidden_size))
        return self._state(given, h)

    def _state(self, given: Arguments, h: TensorSpec) -> Value:
        hx = given.get("hx")
        if isinstance(hx, TensorSpec):
            _expect_state(self, "hx", hx, h)
        return h

    def flops(self, row: Row, out: Row) -> int:
        high = self.gates * self.hidden_size
        return 2 * high * (known(self.input_size) + self.hidden_size) + high


class RNNCell(_Cell):
    """One step of an RNN: [B, features] and h to the next h."""

    gates = 1
    type: Literal["RNNCell"]
    input_size: SizeOrAuto
    hidden_size: Size
    bias: Flag = True
    nonlinearity: Literal["tanh", "relu"] = "tanh"


class LSTMCell(_Cell):
    """One step of an LSTM: [B, features] and (h, c) to the next (h, c)."""

    gates = 4
    arguments = (Argument("input"), Argument("hx", required=False, form="values"))
    type: Literal["LSTMCell"]
    input_size: SizeOrAuto
    hidden_size: Size
    bias: Flag = True

    def _state(self, given: Arguments, h: TensorSpec) -> Value:
        hx = given.get("hx")
        if hx is not None:
            for name, got in zip("hc", _pair(self, hx), strict=True):
                _expect_state(self, name, got, h)
        return (h, h)


class GRUCell(_Cell):
    """One step of a GRU: [B, features] and h to the next h."""

    gates = 3
    type: Literal["GRUCell"]
    input_size: SizeOrAuto
    hidden_size: Size
    bias: Flag = True
