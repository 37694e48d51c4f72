"""Writes the notebooks of examples/ from the scripts beside them, whose cells begin with `# %%`: one source for both.

`scripts/notebooks.py` writes them anew, `--check` only says whether they are out of date. scripts/fix calls it. The
notebooks hold no outputs; a test runs them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts() -> list[Path]:
    """The scripts that are notebooks too."""
    return sorted(EXAMPLES.glob("*.py"))


def notebook(script: Path) -> str:
    """The notebook of a script, as text: the same for the same script."""
    found = jupytext.read(script, fmt="py:percent")
    found.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for place, cell in enumerate(found.cells):
        cell["id"] = f"{script.stem}-{place}"
    text: str = jupytext.writes(found, fmt="ipynb")
    return text.rstrip("\n") + "\n"


def main(*arguments: str) -> int:
    """Write all of them, or say which are old."""
    stale = [script for script in scripts() if _text(script.with_suffix(".ipynb")) != notebook(script)]
    for script in stale:
        if "--check" in arguments:
            print(f"{script.stem}.ipynb is not what its script says: run scripts/fix.", file=sys.stderr)
        else:
            script.with_suffix(".ipynb").write_text(notebook(script), encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
