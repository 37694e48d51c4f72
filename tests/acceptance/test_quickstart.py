"""The quickstart by the clock: from `modelyard serve` to the first prediction of a model that was trained meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.schemas import examples
from tests.live import START_S, Server, run_job, wait_for

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
MOST_S = 120
"""Far more than the page takes: a machine that does other work too must not fail there."""
FIRST_PREDICTION_S = 10.0
"""What is promised of a server that was just installed, from its start on."""
STARTS = 3
"""The best of so many counts, since the machine may do other work too. Where more wants to run than there are cores,
each gets but a share of them, and the promise is as much longer."""
INSTALL_S = 400


def test_the_quickstart_leads_to_a_prediction_within_seconds(
    make_server: Callable[..., Server], tmp_path: Path, measured: Callable[[str], None]
) -> None:
    """Everything that the page has typed up to its first prediction, in its order."""
    until_predict = PAGE.read_text().split("\n## 5. ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", until_predict, re.DOTALL | re.MULTILINE)
    assert blocks.pop(0) == "make serve\n"

    began = time.monotonic()
    server = make_server(anew=True)
    served = time.monotonic() - began
    for block in blocks:
        script = block.replace("http://127.0.0.1:8000", server.url).replace("curl -s", "curl -sS --fail-with-body")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, capture_output=True, text=True, timeout=MOST_S, env=dict(os.environ), check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    took = time.monotonic() - began

    answer = json.loads(done.stdout)
    assert (answer["model"], answer["version"]) == ("quadratic", 1)
    assert [round(row[0], 1) for row in answer["outputs"]] == [0.4, 0.6]
    measured(f"Quickstart: {took:.1f} s from `modelyard serve` to the prediction, {served:.1f} s of them to listen.")
    assert took < MOST_S


# -- from nothing: a new environment, `pip install`, `modelyard serve`, `modelyard demo` -------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Of this test; a gigabyte is installed there, so that is removed afterwards."""
    yield tmp_path
    shutil.rmtree(tmp_path / "environment", ignore_errors=True)


@pytest.mark.timeout(INSTALL_S + STARTS * 2 * MOST_S)
def test_from_a_clean_environment_the_first_prediction_comes_within_ten_seconds(
    folder: Path, measured: Callable[[str], None]
) -> None:
    """`pip install` without an extra, then a server over an empty store and the demo, both of that environment."""
    copied(folder / "source")
    began = time.monotonic()
    command = installed(folder / "environment", folder / "source")
    installing = time.monotonic() - began
    serves, demos, most = [], [], 0.0
    for place in range(STARTS):
        serves.append(served(command, folder / f"store-{place}"))
        demos.append(shown(command, folder))
        waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
        most = max(most, FIRST_PREDICTION_S * max(1.0, waiting))
        if max(min(serves), min(demos)) <= FIRST_PREDICTION_S:
            break

    measured(
        f"Clean environment: installed in {installing:.0f} s; first prediction of a model trained meanwhile "
        f"{seconds(serves)} after `modelyard serve`, {seconds(demos)} after `modelyard demo`; "
        f"at most {most:.1f} s by the load of the machine."
    )
    assert min(serves) <= most, serves
    assert min(demos) <= most, demos


@pytest.mark.timeout(INSTALL_S)
def test_the_client_alone_works_without_torch_and_the_server(folder: Path, make_server: Callable[..., Server]) -> None:
    """As docs/guide/client.md has it: the package without what it depends on, then the packages of the client."""
    copied(folder / "source")
    place = folder / "environment"
    venv.create(place, symlinks=True)
    python, command = place / "bin" / "python", place / "bin" / "modelyard"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    ran([*pip, "--no-deps", str(folder / "source")], folder, within=INSTALL_S)
    ran([*pip, "--group", f"{folder / 'source' / 'pyproject.toml'}:client"], folder, within=INSTALL_S)
    packages = json.loads(ran([*pip[:-2], "list", "--format", "json"], folder))
    server = make_server()
    rows = "[[5.1, 3.5, 1.4, 0.2]]"
    asked = ["--url", server.url, "-o", "json"]
    table = ["train", str(ROOT / "examples" / "iris.csv"), "--target", "species", "--model", "far", "--epochs", "20"]
    job = json.loads(ran([str(command), *table, "--wait", *asked], folder))
    answer = json.loads(ran([str(command), "predict", "far", "--inputs", rows, *asked], folder))
    ask = f"Client(sys.argv[1]).predict('far', {rows})"
    script = f"import sys; from service.client import Client; print(*{ask}.predictions)"
    refused = {
        words: subprocess.run([command, *words.split()], cwd=folder, env=environment(), capture_output=True, text=True)
        for words in ("serve", "config show", "store rebuild")
    }

    assert {one["name"] for one in packages} & {"torch", "fastapi", "uvicorn", "SQLAlchemy", "numpy"} == set()
    assert (job["state"], answer["model"], len(answer["labels"])) == ("succeeded", "far", 1)
    assert ran([str(python), "-c", script, server.url], folder).strip() == answer["labels"][0]
    assert {words: done.returncode for words, done in refused.items()} == dict.fromkeys(refused, 2)
    assert all(done.stderr.startswith("This is done where the server is installed") for done in refused.values())


def ran(words: list[str], folder: Path, *, within: float = 60) -> str:
    """What a command that succeeds writes to stdout."""
    done = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=within, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def seconds(starts: list[float]) -> str:
    """The best, and what all took if there were several."""
    return f"{min(starts):.1f} s" + (f" (of {', '.join(f'{one:.1f}' for one in starts)})" if len(starts) > 1 else "")


def copied(folder: Path) -> None:
    """What the package is made of, without what was built or stored beside it."""
    shutil.copytree(ROOT / "service", folder / "service", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)


def installed(folder: Path, source: Path) -> Path:
    """The command `modelyard` of a new environment, which holds what pip installs by default and nothing else."""
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--constraint", str(source / "constraints.txt"), str(source)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=INSTALL_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"it cannot be installed:\n{done.stderr[-3000:]}"
    [place] = (folder / "lib").glob("python*/site-packages/service")
    assert (place / "py.typed").is_file()
    return folder / "bin" / "modelyard"


def environment() -> dict[str, str]:
    """As of a person who has just come: nothing that Python or the service would read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MODELYARD_"))}


def served(command: Path, store: Path) -> float:
    """Seconds from `modelyard serve` over an empty store to a prediction of a model that was trained over HTTP."""
    began = time.monotonic()
    with serving(command, store) as url, httpx.Client(base_url=url, timeout=60) as client:
        job = run_job(client, examples.TRAIN)
        answer = client.post("/predict", json=examples.PREDICT)
        took = time.monotonic() - began

    assert answer.status_code == 200, answer.text
    assert (answer.json()["model"], answer.json()["version"]) == ("quadratic", job["output"]["version"])
    return took


@contextmanager
def serving(command: Path, store: Path) -> Iterator[str]:
    """The address of a server on a free port."""
    log = store.with_suffix(".log")
    arguments = ["serve", "--port", "0", "--store", str(store)]
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [str(command), *arguments],
            stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, cwd=store.parent,
            env=environment() | {"MODELYARD_LOG_FORMAT": "json"},
        )  # fmt: skip

    def listening() -> str:
        assert server.poll() is None, log.read_text()[-3000:]
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return next((str(json.loads(line)["url"]) for line in lines if '"listening"' in line), "")

    try:
        yield wait_for(listening, timeout=START_S)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait(10)


def shown(command: Path, folder: Path) -> float:
    """Seconds from `modelyard demo` to its prediction, and that it tells all of it."""
    began = time.monotonic()
    told, took = [], 0.0
    with subprocess.Popen(
        [str(command), "demo"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=folder, text=True,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            told.append(line.strip())
            if line.startswith("From the server's start to the first answer: "):
                took = time.monotonic() - began
        errors = demo.stderr.read()
        demo.wait(60)

    assert demo.returncode == 0, "\n".join([*told, errors])
    assert took, told
    assert "→ version 1 of 'quadratic', loss 0.0" in "\n".join(told)
    [half] = [re.fullmatch(r"→ f\(0\.5\) = (\S+) .*", line) for line in told if line.startswith("→ f(0.5)")]
    assert half is not None
    assert float(half[1]) == pytest.approx(0.35, abs=0.1)
    return took
