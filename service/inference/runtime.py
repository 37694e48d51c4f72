"""Loaded versions: load once, check, keep, let go.

A version enters a process when it is first asked for: its files are hashed against the manifest, its weights are
mapped, and its golden rows must come out again. Many callers that wait for one version share one load. Knows no alias
and no HTTP.

What is loaded has a budget of bytes. When a version has come in, those that were asked longest ago go until it is kept,
but never one that is pinned; a version for which no room can be made is refused before it is read. Loads at the same
time share the budget: one that finds no room beside the others waits for them.

A job's checkpoint answers likewise, while there is no version of it: without golden rows, and only its newest is kept.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from service.engine import checkpoint, checkpoints, engines
from service.engine.predictor import GOLDEN, Predictor, Rows, rows_of
from service.errors import Entry, InvalidInput, MemoryFull, ModelQuarantined, NotFound, ServiceError, StoreError
from service.inference.codec import Array, Limits, Plain, Raw, check, decode, plain, require_room, surely_within
from service.inference.drift import Drift, Seen
from service.schemas.document import pointer
from service.schemas.preprocessing import ArrayRow, ClassTarget, Preprocessing
from service.schemas.versions import Manifest, Signature
from service.store.files import sha256_file
from service.store.models import ModelStore
from service.telemetry import Metrics, VersionMetrics, log

_log = log(__name__)
_LACKING: Final = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
_TRIALS: Final = 8
"""Checkpoints of jobs that stay loaded."""
_TIMED: Final = 16
"""Of small forward passes one in so many is timed: to ask for a thread's time takes as long as some of them."""
_LOOKS: Final = 50
_BETWEEN_LOOKS_S: Final = 0.005
"""So often, and so far apart, a checkpoint is looked for that a worker replaces again and again."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A job's checkpoint that answers: the job, and the step and epoch of the weights."""

    job: str
    step: int
    epoch: int


class Inference(NamedTuple):
    """The answer to one request: arrays [N, …] by output name, what a classifier adds, and the times.

    Args:
        source: who answered.
        model, version, alias: the same in words; none of them for a checkpoint of a job.
        rows: N.
        queue_s: how long the request waited for its turn.
        infer_s: the forward pass of the batch that it rode in.
        assemble_s: putting the rows of that batch together.
    """

    source: Manifest | Trial
    model: str | None
    version: int | None
    alias: str | None
    outputs: dict[str, Array]
    probabilities: Array | None
    labels: list[str] | None
    classes: tuple[str, ...] | None
    warnings: tuple[Entry, ...]
    rows: int
    queue_s: float
    infer_s: float
    assemble_s: float


class Answers:
    """What one forward pass has answered to the rows of all who rode in it."""

    __slots__ = (
        "assemble_s",
        "classes",
        "closed_at",
        "cost_s",
        "infer_s",
        "labels",
        "outputs",
        "probabilities",
        "requests",
        "rows",
        "seen",
        "texts",
    )

    def __init__(
        self,
        outputs: dict[str, Array],
        *,
        probabilities: Array | None,
        labels: list[str] | None,
        classes: tuple[str, ...] | None,
        rows: int,
        infer_s: float,
        cost_s: float | None,
    ) -> None:
        self.outputs = outputs
        self.probabilities = probabilities
        self.labels = labels
        self.classes = classes
        self.rows = rows
        self.infer_s = infer_s
        self.cost_s = cost_s
        self.assemble_s = 0.0
        self.closed_at = 0.0
        self.requests = 1
        self.seen: Seen | None = None
        self.texts: list[bytes] | None = None
        """The rows of the only output as JSON, once they are written for all who rode along."""


class Slice(NamedTuple):
    """The part of `Answers` that belongs to one request."""

    answers: Answers
    start: int
    stop: int
    warnings: tuple[Entry, ...]

    def outputs(self) -> dict[str, Array]:
        """Its rows by output name; all there is where nobody rode along, whose answers may have another first size."""
        if self.answers.requests == 1:
            return self.answers.outputs
        return {name: whole[self.start : self.stop] for name, whole in self.answers.outputs.items()}


class NotPlainError(Exception):
    """Rows that were taken for plain numbers are odd; `decode` says what is wrong with them, if anything is."""


Work = list[Any] | tuple[Raw, ...]
"""What is to be predicted: a list of rows that hold nothing but numbers, or arrays that were checked."""


class Loaded:
    """A version, or a job's checkpoint, in this process."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        source: Manifest | Trial,
        predictor: Predictor,
        *,
        signature: Signature,
        size_bytes: int,
        samples: Sequence[Rows] = (),
    ) -> None:
        self.source = source
        self.predictor = predictor
        self._samples = tuple(samples)
        self._placed: dict[int, bool] = {}
        self._turn = 0
        self.signature = signature
        self.size_bytes = size_bytes
        self.number = next(self._numbers)
        """Tells this one from every other that was ever loaded here."""
        independence = source.batch_independence if isinstance(source, Manifest) else None
        self.mergeable = independence is not None and independence.independent
        """Whether requests may ride together: it was tried that rows do not depend on each other."""
        self._drift = Drift(predictor.preprocessor.document) if isinstance(source, Manifest) else None
        self.seconds: tuple[tuple[int, float], ...] = ()
        """Rows and seconds of forward passes that were timed when it was loaded."""
        self.heads: dict[str | None, bytes] = {}
        """Beginnings of answers by alias, for the data plane."""
        self.told: VersionMetrics | None = None
        """Its metrics, once it was asked."""
        self.counted: Any = None
        """Its sums, for the data plane."""
        self._plain: dict[Limits, Plain | None] = {}
        self._latest: tuple[Limits | None, Plain | None] = (None, None)
        self._names = tuple(spec.name for spec in signature.outputs)
        self.answered = sum(
            math.prod(size for size in spec.shape[1:] if isinstance(size, int)) for spec in signature.outputs
        )
        """Numbers of one row's answer; free sizes count as one."""
        rows = predictor.preprocessor.document.rows
        self.takes_pictures = any(isinstance(row, ArrayRow) and row.image is not None for row in rows)
        """Whether files of pictures may be among the rows, which take long to read."""

    def plain(self, limits: Limits) -> Plain | None:
        """How rows of numbers are read all at once, if they can be."""
        if limits is self._latest[0]:  # a server has one, and is asked for each request
            return self._latest[1]
        try:
            found = self._plain[limits]
        except KeyError:
            rows = self.predictor.preprocessor.document.rows
            known = rows if len(rows) == len(self.signature.inputs) else [None] * len(self.signature.inputs)
            found = plain(self.signature.inputs, known, outputs=self.signature.outputs, limits=limits)
            self._plain[limits] = found
        self._latest = (limits, found)
        return found

    def decode(self, inputs: object, *, limits: Limits) -> tuple[Raw, ...]:
        """The `inputs` member of a request as arrays.

        Raises:
            InvalidInput: the rows do not fit the version.
            BatchTooLarge: more rows or numbers than allowed.
        """
        rows = self.predictor.preprocessor.document.rows
        raw = decode(inputs, specs=self.signature.inputs, rows=rows, limits=limits)
        require_room(len(raw[0]), outputs=self.signature.outputs, limits=limits)
        return raw

    def check(self, tensors: Mapping[str, Array], *, limits: Limits) -> tuple[Raw, ...]:
        """Arrays by input name, checked; raises as `decode`."""
        known = self.plain(limits)
        if known is not None and len(tensors) == 1:
            spec = self.signature.inputs[0]
            array = tensors.get(spec.name)
            if array is not None and known.holds(array):
                return (Raw(array, at=pointer(["inputs", spec.name]), bounded=True),)
        rows = self.predictor.preprocessor.document.rows
        raw = check(tensors, specs=self.signature.inputs, rows=rows, limits=limits)
        require_room(len(raw[0]), outputs=self.signature.outputs, limits=limits)
        return raw

    def key(self, raw: tuple[Raw, ...] | None) -> Hashable:
        """Requests with equal keys may ride together. Rows not decoded yet have the key of those of the first form."""
        if raw is None:
            return (self.number, None)
        if len(raw) == 1 and raw[0].codes is None and raw[0].numbers.dtype == np.float64:
            shape = raw[0].numbers.shape[1:]
            if any(
                known is not None and known.dtype in _DOUBLES and known.shape == shape for known in self._plain.values()
            ):
                return (self.number, None)
        return (self.number, tuple((part.numbers.dtype.str, part.numbers.shape[1:]) for part in raw))

    def predict(self, inputs: object, *, limits: Limits) -> Inference:
        """Answer the `inputs` member of a request, alone.

        Raises:
            InvalidInput: the rows do not fit the version.
            BatchTooLarge: more rows or numbers than allowed.
        """
        (answer,), _ = self.run([self.decode(inputs, limits=limits)], limits=limits)
        if isinstance(answer, Exception):
            raise answer
        return self.inference(answer, alias=None, queue_s=0.0)

    def after(self, other: Loaded, work: Work, *, limits: Limits) -> Inference:
        """Answer alone what another version was asked.

        Raises:
            InvalidInput: the rows do not fit this version.
        """
        if not isinstance(work, list) and len(work) == 1 and work[0].rows:
            work = list(work[0].rows)
        if isinstance(work, list):
            work = self.decode(work, limits=limits)
        elif (self.signature.inputs, self.predictor.preprocessor.document.rows) != (
            other.signature.inputs,
            other.predictor.preprocessor.document.rows,
        ):
            raise InvalidInput("This version takes other inputs.")
        return self.inference(self.alone(work, limits=limits), alias=None, queue_s=0.0)

    def alone(self, work: Work, *, limits: Limits) -> Slice:
        """The answer to one request, by a forward pass of its own.

        Raises:
            InvalidInput: the net cannot take its rows.
        """
        (answer,), _ = self.run([work], limits=limits)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def inference(self, answer: Slice, *, alias: str | None, queue_s: float) -> Inference:
        """A request's part of the answers, with who gave them."""
        whole, part = answer.answers, slice(answer.start, answer.stop)
        manifest = self.source if isinstance(self.source, Manifest) else None
        return Inference(
            self.source,
            None if manifest is None else manifest.model,
            None if manifest is None else manifest.version,
            alias,
            answer.outputs(),
            None if whole.probabilities is None else whole.probabilities[part],
            None if whole.labels is None else whole.labels[part],
            whole.classes,
            answer.warnings,
            answer.stop - answer.start,
            queue_s,
            whole.infer_s,
            whole.assemble_s,
        )

    def run(
        self, works: Sequence[Work], *, limits: Limits, fixed_rows: int | None = None
    ) -> tuple[list[Slice | Exception], float | None]:
        """Answer several requests in one forward pass.

        What fails among others is asked again alone, so that it fails alone.

        Args:
            works: the requests, all of one key.
            limits: how much one prediction may hold.
            fixed_rows: give every forward pass exactly so many rows, where rows do not depend on each other.

        Returns:
            For each request its part of the answers, or the exception that it meets; and the seconds that the forward
            pass has kept a processor busy, None if it was not one or was not timed.
        """
        if not self.mergeable:
            fixed_rows = None
        try:
            parts = self._together(works, limits, fixed_rows)
            return cast("list[Slice | Exception]", parts), parts[0].answers.cost_s
        except Exception as error:
            if len(works) == 1:
                return [error], None
        found: list[Slice | Exception] = []
        for work in works:
            try:
                found += self._together([work], limits, fixed_rows)
            except Exception as error:
                found.append(error)
        return found, None

    def _together(self, works: Sequence[Work], limits: Limits, fixed_rows: int | None) -> list[Slice]:
        started = time.perf_counter()
        rows, counts = self._assembled(works, limits)
        assembled = time.perf_counter()
        answers = self._answer(rows, fixed_rows)
        answers.requests = len(works)
        answers.assemble_s = assembled - started
        parts = self.predictor.preprocessor.parts
        familiar = all(one.familiar(part.numbers, part.codes) for one, part in zip(parts, rows, strict=False))
        quiet = familiar and all(_is_finite(output) for output in answers.outputs.values())
        if self._drift is not None:
            answers.seen = self._drift.look(rows, familiar=familiar)
        found = []
        start = 0
        for work, count in zip(works, counts, strict=True):
            stop = start + count
            warnings = () if quiet else tuple(self._warnings(work, rows, answers, start, stop))
            found.append(Slice(answers, start, stop, warnings))
            start = stop
        return found

    def _assembled(self, works: Sequence[Work], limits: Limits) -> tuple[list[Rows], list[int]]:
        """All rows one after the other, and how many belong to each request.

        Raises:
            NotPlainError: rows that are not decoded are odd.
        """
        if all(isinstance(work, list) for work in works):
            together = works[0] if len(works) == 1 else list(itertools.chain.from_iterable(works))
            counts = [len(work) for work in works]
            return [Rows(self._plain_array(cast("list[Any]", together), limits), bounded=True)], counts
        raws = [
            (Raw(self._plain_array(work, limits), rows=work, bounded=True),) if isinstance(work, list) else work
            for work in works
        ]
        counts = [len(raw[0]) for raw in raws]
        if len(raws) == 1:
            return [Rows(part.numbers, part.codes, part.rows, part.at, part.bounded) for part in raws[0]], counts
        rows = []
        for parts in zip(*raws, strict=True):
            codes = None if parts[0].codes is None else np.concatenate([part.codes for part in parts])
            numbers = np.concatenate([part.numbers for part in parts])
            rows.append(Rows(numbers, codes, bounded=all(part.bounded for part in parts)))
        return rows, counts

    def _plain_array(self, rows: list[Any], limits: Limits) -> Array:
        known = self.plain(limits)
        if known is None:
            raise NotPlainError
        try:
            return known.array(rows)
        except (ValueError, TypeError, OverflowError) as error:
            raise NotPlainError from error

    def _answer(self, rows: list[Rows], fixed_rows: int | None) -> Answers:
        count = len(rows[0].numbers)
        self._turn += 1
        timed = self._turn < _TIMED or self._turn % _TIMED == 0 or count > _TIMED
        started, busy = time.perf_counter(), time.thread_time() if timed else 0.0
        if fixed_rows is None:
            tensors = self.predictor.run(rows)
        else:
            step = fixed_rows if self._indifferent(fixed_rows) else 1
            try:
                pieces = [
                    [whole[: stop - start] for whole in self.predictor.run(_padded(rows, start, stop, fixed_rows))]
                    for start, stop in ((at, min(at + step, count)) for at in range(0, count, step))
                ]
            except ServiceError:
                self.predictor.run(rows)  # tells it with the places of the rows that were sent
                raise
            tensors = pieces[0] if len(pieces) == 1 else [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        seconds, cost = time.perf_counter() - started, time.thread_time() - busy if timed else None
        outputs = {name: _array(tensor) for name, tensor in zip(self._names, tensors, strict=True)}
        probabilities, labels, classes = _classified(self.predictor.preprocessor.document, tensors)
        return Answers(
            outputs,
            probabilities=probabilities,
            labels=labels,
            classes=classes,
            rows=count,
            infer_s=seconds,
            cost_s=cost,
        )

    def _indifferent(self, fixed_rows: int) -> bool:
        """Whether an answer's bits are the same at every place among so many rows, whatever the other rows are.

        Tried once with sample rows. Of some nets they are not, such as recurrent ones: kernels may treat the last
        numbers of an array in another way. Then each row is run with copies of itself.
        """
        found = self._placed.get(fixed_rows)
        if found is not None:
            return found
        found = bool(self._samples)
        if found:
            count = len(self._samples[0].numbers)
            alone = [self.predictor.run(_padded(self._samples, at, at + 1, fixed_rows)) for at in range(count)]
            for shift in range(count):
                order = (np.arange(fixed_rows) + shift) % count
                mixed = self.predictor.run([_taken(part, order) for part in self._samples])
                for place, row in enumerate(order):
                    found = found and all(
                        torch.equal(whole[place], one[0]) for whole, one in zip(mixed, alone[row], strict=True)
                    )
        self._placed[fixed_rows] = found
        return found

    def _warnings(self, work: Work, rows: Sequence[Rows], answers: Answers, start: int, stop: int) -> Iterator[Entry]:
        """What one request should know: its values unlike those of training, its answers that are not finite."""
        for place, part in enumerate(self.predictor.preprocessor.parts):
            whole = rows[place]
            sent, at = (work, "/inputs") if isinstance(work, list) else (work[place].rows, work[place].at)
            codes = None if whole.codes is None else whole.codes[start:stop]
            yield from part.unfamiliar(whole.numbers[start:stop], codes, rows=sent, at=at)
        for name, output in answers.outputs.items():
            yield from _not_finite(name, output[start:stop])


_DOUBLES: Final = ("float16", "bfloat16", "float32", "float64")


def _padded(rows: Sequence[Rows], start: int, stop: int, count: int) -> list[Rows]:
    """Some of the rows, and the last of them again and again until there are `count`."""
    places = np.minimum(np.arange(start, start + count), stop - 1)
    return [_taken(part, places) for part in rows]


def _taken(part: Rows, places: Array) -> Rows:
    codes = None if part.codes is None else part.codes[places]
    return Rows(part.numbers[places], codes, at=part.at, bounded=part.bounded)


def _array(answer: Tensor) -> Array:
    if answer.dtype in (torch.bfloat16, torch.float16):
        answer = answer.float()
    return np.ascontiguousarray(answer.numpy())


def _is_finite(output: Array) -> bool:
    return output.dtype.kind != "f" or surely_within(output) or bool(np.isfinite(output).all())


def _not_finite(name: str, output: Array) -> list[Entry]:
    if output.dtype.kind != "f":
        return []
    count = int(output.size - np.isfinite(output).sum())
    if not count:
        return []
    return [
        Entry(
            "/inputs",
            "not-finite-output",
            f"{count} of {output.size} numbers of {name!r} are not finite; they are answered as null.",
            hint="The inputs may be too large for the net.",
        )
    ]


def _classified(
    preprocessing: Preprocessing, answers: Sequence[Tensor]
) -> tuple[Array | None, list[str] | None, tuple[str, ...] | None]:
    target = preprocessing.target
    if not isinstance(target, ClassTarget) or len(answers) != 1:
        return None, None, None
    logits = answers[0]
    if target.probabilities == "sigmoid":
        second = torch.sigmoid(logits.reshape(len(logits), 1))
        probabilities = torch.cat([1 - second, second], dim=1)
    else:
        probabilities = torch.softmax(logits, dim=1)
    labels = [target.classes[index] for index in probabilities.argmax(dim=1).tolist()]
    return _array(probabilities), labels, target.classes


@dataclass(frozen=True, slots=True)
class Resident:
    """A version that is loaded; `size_bytes` are those of its files."""

    model: str
    version: int
    size_bytes: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class Preflight:
    """What loading a version takes, and what would go for it.

    Args:
        size_bytes: of its files.
        loaded: whether it is already.
        pinned: whether it never goes to make room.
        budget_bytes, loaded_bytes: that may be loaded, and that are.
        evicts: what would go, in this order; where it does not fit, all that could.
        fits: whether there is room, or would be.
    """

    model: str
    version: int
    size_bytes: int
    loaded: bool
    pinned: bool
    budget_bytes: int
    loaded_bytes: int
    evicts: tuple[Resident, ...]
    fits: bool

    def sentence(self) -> str:
        """All of it in words."""
        name = f"{self.model}/{self.version}"
        if self.loaded:
            return f"{name} is loaded; it takes {_told_bytes(self.size_bytes)}."
        gone = ", ".join(f"{one.model}/{one.version}" for one in self.evicts)
        if self.fits:
            rest = f"would evict {gone}" if gone else "evicts nothing"
        else:
            budget = f"the budget of {_told_bytes(self.budget_bytes)}"
            pinned = sum(one.size_bytes for one in self.evicts) < self.loaded_bytes
            rest = f"does not fit into {budget}" + (" beside the versions that are pinned" if pinned else "")
        return f"Loading {name} needs {_told_bytes(self.size_bytes)}, {rest}."


def _told_bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.{0 if count >= 100 * size else 1}f} {unit}"
    return f"{count} bytes"


class _Loading:
    """One load that several callers wait for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.loaded: Loaded | None = None
        self.error: ServiceError | None = None


class Runtime:
    """The versions that this process has loaded.

    Args:
        budget_bytes: bytes of files of loaded versions before the least recently used one is let go.
        warm_rows: forward passes of up to so many rows are tried when a version is loaded, as far as time allows.
    """

    def __init__(self, models: ModelStore, *, budget_bytes: int, metrics: Metrics, warm_rows: int = 1) -> None:
        self._models = models
        self._budget = budget_bytes
        self._warm_rows = warm_rows
        self._metrics = metrics
        self._mutex = threading.Lock()
        self._load_ended = threading.Condition(self._mutex)
        self._coming: dict[object, int] = {}  # the bytes of what is being loaded, or read to be checked
        self._loaded: OrderedDict[tuple[str, int], Loaded] = OrderedDict()
        self._loading: dict[tuple[str, int], _Loading] = {}
        self._trials: OrderedDict[str, tuple[str, Loaded]] = OrderedDict()  # by job: the file's digest, and what it is
        self._trying = threading.Lock()

    @property
    def budget_bytes(self) -> int:
        """Bytes of files of versions that may be loaded."""
        return self._budget

    def get(self, model: str, version: int) -> Loaded:
        """The version, loaded if it is not yet.

        Raises:
            NotFound: there is no such version.
            ModelQuarantined: its files are not the published ones, or its golden rows do not come out again.
            MemoryFull: it does not fit into the budget beside what is pinned, or into the memory.
        """
        key = (model, version)
        with self._mutex:
            loaded = self._loaded.get(key)
            if loaded is not None:
                self._loaded.move_to_end(key)
                return loaded
            loading = self._loading.get(key)
            mine = loading is None
            if loading is None:
                loading = self._loading[key] = _Loading()
        if mine:
            self._load(key, loading)
        else:
            loading.done.wait()
        if loading.error is not None:
            raise loading.error
        assert loading.loaded is not None
        return loading.loaded

    def peek(self, model: str, version: int) -> Loaded | None:
        """The version if it is loaded."""
        key = (model, version)
        with self._mutex:
            loaded = self._loaded.get(key)
            if loaded is not None:
                self._loaded.move_to_end(key)
            return loaded

    def loaded(self) -> list[Loaded]:
        """The versions that are loaded now, the least recently used one first."""
        with self._mutex:
            return list(self._loaded.values())

    def residents(self) -> list[Resident]:
        """The versions that are loaded now, the least recently used one first."""
        pinned = self._models.pins()
        with self._mutex:
            return self._residents(pinned)

    def preflight(self, model: str, version: int) -> Preflight:
        """What loading a version would take; nothing is done.

        Raises:
            NotFound: there is no such version.
        """
        size = self._models.version(model, version).manifest.size_bytes
        pinned = self._models.pins()
        with self._mutex:
            return self._preflight((model, version), size, pinned)

    def check(self, model: str, version: int) -> None:
        """See that a version could be loaded, without keeping it; while it is read, it has a part of the budget.

        Raises:
            NotFound, ModelQuarantined, MemoryFull: it could not.
        """
        if self.peek(model, version) is not None:
            return
        reading = object()
        flight = self._admit((model, version), reading)
        try:
            found = self._attempt(model, version) if flight.fits else _no_room(flight)
        finally:
            with self._mutex:
                self._coming.pop(reading, None)
                self._load_ended.notify_all()
        if isinstance(found, ServiceError):
            raise found

    def trial(self, job_id: str, folder: Path) -> Loaded:
        """The best checkpoint that a job keeps now, loaded if it is not yet; its worker may go on meanwhile.

        Raises:
            NotFound: there is none yet, or none that is whole.
        """
        for _ in range(_LOOKS):
            for one in checkpoints.kept(folder):
                with self._trying:
                    digest, loaded = self._trials.get(job_id, ("", None))
                    if loaded is not None and digest == one.entry["sha256"]:
                        self._trials.move_to_end(job_id)
                        return loaded
                    try:
                        if sha256_file(folder / one.entry["file"])[0] != one.entry["sha256"]:
                            continue
                        predictor, signature = checkpoints.load(one)
                    except (NotFound, FileNotFoundError):
                        continue  # replaced just now
                    source = Trial(job_id, one.step, one.epoch)
                    loaded = Loaded(source, predictor, signature=signature, size_bytes=one.entry["size_bytes"])
                    self._trials[job_id] = (one.entry["sha256"], loaded)
                    while len(self._trials) > _TRIALS:
                        self._trials.popitem(last=False)
                    return loaded
            if not any(folder.glob("*.json")):
                break
            time.sleep(_BETWEEN_LOOKS_S)  # each was replaced between the look at it and its reading
        raise NotFound("The job keeps no checkpoint.")

    def forget(self, model: str, version: int) -> weakref.ref[Loaded] | None:
        """Let a version go; requests in flight keep theirs.

        Returns:
            What dies when the last of them has ended; None if the version was not loaded.
        """
        with self._mutex:
            loaded = self._loaded.pop((model, version), None)
            self._measure()
        if loaded is None:
            return None
        self._metrics.evictions.labels("unloaded").inc()
        _log.info("A version was let go.", action="version_unloaded", model=model, version=version)
        return weakref.ref(loaded)

    def _load(self, key: tuple[str, int], loading: _Loading) -> None:
        started = time.perf_counter()
        outcome = "failed"
        pinned: frozenset[tuple[str, int]] = frozenset()
        found: Loaded | ServiceError
        try:
            flight = self._admit(key, loading)
            if flight.fits:
                found = self._attempt(*key)
                pinned = self._models.pins()
            else:
                found, outcome = _no_room(flight), "refused"
        except ServiceError as error:
            found = error
        except Exception:  # those who wait must be told something
            _log.exception("A version could not be loaded.", action="load_failed", model=key[0], version=key[1])
            found = StoreError("The version cannot be loaded now.")
        if isinstance(found, ServiceError):
            loading.error = found
        else:
            loading.loaded, outcome = found, "ok"
        with self._mutex:
            if loading.loaded is not None:
                self._loaded[key] = loading.loaded
                self._evict(key, pinned)
            self._measure()
            del self._loading[key]
            self._coming.pop(loading, None)
            self._load_ended.notify_all()
        self._metrics.loads.labels(outcome).inc()
        loading.done.set()
        if loading.error is None:
            seconds = time.perf_counter() - started
            self._metrics.load_seconds.observe(seconds)
            _log.info(
                "A version was loaded.",
                action="version_loaded",
                model=key[0],
                version=key[1],
                duration_s=round(seconds, 4),
            )

    def _admit(self, key: tuple[str, int], reading: object) -> Preflight:
        """Take the room that a version needs for `reading` it, which is given back when that has ended.

        Where others that are being loaded have it, this waits for them: once they are loaded, they may go. What would
        not fit without them either is told at once.
        """
        size = self._models.version(*key).manifest.size_bytes
        while True:
            pinned = self._models.pins()
            with self._mutex:
                flight = self._preflight(key, size, pinned)
                stays = sum(each.size_bytes for each in self._residents(pinned) if each.pinned)
                if not flight.fits:
                    return flight
                if size + stays + sum(self._coming.values()) <= self._budget:
                    self._coming[reading] = size
                    return flight
                self._load_ended.wait()

    def _residents(self, pinned: frozenset[tuple[str, int]]) -> list[Resident]:
        """The versions that are loaded now; under the lock."""
        return [Resident(*key, each.size_bytes, key in pinned) for key, each in self._loaded.items()]

    def _preflight(self, key: tuple[str, int], size: int, pinned: frozenset[tuple[str, int]]) -> Preflight:
        """What loading a version of this size would take; under the lock."""
        residents = self._residents(pinned)
        total = sum(each.size_bytes for each in residents)
        loaded = key in self._loaded
        needed = total if loaded else total + size
        evicts = []
        for each in residents:
            if needed <= self._budget or loaded:
                break
            if not each.pinned:
                evicts.append(each)
                needed -= each.size_bytes
        fits = loaded or needed <= self._budget
        return Preflight(*key, size, loaded, key in pinned, self._budget, total, tuple(evicts), fits)

    def _evict(self, loaded: tuple[str, int], pinned: frozenset[tuple[str, int]]) -> None:
        """Let go what was asked longest ago until the budget holds; under the lock. Requests in flight keep theirs."""
        excess = sum(each.size_bytes for each in self._loaded.values()) - self._budget
        for gone in list(self._loaded):
            if excess <= 0:
                break
            if gone != loaded and gone not in pinned:
                excess -= self._loaded.pop(gone).size_bytes
                self._metrics.evictions.labels("budget").inc()
                _log.info("A version was let go.", action="version_evicted", model=gone[0], version=gone[1])

    def _attempt(self, model: str, version: int) -> Loaded | ServiceError:
        """The version, read and checked; or why that cannot be."""
        try:
            return self._read(model, version)
        except InvalidInput as error:  # nothing of the request was looked at yet: the stored files are to blame
            return self._quarantine(model, version, error.message)
        except ServiceError as error:
            return error
        except Exception as error:
            _log.exception("A version could not be loaded.", action="load_failed", model=model, version=version)
            lacking = isinstance(error, OSError) and error.errno in _LACKING
            short = lacking or isinstance(error, MemoryError) or checkpoint.NO_MEMORY.search(str(error)) is not None
            if short:
                return _not_now(error)
            return self._quarantine(model, version, f"it cannot be loaded ({type(error).__name__})")

    def _read(self, model: str, version: int) -> Loaded:
        record = self._models.version(model, version)
        if record.state == "quarantined":
            raise ModelQuarantined(f"Version {version} of {model!r} is quarantined: {record.reason}.")
        assert record.manifest is not None
        folder = self._models.folder(model, version)
        wrong = self._models.verify(model, version)  # each time: between two loads a disk may forget
        if wrong:
            raise self._quarantine(model, version, "its files differ from its manifest: " + ", ".join(wrong))
        predictor = Predictor.load(folder, layout=engines.layout_of(record.manifest.engine))
        golden = checkpoint.load(folder / GOLDEN)
        deviation = predictor.deviation(golden)
        if deviation is not None:
            raise self._quarantine(model, version, f"its golden rows do not come out again: {deviation}")
        try:
            predictor = engines.engaged(predictor, record.manifest, folder, golden)
        except engines.EngineUnusableError as unusable:
            _log.error(
                "The engine of a version cannot be used here; torch serves it.",
                action="engine_unusable",
                model=model,
                version=version,
                reason=str(unusable),
            )
        manifest = record.manifest
        loaded = Loaded(
            manifest,
            predictor,
            signature=manifest.signature,
            size_bytes=manifest.size_bytes,
            samples=rows_of(golden),
        )
        loaded.seconds = predictor.timed(golden)
        predictor.warm(golden, most=self._warm_rows)
        return loaded

    def _quarantine(self, model: str, version: int, reason: str) -> ModelQuarantined:
        _log.error(
            "A version was quarantined.", action="version_quarantined", model=model, version=version, reason=reason
        )
        try:
            self._models.quarantine(model, version, reason)
        except ServiceError:
            pass  # it is refused here all the same; the store may be read-only
        return ModelQuarantined(f"Version {version} of {model!r} is quarantined: {reason}.")

    def _measure(self) -> None:
        self._metrics.loaded_bytes.set(sum(each.size_bytes for each in self._loaded.values()))


def _not_now(error: Exception) -> StoreError:
    """What lacks this moment is no fault of the version's files."""
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        return StoreError(f"The version's files cannot be read now: {os.strerror(error.errno or 0)}.")
    detail = "There is not enough memory to load this version."
    hint = "Unload versions, or give the server more memory."
    return MemoryFull(detail, errors=[Entry("/model", "memory-full", detail, hint=hint)])


def _no_room(flight: Preflight) -> MemoryFull:
    """Nothing that may go would make room."""
    detail = flight.sentence()
    hint = "Unload versions that are pinned, or raise MODELYARD_MODEL_MEMORY_BYTES."
    limit = {"name": "model_memory_bytes", "value": flight.budget_bytes}
    return MemoryFull(detail, errors=[Entry("/model", "memory-full", detail, hint=hint)], limit=limit)
