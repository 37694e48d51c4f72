"""The commands on this machine's side: `config show`, and `doctor`, which looks for what would stand in the way."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from service.cli import exits, requests
from service.cli.datasets import uploading
from service.cli.output import Column, Format, clean, show, size
from service.cli.session import Session, talks
from service.cli.settings import settings_of

config = typer.Typer(name="config", help="What the server's settings are.", no_args_is_help=True)

_EXTRAS: Final = {
    "postgres": "psycopg",
    "onnx": "onnx",
    "parquet": "pyarrow",
    "images": "PIL",
    "pandas": "pandas",
    "tensorboard": "tensorboard",
    "grpc": "grpc",
    "oidc": "joserfc",
    "otel": "opentelemetry.sdk",
}
"""Extras and a module of each."""
_HIDDEN: Final = ("api_keys",)


@config.command("show")
def show_settings(
    origin: Annotated[bool, typer.Option("--origin", help="Also where each value comes from.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not the default.")] = False,
    output: Annotated[Format, typer.Option("--output", "-o", help="For people, or for programs.")] = Format.TABLE,
) -> None:
    """Show every setting as `serve` would take it here: flag > environment > .env > TOML file > default."""
    settings, origins = settings_of()
    lines = [
        {
            "setting": f"MODELYARD_{name.upper()}",
            "value": _value(name, getattr(settings, name)),
            "origin": origins.get(name, "default"),
        }
        for name in type(settings).model_fields
        if not changed or name in origins
    ]
    columns: list[Column] = [("setting", lambda line: line["setting"]), ("value", lambda line: line["value"])]
    if origin:
        columns.append(("origin", lambda line: line["origin"]))
    show(output, {"data": lines}, lines, columns)


def _value(name: str, value: Any) -> Any:
    if name in _HIDDEN and value is not None:
        return "********"
    if name == "database_url" and value:
        head, at, tail = str(value).rpartition("@")
        user = head.rpartition("://")[2].partition(":")[0]
        return f"{head.rpartition('://')[0]}://{user}:********@{tail}" if at else value
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True, slots=True)
class _Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    detail: str


@talks
def doctor(
    session: Session,
    request: Annotated[
        Path | None, typer.Argument(help="A train request, which a running server then examines.", show_default=False)
    ] = None,
) -> None:
    """Look for what would stand in the way: Python, torch, the store, the port, extras, the server; a request's data.

    Ends with 1 if something is bad.
    """
    server = _server(session)
    found = [_python(), _torch(), *_server_side(session.client.url, server), *_extras(), server]
    if request is not None:
        found += _examined(session, request)
    columns: list[Column] = [
        ("", lambda one: one.verdict),
        ("what", lambda one: one.what),
        ("detail", lambda one: one.detail),
    ]
    lines = [{"what": one.what, "verdict": one.verdict, "detail": one.detail} for one in found]
    if session.format is Format.TABLE:
        show(session.format, None, found, columns)
    else:
        names: list[Column] = [(name, lambda line, name=name: line[name]) for name in lines[0]]  # type: ignore[misc]
        show(session.format, {"data": lines}, lines, names)
    if any(one.verdict == "bad" for one in found):
        raise typer.Exit(exits.FAILURE)


def _python() -> _Finding:
    told = ".".join(map(str, sys.version_info[:3]))
    return _Finding("python", "ok" if sys.version_info >= (3, 11) else "bad", f"{told} at {sys.executable}")


def _torch() -> _Finding:
    """Asked of another process: this one stays light."""
    import subprocess

    script = "import torch; print(torch.__version__, torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
        return _Finding("torch", "bad", f"{clean(last)}. The server needs it; client and command do not.")
    version, devices = done.stdout.split()
    return _Finding("torch", "ok", f"{version}, {devices} CUDA devices")


def _server_side(url: str, server: _Finding) -> list[_Finding]:
    """The store and the port that `serve` would take here; a port is well used by the server that was found there."""
    import shutil

    from service.cli.serving import unbindable

    settings, _ = settings_of()
    folder = settings.store
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK | os.X_OK):
        store = _Finding("store", "bad", f"{folder} cannot be written to. Choose another with --store.")
    elif free < 2 * settings.reserve_bytes:
        store = _Finding("store", "bad", f"{settings.store}: only {size(free)} of the disk are free.")
    else:
        made = "" if settings.store.exists() else ", will be made"
        store = _Finding("store", "ok", f"{settings.store}{made}, {size(free)} free")
    refused = unbindable(settings.host, settings.port)
    port = _Finding("port", "note" if refused else "ok", refused or f"{settings.host}:{settings.port} is free")
    if refused and server.verdict == "ok" and _is_at(url, settings.host, settings.port):
        port = _Finding("port", "ok", f"{settings.host}:{settings.port} has the server that answers at {url}")
    return [store, port]


def _is_at(url: str, host: str, port: int) -> bool:
    """Whether a server's address is that which a host and a port of this machine make."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    here = {"127.0.0.1", "localhost", "::1"}
    every = {"0.0.0.0", "::"}  # noqa: S104  nothing is bound here
    known = here | {host} if host in here | every else {host}
    return (parts.port or {"https": 443}.get(parts.scheme, 80)) == port and parts.hostname in known


def _extras() -> list[_Finding]:
    from importlib.util import find_spec

    return [
        _Finding(f"extra {extra}", "ok", "is there")
        if find_spec(module)
        else _Finding(f"extra {extra}", "note", f"is not there: pip install 'modelyard[{extra}]'")
        for extra, module in _EXTRAS.items()
    ]


def _server(session: Session) -> _Finding:
    from service.errors import ServiceError

    client = session.client
    try:
        about = client.server.version()
        client.server.ready()
    except ServiceError as error:
        return _Finding("server", "note", f"{error.message} {error.hint or ''}".strip())
    return _Finding("server", "ok", f"{client.url}: release {about.get('version')}, torch {about.get('torch')}, ready")


def _examined(session: Session, path: Path) -> list[_Finding]:
    """What a dry run says of a request."""
    from service.errors import ServiceError

    client = session.client
    try:
        with ExitStack() as undo:
            request = requests.complete(requests.read(path), folder=path.parent, upload=uploading(client, undo))
            found = client.jobs.examine(request)
    except ServiceError as error:
        entries = error.errors or ()
        told = [_Finding(path.name, "bad", f"{one.pointer}: {one.detail} {one.hint or ''}".strip()) for one in entries]
        return told or [_Finding(path.name, "bad", error.message)]
    told = [
        _Finding(
            path.name,
            "bad" if one.severity == "error" else "note",
            f"{one.pointer}: {one.detail} {one.hint or ''}".strip() + (f" Mend: {one.patch}" if one.patch else ""),
        )
        for one in found.warnings
    ]
    seconds = "unknown" if found.estimate_s is None else f"{found.estimate_s:.1f} s"
    return [
        *told,
        _Finding(path.name, "ok" if found.valid else "bad", f"would take {seconds}, {size(found.memory_bytes)}"),
    ]
