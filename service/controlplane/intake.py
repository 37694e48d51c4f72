"""Datasets of what clients send: made of a source, shared by the jobs that bring the same one, looked at.

Files are read in a process of their own. Knows no net and no HTTP.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from service.engine import data, profile
from service.errors import (
    MAX_ENTRIES,
    Busy,
    Conflict,
    DatabaseBusy,
    DatasetRefused,
    Draining,
    Entry,
    NotFinite,
    NotFound,
    ServiceError,
    StoreError,
    shorten,
)
from service.jobs.launchers import Launcher, sweep
from service.schemas.datasets import DatasetManifest, DatasetRequest, uploads_of
from service.schemas.document import digest, pointer
from service.store.datasets import DatasetRecord, DatasetStore, not_ready_hint
from service.store.files import remove_tree, write_atomic
from service.store.idempotency import IdempotencyKey
from service.store.uploads import UploadStore
from service.telemetry import log

_log = log(__name__)
_READ_TIMEOUT_S: Final = 600.0
_LONGER_S: Final = 60.0
"""What starting and ending a reader may take beside."""
_AGAIN_S: Final = 0.5
_OF_COLUMNS: Final = {"inputs", "kept", "free_text", "shape", "classes", "missing"}
"""Members of a source that choose no row, and no target."""


class Intake:
    """Makes datasets; uploaded files are read in a process of their own.

    Args:
        memory_bytes: what that process may take.
    """

    def __init__(self, datasets: DatasetStore, uploads: UploadStore, launcher: Launcher, *, memory_bytes: int) -> None:
        self.datasets = datasets
        self.uploads = uploads
        self._launcher = launcher
        self._memory_bytes = memory_bytes
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="dataset-reader")
        self._making: dict[str, Future[DatasetRecord]] = {}
        self._making_mutex = threading.Lock()
        self._closing = threading.Event()

    def close(self) -> None:
        """End the readers; what is half read is swept at the next start."""
        self._closing.set()
        self._readers.shutdown(cancel_futures=True)

    def add(
        self, request: DatasetRequest, *, idempotency: IdempotencyKey | None = None
    ) -> tuple[DatasetRecord, Future[None] | None, bool]:
        """Begin to make a dataset of a source: its record, what to wait for where an uploaded file is being read (in
        a process of its own), and whether it is new. The same Idempotency-Key gets the dataset that it made before.

        Raises:
            DatasetRefused: the source cannot be read; of an upload, the future raises it.
        """
        if idempotency is not None:
            earlier = self.datasets.made_by(idempotency)
            if earlier is not None:
                return earlier, None, False
        record, reading = self._begin(request.source, name=request.name, at="/source", idempotency=idempotency)
        return record, reading, True

    def of_job(self, source: str | Any, *, at: str) -> DatasetRecord:
        """The ready dataset that a job names or brings."""
        if isinstance(source, str):
            try:
                record = self.datasets.get(source)
            except NotFound as error:
                raise error.at(at) from None
        else:
            record = self._shared(source, at=at)
        if record.state == "processing":
            raise _still_read(at)
        if record.state != "ready" or record.manifest is None:
            raise Conflict(
                "The dataset could not be read.",
                errors=[
                    Entry(
                        at,
                        "conflict",
                        str((record.error or {}).get("detail", "It could not be read.")),
                        hint="Mend the file, upload it again and make another dataset.",
                    )
                ],
            )
        return record

    def _shared(self, source: Any, *, at: str) -> DatasetRecord:
        """The dataset of a source that jobs bring: made by the first of them, and shared with all others."""
        found = _source_digest(source, at=at)
        with self._making_mutex:
            known = self.datasets.find(found)
            if known is not None:
                return known
            making = self._making.get(found)
            mine = making is None
            if making is None:
                making = self._making[found] = Future()
        if not mine:
            return making.result()  # whoever makes it does not wait for ever
        try:
            record, reading = self._begin(source, name=None, at=at)
            if reading is not None:
                _await(reading, at=at)
                record = self.datasets.get(record.id)
            making.set_result(record)
        except BaseException as error:
            making.set_exception(error)
            raise
        finally:
            with self._making_mutex:
                del self._making[found]
        return record

    def _begin(
        self, source: Any, *, name: str | None, at: str, idempotency: IdempotencyKey | None = None
    ) -> tuple[DatasetRecord, Future[None] | None]:
        uploads = {}
        for member, upload in uploads_of(source).items():
            try:
                uploads[member] = self.uploads.path(upload)
            except NotFound as error:
                raise error.at(f"{at}/{member}") from None
        source_digest = _source_digest(source, at=at)
        rows_digest = self._rows_digest(source)
        record = self.datasets.begin(
            name, source.model_dump(mode="json", exclude_unset=True), source_digest, idempotency=idempotency
        )
        if uploads:
            return record, self._readers.submit(self._read, record.id, source, uploads, rows_digest, at)
        try:
            _, staged = self.datasets.stage()
            try:
                manifest = data.materialize(source, staged, at=at)
                return self.datasets.commit(record.id, staged, manifest), None
            finally:
                remove_tree(staged)
        except BaseException:
            self._discard(record.id)
            raise

    def _discard(self, dataset_id: str) -> None:
        try:
            self.datasets.discard(dataset_id)
        except DatabaseBusy:
            with contextlib.suppress(RuntimeError):  # the server stops, and the next start sees to it
                self._readers.submit(self._insist, partial(self.datasets.discard, dataset_id))

    def _read(self, dataset_id: str, source: Any, uploads: Mapping[str, Path], rows_digest: str, at: str) -> None:
        """In a thread: have a worker read the uploads. What goes wrong is noted in the dataset's record, and raised."""
        try:
            _, staged = self.datasets.stage()
            try:
                found = self._have_read(staged, source, uploads, at)
                if isinstance(found, DatasetManifest):
                    found = found.model_copy(update={"rows_digest": rows_digest})
                    self._insist(partial(self.datasets.commit, dataset_id, staged / "staged", found))
                    return
            finally:
                sweep(staged)
        except Busy:  # the server stops, and the next start says so in the record
            raise
        except ServiceError as error:
            self._fail(dataset_id, {"code": error.code, "detail": error.message})
            raise
        except Exception as error:
            detail = "The server met a fault while it read this; its log has the details."
            if isinstance(error, OSError):
                detail = "The reader could not be started."
            _log.exception("A dataset could not be read.", action="dataset_fault", dataset=dataset_id)
            self._fail(dataset_id, {"code": "internal", "detail": detail})
            raise StoreError(detail) from error
        self._fail(dataset_id, found)
        entries = [Entry(**entry) for entry in found.get("errors", [])]
        raise DatasetRefused(found["detail"], errors=entries, more=found.get("more", 0))

    def _rows_digest(self, source: Any) -> str:
        """Equal for sources that take the same rows and the same target of the same files, with whatever columns."""
        members = source.model_dump(mode="json", exclude=_OF_COLUMNS)
        members |= {member: self.uploads.get(upload).digest for member, upload in uploads_of(source).items()}
        return digest(orjson.dumps(members, option=orjson.OPT_SORT_KEYS))

    def _have_read(
        self, staged: Path, source: Any, uploads: Mapping[str, Path], at: str
    ) -> DatasetManifest | dict[str, Any]:
        """What a worker has put into `staged`; or what it says is wrong, as an error."""
        task = {
            "kind": "dataset",
            "source": source.model_dump(mode="json"),
            "uploads": {member: str(path) for member, path in uploads.items()},
            "at": at,
        }
        write_atomic(staged / "task.json", json.dumps(task).encode())
        handle = self._launcher.launch(staged, threads=1, memory_bytes=self._memory_bytes)
        deadline = time.monotonic() + _READ_TIMEOUT_S
        while not handle.ended(0.1):
            if self._closing.is_set() or time.monotonic() > deadline:
                handle.signal(signal.SIGKILL)
        handle.close()
        if self._closing.is_set():
            raise Draining("The server stopped while it read this.")
        result = staged / "result.json"
        if result.exists():
            return DatasetManifest.model_validate(json.loads(result.read_bytes())["manifest"])
        error = staged / "error.json"
        if error.exists():
            refusal: dict[str, Any] = json.loads(error.read_bytes())
            return refusal
        return {
            "code": "data_error",
            "detail": "The reader ended before it was done: the file may need too much memory or time.",
        }

    def _fail(self, dataset_id: str, error: Mapping[str, Any]) -> None:
        with contextlib.suppress(Conflict, NotFound):  # it was deleted meanwhile
            self._insist(partial(self.datasets.fail, dataset_id, error))

    def _insist(self, act: Callable[[], object]) -> None:
        """Do what the database may be too busy for, until it is done or the server stops.

        Raises:
            DatabaseBusy: the server stops.
        """
        while True:
            try:
                act()
                return
            except DatabaseBusy:
                if self._closing.wait(_AGAIN_S):
                    raise

    def preview(self, dataset_id: str, *, limit: int) -> dict[str, Any]:
        """The first rows of a dataset."""
        record = self._ready(dataset_id)
        return profile.preview(self.datasets.folder(dataset_id), record, limit=limit)

    def profile(self, dataset_id: str) -> dict[str, Any]:
        """Type, range, missing values and histogram of each column."""
        record = self._ready(dataset_id)
        return profile.profile(self.datasets.folder(dataset_id), record)

    def _ready(self, dataset_id: str) -> DatasetManifest:
        record = self.datasets.get(dataset_id)
        if record.manifest is None:
            raise Conflict(f"The dataset is {record.state}.", hint=not_ready_hint(record.state))
        return record.manifest


def _still_read(at: str) -> Conflict:
    return Conflict(
        "The dataset is still being read.",
        errors=[
            Entry(
                at,
                "conflict",
                "The dataset is still being read.",
                hint="Wait until its state is ready, then post the job again.",
                expected="a dataset in the state ready",
                got="processing",
            )
        ],
    )


def _await(reading: Future[None], *, at: str) -> None:
    """Wait for the end of a reading; longer than the reader may take, whose own end says more."""
    try:
        reading.result(_READ_TIMEOUT_S + _LONGER_S)
    except TimeoutError:
        raise _still_read(at) from None  # others were before it
    except CancelledError:
        raise Draining("The server stopped before it read this.") from None


def _source_digest(source: Any, *, at: str) -> str:
    """Equal sources have equal digests; inline rows may be megabytes, so this is not the (slow) canonical form.

    Raises:
        NotFinite: a whole number has more than 64 bits.
    """
    document = source.model_dump(mode="json")
    try:
        return digest(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))
    except TypeError:
        wide = [
            Entry(place, "not-finite", "This whole number does not fit into 64 bits.", got=shorten(number))
            for place, number in _wide(document, at)
        ]
        if not wide:
            raise
        raise NotFinite(errors=wide[:MAX_ENTRIES], more=len(wide[MAX_ENTRIES:])) from None


def _wide(value: Any, at: str) -> Iterator[tuple[str, int]]:
    """The whole numbers that have more than 64 bits, each with its place."""
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            yield at, value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _wide(member, pointer([name], at))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _wide(member, f"{at}/{index}")
