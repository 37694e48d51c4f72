"""Datasets of what clients send: made of a source, shared by the jobs that bring the same one, looked at.

Files are read in a process of their own. Knows no net and no HTTP.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import orjson

from service.engine import data, profile
from service.errors import Conflict, DatasetRefused, Draining, Entry, NotFound, StoreError
from service.jobs.launchers import Launcher, sweep
from service.schemas.datasets import DatasetManifest, DatasetRequest, uploads_of
from service.schemas.document import digest
from service.store.datasets import DatasetRecord, DatasetStore, not_ready_hint
from service.store.files import remove_tree, write_atomic
from service.store.idempotency import IdempotencyKey
from service.store.uploads import UploadStore

_READ_TIMEOUT_S: Final = 600.0


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
            raise Conflict(
                "The dataset is still being read.",
                errors=[
                    Entry(
                        at,
                        "conflict",
                        "The dataset is still being read.",
                        hint="Wait until its state is ready, then post the job again.",
                        expected="a dataset in the state ready",
                        got=record.state,
                    )
                ],
            )
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
        found = _source_digest(source)
        with self._making_mutex:
            known = self.datasets.find(found)
            if known is not None:
                return known
            making = self._making.get(found)
            mine = making is None
            if making is None:
                making = self._making[found] = Future()
        if not mine:
            return making.result(_READ_TIMEOUT_S)
        try:
            record, reading = self._begin(source, name=None, at=at)
            if reading is not None:
                reading.result(_READ_TIMEOUT_S)
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
        record = self.datasets.begin(
            name, source.model_dump(mode="json", exclude_unset=True), _source_digest(source), idempotency=idempotency
        )
        if uploads:
            return record, self._readers.submit(self._read, record.id, source, uploads, at)
        try:
            _, staged = self.datasets.stage()
            try:
                manifest = data.materialize(source, staged, at=at)
                return self.datasets.commit(record.id, staged, manifest), None
            finally:
                remove_tree(staged)
        except BaseException:
            self.datasets.discard(record.id, idempotency=idempotency)
            raise

    def _read(self, dataset_id: str, source: Any, uploads: Mapping[str, Path], at: str) -> None:
        """In a thread: have a worker read the uploads; what it says is wrong becomes our error."""
        _, staged = self.datasets.stage()
        try:
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
                raise Draining("The server stopped while it read this.")  # the next start says so in the record
            result = staged / "result.json"
            if result.exists():
                manifest = DatasetManifest.model_validate(json.loads(result.read_bytes())["manifest"])
                self.datasets.commit(dataset_id, staged / "staged", manifest)
                return
            error = staged / "error.json"
            found = json.loads(error.read_bytes()) if error.exists() else None
            if found is None:
                found = {
                    "code": "data_error",
                    "detail": "The reader ended before it was done: the file may need too much memory or time.",
                }
            self.datasets.fail(dataset_id, found)
            entries = [Entry(**entry) for entry in found.get("errors", [])]
            raise DatasetRefused(found["detail"], errors=entries, more=found.get("more", 0))
        except StoreError as error:
            self.datasets.fail(dataset_id, {"code": error.code, "detail": error.message})
            raise
        except OSError as error:
            self.datasets.fail(dataset_id, {"code": "internal", "detail": "The reader could not be started."})
            raise StoreError("The reader could not be started.") from error
        finally:
            sweep(staged)

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


def _source_digest(source: Any) -> str:
    """Equal sources have equal digests; inline rows may be megabytes, so this is not the (slow) canonical form."""
    return digest(orjson.dumps(source.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS))
