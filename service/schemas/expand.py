"""The authored form of an architecture made plain: params, blocks, Use, Repeat, `if` and `${…}` become layers.

What comes out has plain layers, Sequential and Graph alone, and every place in it knows where its author wrote it.
Whether the layers are right is not known here; that is for `architecture`. Imports no torch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Literal, TypeAlias

import orjson

from service.errors import ArchitectureTooLarge, Entry, shorten
from service.schemas.document import nearest_hint
from service.schemas.expressions import Refused, Value, is_constant, is_expression, read
from service.schemas.shapes import LARGEST

MAX_DEPTH: Final = 32
MAX_LAYERS: Final = 20_000
MAX_REPEAT: Final = 1_024
MAX_BLOCKS: Final = 256
MAX_PARAMS: Final = 256

_MAX_NESTING: Final = 64
"""Layers, blocks and repeats inside each other as they are written, those that leave no layer counted too."""

_MAX_WEIGHT: Final = 400_000
"""List items to write out, a line of a forward counting as eight: about as many as a plain document can hold."""

_MAX_WORK: Final = 40_000
"""Layers and repetitions to expand, so that a repeat of nothing ends as well."""

ABSENT: Final = "absent"
"""The member of an expanded Graph with the names of layers that are not there: a call of one gives its input."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """A document in its plain form.

    Args:
        authored: the document as it was sent.
        raw: the plain document; the very same object where nothing had to be expanded.
        errors: mistakes, with pointers into the authored document.
        warnings: params and blocks that nothing uses.
        spoilt: pointers to what a mistake left unread; whatever is said of these later follows from that mistake.
        sent: what was sent instead, where that only names the document and gives its params.
        more: mistakes that were counted, but not put down in `errors`.
    """

    authored: Mapping[str, Any]
    raw: Mapping[str, Any]
    errors: tuple[Entry, ...] = ()
    warnings: tuple[Entry, ...] = field(default=(), compare=False)
    spoilt: frozenset[str] = field(default=frozenset(), compare=False)
    sent: Mapping[str, Any] | None = None
    more: int = field(default=0, compare=False)
    _prefix: str = field(default="", compare=False)
    _root: _Node | None = field(default=None, compare=False, repr=False)

    def origin(self, pointer: str) -> str:
        """Where the author wrote what `pointer` leads to in the plain document."""
        start = self._prefix + "/root"
        if self._root is None or not (pointer == start or pointer.startswith(start + "/")):
            return pointer
        parts = pointer[len(start) :].split("/")[1:]
        node, place = self._root, 0
        while (
            place + 1 < len(parts)
            and parts[place] == "layers"
            and parts[place + 1].isdecimal()
            and int(parts[place + 1]) < len(node.children)
        ):
            node, place = node.children[int(parts[place + 1])], place + 2
        rest = parts[place:]
        if not rest:
            return node.elsewhere.get("", node.pointer)
        if rest[0] in node.elsewhere:
            return "/".join([node.elsewhere[rest[0]], *rest[1:]])
        return "/".join([node.pointer, *rest])

    def told(self, found: Iterable[Entry]) -> list[Entry]:
        """The entries where the author wrote what is wrong, without what follows from a mistake that was told.

        The same of every repetition, or of every use of a block, is said once.
        """
        written = ((self.origin(entry.pointer), entry) for entry in found)
        return merged(replace(entry, pointer=self._sent_at(at)) for at, entry in written if not self._is_spoilt(at))

    def named_by(self, sent: Mapping[str, Any]) -> Expansion:
        """The same of a document that was not sent, but named: what is wrong follows from the params."""
        named = replace(self, sent=sent)
        return replace(
            named, errors=tuple(replace(entry, pointer=named._sent_at(entry.pointer)) for entry in self.errors)
        )

    def _sent_at(self, pointer: str) -> str:
        if self.sent is None or pointer.startswith(self._prefix + "/params/"):
            return pointer
        return self._prefix + "/params" + self._param_at(pointer.removeprefix(self._prefix))

    def _param_at(self, pointer: str) -> str:
        """The param that stands alone at a place of the document, as a pointer; "" when it is not just one."""
        value: Any = self.authored
        for part in pointer.split("/")[1:]:
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, (list, tuple)) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
        names = _names_in(value) if is_expression(value) else set()
        return f"/{names.pop()}" if len(names) == 1 and names <= self.authored["params"].keys() else ""

    def _is_spoilt(self, pointer: str) -> bool:
        """Whether a mistake that was told already makes what is said of this place in the authored form worthless."""
        while pointer:
            if pointer in self.spoilt:
                return True
            pointer = pointer.rpartition("/")[0]
        return False


def merged(found: Iterable[Entry]) -> list[Entry]:
    """The entries with one for each place, code and sentence, which names the layers where there are several.

    Sentences that differ in nothing but the layer's own path are one.
    """
    alike: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in found:
        alike.setdefault((entry.pointer, entry.code, _without_path(entry)), []).append(entry)
    told: list[Entry] = []
    for first, *more in alike.values():
        paths = list(dict.fromkeys(entry.layer for entry in (first, *more) if entry.layer is not None))
        if len(paths) > 1:
            named = ", ".join(f"`{path}`" for path in paths[:_MOST_NAMED]) + (", …" if len(paths) > _MOST_NAMED else "")
            first = replace(first, detail=f"{first.detail} It is so in {len(paths)} layers: {named}.")
        told.append(first)
    return told


_MOST_NAMED: Final = 4


def _without_path(entry: Entry) -> str:
    path = entry.layer or ""
    while path:  # the path, or that of what is around the layer
        if f"`{path}`" in entry.detail:
            return entry.detail.replace(f"`{path}`", "`…`")
        path = path.rpartition(".")[0]
    return entry.detail


def expand(raw: Mapping[str, Any], *, prefix: str = "") -> Expansion:
    """Make a document plain.

    Numbering: a layer that is not there (`if`) takes no place in a Sequential; the children after it move up. The
    children of a Repeat keep their index in their name all the same. Spliced children count in their parent's
    numbering, unless they have names.

    Args:
        prefix: the pointer to the document in the request's body.

    Raises:
        ArchitectureTooLarge: it would have too many layers, or too deep ones; told before they are made.
    """
    if _is_plain(raw):
        return Expansion(raw, raw)
    return _Expander(raw, prefix).expansion()


def too_large(name: str, most: int, got: int, at: str, detail: str) -> ArchitectureTooLarge:
    """The refusal of a document for the limit `name`."""
    entry = Entry(at, "too-large", detail, expected=f"at most {most}", got=str(got))
    return ArchitectureTooLarge(errors=[entry], limit={"name": name, "value": most, "got": got})


def authored_schema(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of authored documents, made of that of plain ones."""
    schema: dict[str, Any] = copy.deepcopy(dict(plain))
    definitions = schema["$defs"]
    layers = schema["properties"]["root"]
    known = layers["discriminator"]["mapping"]
    layer = {"$ref": "#/$defs/Layer"}
    for reference in known.values():
        properties = definitions[reference.rpartition("/")[2]]["properties"]
        for member, found in properties.items():
            if found.get("items", {}).get("discriminator", {}).get("mapping") == known:
                found["items"] = layer
            elif member not in _TEXTS and member != "forward":
                properties[member] = _widened(found)
        properties["if"] = _FLAG
    definitions["Expression"] = {
        "type": "string",
        "title": "Expression",
        "description": "Arithmetic over params and the index of a Repeat.",
        "pattern": r"^\s*\$\{.*\}\s*$",
        "maxLength": 300,
    }
    definitions["ParamValue"] = _CONSTANT
    definitions["Use"] = _object(
        "The layer that a block stands for.",
        ("type", "block"),
        type={"const": "Use", "type": "string"},
        name=_NAME,
        block=_NAME,
        args={"type": "object", "additionalProperties": {"$ref": "#/$defs/ParamValue"}},
        splice={"type": "boolean", "default": False},
        **{"if": _FLAG},
    )
    definitions["Repeat"] = _object(
        "A Sequential of one layer several times.",
        ("type", "count", "layer"),
        type={"const": "Repeat", "type": "string"},
        name=_NAME,
        count={"anyOf": [{"type": "integer", "minimum": 0, "maximum": MAX_REPEAT}, {"$ref": "#/$defs/Expression"}]},
        index={"type": "string", "default": "i"},
        prefix={"type": "string", "default": ""},
        layer=layer,
        splice={"type": "boolean", "default": False},
        **{"if": _FLAG},
    )
    definitions["Block"] = _object("Layers under a name, with params.", ("body",), params=_PARAMS, body=layer)
    ours = {kind: f"#/$defs/{kind}" for kind in ("Use", "Repeat")}
    definitions["Layer"] = {
        "title": "Layer",
        "discriminator": {"propertyName": "type", "mapping": known | ours},
        "oneOf": [*layers["oneOf"], *({"$ref": reference} for reference in ours.values())],
    }
    schema["properties"] |= {
        "root": layer,
        "params": _PARAMS,
        "blocks": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Block"}, "maxProperties": MAX_BLOCKS},
    }
    return schema


_NAME: Final = {"type": "string"}
_FLAG: Final = {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/Expression"}]}
_CONSTANT: Final = {
    "anyOf": [
        {"type": "null"},
        {"type": "number"},
        {"type": "boolean"},
        {"$ref": "#/$defs/Expression"},
        {"type": "array", "items": {"$ref": "#/$defs/ParamValue"}},
    ]
}
_PARAMS: Final = {
    "type": "object",
    "additionalProperties": {"$ref": "#/$defs/ParamValue"},
    "maxProperties": MAX_PARAMS,
}


def _object(description: str, required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


def _widened(found: dict[str, Any]) -> dict[str, Any]:
    """The schema of a member, with expressions wherever it takes a number or a boolean."""
    if found.get("type") in ("integer", "number", "boolean"):
        outer: dict[str, Any] = {key: found[key] for key in ("title", "default", "description") if key in found}
        inner = {key: value for key, value in found.items() if key not in outer}
        return {**outer, "anyOf": [inner, {"$ref": "#/$defs/Expression"}]}
    changed = dict(found)
    if "items" in found:
        changed["items"] = _widened(found["items"])
    if "anyOf" in found:
        options = [_widened(option) for option in found["anyOf"]]
        flat = [inner for option in options for inner in (option.get("anyOf") or [option])]
        changed["anyOf"] = [one for place, one in enumerate(flat) if one not in flat[:place]]
    return changed


_MARKS: Final = (b"${", b'"Use"', b'"Repeat"', b'"if"', b'"params"', b'"blocks"', b'"absent"')


def _is_plain(raw: Mapping[str, Any]) -> bool:
    """Whether nothing in the text of the document can be of the authored form: a few microseconds."""
    try:
        text = orjson.dumps(raw)
    except TypeError:  # integers beyond 64 bits, nesting, or what is no JSON at all
        return False
    return not any(mark in text for mark in _MARKS)


@dataclass(frozen=True, slots=True)
class _Node:
    """One expanded layer.

    Args:
        pointer: where its members are written.
        elsewhere: members written somewhere else; "" is the layer as a whole, where it was used.
        size: the layers in it, itself included.
        depth: the levels in it, itself included.
        weight: the list items in it.
    """

    raw: Any
    pointer: str
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    children: tuple[_Node, ...] = ()
    size: int = 1
    depth: int = 1
    weight: int = 0


@dataclass(frozen=True, slots=True)
class _Block:
    params: Mapping[str, Any]
    body: Any
    pointer: str


_Parent: TypeAlias = Literal["Sequential", "Graph", "Repeat"] | None

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_]{0,48}")
_USE: Final = ("type", "name", "block", "args", "splice", "if")
_REPEAT: Final = ("type", "name", "count", "index", "prefix", "layer", "splice", "if")
_TEXTS: Final = frozenset({"type", "name", "class_name", "inputs"})
"""Members that hold words; an expression cannot stand there."""


@dataclass(frozen=True, slots=True)
class _Site:
    """Where the expander is.

    Args:
        at: the pointer in the authored document.
        parent: the dotted path of the container that is being filled.
        label: the layer's name or place in it.
        scope: what names stand for.
        depth: how deep the layer will be in the plain document.
        nesting: how deep it is as written.
        into: the kind of container.
    """

    at: str
    parent: str
    label: str
    scope: Mapping[str, Value]
    depth: int
    nesting: int
    into: _Parent

    @property
    def path(self) -> str:
        return f"{self.parent}.{self.label}" if self.parent and self.label else self.parent or self.label


class _Expander:
    """One expansion. Uses of a block with equal arguments are expanded once and shared."""

    def __init__(self, raw: Mapping[str, Any], prefix: str) -> None:
        self.raw = raw
        self.prefix = prefix
        self.errors: dict[Entry, None] = {}
        self.more = 0
        self.warnings: list[Entry] = []
        self.spoilt: set[str] = set()
        self.params: dict[str, Value] = {}
        self.unreadable: set[str] = set()
        """Names whose value could not be read: told where they stand, and not again where they are used."""
        self.blocks: dict[str, _Block] = {}
        self.broken: set[str] = set()
        self.made: dict[tuple[Any, ...], _Node | None] = {}
        self.names: dict[int, set[str]] = {}
        self.work = 0

    def expansion(self) -> Expansion:
        self._read_params()
        self._read_blocks()
        self._refuse_cycles()
        self._refuse_growth()
        out: dict[str, Any] = {}
        root: _Node | None = None
        for key, value in self.raw.items():
            match key:
                case "params" | "blocks":
                    continue
                case "inputs" if isinstance(value, (list, tuple)):
                    out[key] = [self._input(spec, f"{self.prefix}/inputs/{place}") for place, spec in enumerate(value)]
                case "root":
                    root = self._root(value)
                    out[key] = root.raw
                case "init":
                    out[key] = self._value(value, f"{self.prefix}/init", "", self.params)
                case _:
                    out[key] = value
        if not self.errors:
            self._warn_of_unused()
        return Expansion(
            self.raw,
            out,
            tuple(self.errors),
            tuple(self.warnings),
            frozenset(self.spoilt),
            more=self.more,
            _prefix=self.prefix,
            _root=root,
        )

    # What is defined.

    def _read_params(self) -> None:
        at = self.prefix + "/params"
        for name, value in self._members(self.raw.get("params", {}), at, MAX_PARAMS, "param"):
            where = f"{at}/{name}"
            if value is None:
                detail = f"`{name}` has no value, and there is nobody to give it one."
                self._tell(where, "missing", detail, hint="Write its value here.")
            elif not is_constant(value):
                self._tell(
                    where,
                    "wrong-type",
                    f"`{name}` is a number, a boolean, or a list of these.",
                    expected="a number, a boolean, or a list of these",
                    got=shorten(value),
                )
            else:
                self.params[name] = value
                continue
            self.unreadable.add(name)

    def _read_blocks(self) -> None:
        at = self.prefix + "/blocks"
        for name, block in self._members(self.raw.get("blocks", {}), at, MAX_BLOCKS, "block"):
            where = f"{at}/{name}"
            self.broken.add(name)
            if not isinstance(block, Mapping):
                self._tell(
                    where, "wrong-type", 'A block is an object with "params" and "body".', expected="an object",
                    got=shorten(block),
                )  # fmt: skip
                continue
            self._refuse_unknown(block, ("params", "body"), where, "")
            params: dict[str, Any] = {}
            for param, default in self._members(block.get("params", {}), where + "/params", MAX_PARAMS, "param"):
                params[param] = None if default is None else self._constant(default, f"{where}/params/{param}", "")
            if "body" not in block:
                self._tell(
                    where + "/body", "missing", "This member is required.", hint="Add the layer that it stands for."
                )
                continue
            self.blocks[name] = _Block(params, block["body"], where + "/body")
            self.broken.discard(name)

    def _members(self, value: object, at: str, most: int, what: str) -> Iterator[tuple[str, Any]]:
        """The members of an object whose names are words."""
        if not isinstance(value, Mapping):
            self._tell(at, "wrong-type", f"The {what}s are an object.", expected="an object", got=shorten(value))
            return
        if len(value) > most:
            self._tell(at, "out-of-range", f"There are at most {most} {what}s.", got=str(len(value)))
            return
        for name, item in value.items():
            if isinstance(name, str) and _WORD.fullmatch(name) and not name.startswith("__"):
                yield name, item
            else:
                detail = f"A {what}'s name is a letter followed by letters, digits and underscores."
                self._tell(f"{at}/{_escaped(name)}", "invalid-name", detail, got=shorten(name))

    def _refuse_cycles(self) -> None:
        """Blocks that come back to themselves, each circle named once."""
        uses = {name: _blocks_in(block.body) & self.blocks.keys() for name, block in self.blocks.items()}
        while True:
            try:
                TopologicalSorter(uses).prepare()
                return
            except CycleError as error:
                circle: list[str] = error.args[1][::-1]  # graphlib names what comes before first
            start = min(range(len(circle) - 1), key=lambda place: list(self.blocks).index(circle[place]))
            circle = [*circle[start:-1], *circle[:start], circle[start]]
            self._tell(
                f"{self.prefix}/blocks/{circle[0]}",
                "recursive-block",
                f"Blocks may not use themselves: {' → '.join(circle)}."[:512],
                hint="Use Repeat for layers that come again.",
            )
            for name in circle:
                self.broken.add(name)
                uses.pop(name, None)
            uses = {name: used - set(circle) for name, used in uses.items()}

    def _refuse_growth(self) -> None:
        """See how many layers there are at least, so that blocks that double with each level are refused unmade."""
        least = dict.fromkeys(self.broken, 0)
        uses = {name: _blocks_in(block.body) for name, block in self.blocks.items() if name not in self.broken}
        for name in TopologicalSorter(uses).static_order():
            if name in uses:
                least[name] = _least(self.blocks[name].body, least)
                self._fits(least[name], self.blocks[name].pointer)
        self._fits(_least(self.raw.get("root"), least), self.prefix + "/root")

    def _warn_of_unused(self) -> None:
        at = self.prefix
        rest = {key: value for key, value in self.raw.items() if key not in ("params", "blocks", "labels")}
        names = _names_in(rest)
        reached: set[str] = set()
        ahead = _blocks_in(self.raw.get("root"))
        while ahead:
            name = ahead.pop()
            if name in self.blocks and name not in reached:
                reached.add(name)
                ahead |= _blocks_in(self.blocks[name].body)
        for name, block in self.blocks.items():
            inside = _names_in(block.body)
            names |= (inside - block.params.keys()) | _names_in(self.raw["blocks"][name].get("params", {}))
            if name not in reached:
                detail = f"The block `{name}` is never used."
                self.warnings.append(Entry(f"{at}/blocks/{name}", "unused-block", detail, hint="Use it, or remove it."))
            for param in block.params:
                if param not in inside:
                    where = f"{at}/blocks/{name}/params/{param}"
                    self.warnings.append(_unused_param(where, f"`{param}` is never used in the block `{name}`."))
        for name in self.params:
            if name not in names:
                self.warnings.append(_unused_param(f"{at}/params/{name}", f"`{name}` is never used."))

    # Layers.

    def _root(self, raw: Any) -> _Node:
        at = self.prefix + "/root"
        if isinstance(raw, Mapping) and "if" in raw:
            self._tell(at + "/if", "not-here", "The root is always there.", hint='Remove "if".')
        made = self._layer(raw, _Site(at, "", "", self.params, 1, 1, None))
        return made[0]

    def _layer(self, raw: Any, site: _Site) -> tuple[_Node, ...]:
        """What one written layer becomes: one layer, or several that are spliced; its `if` was asked before."""
        self._spend(site)
        if site.depth > MAX_DEPTH:
            raise too_large("depth", MAX_DEPTH, site.depth, site.at, f"Layers nest at most {MAX_DEPTH} deep.")
        if site.nesting > _MAX_NESTING:
            detail = f"Layers, blocks and repeats nest at most {_MAX_NESTING} deep."
            raise too_large("nesting", _MAX_NESTING, site.nesting, site.at, detail)
        if not isinstance(raw, Mapping):
            return (_Node(raw, site.at),)
        match raw.get("type"):
            case "Use":
                return self._use(raw, site)
            case "Repeat":
                return self._repeat(raw, site)
            case _:
                return (self._plain(raw, site),)

    def _plain(self, raw: Mapping[str, Any], site: _Site) -> _Node:
        out: dict[str, Any] = {}
        elsewhere: dict[str, str] = {}
        children: tuple[_Node, ...] = ()
        graph = raw.get("type") == "Graph"
        for key, value in raw.items():
            at = f"{site.at}/{_escaped(key)}"
            if key == "if":
                continue
            if key == ABSENT and graph:
                detail = "This member is not known here."
                self._tell(at, "unknown-member", detail, site, hint='A layer that may be missing has an "if".')
            elif key == "layers" and isinstance(value, (list, tuple)):
                children, absent = self._children(value, at, site, "Graph" if graph else "Sequential")
                out[key] = [child.raw for child in children]
                if graph and absent:
                    out[ABSENT] = absent
            elif key == "forward" and graph and isinstance(value, (list, tuple)):
                steps = enumerate(value)
                out[key] = [
                    step if isinstance(step, str) else self._value(step, f"{at}/{place}", site.path, site.scope)
                    for place, step in steps
                ]
            elif key in _TEXTS:
                out[key] = value
                if is_expression(value):
                    self._tell(
                        at,
                        "not-here",
                        "Expressions stand where numbers or booleans do, not in words.",
                        site,
                        hint='The layers of a Repeat are named by its "prefix" and their index.'
                        if key == "name"
                        else None,
                        got=shorten(value),
                    )
                    self.spoilt.add(at)
            else:
                out[key] = self._value(value, at, site.path, site.scope)
        return _container(out, site.at, elsewhere, children, _weight(out))

    def _children(
        self, layers: list[Any] | tuple[Any, ...], at: str, site: _Site, into: _Parent
    ) -> tuple[tuple[_Node, ...], list[str]]:
        """A container's children, and the names of those that are not there."""
        made: list[_Node] = []
        absent: list[str] = []
        size, weight = 1, 0
        for place, raw in enumerate(layers):
            name = raw.get("name") if isinstance(raw, Mapping) else None
            label = name[:65] if isinstance(name, str) else str(len(made))
            inside = _Site(f"{at}/{place}", site.path[:1024], label, site.scope, site.depth + 1, site.nesting + 1, into)
            if not self._is_there(raw, inside):
                absent += [name] if isinstance(name, str) else []
                continue
            more = self._layer(raw, inside)
            made += more
            size += sum(node.size for node in more)
            weight += sum(node.weight for node in more)
            self._fits(size, inside.at, weight)
        if absent:
            there = [node.raw.get("name") for node in made if isinstance(node.raw, Mapping)]
            absent = [name for name in dict.fromkeys(absent) if name not in there]
        return tuple(made), absent

    def _is_there(self, raw: Any, site: _Site) -> bool:
        if not isinstance(raw, Mapping) or "if" not in raw:
            return True
        at = site.at + "/if"
        found = self._value(raw["if"], at, site.path, site.scope)
        if at in self.spoilt or isinstance(found, bool):
            return found is not False
        hint = "Compare it with something: ${n != 0}." if isinstance(found, int) else None
        self._tell(
            at, "wrong-type", "`if` is true or false.", site, hint=hint, expected="a boolean", got=shorten(found)
        )
        return True

    def _use(self, raw: Mapping[str, Any], site: _Site) -> tuple[_Node, ...]:
        told = len(self.errors)
        self._refuse_unknown(raw, _USE, site.at, site.path)
        splice = self._spliced(raw, site)
        name = raw.get("block")
        block = self.blocks.get(name) if isinstance(name, str) else None
        if block is None and not (isinstance(name, str) and name in self.broken):
            if "block" not in raw:
                self._tell(site.at + "/block", "missing", "Use names a block.", site, hint='Add "block".')
            else:
                self._tell(
                    site.at + "/block",
                    "unknown-block",
                    f"There is no block {shorten(name)}.",
                    site,
                    hint=self._near(name, self.blocks) or self._known_blocks(),
                    got=shorten(name),
                )
        if block is None or not isinstance(name, str):
            return self._stand_in(raw, site, splice)
        args = self._arguments(raw, name, block, site)
        if args is None or name in self.broken or len(self.errors) > told:
            return self._stand_in(raw, site, splice)
        node = self._body(name, block, args, site)
        if node is None:
            return self._stand_in(raw, site, splice)
        if not splice:
            return (_renamed(node, raw.get("name"), site.at + "/name", site.at),)
        if not isinstance(node.raw, Mapping) or node.raw.get("type") != "Sequential":
            detail = f"Only the layers of a Sequential can be spliced; the block `{name}` is another kind of layer."
            self._tell(site.at + "/splice", "not-here", detail, site, hint='Leave "splice" out.')
            return ()
        return node.children

    def _known_blocks(self) -> str:
        return f"The blocks are: {', '.join(list(self.blocks)[:20])}." if self.blocks else 'Add it to "blocks".'

    def _stand_in(self, raw: Mapping[str, Any], site: _Site, splice: bool) -> tuple[_Node, ...]:
        """What takes the place of a block that cannot be made, so that the rest can be looked at."""
        if splice:
            if site.into == "Graph":  # its forward may call layers that are not there now
                self.spoilt.add(site.at.rpartition("/layers/")[0] + "/forward")
            return ()
        return (_renamed(_Node({"type": "Identity"}, site.at), raw.get("name"), site.at + "/name", site.at),)

    def _arguments(self, raw: Mapping[str, Any], name: str, block: _Block, site: _Site) -> dict[str, Value] | None:
        """The values of a block's params for one use, or None after a mistake."""
        at = site.at + "/args"
        given = raw.get("args", {})
        if not isinstance(given, Mapping):
            self._tell(at, "wrong-type", "The arguments are an object.", site, expected="an object", got=shorten(given))
            return None
        good = True
        values: dict[str, Value] = {}
        for key, value in given.items():
            where = f"{at}/{_escaped(key)}"
            if key not in block.params:
                names = ", ".join(list(block.params)[:20])
                self._tell(
                    where,
                    "unknown-argument",
                    f"The block `{name}` has no param {shorten(key)}.",
                    site,
                    hint=self._near(key, block.params) or (f"It has: {names}." if names else "It has none."),
                    got=shorten(key),
                )
                good = False
                continue
            found = self._constant(value, where, site.path, site.scope)
            if found is None:
                good = False
            else:
                values[key] = found
        for key, default in block.params.items():
            if key in given:
                continue
            if f"{block.pointer.removesuffix('/body')}/params/{key}" in self.spoilt:
                good = False
            elif default is None:
                detail = f"The block `{name}` needs `{key}`."
                where = f"{at}/{key}" if "args" in raw else at
                self._tell(where, "missing", detail, site, hint='Add it to "args".')
                good = False
            else:
                values[key] = default
        return values if good else None

    def _body(self, name: str, block: _Block, args: Mapping[str, Value], site: _Site) -> _Node | None:
        """A block's body for these arguments; None after a mistake that forbids it."""
        key = (name, *sorted((param, _frozen(value)) for param, value in args.items()))
        if key not in self.made:
            if isinstance(block.body, Mapping) and "if" in block.body:
                self._tell(
                    block.pointer + "/if", "not-here", "A block's body is always there.", hint='Put "if" at the Use.'
                )
            inside = _Site(
                block.pointer, site.parent, site.label, {**self.params, **args}, site.depth, site.nesting + 1, None
            )
            made = self._layer(block.body, inside)
            node = made[0]
            if isinstance(node.raw, Mapping) and node.raw.get("type") == "Graph" and "class_name" not in node.raw:
                node = replace(node, raw={**node.raw, "class_name": name})
            self.made[key] = node
        found = self.made[key]
        if found is not None and site.depth + found.depth - 1 > MAX_DEPTH:
            deep = site.depth + found.depth - 1
            raise too_large("depth", MAX_DEPTH, deep, site.at, f"Layers nest at most {MAX_DEPTH} deep.")
        return found

    def _repeat(self, raw: Mapping[str, Any], site: _Site) -> tuple[_Node, ...]:
        self._refuse_unknown(raw, _REPEAT, site.at, site.path)
        splice = self._spliced(raw, site)
        index, prefix = raw.get("index", "i"), raw.get("prefix", "")
        if not isinstance(index, str) or not _WORD.fullmatch(index) or index.startswith("__"):
            detail = "The index is a letter followed by letters, digits and underscores."
            self._tell(site.at + "/index", "invalid-name", detail, site, got=shorten(index))
            index = "i"
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            detail = "A prefix has at most 48 letters, digits and underscores."
            self._tell(site.at + "/prefix", "invalid-name", detail, site, got=shorten(prefix))
            prefix = "layer"
        count = self._count(raw, site)
        layer = raw.get("layer")
        if not isinstance(layer, Mapping):
            if "layer" in raw:
                detail, code = "What is repeated is a layer.", "wrong-type"
            else:
                detail, code = "Repeat needs the layer that it repeats.", "missing"
            self._tell(site.at + "/layer", code, detail, site, expected="an object")
            return self._stand_in(raw, site, splice)
        several = layer.get("splice") is True and layer.get("type") in ("Use", "Repeat")
        if layer.get("name") is not None:
            detail = 'The layers of a Repeat are named by its "prefix" and their index.'
            self._tell(site.at + "/layer/name", "not-here", detail, site, hint='Remove it, and give "prefix".')
        if several and prefix:
            detail = "Spliced layers are numbered, or keep their own names: the prefix would name nothing."
            self._tell(site.at + "/prefix", "not-here", detail, site, hint="Remove it.")
        if splice and site.into == "Graph" and not prefix and not several:
            detail = "A graph's layers have names, by which its forward calls them."
            self._tell(
                site.at + "/prefix", "missing", detail, site, hint='Add "prefix": the layers are prefix + index.'
            )
            self.spoilt.add(site.at + "/layer/name")
        named = not several and not (splice and not prefix)
        children = self._repetitions(layer, site, count, index, prefix if named else None, splice)
        if splice:
            return children
        out: dict[str, Any] = {"type": "Sequential"}
        if "name" in raw:
            out["name"] = raw["name"]
        out["layers"] = [child.raw for child in children]
        return (_container(out, site.at, {"layers": site.at + "/layer"}, children),)

    def _repetitions(
        self, layer: Mapping[str, Any], site: _Site, count: int, index: str, prefix: str | None, splice: bool
    ) -> tuple[_Node, ...]:
        made: list[_Node] = []
        at = site.at + "/layer"
        parent, depth = (site.parent, site.depth) if splice else (site.path, site.depth + 1)
        base = int(site.label) if splice and site.label.isdecimal() else 0
        same: tuple[_Node, ...] | None = None
        varies = index in self._names(layer)
        size, weight = 1, 0
        for place in range(count):
            self._spend(site)
            if same is None or varies:
                label = f"{prefix}{place}" if prefix is not None else str(base + len(made))
                into: _Parent = site.into if splice else "Repeat"
                scope = {**site.scope, index: place}
                inside = _Site(at, parent[:1024], label, scope, depth, site.nesting + 1, into)
                same = self._layer(layer, inside) if self._is_there(layer, inside) else ()
            more = same
            if prefix is not None:
                more = tuple(_renamed(node, f"{prefix}{place}", site.at + "/prefix", None) for node in same)
            made += more
            size += sum(node.size for node in more)
            weight += sum(node.weight for node in more)
            self._fits(size, at, weight)
        return tuple(made)

    def _names(self, layer: Mapping[str, Any]) -> set[str]:
        """The names in a repeated layer, looked for once."""
        if id(layer) not in self.names:
            self.names[id(layer)] = _names_in(layer)
        return self.names[id(layer)]

    def _count(self, raw: Mapping[str, Any], site: _Site) -> int:
        at = site.at + "/count"
        if "count" not in raw:
            self._tell(at, "missing", "Repeat needs a count.", site, hint='Add "count".')
            return 1
        count = self._value(raw["count"], at, site.path, site.scope)
        if at in self.spoilt:
            return 1
        if isinstance(count, bool) or not isinstance(count, int):
            self._tell(
                at, "wrong-type", "The count is a whole number.", site, expected="a whole number", got=shorten(count)
            )
            return 1
        if count > MAX_REPEAT:
            detail = f"A layer is repeated at most {MAX_REPEAT:,} times."
            raise too_large("repeat", MAX_REPEAT, min(count, LARGEST), at, detail)
        if count < 0:
            self._tell(at, "out-of-range", "The count is 0 or more.", site, expected="at least 0", got=shorten(count))
            return 1
        return count

    def _spliced(self, raw: Mapping[str, Any], site: _Site) -> bool:
        splice = raw.get("splice", False)
        if not isinstance(splice, bool):
            self._tell(site.at + "/splice", "wrong-type", "`splice` is true or false.", site, got=shorten(splice))
            return False
        if splice and site.into is None:
            detail = "There is no container around this for its layers to be spliced into."
            self._tell(site.at + "/splice", "not-here", detail, site, hint='Leave "splice" out.')
            return False
        if splice and raw.get("name") is not None:
            detail = "What is spliced leaves no layer of this name behind."
            self._tell(site.at + "/name", "not-here", detail, site, hint='Leave "name" or "splice" out.')
        return splice

    # Values.

    def _input(self, spec: Any, at: str) -> Any:
        if not isinstance(spec, Mapping) or "shape" not in spec:
            return spec
        return {**spec, "shape": self._value(spec["shape"], at + "/shape", "", self.params)}

    def _constant(self, value: Any, at: str, path: str, scope: Mapping[str, Value] | None = None) -> Any:
        """A value that a name may stand for; None after a mistake."""
        found = self._value(value, at, path, self.params if scope is None else scope)
        if is_constant(found):
            return found
        if any(is_expression(item) for item in _values_in(found)):
            return None  # told by whoever could not compute it
        self._tell(
            at,
            "wrong-type",
            "A param stands for a number, a boolean, or a list of these.",
            path,
            expected="a number, a boolean, or a list of these",
            got=shorten(value),
        )
        self.spoilt.add(at)
        return None

    def _value(self, value: Any, at: str, path: str, scope: Mapping[str, Value], depth: int = 0) -> Any:
        """A JSON value with its expressions computed; after a mistake the expression is left as it stands."""
        if isinstance(value, str):
            return self._computed(value, at, path, scope) if "${" in value else value
        if depth > 8:
            return value
        if isinstance(value, (list, tuple)):
            if not any(isinstance(item, (str, list, tuple, Mapping)) for item in value):
                return value
            before = len(self.spoilt)
            items = [self._value(item, f"{at}/{place}", path, scope, depth + 1) for place, item in enumerate(value)]
            if len(self.spoilt) > before:
                self.spoilt.add(at)  # a list is read as a whole
            return items
        if isinstance(value, Mapping):
            return {
                key: self._value(item, f"{at}/{_escaped(key)}", path, scope, depth + 1) for key, item in value.items()
            }
        return value

    def _computed(self, text: str, at: str, path: str, scope: Mapping[str, Value]) -> Any:
        try:
            expression = read(text)
            if self.unreadable and any(name in self.unreadable and name not in scope for name in expression.names):
                self.spoilt.add(at)
                return text
            return expression.value(scope, hints=len(self.errors) < _MOST_HINTS)
        except Refused as refusal:
            self._tell(at, refusal.code, refusal.detail, path, hint=refusal.hint, got=shorten(text))
            self.spoilt.add(at)
            return text

    # Telling.

    def _refuse_unknown(self, raw: Mapping[str, Any], known: tuple[str, ...], at: str, path: str) -> None:
        for key in raw:
            if key not in known:
                hint = self._near(key, known) or "Remove it, or correct its name."
                self._tell(f"{at}/{_escaped(key)}", "unknown-member", "This member is not known here.", path, hint=hint)

    def _near(self, word: object, known: Iterable[str]) -> str | None:
        return nearest_hint(str(word), known) if len(self.errors) < _MOST_HINTS else None

    def _tell(
        self,
        at: str,
        code: str,
        detail: str,
        where: _Site | str = "",
        *,
        hint: str | None = None,
        expected: str | None = None,
        got: str | None = None,
    ) -> None:
        path = where if isinstance(where, str) else where.path
        if len(self.errors) < _MOST_MISTAKES:
            self.errors[Entry(at, code, detail, path or None, hint, expected, got)] = None
        else:
            self.more += 1

    def _spend(self, site: _Site) -> None:
        self.work += 1
        if self.work > _MAX_WORK:
            detail = f"Blocks and repeats are worked through in at most {_MAX_WORK:,} steps."
            raise too_large("expansion", _MAX_WORK, self.work, site.at, detail)

    def _fits(self, size: int, at: str, weight: int = 0) -> None:
        if size > MAX_LAYERS:
            raise too_large("layers", MAX_LAYERS, size, at, f"There are at most {MAX_LAYERS:,} layers.")
        if weight > _MAX_WEIGHT:
            detail = "Written out, the blocks and repeats hold too many lines and list items."
            raise too_large("expansion", _MAX_WEIGHT, weight, at, detail)


_MOST_MISTAKES: Final = 1_000
_MOST_HINTS: Final = 20
"""Looking for the nearest name is slow, and nobody reads the hundredth hint."""


def _least(raw: Any, blocks: Mapping[str, int], nesting: int = 0) -> int:
    """How many layers there are without those that depend on an expression."""
    if not isinstance(raw, Mapping) or "if" in raw or nesting > _MAX_NESTING:
        return 0
    match raw.get("type"):
        case "Use":
            name = raw.get("block")
            return (blocks.get(name, 0) if isinstance(name, str) else 0) - (raw.get("splice") is True)
        case "Repeat":
            count = raw.get("count")
            times = count if isinstance(count, int) and 0 < count <= MAX_REPEAT else 0
            return times * _least(raw.get("layer"), blocks, nesting + 1) + (raw.get("splice") is not True)
        case _:
            layers = raw.get("layers")
            inner = layers if isinstance(layers, (list, tuple)) else ()
            return 1 + sum(_least(layer, blocks, nesting + 1) for layer in inner)


def _container(
    raw: dict[str, Any], at: str, elsewhere: Mapping[str, str], children: tuple[_Node, ...], weight: int = 0
) -> _Node:
    size = 1 + sum(child.size for child in children)
    weight += sum(child.weight for child in children)
    return _Node(raw, at, elsewhere, children, size, 1 + max((child.depth for child in children), default=0), weight)


def _weight(raw: Mapping[str, Any]) -> int:
    weight = 0
    for key, value in raw.items():
        if isinstance(value, (list, tuple, Mapping)) and key != "layers":
            weight += sum(1 for _ in _values_in(value)) * (8 if key == "forward" else 1)
    return weight


def _renamed(node: _Node, name: Any, at: str, used_at: str | None) -> _Node:
    """The layer under another name, which is written at `at`."""
    elsewhere = dict(node.elsewhere)
    raw = node.raw
    if isinstance(raw, Mapping) and name is not None:
        raw = {"type": raw.get("type"), "name": name, **{k: v for k, v in raw.items() if k not in ("type", "name")}}
    if not isinstance(raw, Mapping) or name is not None or "name" not in raw:
        elsewhere["name"] = at
    if used_at is not None:
        elsewhere[""] = used_at
    return replace(node, raw=raw, elsewhere=elsewhere)


def _unused_param(at: str, detail: str) -> Entry:
    return Entry(at, "unused-param", detail, hint="Use it, or remove it.")


def _escaped(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def _frozen(value: Value) -> Any:
    """The value as a key; 1, 1.0 and true are three."""
    if isinstance(value, (list, tuple)):
        return ("list", tuple(_frozen(item) for item in value))
    return (type(value).__name__, value)


def _values_in(value: Any) -> Iterator[Any]:
    """Every value inside a JSON value, without recursion."""
    stack = [value]
    while stack:
        one = stack.pop()
        yield one
        if isinstance(one, Mapping):
            stack.extend(one.values())
        elif isinstance(one, (list, tuple)):
            stack.extend(one)


def _names_in(value: Any) -> set[str]:
    """The names in all expressions that can be read."""
    names: set[str] = set()
    for text in _values_in(value):
        if is_expression(text):
            try:
                names |= read(text).names
            except Refused:
                continue
    return names


def _blocks_in(value: Any) -> set[str]:
    """The blocks that are used."""
    return {
        one["block"]
        for one in _values_in(value)
        if isinstance(one, Mapping) and one.get("type") == "Use" and isinstance(one.get("block"), str)
    }
