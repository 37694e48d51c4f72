"""What readings of interleaved rounds say: medians, ratios with the least and the largest, goals, a Markdown table.

Pure arithmetic: knows no server, no process and no clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Figure = Literal["per_s", "p50_us", "cpu_us"]
"""What two servers are compared by: requests a second, the median time of one, or its processor time."""


@dataclass(frozen=True)
class Reading:
    """What one run of the load generator saw.

    Args:
        per_s: requests answered in a second.
        p50_us, p99_us: microseconds in which half, and 99 of 100, were answered.
        cpu_us: microseconds of processor time that the server's processes took for one.
        failed: answers that were no success, and connections that broke.
    """

    per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    failed: int


@dataclass(frozen=True)
class Goal:
    """Where the ratio of ours to another row's figure must lie, ends included.

    Args:
        least, most: the ends; None where there is none.
        says: what it means, where the ratio itself does not tell.
    """

    least: float | None = None
    most: float | None = None
    says: str = ""

    def met(self, ratio: float) -> bool:
        """Whether the ratio is good enough."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)

    def __str__(self) -> str:
        bounds = [f"≥ {self.least:g}"] if self.least is not None else []
        bounds += [f"≤ {self.most:g}"] if self.most is not None else []
        return ", ".join(bounds) + (f" ({self.says})" if self.says else "")


@dataclass(frozen=True)
class Row:
    """One way into one server, and what was read of it in each round; None where a round failed.

    Args:
        name: as the table says it.
        readings: one for each round.
        door: of ours, which of its two ways it is.
        of: of ours, the variant; "" is the one that all are compared with.
    """

    name: str
    readings: tuple[Reading | None, ...]
    door: str = ""
    of: str = ""


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, the least and the largest."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}–{self.most:.2f})"


def ratio(ours: Sequence[Reading | None], theirs: Sequence[Reading | None], figure: Figure) -> Ratio | None:
    """How ours compares with theirs, round by round; None where no round has both."""
    found = [
        getattr(mine, figure) / getattr(its, figure)
        for mine, its in zip(ours, theirs, strict=True)
        if mine is not None and its is not None and getattr(its, figure) > 0
    ]
    return Ratio(statistics.median(found), min(found), max(found)) if found else None


def markdown(rows: Sequence[Row], goals: Mapping[str, Goal], figure: Literal["per_s", "p50_us"]) -> str:
    """The table of one case.

    Args:
        rows: ours, whose variant is "", are what all others are compared with.
        goals: by the rows' names.
        figure: what is compared.

    Returns:
        Lines of Markdown. A ratio is ours divided by the row's, ✓ or ✗ says whether the goal is met.
    """
    bases = {row.door: row for row in rows if row.door and not row.of}
    word = {"per_s": "requests/s", "p50_us": "p50"}[figure]
    head = ["server", "requests/s", *(f"{door} ÷ it, {word}" for door in bases), "goal"]
    head += ["CPU µs a request", f"CPU, it ÷ {next(iter(bases), 'ours')}", "p50 µs", "p99 µs", "failed"]
    lines = [_line(head), _line(["---", "---:", *("---:" for _ in bases), "---", *["---:"] * 5])]
    first = next(iter(bases.values()), None)
    for row in rows:
        there = [reading for reading in row.readings if reading is not None]
        if not there:
            lines.append(_line([row.name, "none", *[""] * (len(head) - 2)]))
            continue
        goal = goals.get(row.name)
        cells = [row.name, f"{statistics.median(each.per_s for each in there):,.0f}"]
        for door, base in bases.items():
            cells.append(_compared(base, row, goal, figure, door))
        cells.append(str(goal or ""))
        cells += [f"{statistics.median(each.cpu_us for each in there):,.1f}"]
        work = None if first is None or row is first else ratio(row.readings, first.readings, "cpu_us")
        cells += ["" if work is None else f"{work.median:.2f}"]
        cells += [f"{statistics.median(each.p50_us for each in there):,.0f}"]
        cells += [f"{statistics.median(each.p99_us for each in there):,.0f}"]
        cells += [f"{sum(each.failed for each in there):,}"]
        lines.append(_line(cells))
    return "\n".join(lines)


def _compared(base: Row, row: Row, goal: Goal | None, figure: Figure, door: str) -> str:
    """Ours by the row's; a variant of ours is compared with the same door only."""
    if row is base or (row.of and row.door != door):
        return ""
    found = ratio(base.readings, row.readings, figure)
    if found is None:
        return "none"
    return f"{found} {'✓' if goal.met(found.median) else '✗'}" if goal is not None else str(found)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
