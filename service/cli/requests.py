"""Requests as people write them: JSON, YAML or TOML files, in which a local file may stand where an upload is named.

`file` beside `type` in a dataset's source, or in an import, is uploaded and becomes `upload`; so do `targets_file` and
`labels_file`. An architecture may be the name of a file. Paths count from the folder of the request. Knows no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import typer

from service.cli import exits
from service.cli.output import say

SUFFIXES: Final = (".json", ".yaml", ".yml", ".toml")
_UPLOADED: Final = {"file": "upload", "targets_file": "targets", "labels_file": "labels"}


def read(path: Path) -> dict[str, Any]:
    """A file's object.

    Raises:
        typer.Exit: it cannot be read as one; that was told.
    """
    text = path.read_text(encoding="utf-8-sig")
    try:
        found = _parsed(path.suffix.lower(), text)
    except ValueError as error:
        say(f"{path} cannot be read: {' '.join(str(error).split())}.")
        raise typer.Exit(exits.INVALID) from None
    if not isinstance(found, dict):
        say(f"{path} holds no object: a request has members such as `kind`.")
        raise typer.Exit(exits.INVALID)
    return found


def _parsed(suffix: str, text: str) -> Any:
    if suffix == ".toml":
        import tomllib

        return tomllib.loads(text)
    if suffix in (".yaml", ".yml"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
    import json

    return json.loads(text)


def complete(request: dict[str, Any], *, folder: Path, upload: Callable[[Path], str]) -> dict[str, Any]:
    """The request as the server takes it: local files uploaded, an architecture's file read.

    Args:
        request: as it was written.
        folder: where paths in it count from.
        upload: sends a file and answers its id.
    """
    found = dict(request)
    architecture = found.get("architecture")
    if isinstance(architecture, str) and architecture.endswith(SUFFIXES):
        found["architecture"] = read(folder / architecture)
    if isinstance(found.get("dataset"), dict):
        found["dataset"] = _uploaded(found["dataset"], folder=folder, upload=upload)
    if found.get("kind") == "import":
        found = _uploaded(found, folder=folder, upload=upload)
    return found


def _uploaded(members: dict[str, Any], *, folder: Path, upload: Callable[[Path], str]) -> dict[str, Any]:
    found = {name: value for name, value in members.items() if name not in _UPLOADED}
    for name, member in _UPLOADED.items():
        if isinstance(members.get(name), str):
            found[member] = upload(folder / members[name])
    return found
