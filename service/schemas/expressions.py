"""Arithmetic in documents: `"${hidden * 2}"`, over numbers, booleans and lists of them.

An expression is parsed with `ast`, walked over a whitelist and compiled to closures: nothing is evaluated by Python
itself, and no name means anything but the value that the caller gives it. It does not know where in a document it
stands. Imports no torch.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from service.schemas.document import nearest_hint
from service.schemas.shapes import LARGEST, LARGEST_REAL

MAX_LENGTH: Final = 256
"""Characters of one expression."""

_MAX_NESTING: Final = 32

MAX_ITEMS: Final = 1_024
"""Items of a list, those of lists inside it counted too."""

Value: TypeAlias = "bool | int | float | list[Value]"
"""What an expression is computed from, and what comes out."""

Scope: TypeAlias = Mapping[str, Value]


class Refused(Exception):
    """An expression cannot be read, or has no value."""

    def __init__(self, detail: str, code: str = "expression-invalid", *, hint: str | None = None) -> None:
        self.detail = detail
        self.code = code
        self.hint = hint
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that can be read.

    Args:
        names: every name in it.
    """

    names: frozenset[str]
    compute: Callable[[Scope], Value]

    def value(self, scope: Scope, *, hints: bool = True) -> Value:
        """What it amounts to.

        Args:
            hints: whether to look for the name that may be meant, which is slow.

        Raises:
            Refused: a name is not in the scope, or there is no such value.
        """
        for name in self.names:
            if name not in scope:
                raise Refused(
                    f"`{name}` is not known here.",
                    "unknown-parameter",
                    hint=(nearest_hint(name, scope) if hints else None)
                    or (f"The names here are: {', '.join(list(scope)[:20])}." if scope else 'Add it to "params".'),
                )
        return self.compute(scope)


def is_expression(value: object) -> bool:
    """Whether a JSON value is meant as an expression: it is text that holds `${`."""
    return isinstance(value, str) and "${" in value


@lru_cache(maxsize=4_096)
def read(text: str) -> Expression:
    """The expression in `text`, which is `${…}` and nothing around it.

    Raises:
        Refused: it cannot be read.
    """
    whole = text.strip()
    if not (whole.startswith("${") and whole.endswith("}")) or "${" in whole[2:]:
        raise Refused("An expression is the whole of its text.", hint='Write one ${…} and nothing else: "${a + b}".')
    inner = whole[2:-1].strip()
    if len(inner) > MAX_LENGTH:
        raise Refused(f"An expression has at most {MAX_LENGTH} characters.", "too-large")
    if not _ALLOWED.fullmatch(inner) or _GLUED.search(inner):
        # Besides being no part of the language, such text makes the parser warn.
        raise Refused("This expression has characters that are not part of the language.", hint=_LANGUAGE)
    try:
        tree = ast.parse(inner, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused("This expression cannot be read.", "syntax", hint=_LANGUAGE) from None
    names: set[str] = set()
    compute = _compiled(tree.body, names, 0)
    return Expression(frozenset(names), compute)


def is_constant(value: object) -> bool:
    """Whether a JSON value is one that a name may stand for: a number, a boolean, or a list of these, two deep."""
    if isinstance(value, (list, tuple)):
        inner = [item for one in value[: MAX_ITEMS + 1] for item in (one if isinstance(one, (list, tuple)) else [one])]
        return len(inner) <= MAX_ITEMS and len(value) <= MAX_ITEMS and all(_is_number(item) for item in inner)
    return _is_number(value)


_LANGUAGE: Final = "There are numbers, names, + - * // %, comparisons, and, or, not, `a if b else c`, x[0] and len(x)."

_ALLOWED: Final = re.compile(r"[A-Za-z0-9_ \t+\-*/%()\[\].,<>=!]*")
_GLUED: Final = re.compile(r"(?<![A-Za-z0-9_.])[0-9][0-9_.]*(?![eE][+-]?[0-9])[A-Za-z]|[0-9][eE][+-]?[0-9_]+[A-Za-z]")

_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

_Compute: TypeAlias = Callable[[Scope], Any]


def _compiled(node: ast.expr, names: set[str], depth: int) -> _Compute:
    """A function from the scope to the value of `node`; its names are added to `names`."""
    if depth > _MAX_NESTING:
        raise Refused(f"Expressions nest at most {_MAX_NESTING} deep.", "too-large")

    def part(inner: ast.expr) -> _Compute:
        return _compiled(inner, names, depth + 1)

    match node:
        case ast.Constant(value=bool() as flag):
            return lambda scope: flag
        case ast.Constant(value=int() | float() as number):
            bounded = _bounded(number)
            return lambda scope: bounded
        case ast.Name(id=name):
            if name.startswith("__"):
                raise Refused(f"`{name}` is not part of the language.", hint=_LANGUAGE)
            names.add(name)
            return lambda scope: scope[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            negated = part(operand)
            return lambda scope: -_number(negated(scope))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            denied = part(operand)
            return lambda scope: not _number(denied(scope))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
            return _arithmetic(_ARITHMETIC[type(sign)], part(left), part(right))
        case ast.BinOp(op=ast.Div()):
            raise Refused("`/` is not part of the language.", hint="Write // for whole numbers.")
        case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _COMPARISONS for op in ops):
            return _comparison([_COMPARISONS[type(op)] for op in ops], [part(each) for each in (left, *rest)])
        case ast.BoolOp(op=op, values=values):
            return _either([part(each) for each in values], until=isinstance(op, ast.Or))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, then, other = part(test), part(body), part(orelse)
            return lambda scope: then(scope) if _number(condition(scope)) else other(scope)
        case ast.Subscript(value=ast.Name() | ast.Subscript() as inner, slice=place) if not isinstance(
            place, (ast.Slice, ast.Tuple)
        ):
            return _item(part(inner), part(place), ast.unparse(inner))
        case ast.Call(func=ast.Name(id="len"), args=[(ast.Name() | ast.Subscript()) as inner], keywords=[]):
            return _length(part(inner), ast.unparse(inner))
        case _:
            raise Refused(f"{_kind(node)} is not part of the language.", hint=_LANGUAGE)


def _arithmetic(sign: Callable[[Any, Any], Any], left: _Compute, right: _Compute) -> _Compute:
    def compute(scope: Scope) -> Value:
        try:
            return _bounded(sign(_number(left(scope)), _number(right(scope))))
        except ZeroDivisionError:
            raise Refused("A division by zero.", "out-of-range") from None

    return compute


def _comparison(signs: list[Callable[[Any, Any], bool]], parts: list[_Compute]) -> _Compute:
    def compute(scope: Scope) -> Value:
        left = _number(parts[0](scope))
        for sign, part in zip(signs, parts[1:], strict=True):
            right = _number(part(scope))
            if not sign(left, right):
                return False
            left = right
        return True

    return compute


def _either(parts: list[_Compute], *, until: bool) -> _Compute:
    """`or` (until one is true) and `and` (until one is false), which give one of their parts, as in Python."""

    def compute(scope: Scope) -> Value:
        found: Value = not until
        for part in parts:
            found = _number(part(scope))
            if bool(found) is until:
                break
        return found

    return compute


def _item(of: _Compute, place: _Compute, text: str) -> _Compute:
    def compute(scope: Scope) -> Value:
        items, index = _list(of(scope), text), place(scope)
        if isinstance(index, bool) or not isinstance(index, int):
            raise Refused("A place in a list is a whole number.", "wrong-type")
        if not -len(items) <= index < len(items):
            raise Refused(f"`{text}` has {len(items)} items, and none is number {index}.", "out-of-range")
        return items[index]

    return compute


def _length(of: _Compute, text: str) -> _Compute:
    return lambda scope: len(_list(of(scope), text))


def _list(value: Any, text: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise Refused(f"`{text}` is not a list.", "wrong-type")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        raise Refused("A list stands where a number is needed.", "wrong-type", hint="Take one item: `x[0]`.")
    return value


def _bounded(value: Any) -> Any:
    if not _is_number(value):
        raise Refused("A number is too large.", "out-of-range", hint="Whole numbers reach to 2^53, others to 3.4e38.")
    return value


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) <= LARGEST_REAL
    return isinstance(value, int) and abs(value) <= LARGEST


_KINDS: Final[Mapping[type[ast.AST], str]] = {
    ast.Attribute: "An attribute",
    ast.Call: "A call",
    ast.Constant: "This constant",
    ast.List: "A list",
    ast.ListComp: "A comprehension",
    ast.GeneratorExp: "A comprehension",
    ast.Tuple: "A group of values",
    ast.Subscript: "This index",
    ast.Compare: "This comparison",
    ast.Lambda: "`lambda`",
    ast.NamedExpr: "An assignment",
    ast.UnaryOp: "This sign",
    ast.Starred: "`*`",
}


def _kind(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return "`**`" if isinstance(node.op, ast.Pow) else "This sign"
    return _KINDS.get(type(node), f"`{type(node).__name__}`")
