"""The commands `train` and `validate`.

`train` takes a request as a file, or a table and the name of what is to be learnt: then it writes the request itself,
by rules that stand in its help and in docs/guide/client.md. Knows no torch.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from service.cli import exits, requests
from service.cli.datasets import (
    OPTIONS,
    SAVE_AS_CSV,
    SPREADSHEETS,
    TABLES,
    Decimal,
    Delimiter,
    MissingText,
    dialect,
    discard,
    missing_texts,
    uploading,
)
from service.cli.jobs import started
from service.cli.output import Column, Format, say, show, show_one, size, stopped
from service.cli.session import Session, sentences, talks

if TYPE_CHECKING:
    from service.client import Client, Dataset, Job, Version
    from service.errors import Entry
    from service.schemas.views import ColumnView, EntryView, ExaminationView

Answer = TypeVar("Answer")
DEFAULT_ALIAS: Final = "champion"
"""That of `schemas.versions`, which would bring pydantic to every command and its help."""
HIDDEN: Final = (64, 64)
LEARNING_RATE: Final = 0.003
EPOCHS: Final = 500
PATIENCE: Final = 30
MINUTES: Final = 5.0
VALIDATION: Final = 0.2
ROWS_FOR_SPLIT: Final = 30
"""With fewer rows all of them train."""
MOST_CLASSES: Final = 20
"""Whole numbers that span fewer values than this are taken for classes."""
_IDS: Final = re.compile(r"(?i:(?:^|[_ .-])(?:id|index|row|no|nr)\.?|nummer)$|(?<=[a-z])I[dD]$")
"""Whole numbers under such a name number the rows: a net would learn them by heart."""
_DATE: Final = re.compile(
    r"(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2[0-9]{2,4})(?:[T ,].*)?"
)
MOST_CATEGORIES: Final = 50
"""A column with more different texts is left out: that is no category."""
FEW_ROWS: Final = 10
"""From so many rows on, texts of which no row has the same as another are no categories."""
_NEARLY: Final = re.compile(
    r"([0-9]+) of ([0-9]+) cells (?:is|are) no number \(line ([0-9]+): (.*?)(?:; others: (.*))?\)\.$", re.DOTALL
)
"""Within the warning `nearly-numbers`: how many cells of how many, the first of them, and other texts."""
_NAMED: Final = 10
"""Inputs that are named when a training begins."""
_OF_DATA: Final = ("auto", "mlp", "catalogue:mlp")
"""What --arch may say for the net that is made after the table."""
ENGINES: Final = ("eager", "onnxruntime", "aot_inductor")
_TOLD_METRICS: Final = ("val_accuracy", "val_r2", "accuracy", "r2", "val_loss", "loss")
"""The first that both versions have is told when an alias moves."""
_OPTIONS: Final = {
    **OPTIONS,
    "/architecture": "--arch",
    "/output/model": "--model",
    "/output/alias_on_success": "--alias",
    "/output/engine": "--engine",
    "/optimizer/lr": "--lr",
    "/batch_size": "--batch-size",
    "/budget/epochs": "--epochs",
    "/budget/max_seconds": "--minutes",
    "/seed": "--seed",
}
"""Members of the request that are made of one option alone."""


@talks
def train(
    session: Session,
    file: Annotated[Path | None, typer.Argument(help="A table, or a request.", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="A table; the same as FILE.")] = None,
    target: Annotated[str | None, typer.Option(help="The column that is to be learnt.")] = None,
    model: Annotated[str | None, typer.Option(help="The model that gets a new version.")] = None,
    inputs: Annotated[str | None, typer.Option(help="Columns to learn from, parted by commas; by default all.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Columns to leave out, parted by commas.")] = None,
    task: Annotated[str, typer.Option(help="auto, classes or numbers: what the target is.")] = "auto",
    arch: Annotated[
        str, typer.Option(help="auto, catalogue:NAME, or a file with an architecture document.", metavar="ARCH")
    ] = "auto",
    alias: Annotated[
        str, typer.Option(help="The alias that gets the version; '' for none. See --if-better too.")
    ] = DEFAULT_ALIAS,
    if_better: Annotated[
        bool,
        typer.Option(
            "--if-better",
            help="The alias moves only to a version that is better, by accuracy or r2 on held-out rows.",
        ),
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="So many at most.")] = EPOCHS,
    minutes: Annotated[float, typer.Option(min=0.01, help="So long at most.")] = MINUTES,
    lr: Annotated[float, typer.Option(min=0.0, help="The learning rate.")] = LEARNING_RATE,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows of a step; by default after their number.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and split.")] = 0,
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(ENGINES[:-1])} or {ENGINES[-1]}: what answers for the version. By default eager."
        ),
    ] = None,
    missing_text: MissingText = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show a bar until it has ended.")] = False,
) -> None:
    """Train a net.

    For example: modelyard train houses.csv --target price --model houses --wait

    FILE is a table (CSV, TSV, JSON lines, Parquet) beside --target and --model, or a whole request (JSON, YAML, TOML).

    Of a table the request is made by rules. A target of texts, or of whole numbers that span fewer than 20 values, is a
    class; any other is a number. All other columns are inputs: numbers are standardized and missing ones filled with
    the mean, texts become one-hot; left out are columns with more than 50 different texts or another one in each row,
    dates, and whole numbers under a name such as id, row_id or index. The net is the catalogue's mlp with hidden
    layers of 64 and 64. Adam with the rate 0.003 runs until the loss on a held-out fifth of the rows, taken from each
    class, has not improved for 30 epochs; for 500 epochs or 5 minutes at most. The best epoch becomes the champion;
    with --if-better only if it beats the one before. --dry-run shows the request, to be kept and changed.

    A few odd cells in a column of numbers end the command: --missing-text TEXT takes such a cell for a missing value.
    """
    path = file or data
    if path is None:
        say("Name a table, as in: modelyard train data.csv --target y --model name --wait; or a file with a request.")
        raise typer.Exit(exits.USAGE)
    if engine is not None and engine not in ENGINES:
        say(f"--engine is one of {', '.join(ENGINES)}.")
        raise typer.Exit(exits.USAGE)
    client, learns = session.client, None
    with ExitStack() as undo:  # nothing stays behind of what is refused, or was only tried
        if path.suffix.lower() in requests.SUFFIXES:
            if if_better:
                say('--if-better is for tables. A request says it itself: {"champion": "val_r2 > champion.val_r2"}.')
                raise typer.Exit(exits.USAGE)
            of_tables = {
                **{"--target": target, "--inputs": inputs, "--exclude": exclude, "--batch-size": batch_size},
                **{"--missing-text": missing_text, "--delimiter": delimiter, "--decimal": decimal},
                **{"--task": task != "auto", "--arch": arch != "auto", "--alias": alias != DEFAULT_ALIAS},
                **{"--epochs": epochs != EPOCHS, "--minutes": minutes != MINUTES},
                **{"--lr": lr != LEARNING_RATE, "--seed": seed != 0},
            }
            given = [option for option, value in of_tables.items() if value]
            if given:
                say(f"{', '.join(given)}: for tables only. A request says this itself; change it in {path.name}.")
                raise typer.Exit(exits.USAGE)
            request = requests.complete(requests.read(path), folder=path.parent, upload=uploading(client, undo))
            request.setdefault("kind", "train")
            if model is not None:
                request["output"] = {**request.get("output", {}), "model": model}
        else:
            if path.suffix.lower() not in TABLES:
                known = f"a table ({', '.join(TABLES)}) nor a request ({', '.join(requests.SUFFIXES)})"
                way = f" {SAVE_AS_CSV}" if path.suffix.lower() in SPREADSHEETS else ""
                say(f"{path.name} is neither {known}.{way}")
                raise typer.Exit(exits.USAGE)
            absent = [f"--{name}" for name, value in (("target", target), ("model", model)) if value is None]
            if absent:
                say(f"A table needs {' and '.join(absent)} too, as in: modelyard train {path} --target y --model name.")
                raise typer.Exit(exits.USAGE)
            if task not in ("auto", "classes", "numbers"):
                say("--task is auto, classes or numbers.")
                raise typer.Exit(exits.USAGE)
            if if_better and not alias:
                say("--if-better needs an alias that it may move; leave out --alias ''.")
                raise typer.Exit(exits.USAGE)
            session.places = {"/source/upload": path.name, "/dataset": path.name, **_OPTIONS, "": ""}
            kind = TABLES[path.suffix.lower()]
            source: dict[str, Any] = {"type": kind, "target": target, **missing_texts(kind, missing_text)}
            with _told_with(_wrong_options(model, alias, arch), session.places):
                source |= dialect(kind, path, delimiter, decimal)
                source["upload"] = uploading(client, undo)(path)
                dataset = _dataset(session, path, source, inputs, exclude, task=task)
                request = _request(client, dataset, task=task)
            learns = _learns(dataset, request)
            request["architecture"] = _architecture(arch, dataset, request)
            request["optimizer"]["lr"] = lr
            request["budget"] = {"epochs": epochs, "max_seconds": 60 * minutes}
            request["seed"] = seed
            if batch_size is not None:
                request["batch_size"] = batch_size
            moves = {alias: _better(request, alias)} if if_better else alias
            request["output"] = {"model": model, **({"alias_on_success": moves} if alias else {})}
        if engine is not None:
            request["output"] = {**request.get("output", {}), "engine": {"type": engine}}
        if dry_run:
            examination = _fitting(client.jobs.examine, request)
            fitted = _fitted(request, examination.warnings)
            if fitted != request:
                request, examination = fitted, client.jobs.examine(fitted)
            if learns is not None:  # of a table: what was made of it goes, so the request names the file
                named = {name: value for name, value in source.items() if name not in ("type", "upload")}
                request = {**request, "dataset": {"type": source["type"], "file": str(path), **named}}
                say(learns)
            _show_examination(session, request, examination)
            return
        before = _before(client, request)
        job = _submit(client, request)
        undo.pop_all()
    if learns is not None:
        say(learns)
    session.detached = f"Detached: the job goes on. Watch it with: modelyard jobs watch {job.id}"
    started(session, job, wait=wait)
    if not wait and session.format is Format.TABLE:
        _tell_intention(request, before)
    ended = client.jobs.get(job.id) if wait else None
    made = ended.output if ended is not None else None
    if ended is not None and made is not None and made.get("version") is not None:
        _tell_move(client, made, before)
        _tell_failure(ended.metrics.get("last") or {})
        if session.format is Format.TABLE:
            reference = made["model"] if made.get("alias") == DEFAULT_ALIAS else f"{made['model']}/{made['version']}"
            say(f"Ask it with: modelyard predict {reference} FILE.csv")


@talks
def validate(
    session: Session,
    file: Annotated[Path, typer.Argument(help="An architecture document or a job's request: JSON, YAML or TOML.")],
) -> None:
    """Check an architecture or a whole request, and show every mistake; ends with 7 if there is one."""
    document = requests.read(file)
    client = session.client
    if "kind" in document:
        with ExitStack() as undo:
            request = requests.complete(document, folder=file.parent, upload=uploading(client, undo))
            _show_examination(session, None, client.jobs.examine(request))
        return
    found = client.architectures.validate(document)
    summary = found.summary
    layers = summary.layers if summary is not None else []
    columns: list[Column] = [
        ("layer", lambda layer: layer.path),
        ("type", lambda layer: layer.type),
        ("output", lambda layer: str(layer.output_shape)),
        ("parameters", lambda layer: layer.parameters),
        ("flops", lambda layer: layer.flops),
    ]
    if found.valid or session.format in (Format.JSON,):
        show(session.format, found, layers, columns)
    if summary is not None and session.format is Format.TABLE:
        say(f"{summary.parameters:,} parameters, {summary.flops:,} FLOPs a row.")
    _tell([*found.errors, *found.warnings])
    if not found.valid:
        raise typer.Exit(exits.INVALID)


def _wrong_options(model: str | None, alias: str, arch: str) -> list[Entry]:
    """What of the options will be refused whatever the table holds."""
    from service.errors import Entry, InvalidName
    from service.schemas.versions import check_alias, check_name

    found: list[Entry] = []
    names = ((check_name, model, "/output/model"), (check_alias, alias or None, "/output/alias_on_success"))
    for check, name, at in names:
        try:
            if name is not None:
                check(name, at=at)
        except InvalidName as refused:
            found += refused.errors
    if arch not in _OF_DATA and not arch.startswith("catalogue:") and not Path(arch).is_file():
        found.append(Entry("/architecture", "not-found", f"There is no file {arch!r}."))
    return found


@contextmanager
def _told_with(wrong: Sequence[Entry], places: Mapping[str, str]) -> Iterator[None]:
    """Tell mistakes that are known already beside those that end what is done meanwhile.

    Else the server tells of them, unless there is no net to ask it about.
    """
    from service.errors import InvalidInput, ValidationFailed

    try:
        yield
    except InvalidInput as refused:
        refused.errors = (*refused.errors, *wrong)
        raise
    except (typer.Exit, OSError, UnicodeDecodeError):
        for line in sentences(wrong, places):
            say(line)
        raise
    if any(entry.pointer == "/architecture" for entry in wrong):
        raise ValidationFailed(wrong[0].detail, errors=wrong)


def _better(request: dict[str, Any], alias: str) -> str:
    """The condition that a version is better than that of the alias, by what is held out if anything is."""
    metric = "accuracy" if request["objective"]["type"] == "cross_entropy" else "r2"
    metric = f"val_{metric}" if "split" in request else metric
    return f"{metric} > {alias}.{metric}"


def _before(client: Client, request: dict[str, Any]) -> Version | None:
    """The version that the request's alias points at; None without one, and for a key that may not see it."""
    from service.errors import ServiceError

    output = request.get("output")
    asked = output.get("alias_on_success") if isinstance(output, dict) else None
    alias = next(iter(asked), None) if isinstance(asked, dict) else asked
    if not isinstance(alias, str) or not isinstance(output, dict):
        return None
    with suppress(ServiceError):  # what is wrong with the request, the server says when it gets it
        return client.versions.resolve(f"{output.get('model')}@{alias}")
    return None


def _learns(dataset: Dataset, request: dict[str, Any]) -> str:
    """What is learnt from what: the rules may have taken a column for what it is not."""
    target = next(column for column in dataset.columns if column.role == "target")
    what = "as a number"
    if request["objective"]["type"] == "cross_entropy":
        few = "as a class, since its whole numbers are near each other (else: --task numbers)"
        what = f"as one of {len(target.classes)} classes" if target.classes else few
    names = [column.name for column in _inputs(dataset)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return stopped(f"Learns {target.name} {what}, from {', '.join(names[:_NAMED])}{more}")


def _tell_failure(metrics: Mapping[str, float | None]) -> None:
    """Say it where a net that answers with numbers has learnt nothing."""
    name = "val_r2" if "val_r2" in metrics else "r2"
    found = metrics.get(name)
    if found is not None and found <= 0:
        say(f"{name} is not above 0: the mean of all rows would be as good an answer. Look at the inputs, and at --lr.")


def _tell_intention(request: dict[str, Any], before: Version | None) -> None:
    """Say what a job that nobody waits for will do with the alias, and how its version is asked then."""
    output = request.get("output")
    if not isinstance(output, dict):
        return
    model, asked = output.get("model"), output.get("alias_on_success")
    if asked is None:
        say("No alias will point at its version. modelyard jobs show last tells the number.")
        return
    alias, condition = next(iter(asked.items())) if isinstance(asked, dict) else (asked, None)
    moves = "will point at its version" if before is None else f"moves from version {before.version} to its own"
    even = " if " + condition if condition else "" if before is None else ", even if that is worse (see --if-better)"
    say(f"When it has succeeded, {alias} {moves}{even}.")
    reference = model if alias == DEFAULT_ALIAS else f"{model}@{alias}"
    say(f"Then ask it with: modelyard predict {reference} FILE.csv")


def _tell_move(client: Client, made: dict[str, Any], before: Version | None) -> None:
    """Say from which version the alias moved, and what that means for those who ask it; or why it stayed."""
    verdict = made.get("promotion")
    if verdict is not None and not verdict["promoted"]:
        kept = f" with version {before.version}" if before is not None else ""
        say(f"{verdict['alias']} stays{kept}: {verdict['detail']}")
    if before is None or made.get("alias") is None or made["version"] == before.version:
        return
    now = client.versions.get(made["model"], made["version"])
    both = [name for name in _TOLD_METRICS if None not in (before.metrics.get(name), now.metrics.get(name))]
    change = f": {both[0]} {before.metrics[both[0]]:.4g} → {now.metrics[both[0]]:.4g}" if both else ""
    say(f"{made['alias']} moved from version {before.version} to {now.version}{change}.")
    was, answers = (_answer(version) for version in (before, now))
    if was != answers:
        say(f"It answers {answers} now; version {before.version} answered {was}.")
    old, new = before.signature.columns or [], now.signature.columns or []
    gone, added = [name for name in old if name not in new], [name for name in new if name not in old]
    if old and new and gone:
        say(stopped(f"It no longer takes {', '.join(gone)}"))
    if old and new and added:
        say(f"It takes {', '.join(added)} too, which version {before.version} did not.")


def _answer(version: Version) -> str:
    """What a version answers, in few words."""
    if not version.classes:
        return "numbers"
    told = ", ".join(version.classes[:_NAMED])
    return f"one of {told}" + (" …" if len(version.classes) > _NAMED else "")


def _dataset(
    session: Session, path: Path, source: dict[str, Any], inputs: str | None, exclude: str | None, *, task: str
) -> Dataset:
    """The table as a dataset, without the columns that are no categories and those that are to be left out."""
    from service.errors import DatasetRefused, listed
    from service.schemas.document import nearest_hint

    client = session.client
    source["inputs"] = inputs.split(",") if inputs else "*"
    unwanted = exclude.split(",") if exclude else []
    asked = inputs.split(",") if inputs else []
    taken = [*unwanted, *asked, *([source["target"]] if task == "classes" else [])]
    name = path.stem[:63].lower()
    try:
        found = _added(client, source, name, taken)
    except DatasetRefused as refused:
        gaps = [entry for entry in refused.errors if entry.code == "missing-value"]
        if not any('"missing": "keep"' in (entry.hint or "") for entry in gaps):
            raise
        discard(client, source["upload"], datasets_only=True)
        source["missing"] = "keep"
        found = _added(client, source, name, taken)
    while found.state == "processing":
        found = client.datasets.get(found.id)
    absent = [one for one in unwanted if one not in {column.name for column in _inputs(found)}]
    if absent:
        known = [one.name for one in _inputs(found)]
        near = [hint for one in absent if (hint := nearest_hint(one, known)) is not None]
        way = " ".join(near) if len(near) == len(absent) else f"Inputs: {listed(known)}."
        say(f"--exclude names no input: {listed(absent)}. {way}")
        raise typer.Exit(exits.INVALID)
    _stop_at_nearly_numbers(found, taken)
    _tell(
        [one for one in found.warnings if not any(_is_about(one, name) for name in unwanted)],
        session.places,
    )
    left_out = list(unwanted)
    if inputs is None:
        rest = [one for one in _inputs(found) if one.name not in unwanted]
        reasons = {one.name: reason for one in rest if (reason := _unfit(one, found.rows or 0))}
        if reasons:
            told = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
            say(f"Left out: {told}. To learn from one of these too, list it in --inputs beside all the others.")
        left_out += reasons
    if not left_out:
        return found
    source["inputs"] = [one.name for one in _inputs(found) if one.name not in left_out]
    client.datasets.delete(found.id)
    return client.datasets.add(source, name=name, wait_s=600)


def _unfit(column: ColumnView, rows: int) -> str | None:
    """Why a net would learn a column by heart, or nothing of it; None where it may be an input."""
    different = len(column.classes or ())
    if column.classes and all(map(_DATE.fullmatch, column.classes)):
        return "dates"
    if different == rows >= FEW_ROWS:
        return "another text in each row"
    if different > MOST_CATEGORIES:
        return f"{different} different texts"
    return "numbers the rows" if column.dtype == "int" and _IDS.search(column.name) else None


def _added(client: Client, source: dict[str, Any], name: str, taken: Iterable[str]) -> Dataset:
    """A dataset of the source.

    Where the target has missing values, the refusal says what to do about it. Of columns that are nearly of numbers it
    does not tell where they are `taken` as they are.
    """
    from service.errors import DatasetRefused, shorten

    try:
        return client.datasets.add(source, name=name, wait_s=600)
    except DatasetRefused as refused:
        of_target = f", column {shorten(source['target'])}: A value is missing"
        hint = "Fill these cells in, or take their lines out: what is to be learnt must be known in every row."
        refused.errors = tuple(
            replace(entry, hint=hint) if of_target in entry.detail else entry
            for entry in refused.errors
            if not any(_is_about(entry, column) for column in taken)
        )
        raise


def _stop_at_nearly_numbers(dataset: Dataset, taken: Iterable[str]) -> None:
    """End the command where a few cells make texts of a column of numbers, unless it is `taken` as it is."""
    stops = False
    for column in dataset.columns:
        for warning in dataset.warnings if column.name not in taken else ():
            found = _NEARLY.search(warning.detail) if _is_about(warning, column.name) else None
            odd, cells = (int(found[1]), int(found[2])) if found is not None else (0, 0)
            if found is None or (odd == cells and not (warning.hint or "").startswith("Write plain numbers")):
                continue
            stops = True
            way = f"pass --exclude {shlex.quote(column.name)}, or name it in --inputs to take its values as texts."
            if column.role == "target":
                way = "pass --task classes, if its values are classes."
            hint = f"{warning.hint} " if warning.hint and not warning.hint.startswith("Mend it in the file") else ""
            if not hint and column.role == "input":
                hint = f"If that means no value, pass --missing-text {_quoted(found[4])}. "
            numbers = f"{cells - odd} of {cells} values are numbers; line {found[3]} has {found[4]}"
            others = f", others have {found[5]}" if found[5] else ""
            mend = "Else mend" if hint.startswith("If") else "Mend"
            say(f"column {column.name!r}: {numbers}{others}. {hint}{mend} the file; or {way}")
    if stops:
        raise typer.Exit(exits.INVALID)


def _is_about(warning: Entry | EntryView, column: str) -> bool:
    """Whether the warning says of this column that it is nearly one of numbers."""
    from service.errors import shorten

    return warning.code == "nearly-numbers" and warning.detail.startswith(f"Column {shorten(column)} is taken as texts")


def _quoted(shown: str) -> str:
    """A text that a message shows in quotes, as a shell takes it."""
    text = str(ast.literal_eval(shown)).strip()
    return f"'{text}'" if shlex.quote(text) == text else shlex.quote(text)


def _inputs(dataset: Dataset) -> list[ColumnView]:
    return [column for column in dataset.columns if column.role == "input"]


def _request(client: Client, dataset: Dataset, *, task: str) -> dict[str, Any]:
    """The request that the rules make of a dataset, without its net and its output."""
    columns, rows = _inputs(dataset), dataset.rows or 0
    target = next(column for column in dataset.columns if column.role == "target")
    if task == "numbers" and target.dtype == "text":
        say(f"--task numbers: {target.name!r} holds texts; leave out --task numbers.")
        raise typer.Exit(exits.INVALID)
    classes = task == "classes" or (task == "auto" and _is_class(client, dataset, target))
    steps: list[dict[str, Any]] = []
    absent = [column.name for column in columns if column.missing and column.dtype != "text"]
    if absent:
        steps.append({"type": "impute", "columns": absent})
    if any(column.dtype != "text" for column in columns):
        steps.append({"type": "standardize"})
    if any(column.dtype == "text" for column in columns):
        steps.append({"type": "one_hot"})
    if not classes:
        steps.append({"type": "standardize", "of": "target"})
    request: dict[str, Any] = {
        "kind": "train",
        "dataset": dataset.id,
        "preprocessing": steps,
        "objective": {"type": "cross_entropy" if classes else "mse"},
        "optimizer": {"type": "Adam", "lr": LEARNING_RATE},
        "batch_size": 32 if rows < 10_000 else 256 if rows < 200_000 else 1024,
    }
    if rows >= ROWS_FOR_SPLIT:
        kind = "stratified" if classes else "random"
        request["split"] = {"type": kind, "validation": VALIDATION}
        request["early_stopping"] = {"metric": "val_loss", "patience": PATIENCE}
        request["checkpoint"] = {"publish": "best"}
    return request


def _is_class(client: Client, dataset: Dataset, target: ColumnView) -> bool:
    if target.dtype != "int":
        return target.dtype == "text"
    profile = client.datasets.profile(dataset.id)
    found = next(column for column in profile.columns if column.get("role") == "target")
    return bool(found["max"] - found["min"] < MOST_CLASSES)


def _architecture(arch: str, dataset: Dataset, request: dict[str, Any]) -> Any:
    """What --arch says, with the sizes of the data where it is the catalogue's mlp."""
    if arch not in _OF_DATA:
        if arch.startswith("catalogue:"):
            return {"catalogue": arch.removeprefix("catalogue:")}
        return requests.read(Path(arch))
    columns = _inputs(dataset)
    width = sum(len(column.classes or ()) if column.dtype == "text" else 1 for column in columns)
    outputs = 1
    if request["objective"]["type"] == "cross_entropy":
        target = next(column for column in dataset.columns if column.role == "target")
        outputs = max(2, len(target.classes or ()))
    return {"catalogue": "mlp", "params": {"in_features": width, "hidden": list(HIDDEN), "num_classes": outputs}}


def _submit(client: Client, request: dict[str, Any]) -> Job:
    """Start the job; where the sizes of the catalogue's net are not those of the training rows, with those of the rows.

    What the training rows have may be less than what all rows have: a category may be among the held-out ones alone.
    """
    from service.errors import Forbidden

    try:
        return _fitting(client.jobs.submit, request)
    except Forbidden as refused:
        if "sets an alias" in refused.message:
            hint = "Pass --alias '' to make a version that no alias gets, or use a key of the scope publish."
            refused.errors = tuple(replace(entry, hint=hint) for entry in refused.errors)
        raise


def _fitting(ask: Callable[[dict[str, Any]], Answer], request: dict[str, Any]) -> Answer:
    """The answer to a request, or to the one with other sizes that its refusal asks for."""
    from service.errors import InvalidInput

    try:
        return ask(request)
    except InvalidInput as refused:
        fitted = _fitted(request, refused.errors)
        if fitted == request:
            raise
        return ask(fitted)


def _fitted(request: dict[str, Any], mistakes: Iterable[Entry | EntryView]) -> dict[str, Any]:
    """The request with the sizes of its catalogue's net that the mistakes ask for."""
    architecture = request.get("architecture")
    params = architecture.get("params") if isinstance(architecture, dict) else None
    if not isinstance(params, dict) or "in_features" not in params:
        return request
    wanted = {}
    for found in mistakes:
        row = re.fullmatch(r"\['B', ([0-9]+)\]", found.expected or "")
        classes = re.fullmatch(r"\[N, ([0-9]+)\]", found.expected or "")
        if row is not None and found.pointer.startswith("/architecture/inputs/"):
            wanted["in_features"] = int(row[1])
        elif classes is not None and found.pointer == "/architecture/root":
            wanted["num_classes"] = int(classes[1])
    return {**request, "architecture": {**architecture, "params": {**params, **wanted}}} if wanted else request  # type: ignore[dict-item]  # it has params


def _show_examination(session: Session, request: dict[str, Any] | None, found: ExaminationView) -> None:
    """Print what a dry run says; a request that the command made goes to stdout, so that it can be kept in a file."""
    plan = {name: value for name, value in found.plan.items() if isinstance(value, (int, float, str))}
    told = {"valid": found.valid, **plan, "memory": found.memory_bytes, "seconds": found.estimate_s}
    if session.format is Format.TABLE:
        told["memory"] = size(found.memory_bytes)
        told["seconds"] = None if found.estimate_s is None else round(found.estimate_s, 1)
    if session.format is Format.TABLE and request is not None:
        typer.echo(json.dumps(request, indent=2, ensure_ascii=False))
        for name, value in told.items():
            say(f"{name}: {value if value is not None else 'unknown'}")
    else:
        show_one(session.format, found, told)
    _tell(found.warnings, session.places)
    if not found.valid:
        raise typer.Exit(exits.INVALID)


def _tell(entries: Iterable[EntryView], places: Mapping[str, str] | None = None) -> None:
    for line in sentences(entries, places or {}):
        say(line)
