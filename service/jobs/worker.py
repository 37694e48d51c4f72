"""The child's life: read the task, do it, leave a result or an error as the very last file.

A worker writes events as lines into a file and weights into a staged folder. It never opens the database, never moves
anything into its final place, and ends at once when it is told to by SIGTERM, with its checkpoint kept: whether that
was a cancel or a shutdown is the supervisor's business. It is forked from the warm fork server; nobody imports it but
that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from service.engine import build, bundle, checkpoint, data
from service.engine.train import StopFlag
from service.errors import (
    CheckpointRefused,
    InvalidInput,
    JobFailed,
    ServiceError,
    StoreFull,
)
from service.jobs.imports import import_bundle, import_file, import_weights, publish_again
from service.jobs.measuring import evaluate_version, export_version
from service.jobs.staging import log
from service.jobs.training import Training
from service.schemas import architecture as architectures
from service.schemas.datasets import Source
from service.schemas.judgement import require
from service.store.files import fsync_folder, make_folder, write_atomic

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def warm() -> None:
    """Touch what the first job would otherwise pay for. Runs in the fork server: no backward pass, no thread."""
    from pydantic import TypeAdapter

    TypeAdapter(Source)
    document = architectures.parse(
        {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 1]}],
            "root": {"type": "Sequential", "layers": [{"type": "Linear", "in_features": 1, "out_features": 1}]},
        }
    )
    judged = require(document)
    assert judged.architecture is not None
    with torch.no_grad():
        build.build(judged.architecture)(torch.zeros(1, 1))


def main(folder: Path, *, threads: int) -> int:
    """Do the task in `folder`; the exit status is 0 when a result or an error was left."""
    stop = StopFlag()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the fork server had it wait until now
    last_words = _LastWords(folder / "error.json")
    try:
        torch.set_num_threads(threads)
        task = json.loads((folder / "task.json").read_bytes())
        result = _do(task, folder, stop, threads)
        write_atomic(folder / "result.json", json.dumps(result).encode())
        last_words.forget()
    except BaseException as error:
        failure = _failure(error)
        last_words.say(failure)
        log(f"Failed ({failure['code']}): {failure['detail']}")
        if not isinstance(error, (JobFailed, InvalidInput)):  # those say themselves what is wrong
            with contextlib.suppress(OSError):  # the disk of the log may be full
                traceback.print_exc()
    return 0


class _LastWords:
    """The error file. Its place on the disk is taken at the start, so that a full disk can still be told of."""

    _SIZE: Final = 64 * 1024

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserved = path.with_name(".last-words")
        self._stream = self._reserved.open("wb", buffering=0)
        with contextlib.suppress(OSError):  # if there is not even room for this, the words may be lost
            os.posix_fallocate(self._stream.fileno(), 0, self._SIZE)

    def say(self, failure: Mapping[str, Any]) -> None:
        """Leave the error, whole or not at all."""
        words = json.dumps(failure).encode()
        self._stream.write(words)
        self._stream.truncate(len(words))
        os.fsync(self._stream.fileno())
        self._reserved.replace(self._path)
        fsync_folder(self._path.parent)

    def forget(self) -> None:
        """There is nothing to say."""
        self._stream.close()
        self._reserved.unlink()


def _do(task: dict[str, Any], folder: Path, stop: StopFlag, threads: int) -> dict[str, Any]:
    match task["kind"]:
        case "dataset":
            return _read_dataset(task, folder)
        case "train":
            training = Training(task, folder, stop, threads)
            return training.rehearse(task["rehearse_s"]) if "rehearse_s" in task else training.run()
        case "import":
            if "checkpoint_of" in task["spec"]:
                return Training(task, folder, stop, threads).publish()
            if task["spec"].get("model") is not None:
                return publish_again(task, folder, threads)
            if "upload" not in task:
                return import_weights(task, folder, threads)
            whole = bundle.recognises(Path(task["upload"]))
            return import_bundle(task, folder, threads) if whole else import_file(task, folder, threads)
        case "evaluate":
            return evaluate_version(task, folder, threads)
        case "export":
            return export_version(task, folder, threads)
        case kind:
            raise ValueError(f"no worker knows the kind {kind!r}")


def _failure(error: BaseException) -> dict[str, Any]:
    """An exception as a job's error, with a code from the closed list."""
    if isinstance(error, JobFailed):
        return error.to_dict()
    text = str(error)
    if isinstance(error, CheckpointRefused):
        return JobFailed(
            error.failure, error.message, hint=error.hint, reason=error.reason, errors=error.errors, more=error.more
        ).to_dict()
    if isinstance(error, InvalidInput):
        return JobFailed("data_error", error.message, errors=error.errors, more=error.more).to_dict()
    if isinstance(error, MemoryError) or checkpoint.NO_MEMORY.search(text):
        return JobFailed(
            "out_of_memory",
            "The job needs more memory than a worker may take.",
            hint="Use a smaller batch_size or net, or allow more by MODELYARD_JOB_MEMORY_BYTES.",
        ).to_dict()
    if isinstance(error, StoreFull) or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        return JobFailed("disk_full", "The disk of the store is full.").to_dict()
    if isinstance(error, ServiceError):
        return JobFailed("internal", error.message, errors=error.errors, more=error.more).to_dict()
    return JobFailed(
        "internal", f"The worker met a fault ({type(error).__name__}); its output has the details."
    ).to_dict()


# -- datasets -------------------------------------------------------------------------------------------------------


def _read_dataset(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    from pydantic import TypeAdapter

    staged = folder / "staged"
    make_folder(staged)
    source: Any = TypeAdapter(Source).validate_python(task["source"])
    uploads = {member: Path(path) for member, path in task["uploads"].items()}
    manifest = data.materialize(source, staged, uploads=uploads, at=task["at"])
    return {"outcome": "done", "manifest": manifest.model_dump(mode="json")}
