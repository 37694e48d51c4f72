"""The judge: whether a net can be built, what every layer makes of its input, and what it costs.

Works in Python integers on shapes of one row: a net of any claimed size is refused before anything is allocated, and
no rule can mix the rows of a batch. Sizes that vary (`"H"`) are tried at several values. Does not know torch; whether
torch agrees is asked by `engine.build.confirm`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry, shorten
from service.schemas.architecture import BATCH, Architecture, StateRow, as_sent, digest_of, leaves, parse, state_rows
from service.schemas.document import nearest_hint
from service.schemas.initial import MATRICES, MAX_MATCHES, Constant, Filled, matches
from service.schemas.layers import Buffer, Graph, Layer, Parameter, Sequential
from service.schemas.leaf import Leaf, Value, Work, bound, flat
from service.schemas.operation import Given, expect_held
from service.schemas.shapes import BYTES, Mismatch, Row, TensorSpec, elements
from service.schemas.steps import Call, GetItem, Item, Param, Reshape, Return, Softmax, Step, Tuple, reads

_FIRST_SIZES: Final = (224, 32, 28, 64, 16, 256, 128, 8, 96, 48, 299, 227, 512, 384, 4, 2, 1)
"""What a size that varies is tried at first: an image's usual sides."""

_PATIENCE: Final = 4_000
"""Layers to walk while looking for sizes that fit: about 50 ms."""


_MOST_PROBED: Final = 30_000
"""Calls times symbols: beyond that, symbols are only tried together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too large."""

    layers: int = 20_000
    depth: int = 32
    parameters: int = 10**9
    activations_per_row: int = 200_000_000
    size: int = 2**24
    calls: int = 25_000
    """Layers and operations that one forward runs: graphs that call each other twice double with each level."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found.

    Args:
        architecture: the document with every "auto" resolved and every child named; None when there are errors.
        digest: the digest of that document.
        sizes: what symbols other than the batch stood for in the summary's numbers.
        summary: layers, parameters, FLOPs, memory, inputs and outputs; None when there are errors.
    """

    architecture: Architecture | None
    digest: str | None
    errors: tuple[Entry, ...] = ()
    warnings: tuple[Entry, ...] = ()
    summary: dict[str, Any] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    limit: Mapping[str, Any] | None = None
    calls: int = 0
    """Layers and operations that one forward runs."""

    @property
    def valid(self) -> bool:
        """Whether the net can be built."""
        return not self.errors


def judge(document: object, *, limits: Limits | None = None, prefix: str = "") -> Judgement:
    """Judge an architecture, or a document that may be one; a bad one gives errors and raises nothing.

    Args:
        document: an `Architecture`, or JSON values.
        prefix: the pointer to the document in the request's body.
    """
    # An `Architecture` is read again too: one that was made in Python has seen only pydantic's part of the rules.
    raw = as_sent(document) if isinstance(document, Architecture) else document
    try:
        architecture = parse(raw, prefix=prefix)
    except (ArchitectureInvalid, ArchitectureTooLarge) as error:
        return Judgement(None, None, errors=error.errors, limit=error.limit)
    judgement = _Judge(architecture, limits or Limits(), prefix).judgement()
    expansion = architecture.expansion
    if expansion is None:
        return judgement
    return replace(
        judgement,
        errors=tuple(expansion.told(judgement.errors)),
        warnings=(*expansion.warnings, *expansion.told(judgement.warnings)),
    )


def require(document: object, *, limits: Limits | None = None, prefix: str = "") -> Judgement:
    """The judgement of an architecture that can be built.

    Raises:
        ArchitectureInvalid: it cannot, with every mistake.
        ArchitectureTooLarge: it is too large.
    """
    judgement = judge(document, limits=limits, prefix=prefix)
    if judgement.valid:
        return judgement
    large = [entry for entry in judgement.errors if entry.code == "too-large"]
    if large:
        rest = [entry for entry in judgement.errors if entry.code != "too-large"]
        raise ArchitectureTooLarge(errors=[*large, *rest], limit=judgement.limit)
    raise ArchitectureInvalid(errors=judgement.errors)


# One walk.


@dataclass(slots=True)
class _Seen:
    """What a walk saw of one layer."""

    out: TensorSpec
    flops: int


@dataclass
class _Walk:
    """One evaluation of the document with a number for every symbol."""

    limits: Limits
    prefix: str = ""
    errors: list[Entry] = field(default_factory=list)
    warnings: list[Entry] = field(default_factory=list)
    seen: dict[str, _Seen] = field(default_factory=dict)
    resolved: dict[str, Leaf] = field(default_factory=dict)
    flops: int = 0
    activations: int = 0
    calls: int = 0
    activation_bytes: int = 0
    folded: bool = False
    stopped: bool = False
    result: Value = None

    def run(self, architecture: Architecture, given: list[Value]) -> None:
        """Walk from the inputs to the outputs."""
        at = self.prefix + "/root"
        self.result = self.layer(architecture.root, "", at, given)
        for out in flat(self.result):
            if out.batch != 0:
                detail = f"The net gives {out.shown}; what it gives begins with the batch."
                hint = "Write transpose(x, 0, 1) before the return." if out.batch else "It has no batch at all."
                self._tell(
                    at, "", Mismatch(detail, code="batch-not-first", hint=hint, expected="[B, …]", got=out.shown)
                )
        if isinstance(self.result, tuple) and any(isinstance(part, tuple) for part in self.result):
            detail = "The net gives several values inside several values."
            self._tell(at, "", Mismatch(detail, code="wrong-argument", hint="Take them apart in a Graph at the root."))

    def layer(
        self, layer: Layer, path: str, at: str, given: list[Value], named: Mapping[str, Value | bool] | None = None
    ) -> Value:
        """What a layer makes of values."""
        if self.stopped:
            return None
        match layer:
            case Leaf():
                return self._leaf(layer, path, at, given, named or {})
            case _ if named:
                detail = f"A {layer.type} takes its values by position, and has no argument `{next(iter(named))}`."
                self._tell(at, path, Mismatch(detail, code="wrong-argument"))
                return None
            case Graph():
                return self._graph(layer, path, at, given)
            case Sequential():
                value = self._one(layer.type, path, at, given)
                for place, (name, child) in enumerate(zip(layer.names, layer.layers, strict=True)):
                    value = self.layer(child, _join(path, name), f"{at}/layers/{place}", [value])
                return value

    def _one(self, kind: str, path: str, at: str, given: list[Value]) -> Value:
        if len(given) != 1:
            self._tell(at, path, Mismatch(f"{kind} takes 1 value, but gets {len(given)}.", code="wrong-argument"))
            return None
        return given[0]

    def _leaf(
        self, layer: Leaf, path: str, at: str, given: Sequence[Value], named: Mapping[str, Value | bool]
    ) -> Value:
        try:
            arguments = bound(layer, given, named)
        except Mismatch as mismatch:
            self._tell(at, path, mismatch)
            return None
        if any(value is None for value in arguments.values()):
            return None
        first = arguments[layer.arguments[0].name]
        assert isinstance(first, TensorSpec)
        row = first.row[1:] if first.batch is None else first.row
        if path not in self.resolved:
            try:
                self.resolved[path] = layer.resolved(row)
            except Mismatch as mismatch:
                self._tell(at, path, mismatch)
                return None
        layer = self.resolved[path]
        try:
            layer.check_dtype(first)
        except Mismatch as mismatch:
            self._tell(at, path, mismatch)
            arguments = _in_dtype(arguments, first, mismatch.expected)  # so that what follows is not blamed for it
            first = arguments[layer.arguments[0].name]
            assert isinstance(first, TensorSpec)
        result: Value
        try:
            result = layer.outcome(arguments)
        except Mismatch as mismatch:
            result = TensorSpec(mismatch.then, layer.dtype(first.dtype)) if mismatch.then is not None else None
            if mismatch.code != "unresolved" or not self.errors:
                self._tell(at, path, self._told_of_folding(layer, row, mismatch))
        tensors = flat(result)
        if not tensors:
            return None
        out = tensors[0]
        work = layer.work(arguments, result) if _is_known(layer) else Work(0)
        before = self.seen.get(path)
        self.seen[path] = _Seen(out, work.flops + (before.flops if before else 0))
        return self._counted(result, work.flops, work.held)

    def _told_of_folding(self, layer: Leaf, row: Row, mismatch: Mismatch) -> Mismatch:
        """After a fold, a number of features that counts a whole batch is named as such."""
        if mismatch.code == "batch-folded":
            self.folded = True
        wanted = getattr(layer, "in_features", None)
        if self.folded and isinstance(wanted, int) and row and wanted > row[-1] and wanted % row[-1] == 0:
            mismatch.detail = (
                f"The batch is folded into the features: {layer.type} expects {wanted} features, which are "
                f"{wanted // row[-1]} rows of {row[-1]}; one row has {row[-1]}."
            )
            mismatch.code = "batch-folded"
        return mismatch

    def _graph(self, graph: Graph, path: str, at: str, given: list[Value]) -> Value:
        if len(given) != len(graph.inputs):
            detail = f"This graph takes {len(graph.inputs)} values ({', '.join(graph.inputs)}), but gets {len(given)}."
            self._tell(at, path, Mismatch(detail, code="wrong-argument"))
            return None
        values: dict[str, Value] = dict(zip(graph.inputs, given, strict=True))
        places = {name: place for place, name in enumerate(graph.names)}
        program = graph.program
        last = reads(program.steps)
        for number, (step, line) in enumerate(zip(program.steps, program.lines, strict=True), 1):
            if self.stopped:
                return None
            taken: list[Any] = [values[item] if isinstance(item, str) else item for item in step.inputs]
            where = f"{at}/forward/{line}"
            match step:
                case Return():
                    return self._returned(taken, path, where)
                case Call():
                    place = places[step.layer]
                    if getattr(graph.layers[place], "inplace", False) and last[step.inputs[0]] >= number:
                        detail = (
                            f"`{step.layer}` is in place, and what it is given is read again afterwards: torch would "
                            "read the changed value there. Here nothing is computed in place."
                        )
                        self.warnings.append(Entry(where, "overwrites", detail, path or None, "Leave inplace out."))
                    child_path, child_at = _join(path, step.layer), f"{at}/layers/{place}"
                    named = {
                        key: value if isinstance(value, bool) else values[value] for key, value in step.named.items()
                    }
                    values[f"%{number}"] = self.layer(graph.layers[place], child_path, child_at, taken, named)
                case Param():
                    free = graph.layers[places[step.layer]]
                    assert isinstance(free, (Parameter, Buffer))
                    values[f"%{number}"] = free.value()
                    self.seen[_join(path, step.layer)] = _Seen(free.value(), 0)
                case Tuple():
                    values[f"%{number}"] = tuple(taken)
                case Item():
                    values[f"%{number}"] = self._item(step, taken[0], path, where)
                case _:
                    values[f"%{number}"] = self._operation(step, taken, path, where)
        return None

    def _returned(self, taken: Sequence[Any], path: str, where: str) -> Value:
        if len(taken) == 1:
            return taken[0]
        if any(isinstance(value, tuple) for value in taken):
            self._tell(
                where, path, Mismatch("Several values are returned inside several values.", code="wrong-argument")
            )
            return None
        return tuple(taken)

    def _item(self, step: Item, value: Any, path: str, where: str) -> Value:
        if value is None:
            return None
        if isinstance(value, tuple):
            if step.index < len(value) and value[step.index] == ():
                detail = f"Value {step.index} is not there: the call asks for it not to be made."
                self._tell(where, path, Mismatch(detail, code="wrong-argument", hint="Leave need_weights=False out."))
                return None
            if step.index < len(value):
                return value[step.index]
            detail = f"There are {len(value)} values here, and none is number {step.index}."
            self._tell(where, path, Mismatch(detail, code="wrong-argument", expected=f"0 to {len(value) - 1}"))
            return None
        if value.batch != 0 and value.sizes:
            return self._operation(GetItem(op="getitem", inputs=("x",), index=(step.index,)), [value], path, where)
        detail = f"[{step.index}] would take one row out of the batch of {value.shown}."
        hint = f"Write x[:, {step.index}] for an element of every row; only several values can be taken apart."
        self._tell(where, path, Mismatch(detail, code="batch-mixed", hint=hint))
        return None

    def _operation(self, step: Any, taken: Sequence[Any], path: str, where: str) -> Value:
        if any(value is None for value in taken):
            return None
        if any(isinstance(value, tuple) for value in taken):
            detail = f"{step.op} takes tensors, but gets several values together."
            self._tell(where, path, Mismatch(detail, code="wrong-argument", hint="Take them apart: `a, b = …`."))
            return None
        given: Sequence[Given] = taken
        try:
            out: Value = step.output(given)
        except Mismatch as mismatch:
            if mismatch.code == "batch-folded":
                self.folded = True
            self._tell(where, path, mismatch)
            if mismatch.then is None or not isinstance(taken[0], TensorSpec):
                return None
            return TensorSpec(mismatch.then, taken[0].dtype)
        if isinstance(step, Softmax) and step.dim is None:
            self.warnings.append(
                Entry(where, "softmax-dim", f"{step.op} has no dim; dimension 1 is taken. Write dim=1.", path or None)
            )
        if isinstance(step, Reshape) and len(step.shape) > 1 and step.shape[0] == -1 and flat(out)[0].row[0] == 1:
            detail = "reshape takes the shape after the batch, so that -1 became 1 here."
            self.warnings.append(Entry(where, "reshape-batch", detail, path or None, "Leave the first -1 out."))
        if isinstance(step, Reshape):
            self.folded = True  # torch's own reshape takes the batch too: sizes after it may count one
        return self._counted(out, step.flops(given, flat(out)[0]))

    def _counted(self, value: Value, flops: int, held: int = 0) -> Value:
        largest = held
        self.activations += held
        self.activation_bytes += held * BYTES["float32"]
        for out in flat(value):
            size = elements(out.row)
            largest = max(largest, size)
            self.activations += size
            self.activation_bytes += size * BYTES[out.dtype]
        self.flops += flops
        self.calls += 1
        # The limits tell of it. Going on would double the calls with each level, or grow integers by 53 bits a layer.
        self.stopped = largest > self.limits.activations_per_row or self.calls > self.limits.calls
        return None if self.stopped else value

    def _tell(self, at: str, path: str, mismatch: Mismatch) -> None:
        if mismatch.field is not None and "/forward/" not in at.rpartition("/layers/")[2]:
            at = f"{at}/{mismatch.field}"
        self.errors.append(
            Entry(
                at,
                mismatch.code,
                mismatch.detail,
                layer=path or None,
                hint=mismatch.hint,
                expected=mismatch.expected,
                got=mismatch.got,
            )
        )


def _in_dtype(
    arguments: Mapping[str, Value | bool], wrong: TensorSpec, expected: str | None
) -> dict[str, Value | bool]:
    """The arguments of a layer as if those of the wrong dtype had the first one that it takes."""
    dtype: Any = (expected or "float32").partition(" or ")[0]
    floats = dtype in ("float32", "float64")
    return {
        name: replace(value, dtype=dtype)
        if isinstance(value, TensorSpec) and (value is wrong or (floats and value.dtype == wrong.dtype))
        else value
        for name, value in arguments.items()
    }


def _misfilled(at: str, kind: str, key: str, shape: Row, hint: str) -> Entry | None:
    """What is told of initial values that a tensor of this shape cannot have."""
    low, high = (2, 2) if kind == "eye" else (3, 5) if kind == "dirac" else (2 if kind in MATRICES else 0, 99)
    if low <= len(shape) <= high:
        return None
    wanted = f"{low} dimensions" if low == high else f"{low} or more dimensions"
    detail = f"{kind} fills tensors of {wanted}, but `{key}` is {list(shape)}."
    return Entry(at, "shape-mismatch", detail, hint=hint, expected=wanted)


def _unknown_key(at: str, key: str, rows: Mapping[str, StateRow]) -> Entry:
    keys = [name for name, row in rows.items() if row.kind == "parameter"]
    return Entry(
        at,
        "unknown-key",
        f"The net has no parameter {shorten(key)}.",
        hint=nearest_hint(key, keys[:500]),
        expected=f"one of {', '.join(keys[:5])}" + (", …" if len(keys) > 5 else ""),
        got=shorten(key),
    )


def _is_known(layer: Leaf) -> bool:
    return layer.guessed is None or getattr(layer, layer.guessed) != "auto"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# The judgement.


@dataclass
class _Judge:
    architecture: Architecture
    limits: Limits
    prefix: str

    def __post_init__(self) -> None:
        self.leaves = list(leaves(self.architecture))
        self.modules = sum(layer.modules for _, _, layer in self.leaves)
        shapes = (spec.shape[1:] for spec in self.architecture.inputs)
        self.symbols = list(dict.fromkeys(item for shape in shapes for item in shape if isinstance(item, str)))

    def judgement(self) -> Judgement:
        """Everything in order: sizes that are absurd in themselves, shapes, totals, symbols."""
        large = [*self._too_large_sizes()]
        walk, sizes = self._fitting()
        probes: list[tuple[dict[str, int], _Walk]] = []
        errors = [*large, *self._wrong_values(), *dict.fromkeys(self._in_symbols(walk, sizes))]
        warnings = list(dict.fromkeys([*walk.warnings, *self._remarks()]))
        if not walk.errors and self.symbols:
            probes = self._probes(sizes, walk)
            forced, odd = self._forced(sizes, probes)
            errors += forced
            warnings += odd
        architecture = self.architecture.with_root(_rebuilt(self.architecture.root, "", None, walk.resolved))
        if not walk.errors and (self.architecture.tie or self.architecture.init):
            rows = state_rows(architecture)
            errors += [*self._wrong_ties(rows), *self._wrong_rules(architecture, rows)]
        totals = self._totals(walk)
        over, limit = self._over(totals, walk)
        errors += over
        if large and limit is None:
            limit = {"name": "size", "value": self.limits.size}
        if errors:
            return Judgement(None, None, tuple(errors), tuple(warnings), limit=limit, sizes=sizes)
        good = [(sizes, walk), *((at, probe) for at, probe in probes if not (probe.errors or probe.stopped))]
        return Judgement(
            architecture,
            digest_of(architecture),
            warnings=tuple(warnings),
            summary=self._summary(totals, walk, good),
            sizes=sizes,
            calls=walk.calls,
        )

    # Sizes that vary.

    def _walk(self, sizes: Mapping[str, int], resolved: Mapping[str, Leaf] | None = None) -> _Walk:
        walk = _Walk(self.limits, self.prefix, resolved=dict(resolved or {}))
        given: list[Value] = []
        for spec in self.architecture.inputs:
            row = tuple(sizes[item] if isinstance(item, str) else item for item in spec.shape[1:])
            given.append(TensorSpec(row, spec.dtype))
        walk.run(self.architecture, given)
        return walk

    def _fitting(self) -> tuple[_Walk, dict[str, int]]:
        """The first walk without mistakes, else the one with the fewest.

        Where that is too large for this server, a smaller size is looked for: nobody has asked for the first one.
        """
        best: tuple[_Walk, dict[str, int]] | None = None
        tries = max(8, min(300, _PATIENCE // (len(self.leaves) + 1))) if self.symbols else 1
        for size in _candidates(tries):
            sizes = dict.fromkeys(self.symbols, size)
            walk = self._walk(sizes)
            if best is None or self._misfit(walk) < self._misfit(best[0]):
                best = walk, sizes
            if not walk.errors and (not self._misfit(walk)[1] or walk.calls > self.limits.calls):
                break
        assert best is not None
        return best

    def _misfit(self, walk: _Walk) -> tuple[int, bool]:
        return len(walk.errors), walk.stopped or walk.activations > self.limits.activations_per_row

    def _probes(self, sizes: dict[str, int], first: _Walk) -> list[tuple[dict[str, int], _Walk]]:
        """Each symbol alone at two and three times its size and one more, then all of them together.

        An "auto" stays what it was at the first sizes: the weights have one shape.
        """
        alone = self.symbols if first.calls * len(self.symbols) <= _MOST_PROBED else []
        tried: list[dict[str, int]] = []
        for times, more in ((2, 0), (3, 0), (1, 1)):
            changed = {symbol: times * size + more for symbol, size in sizes.items()}
            tried += [{**sizes, symbol: changed[symbol]} for symbol in alone]
            if alone != self.symbols or len(alone) > 1:
                tried.append(changed)
        return [(at, self._walk(at, first.resolved)) for at in tried]

    def _in_symbols(self, walk: _Walk, sizes: Mapping[str, int]) -> list[Entry]:
        """The mistakes of a walk with symbols for the sizes that were only tried.

        Which numbers these are shows in a second walk with other sizes: those of the document stay what they are. A
        number that is computed of tried sizes is left, and the sizes are said.
        """
        if not walk.errors or not sizes:
            return walk.errors
        apart = {symbol: size * (place + 2) for place, (symbol, size) in enumerate(sizes.items())}
        together = {symbol: 2 * size for symbol, size in sizes.items()}  # where different sizes are another mistake
        told = list(walk.errors)
        for at in (apart, together):
            again: dict[tuple[str, str, str | None], Entry] = {}
            for entry in self._walk(at).errors:
                again.setdefault((entry.pointer, entry.code, entry.layer), entry)
            for place, entry in enumerate(walk.errors):
                other = again.get((entry.pointer, entry.code, entry.layer))
                if told[place] is entry and other is not None:
                    told[place] = _with_symbols(entry, other, sizes, at)
        return told

    def _forced(
        self, sizes: dict[str, int], probes: list[tuple[dict[str, int], _Walk]]
    ) -> tuple[list[Entry], list[Entry]]:
        """Symbols that only one size fits (errors), and those that not every size fits (warnings)."""
        forced: list[str] = []
        reason: Entry | None = None
        warnings: list[Entry] = []
        for symbol in self.symbols:
            alone = [(at, walk) for at, walk in probes if [s for s in sizes if at[s] != sizes[s]] == [symbol]]
            grown = [walk for at, walk in alone if at[symbol] > sizes[symbol] + 1 or sizes[symbol] == 1]
            failed = [(at, walk) for at, walk in alone if walk.errors]
            if grown and all(walk.errors for walk in grown):
                forced.append(symbol)
                reason = reason or grown[0].errors[0]
            elif failed:
                at, walk = failed[0]
                first = walk.errors[0]
                why = first.detail[0].lower() + first.detail[1:] if first.layer is None else first.detail
                warnings.append(
                    Entry(
                        self._symbol_at(symbol),
                        "size-constrained",
                        f"Not every {symbol} fits: with {symbol} = {at[symbol]}, {why}",
                        layer=first.layer,
                    )
                )
        if not forced or reason is None:
            return [], warnings
        together = [walk for at, walk in probes if all(at[s] == 2 * sizes[s] for s in self.symbols)]
        cause = f"`{reason.layer}`" if reason.layer else "the net"
        detail = reason.detail.rstrip(".")
        names = " and ".join(forced)
        if len(forced) > 1 and together and not together[0].errors:
            sentence = f"{names} must be equal, because of {cause}: {detail}."
            hint = "Use one symbol for both."
        elif (guessed := self._guessed(reason)) is not None:
            sentence = f'{names} cannot vary: "auto" is one number, and here it depends on {names}.'
            reason = replace(reason, layer=guessed)
            hint = (
                f"Write a number in the shape instead of {names}, or pool to a fixed size (AdaptiveAvgPool2d) before."
            )
        else:
            value = sizes[forced[0]]  # all symbols were tried at one value
            what, _, rest = detail.partition(" ")
            why = f"{cause} {rest}" if rest.startswith("expects ") else f"of {cause}: {what} {rest}"
            sentence = f"{names} must be {value} because {why} at {2 * value}."
            hint = f"Write {value} in the shape instead of {names}, or pool to a fixed size (AdaptiveAvgPool2d) before."
        return [Entry(self._symbol_at(forced[0]), "size-forced", sentence, layer=reason.layer, hint=hint)], warnings

    def _guessed(self, reason: Entry) -> str | None:
        """The path of the layer with the "auto" that a mistake is about, if it is about one."""
        for path, at, layer in self.leaves:
            if layer.guessed is None or getattr(layer, layer.guessed) != "auto":
                continue
            if reason.pointer in (f"{self.prefix}{at}", f"{self.prefix}{at}/{layer.guessed}"):
                return path
        return None

    def _symbol_at(self, symbol: str) -> str:
        for place, spec in enumerate(self.architecture.inputs):
            if symbol in spec.shape:
                return f"{self.prefix}/inputs/{place}/shape/{spec.shape.index(symbol)}"
        return f"{self.prefix}/inputs"

    # Rules about weights.

    def _wrong_ties(self, rows: Mapping[str, StateRow]) -> Iterator[Entry]:
        told = {rule.to for rule in self.architecture.tie}
        for place, rule in enumerate(self.architecture.tie):
            at = f"{self.prefix}/tie/{place}"
            ends = {"from": rule.from_, "to": rule.to}
            unknown = {end: key for end, key in ends.items() if key not in rows}
            for end, key in unknown.items():
                yield _unknown_key(f"{at}/{end}", key, rows)
            if unknown:
                continue
            source, target = rows[rule.from_], rows[rule.to]
            if rule.from_ == rule.to or rule.from_ in told:
                detail = "A tensor is tied to another one, which is tied to none itself."
                yield Entry(f"{at}/from", "invalid", detail, got=shorten(rule.from_))
            elif (source.shape, source.kind) != (target.shape, target.kind):
                expected, got = str(list(source.shape)), str(list(target.shape))
                detail = f"`{rule.to}` is {got} and `{rule.from_}` {expected}: one tensor has one shape."
                yield Entry(f"{at}/to", "shape-mismatch", detail, expected=expected, got=got)

    def _wrong_rules(self, architecture: Architecture, rows: Mapping[str, StateRow]) -> Iterator[Entry]:
        types = {path: layer.type for path, _, layer in leaves(architecture)}
        rules = len(self.architecture.init)
        if rules * len(rows) > MAX_MATCHES:
            detail = f"{rules} rules over {len(rows)} tensors are too many to try."
            hint = "Use fewer rules: ** stands for any number of names."
            at = f"{self.prefix}/init"
            yield Entry(at, "too-many", detail, hint=hint, expected=f"at most {MAX_MATCHES} together")
            return
        for place, rule in enumerate(self.architecture.init):
            at = f"{self.prefix}/init/{place}"
            kept = {key: row for key, row in rows.items() if row.kind == "parameter" and matches(rule.match, key)}
            found = {key: row for key, row in kept.items() if rule.layers is None or types[row.layer] in rule.layers}
            if not found:
                if kept:
                    named = sorted({types[row.layer] for row in kept.values()})
                    detail = f"No layer of these types has a parameter that fits {rule.match!r}."
                    yield Entry(f"{at}/layers", "unknown-key", detail, expected=f"one of {named}"[:200])
                else:
                    yield _unknown_key(f"{at}/match", rule.match, rows)
                continue
            for key, row in found.items():
                hint = 'Narrow the pattern, for example to "**.weight", or name the layers\' types.'
                odd = _misfilled(f"{at}/init", rule.init.type, key, row.shape, hint)
                if odd is not None:
                    yield odd
                    break

    def _wrong_values(self) -> Iterator[Entry]:
        """Free tensors that their initial values do not fit."""
        for path, at, layer in self.leaves:
            if not isinstance(layer, (Parameter, Buffer)):
                continue
            at, init = f"{self.prefix}{at}/init", layer.init
            hint = "Give it more dimensions, or other values, such as zeros or normal."
            odd = _misfilled(at, init.type, path, layer.shape, hint)
            if odd is not None:
                yield replace(odd, layer=path)
            if not isinstance(layer, Buffer):
                continue
            plain = isinstance(init, (Constant, Filled))
            if not plain and layer.tensor_dtype not in ("float32", "float64"):
                detail = f"{init.type} gives floating point numbers, but `{path}` is {layer.tensor_dtype}."
                yield Entry(at, "dtype-mismatch", detail, path, "Use zeros, ones or a constant.", "float32")
            elif not plain and not layer.persistent:
                detail = f"`{path}` is not stored, so that it would be drawn anew whenever the net is loaded."
                yield Entry(at, "invalid", detail, path, "Use zeros, ones or a constant, or store it.")
            elif isinstance(init, Constant):
                try:
                    expect_held(f"`{path}`", init.value, layer.tensor_dtype)
                except Mismatch as wrong:
                    hint = "Give it another dtype, or another value."
                    yield Entry(at, wrong.code, wrong.detail, path, hint, wrong.expected, wrong.got)

    # Limits.

    def _too_large_sizes(self) -> Iterator[Entry]:
        most = self.limits.size
        for place, spec in enumerate(self.architecture.inputs):
            for axis, size in enumerate(spec.shape):
                if isinstance(size, int) and size > most:
                    yield _too_large(f"{self.prefix}/inputs/{place}/shape/{axis}", None, "a size", size, most)
        for path, at, layer in self.leaves:
            for name, size in _largest_members(layer, most):
                yield _too_large(f"{self.prefix}{at}/{name}", path, f"`{name}`", size, most)
        for path, at, graph in _graphs(self.architecture.root, self.prefix + "/root", ""):
            for step, line in zip(graph.program.steps, graph.program.lines, strict=True):
                for name, size in _largest_members(step, most):
                    yield _too_large(f"{at}/forward/{line}", path, f"`{name}`", size, most)

    def _totals(self, walk: _Walk) -> _Totals:
        each: dict[str, int] = {}
        total = weights = 0
        if self.modules > self.limits.layers:  # which is told; a list of all their tensors would be long
            return _Totals({}, 0, 0)
        for path, _, layer in self.leaves:
            layer = walk.resolved.get(path, layer)
            if not _is_known(layer):
                continue
            each[path] = sum(elements(row) for row in layer.parameters().values())
            total += each[path]
            kept = layer.buffers()
            weights += 4 * each[path] + sum((4 if row else 8) * elements(row) for row in kept.values())
        if self.architecture.tie and not walk.errors:
            rows = state_rows(self.architecture.with_root(_rebuilt(self.architecture.root, "", None, walk.resolved)))
            shared = sum(elements(rows[rule.to].shape) for rule in self.architecture.tie if rule.to in rows)
            total, weights = total - shared, weights - 4 * shared
        return _Totals(each, total, weights)

    def _over(self, totals: _Totals, walk: _Walk) -> tuple[list[Entry], Mapping[str, Any] | None]:
        limits = self.limits
        found: list[Entry] = []
        limit: dict[str, Any] | None = None
        checks = (
            ("layers", self.modules, limits.layers),
            ("depth", _depth(self.architecture.root), limits.depth),
            ("parameters", totals.parameters, limits.parameters),
            ("activations_per_row", walk.activations, limits.activations_per_row),
            ("calls", walk.calls, limits.calls),
        )
        for name, got, most in checks:
            if got <= most:
                continue
            path, at = self._heaviest(name, totals, walk)
            words = name.replace("_", " ")
            found.append(
                Entry(
                    at,
                    "too-large",
                    f"The net has {got:,} {words}; {most:,} are allowed."
                    if name != "depth"
                    else f"Layers nest {got} deep.",
                    layer=path or None,
                    expected=f"at most {most}",
                    got=str(got)[:64],
                )
            )
            limit = limit or {"name": name, "value": most, "got": got}
        return found, limit

    def _heaviest(self, name: str, totals: _Totals, walk: _Walk) -> tuple[str, str]:
        """The layer to blame: the one with most parameters, or the largest output."""
        weight = {
            "parameters": lambda path: totals.each.get(path, 0),
            "activations_per_row": lambda path: elements(walk.seen[path].out.row) if path in walk.seen else 0,
        }.get(name)
        if weight is None or not self.leaves:
            return "", self.prefix + "/root"
        path, at, _ = max(self.leaves, key=lambda leaf: weight(leaf[0]))
        return path, self.prefix + at

    def _remarks(self) -> Iterator[Entry]:
        for path, at, layer in self.leaves:
            for remark in layer.remarks():
                yield Entry(self.prefix + at, "odd", remark, layer=path or None)
        for path, at, graph in _graphs(self.architecture.root, self.prefix + "/root", ""):
            read = reads(graph.program.steps)
            for place, name in enumerate(graph.inputs):
                if name not in read:
                    yield self._unread(place, name, path, at, said="inputs" in graph.model_fields_set)

    def _unread(self, place: int, name: str, path: str, at: str, *, said: bool) -> Entry:
        """A value that a graph is given and makes nothing of; of the net's own ones the document's input is named."""
        if not path:
            name, at = self.architecture.inputs[place].name, f"{self.prefix}/inputs/{place}"
            detail = f"The input `{name}` is never read: whatever is sent for it changes nothing."
            hint = "Read it in the forward, as in `lstm(x, lengths=lengths)`, or remove it from both inputs."
        else:
            at = f"{at}/inputs/{place}" if said else at
            detail = f"This graph is given `{name}` and never reads it."
            hint = "Read it in the forward, or remove it from its inputs and from the call."
        return Entry(at, "unused-input", detail, layer=path or None, hint=hint)

    # The summary.

    def _summary(self, totals: _Totals, walk: _Walk, good: Sequence[tuple[Mapping[str, int], _Walk]]) -> dict[str, Any]:
        def shape(specs: Iterable[TensorSpec]) -> list[str | int]:
            found = list(specs)
            sizes: list[str | int] = [
                _dim([(at, spec.row[axis]) for (at, _), spec in zip(good, found, strict=True)])
                for axis in range(len(found[0].row))
            ]
            if found[0].batch is not None:
                sizes.insert(found[0].batch, BATCH)
            return sizes

        results = [flat(each.result) for _, each in good]
        names = ["output"] if len(results[0]) == 1 else [f"output_{place}" for place in range(len(results[0]))]
        return {
            "layers": [
                {
                    "path": path,
                    "type": layer.type,
                    "output_shape": shape(each.seen[path].out for _, each in good),
                    "parameters": totals.each.get(path, 0),
                    "flops": walk.seen[path].flops,
                }
                for path, _, layer in self.leaves
                if path in walk.seen
            ],
            "parameters": totals.parameters,
            "trainable_parameters": totals.parameters,
            "flops": walk.flops,
            "memory_bytes": totals.weight_bytes + walk.activation_bytes,
            **({"sizes": dict(good[0][0])} if good[0][0] else {}),
            "inputs": [
                {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in self.architecture.inputs
            ],
            "outputs": [
                {"name": name, "dtype": results[0][place].dtype, "shape": shape(result[place] for result in results)}
                for place, name in enumerate(names)
            ],
        }


def _with_symbols(entry: Entry, other: Entry, sizes: Mapping[str, int], at: Mapping[str, int]) -> Entry:
    """A mistake with symbols where its numbers are sizes, as another walk with the sizes `at` shows."""
    computed = False

    def named(text: str | None, with_other: str | None) -> str | None:
        nonlocal computed
        if text is None or with_other is None or text == with_other:
            return text
        numbers, others = _NUMBER.findall(text), _NUMBER.findall(with_other)
        if _NUMBER.split(text) != _NUMBER.split(with_other) or len(numbers) != len(others):
            computed = True
            return text
        said: list[str] = []
        for number, changed in zip(numbers, others, strict=True):
            found = [s for s in sizes if str(sizes[s]) == number and str(at[s]) == changed and number != changed]
            fresh = [symbol for symbol in found if symbol not in said]  # of equal sizes each is said in its turn
            said.append((fresh or found or [number])[0])
            computed |= not found and number != changed
        parts = _NUMBER.split(text)
        return "".join(part + more for part, more in zip(parts, [*said, ""], strict=True))

    detail, expected, got = (
        named(getattr(entry, member), getattr(other, member)) for member in ("detail", "expected", "got")
    )
    hint = entry.hint
    if hint != other.hint:  # it tells to write a number that depends on the sizes
        computed = True
    if computed:
        tried = " and ".join(f"{symbol} = {size}" for symbol, size in sizes.items())
        detail = f"{detail} This is with {tried}."
    return replace(entry, detail=detail or "", expected=expected, got=got)


_NUMBER: Final = re.compile(r"(?<![A-Za-z0-9_.])[0-9]+(?![A-Za-z0-9_])")


@dataclass(frozen=True, slots=True)
class _Totals:
    each: Mapping[str, int]
    parameters: int
    weight_bytes: int


def _candidates(tries: int) -> Iterator[int]:
    yield from _FIRST_SIZES[:tries]
    for size in range(1, tries - len(_FIRST_SIZES) + 1):
        if size not in _FIRST_SIZES:
            yield size


def _dim(found: Sequence[tuple[Mapping[str, int], int]]) -> str | int:
    """A size as it is told: a number, the symbol that it always equals, or "?" when it depends on symbols otherwise."""
    first = found[0][1]
    for symbol in found[0][0]:
        if all(sizes[symbol] == size for sizes, size in found):
            return symbol
    return first if all(size == first for _, size in found) else "?"


def _largest_members(document: Leaf | Step, most: int) -> Iterator[tuple[str, int]]:
    for name, value in document.__dict__.items():
        if type(value) is int and abs(value) > most:
            yield name, value
        elif type(value) is tuple and name != "inputs":
            big = [item for item in value if type(item) is int and abs(item) > most]
            if big:
                yield name, big[0]


def _too_large(at: str, path: str | None, what: str, size: int, most: int) -> Entry:
    return Entry(
        at,
        "too-large",
        f"{what[0].upper()}{what[1:]} is larger than {most:,}.",
        layer=path or None,
        expected=f"at most {most}",
        got=str(size)[:64],
    )


def _graphs(layer: Layer, at: str, path: str) -> Iterator[tuple[str, str, Graph]]:
    if isinstance(layer, Graph):
        yield path, at, layer
    if isinstance(layer, (Graph, Sequential)):
        for place, (name, child) in enumerate(zip(layer.names, layer.layers, strict=True)):
            if isinstance(child, (Graph, Sequential)):
                yield from _graphs(child, f"{at}/layers/{place}", _join(path, name))


def _depth(layer: Layer) -> int:
    if isinstance(layer, (Graph, Sequential)):
        return 1 + max(map(_depth, layer.layers), default=0)
    return 1


def _rebuilt(layer: Layer, path: str, name: str | None, resolved: Mapping[str, Leaf]) -> Layer:
    """The layer with its children named and resolved."""
    if isinstance(layer, (Graph, Sequential)):
        children = tuple(
            _rebuilt(child, _join(path, child_name), child_name, resolved)
            for child_name, child in zip(layer.names, layer.layers, strict=True)
        )
        changed: dict[str, Any] = {"layers": children, "name": name}
        if isinstance(layer, Graph) and layer.absent:
            changed |= {"forward": layer.steps, "absent": ()}  # the steps are without the calls of absent layers
        return layer.model_copy(update=changed)
    found: Any = resolved.get(path, layer)
    return found if found.name == name else found.model_copy(update={"name": name})
