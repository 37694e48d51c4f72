"""The command `modelyard`: words of the client, and `serve`.

Light: nothing but `serve` loads torch or the server, and a command imports what it needs when it runs. Each module here
holds the commands of one topic; this one puts them together.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from service import __version__
from service.cli import (
    configuration,
    datasets,
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

app = typer.Typer(
    name="modelyard",
    help="Train, version and serve PyTorch models over HTTP, as data.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"modelyard {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Train, version and serve PyTorch models over HTTP, as data."""


_SERVER: Final = "The server"
_WORK: Final = "From data to predictions"
_KEPT: Final = "What is there"

app.command(rich_help_panel=_WORK)(training.train)
app.command(rich_help_panel=_WORK)(predictions.predict)
app.command(rich_help_panel=_WORK)(training.validate)
app.command("import", rich_help_panel=_WORK)(transfer.import_)
app.command(rich_help_panel=_WORK)(transfer.export)
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


def main() -> None:
    """Entry point of the command."""
    app()
