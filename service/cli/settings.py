"""The server's settings as a command on this machine finds them: what `serve` would take, and where it comes from.

Knows no server that runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from service.cli import exits
from service.cli.output import say

if TYPE_CHECKING:
    from service.settings import Settings


def settings_of(**options: Any) -> tuple[Settings, dict[str, str]]:
    """The settings, and of those that somebody set by what; wrong ones are told, and end the command.

    Args:
        options: of the command, which come before all else; None where one was not given.
    """
    from pydantic import ValidationError
    from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource, TomlConfigSettingsSource

    from service.settings import Settings

    sources: list[tuple[str, Any]] = [("environment", EnvSettingsSource(Settings))]
    sources.append((f"{Path('.env').absolute()}", DotEnvSettingsSource(Settings)))
    named = os.environ.get("MODELYARD_CONFIG")
    if named:
        sources.append((named, TomlConfigSettingsSource(Settings, toml_file=Path(named))))
    given = {name: value for name, value in options.items() if value is not None}
    origins = dict.fromkeys(given, "option")
    for place, source in sources:
        for name in source():
            origins.setdefault(name, place)
    try:
        return Settings(**given), origins
    except ValidationError as error:
        for item in error.errors(include_url=False):
            name = "_".join(map(str, item["loc"]))
            say(f"MODELYARD_{name.upper()} (from {origins.get(name, 'default')}): {item['msg']}.")
        raise typer.Exit(exits.USAGE) from None
