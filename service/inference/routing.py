"""Aliases that do more than point, at serving: who answers, whom the guard takes back, how shadows differ.

Plain decisions over what they are told; they know no model, no clock and no store.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from service.schemas.routing import Guard, Routing

_RELATIVE: Final = 1e-4
_ABSOLUTE: Final = 1e-6
"""Numbers further apart than this disagree; float32 sums in another order stay within it."""


def choose(version: int, routing: Routing, draw: float) -> int:
    """The version that answers: the canary for its share of the draws.

    Args:
        version: where the alias points.
        draw: evenly from [0, 1).
    """
    canary = routing.canary
    return canary.version if canary is not None and draw * 100 < canary.percent else version


class Watch:
    """One version under a guard: its last answers, and whether they are bad enough. Safe in threads."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._last: deque[tuple[bool, float]] = deque(maxlen=guard.requests)
        self._failed = 0
        self._seconds = 0.0
        self._mutex = threading.Lock()

    def note(self, *, failed: bool, seconds: float) -> str | None:
        """Take an answer into account.

        Args:
            failed: by no mistake of the client's.
            seconds: from the request to its answer.

        Returns:
            Why the version should be taken back; None while it should not.
        """
        guard = self._guard
        with self._mutex:
            if len(self._last) == guard.requests:
                gone, took = self._last[0]
                self._failed -= gone
                self._seconds -= took
            self._last.append((failed, seconds))
            self._failed += failed
            self._seconds += seconds
            count = len(self._last)
            if count < guard.requests:
                return None
            mean = self._seconds / count
            if guard.error_rate is not None and self._failed / count > guard.error_rate:
                return f"{self._failed} of the last {count} answers failed; the guard allows {guard.error_rate:g}."
            if guard.latency_s is not None and mean > guard.latency_s:
                return f"The last {count} answers took {mean:.4g} s on average; the guard allows {guard.latency_s:g}."
            return None


@dataclass(slots=True)
class Comparison:
    """What a shadow made of the rows that it got, against who answered them. Safe in threads."""

    requests: int = 0
    rows: int = 0
    disagreeing: int = 0
    largest_difference: float = 0.0
    failed: int = 0
    dropped: int = 0
    _mutex: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, answered: Mapping[str, Any], labels: Any, shadow: Mapping[str, Any], shadow_labels: Any) -> None:
        """Compare two answers to the same rows: by label where both have labels, else number by number.

        Args:
            answered: arrays [N, …] by output name, of who answered.
            labels: its N labels, or None.
            shadow: the shadow's outputs.
            shadow_labels: its labels, or None.
        """
        rows = len(next(iter(answered.values())))
        apart = np.zeros(rows, dtype=bool)
        largest = 0.0
        for name, values in answered.items():
            other = shadow.get(name)
            if other is None or other.shape != values.shape:
                apart[:] = True
                continue
            mine, theirs = np.asarray(values, np.float64), np.asarray(other, np.float64)
            close = np.isclose(mine, theirs, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True)
            apart |= ~close.reshape(rows, -1).all(axis=1)
            with np.errstate(invalid="ignore"):
                distance = np.abs(mine - theirs)
            finite = distance[np.isfinite(distance)]
            largest = max(largest, float(finite.max(initial=0.0)))
        if labels is not None and shadow_labels is not None:
            apart = np.asarray([a != b for a, b in zip(labels, shadow_labels, strict=True)], dtype=bool)
        with self._mutex:
            self.requests += 1
            self.rows += rows
            self.disagreeing += int(apart.sum())
            self.largest_difference = max(self.largest_difference, largest)

    def failure(self) -> None:
        """The shadow could not answer what the other answered."""
        with self._mutex:
            self.failed += 1

    def drop(self) -> None:
        """A request was not shadowed, for there was no room."""
        with self._mutex:
            self.dropped += 1

    def view(self) -> dict[str, Any]:
        """As the API shows it."""
        with self._mutex:
            share = self.disagreeing / self.rows if self.rows else None
            return {
                "requests": self.requests,
                "rows": self.rows,
                "disagreeing_rows": self.disagreeing,
                "disagreement": share,
                "largest_difference": self.largest_difference,
                "failed": self.failed,
                "dropped": self.dropped,
            }
