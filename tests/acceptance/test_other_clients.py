"""KServe's client, and the one that was generated from the protocol's OpenAPI file, against a real server.

They live in an environment of their own, which is made here: kserve's protobuf is older than ours, and its messages
have the names of tritonclient's. Where it cannot be made, the tests fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_triton_clients import FRUIT
from tests.live import Server, run_job

pytestmark = pytest.mark.timeout(400)

HERE = Path(__file__).parent / "other_clients"
INSTALL_S = 300
ASK_S = 60

DTYPES = {
    **{"BOOL": "bool", "UINT8": "uint8", "UINT16": "int32", "UINT32": "int64", "UINT64": "int64"},
    **{f"INT{size}": f"int{size}" for size in (8, 16, 32, 64)},
    **{"FP16": "float32", "FP32": "float32", "FP64": "float64"},
}
"""An input for each datatype that KServe's client sends, and the dtype that the net takes it in."""

ECHO: dict[str, Any] = {
    "kind": "import",
    "architecture": {
        "schema": "arch/1",
        "inputs": [{"name": name.lower(), "shape": ["B", 5], "dtype": dtype} for name, dtype in DTYPES.items()],
        "root": {
            "type": "Graph",
            "layers": [],
            "forward": ["return " + ", ".join(name.lower() for name in DTYPES)],
        },
    },
    "output": {"model": "echo"},
}
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with these clients."""
    folder = tmp_path_factory.mktemp("other-clients")
    venv.create(folder, symlinks=True)
    found = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(found), "install", "--quiet", "--disable-pip-version-check"]
    how = ["--no-deps", "--no-compile", "--only-binary", ":all:", "-r", str(HERE / "requirements.txt")]
    done = subprocess.run([*pip, *how], capture_output=True, text=True, timeout=INSTALL_S)
    assert done.returncode == 0, f"the environment cannot be made:\n{done.stderr[-2000:]}"
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("other") / "store", grpc_port="0")
    server.start()
    with server.client() as client:
        run_job(client, ECHO)
        run_job(client, FRUIT)
    yield server
    assert server.stop() == 0
    assert "internal_error" not in server.log.read_text()


@pytest.fixture(scope="module")
def ask(python: Path) -> Ask:
    """Runs a script in the environment; the answer is the JSON that it prints."""

    def ask(script: str, *arguments: str) -> Any:
        command = [str(python), "-I", str(HERE / script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return ask


@pytest.fixture(scope="module")
def kserve(server: Server, ask: Ask) -> Any:
    """What KServe's client was answered, over HTTP and over gRPC."""
    [port] = [line["port"] for line in map(json.loads, server.log.read_text().splitlines()) if line.get("port")]
    return ask("ask_kserve.py", server.url, f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def generated(server: Server, ask: Ask) -> Any:
    """What both generated clients were answered."""
    return ask("ask_openapi.py", server.url)


@pytest.fixture(scope="module")
def scores(server: Server) -> list[list[float]]:
    """What a prediction says of the rows that all of them send."""
    with server.client() as client:
        answer = client.post("/predict", json={"model": "fruit", "inputs": [["red", 1.5], ["gréen", 2.5]]})
    found: list[list[float]] = answer.json()["outputs"]
    return found


def expected(datatype: str) -> list[Any]:
    dtype = DTYPES[datatype]
    number = {"b": bool, "f": float}.get(dtype[0], int)
    return [
        dtype,
        [[number(place % 2 if dtype == "bool" else place) for place in row] for row in (range(5), range(5, 10))],
    ]


@pytest.mark.parametrize("form", ["typed", "raw"])
@pytest.mark.parametrize("front", ["http", "grpc"])
def test_kserves_client_gets_every_datatype_back(front: str, form: str, kserve: Any) -> None:
    found = kserve[front][form]

    assert (found["model"], found["id"]) == ("echo", "7" if form == "typed" else "8")
    assert found["version"] == ("1" if front == "grpc" else None)  # over HTTP the client passes it over
    assert found["outputs"] == {f"output_{place}": expected(name) for place, name in enumerate(DTYPES)}


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_kserves_client_is_answered_what_a_prediction_is(front: str, kserve: Any, scores: list[list[float]]) -> None:
    for form in ("texts", "texts in JSON")[: 2 if front == "http" else 1]:
        dtype, found = kserve[front][form]["outputs"]["output"]

        assert dtype == "float32"
        assert found == [pytest.approx(row, rel=1e-6) for row in scores]


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_kserves_client_is_told_who_is_ready(front: str, kserve: Any) -> None:
    assert kserve[front]["server"] == [True, True]
    assert kserve[front]["ready"] is True
    unknown = kserve[front]["unknown model ready"]
    assert unknown is False if front == "http" else unknown[0] == "NOT_FOUND"


def test_kserves_client_is_refused_with_the_code_of_the_protocol(kserve: Any) -> None:
    assert [kserve["http"][why][0] for why in ("no model", "no input")] == [404, 400]
    assert [kserve["grpc"][why][0] for why in ("no model", "no input")] == ["NOT_FOUND", "INVALID_ARGUMENT"]
    assert "There is no model 'nothing'" in kserve["grpc"]["no model"][1]
    assert "no such input" in kserve["grpc"]["no input"][1]


def test_the_generated_client_asks_everything_that_it_can(generated: Any, scores: list[list[float]]) -> None:
    found, other = generated

    assert found == other  # the synchronous client and the other one
    assert [found[name] for name in ("live", "ready", "model ready", "version ready")] == [None] * 4
    assert found["server"]["name"] == "modelyard"
    assert found["metadata"] == found["metadata of the version"]
    assert [(one["name"], one["datatype"], one["shape"]) for one in found["metadata"]["inputs"]] == [
        ("colour", "BYTES", [-1, 1]),
        ("weight", "FP32", [-1, 1]),
    ]
    assert found["flat"] == found["of the version"]
    assert (found["flat"]["id"], found["flat"]["model_version"]) == ("7", "1")
    [output] = found["flat"]["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [2, 2])
    assert output["data"] == pytest.approx([number for row in scores for number in row], rel=1e-6)
    [classes] = found["nested"]["outputs"]
    assert (classes["datatype"], classes["shape"]) == ("BYTES", [2, 1])
    assert [text.split(":")[1] for text in classes["data"]] == [str(row.index(max(row))) for row in scores]


def test_the_generated_client_raises_the_error_of_the_protocol(generated: Any) -> None:
    found, _ = generated

    assert (found["no model ready"]["class"], found["no model"]["status"]) == ("NotFoundError", 404)
    assert (found["wrong"]["class"], found["wrong"]["status"]) == ("BadRequestError", 400)
    assert "There is no model 'nothing'" in found["no model"]["error"]
    assert found["wrong"]["error"]
