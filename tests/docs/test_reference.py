"""The reference is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import httpx
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
        [sys.executable, "scripts/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120
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


def test_every_operation_of_a_server_has_a_section_and_a_row(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    operations = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    told = [page.read_text() for page in (REFERENCE / "http").glob("*.md")]

    assert {
        found for page in told for found in re.findall(r"^## ((?:GET|POST|PUT|PATCH|DELETE) .*)$", page, re.MULTILINE)
    } == operations
    assert set(re.findall(r"^\| \[`(.*?)`\]", (REFERENCE / "http.md").read_text(), re.MULTILINE)) == operations


def test_every_metric_of_a_server_has_a_row_with_its_type(client: httpx.Client) -> None:
    answered = re.findall(r"^# TYPE (\w+) (\w+)$", client.get("/metrics").text, re.MULTILINE)
    families = {name: kind for name, kind in answered if not name.endswith("_created")}  # the moments that series began
    page = (REFERENCE / "metrics.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))

    assert families.items() <= told.items()
