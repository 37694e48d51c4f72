"""What the pages show is true: their shell blocks run against a real server, their documents are valid."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter

from service.schemas import examples
from service.schemas.datasets import Source, Split
from service.schemas.initial import InitRule
from service.schemas.jobs import TrainSpec, parse_job
from tests.live import Server, run_job

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"
_ASKS = re.compile(r"^modelyard (train|predict|validate|import|export|jobs|models|datasets) ", re.MULTILINE)
"""Commands that ask the server; others start one."""
SOURCE_OR_SPLIT: TypeAdapter[Source | Split] = TypeAdapter(Source | Split)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language in a page; `a|b` are those of two."""
    return re.findall(rf"^```(?:{language})\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def runnable(block: str) -> bool:
    """Whether a shell block talks to the server and leaves nothing to fill in; make and docker are tried elsewhere."""
    asks = any(f"curl -s {start}{ADDRESS}" in block for start in ("", '"')) or _ASKS.search(block) is not None
    return asks and "…" not in block


def pages_with_calls() -> Iterator[Path]:
    """Pages that have at least one block to run."""
    for page in PAGES:
        if any(runnable(block) for block in blocks(page, "sh")):
            yield page


@pytest.fixture(scope="module", autouse=True)
def _the_model_of_the_pages(shared_server: Server) -> None:
    """Pages after the quickstart speak of its model."""
    with shared_server.client() as client:
        run_job(client, examples.TRAIN)


@pytest.mark.parametrize("page", list(pages_with_calls()), ids=lambda page: page.stem)
def test_the_calls_of_a_page_work_in_their_order(page: Path, shared_server: Server, tmp_path: Path) -> None:
    for block in blocks(page, "sh|python"):
        if block.startswith(("import ", "from ")):
            command = [sys.executable, "-c", block.replace(ADDRESS, shared_server.url)]
        elif runnable(block):
            script = block.replace(ADDRESS, shared_server.url).replace("curl -s", "curl -sS --fail-with-body")
            command = ["bash", "-euo", "pipefail", "-c", script]
        else:
            continue
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "MODELYARD_URL": shared_server.url, "PATH": path}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)

        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_the_readme_and_the_quickstart_are_among_the_pages_that_run() -> None:
    assert {"README", "quickstart"} <= {page.stem for page in pages_with_calls()}


def documents() -> Iterator[tuple[str, str]]:
    """Every JSON block that is a whole document, with the page's name."""
    for page in PAGES:
        for place, block in enumerate(blocks(page, "json")):
            yield f"{page.stem}-{place}", block


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for name, block in documents()])
def test_the_json_of_a_page_is_what_it_says(block: str, client: httpx.Client) -> None:
    document = json.loads(block)

    if "schema" in document:
        verdict = client.post("/v1/architectures/validate", json=document).json()
        assert verdict["valid"], verdict["errors"]
    elif document.get("type") == "Sequential":
        whole = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": document}
        verdict = client.post("/v1/architectures/validate", json=whole).json()
        assert verdict["valid"], verdict["errors"]
    elif document.keys() <= TrainSpec.model_fields.keys() and not isinstance(document.get("init"), list):
        # some members of a job request; a list of init rules belongs to a document
        parse_job({**examples.TRAIN, **document})
    elif "type" in document and "status" not in document:  # a problem has a type, too
        SOURCE_OR_SPLIT.validate_python(document)
    elif document.keys() <= {"tie", "init"}:  # rules about weights, whose keys are another document's
        for rule in document.get("init", ()):
            InitRule.model_validate(rule)
