"""The metrics of several processes of one server as one: each writes down its numbers, and who is asked adds them up.

They are written into memory that is shared from before the processes were forked. So a process that dies takes none of
what it wrote with it, and the one that follows it at its place counts on: no counter ever goes back. Knows the samples
of a registry, and not what they mean.
"""

from __future__ import annotations

import json
import math
import mmap
from array import array
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

BYTES: Final = 16 << 20
"""For each process. Only what is written takes memory, and labels are bounded: a fourth of this holds the most."""
_HEAD: Final = 8
_COUNTED: Final = frozenset({"counter", "histogram", "summary"})
"""Types of metrics that a dead process leaves to its successor; what others tell of is gone with it."""

Name = tuple[str, ...]
"""The metric, the sample, and its labels, each with its value behind it."""

Cell = Any  # a memoryview of one double, which cannot be said before Python 3.12


class Tallies:
    """The samples of several processes. A place is written by one process at a time.

    Args:
        places: how many.
        size: bytes for each.
    """

    def __init__(self, places: int, *, size: int = BYTES) -> None:
        memory = memoryview(mmap.mmap(-1, places * size))  # of this process and those that it will fork
        self._pages = [memory[place * size : (place + 1) * size] for place in range(places)]
        self._found: list[dict[Name, Cell]] = [{} for _ in range(places)]
        self._seen = [_HEAD] * places

    def read(self, place: int) -> dict[Name, Cell]:
        """What stands at a place: one double each, NaN where there is nothing any more."""
        # A record is the length of its name in bytes, a zero, the name, and the number. The page begins with where the
        # last record ends, which is written when that is whole.
        page, found = self._pages[place], self._found[place]
        at, end = self._seen[place], page[:_HEAD].cast("Q")[0]
        while at < end:
            length = page[at : at + 8].cast("Q")[0]
            number = at + 8 + _padded(length)
            name = bytes(page[at + 8 : at + 8 + length]).decode()
            found[tuple(json.loads(name))] = page[number : number + 8].cast("d")
            at = number + 8
        self._seen[place] = at
        return found

    def write(self, place: int, name: Name, value: float) -> bool:
        """Note a number; False where there is no more room."""
        known = self._found[place].get(name)
        if known is not None:
            known[0] = value
            return True
        page, at = self._pages[place], self._seen[place]
        text = json.dumps(name).encode()  # labels are any text: columns have names that clients choose
        number = at + 8 + _padded(len(text))
        if number + 8 > len(page):
            return False
        page[at : at + 8] = memoryview(array("Q", (len(text),))).cast("B")
        page[at + 8 : at + 8 + len(text)] = text
        self._found[place][name] = page[number : number + 8].cast("d")
        self._found[place][name][0] = value
        self._seen[place] = number + 8
        page[:_HEAD].cast("Q")[0] = number + 8
        return True

    @property
    def places(self) -> int:
        """How many processes there are."""
        return len(self._pages)


class Together(Collector):
    """The metrics of a registry, each summed over all processes. For one thread.

    Args:
        own: the metrics of this process.
        place: where this process writes. What its predecessor counted there goes on.
        largest: gauges of which the one farthest from zero is told, instead of the sum.
        on_full: told once how many samples of this process have found no room, and are told to nobody.
    """

    def __init__(
        self,
        tallies: Tallies,
        place: int,
        *,
        own: CollectorRegistry,
        largest: Collection[str] = (),
        on_full: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._tallies = tallies
        self._place = place
        self._own = own
        self._largest = frozenset(largest)
        self._on_full: Callable[[int], None] | None = on_full
        self._before = {name: number[0] for name, number in tallies.read(place).items()}
        self.write()

    def write(self) -> None:
        """Write down what this process has counted by now."""
        self._write()

    def collect(self) -> Iterator[Metric]:
        """The metrics: of this process as they are, of the others as they have last written them down."""
        own = {metric.name: metric for metric in self._write()}
        sums: dict[str, dict[Name, float]] = {name: {} for name in own}
        for place in range(self._tallies.places):
            for (metric, *rest), number in self._tallies.read(place).items():
                values, value, name = sums.get(metric), number[0], tuple(rest)
                if values is None or math.isnan(value):
                    continue
                before = values.get(name, 0.0)
                values[name] = max(before, value, key=abs) if metric in self._largest else before + value
        for known in own.values():
            told = Metric(known.name, known.documentation, known.type, known.unit)
            for (sample, *labels), value in sums[known.name].items():
                told.add_sample(sample, dict(zip(labels[::2], labels[1::2], strict=True)), value)
            yield told

    def _write(self) -> list[Metric]:
        metrics = list(self._own.collect())
        gone = set(self._tallies.read(self._place))
        left_out = 0
        for metric in metrics:
            counted = metric.type in _COUNTED
            for sample in metric.samples:
                if sample.name.endswith("_created"):  # of several processes there is no such time
                    continue
                name = (metric.name, sample.name, *(word for pair in sample.labels.items() for word in pair))
                before = self._before.get(name, 0.0) if counted else 0.0
                left_out += not self._tallies.write(self._place, name, before + sample.value)
                gone.discard(name)
            if counted:  # what only the predecessor has counted stays as it is
                gone = {name for name in gone if name[0] != metric.name}
        for name in gone:
            self._tallies.write(self._place, name, math.nan)
        if left_out and self._on_full is not None:
            self._on_full(left_out)
            self._on_full = None
        return metrics


def _padded(length: int) -> int:
    return (length + 7) // 8 * 8
