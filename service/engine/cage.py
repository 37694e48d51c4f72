"""The cage: foreign checkpoints are read in a child process that can do little but read its one open file.

The child is this file, started by its path without site-packages, environment or working folder. It has no torch; its
memory, time and output are limited; after its imports it can open nothing more, so neither a file nor a socket, and
start nothing. A child that dies of a limit is a refusal with a reason, like a file that it refuses itself. Knows no
format: that is for `engine/legacy.py`.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

if __name__ == "__main__":  # started by its path, with nothing of ours to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from service.engine import containers, legacy
from service.engine.inspection import Archive, Inspection
from service.errors import CheckpointReason, CheckpointRefused, Entry


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may take.

    Args:
        memory_bytes: of address space, so its resident memory is below.
        cpu_s: of processor time, in whole seconds.
        wall_s: of time until it is ended.
        answer_bytes: of what it tells.
        unpacked_bytes: of weights that it takes out of an archive.
    """

    memory_bytes: int = 100_000_000
    cpu_s: int = 3
    wall_s: float = 20.0
    answer_bytes: int = 16 * 2**20
    unpacked_bytes: int = 8 * 2**30


DEFAULT: Final = Limits()
UNPACKING_S: Final = 300
"""Taking weights out of an archive is work for every byte; it may last so long."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """A file that was read.

    Args:
        inspection: what it holds.
        path: where its tensors lie: the file, or the weights that were taken out of an archive.
        memory_bytes: the most that the child had resident.
        cpu_s: the processor time that it took.
    """

    inspection: Inspection
    path: Path
    memory_bytes: int
    cpu_s: float


def inspect(path: Path, *, scratch: Path, part: str | None = None, limits: Limits = DEFAULT) -> Inspected:
    """Read what a foreign checkpoint holds, in the cage.

    Args:
        path: the file.
        scratch: where the weights of a TorchServe archive are put; a new file, in a folder that is there.
        part: where in a nested checkpoint the weights are; see `legacy.inspect`.
        limits: what the child may take.

    Raises:
        CheckpointRefused: the file is refused, or reading it takes more than the limits.
        OSError: the file cannot be opened, or no child started.
    """
    archive = None
    if _is_archive(path):
        archive = _unpack(path, scratch, limits)
        path = scratch
    with path.open("rb") as file:
        found, usage = _run("inspect", file.fileno(), limits, part=part)
    try:
        inspection = replace(Inspection.from_json(found["inspection"]), archive=archive)
        return Inspected(inspection, path, int(found["memory_bytes"]), usage.ru_utime + usage.ru_stime)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointRefused(_BROKEN, reason="damaged") from error


def _unpack(path: Path, scratch: Path, limits: Limits) -> Archive:
    slow = replace(limits, cpu_s=UNPACKING_S, wall_s=float(UNPACKING_S))
    with path.open("rb") as file, scratch.open("xb") as target:
        try:
            unpacked, _ = _run("unpack", file.fileno(), slow, target=target.fileno())
            members = unpacked["archive"]
            return Archive(**{**members, "refused": tuple(members["refused"])})
        except (KeyError, TypeError) as error:
            scratch.unlink()
            raise CheckpointRefused(_BROKEN, reason="damaged") from error
        except BaseException:
            scratch.unlink()
            raise


def _is_archive(path: Path) -> bool:
    """Whether the file may be a TorchServe archive: every zip that names a manifest is asked of the child."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - containers.MAX_DIRECTORY))
        return b"MAR-INF/MANIFEST.json" in file.read()


_BROKEN: Final = "The file could not be read; the reader ended before it was done."


def _run(
    task: str, descriptor: int, limits: Limits, *, part: str | None = None, target: int | None = None
) -> tuple[dict[str, Any], resource.struct_rusage]:
    """Start a child for a task, and wait for its answer."""
    order = {
        "task": task,
        "part": part,
        "target": target,
        "memory_bytes": limits.memory_bytes,
        "cpu_s": limits.cpu_s,
        "answer_bytes": limits.answer_bytes,
        "unpacked_bytes": limits.unpacked_bytes,
    }
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", __file__, json.dumps(order)],
            stdin=descriptor,
            stdout=writing,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            pass_fds=() if target is None else (target,),
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    in_time = False
    try:
        answer = _answer(reading, limits)
        in_time = answer is not None
    finally:
        os.close(reading)
        # Ended by now, or to be ended; not yet waited for, so the pid is still its own. Children are not reaped by
        # anybody else here: wait4 also tells what the child took.
        if not _has_ended(child.pid, 1.0 if in_time else 0.0):
            child.kill()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if not in_time:
        _refuse_limit(f"reading it took longer than {limits.wall_s:g} s, or told too much")
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        _refuse_limit(f"reading it took more than {limits.cpu_s} s of processor time")
    if child.returncode == -signal.SIGXFSZ:
        _refuse_limit(f"its weights are larger than {limits.unpacked_bytes:,} bytes")
    try:
        found = json.loads(answer or b"")
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(_BROKEN, reason="damaged") from error
    if not isinstance(found, dict):
        raise CheckpointRefused(_BROKEN, reason="damaged")
    if "refused" in found:
        raise _refusal(found["refused"])
    return found, usage


def _answer(descriptor: int, limits: Limits) -> bytes | None:
    """What the child tells; None when it tells too much, or nothing in time."""
    end = time.monotonic() + limits.wall_s
    pieces: list[bytes] = []
    room = limits.answer_bytes
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        piece = os.read(descriptor, 2**20)
        if not piece:
            return b"".join(pieces)
        room -= len(piece)
        if room < 0:
            return None
        pieces.append(piece)


def _has_ended(pid: int, seconds: float) -> bool:
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)


def _refuse_limit(why: str) -> NoReturn:
    raise CheckpointRefused(f"The file was refused: {why}.", reason="too-large")


def _refusal(told: Mapping[str, Any]) -> CheckpointRefused:
    reason: CheckpointReason = told["reason"]
    entries = [Entry(**entry) for entry in told["errors"]]
    return CheckpointRefused(told["message"], reason=reason, errors=entries, more=told["more"], hint=told["hint"])


# The child


def _main(order: dict[str, Any]) -> None:
    """Do one task with the file on descriptor 0, and tell of it on descriptor 1."""
    target = None if order["target"] is None else os.fdopen(order["target"], "wb", buffering=0)
    file = os.fdopen(0, "rb", buffering=0)
    # getrusage would tell the most that the parent had: the measure survives exec. This one is of the program alone.
    status = os.open("/proc/self/status", os.O_RDONLY)
    gc.disable()  # it would walk a million records again and again, and the end of the program frees them all
    _shut(order)
    try:
        if order["task"] == "unpack":
            assert target is not None
            archive = containers.unpack_mar(file, target, limit=order["unpacked_bytes"])
            found: dict[str, Any] = {"archive": asdict(archive)}
        else:
            found = {"inspection": legacy.inspect_file(file, part=order["part"]).to_json()}
        answer = json.dumps({**found, "memory_bytes": _peak(status)}).encode()
        if len(answer) > order["answer_bytes"]:
            raise MemoryError
    except CheckpointRefused as refused:
        answer = json.dumps({"refused": _told(refused)}).encode()
    except (MemoryError, RecursionError):
        found = {}  # gives back what it held, so that there is room for the answer
        told = CheckpointRefused("The file was refused: reading it takes too much memory.", reason="too-large")
        answer = json.dumps({"refused": _told(told)}).encode()
    with os.fdopen(1, "wb", closefd=False) as out:
        out.write(answer)


def _peak(status: int) -> int:
    """The most memory that this program had resident, in bytes."""
    lines = os.pread(status, 4096, 0).decode().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _shut(order: dict[str, Any]) -> None:
    """Close the door: nothing can be opened or started from here on, and little be taken."""
    written = order["unpacked_bytes"] if order["task"] == "unpack" else 0
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, written),
        (resource.RLIMIT_CPU, order["cpu_s"]),
        (resource.RLIMIT_AS, order["memory_bytes"]),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _told(refused: CheckpointRefused) -> dict[str, Any]:
    return {
        "reason": refused.reason,
        "message": refused.message[:2_000],
        "hint": refused.hint,
        "errors": [entry.to_dict() for entry in refused.errors],
        "more": refused.more,
    }


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
