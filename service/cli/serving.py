"""The commands that run a server: `serve`, and `demo`, which starts one of its own and shows what it can do."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import exits
from service.cli.settings import settings_of
from service.schemas import examples


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of the store.")] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
    workers: Annotated[int | None, typer.Option(help="Server processes behind the port.")] = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    from service.errors import StoreError, StoreLocked, ValidationFailed

    settings, _ = settings_of(host=host, port=port, store=store, log_level=log_level, workers=workers)
    if settings.public and not settings.allow_anonymous and not settings.has_keys:
        typer.echo(
            f"Refused to listen on {settings.host}: anyone who reaches that address could train, publish and delete.\n"
            "Make API keys with `modelyard keys create`, and name their file in MODELYARD_API_KEYS_FILE.\n"
            "Or bind 127.0.0.1, or set MODELYARD_ALLOW_ANONYMOUS=1 if something else keeps strangers out.",
            err=True,
        )
        raise typer.Exit(exits.USAGE)
    wrong = _wrong_keys(settings.api_keys_file, settings.api_keys)
    if wrong is not None:
        typer.echo(wrong, err=True)
        raise typer.Exit(exits.USAGE)
    refused = unbindable(settings.host, settings.port)
    if refused is not None:
        typer.echo(refused, err=True)
        raise typer.Exit(exits.CONFLICT)
    if sys.stderr.isatty():
        typer.echo("Modelyard is starting…", err=True)  # it takes seconds, most of them for torch
    # The server forks, so no library may start threads in it when it is loaded.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # By name, so that nothing but this command ever loads torch.
    server = importlib.import_module("service.server" if settings.workers == 1 else "service.processes")
    try:
        status = server.run(settings)
    except StoreLocked as error:
        typer.echo(f"{error.message} Stop that server first, or choose another --store.", err=True)
        raise typer.Exit(exits.CONFLICT) from None
    except ValidationFailed as error:  # tokens cannot be verified as the settings say
        typer.echo(" ".join([error.message, *([error.hint] if error.hint else ())]), err=True)
        raise typer.Exit(exits.USAGE) from None
    except StoreError as error:
        typer.echo(f"The store {settings.store} cannot be served: {error.message}", err=True)
        raise typer.Exit(exits.FAILURE) from None
    raise typer.Exit(status)


def demo(
    keep: Annotated[bool, typer.Option(help="Leave the server running until Ctrl-C.")] = False,
) -> None:
    """Start a server of its own, train the x² net over HTTP, predict, and stop."""
    import httpx

    with tempfile.TemporaryDirectory(prefix="modelyard-demo-") as folder:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "MODELYARD_STORE": folder, "MODELYARD_LOG_LEVEL": "WARNING"}
        for name in ("MODELYARD_API_KEYS", "MODELYARD_API_KEYS_FILE"):  # keys of another server
            environment.pop(name, None)
        began = time.monotonic()
        server = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--port", str(port)], env=environment
        )
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                _await_ready(client, server)
                typer.echo(f"Server ready at {url} after {time.monotonic() - began:.1f} s")
                _tour(client, began)
            if keep:
                typer.echo(f"Look around at {url}/ui/ and {url}/docs; Ctrl-C ends the demo.")
                server.wait()
        except KeyboardInterrupt:
            pass
        except httpx.HTTPError as error:
            typer.echo(f"The server at {url} did not answer: {error}", err=True)
            raise typer.Exit(exits.UNREACHABLE) from None
        finally:
            _end(server)


def _tour(client: Any, began: float) -> None:
    """Train and predict, telling each call."""
    typer.echo("POST /v1/jobs      a 1-10-1 net, 100 rows of y = x² + noise, 200 steps of SGD")
    answer = client.post("/v1/jobs", json=examples.TRAIN, headers={"Prefer": "wait=30"})
    answer.raise_for_status()
    job = answer.json()
    if job["state"] != "succeeded":
        typer.echo(f"The job is {job['state']}: {job.get('error')}", err=True)
        raise typer.Exit(exits.FAILURE)
    loss = job["metrics"]["last"]["loss"]
    typer.echo(
        f"                   → version {job['output']['version']} of {job['output']['model']!r}, loss {loss:.4f}"
    )
    typer.echo('POST /predict      {"model": "quadratic@champion", "inputs": [[0.5], [0.7], [3.0]]}')
    answer = client.post("/predict", json={"model": "quadratic@champion", "inputs": [[0.5], [0.7], [3.0]]})
    answer.raise_for_status()
    prediction = answer.json()
    for x, y in zip((0.5, 0.7, 3.0), prediction["outputs"], strict=True):
        typer.echo(f"                   → f({x}) = {y[0]:.3f}   (x² and the mean of the noise: {x * x + 0.1:.2f})")
    for warning in prediction["warnings"]:
        typer.echo(f"                   ! {warning['detail']}")
    typer.echo(f"From the server's start to the first answer: {time.monotonic() - began:.1f} s")
    typer.echo("")
    typer.echo(f"Next: `{_command()} serve`, then open the dashboard at http://127.0.0.1:8000/ui/ or the API at /docs.")
    typer.echo("Every call above is plain HTTP; README.md and docs/quickstart.md show them with curl.")


def _command() -> str:
    """What to type for this command: `make demo` calls it by its path, where no shell would find the bare name."""
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "modelyard" and not shutil.which("modelyard") else "modelyard"


def _await_ready(client: Any, server: subprocess.Popen[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            typer.echo(f"The server ended with status {server.returncode}.", err=True)
            raise typer.Exit(exits.UNREACHABLE)
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    typer.echo("The server was not ready within 60 s.", err=True)
    raise typer.Exit(exits.UNREACHABLE)


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wrong_keys(file: Path | None, inline: str | None) -> str | None:
    """Why the keys cannot be used, with every mistake; told now, not after seconds of starting."""
    from service.errors import ServiceError
    from service.keys import Guard

    try:
        Guard(file=file, inline=inline)
    except ServiceError as error:
        return "\n".join([error.message, *(f"  {entry.pointer}: {entry.detail}" for entry in error.errors)])
    return None


def unbindable(host: str, port: int) -> str | None:
    """Why nothing can listen there, in a sentence with what to do; told now, not after seconds of starting."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the server: one that just ended is no hindrance
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            detail = f"Port {port} of {host} is in use: another server listens there."
            return f"{detail} Stop that one, or choose another port with --port; --port 0 takes a free one."
        if error.errno == errno.EACCES:
            return f"Port {port} of {host} may not be bound by this user. Choose one above 1023 with --port."
        return f"{host} cannot be listened on: {error.strerror or error}. Choose another address with --host."
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
