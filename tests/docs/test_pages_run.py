"""What the pages show is true: all shell and Python blocks run against a real server, and documents are valid."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from sklearn.datasets import load_iris

from service.schemas import examples
from service.schemas.datasets import Source, Split
from service.schemas.initial import InitRule
from service.schemas.jobs import TrainSpec, parse_job
from tests.live import Server, run_job

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"),
    *(ROOT / "benchmarks" / "serving" / "README.md", ROOT / "models_store" / "README.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
ADDRESS = "http://127.0.0.1:8000"
GRPC = "127.0.0.1:8001"
_ELSEWHERE = re.compile(
    r"""^(?:
    # they make an environment first, or run these tests again; scripts/acceptance is what runs after them
    make\ (?:serve|docs|check|test|fix|demo|bench-serving)\b | scripts/acceptance\b
    # another environment: tests/acceptance/test_quickstart.py makes one
    | (?:\S+/bin/)?pip\ | python3\ -m\ venv\ | \.\ #
    # the machine is not ours to change: .ci/run does that
    | apt-get\ #
    # there is no daemon and no cluster here: tests/unit/test_delivery.py reads the files
    | docker\ | kubectl\ #
    # they stay: each page asks a server that runs, tests/integration/test_tensorboard.py and
    # tests/acceptance/test_examples.py start the others
    | (?:[A-Z_]+=\S+\ )*(?:\S+/bin/)?modelyard\ (?:serve|tensorboard)\b | jupyter\ #
    ).*$""",
    re.MULTILINE | re.VERBOSE,
)
"""Lines that are not run here, each with the reason. What is new and stays or installs is added: the others are run."""
_HERE = f"{Path(sys.executable).parent}/"
"""What stands for the `.venv/bin/` of a page."""
_EXPORT = re.compile(r"^export ([A-Z_]+)=(\S+)$", re.MULTILINE)
SOURCE_OR_SPLIT: TypeAdapter[Source | Split] = TypeAdapter(Source | Split)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page in a language, with it; `a|b` are those of two."""
    return re.findall(rf"^```({language})\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def command(language: str, block: str) -> list[str]:
    """What runs the block; nothing for one whose lines are all tried elsewhere."""
    if language == "python":
        return [sys.executable, "-c", block]
    lines = re.sub(r"curl -s(\w*)", r"curl -sS\1 --fail-with-body", _ELSEWHERE.sub("", block))
    if not re.sub(r"^(#.*|export .*)?$", "", lines, flags=re.MULTILINE).strip():
        return []
    return ["bash", "-euo", "pipefail", "-c", lines]


def pages_that_run() -> Iterator[Path]:
    """Pages that have at least one block to run."""
    for page in PAGES:
        if any(command(language, block) for language, block in blocks(page, "sh|python")):
            yield page


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with all doors and with the two versions of the quickstart, since other pages speak of them."""
    server = Server(tmp_path_factory.mktemp("pages") / "store", grpc_port="0").start()
    with server.client() as client:
        run_job(client, examples.TRAIN)
        run_job(client, {**examples.TRAIN, "seed": 2, "output": {"model": "quadratic"}})
    yield server
    assert server.stop() == 0


def filled(block: str, server: Server) -> str:
    """The block with what there is in place of a page's addresses, ids and keys."""
    with server.client() as client:
        if "job_…/pause" in block:  # one that runs until then
            job = {**examples.TRAIN, "budget": {"epochs": 1_000_000}, "output": {"model": "long"}}
            block = block.replace("job_…", client.post("/v1/jobs", json=job).json()["id"])
        if "job_…" in block:
            found = {"kind": "train", "model": "quadratic", "state": "succeeded", "limit": "1"}
            [done] = client.get("/v1/jobs", params=found).json()["data"]
            block = block.replace("job_…", done["id"])
    block = block.replace("msk_…", f"msk_{'0' * 12}_{'0' * 16}")
    block = block.replace(".venv/bin/", _HERE).replace("models_store/", f"{server.store}/")
    return block.replace(ADDRESS, server.url).replace(GRPC, f"127.0.0.1:{grpc_port(server)}")


def grpc_port(server: Server) -> int:
    """Where the server speaks gRPC, as its log says."""
    lines = map(json.loads, server.log.read_text().splitlines())
    return next(line["port"] for line in lines if line.get("action") == "listening_grpc")


@pytest.fixture
def environment(server: Server) -> Iterator[dict[str, str]]:
    """What the blocks of a page begin with. Jobs that they leave behind would hold the slots: they are cancelled."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    yield {**os.environ, "MODELYARD_URL": server.url, "PATH": path}
    with server.client() as client:
        for state in ("queued", "starting", "running", "paused"):
            for job in client.get("/v1/jobs", params={"state": state}).json()["data"]:
                client.post(f"/v1/jobs/{job['id']}/cancel")


@pytest.mark.parametrize("page", list(pages_that_run()), ids=lambda page: str(page.relative_to(ROOT).with_suffix("")))
def test_every_block_of_a_page_runs_in_its_order(
    page: Path, server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for language, text in blocks(page, "sh|python"):
        block = filled(text, server)
        environment |= _EXPORT.findall(block)
        run = command(language, block)
        if not run:
            continue
        assert "…" not in " ".join(run), f"{page.name} leaves something to fill in:\n{block}"
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)

        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_the_readme_and_the_quickstart_are_among_the_pages_that_run() -> None:
    assert {ROOT / "README.md", ROOT / "docs" / "quickstart.md"} <= set(pages_that_run())


def test_the_readme_leads_from_a_file_of_the_repository_to_a_prediction_in_three_commands() -> None:
    [serve, train, predict] = [line for line in blocks(PAGES[0], "sh")[0][1].splitlines() if not line.startswith("#")]

    assert serve.startswith("make serve ")
    assert train.startswith(".venv/bin/modelyard train examples/iris.csv ")
    assert predict.startswith(".venv/bin/modelyard predict iris ")


def test_every_figure_of_the_readme_stands_in_the_log() -> None:
    """Whoever measures anew writes the log first."""
    log = (ROOT / "docs" / "log.md").read_text()
    measured = PAGES[0].read_text().split("\n## Measured\n")[1].split("\n## ")[0]
    figures = {
        figure
        for line in measured.splitlines()
        if line.startswith("| ") and not line.startswith(("| what", "| ---"))
        for figure in re.findall(r"[0-9][0-9,.]*[0-9]|[0-9]", line.strip("| ").split(" | ")[1])
    }

    assert figures
    assert {figure for figure in figures if not re.search(rf"(?<![0-9.,]){re.escape(figure)}(?![0-9])", log)} == set()


def test_the_irises_are_those_of_scikit_learn() -> None:
    found = load_iris()
    names = [str(found.target_names[target]) for target in found.target]
    given = [",".join([*map(str, row), name]) for row, name in zip(found.data.tolist(), names, strict=True)]

    header, *rows = (ROOT / "examples" / "iris.csv").read_text().splitlines()
    assert header == "sepal_length,sepal_width,petal_length,petal_width,species"
    assert rows == given


def documents() -> Iterator[tuple[str, str]]:
    """Every JSON block that is a whole document, with the page's name."""
    for page in PAGES:
        for place, (_, block) in enumerate(blocks(page, "json")):
            yield f"{page.relative_to(ROOT).with_suffix('')}-{place}", block


def validate(document: dict[str, Any], server: Server) -> dict[str, Any]:
    """What the server says of an architecture."""
    with server.client() as client:
        verdict: dict[str, Any] = client.post("/v1/architectures/validate", json=document).json()
        return verdict


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for name, block in documents()])
def test_the_json_of_a_page_is_what_it_says(block: str, server: Server) -> None:
    document = json.loads(block)

    if "schema" in document:
        verdict = validate(document, server)
        assert verdict["valid"], verdict["errors"]
    elif document.get("type") == "Sequential":
        whole = {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", 1]}], "root": document}
        verdict = validate(whole, server)
        assert verdict["valid"], verdict["errors"]
    elif document.keys() <= TrainSpec.model_fields.keys() and not isinstance(document.get("init"), list):
        # some members of a job request; a list of init rules belongs to a document
        parse_job({**examples.TRAIN, **document})
    elif "type" in document and "status" not in document:  # a problem has a type, too
        SOURCE_OR_SPLIT.validate_python(document)
    elif document.keys() <= {"tie", "init"}:  # rules about weights, whose keys are another document's
        for rule in document.get("init", ()):
            InitRule.model_validate(rule)
