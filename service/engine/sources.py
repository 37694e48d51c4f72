"""The `forward` of a class, read from its source text as data and written in the forward language.

The text is parsed with `ast` and walked; nothing of it is ever compiled or run. What decides itself from the instance
that was pickled (`if self.downsample is not None`) is decided; what the forward language cannot say is told, each time
with its line. Knows no file and no torch.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from service.schemas.document import nearest_hint
from service.schemas.steps import OPERATIONS

_MOST_SOURCE: Final = 262_144
_MOST_LINES: Final = 4096
_MOST_DEPTH: Final = 48
_MOST_WALKED: Final = 50_000
"""Expressions that are looked at, each time they come round in a loop."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What is known of the object whose class the source is.

    Args:
        layers: its children by attribute, each with its type's name.
        tensors: its own parameters and buffers.
        constants: attributes that are numbers, texts, true, false or None.
    """

    layers: Mapping[str, str]
    tensors: frozenset[str] = frozenset()
    constants: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Translation:
    """A forward in the forward language; it is whole when there are no problems."""

    inputs: tuple[str, ...]
    lines: tuple[str, ...]
    problems: tuple[str, ...] = ()


def translate(source: str, instance: Instance, *, bare: bool = False) -> Translation:
    """Read the forward of a class, or a `def forward` alone.

    Args:
        source: Python text; anything may stand in it.
        bare: the text is the statements of a forward that takes `x`.
    """
    try:
        if len(source) > _MOST_SOURCE:
            raise _Untranslatable(f"The source has more than {_MOST_SOURCE:,} characters.")
        if bare:
            lines = _dedented(source.expandtabs(4).splitlines()).splitlines()
            methods = _methods("def forward(self, x):\n" + "\n".join(f"    {line}" for line in lines))
            for method in methods.values():
                for node in ast.walk(method):
                    if hasattr(node, "lineno"):
                        node.lineno -= 1  # as the client counts
        else:
            methods = _methods(source)
        forward = methods.get("forward")
        if forward is None:
            raise _Untranslatable("There is no `forward` in this source.")
        return _Translator(instance, methods).whole(forward)
    except _Untranslatable as stop:
        return Translation((), (), (stop.message,))
    except (ValueError, OverflowError, TypeError, RecursionError):
        return Translation((), (), ("The source cannot be read.",))


def classes(source: str) -> dict[str, str]:
    """The text of every class that stands at the top of a source, by name; none where it cannot be read."""
    if "class " not in source or len(source) > _MOST_SOURCE:
        return {}
    try:
        module = ast.parse(_dedented(source.expandtabs(4).splitlines()))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {}
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            text = ast.get_source_segment(_dedented(source.expandtabs(4).splitlines()), node)
            found[node.name] = text or ""
    return found


def is_python(source: str) -> bool:
    """Whether a forward is written as a method is, not in the forward language."""
    return "self." in source or any(line.lstrip().startswith(("def ", "class ")) for line in source.splitlines())


class _Untranslatable(Exception):
    def __init__(self, message: str, node: ast.AST | None = None) -> None:
        line = getattr(node, "lineno", None)
        self.message = f"Line {line}: {message}" if line else message
        super().__init__(self.message)


def _methods(source: str) -> dict[str, ast.FunctionDef]:
    lines = source.expandtabs(4).splitlines()
    text = "\n".join(lines)
    for attempt in (text, _dedented(lines)):
        try:
            module = ast.parse(attempt)
            break
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    else:
        raise _Untranslatable("The source cannot be read as Python.")
    body: Sequence[ast.stmt] = module.body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    if classes:
        with_forward = [node for node in classes if "forward" in {getattr(item, "name", None) for item in node.body}]
        body = (with_forward or classes)[-1].body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def _dedented(lines: Sequence[str]) -> str:
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    return "\n".join(line[min(indents, default=0) :] for line in lines)


# What a Python expression stands for.


@dataclass(frozen=True, slots=True)
class _Text:
    """A value of the forward language: a name, or an expression that is used once."""

    text: str


@dataclass(frozen=True, slots=True)
class _Known:
    """A number, text, true, false or None."""

    value: Any


@dataclass(frozen=True, slots=True)
class _Batch:
    """The number of rows, `x.size(0)`."""


@dataclass(frozen=True, slots=True)
class _Size:
    """A size that only a tensor knows, such as `x.size(2)`."""


@dataclass(frozen=True, slots=True)
class _Zeros:
    """A tensor of zeros, as recurrent layers are given at the start."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Several values."""

    items: tuple[_Value, ...]


@dataclass(frozen=True, slots=True)
class _Packed:
    """A sequence with its lengths, as pack_padded_sequence makes it."""

    text: str
    lengths: str


@dataclass(frozen=True, slots=True)
class _Layer:
    """A child of the instance, not yet called."""

    name: str


_Value: TypeAlias = _Text | _Known | _Batch | _Size | _Zeros | _Group | _Packed | _Layer

_FUNCTIONS: Final[Mapping[str, str]] = {
    **{name: name for name in OPERATIONS if name not in ("getitem", "neg", "add", "sub", "mul", "div")},
    "bmm": "matmul",
    "mm": "matmul",
    "concat": "cat",
    "concatenate": "cat",
    "max_pool1d": "max_pool1d",
    "relu_": "relu",
    "sigmoid_": "sigmoid",
    "tanh_": "tanh",
    "swapaxes": "transpose",
    "neg": "neg",
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "div": "div",
    "multiply": "mul",
    "subtract": "sub",
}
"""torch's names, as functions and methods, and ours."""

_SYMBOLS: Final[Mapping[str, str]] = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_SAME: Final = frozenset({"contiguous", "clone", "to", "cuda", "cpu", "detach", "requires_grad_", "type_as"})
_NAMESPACES: Final = frozenset({"F", "torch", "nn.functional", "torch.nn.functional", "functional", "torch.special"})
_RECURRENT: Final = frozenset({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})
_DROPPED: Final = frozenset({"inplace", "training", "out", "_stacklevel", "recompute_scale_factor"})


class _Translator:
    """Walks one forward and writes lines."""

    def __init__(self, instance: Instance, methods: Mapping[str, ast.FunctionDef]) -> None:
        self._instance = instance
        self._methods = methods
        self._lines: list[str] = []
        self._taken: set[str] = set(instance.layers) | set(instance.tensors) | set(OPERATIONS)
        self._depth = 0
        self._walked = 0
        self._inside = 0

    def whole(self, forward: ast.FunctionDef) -> Translation:
        scope: dict[str, _Value] = {}
        inputs = []
        arguments = forward.args
        if arguments.vararg or arguments.kwarg:
            raise _Untranslatable("`forward` takes `*` or `**` arguments.", forward)
        plain = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
        for argument, default in list(zip(plain, defaults, strict=True))[1:]:
            if default is not None:
                scope[argument.arg] = self._default(default)
                continue
            name = self._fresh(argument.arg, scope)
            scope[argument.arg] = _Text(name)
            inputs.append(name)
        try:
            result = self._body(forward.body, scope)
            if result is None:
                raise _Untranslatable("`forward` returns nothing.", forward)
            self._write(f"return {self._results(result, forward)}")
        except _Untranslatable as stop:
            return Translation(tuple(inputs), tuple(self._lines), (stop.message,))
        except RecursionError:
            return Translation(tuple(inputs), tuple(self._lines), ("The source nests too deeply.",))
        return Translation(tuple(inputs), tuple(self._lines))

    def _default(self, node: ast.expr) -> _Value:
        return _Known(node.value) if isinstance(node, ast.Constant) else _Size()

    def _results(self, value: _Value, node: ast.AST) -> str:
        if isinstance(value, _Group):
            return ", ".join(self._tensor(item, node) for item in value.items)
        return self._tensor(value, node)

    # Statements.

    def _body(self, body: Sequence[ast.stmt], scope: dict[str, _Value]) -> _Value | None:
        """Run through statements; the value of a return, if one is met."""
        for statement in body:
            match statement:
                case ast.Return(value=None):
                    raise _Untranslatable("`return` without a value.", statement)
                case ast.Return(value=ast.expr() as value):
                    return self._value(value, scope)
                case ast.Assign(targets=targets, value=value):
                    found = self._value(value, scope)
                    for target in targets:
                        self._assign(target, found, scope)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._assign(target, self._value(value, scope), scope)
                case ast.AugAssign(target=ast.Name(id=name), op=operator, value=value):
                    left = ast.copy_location(ast.Name(id=name, ctx=ast.Load()), statement)
                    whole = ast.copy_location(ast.BinOp(left=left, op=operator, right=value), statement)
                    self._assign(statement.target, self._value(whole, scope), scope)
                case ast.If(test=test, body=then, orelse=otherwise):
                    result = self._body(then if self._decided(test, scope) else otherwise, scope)
                    if result is not None:
                        return result
                case ast.For():
                    result = self._loop(statement, scope)
                    if result is not None:
                        return result
                case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Assert():
                    continue
                case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
                    continue
                case ast.Expr(value=ast.Call() as call) if _is_flatten_parameters(call):
                    continue
                case _:
                    raise _Untranslatable(f"`{_shown(statement)}` is no part of the forward language.", statement)
        return None

    def _assign(self, target: ast.expr, value: _Value, scope: dict[str, _Value]) -> None:
        match target:
            case ast.Name(id=name):
                if isinstance(value, _Text) and not value.text.isidentifier():
                    fresh = self._fresh(name, scope)
                    self._write(f"{fresh} = {value.text}")
                    value = _Text(fresh)
                scope[name] = value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                if isinstance(value, _Text):
                    for part, item in zip(parts, self._unpacked(parts, value, target, scope), strict=True):
                        self._assign(part, item, scope)
                elif isinstance(value, _Group) and len(value.items) == len(parts):
                    for part, item in zip(parts, value.items, strict=True):
                        self._assign(part, item, scope)
                else:
                    raise _Untranslatable("These values cannot be taken apart.", target)
            case _:
                raise _Untranslatable(f"`{_shown(target)}` is assigned to.", target)

    def _unpacked(
        self, parts: Sequence[ast.expr], value: _Text, node: ast.AST, scope: Mapping[str, _Value]
    ) -> list[_Value]:
        """Take a call's several values apart in one line, as `a, (b, c) = f(x)`."""

        def named(part: ast.expr) -> tuple[str, _Value]:
            match part:
                case ast.Name(id=name):
                    fresh = self._fresh(name, scope)
                    return fresh, _Text(fresh)
                case ast.Tuple(elts=inner) | ast.List(elts=inner):
                    both = [named(item) for item in inner]
                    return f"({', '.join(text for text, _ in both)})", _Group(tuple(item for _, item in both))
                case _:
                    raise _Untranslatable(f"`{_shown(part)}` is assigned to.", node)

        both = [named(part) for part in parts]
        self._write(f"{', '.join(text for text, _ in both)} = {value.text}")
        return [item for _, item in both]

    def _loop(self, loop: ast.For, scope: dict[str, _Value]) -> _Value | None:
        match loop.iter:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self._instance.layers:
                self._through(name, loop, scope)
                return None
            case ast.Call(func=ast.Name(id="range"), args=[bound]):
                count = self._value(bound, scope)
                if not isinstance(count, _Known) or not isinstance(count.value, int) or not 0 <= count.value <= 64:
                    raise _Untranslatable("A loop needs a known number of rounds, 64 at most.", loop)
                for turn in range(count.value):
                    self._walked += 1
                    self._assign(loop.target, _Known(turn), scope)
                    result = self._body(loop.body, scope)
                    if result is not None:
                        return result
                return None
            case _:
                raise _Untranslatable(f"`for … in {_shown(loop.iter)}` is no part of the forward language.", loop)

    def _through(self, name: str, loop: ast.For, scope: dict[str, _Value]) -> None:
        """`for layer in self.layers: x = layer(x)`, which is what a Sequential does."""
        match loop.target, loop.body:
            case (
                ast.Name(id=each),
                [
                    ast.Assign(
                        targets=[ast.Name(id=out)], value=ast.Call(func=ast.Name(id=called), args=[ast.Name(id=given)])
                    )
                ],
            ) if called == each and out == given and isinstance(scope.get(given), _Text):
                value = scope[given]
                assert isinstance(value, _Text)
                self._assign(loop.body[0].targets[0], _Text(f"{name}({value.text})"), scope)  # type: ignore[attr-defined]
            case _:
                raise _Untranslatable(
                    f"The loop over `self.{name}` does more than call one layer after the other.", loop
                )

    def _decided(self, test: ast.expr, scope: dict[str, _Value]) -> bool:
        """What a test on known things says."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return not self._decided(inner, scope)
            case ast.BoolOp(op=ast.And(), values=values):
                return all(self._decided(value, scope) for value in values)
            case ast.BoolOp(op=ast.Or(), values=values):
                return any(self._decided(value, scope) for value in values)
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]):
                # A child that is None is not in the file: what nothing is known of is taken for one.
                value = _Known(None) if self._is_unknown(left) else self._value(left, scope)
                return (value == _Known(None)) == isinstance(op, ast.Is)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                a, b = self._value(left, scope), self._value(right, scope)
                if isinstance(a, _Known) and isinstance(b, _Known) and type(op) in _COMPARISONS:
                    try:
                        return bool(_COMPARISONS[type(op)](a.value, b.value))
                    except TypeError:
                        pass
            case ast.Call(func=ast.Name(id="hasattr"), args=[ast.Name(id="self"), ast.Constant(value=str() as name)]):
                return name in {*self._instance.layers, *self._instance.tensors, *self._instance.constants}
            case ast.Attribute(value=ast.Name(id="self"), attr="training"):
                raise _Untranslatable("What is done depends on `self.training`.", test)
            case _:
                value = self._value(test, scope)
                if isinstance(value, _Known):
                    return bool(value.value)
        raise _Untranslatable(f"`if {_shown(test)}` depends on the data.", test)

    def _is_unknown(self, node: ast.expr) -> bool:
        known = {*self._instance.layers, *self._instance.tensors, *self._instance.constants, *self._methods}
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return name not in known and name != "training"
            case _:
                return False

    # Expressions.

    def _value(self, node: ast.expr, scope: dict[str, _Value]) -> _Value:
        self._depth += 1
        self._walked += 1
        try:
            if self._walked > _MOST_WALKED:
                raise _Untranslatable("The forward does too much to be followed: its loops or methods multiply.", node)
            if self._depth > _MOST_DEPTH * 4:
                raise _Untranslatable("The source nests too deeply.", node)
            return self._expression(node, scope)
        finally:
            self._depth -= 1

    def _expression(self, node: ast.expr, scope: dict[str, _Value]) -> _Value:
        match node:
            case ast.Name(id=name):
                if name in scope:
                    return scope[name]
                raise _Untranslatable(f"`{name}` is not known.", node)
            case ast.Constant(value=constant):
                return _Known(constant)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return _Group(tuple(self._value(item, scope) for item in items))
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._attribute(name, node)
            case ast.Attribute(attr="shape"):
                return _Group((_Batch(), *[_Size()] * 7))
            case ast.Attribute(value=inner, attr="T" | "mT"):
                return _Text(f"transpose({self._tensor(self._value(inner, scope), node)}, -2, -1)")
            case ast.Attribute(attr="device" | "dtype"):
                return _Known(None)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                value = self._value(inner, scope)
                if isinstance(value, _Known) and isinstance(value.value, (int, float)):
                    return _Known(-value.value)
                return _Text(f"-{self._operand(value, node)}")
            case ast.BinOp():
                return self._arithmetic(node, scope)
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                return self._value(then if self._decided(test, scope) else otherwise, scope)
            case ast.Subscript(value=inner, slice=index):
                return self._index(self._value(inner, scope), index, scope, node)
            case ast.Call():
                return self._call(node, scope)
            case _:
                raise _Untranslatable(f"`{_shown(node)}` is no part of the forward language.", node)

    def _attribute(self, name: str, node: ast.AST) -> _Value:
        if name in self._instance.layers:
            return _Layer(name)
        if name in self._instance.tensors:
            return _Text(name)
        if name in self._instance.constants:
            return _Known(self._instance.constants[name])
        raise _Untranslatable(f"`self.{name}` is neither a layer, a tensor nor a number that the file holds.", node)

    def _arithmetic(self, node: ast.BinOp, scope: dict[str, _Value]) -> _Value:
        left, right = self._value(node.left, scope), self._value(node.right, scope)
        if isinstance(left, _Known) and isinstance(right, _Known) and type(node.op) in _NUMBERS:
            try:
                value = _NUMBERS[type(node.op)](left.value, right.value)
            except (TypeError, ValueError, ZeroDivisionError, OverflowError):
                value = None
            if isinstance(value, (int, float)) and abs(value) < 1e15:
                return _Known(value)
        if any(isinstance(side, (_Batch, _Size)) for side in (left, right)):
            return _Size()
        symbol = _OPERATORS.get(type(node.op))
        if symbol:
            return _Text(f"{self._operand(left, node)} {symbol} {self._operand(right, node)}")
        if isinstance(node.op, ast.Pow) and isinstance(right, _Known):
            return _Text(f"pow({self._tensor(left, node)}, {right.value!r})")
        raise _Untranslatable(f"`{_shown(node)}` is no part of the forward language.", node)

    def _index(self, value: _Value, index: ast.expr, scope: dict[str, _Value], node: ast.AST) -> _Value:
        if isinstance(value, _Layer):
            raise _Untranslatable(f"A layer inside `self.{value.name}` is called by itself.", node)
        if isinstance(value, _Group):
            place = self._value(index, scope)
            if isinstance(place, _Known) and isinstance(place.value, int) and -8 <= place.value < len(value.items):
                return value.items[place.value]
            raise _Untranslatable(f"`{_shown(index)}` is no place that is known.", node)
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        text = []
        for part in parts:
            match part:
                case ast.Slice(lower=lower, upper=upper, step=step):
                    ends = [
                        "" if end is None else self._constant(self._value(end, scope), node) for end in (lower, upper)
                    ]
                    text.append(
                        ":".join(ends) + ("" if step is None else f":{self._constant(self._value(step, scope), node)}")
                    )
                case ast.Constant(value=e) if e is ...:
                    raise _Untranslatable("`...` in an index is no part of the forward language.", node)
                case _:
                    text.append(self._constant(self._value(part, scope), node))
        while len(text) > 1 and text[-1] == ":":
            text.pop()
        return _Text(f"{self._operand(value, node)}[{', '.join(text)}]")

    # Calls.

    def _call(self, node: ast.Call, scope: dict[str, _Value]) -> _Value:
        if any(isinstance(arg, ast.Starred) for arg in node.args) or any(word.arg is None for word in node.keywords):
            raise _Untranslatable("`*` and `**` arguments are no part of the forward language.", node)
        match node.func:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self._instance.layers:
                return self._call_layer(name, node, scope)
            case ast.Attribute(attr=("pack_padded_sequence" | "pad_packed_sequence") as name):
                return self._packed(name, node, scope)
            case ast.Name(id=("pack_padded_sequence" | "pad_packed_sequence") as name):
                return self._packed(name, node, scope)
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self._methods:
                return self._inlined(self._methods[name], node, scope)
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self._instance.constants:
                if self._instance.constants[name] is None:
                    raise _Untranslatable(f"`self.{name}` is None and called.", node)
                raise _Untranslatable(f"`self.{name}` is a function of its own.", node)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                near = nearest_hint(name, [*self._instance.layers, *self._methods])
                detail = f"`self.{name}` is neither a layer nor a method that the file holds."
                raise _Untranslatable(f"{detail} {near}" if near else detail, node)
            case ast.Subscript(value=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                raise _Untranslatable(f"A layer inside `self.{name}` is called by itself.", node)
            case ast.Attribute(value=space, attr=name) if _dotted(space) in _NAMESPACES:
                return self._function(name, node, node.args, scope)
            case ast.Attribute(value=inner, attr=name):
                return self._method(inner, name, node, scope)
            case ast.Name(id=name) if isinstance(scope.get(name), _Layer):
                layer = scope[name]
                assert isinstance(layer, _Layer)
                return self._call_layer(layer.name, node, scope)
            case ast.Name(id=("int" | "float") as name):
                value = self._value(node.args[0], scope) if len(node.args) == 1 else _Size()
                if isinstance(value, _Known) and isinstance(value.value, (int, float)) and math.isfinite(value.value):
                    return _Known(int(value.value) if name == "int" else float(value.value))
                return _Size()
            case ast.Name(id=name) if name in _FUNCTIONS:
                return self._function(name, node, node.args, scope)
        raise _Untranslatable(f"`{_shown(node.func)}(…)` is no part of the forward language.", node)

    def _call_layer(self, name: str, node: ast.Call, scope: dict[str, _Value]) -> _Value:
        given: list[str] = []
        lengths: list[str] = []
        for arg in node.args:
            value = self._value(arg, scope)
            if self._instance.layers[name] in _RECURRENT and _is_zero(value):
                continue  # what it starts from by itself
            if isinstance(value, _Packed):
                lengths = [f"lengths={value.lengths}"]
                value = _Text(value.text)
            given.append(self._argument(value, node))
        for word in node.keywords:
            value = self._value(word.value, scope)
            if value == _Known(None):
                continue
            text = str(value.value) if isinstance(value, _Known) and isinstance(value.value, bool) else None
            given.append(f"{word.arg}={text or self._argument(value, node)}")
        return _Text(f"{name}({', '.join([*given, *lengths])})")

    def _packed(self, name: str, node: ast.Call, scope: dict[str, _Value]) -> _Value:
        """Packing is what a recurrent layer does by itself here, when it is given `lengths`."""
        words = {word.arg: word.value for word in node.keywords}
        first = node.args[0] if node.args else words.get("input", words.get("sequence"))
        if first is None:
            raise _Untranslatable(f"`{name}` is called without a sequence.", node)
        text = self._tensor(self._value(first, scope), node)
        if name == "pad_packed_sequence":
            return _Group((_Text(text), _Size()))
        lengths = node.args[1] if len(node.args) > 1 else words.get("lengths")
        if lengths is None:
            raise _Untranslatable("`pack_padded_sequence` is called without lengths.", node)
        return _Packed(text, self._tensor(self._value(lengths, scope), node))

    def _argument(self, value: _Value, node: ast.AST) -> str:
        if isinstance(value, _Group):
            return f"({', '.join(self._tensor(item, node) for item in value.items)})"
        return self._tensor(value, node)

    def _inlined(self, method: ast.FunctionDef, node: ast.Call, scope: dict[str, _Value]) -> _Value:
        """What another method of the class does, in the place of its call."""
        names = [argument.arg for argument in method.args.args][1:]
        inner: dict[str, _Value] = {}
        for name, arg in zip(names, node.args, strict=False):
            inner[name] = self._value(arg, scope)
        inner |= {word.arg or "": self._value(word.value, scope) for word in node.keywords}
        for name, default in zip(reversed(names), reversed(method.args.defaults), strict=False):
            inner.setdefault(name, self._default(default))
        self._depth += 8
        self._inside += 1
        self._taken |= {name for value in scope.values() for name in _names(value)}
        try:
            if self._depth > _MOST_DEPTH * 4:
                raise _Untranslatable(f"`self.{method.name}` calls itself.", node)
            result = self._body(method.body, inner)
        finally:
            self._depth -= 8
            self._inside -= 1
        if result is None:
            raise _Untranslatable(f"`self.{method.name}` returns nothing.", node)
        return result

    def _method(self, inner: ast.expr, name: str, node: ast.Call, scope: dict[str, _Value]) -> _Value:
        if name in ("size", "dim", "numel"):
            places = [self._value(arg, scope) for arg in node.args]
            if name != "size":
                return _Size()
            if not places:
                return _Group((_Batch(), *[_Size()] * 7))
            return _Batch() if places == [_Known(0)] else _Size()
        value = self._value(inner, scope)
        if name in _SAME:
            return value
        if isinstance(value, _Layer) and name == "forward":
            return self._call_layer(value.name, node, scope)
        if name in ("view", "reshape"):
            return self._reshaped(value, [self._value(arg, scope) for arg in node.args], node)
        if name in ("view_as", "expand_as"):
            raise _Untranslatable(f"`.{name}(…)` is no part of the forward language.", node)
        if name == "float":
            return value
        return self._function(name, node, [inner, *node.args], scope, method=True)

    def _reshaped(self, value: _Value, sizes: list[_Value], node: ast.AST) -> _Value:
        if len(sizes) == 1 and isinstance(sizes[0], _Group):
            sizes = list(sizes[0].items)
        text = self._tensor(value, node)
        if len(sizes) < 2 or not (isinstance(sizes[0], _Batch) or sizes[0] == _Known(-1)):
            raise _Untranslatable(
                f"`{_shown(node)}` may fold the batch into other dimensions; the first size should be the batch.", node
            )
        rest = sizes[1:]
        if len(rest) == 1 and (rest[0] == _Known(-1) or isinstance(rest[0], _Size)):
            return _Text(f"flatten({text})")
        if sizes[0] == _Known(-1) and any(item == _Known(-1) or isinstance(item, _Size) for item in rest):
            raise _Untranslatable(f"`{_shown(node)}` leaves two sizes open.", node)
        if sum(isinstance(item, _Size) for item in rest) == 1 and _Known(-1) not in rest:
            rest = [_Known(-1) if isinstance(item, _Size) else item for item in rest]
        return _Text(f"reshape({text}, {', '.join(self._constant(item, node) for item in rest)})")

    def _function(
        self, name: str, node: ast.Call, args: Sequence[ast.expr], scope: dict[str, _Value], *, method: bool = False
    ) -> _Value:
        if name in ("zeros", "zeros_like"):
            return _Zeros()
        if name in ("view", "reshape") and args:
            first, *sizes = [self._value(arg, scope) for arg in args]
            return self._reshaped(first, sizes, node)
        op = _FUNCTIONS.get(name)
        if op is None:
            raise _Untranslatable(f"`{_shown(node.func)}(…)` is no part of the forward language.", node)
        if op in ("dropout", "dropout1d", "dropout2d") and not method and not _follows_training(node):
            raise _Untranslatable(
                f"`{_shown(node)}` drops elements while predicting too: write training=self.training.", node
            )
        values = [self._value(arg, scope) for arg in args]
        words = {word.arg or "": self._value(word.value, scope) for word in node.keywords if word.arg not in _DROPPED}
        if op in ("cat", "stack"):
            group = values[0] if values else words.pop("tensors", None)
            if not isinstance(group, _Group):
                raise _Untranslatable(f"`{name}` joins values that are not told one by one.", node)
            dim = words.pop("dim", words.pop("axis", values[1] if len(values) > 1 else _Known(0)))
            items = ", ".join(self._tensor(item, node) for item in group.items)
            return _Text(f"{op}({items}, dim={self._constant(dim, node)})")
        if op in _SYMBOLS and len(values) == 2:
            return _Text(f"{self._operand(values[0], node)} {_SYMBOLS[op]} {self._operand(values[1], node)}")
        if op == "flatten" and len(values) == 1 and not words:
            raise _Untranslatable("`flatten` without a first dimension folds the batch into the features.", node)
        if op in ("mean", "sum", "amax", "amin") and len(values) == 1 and not words:
            raise _Untranslatable(f"`{name}` over all dimensions mixes the rows of the batch.", node)
        given = [self._given(value, node, first=place == 0) for place, value in enumerate(values)]
        renamed = {"axis": "dim", "input": "input"}
        if "input" in words:
            given.insert(0, self._tensor(words.pop("input"), node))
        given += [f"{renamed.get(key, key)}={self._given(value, node)}" for key, value in words.items()
                  if value != _Known(None)]  # fmt: skip
        return _Text(f"{op}({', '.join(given)})")

    def _given(self, value: _Value, node: ast.AST, *, first: bool = False) -> str:
        if first or isinstance(value, _Text):
            return self._tensor(value, node)
        if isinstance(value, _Group) and any(isinstance(item, _Text) for item in value.items):
            return self._argument(value, node)
        return self._constant(value, node)

    # Writing.

    def _tensor(self, value: _Value, node: ast.AST) -> str:
        match value:
            case _Text(text=text):
                return text
            case _Known(value=bool() | None | str()):
                raise _Untranslatable(f"`{value.value!r}` stands where a tensor should.", node)
            case _Known(value=number):
                return repr(number)
            case _Zeros():
                raise _Untranslatable("A tensor of zeros is made here.", node)
            case _Layer(name=name):
                raise _Untranslatable(f"`self.{name}` is used without being called.", node)
            case _Group():
                raise _Untranslatable("Several values stand where one should.", node)
            case _:
                raise _Untranslatable("A size of a tensor is computed with.", node)

    def _operand(self, value: _Value, node: ast.AST) -> str:
        text = self._tensor(value, node)
        simple = text.isidentifier() or isinstance(value, _Known) or _is_call(text)
        return text if simple else f"({text})"

    def _constant(self, value: _Value, node: ast.AST) -> str:
        match value:
            case _Known(value=float() as number) if not math.isfinite(number):
                raise _Untranslatable("A number that is not finite.", node)
            case _Known(value=constant) if constant is None or isinstance(constant, (bool, int, float, str)):
                return repr(constant)
            case _Group(items=items):
                return f"({', '.join(self._constant(item, node) for item in items)}{',' if len(items) == 1 else ''})"
            case _:
                raise _Untranslatable("A size that only the data tell stands where a constant should.", node)

    def _fresh(self, name: str, scope: Mapping[str, _Value]) -> str:
        """The name, or one like it where a layer, an operation or another variable's value already has it."""
        if name.startswith("__") or len(name) > 48:
            name = "value"
        held = {value for key, held in scope.items() if key != name for value in _names(held)}
        fresh, number = name, 1
        while fresh in self._taken or fresh in held:
            number += 1
            fresh = f"{name}_{number}"
        if self._inside:
            self._taken.add(fresh)  # the callers' variables are out of sight here
        return fresh

    def _write(self, line: str) -> None:
        if len(self._lines) >= _MOST_LINES:
            raise _Untranslatable("The forward is too long.")
        self._lines.append(line)


def _names(value: _Value) -> Iterator[str]:
    if isinstance(value, _Text):
        yield value.text
    elif isinstance(value, _Group):
        for item in value.items:
            yield from _names(item)


def _is_zero(value: _Value) -> bool:
    if isinstance(value, _Group):
        return bool(value.items) and all(_is_zero(item) for item in value.items)
    return isinstance(value, _Zeros) or value == _Known(None)


def _is_call(text: str) -> bool:
    """Whether an expression binds as tightly as a name: `f(…)` or `x[…]` alone."""
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        return False
    return isinstance(body, (ast.Call, ast.Subscript))


def _follows_training(node: ast.Call) -> bool:
    given = [word.value for word in node.keywords if word.arg == "training"] + list(node.args[2:3])
    return any(isinstance(value, ast.Attribute) and value.attr == "training" for value in given)


def _is_flatten_parameters(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "flatten_parameters"


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=name):
            return f"{_dotted(inner)}.{name}"
        case _:
            return ""


def _shown(node: ast.AST) -> str:
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        return type(node).__name__
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:79]}…"


_OPERATORS: Final[Mapping[type[ast.operator], str]] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.MatMult: "@",
}
_NUMBERS: Final[Mapping[type[ast.operator], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b if isinstance(a, (int, float)) and isinstance(b, (int, float)) else None,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b if isinstance(a, (int, float)) else None,
    ast.Pow: lambda a, b: a**b if abs(a) < 1e6 and abs(b) <= 8 else None,
}
_COMPARISONS: Final[Mapping[type[ast.cmpop], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
