"""A forward's steps as lines again: values that are used once go back into the expression that uses them.

What a step looks like is for a `Dialect` to say: the forward language itself here, Python in `python_source`. Knows
steps and what layers give, and computes no shape. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from service.schemas.forward import from_lines
from service.schemas.layers import Graph, Layer, Sequential
from service.schemas.operation import Number
from service.schemas.steps import (
    Arithmetic,
    Call,
    GetItem,
    Item,
    MatMul,
    Negative,
    Param,
    Return,
    Step,
    Tuple,
)


def forward_lines(graph: Graph) -> list[str]:
    """The forward in lines of the forward language.

    Compiling them gives the same steps. There are two exceptions, which only steps that were written directly can have:
    a layer whose name is no word of the language, as "0", and one item taken from one value twice.
    """
    names = {name: name for name in graph.inputs}
    readable = statements(graph, _LANGUAGE, names)
    if _compiles(graph, readable):
        return readable
    plain = statements(graph, _LANGUAGE, names, folded=False)
    return plain if _compiles(graph, plain) else readable


def _compiles(graph: Graph, lines: Sequence[str]) -> bool:
    return from_lines(tuple(lines), graph.inputs, graph.names, graph.free).steps == graph.steps


# Expressions. The strengths are Python's, and the forward language has them from there.

COMPARED: Final = 0
SUM: Final = 1
PRODUCT: Final = 2
SIGNED: Final = 3
ATOM: Final = 4


@dataclass(frozen=True, slots=True)
class Text:
    """An expression as text.

    Args:
        strength: how tightly its outermost operator binds.
        depth: how many calls are nested in it.
    """

    text: str
    strength: int = ATOM
    depth: int = 0

    def within(self, strength: int) -> str:
        """The text where an operator of this strength stands next to it: in parentheses when it needs them."""
        return self.text if self.strength >= strength else f"({self.text})"


class Dialect(Protocol):
    """What steps look like."""

    reserved: frozenset[str]
    """Names that no value may have."""

    def expression(self, step: Step, operands: Sequence[Text]) -> Text:
        """One step; the operands are its inputs and then its named arguments that are values."""

    def repeats(self, step: Step) -> bool:
        """Whether the text has its first operand twice, so that it must be a name."""


def called(callee: str, arguments: Sequence[str], operands: Sequence[Text]) -> Text:
    """A call."""
    return Text(f"{callee}({', '.join(arguments)})", ATOM, 1 + max((item.depth for item in operands), default=0))


def operator(step: Arithmetic | MatMul | Negative, operands: Sequence[Text]) -> Text:
    """An arithmetic step with its operator."""
    depth = max(item.depth for item in operands)
    if isinstance(step, Negative):
        # "--x" reads as a slip
        inner = operands[0].text if operands[0].strength == ATOM else f"({operands[0].text})"
        return Text(f"-{inner}", SIGNED, depth)
    sign, strength = _OPERATORS[step.op]
    left, right = operands
    return Text(f"{left.within(strength)} {sign} {right.within(strength + 1)}", strength, depth)


_OPERATORS: Final[Mapping[str, tuple[str, int]]] = {
    "add": ("+", SUM),
    "sub": ("-", SUM),
    "mul": ("*", PRODUCT),
    "div": ("/", PRODUCT),
    "matmul": ("@", PRODUCT),
}


def indexed(step: Item | GetItem, operands: Sequence[Text]) -> Text:
    """An index in brackets."""
    of = operands[0]
    index = str(step.index) if isinstance(step, Item) else ", ".join(map(_index, step.index))
    return Text(f"{of.within(ATOM)}[{index}]", ATOM, of.depth)


def _index(item: Any) -> str:
    if isinstance(item, int):
        return str(item)
    start, stop, step = ("" if part is None else str(part) for part in item)
    return f"{start}:{stop}" + (f":{step}" if step else "")


def grouped(operands: Sequence[Text]) -> Text:
    """Several values in parentheses."""
    inner = ", ".join(item.text for item in operands)
    return Text(f"({inner},)" if len(operands) == 1 else f"({inner})", ATOM, max(item.depth for item in operands))


def constant(value: Any) -> str:
    """A constant argument as it is written: a number, a word, true, false, none, or several."""
    if isinstance(value, str):
        return f'"{value}"'  # one of the words that a document may have there: never the user's own
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(constant, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


class _ForwardLanguage:
    """Every operation is a call by its name; constants that have their default are left out."""

    reserved = frozenset({"_"})

    def repeats(self, step: Step) -> bool:
        return False

    def expression(self, step: Step, operands: Sequence[Text]) -> Text:
        match step:
            case Call():
                return called(step.layer, [item.text for item in arguments(step, operands)], operands)
            case Param():
                return Text(step.layer)
            case Tuple():
                return grouped(operands)
            case Arithmetic() | MatMul() | Negative():
                return operator(step, operands)
            case Item() | GetItem():
                return indexed(step, operands)
            case _:
                given = [item.text for item in operands]
                written = step.model_dump(exclude={"op", "inputs"}, exclude_defaults=True)
                leading = step.tensors is not None
                for name, value in written.items():
                    if name == step.spread and isinstance(value, (list, tuple)):
                        given += map(str, value)
                        continue
                    leading = leading and name != "dim" and type(step).model_fields[name].is_required()
                    given.append(constant(value) if leading else f"{name}={constant(value)}")
                return called(step.op, given, operands)


def arguments(step: Call, operands: Sequence[Text]) -> Iterator[Text]:
    """The arguments of a layer's call, those with a name behind it."""
    rest = iter(operands)
    for _ in step.inputs:
        yield next(rest)
    for name, value in step.named.items():
        text = next(rest) if isinstance(value, str) else Text(str(value))
        yield Text(f"{name}={text.text}", ATOM, text.depth)


_LANGUAGE: Final = _ForwardLanguage()


# Statements.

_LONGEST: Final = 72
"""An expression that is longer is taken apart; with `return` and two indents it fits a line of 88."""
_DEEPEST: Final = 4
"""So many calls in one another are read at a glance, as in `maxpool(relu(bn1(conv1(x))))`."""


def statements(
    graph: Graph, dialect: Dialect, names: Mapping[str, str], *, folded: bool = True, longest: int = _LONGEST
) -> list[str]:
    """A forward as lines of a dialect, in the order of its steps.

    Args:
        names: what the graph's inputs are called.
        folded: whether values that are used once stand where they are used; otherwise each step has its line.
    """
    lines = _Folder(graph, dialect, names, folded=folded, longest=longest).run()
    return _named(lines, dialect, names, reserved=dialect.reserved | set(graph.names))


Shape: TypeAlias = "tuple[Shape, ...] | None"
"""What a layer gives: None for a tensor, or several of these."""

_RESULTS: Final[Mapping[str, Shape]] = {
    "LSTM": (None, (None, None)),
    "GRU": (None, None),
    "RNN": (None, None),
    "LSTMCell": (None, None),
    "MultiheadAttention": (None, None),
}


def results(layer: Layer) -> Shape:
    """How many values a layer gives, and how they are nested."""
    match layer:
        case Graph():
            returned = layer.steps[-1].inputs
            return None if len(returned) == 1 else (None,) * len(returned)
        case Sequential():
            return results(layer.layers[-1]) if layer.layers else None
        case _:
            return (None, None) if getattr(layer, "return_indices", False) else _RESULTS.get(layer.type)


@dataclass(frozen=True, slots=True)
class _Node:
    """A step with what it is made of: other steps, names of values, numbers."""

    step: Step
    operands: tuple[_Node | str | Number, ...]

    def reads(self) -> Iterator[str]:
        """The named values in it, in order."""
        for item in self.operands:
            if isinstance(item, str):
                yield item
            elif isinstance(item, _Node):
                yield from item.reads()


_Target: TypeAlias = "str | tuple[_Target, ...] | None"
"""The value that a statement makes, several of them, or None for one that nobody reads."""


@dataclass(frozen=True, slots=True)
class _Statement:
    target: _Target
    nodes: tuple[_Node | str | Number, ...]
    returns: bool = False

    def reads(self) -> Iterator[str]:
        for item in self.nodes:
            if isinstance(item, str):
                yield item
            elif isinstance(item, _Node):
                yield from item.reads()


def _render(item: _Node | str | Number, dialect: Dialect, names: Mapping[str, str]) -> Text:
    if isinstance(item, str):
        return Text(names.get(item, "out"))
    if isinstance(item, _Node):
        return dialect.expression(item.step, [_render(one, dialect, names) for one in item.operands])
    return Text(repr(item), SIGNED if item < 0 else ATOM)


@dataclass
class _Folder:
    """Decides which steps share a line.

    `pending` are expressions that wait for the step that uses them, in the order in which they are to be computed. A
    step may take what is at the end of it, in that order; before anything else is used by name, it and all before it
    get a line each. So the order of the steps never changes.
    """

    graph: Graph
    dialect: Dialect
    names: Mapping[str, str]
    folded: bool
    longest: int
    done: list[_Statement] = field(default_factory=list)
    pending: list[tuple[str, _Node]] = field(default_factory=list)
    free: dict[str, _Node] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def run(self) -> list[_Statement]:
        steps = self.graph.steps
        self.layers = dict(zip(self.graph.names, self.graph.layers, strict=True))
        self.uses = Counter(name for step in steps for name in step.references())
        self.items: dict[str, list[tuple[str, Item]]] = {}
        others = Counter(name for step in steps if not isinstance(step, Item) for name in step.references())
        for place, step in enumerate(steps, 1):
            if isinstance(step, Item):
                self.items.setdefault(step.inputs[0], []).append((f"%{place}", step))
        self.apart = {name for name in self.items if not others[name]}
        for place, step in enumerate(steps, 1):
            self._step(f"%{place}", step)
        return self.done

    def _step(self, value: str, step: Step) -> None:
        if value in self.gone:
            return  # a statement that takes several values apart has named it
        if isinstance(step, Param) and self.folded:
            self.free[value] = _Node(step, ())
            return
        operands: list[str | Number] = [
            self.same.get(item, item) if isinstance(item, str) else item
            for item in (*step.inputs, *(step.references()[len(step.inputs) :] if isinstance(step, Call) else ()))
        ]
        node = self._taken(step, operands)
        if isinstance(step, Return):
            self._flush(len(self.pending))
            self.done.append(_Statement(None, node.operands, returns=True))
            return
        shape = results(self.layers[step.layer]) if isinstance(step, Call) else (None,) * (step.pieces or 0) or None
        target = self._apart(value, shape)
        self.pending.append((value, node))
        if target is not None or not self.folded or self.uses[value] != 1:
            self._flush(len(self.pending), target)

    def _taken(self, step: Step, operands: list[str | Number]) -> _Node:
        """The step with what it can take from `pending`; what it cannot take gets its own line."""
        waiting = [name for name, _ in self.pending]
        wanted = [item for item in operands if isinstance(item, str) and item in waiting]
        many = self._taking(waiting, wanted)
        if many and not self._readable(step, operands, many):
            many = 0
            self._flush(len(self.pending))
        left = [name for name in wanted if name not in waiting[len(waiting) - many :]]
        if left and self.pending:
            self._flush(1 + max((waiting.index(name) for name in left), default=-1))
        taken = dict(self.pending[len(self.pending) - many :]) if many else {}
        if many:
            del self.pending[len(self.pending) - many :]
        return self._node(step, operands, taken)

    def _taking(self, waiting: list[str], wanted: list[str]) -> int:
        """How many at the end of `waiting` are wanted in the same order."""
        many, rest = 0, list(wanted)
        for name in reversed(waiting):
            if name not in rest:
                break
            del rest[rest.index(name) :]
            many += 1
        return many

    def _readable(self, step: Step, operands: list[str | Number], many: int) -> bool:
        taken = dict(self.pending[len(self.pending) - many :])
        if self.dialect.repeats(step) and operands[0] in taken:
            return False
        node = self._node(step, operands, taken)
        if isinstance(step, Return):
            texts = [_render(item, self.dialect, self.names) for item in node.operands]
            return sum(len(text.text) + 2 for text in texts) <= self.longest + 2
        text = _render(node, self.dialect, self.names)
        return len(text.text) <= self.longest and text.depth <= _DEEPEST

    def _node(self, step: Step, operands: list[str | Number], taken: Mapping[str, _Node]) -> _Node:
        return _Node(
            step,
            tuple(taken.get(item, self.free.get(item, item)) if isinstance(item, str) else item for item in operands),
        )

    def _flush(self, many: int, target: _Target = None) -> None:
        """The first of what is pending become lines; the last of them makes `target`, where it is given."""
        for place, (name, node) in enumerate(self.pending[:many], 1):
            if isinstance(node.step, Tuple):
                self.free[name] = node  # several values together have no name
            else:
                self.done.append(_Statement(target if target is not None and place == many else name, (node,)))
        del self.pending[:many]

    def _apart(self, value: str, shape: Shape) -> _Target:
        """The target that takes a value apart, if nothing reads it whole and its length is known."""
        items = self.items.get(value, [])
        fits = shape is not None and value in self.apart and all(item.index < len(shape) for _, item in items)
        if not fits or not self.folded:
            return None
        assert shape is not None
        parts: list[_Target] = []
        for place, inner in enumerate(shape):
            found = [name for name, item in items if item.index == place]
            self.gone.update(found)
            self.same |= dict.fromkeys(found, found[0] if found else "")
            deeper = self._apart(found[0], inner) if len(found) == 1 else None
            parts.append(deeper if deeper is not None else found[0] if found else None)
        return tuple(parts)


# Names.

_FRESH: Final = ("x", "out", "y", "h", "z", "a", "b", "c", "d", "e", "k", "m", "n", "p", "q", "r", "s", "t", "u", "w")


def _named(
    lines: Sequence[_Statement], dialect: Dialect, inputs: Mapping[str, str], *, reserved: frozenset[str] | set[str]
) -> list[str]:
    """The statements as text, with names that are used again when nothing reads their value any more."""
    last = {name: place for place, line in enumerate(lines) for name in line.reads()}
    names = dict(inputs)
    ends = {word: last.get(name, -1) for name, word in inputs.items()}  # where the value of each name is last read
    written: list[str] = []
    for place, line in enumerate(lines):
        texts = [_render(item, dialect, names) for item in line.nodes]
        right = ", ".join(text.text for text in texts)
        if line.returns:
            written.append(f"return {right}")
            continue
        dying = [names[name] for name in line.reads() if last[name] == place]
        # What someone wrote out, such as `tokens`, keeps its meaning.
        reused = [name for name in dict.fromkeys(dying) if len(name) <= 3]
        taken = {name for name, end in ends.items() if end > place} | set(inputs.values()) | reserved
        fresh = (name for name in _choices() if name not in taken)
        written.append(f"{_target(line.target, names, reused, fresh, taken)} = {right}")
        ends |= {names[value]: last.get(value, place) for value in _values(line.target)}
    return written


def _target(
    target: _Target, names: dict[str, str], reused: list[str], fresh: Iterator[str], taken: set[str], depth: int = 0
) -> str:
    if target is None:
        return "_"
    if isinstance(target, str):
        name = reused.pop(0) if reused else next(fresh)
        names[target] = name
        taken.add(name)
        return name
    inner = ", ".join([_target(item, names, reused, fresh, taken, depth + 1) for item in target])
    return f"({inner})" if depth else inner


def _values(target: _Target) -> Iterator[str]:
    if isinstance(target, str):
        yield target
    else:
        for item in target or ():
            yield from _values(item)


def _choices() -> Iterator[str]:
    yield from _FRESH
    number = 0
    while True:
        number += 1
        yield f"v{number}"
