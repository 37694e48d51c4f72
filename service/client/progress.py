"""A job's events as a bar for people, in a terminal or a notebook. Knows no request."""

from __future__ import annotations

from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from service.schemas.views import EventView

_SHOWN = ("loss", "val_loss", "val_accuracy", "val_r2")


class Bar:
    """Call it with each event; a context manager."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        where = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=where,
            transient=True,
            disable=not (where.is_terminal or (where.is_jupyter and find_spec("ipywidgets") is not None)),
        )
        self._task = self._progress.add_task("queued", total=1.0, note="", eta="")
        self._told: dict[str, float | None] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: EventView) -> None:
        """Show what the event says."""
        change: dict[str, Any] = {}
        if event.type == "state":
            change["description"] = str(event.data.get("state", ""))
        elif event.type == "progress":
            fraction, eta = event.data.get("fraction"), event.data.get("eta_s")
            change["completed"] = fraction
            change["eta"] = "" if eta is None else f"{eta:.0f} s left"
        elif event.type == "metrics":
            self._told |= event.data.get("last") or {}
            shown = [f"{name} {self._told[name]:.4g}" for name in _SHOWN if self._told.get(name) is not None]
            change["note"] = "  ".join(shown)
        elif event.type == "done":
            change |= {"completed": 1.0, "eta": ""}
        if change:
            self._progress.update(self._task, **change)
