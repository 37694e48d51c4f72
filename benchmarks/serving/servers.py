"""The servers under test: how each is installed, started, asked and ended. All listen on loopback only.

Knows each server's commands, settings and wire; measures nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from service.keys import Scope, make
from service.settings import Settings

HERE: Final = Path(__file__).resolve().parent
PEERS: Final = HERE / "peers"
CACHE: Final = HERE / ".cache"
CONSTRAINTS: Final = HERE.parents[1] / "constraints.txt"
INSTALL_S: Final = 1800
START_S: Final = 120
STOP_S: Final = 20
_FINAL: Final = frozenset({401, 403, 405, 415, 422})
"""Statuses that are no sign of a server that is still starting; 400 is one, of Triton's."""
TOLERANCE: Final = 5e-6
"""Between an answer and torch's own, so that two servers differ by 1e-5 at most."""

Wire = Literal["json", "bytes"]
"""How the rows of a request travel."""

DOCUMENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "m1": {
        "type": "Sequential",
        "layers": [
            {"type": "Linear", "in_features": 1, "out_features": 10},
            {"type": "ReLU"},
            {"type": "Linear", "in_features": 10, "out_features": 1},
        ],
    },
    "m3": {
        "type": "Sequential",
        "layers": [
            {"type": "Conv2d", "in_channels": 3, "out_channels": 32, "kernel_size": 5, "padding": 2},
            {"type": "MaxPool2d", "kernel_size": 2},
            {"type": "Conv2d", "in_channels": 32, "out_channels": 32, "kernel_size": 5, "padding": 2},
            {"type": "MaxPool2d", "kernel_size": 2},
            {"type": "Conv2d", "in_channels": 32, "out_channels": 64, "kernel_size": 5, "padding": 2},
            {"type": "MaxPool2d", "kernel_size": 2},
            {"type": "Flatten"},
            {"type": "Linear", "in_features": 1024, "out_features": 64},
            {"type": "Linear", "in_features": 64, "out_features": 10},
        ],
    },
}
"""The nets of `peers/nets.py` as our server takes them."""


class NotMeasured(Exception):
    """A server cannot be measured; the message says why."""


@dataclass(frozen=True)
class Asked:
    """What every server is asked: one row for one net, and where the net's weights lie.

    Args:
        net: its name.
        weights: a file of safetensors.
        row: the numbers of one row, without the size of a batch.
        answer: what the net makes of it, by torch itself.
    """

    net: str
    weights: Path
    row: np.ndarray[Any, np.dtype[np.float32]]
    answer: np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Request:
    """A request as bytes, and how its answer is read.

    Args:
        path: of the address.
        body: as it is sent.
        read: the numbers of an answer, from its headers and its body.
        headers: in full lines.
    """

    path: str
    body: bytes
    read: Callable[[Mapping[str, str], bytes], Sequence[float]]
    headers: tuple[str, ...] = ("Content-Type: application/json",)


@dataclass(frozen=True)
class Running:
    """A server that has been started.

    Args:
        pid: of the process whose descendants and itself are the server.
        url: without a path.
        doors: its ways in for each wire, by name; "" where there is only one.
    """

    pid: int
    url: str
    doors: Mapping[Wire, Mapping[str, Request]]


@dataclass(frozen=True)
class Server:
    """One row of the tables, or one for each of its doors.

    Args:
        name: as the tables say it.
        peer: what `--peers` calls it; the name of its requirements too.
        start: a context manager that starts and ends it, given what is asked and a folder of its own.
        variant: of ours: which one; "" is the one that all are compared with.
    """

    name: str
    peer: str
    start: Callable[[Asked, Path], AbstractContextManager[Running]]
    variant: str = ""


# -- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def process(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[int, Path]]:
    """A server process in a folder: its id and its log. At the end it and what it started are ended, by their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
            | {"OMP_NUM_THREADS": "1", "HOME": str(folder), "TMPDIR": str(folder), **environment},
            start_new_session=True,
        )
    try:
        yield started.pid, log
    finally:
        family = {pid: _started_at(pid) for pid in descendants(started.pid)}
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        _end(family)


def _end(family: Mapping[int, str | None]) -> None:
    """Give what a server has left behind a moment to end by itself, then end it."""
    deadline = time.monotonic() + 3
    left = dict(family)
    while left and time.monotonic() < deadline:
        left = {pid: since for pid, since in left.items() if since is not None and _started_at(pid) == since}
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, and they."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(_fields(entry)[1])
        except (OSError, IndexError):  # it has ended
            continue
    found = [pid]
    for each in found:  # grows as it goes
        found += [child for child, parent in parents.items() if parent == each]
    return found


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a server's processes have used, those that have ended included."""
    total = 0
    for each in descendants(pid):
        try:
            fields = _fields(Path(f"/proc/{each}/stat"))
        except OSError:
            continue
        total += sum(int(ticks) for ticks in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def _fields(stat: Path) -> list[str]:
    """The fields of a process after its name: state, parent, …"""
    return stat.read_text().rpartition(")")[2].split()


def _started_at(pid: int) -> str | None:
    """When a process was started, so that its id cannot mean another one; None when it has ended."""
    try:
        fields = _fields(Path(f"/proc/{pid}/stat"))
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def exposed(pid: int) -> list[str]:
    """The addresses other than loopback on which a server's processes listen: there must be none."""
    inodes = set()
    for each in descendants(pid):
        for descriptor in Path(f"/proc/{each}/fd").glob("*"):
            try:
                inodes.add(descriptor.readlink().name)
            except OSError:
                continue
    found = []
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            ours = f"socket:[{fields[9]}]" in inodes
            if ours and fields[3] == "0A" and address not in (loopback, "0000000000000000FFFF00000100007F"):
                found.append(f"{address}:{int(port, 16)}")
    return found


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, request: Request, *, timeout_s: float = 10) -> tuple[Mapping[str, str], bytes]:
    """Send a request; the headers (names in lower case) and the body of its answer."""
    asking = urllib.request.Request(url + request.path, request.body)
    for header in request.headers:
        asking.add_header(*header.split(": ", 1))
    with urllib.request.urlopen(asking, timeout=timeout_s) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}, answer.read()


def until_answered(running: Running, log: Path) -> None:
    """Wait until every door answers, and see that no address but loopback is listened on.

    Raises:
        NotMeasured: it ended, never answered, or is exposed.
    """
    deadline = time.monotonic() + START_S
    waiting = [request for doors in running.doors.values() for request in doors.values()]
    told = "nothing was answered"
    while waiting:
        if _started_at(running.pid) is None:
            raise NotMeasured(f"the server ended: {last_words(log)}")
        if time.monotonic() > deadline:
            raise NotMeasured(f"not ready after {START_S} s ({told}): {last_words(log)}")
        try:
            ask(running.url, waiting[0])
            waiting.pop(0)
        except urllib.error.HTTPError as error:
            told = f"HTTP {error.code} {error.read()[:200]!r}"
            if error.code in _FINAL:
                raise NotMeasured(told) from None
            time.sleep(0.2)
        except OSError as error:
            told = str(error)
            time.sleep(0.2)
    open_to_all = exposed(running.pid)
    if open_to_all:
        raise NotMeasured(f"it listens on other addresses than loopback: {', '.join(open_to_all)}")


def last_words(log: Path) -> str:
    """The end of what a server has said, on one line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace")) if log.exists() else ""
    return " ".join(text.split())[-300:] or "it said nothing"


# -- ours -------------------------------------------------------------------------------------------------------------


@contextmanager
def ours(asked: Asked, folder: Path, *, guarded: bool = True, workers: int = 1) -> Iterator[Running]:
    """Our server over a new store with the net in it.

    Args:
        asked: the net.
        folder: for its store and its log.
        guarded: with an API key that has quotas, metrics and limits; else by `bare.py`.
        workers: server processes on the port.
    """
    environment = {"MODELYARD_STORE": str(folder / "store"), "MODELYARD_LOG_FORMAT": "json"}
    headers: tuple[str, ...] = ()
    if workers > 1:
        if "workers" not in Settings.model_fields:
            raise NotMeasured("this version of Modelyard has no --workers")
        environment["MODELYARD_WORKERS"] = str(workers)
    if guarded:
        key, stored = make(
            "bench", Scope.ADMIN, now=datetime.now(UTC), requests_per_minute=10**9, rows_per_minute=10**9
        )
        environment["MODELYARD_API_KEYS"] = "[" + stored.model_dump_json() + "]"
        headers = (f"Authorization: Bearer {key}",)
    command = ["-m", "service.cli"] if guarded else [HERE / "bare.py"]
    given = ["serve", "--host", "127.0.0.1", "--port", "0"]
    with process([sys.executable, *command, *given], folder, environment) as (pid, log):
        url = _listening(log, pid)
        _publish(url, asked, headers)
        v2_json, v2_bytes = v2(asked, f"/v2/models/{asked.net}/infer", "x", headers)
        body = json.dumps({"model": asked.net, "inputs": [asked.row.tolist()]}).encode()
        plain = ("Content-Type: application/json", *headers)
        predict = Request("/predict", body, lambda _, answer: json.loads(answer)["outputs"][0], plain)
        running = Running(pid, url, {"json": {"/predict": predict, "/v2": v2_json}, "bytes": {"/v2": v2_bytes}})
        until_answered(running, log)
        yield running


def _listening(log: Path, pid: int) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and _started_at(pid) is not None:
        for line in log.read_bytes().splitlines():
            if b'"listening"' in line:
                url: str = json.loads(line)["url"]
                return url
        time.sleep(0.05)
    raise NotMeasured(f"the server did not start: {last_words(log)}")


def _publish(url: str, asked: Asked, headers: tuple[str, ...]) -> None:
    """Import the weights as the first version of the net."""
    binary = ("Content-Type: application/octet-stream", *headers)
    upload = Request("/v1/uploads", asked.weights.read_bytes(), lambda _, body: [], binary)
    job = {
        "kind": "import",
        "upload": json.loads(ask(url, upload)[1])["id"],
        "architecture": {
            "schema": "arch/1",
            "inputs": [{"name": "x", "shape": ["B", *asked.row.shape]}],
            "root": DOCUMENTS[asked.net],
        },
        "output": {"model": asked.net},
    }
    plain = ("Content-Type: application/json", "Prefer: wait=60", *headers)
    asking = Request("/v1/jobs", json.dumps(job).encode(), lambda _, body: [], plain)
    ended = json.loads(ask(url, asking, timeout_s=90)[1])
    if ended["state"] != "succeeded":
        raise NotMeasured(f"the import is {ended['state']}: {ended.get('error')}")


def v2(asked: Asked, path: str, tensor: str, headers: tuple[str, ...] = ()) -> tuple[Request, Request]:
    """One row in the Open Inference Protocol v2: as JSON, and with the binary extension."""
    described: dict[str, Any] = {"name": tensor, "shape": [1, *asked.row.shape], "datatype": "FP32"}
    body = json.dumps({"inputs": [{**described, "data": asked.row.ravel().tolist()}]}).encode()

    def read_json(_: Mapping[str, str], answer: bytes) -> Sequence[float]:
        outputs: Sequence[float] = json.loads(answer)["outputs"][0]["data"]
        return outputs

    raw = asked.row.tobytes()
    described["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()

    def read_bytes(given: Mapping[str, str], answer: bytes) -> Sequence[float]:
        numbers: list[float] = np.frombuffer(answer[int(given["inference-header-content-length"]) :], "<f4").tolist()
        return numbers

    binary = ("Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {len(head)}", *headers)
    plain = ("Content-Type: application/json", *headers)
    return Request(path, body, read_json, plain), Request(path, head + raw, read_bytes, binary)


# -- others in our own environment ------------------------------------------------------------------------------------


@contextmanager
def uvicorn(asked: Asked, folder: Path, *, module: str) -> Iterator[Running]:
    """One of the applications of `peers`, served as ours is."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--no-server-header"]
    environment = {"PYTHONPATH": str(PEERS), "BENCH_WEIGHTS": str(asked.weights)}
    with process([*command, "--log-level", "warning"], folder, environment) as (pid, log):
        body = json.dumps({"inputs": [asked.row.tolist()]}).encode()
        request = Request("/predict", body, lambda _, answer: json.loads(answer)["outputs"][0])
        doors: dict[Wire, Mapping[str, Request]] = {"json": {"": request}}
        if module == "echo":  # whatever is sent; it answers no question, so there is nothing to check
            silent = Request("/predict", body, lambda _, answer: asked.answer.tolist())
            raw = Request("/predict", asked.row.tobytes(), silent.read, ("Content-Type: application/octet-stream",))
            doors = {"json": {"": silent}, "bytes": {"": raw}}
        running = Running(pid, f"http://127.0.0.1:{port}", doors)
        until_answered(running, log)
        yield running


# -- peers ------------------------------------------------------------------------------------------------------------


def installed(peer: str) -> Path:
    """The folder of a peer's environment, made the first time and whenever its requirements have changed.

    Raises:
        NotMeasured: they cannot be installed; pip's own words say why.
    """
    requirements = PEERS / f"{peer}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    folder = CACHE / peer
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text() == digest:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Installing {peer} …", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=INSTALL_S)
    index = os.environ.get("TORCH_INDEX_URL")
    command: list[str | Path] = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command += ["-c", CONSTRAINTS, *(["--extra-index-url", index] if index else []), "-r", requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"pip was not done after {INSTALL_S} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise NotMeasured(f"pip: {' '.join((errors or done.stderr.splitlines())[-1:])[-300:]}")
    stamp.write_text(digest)
    return folder


@contextmanager
def peer(
    name: str,
    asked: Asked,
    folder: Path,
    *,
    command: Sequence[str | Path],
    doors: Mapping[Wire, Request],
    port: int,
    environment: Mapping[str, str],
) -> Iterator[Running]:
    """A peer that is installed: `command` begins with a program of its environment."""
    home = installed(name)
    settings = {
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PEERS),
        "BENCH_WEIGHTS": str(asked.weights),
        "BENCH_PORT": str(port),
        **environment,
    }
    with process([home / "bin" / command[0], *command[1:]], folder, settings) as (pid, log):
        running = Running(pid, f"http://127.0.0.1:{port}", {wire: {"": door} for wire, door in doors.items()})
        until_answered(running, log)
        yield running


def _example(asked: Asked, path: str) -> Request:
    """One row by itself, as most of them show it."""
    body = json.dumps({"x": asked.row.tolist()}).encode()
    return Request(path, body, lambda _, answer: json.loads(answer)["y"])


def _raw(asked: Asked, path: str) -> Request:
    """The bytes of one row."""
    headers = ("Content-Type: application/octet-stream",)
    return Request(path, asked.row.tobytes(), lambda _, answer: json.loads(answer)["y"], headers)


def _switch(batching: bool) -> dict[str, str]:
    return {"BENCH_BATCHING": "1"} if batching else {}


def litserve(asked: Asked, folder: Path, *, batching: bool) -> AbstractContextManager[Running]:
    """LitServe. It reads JSON and forms, not bytes."""
    return peer(
        "litserve",
        asked,
        folder,
        command=["python", PEERS / "litserve_service.py"],
        doors={"json": _example(asked, "/predict")},
        port=free_port(),
        environment=_switch(batching),
    )


def bentoml(asked: Asked, folder: Path, *, batching: bool) -> AbstractContextManager[Running]:
    """BentoML. Its arrays travel as JSON, or as pickles, which are no business of ours."""
    port = free_port()
    body = json.dumps({"x": [asked.row.tolist()]}).encode()
    path = "/predict_batched" if batching else "/predict"
    return peer(
        "bentoml",
        asked,
        folder,
        command=["bentoml", "serve", "bentoml_service:Net", "--host", "127.0.0.1", "--port", str(port)],
        doors={"json": Request(path, body, lambda _, answer: json.loads(answer)[0])},
        port=port,
        environment={"BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True"},
    )


def mlserver(asked: Asked, folder: Path, *, batching: bool) -> AbstractContextManager[Running]:
    """MLServer, in one process. Over HTTP it takes JSON."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings |= {"parallel_workers": 0, "debug": False}
    model: dict[str, Any] = {"name": "net", "implementation": "mlserver_service.Net"}
    if batching:
        model |= {"max_batch_size": 64, "max_batch_time": 0.001}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return peer(
        "mlserver",
        asked,
        folder,
        command=["mlserver", "start", folder],
        doors={"json": v2(asked, "/v2/models/net/infer", "x")[0]},
        port=port,
        environment={},
    )


def mosec(asked: Asked, folder: Path, *, batching: bool) -> AbstractContextManager[Running]:
    """mosec: a front in Rust and a worker for each of the two routes."""
    port = free_port()
    settings = {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": str(port), "MOSEC_LOG_LEVEL": "warning"}
    return peer(
        "mosec",
        asked,
        folder,
        command=["python", PEERS / "mosec_service.py"],
        doors={"json": _example(asked, "/inference"), "bytes": _raw(asked, "/bytes")},
        port=port,
        environment={**settings, **_switch(batching)},
    )


def pytriton(asked: Asked, folder: Path) -> AbstractContextManager[Running]:
    """NVIDIA's Triton with its dynamic batcher, by PyTriton.

    Its Python backend links to libpython; that must be this interpreter's, whose standard library it reads.
    """
    as_json, as_bytes = v2(asked, "/v2/models/net/infer", "x")
    return peer(
        "pytriton",
        asked,
        folder,
        command=["python", PEERS / "pytriton_service.py"],
        doors={"json": as_json, "bytes": as_bytes},
        port=free_port(),
        environment={"PYTRITON_HOME": str(folder / "home"), "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")},
    )


def torchserve(asked: Asked, folder: Path, *, batching: bool) -> AbstractContextManager[Running]:
    """TorchServe, where there is Java: a model archive with a handler, one worker."""
    if shutil.which("java") is None:
        raise NotMeasured("there is no Java on this machine")
    home = installed("torchserve")
    store = folder / "store"
    store.mkdir(parents=True)
    model = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 64 if batching else 1, "maxBatchDelay": 1}
    (folder / "model.yaml").write_text("".join(f"{name}: {value}\n" for name, value in model.items()))
    archive: list[str | Path] = [
        "--model-name",
        "net",
        "--version",
        "1.0",
        "--handler",
        PEERS / "torchserve_handler.py",
    ]
    archive += ["--extra-files", f"{asked.weights},{PEERS / 'nets.py'}", "--config-file", folder / "model.yaml"]
    archived = subprocess.run(
        [home / "bin" / "torch-model-archiver", *archive, "--export-path", store],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},  # two at a time would meet in the same folder
    )
    if archived.returncode:
        raise NotMeasured(f"torch-model-archiver: {archived.stderr[-300:]}")
    port = free_port()
    config = {"inference_address": port, "management_address": free_port(), "metrics_address": free_port()}
    lines = [f"{name}=http://127.0.0.1:{number}" for name, number in config.items()]
    lines += [f"grpc_{kind}_address=127.0.0.1\ngrpc_{kind}_port={free_port()}" for kind in ("inference", "management")]
    lines += ["disable_token_authorization=true", "disable_system_metrics=true", "job_queue_size=1000"]
    (folder / "config.properties").write_text("\n".join(lines) + "\n")
    command: list[str | Path] = [
        "torchserve",
        "--start",
        "--foreground",
        "--ncs",
        "--model-store",
        store,
        "--models",
        "net.mar",
    ]
    return peer(
        "torchserve",
        asked,
        folder,
        command=[*command, "--ts-config", folder / "config.properties", "--disable-token-auth"],
        doors={"json": _example(asked, "/predictions/net"), "bytes": _raw(asked, "/predictions/net")},
        port=port,
        environment={"LOG_LOCATION": str(folder / "logs"), "METRICS_LOCATION": str(folder / "logs")},
    )


def _with(
    start: Callable[..., AbstractContextManager[Running]], **given: Any
) -> Callable[[Asked, Path], AbstractContextManager[Running]]:
    return lambda asked, folder: start(asked, folder, **given)


SERVERS: Final = (
    Server("modelyard", "modelyard", ours),
    Server("modelyard, no keys, metrics, limits", "modelyard", _with(ours, guarded=False), "bare"),
    Server("modelyard, two processes", "modelyard", _with(ours, workers=2), "two"),
    Server("raw ASGI echo", "echo", _with(uvicorn, module="echo")),
    Server("tutorial's FastAPI", "tutorial", _with(uvicorn, module="tutorial")),
    Server("LitServe", "litserve", _with(litserve, batching=False)),
    Server("LitServe, batching", "litserve", _with(litserve, batching=True)),
    Server("BentoML", "bentoml", _with(bentoml, batching=False)),
    Server("BentoML, batching", "bentoml", _with(bentoml, batching=True)),
    Server("MLServer", "mlserver", _with(mlserver, batching=False)),
    Server("MLServer, batching", "mlserver", _with(mlserver, batching=True)),
    Server("mosec", "mosec", _with(mosec, batching=False)),
    Server("mosec, batching", "mosec", _with(mosec, batching=True)),
    Server("Triton by PyTriton", "pytriton", pytriton),
    Server("TorchServe", "torchserve", _with(torchserve, batching=False)),
    Server("TorchServe, batching", "torchserve", _with(torchserve, batching=True)),
)
"""All rows, ours first."""


def start(server: Server, asked: Asked, folder: Path, stack: ExitStack) -> Running:
    """Start a server, and see that each of its doors answers as the net does.

    Raises:
        NotMeasured: it does not start, or answers otherwise.
    """
    try:
        running: Running = stack.enter_context(server.start(asked, folder))
        for doors in running.doors.values():
            for door, request in doors.items():
                found = np.asarray(request.read(*ask(running.url, request)), np.float64)
                if found.shape != asked.answer.shape or np.abs(found - asked.answer).max() > TOLERANCE:
                    raise NotMeasured(f"{door or 'it'} answers {found[:4]}, torch says {asked.answer[:4]}")
    except NotMeasured:
        raise
    except Exception as error:  # whatever is wrong with one server, the others go on
        raise NotMeasured(f"{type(error).__name__}: {error}") from error
    return running
