"""The commands `import` and `export`: weights and versions in and out of files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from service.cli import exits, requests
from service.cli.jobs import started
from service.cli.output import say, show_one, size
from service.cli.session import Session, talks

_SUFFIXES: Final = {"pt": ".pt", "safetensors": ".safetensors", "bundle": ".zip", "python": ".py", "onnx": ".onnx"}


@talks
def import_(
    session: Session,
    file: Annotated[
        Path, typer.Argument(help="A checkpoint (.pth, .pt, .safetensors, .mar), a bundle, or a request (JSON, …).")
    ],
    model: Annotated[str | None, typer.Option(help="The model that gets a new version.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="catalogue:NAME, a digest, JSON, or a file with an architecture document.")
    ] = None,
    forward: Annotated[
        list[str] | None, typer.Option(help="A line of the net's forward, if the file does not say it. Repeatable.")
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(help='What the net takes, as JSON: [{"name": "x", "shape": ["B", 1]}].')
    ] = None,
    part: Annotated[str | None, typer.Option(help="Which set of weights, where a checkpoint has several.")] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="FROM=TO", help="Another name for tensors of the file, as model.*=*. Repeatable."),
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Take numbers that are not finite as they are.")
    ] = False,
    alias: Annotated[str | None, typer.Option(help="An alias that gets the version.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")] = True,
) -> None:
    """Make a version of a file of weights. The file is read as data, and nothing in it runs."""
    client = session.client
    if file.suffix.lower() in requests.SUFFIXES:
        request = requests.complete(
            requests.read(file), folder=file.parent, upload=lambda one: client.uploads.add(one).id
        )
        request.setdefault("kind", "import")
    else:
        request = {"kind": "import", "upload": client.uploads.add(file).id}
    if arch is not None:
        request["architecture"] = _architecture(arch)
    if forward:
        request["forward"] = list(forward)
    if inputs is not None:
        request["inputs"] = _json(inputs)
    if part is not None:
        request["part"] = part
    if rename:
        request["rename"] = [_rule(one) for one in rename]
    if allow_nonfinite:
        request["allow_nonfinite"] = True
    if model is not None:
        request["output"] = {**request.get("output", {}), "model": model}
    if alias is not None:
        request["output"] = {**request.get("output", {}), "alias_on_success": alias}
    if "output" not in request:
        say("Say where it goes, with --model.")
        raise typer.Exit(exits.USAGE)
    started(session, client.jobs.submit(request), wait=wait)


@talks
def export(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name, name@alias or name/3.")],
    format: Annotated[str, typer.Option(help="pt, safetensors, bundle, python or onnx.")] = "bundle",
    to: Annotated[Path | None, typer.Option(help="The file; by default named after the version.")] = None,
) -> None:
    """Write a version to a file: its weights, all of it, its net as Python, or ONNX. The digest is checked."""
    if session.surplus:
        file = session.surplus[0]
        known = next((form for form, suffix in _SUFFIXES.items() if file.endswith(suffix)), format)
        words = ["modelyard", "export", model, "--format", known, "--to", file]
        say(f"The file is named with --to, as in: {shlex.join(words)}")
        raise typer.Exit(exits.USAGE)
    if format not in _SUFFIXES:
        say(f"--format is one of {', '.join(_SUFFIXES)}.")
        raise typer.Exit(exits.USAGE)
    if to is not None and not to.parent.is_dir():
        say(f"There is no folder {to.parent} to write to.")
        raise typer.Exit(exits.INVALID)
    client = session.client
    version = client.versions.resolve(model)
    name, number = version.model, version.version
    path = to or Path(f"{name}-{number}{_SUFFIXES[format]}")
    match format:
        case "pt":
            client.versions.weights(name, number, path, format="pt")
        case "safetensors":
            client.versions.weights(name, number, path, format="safetensors")
        case "bundle":
            client.versions.bundle(name, number, path)
        case "python":
            path.write_text(client.versions.python(name, number), encoding="utf-8")
        case _:
            job = client.jobs.submit({"kind": "export", "model": version.reference, "format": "onnx"})
            session.detached = f"Detached: the job goes on. Watch it with: modelyard jobs watch {job.id}"
            client.jobs.wait(job, progress=True)
            client.jobs.artifact(job, path)
    written = path.stat().st_size
    document = {"version": version.reference, "format": format, "file": str(path), "size_bytes": written}
    show_one(session.format, document, {**document, "size_bytes": size(written)})


def _architecture(text: str) -> Any:
    if text.startswith("catalogue:"):
        return {"catalogue": text.removeprefix("catalogue:")}
    if text.startswith("sha256:"):
        return text
    return _json(text) if text.lstrip().startswith("{") else requests.read(Path(text))


def _rule(text: str) -> dict[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not FROM=TO, as in model.*=*.", param_hint="--rename")
    return {"from": old.strip(), "to": new.strip()}


def _json(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        say(f"--inputs is no JSON: {error}.")
        raise typer.Exit(exits.USAGE) from None
