"""The commands `train` and `validate`.

`train` takes a request as a file, or a table and the name of what is to be learnt: then it writes the request itself,
by rules that stand in its help and in docs/guide/client.md. Knows no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import exits, requests
from service.cli.datasets import TABLES, Decimal, Delimiter, dialect
from service.cli.jobs import started
from service.cli.output import Column, Format, say, show, show_one
from service.cli.session import Session, talks
from service.schemas.versions import DEFAULT_ALIAS

if TYPE_CHECKING:
    from service.client import Client, Dataset, Job
    from service.errors import Entry
    from service.schemas.views import ColumnView, EntryView, ExaminationView

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
_IDS: Final = re.compile(r"(?:^|_)(?:id|index|row|no|nr)$", re.IGNORECASE)
"""Whole numbers under such a name number the rows: a net would learn them by heart."""
MOST_CATEGORIES: Final = 50
"""A column with more different texts is left out: that is no category."""


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
    alias: Annotated[str, typer.Option(help="The alias that gets the version; empty for none.")] = "champion",
    epochs: Annotated[int, typer.Option(min=1, help="So many at most.")] = EPOCHS,
    minutes: Annotated[float, typer.Option(min=0.01, help="So long at most.")] = MINUTES,
    lr: Annotated[float, typer.Option(min=0.0, help="The learning rate.")] = LEARNING_RATE,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows of a step; by default after their number.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and split.")] = 0,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show a bar until it has ended.")] = False,
) -> None:
    """Train a net.

    FILE is a table (CSV, TSV, JSON lines, Parquet) beside --target and --model, or a whole request (JSON, YAML, TOML).

    Of a table the request is made by rules. A target of texts, or of whole numbers that span fewer than 20 values, is a
    class; any other is a number. All other columns are inputs: numbers are standardized and missing ones filled with
    the mean, texts become one-hot; left out are columns with more than 50 different texts, and whole numbers under a
    name such as id, row_id or index. The net is the catalogue's
    mlp with hidden layers of 64 and 64. Adam with the rate 0.003 runs until the loss on a held-out fifth of the rows,
    taken from each class, has not improved for 30 epochs; for 500 epochs or 5 minutes at most. The best epoch becomes
    the champion. --dry-run shows the request, to be kept and changed.
    """
    path = file or data
    if path is None:
        say("Name a table, as in: modelyard train data.csv --target y --model name --wait; or a file with a request.")
        raise typer.Exit(exits.USAGE)
    client = session.client
    with ExitStack() as undo:  # nothing stays behind of a table that is refused, or whose request is
        if path.suffix.lower() in requests.SUFFIXES:
            request = requests.complete(
                requests.read(path), folder=path.parent, upload=lambda one: client.uploads.add(one).id
            )
            request.setdefault("kind", "train")
            if model is not None:
                request["output"] = {**request.get("output", {}), "model": model}
        else:
            if path.suffix.lower() not in TABLES:
                known = f"a table ({', '.join(TABLES)}) nor a request ({', '.join(requests.SUFFIXES)})"
                say(f"{path.name} is neither {known}.")
                raise typer.Exit(exits.USAGE)
            absent = [f"--{name}" for name, value in (("target", target), ("model", model)) if value is None]
            if absent:
                say(f"A table needs {' and '.join(absent)} too, as in: modelyard train {path} --target y --model name.")
                raise typer.Exit(exits.USAGE)
            if task not in ("auto", "classes", "numbers"):
                say("--task is auto, classes or numbers.")
                raise typer.Exit(exits.USAGE)
            kind = TABLES[path.suffix.lower()]
            source: dict[str, Any] = {"type": kind, "target": target, **dialect(kind, path, delimiter, decimal)}
            source["upload"] = client.uploads.add(path).id
            undo.callback(_discard, client, source["upload"])
            dataset = _dataset(client, path, source, inputs, exclude)
            request = _request(client, dataset, task=task)
            request["architecture"] = _architecture(arch, dataset, request)
            request["optimizer"]["lr"] = lr
            request["budget"] = {"epochs": epochs, "max_seconds": 60 * minutes}
            request["seed"] = seed
            if batch_size is not None:
                request["batch_size"] = batch_size
            request["output"] = {"model": model, **({"alias_on_success": alias} if alias else {})}
        if dry_run:
            examination = client.jobs.examine(request)
            fitted = _fitted(request, examination.warnings)
            if fitted != request:
                request, examination = fitted, client.jobs.examine(fitted)
            undo.pop_all()
            _show_examination(session, request, examination)
            return
        job = _submit(client, request)
        undo.pop_all()
    session.detached = f"Detached: the job goes on. Watch it with: modelyard jobs watch {job.id}"
    started(session, job, wait=wait)
    if wait and session.format is Format.TABLE:
        made = client.jobs.get(job.id).output
        if made is not None and made.get("version") is not None:
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
        request = requests.complete(document, folder=file.parent, upload=lambda one: client.uploads.add(one).id)
        examination = client.jobs.examine(request)
        _show_examination(session, None, examination)
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


def _dataset(client: Client, path: Path, source: dict[str, Any], inputs: str | None, exclude: str | None) -> Dataset:
    """The table as a dataset, without the columns that are no categories and those that are to be left out."""
    from service.errors import DatasetRefused

    source["inputs"] = inputs.split(",") if inputs else "*"
    name = path.stem[:63].lower()
    try:
        found = client.datasets.add(source, name=name, wait_s=600)
    except DatasetRefused as refused:
        if not any('"missing": "keep"' in (entry.hint or "") for entry in refused.errors):
            raise
        _discard(client, source["upload"], datasets_only=True)
        source["missing"] = "keep"
        found = client.datasets.add(source, name=name, wait_s=600)
    while found.state == "processing":
        found = client.datasets.get(found.id)
    unwanted = exclude.split(",") if exclude else []
    absent = [one for one in unwanted if one not in {column.name for column in _inputs(found)}]
    if absent:
        say(f"--exclude names no input: {', '.join(absent)}. Inputs: {', '.join(one.name for one in _inputs(found))}.")
        raise typer.Exit(exits.INVALID)
    _tell(found.warnings)
    left_out = list(unwanted)
    if inputs is None:
        rest = [one for one in _inputs(found) if one.name not in unwanted]
        texts = [one.name for one in rest if len(one.classes or ()) > MOST_CATEGORIES]
        numbers = [one.name for one in rest if one.dtype == "int" and _IDS.search(one.name)]
        for names, reason in ((texts, "they are no categories"), (numbers, "they number the rows")):
            if names:
                say(f"Left out, since {reason}: {', '.join(names)}. Name them in --inputs to take them.")
        left_out += [*texts, *numbers]
    if not left_out:
        return found
    source["inputs"] = [one.name for one in _inputs(found) if one.name not in left_out]
    client.datasets.delete(found.id)
    return client.datasets.add(source, name=name, wait_s=600)


def _discard(client: Client, upload: str, *, datasets_only: bool = False) -> None:
    """Remove an upload of this command, and what was made of it: a refused dataset too is kept until it is deleted."""
    from service.errors import ServiceError

    with suppress(ServiceError):  # this is tidying: what went wrong before is what people have to know
        for made in client.datasets.list(limit=200).data:
            if made.source.get("upload") == upload:
                client.datasets.delete(made.id)
        if not datasets_only:
            client.uploads.delete(upload)


def _inputs(dataset: Dataset) -> list[ColumnView]:
    return [column for column in dataset.columns if column.role == "input"]


def _request(client: Client, dataset: Dataset, *, task: str) -> dict[str, Any]:
    """The request that the rules make of a dataset, without its net and its output."""
    columns, rows = _inputs(dataset), dataset.rows or 0
    target = next(column for column in dataset.columns if column.role == "target")
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
    if arch not in ("auto", "mlp", "catalogue:mlp"):
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
    from service.errors import InvalidInput

    try:
        return client.jobs.submit(request)
    except InvalidInput as refused:
        fitted = _fitted(request, refused.errors)
        if fitted == request:
            raise
        return client.jobs.submit(fitted)


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
    if session.format is Format.TABLE and request is not None:
        typer.echo(json.dumps(request, indent=2, ensure_ascii=False))
        for name, value in told.items():
            say(f"{name}: {value}")
    else:
        show_one(session.format, found, told)
    _tell(found.warnings)
    if not found.valid:
        raise typer.Exit(exits.INVALID)


def _tell(entries: Iterable[EntryView]) -> None:
    for entry in entries:
        place = f"{entry.pointer}: " if entry.pointer else ""
        say(f"{place}{entry.detail}{f' {entry.hint}' if entry.hint else ''}")
