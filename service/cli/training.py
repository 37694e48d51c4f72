"""The commands `train` and `validate`.

`train` takes a request as a file, or a table and the name of what is to be learnt: then it writes the request itself,
by rules that stand in its help and in docs/guide/client.md. Knows no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, cast

import typer

from service.cli import exits, requests
from service.cli.datasets import (
    OPTIONS,
    SAVE_AS_CSV,
    SPREADSHEETS,
    Decimal,
    Delimiter,
    Encoding,
    MissingText,
    SkipUnlabelled,
    Thousands,
    as_option,
    asked,
    names_of,
    read_table,
    sending,
    uploading,
)
from service.cli.jobs import started
from service.cli.models import OTHER_ROWS, are_of_other_rows, figures_of
from service.cli.output import Column, Format, say, show, show_one, size, stopped
from service.cli.session import Session, as_options, missing_options, sentences, talks

if TYPE_CHECKING:
    from service.client import Client, Dataset, Job, Version
    from service.client.recipes import Odd, Task
    from service.errors import Entry
    from service.schemas.views import EntryView, ExaminationView

DEFAULT_ALIAS: Final = "champion"
"""That of `schemas.versions`, which would bring pydantic to every command and its help."""
LEARNING_RATE: Final = 0.003
EPOCHS: Final = 500
MINUTES: Final = 5.0
"""These three are those of `client.recipes`, which would bring it too."""
_NAMED: Final = 10
"""Inputs that are named when a training begins."""
_UNKNOWN: Final = 3
"""Classes that are named where none of their rows is known."""
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
    inputs: Annotated[
        list[str] | None,
        typer.Option(help="Learn from these columns only, parted by commas; by default from all. Repeatable."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Learn from these columns too, which the rules would leave out. Repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Columns to leave out, parted by commas. Repeatable.")
    ] = None,
    task: Annotated[str, typer.Option(help="auto, classes or numbers: what the target is.")] = "auto",
    arch: Annotated[
        str, typer.Option(help="auto, catalogue:NAME, or a file with an architecture document.", metavar="ARCH")
    ] = "auto",
    alias: Annotated[
        str,
        typer.Option(
            help="The alias that gets the version; '' for none: predictions by the model's bare name are answered by "
            "the champion, else the newest version. See --if-better too."
        ),
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
    weigh_classes: Annotated[
        bool, typer.Option("--weigh-classes", help="A class of few rows counts as much as one of many.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(ENGINES[:-1])} or {ENGINES[-1]}: what answers for the version. By default eager."
        ),
    ] = None,
    missing_text: MissingText = None,
    skip_unlabelled: SkipUnlabelled = False,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    thousands: Thousands = None,
    encoding: Encoding = None,
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

    A name of a column that has a comma stands in quotes of its own: --exclude '"Region, Land",Town'.

    A few odd cells in a column of numbers end the command: --missing-text TEXT takes such a cell for a missing value.
    So do rows without a value in the target: --skip-unlabelled leaves them out.
    """
    from service.client.dialects import TABLES
    from service.client.recipes import Recipe, output_of

    path = file or data
    if path is None:
        say("Name a table, as in: modelyard train data.csv --target y --model name --wait; or a file with a request.")
        raise typer.Exit(exits.USAGE)
    if engine is not None and engine not in ENGINES:
        say(f"--engine is one of {', '.join(ENGINES)}.")
        raise typer.Exit(exits.USAGE)
    client, learns, words = session.client, None, _Spoken(session)
    with ExitStack() as undo:  # nothing stays behind of what is refused, or was only tried
        if path.suffix.lower() in requests.SUFFIXES:
            if if_better:
                say('--if-better is for tables. A request says it itself: {"champion": "val_r2 > champion.val_r2"}.')
                raise typer.Exit(exits.USAGE)
            of_tables = {
                **{"--target": target, "--inputs": inputs, "--include": include, "--exclude": exclude},
                **{"--batch-size": batch_size, "--weigh-classes": weigh_classes},
                **{"--missing-text": missing_text, "--delimiter": delimiter, "--decimal": decimal},
                **{"--skip-unlabelled": skip_unlabelled, "--thousands": thousands, "--encoding": encoding},
                **{"--task": task != "auto", "--arch": arch != "auto", "--alias": alias != DEFAULT_ALIAS},
                **{"--epochs": epochs != EPOCHS, "--minutes": minutes != MINUTES},
                **{"--lr": lr != LEARNING_RATE, "--seed": seed != 0},
            }
            given = [option for option, value in of_tables.items() if value]
            if given:
                say(f"{', '.join(given)}: for tables only. A request says this itself; change it in {path.name}.")
                raise typer.Exit(exits.USAGE)
            request = requests.read(path)
            undo.enter_context(_told_scope(_asked_alias(request)[0], "leave `alias_on_success` out"))
            request = requests.complete(request, folder=path.parent, upload=uploading(client, undo))
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
            only, added, left = names_of(inputs), names_of(include), names_of(exclude)
            if only and added:
                say("--inputs names the only columns to learn from; name those of --include among them.")
                raise typer.Exit(exits.USAGE)
            if both := [name for name in added if name in left]:
                say(f"--include and --exclude both name {', '.join(map(repr, both))}.")
                raise typer.Exit(exits.USAGE)
            session.places = {"/source/upload": path.name, "/dataset": path.name, **_OPTIONS, "": ""}
            kind = TABLES[path.suffix.lower()]
            reading = asked(kind, delimiter, decimal, thousands, encoding, missing_text)
            undo.enter_context(_told_scope(alias or None, "pass --alias ''"))
            with _told_with(_wrong_options(model, alias, arch), session.places):
                table = read_table(path, kind, reading)
                recipe = Recipe(
                    target=str(target),
                    inputs=only or None,
                    include=added,
                    exclude=left,
                    task=cast("Task", task),
                    epochs=epochs,
                    minutes=minutes,
                    lr=lr,
                    batch_size=batch_size,
                    seed=seed,
                    weigh_classes=weigh_classes,
                )
                source = {**table.source, "upload": sending(client, undo)(table)}
                source |= {"unlabelled": "skip"} if skip_unlabelled else {}
                plan = client.plan(source, recipe, name=path.stem[:63].lower(), words=words)
            request = plan.request
            learns = _learns(plan.dataset, request)
            if arch not in _OF_DATA:
                request["architecture"] = _architecture(arch)
            request["output"] = output_of(request, str(model), alias=alias, if_better=if_better, engine=engine)
        if engine is not None and learns is None:
            request["output"] = {**request.get("output", {}), "engine": {"type": engine}}
        if dry_run:
            examination = client.jobs.examine(request)
            if learns is not None:  # of a table: what was made of it goes, so the request names the file
                named = {name: value for name, value in plan.source.items() if name not in ("type", "upload")}
                request = {**request, "dataset": {"type": plan.source["type"], "file": str(path), **named}}
                say(learns)
            _show_examination(session, request, examination, told=words.told)
            return
        before = _before(client, request)
        job = client.jobs.submit(request)
        undo.pop_all()
    if learns is not None:
        say(learns)
    if before is not None:
        _tell_before(request, before)
    session.detached = f"Detached: the job goes on. Watch it with: modelyard jobs watch {job.id}"
    started(session, job, wait=wait, told=("promotion-refused",))
    if not wait and session.format is Format.TABLE:
        _tell_intention(request, is_first=before is None)
    ended = client.jobs.get(job.id) if wait else None
    made = ended.output if ended is not None else None
    if ended is not None and made is not None and made.get("version") is not None:
        _tell_move(client, made, before)
        _tell_failure(ended.metrics.get("last") or {})
        _tell_unknown(ended, may_weigh=learns is not None and not weigh_classes)
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
    for line in sentences([*found.errors, *found.warnings], {}):
        say(line)
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


@contextmanager
def _told_scope(alias: str | None, way: str) -> Iterator[None]:
    """Tell a key of a lesser scope what all of the command needs, whichever of its requests is refused first.

    Args:
        alias: the one that the job sets, for which it needs more than for training.
        way: how a version is made that no alias gets.
    """
    from service.errors import Forbidden

    try:
        yield
    except Forbidden as refused:
        if alias is not None and refused.scope is not None:
            _, _, key = refused.message.partition("; ")  # which one it is, and what it has
            refused.message = (
                f"A training that sets the alias {alias} needs the scope publish{f'; {key}' if key else '.'}"
            )
            hint = f"Use a key of the scope publish, or {way} to make a version that no alias gets."
            if refused.scope != "publish":  # that of a training, which the key lacks too
                hint = f"Use a key of the scope publish; one of the scope train is enough if you {way} too, to make a "
                hint += "version that no alias gets."
            refused.errors = tuple(replace(entry, hint=hint) for entry in refused.errors)
        raise


def _before(client: Client, request: dict[str, Any]) -> Version | None:
    """The version that the request's alias points at; None without one, and for a key that may not see it."""
    from service.errors import ServiceError

    output, (alias, _) = request.get("output"), _asked_alias(request)
    if alias is None or not isinstance(output, dict):
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
    columns = [column for column in dataset.columns if column.role == "input"]
    kinds = {
        "numbers": [column.name for column in columns if column.dtype != "text"],
        "texts": [column.name for column in columns if column.dtype == "text"],
    }
    told = [
        f"{', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''} ({kind})"
        for kind, names in kinds.items()
        if names
    ]
    return f"Learns {target.name} {what}, from {' and '.join(told)}."


def _tell_failure(metrics: Mapping[str, float | None]) -> None:
    """Say it where a net that answers with numbers has learnt nothing."""
    name = "val_r2" if "val_r2" in metrics else "r2"
    found = metrics.get(name)
    if found is not None and found <= 0:
        say(f"{name} is not above 0: the mean of all rows would be as good an answer. Look at the inputs, and at --lr.")


def _tell_unknown(job: Job, *, may_weigh: bool) -> None:
    """Say it where a class is never known, or where always saying the commonest one would be right as often.

    Args:
        job: that has made the version.
        may_weigh: classes could be weighed, and were not.
    """
    found = figures_of(job.report or {}, ())
    if found is None:
        return
    there = [one for one in found.classes if one["rows"]]
    known = sum(round(one["recall"] * one["rows"]) for one in there)
    unknown = [one for one in there if not one["recall"]]
    most = found.commonest
    if len(there) == 1 or not (unknown or known <= most["rows"]):
        return
    told = f"{100 * known / found.rows:.1f} % of the {found.rows} {found.part} rows are known"
    if unknown:
        names = [repr(found.name(one)) for one in unknown[:_UNKNOWN]]
        names += [f"{len(unknown) - _UNKNOWN} more classes"] if len(unknown) > _UNKNOWN else []
        classes = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        count = sum(one["rows"] for one in unknown)
        told = f"None of the {count} {found.part} rows of {classes} is known"
        if count == 1:
            told = f"The one {found.part} row of {classes} is not known"
    way = ""
    if may_weigh and any(2 * one["rows"] < most["rows"] for one in unknown):
        way = " --weigh-classes lets each class count the same."
    share = f"{100 * most['rows'] / found.rows:.1f} %"
    say(f"{told}; always saying {found.name(most)!r} would be right for {share}.{way}")


def _tell_before(request: dict[str, Any], before: Version) -> None:
    """Say which version the alias points at, what that is worth, and what the job will do with the alias."""
    alias, condition = _asked_alias(request)
    name = next((name for name in _TOLD_METRICS if before.metrics.get(name) is not None), None)
    worth = "" if name is None else f", with {name} {before.metrics[name]:.4g}"
    even = f" if {condition}" if condition else ", even if that is worse (see --if-better)"
    say(f"{before.model} is there already: {alias} is version {before.version}{worth}.")
    say(f"When this job has succeeded, {alias} moves from version {before.version} to its own{even}.")


def _tell_intention(request: dict[str, Any], *, is_first: bool) -> None:
    """Say what a job that nobody waits for will do with the alias, and how its version is asked then."""
    output = request.get("output")
    if not isinstance(output, dict):
        return
    alias, condition = _asked_alias(request)
    if alias is None:
        say("No alias will point at its version. modelyard jobs show last tells the number.")
        say("Predictions by the model's bare name are answered by the champion, else by the newest version.")
        return
    if is_first:
        say(f"When it has succeeded, {alias} will point at its version{f' if {condition}' if condition else ''}.")
    reference = output.get("model") if alias == DEFAULT_ALIAS else f"{output.get('model')}@{alias}"
    say(f"Then ask it with: modelyard predict {reference} FILE.csv")


def _asked_alias(request: dict[str, Any]) -> tuple[str | None, str | None]:
    """The alias that the request moves, and on which condition."""
    output = request.get("output")
    asked = output.get("alias_on_success") if isinstance(output, dict) else None
    alias, condition = next(iter(asked.items()), (None, None)) if isinstance(asked, dict) else (asked, None)
    return (alias, condition) if isinstance(alias, str) else (None, None)


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
    if change and are_of_other_rows(client, before, now):
        say(OTHER_ROWS)
    other = "" if made["alias"] == DEFAULT_ALIAS else f" --alias {made['alias']}"
    say(f"Back to version {before.version}: modelyard models rollback {made['model']}{other}")
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


class _Spoken:
    """What is found in a table, in the command's words."""

    skip = "--skip-unlabelled"
    weigh = "--weigh-classes"

    def __init__(self, session: Session) -> None:
        self._session = session
        self.told: list[str] = []
        """The warnings that were told."""

    def warned(self, entries: Sequence[EntryView]) -> None:
        """The dataset has warnings."""
        self.told = sentences(entries, self._session.places)
        for line in self.told:
            say(line)

    def left_out(self, reasons: Mapping[str, str]) -> None:
        """Columns are left out."""
        from service.client.recipes import DATES, left_out_told

        may = [name for name, reason in reasons.items() if reason != DATES]
        way = f" To learn from {', '.join(may)} too, pass --include {as_option(may)}." if may else ""
        say(f"{left_out_told(reasons)}{way}")

    def rare(self, told: str) -> None:
        """Classes have one row alone, or few beside those of another."""
        say(told)

    def wide(self, told: str) -> None:
        """A column that the rules would leave out is learnt from, and becomes many."""
        say(told)

    def absent(self, option: str, names: Sequence[str], known: Sequence[str]) -> NoReturn:
        """Columns that are to be left out, or not to be, are none."""
        from service.client.recipes import near
        from service.errors import listed

        say(f"--{option} names no input: {listed(names)}. {near(names, known)}")
        raise typer.Exit(exits.INVALID)

    def odd(self, found: Sequence[Odd]) -> NoReturn:
        """A few cells make texts of columns of numbers."""
        for one in found:
            name = as_option([one.column.name])
            way = f"pass --exclude {name}, or --include {name} to take its values as texts."
            if one.column.role == "target":
                way = "pass --task classes, if its values are classes."
            hint = f"{as_options(one.hint)} " if one.hint else ""
            if not hint:
                texts = one.texts or (one.shown.strip("'\"").strip(),)
                means = "that means" if len(texts) == 1 else "these mean"
                skip = f" {self.skip}" if one.column.role == "target" else ""
                hint = f"If {means} no value, pass {missing_options(texts)}{skip}. "
            numbers = f"{one.cells - one.odd} of {one.cells} values are numbers; line {one.line} has {one.shown}"
            others = f", others have {one.others}" if one.others else ""
            mend = "Else mend" if hint.startswith(("If", "Is", "Are")) else "Mend"
            say(f"column {one.column.name!r}: {numbers}{others}. {hint}{mend} the file; or {way}")
        raise typer.Exit(exits.INVALID)

    def texts(self, target: str) -> NoReturn:
        """The target is to be learnt as a number, and holds texts."""
        say(f"--task numbers: {target!r} holds texts; leave out --task numbers.")
        raise typer.Exit(exits.INVALID)

    def numbers(self, target: str) -> NoReturn:
        """Classes are to be weighed, and the target is learnt as a number."""
        say(
            f"{self.weigh} is for classes, and {target!r} is learnt as a number. Leave it out, or pass --task classes "
            "if its values are classes."
        )
        raise typer.Exit(exits.INVALID)


def _architecture(arch: str) -> Any:
    """What --arch says, where that is not the net that is made after the table."""
    known = arch.startswith("catalogue:")
    return {"catalogue": arch.removeprefix("catalogue:")} if known else requests.read(Path(arch))


def _show_examination(
    session: Session, request: dict[str, Any] | None, found: ExaminationView, *, told: Sequence[str] = ()
) -> None:
    """Print what a dry run says, but for warnings that were `told` before.

    A request that the command made goes to stdout, so that it can be kept in a file.
    """
    plan = {name: value for name, value in found.plan.items() if isinstance(value, (int, float, str))}
    facts = {"valid": found.valid, **plan, "memory": found.memory_bytes, "seconds": found.estimate_s}
    if session.format is Format.TABLE:
        facts["memory"] = size(found.memory_bytes)
        facts["seconds"] = None if found.estimate_s is None else round(found.estimate_s, 1)
    if session.format is Format.TABLE and request is not None:
        typer.echo(json.dumps(request, indent=2, ensure_ascii=False))
        for name, value in facts.items():
            say(f"{name}: {value if value is not None else 'unknown'}")
    else:
        show_one(session.format, found, facts)
    for line in sentences(found.warnings, session.places):
        if line not in told:
            say(line)
    if not found.valid:
        raise typer.Exit(exits.INVALID)
