"""Each example does what it says against a real server: as curl lines, as a script, and as the notebook made of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

from tests.live import Server

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.sh"))
TOLD = {
    "checkpoints": [
        '"parameters":138357544\n',
        "kept 30 of 32",
        '"unchanged":true',
        '"outcome":"translated"',
        '"missing":["output.weight","output.bias"],"unexpected":["predict.weight","predict.bias"]',
    ],
    "classification": ['"accuracy":1.0', '"parameters":145578\n', '"shape":[64,10]', "events.out.tfevents"],
    "operators": [
        '"outputs":[2.0]',
        "[[10.0,12.0,12.0],[18.0,16.0,16.0],[13.0,9.0,3.0]]",
        "[[10.0,12.0],[13.0,3.0]]",
        "[[1.0,3.0,4.0,10.0,8.0]",
        "[[2.0,3.0],[5.0,1.0]]",
        "[[1.0,0.0],[0.0,3.0]]",
        '"shape":[64,6,30,30]',
        '"loss":0.66666',
        '"loss":2.0',
        '"loss":1.33333',
        '"loss":1.1019',
    ],
    "regression": [
        '"last":{"loss":0.00',
        "1 event: done\n",
        '"thinned":false',
        "hidden.2.weight",
        '"last":{"loss":0.01',
        '"code":"outside-training-range"',
        '"epoch":5,"step":20\n',
        '"epoch":5,"step":15\n',
    ],
}
"""What the curl lines of each example print."""
PRINTED = {
    "checkpoints": ["138357544 parameters", "architecture_needed", "exact", "missing ['output.weight'"],
    "classification": ["accuracy on held-out rows", "145578 parameters", "(64, 10)", "events.out.tfevents"],
    "operators": ["[2.0]", "(64, 6, 30, 30)", "'CrossEntropyLoss': 1.1019"],
    "regression": ["2000 losses", "outside-training-range", "drop_last=True: 15 steps in 5 epochs"],
}
"""What the script of each example prints, beside its own assertions."""


@pytest.fixture(autouse=True)
def _address(shared_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELYARD_URL", shared_server.url)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.mark.parametrize("name", NAMES)
def test_the_curl_lines_run(name: str) -> None:
    done = subprocess.run([EXAMPLES / f"{name}.sh"], capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert [words for words in TOLD[name] if words not in done.stdout] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs(name: str) -> None:
    notebook = jupytext.read(EXAMPLES / f"{name}.ipynb")

    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(EXAMPLES)}}).execute()


@pytest.mark.parametrize("name", NAMES)
def test_the_script_runs_from_any_folder(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert [words for words in PRINTED[name] if words not in done.stdout] == []


def test_each_example_has_all_three_forms() -> None:
    assert [sorted(path.stem for path in EXAMPLES.glob(f"*.{form}")) for form in ("py", "ipynb")] == [NAMES] * 2


def test_every_case_stands_in_the_table_and_in_all_three_forms() -> None:
    table = (EXAMPLES / "README.md").read_text()
    rows = re.findall(r"^\| ([A-Z]\d) \|.*\| \[curl\]\((\w+)\.sh\), .*$", table, re.MULTILINE)

    assert {case for case, _ in rows} == CASES
    for case, name in rows:
        for suffix in (".sh", ".py", ".ipynb"):
            assert re.search(rf"\b{case}\. ", (EXAMPLES / f"{name}{suffix}").read_text()), f"{case} in {name}{suffix}"


CASES = {"R1", "R2", "R3", "R4", "R5", "R6", "C1", "N1", "N2", "N3", "N4", "N5", "N6", "L1"}
CASES |= {"V1", "V2", "V3", "T1", "S1", "S2"}
