"""What a training or an evaluation says of a net's answers: whole for the figures, short for the job's record.

The whole is `report.json`: in the attempt's folder, and among the files of a version. Knows no queue and no database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

FILE: Final = "report.json"

MOST_ROWS: Final = 20_000
"""Of a part with more rows so many, evenly chosen, are looked at."""
_MOST_NUMBERS: Final = 2**25
"""What the answers to these rows may be together; rows of images for answers are fewer."""
_LARGEST_MATRIX: Final = 100
_LARGEST_TABLE_TOLD: Final = 20


def rows_for(output: Sequence[int | str]) -> int:
    """How many rows a report looks at, by the shape of the net's output."""
    return max(1, min(MOST_ROWS, _MOST_NUMBERS // math.prod(size for size in output if isinstance(size, int))))


def whole(
    parts: Mapping[str, Mapping[str, Any] | None], *, rows: Mapping[str, int], classes: Sequence[str] | None
) -> dict[str, Any]:
    """The content of `report.json`.

    Args:
        parts: by the name of a part of the rows, what `evaluate.report` gives.
        rows: how many rows each part has.
        classes: names, in the order of the indices by which parts tell of classes.

    Returns:
        Plain data in which every number is finite, with six digits; matrices of more than a hundred classes are left
        out. A part that nothing can be said of is not there.
    """
    found = {}
    for name, part in parts.items():
        if part is None:
            continue
        kept = {key: value for key, value in part.items() if key != "confusion" or len(value) <= _LARGEST_MATRIX}
        found[name] = {**_rounded(kept), "of_rows": rows[name]}
    return {"format": 1, "classes": None if classes is None else list(classes), "parts": found}


def content(report: Mapping[str, Any]) -> bytes:
    """The bytes of `report.json`."""
    return json.dumps(report, allow_nan=False, separators=(",", ":")).encode()


def short(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the job's record has of it: without the points of curves, and without tables of more than 20 classes."""
    parts = {}
    for name, part in report["parts"].items():
        told = {key: value for key, value in part.items() if key != "points"}
        for key in ("confusion", "per_class"):
            if len(told.get(key, ())) > _LARGEST_TABLE_TOLD:
                del told[key]
        if "roc" in told:
            told["roc"] = [{"class": curve["class"], "auc": curve["auc"]} for curve in told["roc"]]
        parts[name] = told
    return {**report, "parts": parts}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
