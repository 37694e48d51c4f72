"""The reference of the architecture language is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from service.schemas.layers import LAYER_KINDS
from service.schemas.objectives import AnyObjective
from service.schemas.optimizers import AnyOptimizer
from service.schemas.schedulers import AnyScheduler
from service.schemas.steps import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_the_committed_pages_are_what_the_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_every_layer_has_an_example(kind: str) -> None:
    """An example that fits nothing would say nothing: the script tries inputs until one does."""
    entry = re.search(
        rf"^### {kind}\n(.*?)(?=^### |\Z)", (REFERENCE / "layers.md").read_text(), re.DOTALL | re.MULTILINE
    )

    assert entry is not None
    assert re.search(r"^`\{.*\}` (makes|keeps) ", entry[1], re.MULTILINE)


def test_every_objective_optimizer_and_scheduler_has_a_row() -> None:
    page = (REFERENCE / "training.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    unions = (AnyObjective, AnyOptimizer, AnyScheduler)

    assert told == {get_args(kind.model_fields["type"].annotation)[0] for union in unions for kind in get_args(union)}


def test_every_operation_has_a_row_with_a_sentence() -> None:
    page = (REFERENCE / "operations.md").read_text()
    told = dict(re.findall(r"^\| .*?`(\w+)\(.*?` \| (\S.*?) \|", page, re.MULTILINE))

    assert set(OPERATIONS) - set(told) == {"getitem"}  # which is written in brackets
