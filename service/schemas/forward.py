"""The forward language: lines of text that say how a graph's layers are called, compiled to steps.

A line is `name = expression`, `a, (b, c) = expression` or `return expression`. Lines are parsed with `ast`, walked over
a whitelist and compiled to the documents of `steps`. Nothing is evaluated, nor looked up anywhere but in the tables of
operations and of the graph's own layers. Imports no torch.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from service.schemas.document import Document, nearest_hint
from service.schemas.operation import Number, StepDocument, tidy
from service.schemas.steps import (
    BY_OPERATION,
    OPERATIONS,
    Call,
    GetItem,
    Item,
    Negative,
    Param,
    Return,
    Step,
    Tuple,
)

MAX_LINES: Final = 4096
MAX_LINE_LENGTH: Final = 4096
_MAX_NESTING: Final = 64


class Line(Document):
    """A line of text; in documents it is just the string."""

    op: Literal["line"]
    text: Annotated[str, StringConstraints(max_length=MAX_LINE_LENGTH)]

    @model_serializer
    def _as_text(self) -> str:
        return self.text


def _line(value: object) -> object:
    return {"op": "line", "text": value} if isinstance(value, str) else value


Written = Annotated[
    Annotated[Line | Step, Field(discriminator="op")],
    BeforeValidator(_line, json_schema_input_type=str | Annotated[Step, Field(discriminator="op")]),
]
"""A line or a step, as documents hold them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in a forward: `line` counts from 0; None is the forward as a whole, or the layer named."""

    line: int | None
    detail: str
    code: str = "forward-invalid"
    hint: str | None = None
    layer: str | None = None
    expected: str | None = None
    got: str | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A forward in steps. `lines` says for each step which entry of `forward` it comes from."""

    steps: tuple[Step, ...]
    lines: tuple[int, ...]
    faults: tuple[Fault, ...] = ()


def from_lines(
    lines: tuple[str, ...],
    inputs: tuple[str, ...],
    layers: tuple[str, ...],
    free: frozenset[str] = frozenset(),
    absent: frozenset[str] = frozenset(),
) -> Program:
    """Compile lines of text; mistakes come back as faults, all of them.

    Args:
        inputs: the names of the values that the graph is given.
        layers: the names of its layers.
        free: those among them that are free parameters and buffers: values by their name, never called.
        absent: the names of layers that are not there: a call of one gives its first input.
    """
    compiler = _Compiler(inputs, layers, free, absent)
    for number, text in enumerate(lines):
        compiler.line(number, text)
    faults = tuple(compiler.faults)
    if not compiler.unread:
        faults += tuple(_of_the_whole(compiler.steps, layers, compiler.suspects, returned=compiler.returned))
    if not faults:
        faults = tuple(_unused_values(compiler.steps, compiler.at))
    return Program(tuple(compiler.steps), tuple(compiler.at), faults)


def from_steps(
    steps: tuple[Step, ...],
    inputs: tuple[str, ...],
    layers: tuple[str, ...],
    free: frozenset[str] = frozenset(),
    absent: frozenset[str] = frozenset(),
) -> Program:
    """Check steps that were written directly: every name is known before it is used."""
    if absent:
        return _passed_by(steps, from_steps(steps, inputs, (*layers, *absent), free), absent)
    faults: list[Fault] = []
    suspects: set[str] = set()
    known_layers = frozenset(layers)
    for place, step in enumerate(steps):
        if place and isinstance(steps[place - 1], Return):
            faults.append(Fault(place, "This comes after the return and would never run.", "unreachable"))
        for name in step.references():
            known = 0 < int(name[1:]) <= place if name.startswith("%") else name in inputs
            if not known:
                faults.append(
                    Fault(
                        place,
                        f"`{name}` is not known here.",
                        "undefined-value",
                        hint=nearest_hint(name, inputs) if len(faults) < _MOST_HINTS else None,
                        expected="an input, or %n for what an earlier step n makes",
                        got=name,
                    )
                )
        if isinstance(step, (Call, Param)) and step.layer not in known_layers:
            faults.append(_unknown_callee(place, step.layer, layers, (), suspects, told=len(faults)))
        elif isinstance(step, Call) and step.layer in free:
            faults.append(Fault(place, _NOT_CALLED.format(step.layer), "wrong-argument", hint=_READ_IT))
        elif isinstance(step, Param) and step.layer not in free:
            faults.append(Fault(place, f"`{step.layer}` is a layer: it is called.", "wrong-argument"))
    returned = any(isinstance(step, Return) for step in steps)
    faults += _of_the_whole(steps, layers, suspects, returned=returned)
    lines = tuple(range(len(steps)))
    if not faults:
        faults += _unused_values(steps, lines)
    return Program(steps, lines, tuple(faults))


def _passed_by(steps: Sequence[Step], program: Program, absent: frozenset[str]) -> Program:
    """The program without its calls of absent layers: who read what such a call gave reads its first input."""
    faults = tuple(fault for fault in program.faults if fault.layer not in absent)
    kept: list[Step] = []
    lines: list[int] = []
    names: dict[str, str] = {}
    for place, step in enumerate(steps):
        if isinstance(step, Call) and step.layer in absent:
            names[f"%{place + 1}"] = names.get(step.inputs[0], step.inputs[0])
            continue
        changed: dict[str, Any] = {"inputs": tuple(names.get(item, item) for item in step.inputs)}  # type: ignore[arg-type]
        if isinstance(step, Call):
            changed["named"] = {word: names.get(value, value) for word, value in step.named.items()}  # type: ignore[arg-type]
        kept.append(step.model_copy(update=changed))
        lines.append(place)
        names[f"%{place + 1}"] = f"%{len(kept)}"
    return Program(tuple(kept), tuple(lines), faults)


def _of_the_whole(steps: Sequence[Step], layers: Sequence[str], suspects: set[str], *, returned: bool) -> list[Fault]:
    """What is missing: the return, and calls of layers."""
    faults: list[Fault] = []
    if not returned:
        faults.append(Fault(None, "The forward returns nothing.", "missing-return", hint="End it with `return …`."))
    called = {step.layer for step in steps if isinstance(step, (Call, Param))} | suspects
    faults += [
        Fault(
            None,
            f"`{name}` is a layer that is never called.",
            "unused-layer",
            hint="Call it in the forward, or remove it: it would be stored and never run.",
            layer=name,
        )
        for name in layers
        if name not in called
    ]
    return faults


def _unused_values(steps: Sequence[Step], lines: Sequence[int]) -> list[Fault]:
    used = {name for step in steps for name in step.references()}
    return [
        Fault(
            lines[place], f"What {_named(step)} makes here is never used.", "unused-value", hint="Remove it, or use it."
        )
        for place, step in enumerate(steps)
        if not isinstance(step, Return) and f"%{place + 1}" not in used
    ]


def _named(step: Step) -> str:
    return f"`{step.layer}`" if isinstance(step, Call) else step.op


_NEVER_IN_PLACE: Final = "Leave it out: operations are never in place."
_NOT_CALLED: Final = "`{}` is a parameter or a buffer: it is a value and is not called."
_READ_IT: Final = "Write its name alone, as in `x + scale`."
_MOST_HINTS: Final = 20
_MOST_CHOICES: Final = 500
"""Looking for the nearest name is slow, and nobody reads the hundredth hint."""


def _unknown_callee(
    line: int, name: str, layers: Sequence[str], operations: Sequence[str], suspects: set[str], *, told: int
) -> Fault:
    if name.startswith("__"):
        return Fault(line, f"`{name[:64]}` is not part of the forward language.", "not-in-language")
    hint = nearest_hint(name, [*layers[:_MOST_CHOICES], *operations]) if told < _MOST_HINTS else None
    if operations and name in _INSTEAD:
        return Fault(
            line, f"`{name}` is not an operation here.", "unknown-layer", hint=_written(name, layers), got=name
        )
    meant = hint.split("'")[1] if hint else None
    also = ""
    if meant is not None:
        suspects.add(meant)
        also = f"; did you mean `{meant}`?"
    what = "a layer" if not operations or meant in layers else "a layer or an operation"
    return Fault(
        line,
        f"`{name[:64]}` is not {what} here{also or '.'}",
        "unknown-layer",
        hint=f"Write `{meant}`." if meant else f"The layers here are: {', '.join(layers[:20])}." if layers else None,
        got=name[:64],
    )


_INSTEAD: Final[Mapping[str, str]] = {
    "view": "`flatten(x)` for one long row, or `reshape(x, …)` with the sizes that come after the batch",
    "size": "the numbers themselves; in `reshape(x, …)` one size may be -1, and the batch is left out",
    "shape": "the numbers themselves; in `reshape(x, …)` one size may be -1, and the batch is left out",
    "numel": "the numbers themselves",
    "t": "`transpose(x, 1, 2)`",
    "T": "`transpose(x, 1, 2)`",
    "contiguous": "nothing: every operation takes its values as they are",
    "clone": "nothing: no operation changes its values",
    "detach": "nothing: put what must not learn into a layer of its own",
    "to": "`cast(x, dtype=…)` for another dtype; the device is chosen for the whole net",
    "cuda": "nothing: the device is chosen for the whole net",
    "cpu": "nothing: the device is chosen for the whole net",
    "float": "`cast(x)`",
    "to_float": "`cast(x)`",
    "double": '`cast(x, "float64")`',
    "long": '`cast(x, "int64")`',
    "int": '`cast(x, "int32")`',
    "bool": '`cast(x, "bool")`',
    "type": "`cast(x, dtype=…)`",
    "einsum": "`x @ y`, with `transpose`, `unsqueeze` and `sum` around it",
    "expand": "`expand_batch(constant, x)`; other sizes of 1 meet every size as they are",
    "repeat": "`expand_batch(constant, x)`, or `cat([x, x], dim=1)`",
    "arange": "`positions(x, dim=1)`",
    "triu": "`causal_mask(x, dim=1)`",
    "tril": "`logical_not(causal_mask(x, dim=1))`",
    "masked_fill_": "`masked_fill(x, mask, value)`",
    "clip": "`clamp(x, min=…, max=…)`",
    "upsample": "`interpolate(x, …)`",
    "relu_": "`relu(x)`",
    "swapaxes": "`transpose(x, …)`",
    "concat": "`cat([a, b], dim=1)`",
    "concatenate": "`cat([a, b], dim=1)`",
    "multiply": "`x * y`",
    "subtract": "`x - y`",
    "divide": "`x / y`",
    "mm": "`x @ y`",
    "bmm": "`x @ y`",
    "add_": "`x + y`",
    "mul_": "`x * y`",
    "print": "nothing: the judgement's summary has the shape of what every layer gives",
    "len": "the numbers themselves",
    "range": "the calls one after the other, or put the layers into a Repeat",
    "pack_padded_sequence": "`out, (h, c) = lstm(x, lengths=lengths)`: the layer packs by itself",
    "pad_packed_sequence": "`out, (h, c) = lstm(x, lengths=lengths)`: the layer packs by itself",
    "pack_sequence": "`out, (h, c) = lstm(x, lengths=lengths)`: the layer packs by itself",
    "max": "`amax(x, dim=…)`, or `maximum(x, y)` of two values",
    "min": "`amin(x, dim=…)`, or `minimum(x, y)` of two values",
}
"""What PyTorch's own words are in this language, where it has another word."""


def resembles_operation(name: str) -> bool:
    """Whether a word that is no layer was meant as an operation, or is PyTorch's word for one."""
    return name in _INSTEAD or nearest_hint(name, OPERATIONS) is not None


def _written(name: str, layers: Sequence[str]) -> str:
    """What to write instead of a method or a function of a module."""
    if name in BY_OPERATION or name in layers:
        return f"Write `{name}(…)`."
    if name in _INSTEAD:
        return f"Write {_INSTEAD[name]}."
    return (
        nearest_hint(name, OPERATIONS) or "Call a layer, or an operation such as relu, flatten, cat or mean, by name."
    )


class _Refused(Exception):
    """An expression is not in the language; caught per expression, so that a line can show several mistakes."""

    def __init__(self, detail: str, code: str = "not-in-language", *, hint: str | None = None, got: str | None = None):
        self.detail = detail
        self.code = code
        self.hint = hint
        self.got = got
        super().__init__(detail)


_ALLOWED: Final = re.compile(r"[A-Za-z0-9_ \t=+\-*/@()\[\],.:'\"<>!%&|^~]*")
_GLUED: Final = re.compile(r"(?<![A-Za-z0-9_.])[0-9][0-9_.]*(?![eE][+-]?[0-9])[A-Za-z]")
_WORD: Final = re.compile(r"(?<![A-Za-z0-9_.])[A-Za-z_][A-Za-z0-9_]*(?!\s*\()(?![A-Za-z0-9_])")
_TARGETS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FIRST_WORD: Final = re.compile(r"\s*([a-z]+)(?![A-Za-z0-9_])")
_CHOICE: Final = (
    "Dropout and batch norms know by themselves whether the net trains. Write where(condition, a, b) for a choice by "
    'element; a layer that may be left out has an "if" of its own.'
)
_AGAIN: Final = "Write the calls one after the other, or put the layers into a Repeat and call that."
_PART: Final = "Put its layers into a Graph or a block of their own, and call that by its name."
_NOTHING: Final = "Leave it out: a line is `name = expression` or `return expression`."
_STATEMENTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("if", "elif", "else"), _CHOICE),
    **dict.fromkeys(("for", "while", "break", "continue"), _AGAIN),
    **dict.fromkeys(("def", "class"), _PART),
    **dict.fromkeys(("import", "from"), "Leave it out: the operations are there by their names."),
    **dict.fromkeys(("with", "try", "except", "finally", "pass", "del", "assert", "raise"), _NOTHING),
    **dict.fromkeys(("global", "nonlocal", "async", "await", "yield"), _NOTHING),
}
"""Words that statements of Python begin with, and the way without them."""
_ARITHMETIC: Final[Mapping[type[ast.operator], str]] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.MatMult: "matmul",
}

_Value: TypeAlias = str | int | float | None
"""The name of a value, a number, or None after a mistake that has been told."""


@dataclass
class _Compiler:
    """Reads lines one after the other and keeps what they say."""

    inputs: tuple[str, ...]
    layers: tuple[str, ...]
    free: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    steps: list[Step] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)
    unread: bool = False

    def __post_init__(self) -> None:
        self.names: dict[str, _Value] = {name: name for name in self.inputs}
        self.known_layers = frozenset(self.layers)
        self.items: dict[tuple[str, int], str] = {}
        self.read: dict[str, str | None] = {}
        self.number = 0
        self.returned = False

    def line(self, number: int, text: str) -> None:
        """Compile one line."""
        self.number = number
        try:
            statement = _parse(text)
        except _Refused as refusal:
            self.unread = True
            self._tell(refusal)
            for name in _TARGETS.findall(text.partition("=")[0]):
                self.names[name] = None  # so that later lines are not blamed for this one
            return
        if self.returned:
            self.faults.append(Fault(number, "This comes after the return and would never run.", "unreachable"))
            return
        try:
            match statement:
                case ast.Return(value=None):
                    self.returned = True
                    raise _Refused("`return` needs a value.", "missing-return")
                case ast.Return(value=ast.expr() as value):
                    self.returned = True
                    self._return(value)
                case ast.Assign(targets=[target], value=value):
                    self._assign(target, value)
                case ast.AugAssign():
                    raise _Refused(
                        f"`{_operator(statement)}=` is not part of the forward language.", hint="Write `x = x + y`."
                    )
                case ast.Expr(value=value):
                    told = len(self.faults)
                    self._value(value)
                    if len(self.faults) == told:
                        raise _Refused("What this line computes would be lost.", "unused-value", hint="Write `x = …`.")
                case _:
                    raise _Refused(f"{_kind(statement)} is not part of the forward language.")
        except _Refused as refusal:
            self.unread = True
            self._tell(refusal)

    def _tell(self, refusal: _Refused) -> None:
        self.faults.append(Fault(self.number, refusal.detail, refusal.code, hint=refusal.hint, got=refusal.got))

    def _return(self, node: ast.expr) -> None:
        nodes = node.elts if isinstance(node, (ast.Tuple, ast.List)) else [node]
        values = [self._value(item) for item in nodes]
        names = [value for value in values if isinstance(value, str)]
        if any(isinstance(value, (int, float)) for value in values):
            raise _Refused("A graph returns values, not numbers.", "wrong-argument")
        if not values:
            raise _Refused("`return` needs a value.", "missing-return")
        if len(names) == len(values):
            self._add(Return, {"op": "return", "inputs": names})

    def _assign(self, target: ast.expr, node: ast.expr) -> None:
        if (
            isinstance(target, (ast.Tuple, ast.List))
            and isinstance(node, (ast.Tuple, ast.List))
            and len(target.elts) == len(node.elts)
        ):
            values = [self._value(item) for item in node.elts]  # all before any name changes: `a, b = b, a`
            for one, value in zip(target.elts, values, strict=True):
                self._bind(one, value, 0)
            return
        self._bind(target, self._value(node), 0)

    def _bind(self, target: ast.expr, value: _Value | _Part, depth: int) -> None:
        if isinstance(target, ast.Name):
            self.names[_variable(target.id)] = value  # type: ignore[assignment] # parts are read in _name alone
            return
        if not isinstance(target, (ast.Tuple, ast.List)) or depth > _MAX_NESTING:
            raise _Refused(
                f"{_kind(target)} cannot be assigned to: values have names.", hint="Write `name = expression`."
            )
        if not self._is_as_many(len(target.elts), value):
            value = None
        for index, one in enumerate(target.elts):
            if isinstance(value, (int, float)):
                raise _Refused("A number cannot be taken apart.", "wrong-argument")
            # Which of the several values are used shows later, so that `out, _ = f(x)` leaves no step behind.
            self._bind(one, None if value is None else _Part(value, index), depth + 1)

    def _is_as_many(self, names: int, value: _Value | _Part) -> bool:
        """Whether there are as many names as an operation gives values, as far as its constants say; tells if not."""
        if not isinstance(value, str) or not value.startswith("%"):
            return True
        step = self.steps[int(value[1:]) - 1]
        if step.pieces is None or step.pieces == names:
            return True
        detail = f"{step.op} gives {_count(step.pieces)}, but there are {names} names for them."
        hint = "Write _ for a value that is not needed."
        self._tell(_Refused(detail, "wrong-argument", hint=hint, got=str(names)))
        return False

    def _value(self, node: ast.expr, depth: int = 0) -> _Value:
        """The value of an expression; a mistake in it is told and gives None."""
        try:
            if depth > _MAX_NESTING:
                raise _Refused(f"Expressions nest at most {_MAX_NESTING} deep; use more lines.", "too-large")
            return self._expression(node, depth)
        except _Refused as refusal:
            if refusal.code == "not-in-language":
                self.unread = True
            self._tell(refusal)
            return None

    def _expression(self, node: ast.expr, depth: int) -> _Value:
        match node:
            case ast.Name(id=name):
                return self._name(name)
            case ast.Constant(value=bool() | None as word):
                raise _Refused(f"`{word}` is not a value here.", "wrong-argument")
            case ast.Constant(value=int() | float() as number):
                return _number(number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self._value(operand, depth + 1)
                if isinstance(value, (int, float)):
                    return -value
                return None if value is None else self._add(Negative, {"op": "neg", "inputs": [value]})
            case ast.BinOp(left=left, op=operator, right=right):
                op = _ARITHMETIC.get(type(operator))
                if op is None:
                    hint = _instead_of(node) or "There are + - * / @."
                    raise _Refused(f"`{_operator(node)}` is not part of the forward language.", hint=hint)
                return self._arithmetic(op, self._value(left, depth + 1), self._value(right, depth + 1))
            case ast.Call(func=ast.Name(id=name)):
                return self._call(name, node, depth)
            case ast.Call(func=ast.Attribute(attr=name)):
                raise _Refused(
                    f"`….{name[:64]}(…)` is not part of the forward language: attributes are not.",
                    hint=_written(name, self.layers),
                )
            case ast.Call():
                raise _Refused(
                    "Only a layer or an operation can be called, by its name.", hint="Write `fc1(x)`, or `relu(x)`."
                )
            case ast.Attribute(attr=name) if name in _INSTEAD:
                raise _Refused(
                    f"`….{name}` is not part of the forward language: attributes are not.", hint=_written(name, ())
                )
            case ast.Subscript(value=inner, slice=index):
                return self._index(inner, index, depth)
            case _:
                raise _Refused(f"{_kind(node)} is not part of the forward language.", hint=_instead_of(node))

    def _name(self, name: str) -> _Value:
        if name in self.names:
            return self._whole(self.names[name])
        if name in self.free:
            if name not in self.read:
                self.read[name] = self._add(Param, {"op": "param", "layer": name})
            return self.read[name]
        if name in self.known_layers:
            raise _Refused(f"`{name}` is a layer.", "wrong-argument", hint=f"Call it, as in `{name}(x)`.")
        if name.startswith("__"):
            raise _Refused(f"`{name[:64]}` is not part of the forward language.")
        raise _Refused(
            f"`{name[:64]}` is not defined here.",
            "undefined-value",
            hint=self._nearest_value(name) or f"The values that this graph is given are: {', '.join(self.inputs)}.",
            got=name[:64],
        )

    def _nearest_value(self, name: str) -> str | None:
        near = len(self.faults) < _MOST_HINTS
        return nearest_hint(name, list(self.names)[:_MOST_CHOICES]) if near else None

    def _whole(self, value: _Value | _Part) -> _Value:
        if not isinstance(value, _Part):
            return value
        of = self._whole(value.of)
        return self._item(of, value.index) if isinstance(of, str) else None

    def _item(self, of: str, index: int) -> str | None:
        if (of, index) not in self.items:
            made = self._add(Item, {"op": "item", "inputs": [of], "index": index})
            if made is None:
                return None
            self.items[of, index] = made
        return self.items[of, index]

    def _arithmetic(self, op: str, left: _Value, right: _Value) -> _Value:
        if left is None or right is None:
            return None
        if isinstance(left, str) or isinstance(right, str):
            return self._add(BY_OPERATION[op], {"op": op, "inputs": [left, right]})
        match op:
            case "add":
                return _number(left + right)
            case "sub":
                return _number(left - right)
            case "mul":
                return _number(left * right)
            case "div" if right:
                return _number(left / right)
            case "div":
                raise _Refused("A division by zero.", "wrong-argument")
            case _:
                raise _Refused(f"{op} takes values, not numbers.", "wrong-argument")

    def _call(self, name: str, node: ast.Call, depth: int) -> _Value:
        if any(isinstance(arg, ast.Starred) for arg in node.args) or any(word.arg is None for word in node.keywords):
            raise _Refused("`*` and `**` arguments are not part of the forward language.")
        if name in self.known_layers or name in self.absent:
            return self._call_layer(name, node, depth)
        kind = BY_OPERATION.get(name)
        if kind is not None and kind is not GetItem:
            return self._call_operation(name, kind, node, depth)
        for arg in node.args:  # mistakes inside are told all the same
            if isinstance(arg, (ast.Name, ast.Call, ast.BinOp)) and not name.startswith("__"):
                self._value(arg, depth + 1)
        told = len(self.faults)
        self.faults.append(_unknown_callee(self.number, name, self.layers, OPERATIONS, self.suspects, told=told))
        return None

    def _call_layer(self, name: str, node: ast.Call, depth: int) -> _Value:
        self.suspects.add(name)  # it is called, even if this call is wrong
        if name in self.free:
            raise _Refused(_NOT_CALLED.format(name), "wrong-argument", hint=_READ_IT)
        values = [self._argument(arg, depth + 1) for arg in node.args]
        named: dict[str, Any] = {}
        for word in node.keywords:
            argument = word.arg or ""
            if argument in named:
                raise _Refused(f"{name} gets `{argument[:64]}` twice.", "wrong-argument")
            match word.value:
                case ast.Constant(value=bool() as flag):
                    named[argument] = flag
                case value:
                    named[argument] = self._argument(value, depth + 1)
        if not values:
            raise _Refused(f"Layer `{name}` is called without a value.", "wrong-argument", hint=f"Write `{name}(x)`.")
        if any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (*values, *named.values())):
            raise _Refused(
                f"Layer `{name}` takes values, not numbers; its settings stand in the layer.", "wrong-argument"
            )
        if None in values or None in named.values():
            return None
        if name in self.absent:
            return values[0]
        return self._add(Call, {"op": "call", "layer": name, "inputs": values, "named": named})

    def _argument(self, node: ast.expr, depth: int) -> _Value:
        """A value, or several in parentheses as in `lstm(x, (h, c))`."""
        if not isinstance(node, (ast.Tuple, ast.List)):
            return self._value(node, depth)
        values = [self._value(item, depth + 1) for item in node.elts]
        if None in values:
            return None
        return self._add(Tuple, {"op": "tuple", "inputs": values})

    def _call_operation(self, name: str, kind: type[StepDocument], node: ast.Call, depth: int) -> _Value:
        values, rest = self._values_of(name, kind, node)
        inputs = [self._value(value, depth + 1) for value in values]
        options: dict[str, Any] = {}
        free = [member for member in kind.model_fields if member not in ("op", "inputs")]
        if kind.spread and len(rest) > 1:
            options[kind.spread] = [_constant(arg) for arg in rest]
        elif len(rest) > len(free):
            most = len(free) + len(values)
            raise _Refused(f"{name} takes at most {most} arguments, but gets {len(node.args)}.", "wrong-argument")
        else:
            options.update((member, _constant(arg)) for member, arg in zip(free, rest, strict=False))
        for word in node.keywords:
            member = word.arg or ""
            if kind.tensors is not None and member in kind.values and member not in free:
                continue  # a value, which stands among `values`
            if member not in free:
                raise _Refused(
                    f"{name} has no argument `{member[:64]}`.",
                    "wrong-argument",
                    hint=_NEVER_IN_PLACE
                    if member == "inplace"
                    else nearest_hint(member, free) or (f"It has: {', '.join(free)}." if free else None),
                )
            if member in options:
                raise _Refused(f"{name} gets `{member}` twice.", "wrong-argument")
            options[member] = _constant(word.value)
        if None in inputs:
            return None
        return self._add(kind, {"op": name, "inputs": inputs, **options})

    def _values_of(self, name: str, kind: type[StepDocument], node: ast.Call) -> tuple[list[ast.expr], list[ast.expr]]:
        """The values that an operation is given, by position or by name, and the constants that come after them."""
        if kind.tensors is None:
            if node.args and isinstance(node.args[0], (ast.List, ast.Tuple)):
                return node.args[0].elts, node.args[1:]
            return node.args, []
        named = {word.arg: word.value for word in node.keywords if word.arg in kind.values}
        most = len(kind.values)
        values, rest = list(node.args[:most]), list(node.args[most:])
        for place, argument in enumerate(kind.values):
            if argument in named and argument not in kind.model_fields:
                if place < len(values):
                    raise _Refused(f"{name} gets `{argument}` twice.", "wrong-argument")
                if place > len(values):
                    break
                values.append(named[argument])
        while len(values) > kind.tensors and isinstance(values[-1], ast.Constant) and values[-1].value is None:
            values.pop()  # `None` for a value that may be left out
        if len(values) < kind.tensors:
            raise _Refused(
                f"{name} takes {_count(kind.tensors)}, but gets {len(values)}.",
                "wrong-argument",
                hint=f"It takes {' and '.join(kind.values[: kind.tensors])}." if kind.tensors > 1 else None,
                got=str(len(values)),
            )
        return values, rest

    def _index(self, inner: ast.expr, index: ast.expr, depth: int) -> _Value:
        value = self._value(inner, depth + 1)
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        constants = [_index_constant(part) for part in parts]
        if value is None:
            return None
        if not isinstance(value, str):
            raise _Refused("A number has no elements.", "wrong-argument")
        if len(constants) == 1 and isinstance(constants[0], int) and constants[0] >= 0:
            return self._item(value, constants[0])  # the judge refuses it where the value is a tensor
        return self._add(GetItem, {"op": "getitem", "inputs": [value], "index": constants})

    def _add(self, kind: type[StepDocument], members: dict[str, Any]) -> str | None:
        try:
            step = kind.model_validate(members)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                where = ".".join(str(part) for part in item["loc"][:1])
                if where == "inputs" and any(isinstance(value, (int, float)) for value in members["inputs"]):
                    self.faults.append(_not_a_value(self.number, members["op"], members["inputs"], item["msg"]))
                    continue
                self.faults.append(_wrong_member(self.number, members, where, item))
            return None
        self.steps.append(step)  # type: ignore[arg-type] # every kind in the table is a Step
        self.at.append(self.number)
        return f"%{len(self.steps)}"


def _wrong_member(line: int, members: Mapping[str, Any], name: str, item: Any) -> Fault:
    """What pydantic says of one argument of an operation, in our words."""
    op, code = members["op"], "batch-mixed" if item["type"] == "batch_dim" else "wrong-argument"
    if item["type"] == "missing":
        return Fault(line, f"{op} needs `{name}`.", code, hint=f"Write {op}(…, {name}=…).")
    if item["type"] == "literal_error":
        allowed = str(item["ctx"]["expected"])
        return Fault(
            line,
            f"This is no `{name}` that {op} knows.",
            code,
            hint=nearest_hint(str(item["input"]), re.findall(r"'([^']*)'", allowed)),
            expected=allowed,
            got=str(item["input"])[:64],
        )
    return Fault(line, f"{op}: `{name}`: {item['msg'].rstrip('.')}.", code)


def _not_a_value(line: int, op: str, inputs: Sequence[_Value], message: str) -> Fault:
    """A number where an operation takes a value."""
    first = next(value for value in inputs if isinstance(value, (int, float)))
    told = f"{op} takes a value here, and gets the number {first}."
    return Fault(line, message if op == "where" else told, "wrong-argument", hint=_FOR_NUMBERS.get(op), got=str(first))


_FOR_NUMBERS: Final[Mapping[str, str]] = {
    "maximum": "Write clamp(x, min=…).",
    "minimum": "Write clamp(x, max=…).",
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), "Put the value first, as in gt(x, 0) for 0 < x."),
}


@dataclass(frozen=True, slots=True)
class _Part:
    """One of several values, not yet asked for."""

    of: str | _Part
    index: int


def _parse(text: str) -> ast.stmt:
    if len(text) > MAX_LINE_LENGTH:
        raise _Refused(f"A line has at most {MAX_LINE_LENGTH} characters.", "too-large", got=str(len(text)))
    if not text.strip():
        raise _Refused("This line is empty.", "syntax", hint="Remove it.")
    if "#" in text:
        hint = 'Remove it; the author\'s own words stand in "labels" of the document.'
        raise _Refused("Comments are not part of the forward language.", hint=hint)
    first = _FIRST_WORD.match(text)
    if first is not None and first[1] in _STATEMENTS:
        raise _Refused(f"`{first[1]}` is not part of the forward language.", hint=_STATEMENTS[first[1]])
    if not _ALLOWED.fullmatch(text) or _GLUED.search(text):
        # Besides being no part of the language, such text makes the parser warn, or read two letters as one name.
        raise _Refused("This line has characters that are not part of the forward language.")
    try:
        module = ast.parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _Refused(
            f"This line cannot be read: {getattr(error, 'msg', None) or 'too deeply nested'}.",
            "syntax",
            hint="A line is `name = expression` or `return expression`.",
        ) from None
    if len(module.body) != 1:
        raise _Refused("A line holds one statement.", "syntax")
    return module.body[0]


def _number(value: int | float) -> Number:
    try:
        return tidy(value)
    except (PydanticCustomError, OverflowError):
        raise _Refused("Numbers are finite, and no larger than float32 holds.", "not-finite") from None


def _constant(node: ast.expr, depth: int = 0) -> Any:
    """A constant argument: a number, a word, true, false, none, or a list of these."""
    match node:
        case ast.Constant(value=str() | bool() | None):
            return node.value
        case ast.Constant(value=int() | float() as number):
            return _number(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return _number(-number)
        case ast.Tuple(elts=items) | ast.List(elts=items) if depth < 2:
            return [_constant(item, depth + 1) for item in items]
        case _:
            raise _Refused(
                f"{_kind(node)} stands where a constant is needed.", "wrong-argument", hint="Write the number itself."
            )


def _index_constant(node: ast.expr) -> Any:
    if isinstance(node, ast.Slice):
        return [None if part is None else _constant(part) for part in (node.lower, node.upper, node.step)]
    return _constant(node)


def _variable(name: str) -> str:
    if len(name) > 64 or name.startswith("__"):
        raise _Refused(f"`{name[:64]}` is not a name for a value.")
    return name


def _count(n: int) -> str:
    return "1 value" if n == 1 else f"{n} values"


_KINDS: Final[Mapping[type[ast.AST], str]] = {
    ast.Attribute: "An attribute",
    ast.ListComp: "A comprehension",
    ast.SetComp: "A comprehension",
    ast.DictComp: "A comprehension",
    ast.GeneratorExp: "A comprehension",
    ast.Lambda: "`lambda`",
    ast.IfExp: "`if`",
    ast.If: "`if`",
    ast.For: "`for`",
    ast.While: "`while`",
    ast.Import: "`import`",
    ast.ImportFrom: "`import`",
    ast.FunctionDef: "`def`",
    ast.Compare: "A comparison",
    ast.BoolOp: "`and` and `or`",
    ast.Constant: "This constant",
    ast.JoinedStr: "This constant",
    ast.Name: "A name",
    ast.Tuple: "A group of values",
    ast.List: "A list",
    ast.Assign: "A chain of assignments",
    ast.UnaryOp: "This sign",
    ast.Call: "A call",
    ast.Subscript: "An element",
    ast.Slice: "A slice",
    ast.Starred: "`*`",
    ast.NamedExpr: "`:=`",
    ast.Await: "`await`",
    ast.Yield: "`yield`",
    ast.YieldFrom: "`yield`",
    ast.AnnAssign: "A type annotation",
}


def _kind(node: ast.AST) -> str:
    return _KINDS.get(type(node), "This")


_OPERATORS: Final[Mapping[type[ast.operator], str]] = {
    ast.Pow: "**",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.MatMult: "@",
}


def _operator(node: ast.BinOp | ast.AugAssign) -> str:
    return _OPERATORS[type(node.op)]


_AS_CALLS: Final[Mapping[type[ast.AST], str]] = {
    ast.Pow: "pow",
    ast.BitAnd: "logical_and",
    ast.BitOr: "logical_or",
    ast.And: "logical_and",
    ast.Or: "logical_or",
    ast.Not: "logical_not",
    ast.Invert: "logical_not",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}


def _instead_of(node: ast.AST) -> str | None:
    """The call to write instead of an operator that the language has not."""
    match node:
        case ast.BinOp(left=left, op=operator, right=right) if not isinstance(left, ast.Constant):
            op, operands = _AS_CALLS.get(type(operator)), [left, right]
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            op, operands = _AS_CALLS.get(type(operator)), [left, right]
        case ast.BoolOp(op=operator, values=operands):
            op = _AS_CALLS[type(operator)]
        case ast.UnaryOp(op=operator, operand=operand):
            op, operands = _AS_CALLS.get(type(operator)), [operand]
        case ast.IfExp(test=test, body=body, orelse=orelse):
            op, operands = "where", [test, body, orelse]
        case _:
            return None
    return f"Write {op}({', '.join(map(_shortly, operands))})." if op else None


def _shortly(node: ast.expr) -> str:
    """An operand in a hint: its name, its number, or an ellipsis."""
    match node:
        case ast.Name(id=name) if len(name) <= 32:
            return name
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return f"{number:g}"
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            return "-" + _shortly(node.operand)
        case _:
            return "…"


def words_in(forward: Sequence[object]) -> set[str]:
    """The words in lines that may be names of values, and the values that steps read."""
    found: set[str] = set()
    for entry in forward:
        if isinstance(entry, str) and len(entry) <= MAX_LINE_LENGTH:
            found.update(_WORD.findall(entry))
        elif isinstance(entry, Mapping):
            inputs, named = entry.get("inputs"), entry.get("named")
            read = [*inputs] if isinstance(inputs, (list, tuple)) else []
            read += named.values() if isinstance(named, Mapping) else []
            found.update(name for name in read if isinstance(name, str))
    return found


def is_value_name(name: str) -> bool:
    """Whether a graph's input may have this name: lines must be able to say it."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) is not None and not (
        keyword.iskeyword(name) or name.startswith("__")
    )
