"""What every layer without children is: a frozen document that knows in plain integers what it takes and gives.

The kinds themselves stand in `layers`, `recurrent` and `attention`. Knows no torch.
"""

# ruff: noqa: D102 - what an overriding method does stands once, at `Leaf`
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from service.schemas.document import Document, nearest_hint
from service.schemas.shapes import DType, Mismatch, Row, TensorSpec, elements

RESERVED_NAMES: Final = frozenset(
    """
    T_destination __annotations__ __call__ __class__ __delattr__ __dict__ __dir__ __doc__ __eq__ __format__ __ge__
    __getattr__ __getattribute__ __getstate__ __gt__ __hash__ __init__ __init_subclass__ __le__ __lt__ __module__ __ne__
    __new__ __reduce__ __reduce_ex__ __repr__ __setattr__ __setstate__ __sizeof__ __str__ __subclasshook__ __weakref__
    _apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _forward_hooks
    _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks _forward_pre_hooks_with_kwargs
    _get_backward_hooks _get_backward_pre_hooks _get_item_by_idx _get_name _is_full_backward_hook _load_from_state_dict
    _load_state_dict_post_hooks _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook _modules _named_members
    _non_persistent_buffers_set _parameters _register_load_state_dict_pre_hook _register_state_dict_hook
    _replicate_for_data_parallel _save_to_state_dict _slow_forward _state_dict_hooks _state_dict_pre_hooks _version
    _wrapped_call_impl add_module append apply bfloat16 buffers call_super_init children compile cpu cuda double
    dump_patches eval extend extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half insert
    ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
    """.split()  # noqa: SIM905 - a list of 110 strings, one a line, reads worse
)
"""Attributes of nn.Module, and of nn.Sequential: torch refuses children of these names."""

_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")


def _read_name(value: object) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "A name is a string.")
    if not _NAME.fullmatch(value):
        raise PydanticCustomError("layer_name", "A layer's name has 1 to 64 letters, digits and underscores.")
    if value in RESERVED_NAMES or (value.startswith("__") and value.endswith("__")):
        raise PydanticCustomError(
            "layer_name", "`{name}` is taken by torch.nn.Module itself: choose another name", {"name": value}
        )
    return value


def is_layer_name(name: str) -> bool:
    """Whether a layer may have this name."""
    try:
        return _read_name(name) == name
    except PydanticCustomError:
        return False


LayerName = Annotated[str, PlainValidator(_read_name, json_schema_input_type=str)]


def known(value: int | Literal["auto"]) -> int:
    """A size after `auto` was resolved; the judge sees to that before it asks."""
    if value == "auto":
        raise Mismatch("This size is not known: nothing comes before it.", code="unresolved")
    return value


Value: TypeAlias = "TensorSpec | tuple[Value, ...] | None"
"""A tensor, several values, or None for what could not be computed after a mistake.

No values at all, `()`, stand for what torch gives as None: nothing can be done with it."""

Arguments: TypeAlias = "Mapping[str, Value | bool]"
"""What a call gives, by the names of the layer's arguments."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a call costs for one row.

    Args:
        flops: operations: a multiplication and an addition count as two, any other element made as one.
        held: elements that stand in memory inside the layer while it runs, beyond what it gives.
    """

    flops: int
    held: int = 0


@dataclass(frozen=True, slots=True)
class Argument:
    """One value that a layer's forward takes.

    Args:
        name: torch's name for it, by which a call may give it.
        required: whether a call must give it.
        form: a tensor, several values such as `(h, c)`, or a constant true or false.
        by_name: whether a call must name it, because torch has something else in its place; flags are named too.
    """

    name: str
    required: bool = True
    form: Literal["tensor", "values", "flag"] = "tensor"
    by_name: bool = False


class Leaf(Document):
    """A layer without children.

    `name` is the attribute it gets in its parent, and thereby its keys in the state_dict.
    """

    takes: ClassVar[Literal["float", "float32", "integer", "any"]] = "float"
    guessed: ClassVar[str | None] = None
    """The member that may be "auto"."""
    arguments: ClassVar[tuple[Argument, ...]] = (Argument("input"),)
    """What its forward takes, in torch's order."""
    reach: ClassVar[int | None] = None
    """How many of the last dimensions it works on, when all others are independent of each other; None when it needs
    the batch to come first. A layer with a reach takes [T, B, features] too."""

    type: str
    name: LayerName | None = None

    def parameters(self) -> dict[str, Row]:
        """Names and shapes of the parameters, in the order in which torch registers them."""
        return {}

    def buffers(self) -> dict[str, Row]:
        """Names and shapes of the buffers; `num_batches_tracked` alone is int64."""
        return {}

    def output(self, row: Row) -> Row:
        """What comes out for a row of shape `row`.

        Raises:
            Mismatch: the layer cannot take it.
        """
        return row

    def dtype(self, dtype: DType) -> DType:
        """The dtype that comes out."""
        return dtype

    def outcome(self, given: Arguments) -> Value:
        """What the forward gives: a tensor, or several values.

        Layers of one tensor leave this alone and say `output` and `dtype`.

        Args:
            given: the arguments that the call gives, by name, in the forms that `arguments` says.

        Raises:
            Mismatch: the layer cannot take them.
        """
        spec = given[self.arguments[0].name]
        assert isinstance(spec, TensorSpec)
        reach = self.reached
        if spec.batch == 0:
            return TensorSpec(self.output(spec.row), self.dtype(spec.dtype))
        if spec.batch is None:
            # a constant: its first dimension takes the place of the batch
            if not spec.row:
                raise Mismatch(f"{self.type} takes a value with dimensions, but gets a single number.")
            return TensorSpec((spec.row[0], *self.output(spec.row[1:])), self.dtype(spec.dtype), None)
        if reach is None or spec.batch + reach > len(spec.row):
            raise Mismatch(
                f"{self.type} takes the batch first, but gets {spec.shown}.",
                code="batch-not-first",
                hint="Write transpose(x, 0, 1) before it.",
                expected="[B, …]",
                got=spec.shown,
            )
        return TensorSpec(self.output(spec.row), self.dtype(spec.dtype), spec.batch)

    @property
    def reached(self) -> int | None:
        """`reach`, where it depends on the layer's members."""
        return self.reach

    def flops(self, row: Row, out: Row) -> int:
        """Operations for one row: a multiplication and addition count as two, any other output element as one."""
        return elements(out)

    def work(self, given: Arguments, out: Value) -> Work:
        """What a call costs for one row, given what it takes and what it gives.

        Layers of one tensor leave this alone and say `flops`.
        """
        spec = given[self.arguments[0].name]
        assert isinstance(spec, TensorSpec)
        return Work(self.flops(spec.row[1:] if spec.batch is None else spec.row, flat(out)[0].row))

    @property
    def modules(self) -> int:
        """How many of torch's layers stand in it, which is what a net's number of layers counts."""
        return 1

    def guess(self, row: Row) -> Any:
        """What "auto" stands for, or None when `row` does not say."""
        return None

    def resolved(self, row: Row) -> Self:
        """The layer with its "auto" filled in from what it is given.

        Raises:
            Mismatch: with that size the layer would be wrong.
        """
        if self.guessed is None or getattr(self, self.guessed) != "auto":
            return self
        guess = self.guess(row)
        if guess is None:
            return self
        members = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return type(self).model_validate({**members, self.guessed: guess})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise Mismatch(
                f"With {self.guessed} {guess}: {first['msg'].rstrip('.')}.", field=str(first["loc"][0]), code="invalid"
            ) from None

    def remarks(self) -> Iterator[str]:
        """What is allowed and odd."""
        return iter(())

    def check_dtype(self, spec: TensorSpec) -> None:
        """See that the layer can compute with this dtype.

        Raises:
            Mismatch: it cannot.
        """
        match self.takes:
            case "any":
                return
            case "integer":
                wanted: tuple[str, ...] = ("int64", "int32")
            case "float32":
                wanted = ("float32",)
            case "float":
                # weights are float32, and torch does not mix
                wanted = ("float32",) if self.parameters() or self.buffers() else ("float32", "float64")
        if spec.dtype not in wanted:
            raise Mismatch(
                f"{self.type} takes {' or '.join(wanted)}, but gets {spec.dtype}.",
                code="dtype-mismatch",
                expected=" or ".join(wanted),
                got=spec.dtype,
            )


class Free(Leaf):
    """Moves elements, or does nothing while predicting."""

    def flops(self, row: Row, out: Row) -> int:
        return 0


def flat(value: Value) -> list[TensorSpec]:
    """The tensors of a value, from left to right."""
    if isinstance(value, TensorSpec):
        return [value]
    return [item for one in value or () for item in flat(one)]


def bound(layer: Leaf, given: Sequence[Value], named: Mapping[str, Value | bool]) -> dict[str, Value | bool]:
    """The arguments of a call by their names.

    Raises:
        Mismatch: one is missing, too many, unknown, given twice or of another form.
    """
    by_name = {argument.name: argument for argument in layer.arguments}
    values = list(takewhile(lambda one: one.form != "flag" and not one.by_name, layer.arguments))
    if len(given) > len(values):
        names = ", ".join(argument.name for argument in values)
        detail = f"{layer.type} takes {_counted(len(values))} ({names}), but gets {len(given)}."
        raise Mismatch(detail, code="wrong-argument", expected=str(len(values)), got=str(len(given)))
    found: dict[str, Value | bool] = {argument.name: value for argument, value in zip(values, given, strict=False)}
    for name, value in named.items():
        if name not in by_name or name in found:
            detail = f"{layer.type} gets `{name}` twice." if name in found else f"{layer.type} takes no `{name}`."
            hint = None if name in found else nearest_hint(name, list(by_name))
            raise Mismatch(detail, code="wrong-argument", hint=hint or f"It takes {', '.join(by_name)}.", got=name)
        found[name] = value
    missing = [argument.name for argument in layer.arguments if argument.required and argument.name not in found]
    if missing:
        raise Mismatch(f"{layer.type} is called without {' and '.join(missing)}.", code="wrong-argument")
    for name, value in found.items():
        form = by_name[name].form
        if (form == "flag") != isinstance(value, bool):
            wanted = "true or false" if form == "flag" else "a value"
            raise Mismatch(f"{layer.type} takes {wanted} for `{name}`.", code="wrong-argument", expected=wanted)
        if form == "tensor" and isinstance(value, tuple):
            raise Mismatch(
                f"{layer.type} takes one tensor for `{name}`, but gets {len(value)} values together.",
                code="wrong-argument",
                hint="Take them apart: `a, b = …`.",
            )
        if form == "values" and isinstance(value, TensorSpec):
            raise Mismatch(
                f"{layer.type} takes several values together for `{name}`, but gets one tensor.",
                code="wrong-argument",
                hint="Put them in parentheses, as in `lstm(x, (h, c))`.",
            )
    return found


def _counted(n: int) -> str:
    return "1 value" if n == 1 else f"{n} values"
