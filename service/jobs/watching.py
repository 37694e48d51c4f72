"""Looks at a net while it is trained, and keeps what there is to see as one file in the attempt's folder: `seen.json`.

Runs in the worker. Looks take about a fiftieth of the time, change no bit of the training, and end no job: what goes
wrong is said in the log. Knows no queue, no database and no figure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from torch import nn

from service.engine import seen
from service.jobs import reports
from service.jobs.staging import log
from service.schemas.preprocessing import ClassTarget
from service.store.files import write_atomic

FILE: Final = "seen.json"

_SHARE: Final = 0.02
"""Of the time of a training, at most, goes into looking at it; the look at the end is its own."""
_LEAST_S: Final = 0.05
_ROOM: Final = 1.5
"""A look is taken when there is so many times what the last one took: the next may take longer."""
_MOST_S: Final = 2.0
_LAST_LOOK_S: Final = 2.0
_MOST_BYTES: Final = 1_000_000


class Watch:
    """One attempt's looks.

    Args:
        folder: of the attempt.
        scene: what the net is looked at with.
        clock: monotonic seconds.
    """

    def __init__(self, folder: Path, scene: seen.Scene, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / FILE
        self._scene = scene
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._last = 0.0

    def glance(self, module: nn.Module, *, step: int, epoch: int) -> bool:
        """Look at a net that is being trained, if there is time for it; whether there was."""
        now = self._clock()
        left = min(_MOST_S, (now - self._began) * _SHARE - self._spent)
        if left < max(self._last * _ROOM, _LEAST_S):
            return False
        self._keep(module, step=step, epoch=epoch, whole=False, seconds=left)
        self._last = self._clock() - now
        self._spent += self._last
        return True

    def behold(self, module: nn.Module, *, step: int, epoch: int) -> None:
        """Look at a net that is done, whole; its answers have a report of their own."""
        self._keep(module, step=step, epoch=epoch, whole=True, seconds=_LAST_LOOK_S)

    def _keep(self, module: nn.Module, *, step: int, epoch: int, whole: bool, seconds: float) -> None:
        try:
            found, failed = seen.look(self._scene, module, whole=whole, seconds=seconds / 2)
            for section, error in failed.items():
                _lament(step, section, error)
            content: dict[str, Any] = {"format": 1, "step": step, "epoch": epoch, "final": whole, **found}
            if not whole:
                content["report"] = self._report(module, seconds / 2)
            write_atomic(self._path, _bounded(content))
        except Exception as error:  # a picture is worth no job
            _lament(step, "the net", error)

    def _report(self, module: nn.Module, seconds: float) -> dict[str, Any] | None:
        part, told = seen.report(self._scene, module, seconds=seconds)
        if told is None:
            return None
        target = self._scene.preprocessor.document.target
        classes = target.classes if isinstance(target, ClassTarget) else None
        counts = {name: len(rows) for name, rows in self._scene.rows.items()}
        return reports.whole({part: told}, rows=counts, classes=classes)


def _lament(step: int, what: str, error: Exception) -> None:
    said = str(error).partition("\n")[0][:200]
    log(f"At step {step}, {what} could not be drawn ({type(error).__name__}: {said}).")


def _bounded(content: dict[str, Any]) -> bytes:
    """The file's bytes, without the largest sections if they are too many."""
    for name in ("", "features", "images", "decision", "weights"):
        if name in content:
            content["absent"][name] = "It takes too much room to be kept."
            del content[name]
        written = _written(content)
        if len(written) <= _MOST_BYTES:
            break
    return written


def _written(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
