"""Every command that there is, found by walking the tree, against a real server; `-o json` by the OpenAPI document."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
import typer
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from service.cli import app
from service.client import Client, HeadersTooLarge
from service.schemas import examples
from tests.live import Server, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
OLD: Final = ROOT / "examples" / "old"
FORWARD: Final = "return predict(relu(hidden(x)))"
CHAMPION: Final = {"model": "walked", "alias_on_success": "champion"}
ENDED: Final = {**examples.TRAIN, "budget": {"epochs": 1}, "output": CHAMPION}
ENDLESS: Final = {**ENDED, "budget": {"max_seconds": 600}, "output": {"model": "endless"}}

JOB: Final = "GET /v1/jobs/{job_id}"
VERSION: Final = "GET /v1/models/{name}/versions/{number}"
KEY: Final = re.compile(r"msk_[a-z0-9]{12}_[0-9a-f]{64}")
RECORD: Final = {"id", "name", "scope", "state", "created", "expires", "requests_per_minute", "rows_per_minute"}
ALIAS: Final = "/v1/models/{name}/aliases/{alias}"


def leaves(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that call it."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, found in command.commands.items():
        yield from leaves(found, (*path, name))


class World:
    """The command in this process, a server, and files to hand it."""

    def __init__(self, server: Server, document: dict[str, Any], folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._document = document

    def __call__(self, *arguments: object, code: int = 0, url: str | None = None) -> Result:
        settings = {"MODELYARD_URL": url or self.server.url}
        done = CliRunner().invoke(app, [str(one) for one in arguments], env=settings)
        assert done.exit_code == code, f"{arguments}: {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done

    def json(self, *arguments: object, operation: str | None = None, status: str = "200", **options: Any) -> Any:
        """What -o json prints, which is one document; of an operation by its schema, if one is named."""
        found = json.loads(self(*arguments, "-o", "json", **options).stdout)
        return found if operation is None else self.valid(found, operation, status)

    def lines(self, *arguments: object) -> tuple[list[Any], list[dict[str, str]]]:
        """What -o jsonl prints, and what -o csv does, each row under the names of its head."""
        items = [json.loads(line) for line in self(*arguments, "-o", "jsonl").stdout.splitlines()]
        head, *rows = csv.reader(io.StringIO(self(*arguments, "-o", "csv").stdout), strict=True)
        return items, [dict(zip(head, row, strict=True)) for row in rows]

    def valid(self, found: Any, operation: str, status: str = "200") -> Any:
        """A document that the OpenAPI document allows an operation to answer."""
        method, path = operation.split()
        answer = self._document["paths"][path][method.lower()]["responses"][status]
        schema = answer["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": self._document["components"]}).validate(found)
        return found

    def file(self, name: str, document: Any) -> Path:
        """A file with a document as JSON."""
        (self.folder / name).write_text(json.dumps(document))
        return self.folder / name

    def trained(self) -> str:
        """A new version of `walked`, as name/number."""
        job = self.json("train", self.file("short.json", ENDED), "--wait", operation=JOB)
        return f"walked/{job['output']['version']}"

    def started(self) -> str:
        """The id of a job that runs until it is stopped."""
        found = self.json("train", self.file("endless.json", ENDLESS), operation="POST /v1/jobs", status="202")
        wait_for(lambda: self.state(found["id"]) == "running")
        return str(found["id"])

    def state(self, job_id: str) -> str:
        """That of a job."""
        return str(self.json("jobs", "show", job_id)["state"])

    def table(self) -> Path:
        """A table of two numbers and what is to be learnt."""
        path = self.folder / "homes.csv"
        rows = [f"{place % 7},{place % 5},{place % 7 + 2 * (place % 5)}.5" for place in range(40)]
        path.write_text("\n".join(["rooms,floor,price", *rows]) + "\n")
        return path

    def environment(self, **settings: str) -> dict[str, str]:
        """Of a process of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
        return kept | {"PYTHONPATH": str(ROOT)} | {f"MODELYARD_{name.upper()}": one for name, one in settings.items()}


@pytest.fixture
def world(shared_server: Server, document: dict[str, Any], tmp_path: Path) -> World:
    return World(shared_server, document, tmp_path)


@pytest.fixture(scope="module")
def document(shared_server: Server) -> dict[str, Any]:
    with shared_server.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


# -- from data to predictions -----------------------------------------------------------------------------------------


def train(world: World) -> None:
    request = world.file("short.json", ENDED)
    queued = world.json("train", request, operation="POST /v1/jobs", status="202")
    common = ("train", world.table(), "--target", "price", "--model", "walked-homes", "--epochs", 2, "--alias", "")
    examined = world.json(*common, "--dry-run", operation="POST /v1/jobs")
    ended = world.json(*common, "--wait", operation=JOB)

    assert queued["kind"] == "train"
    assert examined["valid"]
    assert (ended["state"], ended["output"]["version"]) == ("succeeded", 1)


def predict(world: World) -> None:
    reference = world.trained()
    answer = world.json("predict", reference, "--inputs", "[[0.5], [0.7]]", operation="POST /predict")
    (world.folder / "x.csv").write_text("x\n0.5\n0.7\n")
    items, rows = world.lines("predict", reference, world.folder / "x.csv")

    assert len(answer["outputs"]) == len(items) == len(rows) == 2
    assert float(list(rows[0].values())[-1]) == pytest.approx(answer["outputs"][0][0])


def validate(world: World) -> None:
    net = world.file("net.json", examples.NET)
    verdict = world.json("validate", net, operation="POST /v1/architectures/validate")
    examined = world.json("validate", world.file("job.json", ENDED), operation="POST /v1/jobs")
    wrong = world.file("wrong.json", {**ENDED, "optimizer": {"type": "SGD", "lr": -1}})

    assert verdict["valid"]
    assert examined["valid"]
    assert [row["type"] for row in world.lines("validate", net)[1]].count("Linear") == 2
    assert "/optimizer/lr" in world("validate", wrong, code=7).stderr


def import_(world: World) -> None:
    """A whole net whose class is gone; the one of two sets of weights; a request in a file."""
    inputs = '[{"name": "x", "shape": ["B", 2]}]'
    told = json.loads((OLD / "answers.json").read_text())
    common = ("import", OLD / "net.pth", "--model", "walked-old")
    assert "architecture_needed" in world(*common, code=1).stdout
    job = world.json(*common, "--forward", FORWARD, "--inputs", inputs, "--alias", "champion", operation=JOB)
    answer = world.json("predict", "walked-old@champion", "--inputs", json.dumps(told["inputs"]))

    assert (job["output"]["alias"], job["report"]["outcome"]) == ("champion", "translated")
    np.testing.assert_allclose(answer["outputs"], told["outputs"], rtol=1e-5)

    weights = torch.load(OLD / "state.pth", map_location="cpu", weights_only=True)
    torch.save({"net": weights, "ema": {name: 2 * one for name, one in weights.items()}}, world.folder / "two.pt")
    layers = [
        {"name": "hidden", "type": "Linear", "in_features": 2, "out_features": 8},
        {"name": "predict", "type": "Linear", "in_features": 8, "out_features": 3},
    ]
    root = {"type": "Graph", "layers": layers, "forward": [FORWARD]}
    net = world.file("net.json", {"schema": "arch/1", "inputs": json.loads(inputs), "root": root})
    two = ("import", world.folder / "two.pt", "--model", "walked-parts", "--arch", net)
    parts = {name: world.json(*two, "--part", name, operation=JOB)["output"]["version"] for name in ("net", "ema")}
    for name, number in parts.items():
        world("export", f"walked-parts/{number}", "--format", "pt", "--to", world.folder / f"{name}.pt")
    plain, doubled = (torch.load(world.folder / f"{name}.pt", weights_only=True) for name in ("net", "ema"))
    assert all(torch.equal(2 * plain[name], doubled[name]) for name in weights)
    assert "--inputs is no JSON" in world("import", OLD / "net.pth", "--inputs", "[", code=2).stderr

    mlp = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    torch.save(mlp.state_dict(), world.folder / "alone.pt")
    alone = ("import", world.folder / "alone.pt", "--model", "walked-alone")
    refused = world(*alone, code=1).stderr
    assert "leaves no trace in a file" in refused
    arch = shlex.split(refused.partition("As far as the file tells: ")[2].strip())
    assert arch[0] == "--arch"
    assert world.json(*alone, *arch, operation=JOB)["report"]["outcome"] == "exact"

    renamed = {f"model.{name}": torch.full_like(one, torch.nan) for name, one in mlp.state_dict().items()}
    torch.save(renamed, world.folder / "renamed.pt")
    other = ("import", world.folder / "renamed.pt", "--model", "walked-alone", *arch, "--rename", "model.**=**")
    assert "not finite" in world(*other, code=1).stderr
    assert world.json(*other, "--allow-nonfinite", operation=JOB)["state"] == "succeeded"
    assert "is not FROM=TO" in world(*other, "--rename", "model", code=2).stderr

    request = world.file("import.json", {**examples.IMPORT, "output": {"model": "walked-kernel"}})
    assert world.json("import", request, "--no-wait", operation="POST /v1/jobs", status="202")["kind"] == "import"


def export(world: World) -> None:
    """Each format; the ONNX file answers as the server does."""
    reference = world.trained()
    for form, suffix in (("pt", "pt"), ("safetensors", "safetensors"), ("python", "py"), ("bundle", "zip")):
        file = world.folder / f"net.{suffix}"
        told = world.json("export", reference, "--format", form, "--to", file)
        assert told == {"version": reference, "format": form, "file": str(file), "size_bytes": file.stat().st_size}
    file = world.folder / "net.onnx"
    [item], [row] = world.lines("export", reference, "--format", "onnx", "--to", file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: np.array([[0.5], [0.7]], np.float32)})

    assert (item["format"], row["format"], item["size_bytes"]) == ("onnx", "onnx", file.stat().st_size)
    answer = world.json("predict", reference, "--inputs", "[[0.5], [0.7]]")
    np.testing.assert_allclose(found, answer["outputs"], rtol=1e-5)


# -- jobs -------------------------------------------------------------------------------------------------------------


def jobs_list(world: World) -> None:
    world.trained()
    page = world.json("jobs", "list", "--model", "walked", "--limit", 3, operation="GET /v1/jobs")
    items, rows = world.lines("jobs", "list", "--model", "walked", "--limit", 3)

    assert items == page["data"]
    assert [row["id"] for row in rows] == [job["id"] for job in page["data"]]


def jobs_show(world: World) -> None:
    world.trained()
    found = world.json("jobs", "show", "last", operation=JOB)
    [item], [row] = world.lines("jobs", "show", found["id"])

    assert item["id"] == row["id"] == found["id"]


def jobs_watch(world: World) -> None:
    world.trained()
    job_id = world.json("jobs", "show", "last")["id"]
    found = world.json("jobs", "watch", job_id, operation=JOB)
    events, rows = world.lines("jobs", "watch", job_id)

    assert found["id"] == job_id
    assert [row["type"] for row in rows] == [event["type"] for event in events]
    assert [json.loads(row["data"]) for row in rows] == [event["data"] for event in events]
    assert (events[0]["type"], events[-1]["type"]) == ("state", "done")
    assert len(world.lines("jobs", "watch", job_id, "--after", events[-2]["id"])[1]) == 1


def jobs_logs(world: World) -> None:
    world.trained()
    found = world.json("jobs", "logs", "last")
    items, rows = world.lines("jobs", "logs", "last")

    assert any("Trained" in line for line in found["lines"])
    assert [item["line"] for item in items] == [row["line"] for row in rows] == found["lines"]


def jobs_cancel(world: World) -> None:
    found = world.json("jobs", "cancel", world.started(), "--wait", operation=JOB)

    assert found["state"] == "cancelled"


def jobs_pause(world: World) -> None:
    job_id = world.started()
    try:
        found = world.json("jobs", "pause", job_id, operation="POST /v1/jobs/{job_id}/pause", status="202")
        wait_for(lambda: world.state(job_id) == "paused")
        assert found["id"] == job_id
    finally:
        world("jobs", "cancel", job_id, "--wait")
    assert world("jobs", "pause", job_id, code=5).stdout == ""


def jobs_resume(world: World) -> None:
    job_id = world.started()
    try:
        world("jobs", "pause", job_id)
        wait_for(lambda: world.state(job_id) == "paused")
        found = world.json("jobs", "resume", job_id, operation="POST /v1/jobs/{job_id}/resume", status="202")
        assert found["id"] == job_id
        wait_for(lambda: world.state(job_id) == "running")
    finally:
        world("jobs", "cancel", job_id, "--wait")


def jobs_retry(world: World) -> None:
    job_id = world.started()
    world("jobs", "cancel", job_id, "--wait")
    try:
        operation = "POST /v1/jobs/{job_id}/retry"
        assert world.json("jobs", "retry", job_id, "--from-start", operation=operation, status="202")["id"] == job_id
    finally:
        world("jobs", "cancel", job_id, "--wait")


# -- models -----------------------------------------------------------------------------------------------------------


def models_list(world: World) -> None:
    world.trained()
    page = world.json("models", "list", "--limit", 200, operation="GET /v1/models")
    items, rows = world.lines("models", "list", "--limit", 200)

    assert items == page["data"]
    assert "walked" in [row["model"] for row in rows]


def models_show(world: World) -> None:
    reference = world.trained()
    found = world.json("models", "show", "walked", operation="GET /v1/models/{name}")
    version = world.json("models", "show", reference, operation=VERSION)
    champion = world.json("models", "show", "walked@champion", operation=VERSION)
    [item], [row] = world.lines("models", "show", reference)

    assert found["aliases"]["champion"] == version["version"] == champion["version"] == item["version"]
    assert row["version"] == reference


def models_versions(world: World) -> None:
    world.trained()
    page = world.json("models", "versions", "walked", operation="GET /v1/models/{name}/versions")
    items, rows = world.lines("models", "versions", "walked")

    assert items == page["data"]
    assert [row["version"] for row in rows] == [str(item["version"]) for item in items]


def models_compare(world: World) -> None:
    a, b = world.trained(), world.trained()
    found = world.json("models", "compare", a, b)
    items, rows = world.lines("models", "compare", a, b)

    assert found.keys() == {"a", "b", "architecture"}
    assert [f"walked/{world.valid(found[side], VERSION)['version']}" for side in ("a", "b")] == [a, b]
    assert world.valid(found["architecture"], "POST /v1/architectures/diff")["equal"]
    assert [item["metric"] for item in items] == [row["metric"] for row in rows]
    assert set(found["a"]["metrics"]) <= {item["metric"] for item in items}


def models_alias(world: World) -> None:
    number = int(world.trained().partition("/")[2])
    found = world.json("models", "alias", "walked", "walker", number, operation=f"PUT {ALIAS}")
    [item], [row] = world.lines("models", "alias", "walked", "walker", number)

    assert found["version"] == item["version"] == int(row["version"]) == number


def models_rollback(world: World) -> None:
    first, second = (int(world.trained().partition("/")[2]) for _ in range(2))
    for number in (first, second):
        world("models", "alias", "walked", "roller", number)
    operation = f"POST {ALIAS}/rollback"

    assert world.json("models", "rollback", "walked", "--alias", "roller", operation=operation)["version"] == first


def models_history(world: World) -> None:
    first, second = (int(world.trained().partition("/")[2]) for _ in range(2))
    for number in (first, second):
        world("models", "alias", "walked", "historic", number)
    page = world.json("models", "history", "walked@historic", operation=f"GET {ALIAS}/history")
    items, rows = world.lines("models", "history", "walked@historic")
    rest = world("models", "history", "walked@historic", "--limit", 1).stderr
    world("models", "rollback", "walked@historic")
    none = world("models", "rollback", "walked@historic", code=5)

    assert items == page["data"]
    assert [(int(row["version"]), row["previous"]) for row in rows] == [(second, str(first)), (first, "")]
    assert rest.startswith("There are more: modelyard models history walked@historic --limit 1 --after ")
    assert none.stderr.endswith("See where it pointed with: modelyard models history walked@historic\n")
    assert "walked@champion" in world("models", "history", "walked/1", code=2).stderr


def models_delete(world: World) -> None:
    assert world("models", "delete", world.trained(), "--yes", "-o", "json", code=5).stdout == ""  # the champion
    first, second, _ = (world.trained() for _ in range(3))
    found = world.json("models", "delete", first, "--yes")
    [item] = world("models", "delete", second, "--yes", "-o", "jsonl").stdout.splitlines()

    assert found == {"model": "walked", "versions": [int(first.partition("/")[2])]}
    assert json.loads(item) == {"model": "walked", "versions": [int(second.partition("/")[2])]}
    assert world("models", "show", first, code=4).stdout == ""


def models_verify(world: World) -> None:
    reference = world.trained()
    found = world.json("models", "verify", reference, operation="POST /v1/models/{name}/versions/{number}/verify")
    [item], [row] = world.lines("models", "verify", reference)

    assert found["ok"]
    assert item["ok"]
    assert row["version"] == reference


def models_loaded(world: World) -> None:
    reference = world.trained()
    world("models", "load", reference)
    found = world.json("models", "loaded", operation="GET /v1/loaded")
    items, rows = world.lines("models", "loaded")

    assert len(items) == len(rows) == len(found["data"])
    assert reference in [row["version"] for row in rows]


def models_load(world: World) -> None:
    reference = world.trained()
    operation = "POST /v1/models/{name}/versions/{number}/load"

    assert not world.json("models", "load", reference, "--dry-run", operation=operation)["loaded"]
    assert world.json("models", "load", reference, operation=operation)["loaded"]


def models_unload(world: World) -> None:
    reference = world.trained()
    world("models", "load", reference)

    assert world.json("models", "unload", reference, operation="POST /v1/models/{name}/versions/{number}/unload")[
        "drained"
    ]


# -- datasets ---------------------------------------------------------------------------------------------------------


def datasets_add(world: World) -> None:
    common = ("datasets", "add", world.table(), "--target", "price", "--name", "walked")
    found = world.json(*common, operation="POST /v1/datasets", status="201")

    assert (found["name"], found["rows"]) == ("walked", 40)


def datasets_list(world: World) -> None:
    world("datasets", "add", world.table(), "--target", "price", "--name", "walked")
    page = world.json("datasets", "list", operation="GET /v1/datasets")
    items, rows = world.lines("datasets", "list")

    assert items == page["data"]
    assert len(rows) == len(items)


def datasets_preview(world: World) -> None:
    added = world.json("datasets", "add", world.table(), "--target", "price")["id"]
    world.json("datasets", "preview", added, operation="GET /v1/datasets/{dataset_id}/preview")
    items, rows = world.lines("datasets", "preview", added, "--limit", 2)

    assert [list(map(str, item.values())) for item in items] == [list(row.values()) for row in rows]
    assert len(rows) == 2


# -- the server -------------------------------------------------------------------------------------------------------


def tensorboard(world: World) -> None:
    world.trained()
    job_id = world.json("jobs", "show", "last")["id"]
    done = world("tensorboard", job_id, "--logdir", world.folder / "log", "--once")

    assert done.stdout == f"1 jobs written to {world.folder / 'log'}.\n"
    assert [path for path in (world.folder / "log").rglob("events.out.tfevents.*") if path.stat().st_size > 1000]


def serve(world: World) -> None:
    log = world.folder / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--store", str(world.folder / "store")],
            env=world.environment(log_format="json"), cwd=world.folder, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        found = wait_for(lambda: re.search(r'.*"listening".*\n', log.read_text()), timeout=60)
        url = json.loads(found[0])["url"]

        assert world.json("models", "list", operation="GET /v1/models", url=url)["data"] == []
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait(10)


def demo(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "demo"],
        env=world.environment(), cwd=world.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    halves = re.findall(r"f\(0\.5\) = (\S+) ", done.stdout)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "→ version 1 of 'quadratic', loss 0.0" in done.stdout
    assert [float(one) for one in halves] == [pytest.approx(0.35, abs=0.1)]
    assert re.search(r"^From the server's start to the first answer: \d+\.\d s$", done.stdout, re.MULTILINE)


def keys_create(world: World) -> None:
    """A key that this command makes opens a server that runs already, within seconds."""
    first = made(world, "--name", "first", "--scope", "admin")
    with_keys = Server(world.folder / "store", api_keys_file=str(world.folder / "keys.toml")).start()
    try:
        more = ("--name", "second", "--scope", "read", "--expires", "1h", "--requests-per-minute", 600)
        told = world.json("keys", "create", *more, "--file", world.folder / "keys.toml")
        second = told["key"]
        assert set(told) == RECORD | {"key"}
        assert (told["name"], told["state"], told["requests_per_minute"]) == ("second", "live", 600)
        assert asked(with_keys, first) == 200
        wait_for(lambda: asked(with_keys, second) == 200)
        world("keys", "revoke", "first", "--file", world.folder / "keys.toml")
        wait_for(lambda: asked(with_keys, first) == 401)
        assert asked(with_keys, second) == 200
    finally:
        assert with_keys.stop() == 0


def keys_list(world: World) -> None:
    """What keys are for, never the keys nor their digests."""
    file = world.folder / "keys.toml"
    key = made(world, "--name", "first", "--scope", "admin")
    found = world.json("keys", "list", "--file", file)
    items, rows = world.lines("keys", "list", "--file", file)
    lines = world("keys", "list", "--file", file).stdout.splitlines()

    [told] = found["data"]
    assert set(told) == RECORD
    assert (told["name"], told["scope"], told["state"], told["expires"]) == ("first", "admin", "live", None)
    assert told["id"] == key.split("_")[1]
    assert items == [told]
    assert [(row["id"], row["name"]) for row in rows] == [(told["id"], "first")]
    assert [line.split()[1:4] for line in lines] == [["NAME", "SCOPE", "STATE"], ["first", "admin", "live"]]
    assert key.split("_")[2] not in json.dumps(found)


def keys_rotate(world: World) -> None:
    file = world.folder / "keys.toml"
    old = made(world, "--name", "first", "--scope", "admin")
    found = world.json("keys", "rotate", "first", "--overlap", "1h", "--file", file)

    assert set(found) == RECORD | {"key"}
    assert KEY.fullmatch(found["key"])
    assert found["key"] != old
    assert [one["id"] for one in world.json("keys", "list", "--file", file)["data"]] == [old.split("_")[1], found["id"]]


def keys_revoke(world: World) -> None:
    file = world.folder / "keys.toml"
    key = made(world, "--name", "first", "--scope", "admin")
    found = world.json("keys", "revoke", "first", "--file", file)

    assert found == {"revoked": [{"id": key.split("_")[1], "name": "first", "scope": "admin"}]}
    assert world.json("keys", "list", "--file", file) == {"data": []}


def made(world: World, *arguments: str) -> str:
    """A new key in the keys file, as people are shown it."""
    shown = world("keys", "create", *arguments, "--file", world.folder / "keys.toml").stdout.strip()
    assert KEY.fullmatch(shown)
    return shown


def asked(server: Server, key: str) -> int:
    """The status of an answer to a key."""
    return httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


def config_show(world: World) -> None:
    found = world.json("config", "show")
    items, rows = world.lines("config", "show", "--origin")

    assert found.keys() == {"data"}
    assert [line.keys() for line in found["data"]] == [{"setting", "value", "origin"}] * len(found["data"])
    assert {line["setting"] for line in found["data"]} >= {"MODELYARD_STORE", "MODELYARD_PORT"}
    assert items == found["data"]
    assert [row["setting"] for row in rows] == [item["setting"] for item in items]


def doctor(world: World) -> None:
    found = world.json("doctor", world.file("job.json", ENDED))

    assert found.keys() == {"data"}
    assert [line.keys() for line in found["data"]] == [{"what", "verdict", "detail"}] * len(found["data"])
    assert {line["verdict"] for line in found["data"]} <= {"ok", "note", "bad"}
    told = {line["what"]: line for line in found["data"]}
    assert told["server"]["verdict"] == told["job.json"]["verdict"] == "ok"
    assert world.server.url in told["server"]["detail"]


def store_fsck(world: World) -> None:
    reference = world.trained()
    found = world.json("store", "fsck", "--model", "walked")
    items, rows = world.lines("store", "fsck", "--model", "walked")

    assert found.keys() == {"data"}
    assert {"version": reference, "state": "ready", "ok": True, "wrong": []} in found["data"]
    assert items == found["data"]
    assert reference in [row["version"] for row in rows]


def store_gc(world: World) -> None:
    with world.server.client() as client:
        upload = client.post("/v1/uploads", content=b"x,y\n1,2\n").json()["id"]
    common = ("store", "gc", "--older-than-days", 0, "--dry-run")
    found = world.json(*common)
    items, rows = world.lines(*common)

    assert found.keys() == {"data"}
    assert {"upload": upload, "size_bytes": 8, "removed": False} in found["data"]
    assert items == found["data"]
    assert [row["upload"] for row in rows] == [item["upload"] for item in items]


def store_rebuild(world: World) -> None:
    def run(store: Path, form: str = "table") -> subprocess.CompletedProcess[str]:
        """In a process of its own, which sets its logging up."""
        words = [sys.executable, "-m", "service.cli", "store", "rebuild", "--store", str(store), "-o", form]
        return subprocess.run(words, env=world.environment(), capture_output=True, text=True, timeout=60)

    reference = world.trained()
    copies = [world.folder / f"copy-{number}" for number in range(3)]
    for copy in copies:
        shutil.copytree(world.server.store / "models", copy / "models")
    taken, nothing = run(world.server.store), run(world.folder / "nothing")
    found, again = json.loads(run(copies[0], "json").stdout), json.loads(run(copies[0], "json").stdout)
    items = [json.loads(line) for line in run(copies[1], "jsonl").stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(run(copies[2], "csv").stdout)))

    assert (taken.returncode, "Another server holds this store" in taken.stderr) == (5, True)
    assert (nothing.returncode, nothing.stdout) == (4, "")
    assert {"version": reference, "state": "ready"} in [
        {name: line[name] for name in ("version", "state")} for line in found["data"]
    ]
    assert (again, items) == ({"data": []}, found["data"])
    assert [row["version"] for row in rows] == [item["version"] for item in items]
    renewed = Server(copies[0]).start()
    try:
        path = f"/v1/models/{reference.replace('/', '/versions/')}"
        with renewed.client() as client:
            answer = client.post("/predict", json={"model": reference, "inputs": [[0.5]]})
            source = client.get(f"{path}/architecture?view=python")
        assert (answer.status_code, source.status_code) == (200, 200), (answer.text, source.text)
    finally:
        renewed.stop()


COMMANDS: Final[dict[str, Callable[[World], None]]] = {
    "train": train,
    "predict": predict,
    "validate": validate,
    "import": import_,
    "export": export,
    "jobs list": jobs_list,
    "jobs show": jobs_show,
    "jobs watch": jobs_watch,
    "jobs logs": jobs_logs,
    "jobs cancel": jobs_cancel,
    "jobs pause": jobs_pause,
    "jobs resume": jobs_resume,
    "jobs retry": jobs_retry,
    "models list": models_list,
    "models show": models_show,
    "models versions": models_versions,
    "models compare": models_compare,
    "models alias": models_alias,
    "models rollback": models_rollback,
    "models history": models_history,
    "models delete": models_delete,
    "models verify": models_verify,
    "models loaded": models_loaded,
    "models load": models_load,
    "models unload": models_unload,
    "datasets add": datasets_add,
    "datasets list": datasets_list,
    "datasets preview": datasets_preview,
    "tensorboard": tensorboard,
    "serve": serve,
    "demo": demo,
    "keys create": keys_create,
    "keys list": keys_list,
    "keys rotate": keys_rotate,
    "keys revoke": keys_revoke,
    "config show": config_show,
    "doctor": doctor,
    "store fsck": store_fsck,
    "store gc": store_gc,
    "store rebuild": store_rebuild,
}
"""What is tried of each command; one that is not here has no test."""


@pytest.mark.parametrize("name", [name for name, _ in leaves()])
def test_each_command_does_its_work_and_answers_in_every_form(name: str, world: World) -> None:
    COMMANDS[name](world)


def test_the_table_names_no_command_that_there_is_not() -> None:
    assert set(COMMANDS) == {name for name, _ in leaves()}


def test_each_command_that_tells_something_has_a_form_for_programs() -> None:
    """The others run until they are stopped, or write files."""
    without = {
        name for name, command in leaves() if not any("--output" in parameter.opts for parameter in command.params)
    }

    assert without == {"serve", "demo", "tensorboard"}


def test_what_only_http_refuses_has_a_class_of_its_own_too(world: World) -> None:
    """A key that no server would read is the command's fault, so it ends as a wrong request does."""
    endless = "m" * 40_000
    refused = world("jobs", "list", "--api-key", endless, code=7).stderr
    with Client(world.server.url, api_key=endless) as client, pytest.raises(HeadersTooLarge):
        client.jobs.list()

    assert refused.startswith("The request line and the headers have more bytes than this server accepts.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_words_of_the_command_are_completed_in_each_shell(shell: str, tmp_path: Path) -> None:
    """The script that `--show-completion` prints is what `--install-completion` leaves; it asks the command as here."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    command = "import sys; sys.argv[0] = 'modelyard'; from service.cli import main; main()"

    def completed(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", command, *arguments],
            env=environment | more, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not done.stderr, done.stderr
        return done.stdout

    shown = completed("--show-completion", shell)
    told = completed("--install-completion", shell)
    written = [path for path in tmp_path.rglob("*modelyard*") if path.is_file()]
    asked = {
        "bash": {"COMP_WORDS": "modelyard jobs wa", "COMP_CWORD": "2", "_MODELYARD_COMPLETE": "complete_bash"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "modelyard jobs wa", "_MODELYARD_COMPLETE": "complete_zsh"},
        "fish": {
            "_TYPER_COMPLETE_ARGS": "modelyard jobs wa",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_MODELYARD_COMPLETE": "complete_fish",
        },
    }[shell]

    assert "_MODELYARD_COMPLETE" in shown
    assert [path.read_text().strip() for path in written] == [shown.strip()]
    assert str(written[0]) in told.replace("\n", "")
    assert "watch" in completed(**asked)
