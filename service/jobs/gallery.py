"""The figures of jobs and versions, from a job's events and from the files that its worker or a version left.

Decides what a figure is drawn from and says why there is none. Knows the queue, the folders and the store, and no net:
it loads no tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service import figures
from service.errors import Conflict, Entry, NotFound, shorten
from service.figures import Absent, Curve, Figure, Material, Wish
from service.jobs.queue import Job, JobQueue
from service.jobs.reports import FILE as REPORT
from service.jobs.supervisor import folder_of_job
from service.schemas.document import nearest_hint
from service.schemas.jobs import FINAL
from service.store.models import ModelStore

SEEN = "seen.json"
"""What `jobs/watching` leaves, which this process does not import: it knows tensors."""


class Gallery:
    """The figures of everything in one store.

    Args:
        root: the store's folder.
        queue: its jobs.
        models: its versions.
    """

    def __init__(self, root: Path, *, queue: JobQueue, models: ModelStore) -> None:
        self._root = root
        self._queue = queue
        self._models = models

    def of_job(self, job_id: str) -> list[dict[str, Any]]:
        """The names of the figures of a job, and for each that is not there, why.

        Raises:
            NotFound: there is no such job.
        """
        return figures.listing(self._material(self._queue.get(job_id)))

    def figure_of_job(self, job_id: str, name: str, wish: Wish) -> Figure:
        """A figure of a job.

        Raises:
            NotFound: there is no such job or figure, or it does not apply to this job.
            Conflict: there is nothing to draw yet.
        """
        job = self._queue.get(job_id)
        _require(name)
        return _drawn(name, self._material(job), wish)

    def of_version(self, model: str, number: int) -> list[dict[str, Any]]:
        """The names of the figures of a version: those of the job that made it, as long as that is there.

        Raises:
            NotFound: there is no such version.
        """
        return figures.listing(self._material_of_version(model, number))

    def figure_of_version(self, model: str, number: int, name: str, wish: Wish) -> Figure:
        """A figure of a version.

        Raises:
            NotFound: there is no such version or figure, or it does not apply to this version.
        """
        material = self._material_of_version(model, number)
        _require(name)
        return _drawn(name, material, wish)

    def _material_of_version(self, model: str, number: int) -> Material:
        record = self._models.version(model, number)
        made = Material()
        if record.job_id is not None:
            try:
                made = self._material(self._queue.get(record.job_id))
            except NotFound:  # forgotten
                pass
        report = self._models.document(model, number, REPORT)
        return Material(made.curves, report or made.report, made.seen, trains=made.trains)

    def _material(self, job: Job) -> Material:
        series, _ = self._queue.series(job.id)
        curves = {}
        for name, values in sorted(series.items()):
            steps = sorted(values)
            curves[name] = Curve(steps, [values[step][0] for step in steps], [values[step][1] for step in steps])
        folder = folder_of_job(self._root, job.id)
        folders = [folder / f"attempt-{attempt['number']}" for attempt in reversed(job.attempts)]
        seen = _newest(folders, SEEN)
        report = _newest(folders, REPORT) or (seen or {}).get("report")
        return Material(curves, report, seen, trains=job.kind == "train", goes_on=job.state not in FINAL)


def _newest(folders: Iterable[Path], name: str) -> dict[str, Any] | None:
    for folder in folders:
        try:
            found: dict[str, Any] = json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        return found
    return None


def _require(name: str) -> None:
    known = figures.names()
    if name not in known:
        hint = nearest_hint(name, known) or f"There are: {', '.join(known)}."
        entry = Entry("/path/figure", "not-found", "There is no figure of this name.", hint=hint, got=shorten(name))
        raise NotFound(f"There is no figure {shorten(name)}.", errors=[entry])


def _drawn(name: str, material: Material, wish: Wish) -> Figure:
    found = figures.draw(name, material, wish)
    if not isinstance(found, Absent):
        return found
    if found.yet:
        raise Conflict(found.reason, hint="Ask again when the job has gone on, or ended.")
    hint = "The list of the figures says which there are."
    raise NotFound(found.reason, errors=[Entry("/path/figure", "not-found", found.reason, hint=hint)])
