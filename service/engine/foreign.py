"""A foreign checkpoint becomes a net of ours: which document it is, and which of its tensors are which parameters.

Takes what the inert reader found, finds or checks the document, matches keys and shapes, and tells in a report what was
met, mended and is missing. Knows documents and the reader's records; loads tensors through `checkpoint` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from service.engine import translate
from service.engine.inspection import Inspection, Module, TensorInfo
from service.schemas import fingerprints
from service.schemas.architecture import Architecture, StateRow, state_rows
from service.schemas.judgement import Judgement, Limits, judge

_MOST_LISTED: Final = 200
_HALVES: Final = frozenset({"float16", "bfloat16", "float64"})


@dataclass
class Report:
    """What an import tells of a file; `to_dict` has the members of the API."""

    outcome: str
    format: str
    classes: Sequence[str] = ()
    layers: Sequence[Mapping[str, Any]] = ()
    tensors: Sequence[Mapping[str, Any]] = ()
    repaired: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[dict[str, Any]] = field(default_factory=list)
    needs: list[translate.Need] = field(default_factory=list)
    proposal: dict[str, Any] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As the job shows it; long lists are cut, and say so by `more`."""
        lists = {"classes": self.classes, "layers": self.layers, "tensors": self.tensors, "missing": self.missing,
                 "unexpected": self.unexpected, "mismatched": self.mismatched}  # fmt: skip
        more = {name: len(items) - _MOST_LISTED for name, items in lists.items() if len(items) > _MOST_LISTED}
        return {
            "outcome": self.outcome,
            "format": self.format,
            **{name: list(items)[:_MOST_LISTED] for name, items in lists.items()},
            "repaired": self.repaired,
            "needs": [need.to_dict() for need in self.needs],
            "proposal": self.proposal,
            "others": dict(self.others),
            **({"more": more} if more else {}),
        }


@dataclass(frozen=True, slots=True)
class Source:
    """Where a parameter's numbers come from: the tensor of a key, or two tensors of weight normalisation.

    Args:
        keys: one key of the file, or those of g and v.
        cast: whether the numbers change their type.
    """

    keys: tuple[str, ...]
    cast: bool = False


@dataclass(frozen=True, slots=True)
class Understood:
    """A file that can be built.

    Args:
        architecture: the resolved document.
        sources: for every key of its state_dict, where its numbers are in the file; None for what is made anew.
    """

    architecture: Architecture
    sources: Mapping[str, Source | None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the client says about the file.

    Args:
        architecture: its document, judged; None to take the file's own.
        inputs: what the net takes, as documents say it; None to derive it.
        forward: forwards by path or class, in the forward language or as Python text; "" is the root.
        rename: rules for keys, applied in order.
    """

    architecture: Architecture | None = None
    inputs: Sequence[Mapping[str, Any]] | None = None
    forward: translate.Forwards | None = None
    rename: Sequence[tuple[str, str]] = ()


def understand(
    inspection: Inspection, wishes: Wishes, *, limits: Limits | None = None
) -> tuple[Understood | None, Report]:
    """Find the document and match the tensors; with the report of what was found, whole or not."""
    report = Report(
        outcome="weights_only",
        format=_format(inspection),
        classes=inspection.classes,
        tensors=[_row(tensor) for tensor in inspection.tensors],
        repaired=list(inspection.repaired),
        others=inspection.others,
    )
    _tell_of_archive(inspection, report)
    names = _renamed(inspection, wishes.rename, report)
    if names is None:
        return None, report
    known = {tensor.name: tensor for tensor in inspection.tensors}
    tensors = {now: known[name] for name, now in names.items()}
    architecture = wishes.architecture
    if architecture is not None:
        report.outcome = "exact"
    else:
        architecture = _found(inspection, tensors, wishes, limits or Limits(), report)
    if architecture is None:
        return None, report
    sources = _matched(architecture, tensors, report)
    if sources is None:
        return None, report
    return Understood(architecture, sources), report


def _format(inspection: Inspection) -> str:
    whole = " (whole module)" if inspection.holds == "module" else ""
    if inspection.archive is not None:
        return f"TorchServe archive, {inspection.format}{whole}"
    return f"{inspection.format}{whole}"


def _row(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _tell_of_archive(inspection: Inspection, report: Report) -> None:
    archive = inspection.archive
    if archive is None:
        return
    report.repaired.append(f"The weights were taken from {archive.weights} of the TorchServe archive.")
    if archive.refused:
        report.repaired.append(f"Its code was refused and not read: {', '.join(archive.refused)[:500]}.")


# Names.


def _renamed(inspection: Inspection, rules: Sequence[tuple[str, str]], report: Report) -> dict[str, str] | None:
    """The file's keys and what the rules make of them; None when two become one."""
    names = {name: name for name in inspection.weights}
    for source, target in rules:
        changed = {name: _rewritten(now, source, target) for name, now in names.items()}
        count = sum(changed[name] != now for name, now in names.items())
        if count:
            report.repaired.append(f"{count} keys were renamed by {source} → {target}.")
        else:
            report.needs.append(
                translate.Need("architecture", f"The rule {source} → {target} fits no key of the file.")
            )
        names = changed
    clashing = sorted({now for now in names.values() if list(names.values()).count(now) > 1})[:5] if rules else []
    if clashing:
        report.needs.append(translate.Need("architecture", f"Renaming gives one name to several keys: {clashing}."))
    return None if clashing or (rules and report.needs) else names


def _rewritten(name: str, source: str, target: str) -> str:
    if not source:
        return f"{target}.{name}"
    found = _captured(_tokens(source), name)
    if found is None:
        return name
    *captured, rest = found
    given = iter(captured)
    out = re.sub(r"\*+", lambda _: next(given, ""), target)
    return f"{out}{rest}" if out else rest.removeprefix(".")


@lru_cache(maxsize=256)
def _tokens(source: str) -> tuple[str, ...]:
    """A rule's left side in pieces: letters, `*` (a name or a part of it) and `**` (several)."""
    return tuple(part for part in re.split(r"(\*+)", source) if part)


def _captured(tokens: Sequence[str], name: str) -> list[str] | None:
    """What the stars stand for, and what is left of the key, which is empty or begins with a dot.

    Longest first. A place that has failed once is not tried again, so that no pattern takes long.
    """
    dead: set[tuple[int, int]] = set()

    def follow(token: int, at: int) -> list[str] | None:
        if token == len(tokens):
            return [name[at:]] if at == len(name) or name[at] == "." else None
        if (token, at) in dead:
            return None
        piece = tokens[token]
        if piece[0] != "*":
            found = follow(token + 1, at + len(piece)) if name.startswith(piece, at) else None
        else:
            stop = len(name) if len(piece) > 1 or "." not in name[at:] else name.index(".", at)
            found = None
            for end in range(stop, at - 1, -1):
                rest = follow(token + 1, end)
                if rest is not None:
                    found = [name[at:end], *rest]
                    break
        if found is None:
            dead.add((token, at))
        return found

    return follow(0, 0)


# Documents.


def _found(
    inspection: Inspection, tensors: dict[str, TensorInfo], wishes: Wishes, limits: Limits, report: Report
) -> Architecture | None:
    """The file's own document; `tensors` get the names that they have in it."""
    proposals = fingerprints.fingerprint({name: tensor.shape for name, tensor in tensors.items()})
    if proposals:
        report.proposal = proposals[0].reference
    if inspection.holds != "module":
        report.needs.append(translate.Need("architecture", _ask(report.proposal)))
        return None
    assert inspection.module is not None
    tree = translate.tree_of(inspection, forward=wishes.forward)
    report.outcome, report.layers, report.classes = tree.outcome, tree.layers, tree.classes
    report.repaired += tree.notes
    if tree.root is None:
        if proposals and inspection.module.kind.startswith("torchvision.models.") and wishes.forward is None:
            report.outcome = "translated"
            report.repaired.append(
                f"{inspection.module.kind} is in the catalogue as {proposals[0].name}: keys and shapes are its."
            )
            return judge(proposals[0].document).architecture
        report.needs += tree.needs
        guess = _guessed_forward(inspection.module) if wishes.forward is None else None
        if guess is not None and report.proposal is None:
            report.proposal = {"forward": guess, "guess": "The layers one after the other, as they were registered."}
        return None
    root = tree.root
    for name in list(tensors):
        if any(name == path or name.startswith(f"{path}.") for path in tree.unused):
            del tensors[name]
        elif tree.prefix:
            tensors[tree.prefix + name] = tensors.pop(name)
    document: dict[str, Any] = {"schema": "arch/1", "inputs": [], "root": root}
    ties = _ties(inspection, tensors, tree.prefix)
    if ties:
        document["tie"] = ties
    judgement = _judged(document, tree.inputs, wishes.inputs, limits, report)
    if judgement is None:
        return None
    if {error.code for error in judgement.errors} == {"batch-not-first"}:
        judgement = _with_time_first(document, judgement, limits, report)
    if not judgement.valid:
        told = "; ".join(f"{error.layer or error.pointer}: {error.detail}" for error in judgement.errors[:5])
        if wishes.inputs is None:
            shapes = ", ".join(f"{spec['name']} {spec['shape']}".replace("'", "") for spec in document["inputs"])
            detail = f"With inputs guessed from the first layers ({shapes}) the net is refused: {told} Send `inputs`."
            report.needs.append(translate.Need("inputs", detail))
        else:
            report.needs.append(translate.Need("architecture", f"The net that the file describes is refused: {told}"))
        return None
    return judgement.architecture


def _ask(proposal: Mapping[str, Any] | None) -> str:
    if proposal is None:
        return (
            "The file holds tensors alone. Send `architecture`: a document with `schema`, `inputs` and `root`, a "
            "digest, or a net of the catalogue."
        )
    return (
        f"The file holds tensors alone. Keys and shapes are those of {proposal['catalogue']} in the catalogue: send "
        "the proposal as `architecture`. What has no weights, such as an activation, leaves no trace in a file, so "
        "compare some answers with those that you know."
    )


def _guessed_forward(root: Module) -> list[str] | None:
    """The children of a class called in the order in which they were registered: a guess, and told as one."""
    names = [child.path.rpartition(".")[2] for child in root.children]
    if not names or root.parameters or root.buffers or not all(name.isidentifier() for name in names):
        return None
    *first, last = root.children
    if translate.short_name(last.kind) in translate.SEVERAL:
        return None
    several = [translate.short_name(child.kind) in translate.SEVERAL for child in first]
    return [
        f"x, _ = {name}(x)" if more else f"x = {name}(x)" for name, more in zip(names[:-1], several, strict=True)
    ] + [f"return {names[-1]}(x)"]


def _with_time_first(document: dict[str, Any], judgement: Judgement, limits: Limits, report: Report) -> Judgement:
    """A net that was written for [T, B, features], with its inputs turned around, and its output where it needs it."""
    root = document["root"]
    if root["type"] != "Graph":
        return judgement
    names = [spec["name"] for spec in document["inputs"] if len(spec["shape"]) == 3]
    *lines, last = root["forward"]
    turned = [f"{name} = transpose({name}, 0, 1)" for name in root.get("inputs", ["x"]) if name in {*names, "x"}]
    for ending in (last, f"return transpose({last.removeprefix('return').strip()}, 0, 1)"):
        again = judge({**document, "root": {**root, "forward": [*turned, *lines, ending]}}, limits=limits)
        if again.valid:
            report.repaired.append("The net takes the time before the batch; its inputs are turned around first.")
            return again
    return judgement


def _ties(inspection: Inspection, tensors: Mapping[str, TensorInfo], prefix: str) -> list[dict[str, str]]:
    groups = [
        [prefix + name for name in group if prefix + name in tensors]
        for group in inspection.tied
        if inspection.tensor(group[0]).kind == "parameter"
    ]
    return [{"from": group[0], "to": other} for group in groups for other in group[1:]]


def _judged(
    document: dict[str, Any],
    names: Sequence[str],
    inputs: Sequence[Mapping[str, Any]] | None,
    limits: Limits,
    report: Report,
) -> Judgement | None:
    """The judgement with the client's inputs, or with those that the first layers tell of."""
    root = document["root"]
    if inputs is None:
        derived = translate.first_inputs(root, names)
        if derived is None:
            detail = f"What the net takes does not show: send `inputs` for {', '.join(names)}."
            report.needs.append(translate.Need("inputs", detail))
            return None
        document["inputs"] = derived
    else:
        document["inputs"] = [dict(spec) for spec in inputs]
    if len(document["inputs"]) > 1 and root["type"] == "Graph":
        root["inputs"] = [spec.get("name", "x") for spec in document["inputs"]]
    judgement = judge(document, limits=limits)
    if inputs is not None or judgement.valid or not judgement.sizes:
        return judgement
    forced = {error.detail.partition(" must be ")[0] for error in judgement.errors if error.code == "size-forced"}
    if not forced:
        return judgement
    # Only one size fits: it is the one that the net was made for.
    fixed = {size for told in forced for size in told.split(" and ")}
    for spec in document["inputs"]:
        spec["shape"] = [judgement.sizes[size] if size in fixed and size != "B" else size for size in spec["shape"]]
    again = judge(document, limits=limits)
    if again.valid:
        told = ", ".join(f"{size} = {judgement.sizes[size]}" for size in sorted(fixed))
        report.repaired.append(f"Only one size of its input fits the net: {told}.")
    return again if again.valid else judgement


# Tensors.


def _matched(
    architecture: Architecture, tensors: Mapping[str, TensorInfo], report: Report
) -> dict[str, Source | None] | None:
    """For every key of the net the tensors that it comes from; None when something is missing or does not fit."""
    rows = state_rows(architecture)
    sources: dict[str, Source | None] = {}
    used: set[str] = set()
    for key, row in rows.items():
        found = _source(key, tensors)
        if found is None:
            if key.endswith("num_batches_tracked"):
                sources[key] = None
                report.repaired.append(f"{key} is not in the file, which is older than it; it counts from 0.")
            elif tied := _tied_to(key, architecture, tensors):
                sources[key] = Source((tensors[tied].name,))
                used.add(tied)
            else:
                report.missing.append(key)
            continue
        used |= set(found)
        tensor = tensors[found[-1]]  # of weight normalisation v, which has the weight's shape
        if len(found) > 1:
            report.repaired.append(f"{key} was computed from {' and '.join(found)} (weight normalisation).")
        if tensor.shape != row.shape and not (tensor.shape in ((1,), ()) and row.shape in ((1,), ())):
            report.mismatched.append({"key": key, "expected": list(row.shape), "got": list(tensor.shape)})
            continue
        if not _castable(tensor.dtype, row):
            report.mismatched.append({"key": key, "expected": row.dtype, "got": tensor.dtype})
            continue
        sources[key] = Source(tuple(tensors[name].name for name in found), cast=tensor.dtype != row.dtype)
    report.unexpected += [name for name in tensors if name not in used]
    known = {tensor.name: tensor.dtype for tensor in tensors.values()}
    kinds = sorted({known[source.keys[-1]] for source in sources.values() if source is not None and source.cast})
    if kinds:
        report.repaired.append(f"Numbers were turned from {', '.join(kinds)} into float32 (or the document's type).")
    wrong = (
        (report.missing, "missing"),
        (report.unexpected, "unexpected"),
        (report.mismatched, "of another shape or type"),
    )
    if any(items for items, _ in wrong):
        told = ", ".join(f"{len(items)} {word}" for items, word in wrong if items)
        report.outcome = "refused"
        such = ""
        if report.mismatched:
            one = report.mismatched[0]
            such = f" {one['key']}, for one, is {one['got']} in the file and {one['expected']} in the net."
        detail = f"The tensors do not fit the architecture: {told}.{such} Mend the document, or send `rename` rules."
        report.needs.append(translate.Need("architecture", detail))
        return None
    return sources


def _source(key: str, tensors: Mapping[str, TensorInfo]) -> tuple[str, ...] | None:
    if key in tensors:
        return (key,)
    path, _, name = key.rpartition(".")
    dot = f"{path}." if path else ""
    for g, v in (
        (f"{key}_g", f"{key}_v"),
        (f"{dot}parametrizations.{name}.original0", f"{dot}parametrizations.{name}.original1"),
    ):
        if g in tensors and v in tensors:
            return (g, v)
    return None


def _tied_to(key: str, architecture: Architecture, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The key that holds a tied tensor's numbers, where the file lists it once."""
    for rule in architecture.tie:
        if rule.to == key and rule.from_ in tensors:
            return rule.from_
    return None


def _castable(dtype: str, row: StateRow) -> bool:
    return dtype == row.dtype or (row.dtype == "float32" and dtype in _HALVES)
