"""The command `modelyard`: words of the client, and `serve`.

Light: nothing but `serve` loads torch or the server, and a command imports what it needs when it runs. Each module here
holds the commands of one topic; this one puts them together.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from service import __version__
from service.cli import (
    configuration,
    datasets,
    exits,
    jobs,
    keys,
    models,
    predictions,
    serving,
    store,
    tensorboard,
    training,
    transfer,
)
from service.cli.output import Format, say

app = typer.Typer(
    name="modelyard",
    help="Train, version and serve PyTorch models over HTTP, as data.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"modelyard {__version__}")
        raise typer.Exit


_COMMON: Final = "Server and output, of every command that asks a server"


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="The server's address, else MODELYARD_URL.", rich_help_panel=_COMMON)
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="The API key; better by MODELYARD_API_KEY.", rich_help_panel=_COMMON)
    ] = None,
    output: Annotated[
        Format | None, typer.Option("--output", "-o", help="For people, or for programs.", rich_help_panel=_COMMON)
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Train, version and serve PyTorch models over HTTP, as data."""
    group: Any = context.command
    called = group.get_command(context, context.invoked_subcommand)
    given = [f"--{name}" for name, value in (("url", url), ("api-key", api_key), ("output", output)) if value]
    if given and called is not None and not any(parameter.name == "url" for parameter in called.params):
        say(f"{', '.join(given)}: only commands that ask a server take this before their name; {called.name} does not.")
        raise typer.Exit(exits.USAGE)


_SERVER: Final = "The server"
_WORK: Final = "From data to predictions"
_KEPT: Final = "What is there"

app.command(rich_help_panel=_WORK)(training.train)
app.command(rich_help_panel=_WORK)(predictions.predict)
app.command(rich_help_panel=_WORK)(training.validate)
app.command("import", rich_help_panel=_WORK)(transfer.import_)
app.command(rich_help_panel=_WORK, context_settings={"allow_extra_args": True})(transfer.export)
app.add_typer(jobs.app, rich_help_panel=_KEPT)
app.add_typer(models.app, rich_help_panel=_KEPT)
app.add_typer(datasets.app, rich_help_panel=_KEPT)
app.command(rich_help_panel=_KEPT)(tensorboard.tensorboard)
app.command(rich_help_panel=_SERVER)(serving.serve)
app.command(rich_help_panel=_SERVER)(serving.demo)
app.add_typer(keys.app, rich_help_panel=_SERVER)
app.add_typer(configuration.config, rich_help_panel=_SERVER)
app.command(rich_help_panel=_SERVER)(configuration.doctor)
app.add_typer(store.app, rich_help_panel=_SERVER)


_OF_THE_SERVER: Final = frozenset({"fastapi", "numpy", "prometheus_client", "pydantic_settings", "sqlalchemy", "torch"})
"""Modules that a machine does without on which only the client is installed: the first ones that a command asks for."""


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except ModuleNotFoundError as error:
        if error.name not in _OF_THE_SERVER:
            raise
        say(f"This is done where the server is installed; here {error.name} is missing. See `pip install modelyard`.")
        raise SystemExit(exits.USAGE) from None
