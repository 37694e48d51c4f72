"""A net as a table of text: each layer with its type, output shape and parameters, and what all of it costs.

Reads the summary that the judge makes; knows no document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

_HEAD: Final = ("Layer", "Type", "Output shape", "Parameters")


def table(summary: Mapping[str, Any]) -> str:
    """The table.

    Args:
        summary: `Judgement.summary`.
    """
    rows = [
        (layer["path"] or "(the net)", layer["type"], shape_text(layer["output_shape"]), f"{layer['parameters']:,}")
        for layer in summary["layers"]
    ]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    rule = "─" * (sum(widths) + 3 * (len(widths) - 1))
    lines = [_line(_HEAD, widths), rule, *(_line(row, widths) for row in rows), rule, *_totals(summary)]
    return "\n".join(lines) + "\n"


def shape_text(shape: Any) -> str:
    """A shape, or several, as people write it: `[B, 3, 32, 32]`."""
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        return "[" + ", ".join(map(shape_text, shape)) + "]"
    return str(shape)


def size_text(count: int) -> str:
    """Bytes in the unit that fits: `527.8 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}" if unit != "B" else f"{count} B"
        size /= 1024
    return f"{size:.1f} GiB"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    *texts, number = cells
    left = [text.ljust(width) for text, width in zip(texts, widths, strict=False)]
    return "   ".join([*left, number.rjust(widths[-1])]).rstrip()


def _totals(summary: Mapping[str, Any]) -> list[str]:
    tensors = {
        kind: "; ".join(f"{item['name']} {shape_text(item['shape'])} {item['dtype']}" for item in summary[kind])
        for kind in ("inputs", "outputs")
    }
    facts = (
        ("Inputs", tensors["inputs"]),
        ("Outputs", tensors["outputs"]),
        ("Parameters", f"{summary['parameters']:,} ({summary['trainable_parameters']:,} trainable)"),
        ("FLOPs for a row", f"{summary['flops']:,}"),
        ("Memory for a row", size_text(summary["memory_bytes"])),
    )
    width = max(len(name) for name, _ in facts)
    return [f"{name.ljust(width)}   {value}" for name, value in facts]
