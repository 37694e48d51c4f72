"""Surgery on a net as data: edits by dotted path, the document that comes out, and what becomes of every tensor.

Paths are those of `print(net)`: `classifier.6`, `features`, "" for the root. Edits apply in order, each to what those
before it left; all their mistakes are told at once. Works on documents and on shapes that the documents say; it knows
no torch and no weights. `engine.transfer` moves those.

Decisions:

- **Keys stay.** A layer that is inserted by `name`, or removed, leaves its siblings' keys alone: after `classifier.5`
  is removed, `classifier.6` is still `classifier.6`. Only what is inserted *without* a name in a Sequential takes a
  number, and the numbers behind it move up by one, as with torch's `insert`; the weight map tells these renames.
- **What is added runs.** Appending to a Graph adds a call on the value that it returns; inserting into one adds a call
  at each call of the sibling. A layer that would be registered and never called does not come about.
- **A replaced layer starts anew.** `replace` keeps the place and the name, not the weights, unless a `policy` of
  `slice`, `pad` or `mean_channels` says how they carry over. `set_field` and `resize` keep every tensor whose shape
  stays.
- **Freezing is no part of the net.** It changes no document and no digest: the globs come back beside the document,
  for training. They name layers and tensors of the *new* document, wherever they stand among the edits.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, TypeAlias, assert_never

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, TypeAdapter
from pydantic_core import PydanticCustomError

from service.errors import ArchitectureInvalid, ArchitectureTooLarge, Entry, shorten
from service.schemas.architecture import Architecture, StateRow, canonical_form, state_rows
from service.schemas.document import Document, nearest_hint
from service.schemas.expand import Expansion, expand
from service.schemas.initial import Pattern, matches
from service.schemas.judgement import Judgement, Limits, judge, require
from service.schemas.leaf import LayerName
from service.schemas.surgery import (
    Fault,
    Node,
    Policy,
    Steps,
    change,
    dotted,
    first_leaf,
    follow,
    is_number,
    read_node,
    require_free,
    required_name,
    settable,
    shift,
    sizes_of,
    walk,
)

MAX_EDITS: Final = 200


Path = Annotated[str, StringConstraints(max_length=1024)]
Member = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Replace(Document):
    """Another layer in the place of the one at `path`, under its name. Sizes may be "auto".

    Where the layer takes an input of the net directly, other `in_channels` or `in_features` change that input too.
    """

    op: Literal["replace"]
    path: Path
    layer: dict[str, Any]
    policy: Policy = "reinit"


class Append(Document):
    """One more layer at the end of the container at `path`; a Graph calls it on the value that it returns."""

    op: Literal["append"]
    path: Path
    layer: dict[str, Any]
    name: LayerName | None = None


class InsertBefore(Document):
    """A layer before the one at `path`; in a Graph, before each call of that layer."""

    op: Literal["insert_before"]
    path: Path
    layer: dict[str, Any]
    name: LayerName | None = None


class InsertAfter(Document):
    """A layer after the one at `path`; in a Graph, after each call of that layer."""

    op: Literal["insert_after"]
    path: Path
    layer: dict[str, Any]
    name: LayerName | None = None


class Remove(Document):
    """Take the layer at `path` out; its value passes through."""

    op: Literal["remove"]
    path: Path


class Rename(Document):
    """Another name for the layer at `path`; it keeps its weights."""

    op: Literal["rename"]
    path: Path
    name: LayerName


class SetField(Document):
    """Another value for one member of the layer at `path`, such as `p` of a Dropout or `class_name` of a Graph.

    At the root, `inputs` as a list of objects sets what the net is given.
    """

    op: Literal["set_field"]
    path: Path
    field: Member
    value: Any
    policy: Policy = "reinit"


class Resize(Document):
    """Another size for the layer at `path`: `out_features`, `num_embeddings`, `in_channels`, ….

    Where the layer takes an input of the net directly, a change of its `in_channels`, `in_features` or `input_size`
    changes that input too.
    """

    op: Literal["resize"]
    path: Path
    field: Member
    value: Annotated[int, Field(ge=1)]
    policy: Policy = "reinit"


class Truncate(Document):
    """The net ends with the layer at `path`: what came after is dropped, and the layer's output is returned.

    Of a layer that is called several times, the last call counts.
    """

    op: Literal["truncate"]
    path: Path


class Freeze(Document):
    """Train no tensor that the glob `path` names: `features.**`, `*.bias`, `encoder`.

    `*` stands for one name and `**` for any number of them; a layer stands for all that is below it.
    """

    op: Literal["freeze"]
    path: Pattern


class Unfreeze(Document):
    """Train what the glob `path` names after all."""

    op: Literal["unfreeze"]
    path: Pattern


Edit: TypeAlias = (
    Replace | Append | InsertBefore | InsertAfter | Remove | Rename | SetField | Resize | Truncate | Freeze | Unfreeze
)


def _one_at_least(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    if not edits:
        raise PydanticCustomError("too_short", "There is nothing to do: send at least one edit.")
    return edits


# The least is checked at last: pydantic's own check would count only the edits that are right.
Edits = Annotated[
    tuple[Annotated[Edit, Field(discriminator="op")], ...],
    Field(max_length=MAX_EDITS),
    AfterValidator(_one_at_least),
]
EDITS: Final[TypeAdapter[tuple[Edit, ...]]] = TypeAdapter(Edits)


# What is edited, as requests say it.


class FromVersion(Document):
    """A published version; its weights are taken over. `model` is a reference as in a prediction: `name`, `name@alias`
    or `name/3`. The name alone means `version`, else the alias champion, else the newest version that is ready.
    """

    model: Annotated[str, StringConstraints(max_length=140)]
    version: Annotated[int, Field(ge=1, le=999_999_999)] | None = None


class FromArchitecture(Document):
    """A net without weights: a document, the digest of a stored one, or a net of the catalogue."""

    architecture: Annotated[dict[str, Any], Field(title="Document")] | Annotated[str, Field(title="Digest")]


class FromCatalogue(Document):
    """A net of the catalogue, without weights: short for the same in `architecture`."""

    catalogue: Annotated[str, StringConstraints(max_length=63)]
    params: dict[str, Any] = Field(default_factory=dict)


def _source(value: object) -> str:
    if isinstance(value, Mapping) and "model" not in value:
        return next((name for name in ("architecture", "catalogue") if name in value), "model")
    return "architecture" if isinstance(value, Mapping) and "architecture" in value else "model"


EditSource: TypeAlias = Annotated[
    Annotated[FromVersion, Tag("model")]
    | Annotated[FromArchitecture, Tag("architecture")]
    | Annotated[FromCatalogue, Tag("catalogue")],
    Discriminator(_source),
]


class EditedArchitecture(Document):
    """A net that is another one after edits."""

    from_: EditSource = Field(alias="from")
    edits: Edits


class EditRequest(EditedArchitecture):
    """The same, to look at or to keep: with `dry_run` nothing is stored."""

    dry_run: bool = False


EDITED_ARCHITECTURE: Final = TypeAdapter(EditedArchitecture)
EDIT_REQUEST: Final = TypeAdapter(EditRequest)


class Kept(Document):
    """A tensor that is taken over as it is; `from` and `to` differ where its layer was renamed."""

    from_: str = Field(alias="from")
    to: str


class Reshaped(Document):
    """A tensor of another shape than the one it comes from; `from` is that one's key."""

    key: str
    from_: str = Field(alias="from")
    from_shape: tuple[int, ...]
    to_shape: tuple[int, ...]
    policy: Policy


class WeightMap(Document):
    """What becomes of every tensor of the source, and where every tensor of the result comes from, in torch's order."""

    kept: tuple[Kept, ...] = ()
    reshaped: tuple[Reshaped, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def view(self) -> dict[str, Any]:
        """As the API answers it."""
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True, slots=True)
class Edited:
    """What edits make of a net.

    Args:
        document: the new document in its canonical form, every "auto" resolved.
        judgement: the judge's on it.
        weights: where its tensors come from.
        freeze: globs for training, in order; one that begins with "!" lets train what those before it froze.
        frozen: the tensors that they name.
        odd: what is allowed and odd about the edits themselves.
    """

    document: dict[str, Any]
    judgement: Judgement
    weights: WeightMap
    freeze: tuple[str, ...]
    frozen: tuple[str, ...]
    odd: tuple[Entry, ...]


def apply(
    source: Architecture | Mapping[str, Any],
    edits: Sequence[Edit],
    *,
    limits: Limits | None = None,
    at: str = "/edits",
) -> Edited:
    """Apply edits to a net.

    Args:
        source: the net, as a document or as its JSON values.
        edits: in the order in which they apply.
        at: the pointer to the edits in the request's body.

    Raises:
        ArchitectureInvalid: an edit cannot be done, or what comes out cannot be built; with every mistake. An entry
            points at the edit that made the layer, or at all edits when none made it.
        ArchitectureTooLarge: what comes out is too large.
    """
    before = require(source, limits=limits).architecture
    assert before is not None
    surgery = _Surgery(before, at)
    for number, edit in enumerate(edits):
        surgery.do(number, edit)
    if surgery.errors:
        raise _refused(surgery.errors)
    judgement = judge(surgery.raw(), limits=limits)
    idle = {entry.pointer.split("/")[2] for entry in judgement.errors if _is_idle_rule(entry)}
    if idle and len(idle) == len({entry.pointer for entry in judgement.errors}):
        surgery.forget_rules(idle)  # they filled layers that are gone
        judgement = judge(surgery.raw(), limits=limits)
    after = judgement.architecture
    if after is None:
        errors = [surgery.placed(entry) for entry in judgement.errors]
        if any(entry.code == "too-large" for entry in errors):
            raise ArchitectureTooLarge(_REFUSAL, errors=errors, limit=judgement.limit)
        raise _refused(errors)
    rows = state_rows(after)
    weights, wrong = surgery.weights(state_rows(before), rows)
    freeze, unmatched = surgery.freezing(rows)
    if wrong or unmatched:
        raise _refused([*wrong, *unmatched])
    held = frozen(rows, freeze)
    fresh = {*weights.new, *(each.key for each in weights.reshaped if each.policy == "reinit")}
    odd = tuple(
        Entry(at, "frozen-fresh", f"`{key}` is frozen and new: it would keep the values that it is drawn with.")
        for key in held
        if key in fresh and rows[key].kind == "parameter"
    )
    return Edited(canonical_form(after), without_frozen(judgement, held), weights, freeze, held, (*surgery.told, *odd))


def without_frozen(judgement: Judgement, held: Collection[str]) -> Judgement:
    """A judgement of which the summary counts what is frozen no longer among the trainable parameters; tied ones count
    once.

    Args:
        judgement: of a net without mistakes, which counts all of them.
        held: keys of the state_dict that are frozen.
    """
    net, summary = judgement.architecture, judgement.summary
    if net is None or summary is None or not held:
        return judgement
    rows = state_rows(net)
    same = {tie.to: tie.from_ for tie in net.tie}
    tensors = {same.get(key, key) for key in held if rows[key].kind == "parameter"}
    still = sum(math.prod(rows[key].shape) for key in tensors)
    return replace(judgement, summary={**summary, "trainable_parameters": summary["trainable_parameters"] - still})


def _is_idle_rule(entry: Entry) -> bool:
    return entry.code == "unknown-key" and entry.pointer.startswith("/init/")


def frozen(keys: Iterable[str], globs: Sequence[str]) -> tuple[str, ...]:
    """The state_dict keys that globs freeze: of all globs that name a key, the last one decides.

    Args:
        keys: the keys of the net.
        globs: as in `Edited.freeze`.
    """
    patterns = [(glob.removeprefix("!"), not glob.startswith("!")) for glob in globs]
    found = []
    for key in keys:
        held = False
        for pattern, freezes in patterns:
            if held != freezes and _names(pattern, key):
                held = freezes
        if held:
            found.append(key)
    return tuple(found)


_REFUSAL: Final = "The edits cannot be made."


def _refused(errors: Sequence[Entry]) -> ArchitectureInvalid:
    return ArchitectureInvalid(_REFUSAL, errors=errors)


def _names(pattern: str, key: str) -> bool:
    """Whether a glob names the tensor itself or a layer above it."""
    parts = key.split(".")
    return any(matches(pattern, ".".join(parts[:place])) for place in range(1, len(parts) + 1))


@dataclass
class _Surgery:
    """A net under edits, with the memory of where each layer came from."""

    source: Architecture
    at: str
    errors: list[Entry] = field(default_factory=list)
    told: list[Entry] = field(default_factory=list)
    """What the edits changed beside what they name."""

    def __post_init__(self) -> None:
        form = canonical_form(self.source)
        self.document = {**form, "labels": dict(self.source.labels)} if self.source.labels else form
        self.root = read_node(form["root"])
        self.count = 0
        self.globs: list[tuple[int, str]] = []
        self.layers: dict[int, Expansion] = {}
        for path, node in walk(self.root):
            node.origin, node.stepped = path, True

    def do(self, number: int, edit: Edit) -> None:
        """Apply one edit, or note why it cannot be."""
        self.count = max(self.count, number + 1)
        try:
            self._do(number, edit)
        except Fault as fault:
            self.errors.append(
                Entry(
                    f"{self.at}/{number}" + (f"/{fault.member}" if fault.member else ""),
                    fault.code,
                    fault.detail,
                    hint=fault.hint,
                    expected=fault.expected,
                    got=fault.got,
                )
            )

    def _do(self, number: int, edit: Edit) -> None:
        match edit:
            case Replace():
                self._replace(number, edit)
            case Append():
                self._append(number, edit)
            case InsertBefore() | InsertAfter():
                self._insert(number, edit)
            case Remove():
                self._remove(number, edit)
            case Rename():
                self._rename(number, edit)
            case SetField():
                self._set_field(number, edit)
            case Resize():
                self._resize(number, edit)
            case Truncate():
                self._truncate(number, edit)
            case Freeze():
                self.globs.append((number, edit.path))
            case Unfreeze():
                self.globs.append((number, "!" + edit.path))
            case _:
                assert_never(edit)

    # What comes out.

    def raw(self) -> dict[str, Any]:
        """The new document."""
        found = {**self.document, "root": self.root.raw()}
        if "tie" in found:
            found["tie"] = self._ties(found["tie"])
            if not found["tie"]:
                del found["tie"]
        return found

    def forget_rules(self, places: Collection[str]) -> None:
        """Take out the rules for initial weights at these places."""
        rules = [rule for place, rule in enumerate(self.document.pop("init")) if str(place) not in places]
        if rules:
            self.document["init"] = rules

    def _ties(self, ties: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Tied keys under their new names; a tie whose one end is gone is gone."""
        moved = {node.origin: path for path, node in walk(self.root) if node.origin is not None and not node.children}

        def key(old: str) -> str | None:
            if old in moved:
                return moved[old]
            layer, _, name = old.rpartition(".")
            return dotted(moved[layer], name) if layer in moved else None

        found = [{**tie, "from": key(tie["from"]), "to": key(tie["to"])} for tie in ties]
        return [tie for tie in found if tie["from"] is not None and tie["to"] is not None]

    def weights(self, before: Mapping[str, StateRow], after: Mapping[str, StateRow]) -> tuple[WeightMap, list[Entry]]:
        """Where the new document's tensors come from, and the policies that cannot be followed."""
        nodes = dict(walk(self.root))
        kept: list[Kept] = []
        reshaped: list[Reshaped] = []
        new: list[str] = []
        wrong: dict[int | None, Entry] = {}
        for key, row in after.items():
            node = nodes[row.layer]
            old_key: str | None = None
            if node.origin is not None:
                old_key = dotted(node.origin, key[len(row.layer) :].lstrip("."))
            old = before.get(old_key) if old_key is not None else None
            if old is None or old_key is None or old.dtype != row.dtype or len(old.shape) != len(row.shape):
                new.append(key)
            elif old.shape == row.shape:
                if node.fresh and node.policy == "reinit":
                    new.append(key)
                else:
                    kept.append(Kept.model_validate({"from": old_key, "to": key}))
            else:
                reason = _unfit(old.shape, row.shape, node.policy)
                if reason is not None and node.edit is not None:
                    wrong.setdefault(
                        node.edit,
                        Entry(
                            f"{self.at}/{node.edit}/policy",
                            "policy-unfit",
                            f"`{key}` goes from {list(old.shape)} to {list(row.shape)}: {reason}",
                            layer=row.layer or None,
                            hint='Use "reinit", or another policy that fits.',
                            got=node.policy,
                        ),
                    )
                reshaped.append(
                    Reshaped.model_validate(
                        {
                            "key": key,
                            "from": old_key,
                            "from_shape": old.shape,
                            "to_shape": row.shape,
                            "policy": node.policy,
                        }
                    )
                )
        used = {each.from_ for each in kept} | {each.from_ for each in reshaped}
        found = WeightMap(
            kept=tuple(kept),
            reshaped=tuple(reshaped),
            new=tuple(new),
            dropped=tuple(key for key in before if key not in used),
        )
        return found, list(wrong.values())

    def freezing(self, rows: Mapping[str, StateRow]) -> tuple[tuple[str, ...], list[Entry]]:
        """The globs, those without effect left out, and those that name nothing."""
        found: list[str] = []
        unmatched: list[Entry] = []
        for number, glob in self.globs:
            pattern = glob.removeprefix("!")
            if not frozen(rows, (pattern,)):
                near = list(dict.fromkeys(rows[key].layer for key in rows))[:_MOST_CHOICES]
                hint = _nearest_glob(pattern, [*near, *self._containers()], rows)
                detail = f"{shorten(pattern)} names no layer with weights in the edited net."
                unmatched.append(
                    Entry(
                        f"{self.at}/{number}/path",
                        "unknown-path",
                        detail,
                        hint=hint or "Write a path such as classifier.6, or a glob such as features.**.",
                        got=shorten(pattern),
                    )
                )
            found = [each for each in found if each.removeprefix("!") != pattern]
            if not glob.startswith("!") or found:
                found.append(glob)
        return tuple(found), unmatched

    def placed(self, entry: Entry) -> Entry:
        """A mistake in the new document, told of the edit that made or changed the layer that it is in."""
        return replace(entry, pointer=self._place(entry.pointer))

    def _place(self, pointer: str) -> str:
        everything = f"{self.at}/0" if self.count == 1 else self.at
        parts = pointer.split("/")[1:]
        if not parts or parts[0] != "root":
            return everything
        chain: list[tuple[Node, int]] = [(self.root, 1)]  # each with how much of the pointer leads to it
        place = 1
        while len(parts) > place + 1 and parts[place] == "layers" and parts[place + 1].isdecimal():
            children, number = chain[-1][0].children or [], int(parts[place + 1])
            if number >= len(children):
                break
            place += 2
            chain.append((children[number], place))
        node, place = chain[-1]
        if node.edit is None:
            return everything
        if not node.made:
            blamed = node.changed is not None and len(parts) > place and parts[place] == node.changed
            return "/".join([f"{self.at}/{node.edit}", *(["value", *parts[place + 1 :]] if blamed else [])])
        while len(chain) > 1 and chain[-2][0].made and chain[-2][0].edit == node.edit:
            chain.pop()
        written = self.layers[node.edit].origin("/".join(["/root", *parts[chain[-1][1] :]]))
        return f"{self.at}/{node.edit}/layer" + written.removeprefix("/root")

    # Finding layers.

    def _chain(self, path: str) -> list[Node]:
        """The layers from the root to the one at `path`."""
        chain = [self.root]
        for part in path.split(".") if path else ():
            child = chain[-1].child(part)
            if child is None:
                told = len(self.errors) >= _MOST_HINTS
                paths = [] if told else [each for each, _ in walk(self.root)][: _MOST_CHOICES * 4]
                here = dotted(".".join(node.name or "" for node in chain[1:]), "")
                names = [each.name or "" for each in chain[-1].children or ()][: 0 if told else _MOST_CHOICES]
                hint = nearest_hint(path, paths)
                if hint is None or len(chain) > 1:
                    near = difflib.get_close_matches(part, names, n=1, cutoff=0.4)
                    hint = f"Did you mean {dotted(here, near[0])!r}?" if near else hint
                where = f"`{here}`" if here else "The net"
                detail = f"`{path[:100]}` is no layer here: {where[0].lower() + where[1:]} has no `{part[:64]}`."
                if hint is None and names:
                    hint = f"{where} has: {', '.join(names[:20])}."
                raise Fault("path", "unknown-path", detail, hint=hint, got=path)
            chain.append(child)
        return chain

    def _in_parent(self, path: str, what: str) -> tuple[Node, int]:
        """The container of the layer at `path`, and the layer's place in it."""
        chain = self._chain(path)
        if len(chain) == 1:
            raise Fault("path", "invalid", f"The root cannot be {what}: it has no parent.")
        parent = chain[-2]
        assert parent.children is not None
        return parent, parent.children.index(chain[-1])

    def _containers(self) -> list[str]:
        return [path for path, node in walk(self.root) if node.children is not None and path][:_MOST_CHOICES]

    # Edits.

    def _read(self, number: int, layer: Mapping[str, Any]) -> Node:
        """The layer of an edit, its repetitions and expressions written out."""
        where = f"{self.at}/{number}/layer"
        try:
            expansion = expand({"root": layer})
        except ArchitectureTooLarge as refused:
            errors = [replace(entry, pointer=where + entry.pointer.removeprefix("/root")) for entry in refused.errors]
            raise ArchitectureTooLarge(_REFUSAL, errors=errors, limit=refused.limit) from None
        self.layers[number] = expansion
        self.errors += [
            replace(entry, pointer=where + entry.pointer.removeprefix("/root")) for entry in expansion.errors
        ]
        return read_node(expansion.raw["root"], edit=number)

    def _replace(self, number: int, edit: Replace) -> None:
        chain = self._chain(edit.path)
        old, node = chain[-1], self._read(number, edit.layer)
        if node.name is not None and node.name != old.name:
            hint = "Leave the name out; `rename` gives another one."
            raise Fault("layer/name", "invalid-name", "A replaced layer keeps its name.", hint=hint, got=node.name)
        node.name = old.name
        follow(node, old, edit.policy)
        self._feed(number, chain, first_leaf(node))
        if len(chain) == 1:
            self.root = node
            return
        siblings = chain[-2].children
        assert siblings is not None
        siblings[siblings.index(old)] = node

    def _append(self, number: int, edit: Append) -> None:
        node = self._chain(edit.path)[-1]
        if node.children is None:
            hint = "Use insert_after, or replace the layer by a Sequential."
            detail = f"A {node.type[:64]} has no children to append to."
            raise Fault("path", "wrong-type", detail, hint=hint, expected="a Sequential or Graph", got=node.type)
        added = self._added(number, edit)
        if node.type == "Sequential":
            if added.name is None:
                numbers = [int(child.name) for child in node.children if is_number(child.name)]
                added.name = str(max([len(node.children) - 1, *numbers]) + 1)
            require_free(added.name, node)
            node.children.append(added)
            return
        name = required_name(added, node)
        steps = Steps.of(node)
        last = steps.returned()
        if len(last["inputs"]) != 1:
            detail = f"The forward returns {len(last['inputs'])} values: which one would the new layer take?"
            raise Fault("path", "wrong-argument", detail, hint="Use insert_after with the layer whose output it takes.")
        made = steps.call(name, last["inputs"], before=last)
        last["inputs"] = [made]
        node.children.append(added)
        steps.write(node)

    def _insert(self, number: int, edit: InsertBefore | InsertAfter) -> None:
        parent, place = self._in_parent(edit.path, "given a neighbour")
        assert parent.children is not None
        sibling = parent.children[place]
        added = self._added(number, edit)
        after = isinstance(edit, InsertAfter)
        if parent.type == "Sequential":
            at = place + after
            if added.name is None:
                shift(parent.children, at)
                added.name = str(at)
            require_free(added.name, parent)
            parent.children.insert(at, added)
            return
        name = required_name(added, parent)
        steps = Steps.of(parent)
        assert sibling.name is not None
        calls = steps.calls(sibling.name)
        for call in calls:
            if after:
                made = steps.call(name, [steps.value(call)], after=call)
                steps.redirect(steps.value(call), made, but=made)
                continue
            if len(call["inputs"]) != 1 or call.get("named"):
                detail = f"`{sibling.name}` takes several values: which one would the new layer take?"
                raise Fault("path", "wrong-argument", detail, hint="Use insert_after with the layer that makes it.")
            call["inputs"] = [steps.call(name, call["inputs"], before=call)]
        if not calls:
            detail = f"`{sibling.name}` is never called here."
            raise Fault("path", "wrong-argument", detail, hint="Choose a layer that is.")
        parent.children.insert(place + after, added)
        steps.write(parent)

    def _added(self, number: int, edit: Append | InsertBefore | InsertAfter) -> Node:
        """The layer of an edit, under the name that the edit or the layer itself gives it."""
        node = self._read(number, edit.layer)
        if edit.name is not None and node.name is not None and edit.name != node.name:
            raise Fault("name", "invalid-name", "The edit and its layer give two names.", got=edit.name)
        node.name = edit.name or node.name
        return node

    def _remove(self, number: int, edit: Remove) -> None:
        parent, place = self._in_parent(edit.path, "removed")
        assert parent.children is not None
        node = parent.children[place]
        if parent.type == "Graph":
            steps = Steps.of(parent)
            assert node.name is not None
            for call in steps.calls(node.name):
                if call["op"] != "call" or len(call["inputs"]) != 1 or call.get("named"):
                    detail = f"`{node.name}` does not make its value of one other: nothing can pass in its place."
                    hint = "Replace it, or set the `forward` of the graph with set_field."
                    raise Fault("path", "wrong-argument", detail, hint=hint)
                steps.redirect(steps.value(call), call["inputs"][0])
                steps.drop(call)
            steps.write(parent)
        elif len(parent.children) == 1 and parent is self.root:
            raise Fault("path", "invalid", "It is the net's only layer: nothing would be left.")
        del parent.children[place]
        if parent.edit is None:
            parent.edit = number

    def _rename(self, number: int, edit: Rename) -> None:
        parent, place = self._in_parent(edit.path, "renamed")
        assert parent.children is not None
        node = parent.children[place]
        if edit.name == node.name:
            return
        require_free(edit.name, parent)
        if parent.type == "Graph":
            steps = Steps.of(parent)
            for call in steps.calls(node.name or ""):
                call["layer"] = edit.name
            steps.write(parent)
        node.name = edit.name

    def _set_field(self, number: int, edit: SetField) -> None:
        node = self._chain(edit.path)[-1]
        if node is self.root and edit.field == "inputs":
            self.document["inputs"] = edit.value
            return
        known = settable(node)
        if edit.field not in known:
            detail = f"{node.type[:64]} has no member `{edit.field}` that can be set."
            hint = nearest_hint(edit.field, known) or f"It has: {', '.join(known)[:200]}." if known else None
            raise Fault("field", "unknown-member", detail, hint=hint, got=edit.field)
        change(node, number, edit.field, edit.value, edit.policy)

    def _resize(self, number: int, edit: Resize) -> None:
        chain = self._chain(edit.path)
        node = chain[-1]
        sizes = sizes_of(node)
        if edit.field not in sizes:
            detail = f"{node.type[:64]} has no size `{edit.field}`."
            hint = nearest_hint(edit.field, sizes) or (f"Its sizes: {', '.join(sizes)}." if sizes else None)
            raise Fault("field", "unknown-member", detail, hint=hint, got=edit.field)
        resized = Node({**node.members, edit.field: edit.value}, node.name, None)
        self._feed(number, chain, resized)
        change(node, number, edit.field, edit.value, edit.policy)

    def _feed(self, number: int, chain: Sequence[Node], node: Node) -> None:
        """Let the net's input follow the size that the last layer of `chain` takes from now on, as `node` has it.

        Only where the layer takes an input of the net directly, and the input still has the size of before.
        """
        while len(chain) and chain[-1].children and chain[-1].type == "Sequential":
            chain = [*chain, chain[-1].children[0]]
        before, after = _taken_size(chain[-1]), _taken_size(node)
        if before is None or after is None or before[0] != after[0] or before == after:
            return
        taken = self._taken(chain)
        inputs = self.document["inputs"]
        if taken is None or not isinstance(inputs, list) or taken >= len(inputs):
            return
        (axis, size), (_, wanted) = before, after
        shape = inputs[taken].get("shape") if isinstance(inputs[taken], Mapping) else None
        if not isinstance(shape, list) or len(shape) < 2 or shape[axis] != size:
            return
        sized = [*shape]
        sized[axis] = wanted
        self.document["inputs"] = [
            {**each, "shape": sized} if place == taken else each for place, each in enumerate(inputs)
        ]
        was, now = (", ".join(map(str, each)) for each in (shape, sized))
        detail = f"The net's input `{inputs[taken].get('name')}` follows: its shape is [{now}] now, and was [{was}]."
        hint = 'Where another shape is meant, set `inputs` of the root ("path": "") with set_field.'
        self.told.append(Entry(f"{self.at}/{number}", "input-changed", detail, hint=hint))

    def _taken(self, chain: Sequence[Node]) -> int | None:
        """The place of the net's input that a layer takes, when it takes one directly."""
        inputs = self.document["inputs"]
        given: list[int] = list(range(len(inputs))) if isinstance(inputs, list) else []
        for parent, child in itertools.pairwise(chain):
            if parent.type == "Sequential":
                if parent.children is None or parent.children[0] is not child or len(given) != 1:
                    return None
                continue
            names = parent.members.get("inputs", ["x"])
            calls = Steps.of(parent).calls(child.name or "")
            if len(calls) != 1 or len(names) != len(given) or not all(name in names for name in calls[0]["inputs"]):
                return None
            given = [given[names.index(name)] for name in calls[0]["inputs"]]
        return given[0] if len(given) == 1 else None

    def _truncate(self, number: int, edit: Truncate) -> None:
        chain = self._chain(edit.path)
        for parent, child in reversed(list(itertools.pairwise(chain))):
            assert parent.children is not None
            parent.edit = number if parent.edit is None else parent.edit
            if parent.type == "Sequential":
                del parent.children[parent.children.index(child) + 1 :]
                continue
            steps = Steps.of(parent)
            calls = steps.calls(child.name or "")
            if not calls:
                raise Fault("path", "wrong-argument", f"`{child.name}` is never called: it has no output to return.")
            called = steps.end_with(calls[-1])
            parent.children = [each for each in parent.children if each.name in called]
            steps.write(parent)


_TAKEN: Final = {"in_channels": 1, "in_features": -1, "input_size": -1}
"""The members that say how large an axis of a layer's input is, with that axis; it stands behind the batch."""


def _taken_size(node: Node) -> tuple[int, int] | None:
    """Which axis of its input a layer fixes, and its size."""
    sizes = sizes_of(node)
    return next(((axis, sizes[name]) for name, axis in _TAKEN.items() if type(sizes.get(name)) is int), None)


def _nearest_glob(glob: str, known: Collection[str], rows: Mapping[str, StateRow]) -> str | None:
    """ "Did you mean …?" for a glob that names nothing: its plain beginning mended, the rest as it was."""
    parts = glob.split(".")
    plain = next((place for place, part in enumerate(parts) if "*" in part), len(parts))
    if 0 < plain < len(parts):
        near = difflib.get_close_matches(".".join(parts[:plain])[:100], known, n=1, cutoff=0.6)
        mended = ".".join([*near, *parts[plain:]])
        return f"Did you mean {mended!r}?" if near and frozen(rows, (mended,)) else None
    return nearest_hint(glob, known)


_MOST_CHOICES: Final = 500
_MOST_HINTS: Final = 20
"""Looking for the nearest name among thousands is slow."""


def _unfit(old: Sequence[int], new: Sequence[int], policy: Policy) -> str | None:
    """Why a policy cannot make one shape of another."""
    match policy:
        case "reinit":
            return None
        case "slice":
            return None if all(b <= a for a, b in zip(old, new, strict=True)) else "slice only makes tensors smaller."
        case "pad":
            return None if all(b >= a for a, b in zip(old, new, strict=True)) else "pad only makes tensors larger."
        case "mean_channels":
            others = len(old) > 1 and (old[0], *old[2:]) == (new[0], *new[2:])
            return None if others else "mean_channels changes the second dimension alone."
        case _:
            assert_never(policy)
