"""The server's settings as a command on this machine finds them: what `serve` would take, and where it comes from.

Knows no server that runs.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from service.cli import exits
from service.cli.output import say

if TYPE_CHECKING:
    from pydantic_settings import EnvSettingsSource

    from service.settings import Settings


def settings_of(**options: Any) -> tuple[Settings, dict[str, str]]:
    """The settings, and of those that somebody set by what; wrong ones are told, and end the command.

    Args:
        options: of the command, which come before all else; None where one was not given.
    """
    from pydantic import ValidationError
    from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

    from service.settings import Settings

    given = {name: value for name, value in options.items() if value is not None}
    origins = dict.fromkeys(given, "option")
    wrong: list[str] = []
    dotenv = Path(".env").absolute()
    try:
        places = [("environment", EnvSettingsSource(Settings)), (str(dotenv), DotEnvSettingsSource(Settings))]
    except (OSError, UnicodeDecodeError) as error:
        _refuse([f"{dotenv} cannot be read: {_because(error)}. Mend the file, or move it away."])
    for place, source in places:
        wrong += _no_lists(place, source)
    if named := os.environ.get("MODELYARD_CONFIG"):
        members = _members(named)
        wrong += _unknown(named, members, Settings.model_fields)
    if wrong:
        _refuse(wrong)
    for place, source in places:
        origins = {**dict.fromkeys(source(), place), **origins}
    if named:
        origins = {**dict.fromkeys(members, named), **origins}
    try:
        return Settings(**given), origins
    except ValidationError as error:
        _refuse([_told(item, origins) for item in error.errors(include_url=False)])


def _refuse(wrong: list[str]) -> NoReturn:
    for line in wrong:
        say(line)
    raise typer.Exit(exits.USAGE)


def _no_lists(place: str, source: EnvSettingsSource) -> Iterator[str]:
    """What is wrong with the variables that are lists: these are JSON, and pydantic would name no variable."""
    for name, field in source.settings_cls.model_fields.items():
        text, _, is_json = source.get_field_value(field, name)
        try:
            source.prepare_field_value(name, field, text, is_json)
        except ValueError:
            right = json.dumps([part.strip(" '\"") for part in str(text).strip("[] ").split(",")], ensure_ascii=False)
            yield f"MODELYARD_{name.upper()} (from {place}): this is no JSON list. Write it as '{right}'."


def _members(named: str) -> dict[str, Any]:
    """What the TOML file of MODELYARD_CONFIG sets; a file that cannot be read ends the command."""
    path = Path(named).expanduser()
    try:
        if not path.is_file():  # a folder or a pipe is not read either
            _refuse([f"MODELYARD_CONFIG: there is no file {named}. Correct its path, or unset MODELYARD_CONFIG."])
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        what = str(error)
        what = what[:1].lower() + what[1:]
        _refuse([f"MODELYARD_CONFIG: {named} is no TOML: {what}. Write a setting a line, such as port = 8000."])
    except (OSError, UnicodeDecodeError) as error:
        _refuse([f"MODELYARD_CONFIG: {named} cannot be read: {_because(error)}. Name a TOML file in UTF-8."])


def _unknown(named: str, members: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Members of the TOML file that are no settings, each with the one that may be meant."""
    from service.schemas.document import nearest_hint

    for name in members:
        if name not in known:
            hint = nearest_hint(name.lower().removeprefix("modelyard_"), known)
            hint = hint or "Remove it, or correct its name: docs/reference/settings.md has them all."
            yield f"{name} (from {named}): there is no such setting. {hint}"


def _told(item: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """One of pydantic's mistakes as a line: which setting it is, by what it is set, and what would be right."""
    name, *inside = map(str, item["loc"])
    where = "".join(f", entry {int(place) + 1}" for place in inside if place.isdecimal())
    what = f"Write it as a list: {json.dumps([str(item['input'])])}" if item["type"] == "tuple_type" else item["msg"]
    return f"MODELYARD_{name.upper()} (from {origins.get(name, 'default')}){where}: {what}."


def _because(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text in UTF-8"
