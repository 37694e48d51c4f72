"""What differs between two nets, in words and as entries: layers, their arguments, forwards, inputs, and the effect.

Layers are matched by their names, as their weights are; where a Sequential is numbered throughout, they are matched by
what they are, so that one more layer in front is one change and not forty. Knows documents and no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, StringConstraints, Tag, TypeAdapter

from service.errors import ArchitectureInvalid
from service.schemas.architecture import Architecture, canonical_form
from service.schemas.document import Digest, Document, canonical
from service.schemas.judgement import Judgement, Limits, judge, require
from service.schemas.layers import Buffer, Graph, Layer, Parameter, Sequential
from service.schemas.python_source import constructor
from service.schemas.statements import forward_lines
from service.schemas.table import shape_text

Kind = Literal["added", "removed", "replaced", "changed", "renamed", "moved", "forward", "inputs", "init", "tie"]


class Change(Document):
    """One difference.

    `path` is the layer's in the second net, or in the first when it was removed; `field`, `before` and `after` are of
    what has one value in each.
    """

    kind: Kind
    path: str
    detail: str
    field: str | None = None
    before: Any = None
    after: Any = None


class OfVersion(Document):
    """The net of a published version. `model` is a reference as in a prediction: `name`, `name@alias` or `name/3`. The
    name alone means `version`, else the alias champion, else the newest version that is ready.
    """

    model: Annotated[str, StringConstraints(max_length=140)]
    version: Annotated[int, Field(ge=1, le=999_999_999)] | None = None


def _side(value: object) -> str:
    if isinstance(value, str):
        return "digest"
    return "version" if isinstance(value, Mapping) and "model" in value and "schema" not in value else "document"


Side = Annotated[
    Annotated[OfVersion, Tag("version")]
    | Annotated[Digest, Tag("digest")]
    | Annotated[dict[str, Any], Field(title="Architecture document"), Tag("document")],
    Discriminator(_side),
]
"""A net to compare: a document, the digest of a stored one, or a version."""


class DiffRequest(Document):
    """Two nets, the earlier one first."""

    a: Side
    b: Side


class Effect(Document):
    """A total in both nets."""

    before: Any
    after: Any


class Diff(Document):
    """What differs; `changes` is empty when both nets have one digest."""

    a: str
    b: str
    equal: bool
    changes: tuple[Change, ...]
    parameters: Effect
    outputs: Effect

    def text(self) -> str:
        """The differences a line each, and the effect."""
        if self.equal:
            return "Nothing differs.\n"
        lines = [change.detail for change in self.changes]
        lines += _effect("Parameters", f"{self.parameters.before:,}", f"{self.parameters.after:,}")
        lines += _effect("Output", self.outputs.before, self.outputs.after)
        return "\n".join(lines) + "\n"


DIFF_REQUEST: Final = TypeAdapter(DiffRequest)


def diff(a: object, b: object, *, limits: Limits | None = None) -> Diff:
    """What differs from `a` to `b`.

    Args:
        a: an `Architecture` or a document as JSON values.
        b: likewise.
        limits: what is too large.

    Raises:
        ArchitectureInvalid: one of them cannot be built, or neither; pointers begin with /a or /b.
        ArchitectureTooLarge: one of them is too large.
    """
    first, second = judge(a, limits=limits, prefix="/a"), judge(b, limits=limits, prefix="/b")
    if first.errors and second.errors:
        raise ArchitectureInvalid("Neither architecture can be built.", errors=[*first.errors, *second.errors])
    first = first if first.valid else require(a, limits=limits, prefix="/a")
    second = second if second.valid else require(b, limits=limits, prefix="/b")
    before, after = first.architecture, second.architecture
    assert before is not None
    assert after is not None
    equal = first.digest == second.digest
    return Diff(
        a=first.digest or "",
        b=second.digest or "",
        equal=equal,
        changes=() if equal else tuple(_changes(before, after)),
        parameters=Effect(before=_total(first), after=_total(second)),
        outputs=Effect(before=_outputs(first), after=_outputs(second)),
    )


def _effect(name: str, before: Any, after: Any) -> Iterator[str]:
    yield f"{name}: {before} → {after}" if before != after else f"{name}: {after}, as before"


def _total(judgement: Judgement) -> int:
    return int((judgement.summary or {}).get("parameters", 0))


def _outputs(judgement: Judgement) -> str:
    specs = (judgement.summary or {}).get("outputs", ())
    return ", ".join(f"{shape_text(spec['shape'])} {spec['dtype']}" for spec in specs)


_Raw: TypeAlias = Mapping[str, Any]


def _changes(a: Architecture, b: Architecture) -> Iterator[Change]:
    yield from _input_changes(a, b)
    old, new = canonical_form(a), canonical_form(b)
    yield from _layer_changes(a.root, b.root, old["root"], new["root"], "", "")
    for member in _RULES:
        if old.get(member, []) != new.get(member, []):
            detail = {"init": "The rules for initial weights differ.", "tie": "Other keys are tied."}[member]
            yield Change(kind=member, path="", detail=detail, before=old.get(member), after=new.get(member))


_RULES: Final[tuple[Literal["init", "tie"], ...]] = ("init", "tie")


def _input_changes(a: Architecture, b: Architecture) -> Iterator[Change]:
    names = [[spec.name for spec in each.inputs] for each in (a, b)]
    if names[0] != names[1]:
        before, after = (", ".join(each) for each in names)
        yield Change(kind="inputs", path="", detail=f"inputs: {before} → {after}", before=before, after=after)
    old = {spec.name: spec for spec in a.inputs}
    for spec in b.inputs:
        if spec.name not in old:
            continue
        was = old[spec.name]
        for field, before, after in (
            ("shape", shape_text(was.shape), shape_text(spec.shape)),
            ("dtype", was.dtype, spec.dtype),
        ):
            if before != after:
                detail = f"input {spec.name}: {field} {before} → {after}"
                yield Change(kind="inputs", path=spec.name, detail=detail, field=field, before=before, after=after)


def _layer_changes(a: Layer, b: Layer, old: _Raw, new: _Raw, was: str, path: str) -> Iterator[Change]:
    """What differs between two layers that stand for each other; `was` and `path` are where they are."""
    if _body(old) == _body(new):
        return
    if isinstance(a, (Sequential, Graph)) and isinstance(b, type(a)):
        if isinstance(a, Graph) and isinstance(b, Graph):
            yield from _graph_changes(a, b, path)
        yield from _child_changes(a, b, old, new, was, path)
    elif type(a) is type(b):
        yield from _field_changes(a, b, path)
    else:
        yield Change(
            kind="replaced",
            path=path,
            detail=f"{_shown(path)}: {_described(a)} → {_described(b)}",
            before=_described(a),
            after=_described(b),
        )


def _shown(path: str) -> str:
    return path or "the net"


def _field_changes(a: Layer, b: Layer, path: str) -> Iterator[Change]:
    before, after = (each.model_dump(mode="json", by_alias=True, exclude={"type", "name"}) for each in (a, b))
    for name in after:
        if before[name] != after[name]:
            detail = f"{_shown(path)}: {name} {_value(before[name])} → {_value(after[name])}"
            yield Change(kind="changed", path=path, detail=detail, field=name, before=before[name], after=after[name])


def _value(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return shape_text(value)
        case {"type": str(kind), **options}:
            inside = ", ".join(f"{name}={item}" for name, item in options.items())
            return f"{kind}({inside})" if inside else kind
        case _:
            return str(value)


def _graph_changes(a: Graph, b: Graph, path: str) -> Iterator[Change]:
    prefix = f"{path}: " if path else ""
    for field in ("class_name", "inputs"):
        before, after = getattr(a, field), getattr(b, field)
        if before != after:
            shown = [", ".join(value) if isinstance(value, tuple) else value or "none" for value in (before, after)]
            detail = f"{prefix}{field.replace('_', ' ')} {shown[0]} → {shown[1]}"
            yield Change(kind="changed", path=path, detail=detail, field=field, before=before, after=after)
    if a.steps == b.steps:
        return
    old, new = forward_lines(a), forward_lines(b)
    for tag, start, end, first, last in _opcodes(old, new):
        gone, come = old[start:end], new[first:last]
        was, now = _code(gone), _code(come)
        match tag:
            case "equal":
                continue
            case "delete":
                detail = f"{prefix}forward: {was} was removed"
            case "insert":
                detail = f"{prefix}forward: {now} was added"
            case _:
                detail = f"{prefix}forward: {was} → {now}"
        yield Change(kind="forward", path=path, detail=detail, before=gone or None, after=come or None)


_MOST_LINES: Final = 8
_MOST_COMPARED: Final = 1_000_000
"""Lines times lines: what differs in the middle of longer texts is told as a whole, since comparing takes too long."""


def _code(lines: Sequence[str]) -> str:
    shown = "; ".join(f"`{line}`" for line in lines[:_MOST_LINES])
    return shown + (f" and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else "")


def _opcodes(old: Sequence[Hashable], new: Sequence[Hashable]) -> list[tuple[str, int, int, int, int]]:
    """What `difflib` says makes `new` of `old`: tag, from and to in the old, from and to in the new."""
    most = min(len(old), len(new))
    start = next((place for place in range(most) if old[place] != new[place]), most)
    end = next((place for place in range(most - start) if old[-1 - place] != new[-1 - place]), most - start)
    middle = old[start : len(old) - end], new[start : len(new) - end]
    if not middle[0] or not middle[1]:
        tag = "delete" if middle[0] else "insert"
        found = [(tag, 0, len(middle[0]), 0, len(middle[1]))] if middle[0] or middle[1] else []
    elif len(middle[0]) * len(middle[1]) > _MOST_COMPARED:
        found = [("replace", 0, len(middle[0]), 0, len(middle[1]))]
    else:
        found = list(difflib.SequenceMatcher(None, *middle, autojunk=False).get_opcodes())
    moved = [(tag, a + start, b + start, c + start, d + start) for tag, a, b, c, d in found]
    tail = ("equal", len(old) - end, len(old), len(new) - end, len(new))
    return [("equal", 0, start, 0, start), *moved, tail]


# Children.


def _body(raw: _Raw) -> bytes:
    return canonical({member: value for member, value in raw.items() if member != "name"})


def _child_changes(
    a: Sequential | Graph, b: Sequential | Graph, old: _Raw, new: _Raw, was: str, path: str
) -> Iterator[Change]:
    olds, news = old.get("layers", []), new.get("layers", [])
    if isinstance(a, Sequential) and len(olds) != len(news) and _numbered(a) and _numbered(b):  # type: ignore[arg-type]
        pairs = _by_content(olds, news)
    else:
        pairs = _by_name(a.names, b.names)
    shifted: list[tuple[str, str]] = []
    for left, right in pairs:
        if right is None:
            assert left is not None
            name = _joined(was, a.names[left])
            yield Change(
                kind="removed", path=name, detail=f"{name} was removed: {_described(a.layers[left])}",
                before=_described(a.layers[left]),
            )  # fmt: skip
        elif left is None:
            name = _joined(path, b.names[right])
            yield Change(
                kind="added", path=name, detail=f"{name} was added: {_described(b.layers[right])}",
                after=_described(b.layers[right]),
            )  # fmt: skip
        else:
            here, there = _joined(was, a.names[left]), _joined(path, b.names[right])
            if a.names[left] != b.names[right]:
                shifted.append((here, there))
            yield from _layer_changes(a.layers[left], b.layers[right], olds[left], news[right], here, there)
    if shifted:
        (first, now), (last, then) = shifted[0], shifted[-1]
        several = len(shifted) > 1
        detail = f"{first} to {last} are now {now} to {then}" if several else f"{first} is now {now}"
        yield Change(
            kind="renamed", path=now, detail=detail, before=[x for x, _ in shifted], after=[x for _, x in shifted]
        )
    yield from _order_change(a, b, path)


def _order_change(a: Sequential | Graph, b: Sequential | Graph, path: str) -> Iterator[Change]:
    both = set(a.names) & set(b.names)
    before, after = ([name for name in each.names if name in both] for each in (a, b))
    if before != after:
        detail = f"{_shown(path)}: the order is now {', '.join(b.names[:20])}{', …' if len(b.names) > 20 else ''}"
        yield Change(kind="moved", path=path, detail=detail, before=list(a.names), after=list(b.names))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _numbered(layer: Sequential) -> bool:
    return all(name == str(place) for place, name in enumerate(layer.names))


_Pairs: TypeAlias = "list[tuple[int | None, int | None]]"


def _by_name(old: Sequence[str], new: Sequence[str]) -> _Pairs:
    places = {name: place for place, name in enumerate(old)}
    kept = set(new)
    gone: _Pairs = [(place, None) for place, name in enumerate(old) if name not in kept]
    return gone + [(places.get(name), place) for place, name in enumerate(new)]


def _by_content(old: Sequence[_Raw], new: Sequence[_Raw]) -> _Pairs:
    bodies = [[_body(raw) for raw in each] for each in (old, new)]
    pairs: _Pairs = []
    for tag, start, end, first, last in _opcodes(*bodies):
        both = min(end - start, last - first)
        if tag == "equal" or (tag == "replace" and [raw["type"] for raw in old[start:end]][:both]
                              == [raw["type"] for raw in new[first:last]][:both]):  # fmt: skip
            pairs += [(start + place, first + place) for place in range(both)]
            start, first = start + both, first + both
        pairs += [(place, None) for place in range(start, end)]
        pairs += [(None, place) for place in range(first, last)]
    return pairs


def _described(layer: Layer) -> str:
    match layer:
        case Sequential():
            count = len(layer.layers)
            return f"Sequential of {count} layer{'s' if count != 1 else ''}"
        case Graph():
            return layer.class_name or f"Graph of {len(layer.layers)} layer{'s' if len(layer.layers) != 1 else ''}"
        case Parameter() | Buffer():
            return f"{layer.type} {shape_text(layer.shape)}"
        case _:
            return constructor(layer)
