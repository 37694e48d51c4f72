"""What the pages about architectures promise: printed nets, numbers of parameters, and the answers to mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engine import build
from service.schemas.architecture import state_rows
from service.schemas.judgement import judge, require

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
FROM_PRINT = (GUIDE / "architectures.md").read_text()
SIX_NETS = (GUIDE / "example-nets.md").read_text()


def printed_nets() -> Iterator[Any]:
    """Every printed net of the guide with the document that follows it."""
    found = re.finditer(
        r"^```text\n(\w+)(\(\n.*?)^```\n(.*?)^```json\n(.*?)^```$", FROM_PRINT, re.DOTALL | re.MULTILINE
    )
    for one in found:
        yield pytest.param(one[1] + one[2], json.loads(one[4]), id=one[1])


@pytest.mark.parametrize(("printed", "document"), list(printed_nets()))
def test_the_document_builds_the_net_that_is_printed_above_it(printed: str, document: dict[str, Any]) -> None:
    architecture = require(document).architecture
    assert architecture is not None

    shown = str(build.build(architecture))

    # newer releases of torch tell of a BatchNorm's bias
    assert shown.replace(", bias=True, track_running_stats", ", track_running_stats") + "\n" == printed


def test_three_nets_are_printed() -> None:
    assert len(list(printed_nets())) == 3


def rows(page: str, columns: int) -> Iterator[list[str]]:
    """The rows of a page's tables that have so many columns, without their heads."""
    for block in re.findall(r"^\|.*?(?=^[^|]|\Z)", page, re.DOTALL | re.MULTILINE):
        for line in block.splitlines()[2:]:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == columns:
                yield cells


WRONG_LINES = [
    pytest.param(line.strip("`"), answer, id=line.strip("`")) for line, answer in rows(FROM_PRINT, 2) if answer
]


@pytest.mark.parametrize(("line", "answer"), WRONG_LINES)
def test_a_line_that_is_not_in_the_language_gets_the_answer_of_the_guide(line: str, answer: str) -> None:
    judged = judge(
        {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", 20, 4, 4]}],
            "root": {
                "type": "Graph",
                "layers": [{"name": "head", "type": "Linear", "in_features": 320, "out_features": 10}],
                "forward": [line],
            },
        }
    )

    told = [" ".join(filter(None, (entry.detail, entry.hint))) for entry in judged.errors]
    assert answer in told


def promised_nets() -> Iterator[Any]:
    """Every document of the page of nets with its heading and the row of the table that is about it."""
    promised = {re.sub(r"\[(.*?)\]\(.*\)", r"\1", name): numbers for name, *numbers in rows(SIX_NETS, 4)}
    for heading, document in re.findall(r"^## (.*?)\n.*?^```json\n(.*?)^```$", SIX_NETS, re.DOTALL | re.MULTILINE):
        yield pytest.param(json.loads(document), *promised.pop(heading), id=heading)
    assert not promised


@pytest.mark.parametrize(("document", "parameters", "tensors", "output"), list(promised_nets()))
def test_a_net_of_the_page_has_the_promised_numbers(
    document: dict[str, Any], parameters: str, tensors: str, output: str, client: httpx.Client
) -> None:
    verdict = client.post("/v1/architectures/validate", json=document).json()

    assert verdict["errors"] == []
    assert verdict["warnings"] == []
    assert f"{verdict['summary']['parameters']:,}" == parameters
    assert [one["shape"] for one in verdict["summary"]["outputs"]] == [["B", *json.loads(f"[{output[4:]}")]]
    architecture = require(document).architecture
    assert architecture is not None
    assert str(len(state_rows(architecture))) == tensors


def test_there_are_six_nets() -> None:
    assert len(list(promised_nets())) == 6
