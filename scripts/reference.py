"""Writes the pages of docs/reference: layers, operations, initial-weights and training from `service/schemas`,
commands, by `reference_errors` errors, and by `reference_service` HTTP, settings and metrics.

`scripts/reference.py` writes them anew, `--check` only says which of them are out of date. scripts/fix calls it. What
a layer makes of an input is asked of the rules that judge architectures, not of torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import reference_errors
import reference_service
import typer
from pydantic import BaseModel
from reference_words import Words, cell, first_paragraph, listed, members_of, once, sentence

from service.cli import app as command
from service.cli import exits
from service.schemas import initial, objectives, optimizers, schedulers
from service.schemas.architecture import json_schema
from service.schemas.layers import LAYER_KINDS, Buffer, Graph, Parameter, Sequential
from service.schemas.leaf import Argument, Leaf, Value
from service.schemas.operation import StepDocument
from service.schemas.shapes import DType, Mismatch, TensorSpec
from service.schemas.steps import BY_OPERATION, SENTENCES

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "reference"
_NOTE: Final = "<!-- Written by scripts/reference.py. Change the code instead, then run scripts/fix. -->"


def main() -> int:
    """Write the pages, or with --check say which are out of date."""
    parser = argparse.ArgumentParser(description="Write the reference of the architecture language.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    check = parser.parse_args().check
    stale = {name: text for name, text in pages().items() if not _is(FOLDER / name, text)}
    for name, text in stale.items():
        if not check:
            (FOLDER / name).parent.mkdir(exist_ok=True)
            (FOLDER / name).write_text(text)
        print(f"{name} is out of date: run scripts/fix" if check else f"{name} is written")
    return 1 if check and stale else 0


def pages() -> dict[str, str]:
    """The text of every page, by its file name."""
    return {
        "layers.md": "\n".join(_layers()),
        "operations.md": "\n".join(_operations()),
        "initial-weights.md": "\n".join(_initial()),
        "training.md": "\n".join(_training()),
        "commands.md": "\n".join(_commands()),
        **reference_errors.pages(),
        **reference_service.pages(),
    }


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


# Layers.

_LAYERS: Final = """\
# Layers

{note}

The members of an architecture document, and the {count} layers of `torch.nn` that it may name. A layer's members are
the arguments of its class, with the same names and defaults. Left out are losses, the `Lazy` layers ("auto" does what
they do), and arguments such as `device` that are no property of the net.

Every layer may also have a `name`, which is its attribute and the beginning of its keys in the state_dict, and an `if`.
A size may be written once for all dimensions (`3`) or for each (`[3, 3]`). Wherever a number or a boolean stands, an
expression such as `"${{width * 2}}"` may stand.

[The guide](../guide/architectures.md) tells how to put them together, [Operations](operations.md) what a `forward` may
call besides.
"""


def _layers() -> Iterator[str]:
    yield _LAYERS.format(note=_NOTE, count=len(LAYER_KINDS))
    yield "## The document\n"
    yield from _members(members_of(json_schema()))
    definitions = json_schema()["$defs"]
    for name in ("InputSpec", "Tie", "InitRule"):
        yield f"\n### {name}\n"
        yield first_paragraph(definitions[name]["description"]) + "\n"
        yield from _members(members_of(definitions[name], without=()))
    yield "\n## What holds layers\n"
    for kind in (Sequential, Graph):
        yield f"### {kind.__name__}\n"
        yield sentence(kind) + "\n"
        yield from _members(members_of(definitions[kind.__name__]))
        yield ""
    for name in ("Repeat", "Use", "Block"):
        yield f"### {name}\n"
        yield definitions[name]["description"] + "\n"
        yield from _members(members_of(definitions[name]))
        yield ""
    yield "## Tensors of one's own\n"
    for free in (Parameter, Buffer):
        yield f"### {free.__name__}\n"
        yield sentence(free) + "\n"
        yield from _members(members_of(free.model_json_schema(by_alias=True)))
        yield ""
    yield "## Layers of torch.nn\n"
    names = sorted(LAYER_KINDS, key=str.lower)
    for start in range(0, len(names), 4):
        yield " · ".join(f"[{name}](#{name.lower()})" for name in names[start : start + 4])
    yield ""
    for name in names:
        yield from _layer(LAYER_KINDS[name])


def _layer(kind: type[Leaf]) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    yield sentence(kind) + "\n"
    properties = members_of(kind.model_json_schema(by_alias=True))
    if properties:
        yield from _members(properties)
        yield ""
    if kind.guessed is not None:
        yield f'`{kind.guessed}` may be "auto": what comes in decides.'
    if kind.arguments != (Argument("input"),):
        yield f"Called with {listed(map(_argument, kind.arguments))}."
    if kind.takes in ("integer", "any"):
        yield {"integer": "Takes int64 or int32.", "any": "Takes any dtype."}[kind.takes]
    yield _example(kind) + "\n"


def _argument(argument: Argument) -> str:
    form = {"tensor": "", "values": " (several values, as in `(h, c)`)", "flag": " (true or false)"}[argument.form]
    how = "" if argument.required else ", if wanted"
    return f"`{argument.name}`{form}{how}{', by its name' if argument.by_name or argument.form == 'flag' else ''}"


_MEMBERS: Final[Mapping[str, Any]] = {
    "in_features": 8, "out_features": 4, "in1_features": 8, "in2_features": 8, "dim": 1, "unflattened_size": [2, 2],
    "output_size": 4, "kernel_size": 2, "in_channels": 4, "out_channels": 6, "norm_type": 2, "num_features": 4,
    "num_groups": 2, "num_channels": 4, "normalized_shape": 8, "size": 3, "num_embeddings": 100, "embedding_dim": 16,
    "input_size": 8, "hidden_size": 16, "embed_dim": 8, "num_heads": 2, "d_model": 8, "nhead": 2, "num_layers": 2,
    "encoder_layer": {"type": "TransformerEncoderLayer", "d_model": 8, "nhead": 2},
    "decoder_layer": {"type": "TransformerDecoderLayer", "d_model": 8, "nhead": 2},
    "threshold": 0.1, "value": 0, "padding": 1, "upscale_factor": 2, "downscale_factor": 2, "groups": 2,
}  # fmt: skip
"""What an example says where a member is required."""

_MORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "Upsample": {"scale_factor": 2},
    "UpsamplingNearest2d": {"scale_factor": 2},
    "UpsamplingBilinear2d": {"scale_factor": 2},
    "FractionalMaxPool2d": {"output_size": 4},
    "FractionalMaxPool3d": {"output_size": 4},
    "Transformer": {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 16},
    "TransformerEncoderLayer": {"dim_feedforward": 16, "batch_first": True},
    "TransformerDecoderLayer": {"dim_feedforward": 16, "batch_first": True},
}
"""What an example says besides."""

_SIZES: Final[Sequence[tuple[int, ...]]] = ((8,), (4,), (10,), (4, 8), (16, 9), (4, 8, 8, 8), (4, 8, 8))
"""Rows to try until one fits, with the batch before and behind their first size."""

_MOST_KEYS: Final = 8
_DTYPES: Final[Sequence[DType]] = ("float32", "int64")


def _example(kind: type[Leaf]) -> str:
    """What a small layer of this kind makes of a small input, and its keys."""
    required = (name for name, field in kind.model_fields.items() if field.is_required() and name != "type")
    members = {name: _MEMBERS[name] for name in required} | dict(_MORE.get(kind.__name__, {}))
    layer = kind.model_validate({"type": kind.__name__, **members})
    text = json.dumps({"type": kind.__name__, **members})
    keys = {**layer.parameters(), **layer.buffers()}
    words = [f"`{name}` {list(shape)}" for name, shape in keys.items()]
    if len(words) > _MOST_KEYS:
        words = [*words[: _MOST_KEYS - 1], f"{len(words) - _MOST_KEYS + 1} more"]
    told = f"; keys: {listed(words)}" if words else ""
    found = _call(layer)
    if found is None:
        return f"`{text}`{told}."
    given, result = found
    taken = listed(spec.shown for spec in given)
    if _shape(result) == taken:
        return f"`{text}` keeps the shape{told}."
    return f"`{text}` makes {_shape(result)} of {taken}{told}."


def _call(layer: Leaf) -> tuple[list[TensorSpec], Value] | None:
    """Values that the layer takes, and what it makes of them."""
    wanted = [argument for argument in layer.arguments if argument.required]
    ranked = {"1d": (4, 8), "2d": (4, 8, 8), "3d": (4, 8, 8, 8)}.get(layer.type[-2:], (8,))
    rows = _SIZES[-1:] if layer.type == "Flatten" else (ranked, *_SIZES)
    for row, batch, dtype in itertools.product(rows, (0, 1), _DTYPES):
        dtypes: list[DType] = ["int64" if argument.name == "indices" else dtype for argument in wanted]
        given = [TensorSpec(row, each, batch) for each in dtypes]
        try:
            layer.check_dtype(given[0])
            return given, layer.outcome({argument.name: spec for argument, spec in zip(wanted, given, strict=True)})
        except Mismatch:
            continue
    return None


def _shape(value: Value) -> str:
    if isinstance(value, TensorSpec):
        return value.shown
    return f"({', '.join(map(_shape, value or ()))})"


# Operations.

_OPERATIONS: Final = """\
# Operations

{note}

What a line of a `forward` may call besides the graph's own layers: {count} operations, with torch's names and argument
names. Values are given by position; what follows them are constants, by position or by name. `…` stands for any number
of values, which may stand in brackets too. A size may be one number for all dimensions, or a list. As a step in a
document, an operation is `{{"op": "softmax", "inputs": ["%1"], "dim": 1}}`.

No operation touches the batch: dimension 0 counts as the batch in `dim` and in an index, and `reshape` takes the sizes
that come after it. [The guide](../guide/architectures.md#the-forward) tells the rules of lines.

| in a line | what it gives | constants |
| --- | --- | --- |"""


def _operations() -> Iterator[str]:
    yield _OPERATIONS.format(note=_NOTE, count=len(BY_OPERATION))
    for op, kind in sorted(BY_OPERATION.items()):
        constants = {
            name: field
            for name, field in members_of(kind.model_json_schema(by_alias=True)).items()
            if name not in ("op", "inputs")
        }
        words = {name: _words(field) for name, field in constants.items()}
        told = "; ".join(f"`{name}`: {word}" for name, word in words.items() if word not in _OBVIOUS)
        yield f"| {_call_form(op, kind)} | {cell(SENTENCES[op])} | {cell(told)} |"
    yield ""


_OBVIOUS: Final = ("a number", "a whole number", "a whole number or a list of them", "true or false")
_SIGNS: Final = {"matmul": "x @ y"}
"""Signs that the operation's own sentence does not have."""


def _call_form(op: str, kind: type[StepDocument]) -> str:
    if op == "getitem":
        return "`x[:, 0]`, `x[:, 1:3]`"
    values = list(kind.values)
    given = ["x, y, …"] if kind.tensors is None else values[: kind.tensors]
    fields = {name: field for name, field in kind.model_fields.items() if name not in ("op", "inputs")}
    named = kind.tensors is None  # by position only what comes before a default, or before any number of values
    for name, field in fields.items():
        if name == kind.spread:
            given.append(f"*{name}")
        elif field.is_required():
            given.append(f"{name}=…" if named else name)
        else:
            named = True
            given.append(f"{name}={_python(_default(kind, name))}")
    text = f"`{op}({', '.join(given)})`"
    return f"`{_SIGNS[op]}`, {text}" if op in _SIGNS else text


def _python(value: Any) -> str:
    value = once(value)
    return repr(tuple(value) if isinstance(value, list) else value)


# Initial weights.

_INITIAL: Final = """\
# Initial weights

{note}

What may stand in the `init` of a [Parameter, a Buffer](layers.md#tensors-of-ones-own) or a rule. Names, arguments and
defaults are those of `torch.nn.init`. `"normal"` alone is short for `{{"type": "normal"}}`.

Layers are initialised as torch does it, from the job's seed; rules then fill what they match, in their order, and later
ones win:

```json
{{
  "init": [
    {{"match": "**.weight", "layers": ["Conv2d"], "init": {{"type": "kaiming_normal", "mode": "fan_out"}}}},
    {{"match": "head.bias", "init": "zeros"}}
  ]
}}
```

`match` is a pattern over keys of the state_dict: `*` stands for letters within one name, `**` for any number of names.
`layers` narrows it to layers of these types. A rule that matches nothing is a mistake.

| type | what it fills with | arguments |
| --- | --- | --- |"""


def _initial() -> Iterator[str]:
    yield _INITIAL.format(note=_NOTE)
    for kind in get_args(get_args(initial.Initializer)[0]):
        properties = members_of(kind.model_json_schema(by_alias=True))
        told = "; ".join(f"`{name}`: {_words(field)}{_given(field)}" for name, field in properties.items())
        names = listed(f"`{name}`" for name in get_args(kind.model_fields["type"].annotation))
        yield f"| {names} | {cell(sentence(kind))} | {cell(told)} |"
    yield ""
    yield f"{listed(f'`{name}`' for name in sorted(initial.MATRICES))} fill tensors of at least two dimensions.\n"


def _given(field: Mapping[str, Any]) -> str:
    return f" ({json.dumps(field['default'])})" if "default" in field else ""


# Training.

_TRAINING: Final = """\
# Objectives, optimizers, schedulers

{note}

What the members `objective`, `optimizer` and `scheduler` of a [train request](../guide/training.md) may be: torch's
own, with its names and defaults for their settings, and a few objectives more.
"""

_TARGETS: Final = {
    "numbers": "numbers to be met",
    "classes": "one class a row",
    "binary": "0 or 1 for each output",
    "probabilities": "probabilities",
    "signs": "-1 or 1",
    "label_lists": "indices of labels, ended by -1",
}

_OPTIMIZERS: Final = """
## Optimizers

Each may also have `groups`: of `{"match": "layer4", "lr_scale": 0.1}` the parameters under layer4 learn at a tenth of
the rate. `match` is a pattern over paths, as in [edits](../guide/edits.md); beside it stand `lr` or `lr_scale`, and
`weight_decay`. Of several groups that name a parameter the first has it.

| type | what it is | settings |
| --- | --- | --- |"""

_SCHEDULERS: Final = """
## Schedulers

`interval` is what one step of a scheduler is: `"epoch"`, or `"step"` for every update of the weights. A length of
`"budget"` is all that the job's budget has. A warm-up is a LinearLR before another, in a SequentialLR, whose parts are
any of the first eight.

| type | what it does | settings |
| --- | --- | --- |"""


def _training() -> Iterator[str]:
    yield _TRAINING.format(note=_NOTE)
    yield "## Objectives\n\n| type | what it is | targets | settings |\n| --- | --- | --- | --- |"
    for objective in get_args(objectives.AnyObjective):
        told = _TARGETS[objective.targets]
        yield f"| `{_tag(objective)}` | {cell(sentence(objective))} | {told} | {_settings(objective)} |"
    yield "\nThese are none of torch's:\n"
    yield from (f"- `{name}`: {source}" for name, source in objectives.BESIDE_TORCHS.items())
    yield from _left_out(objectives.LEFT_OUT)
    yield _OPTIMIZERS
    for kind in get_args(optimizers.AnyOptimizer):
        yield f"| `{_tag(kind)}` | {cell(sentence(kind))} | {_settings(kind, 'groups')} |"
    yield from _left_out(optimizers.LEFT_OUT)
    yield _SCHEDULERS
    for kind in get_args(schedulers.AnyScheduler):
        yield f"| `{_tag(kind)}` | {cell(sentence(kind))} | {_settings(kind, 'schedulers')} |"
    yield from _left_out(schedulers.LEFT_OUT)


def _tag(kind: type[BaseModel]) -> str:
    tag: str = get_args(kind.model_fields["type"].annotation)[0]
    return tag


def _settings(kind: type[BaseModel], *without: str) -> str:
    properties = members_of(kind.model_json_schema(by_alias=True), without=("type", *without))
    return cell("; ".join(f"`{name}`: {_words(field)}{_given(field)}" for name, field in properties.items()))


def _left_out(reasons: Mapping[str, str]) -> Iterator[str]:
    yield "\nOf torch's these are not there:\n"
    yield from (f"- `{name}`: {reason}" for name, reason in reasons.items())


# Members in words.


def _default(kind: type[BaseModel], name: str) -> Any:
    schema = kind.model_json_schema(by_alias=True)
    return schema["properties"][name].get("default")


_REFERENCES: Final = {
    "Layer": ("a layer", "layers"),
    "ParamValue": ("a number, a boolean or a list of these", "numbers, booleans or lists of these"),
    "Block": ("a [Block](#block)", "[Blocks](#block)"),
    "InputSpec": ("an [InputSpec](#inputspec)", "[InputSpecs](#inputspec)"),
    "Tie": ("a [Tie](#tie)", "[Ties](#tie)"),
    "InitRule": ("an [InitRule](#initrule)", "[InitRules](#initrule)"),
}


def _reference(name: str) -> tuple[str, str]:
    return _REFERENCES.get(name, (f"a {name}", f"{name}s"))


def _choice(kinds: Mapping[str, str]) -> tuple[str, str]:
    if "call" in kinds:
        return "a step", "steps"
    told = (
        "[initial weights](initial-weights.md)" if "kaiming_normal" in kinds else " or ".join(f"a {k}" for k in kinds)
    )
    return told, told


_WORDS: Final = Words(refer=_reference, choose=_choice)
_words = _WORDS.say
_members = _WORDS.members


# Commands.

_COMMANDS: Final = """\
# Commands

{note}

`modelyard` is the command of the same package. Every command tells its options with `--help`;
`modelyard --install-completion` teaches them to your shell. [Client and command](../guide/client.md) shows how they are
used together.

Data goes to stdout, words for people to stderr. `-o json` prints the answer of the HTTP interface, `-o jsonl` one item
a line, `-o csv` the columns of the table.

## Exit codes

| code | meaning |
| --- | --- |
{exits}

## Options of every command that asks a server

They may also stand before the command: `modelyard --url http://yard:8000 jobs list`.

| option | meaning |
| --- | --- |
{common}
"""
_COMMON: Final = ("url", "api_key", "output")


def _commands() -> Iterator[str]:
    group = typer.main.get_command(command)
    found = list(_leaves(group, "modelyard"))
    train = next(one for name, one in found if name == "modelyard train")
    yield _COMMANDS.format(
        note=_NOTE,
        exits="\n".join(f"| {code} | {meaning} |" for code, meaning in exits.MEANINGS.items()),
        common="\n".join(_option(train, one) for one in train.params if one.name in _COMMON),
    )
    for name, one in found:
        arguments = [piece for piece in one.collect_usage_pieces(_context(one)) if piece != "[OPTIONS]"]
        yield f"## {' '.join([name, *(piece.strip('{}').upper() for piece in arguments)])}\n"
        yield "\n\n".join(" ".join(part.split()) for part in (one.help or "").split("\n\n")) + "\n"
        asks = {parameter.name for parameter in one.params} >= set(_COMMON)
        own = [parameter for parameter in one.params if not (asks and parameter.name in _COMMON)]
        if own:
            yield "| | |\n| --- | --- |"
            yield from (_option(one, parameter) for parameter in own)
            yield ""


def _leaves(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, with their whole names."""
    for word, one in sorted(group.commands.items()):
        if hasattr(one, "commands"):
            yield from _leaves(one, f"{name} {word}")
        else:
            yield f"{name} {word}", one


def _option(one: Any, parameter: Any) -> str:
    head, told = parameter.get_help_record(_context(one))
    return f"| `{cell(head)}` | {cell(' '.join(told.split()))} |"


def _context(one: Any) -> Any:
    return typer.Context(one, info_name=one.name, terminal_width=10_000)


if __name__ == "__main__":
    sys.exit(main())
