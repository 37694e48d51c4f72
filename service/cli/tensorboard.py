"""`modelyard tensorboard`: the jobs of a server in TensorBoard, followed while they run."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from service.cli import exits
from service.cli.session import ApiKey, Url, chosen

_LOOK_EVERY_S: Final = 2.0


def tensorboard(
    context: typer.Context,
    jobs: Annotated[
        list[str] | None, typer.Argument(help="Ids of jobs; the newest trainings if none is given.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    host: Annotated[str, typer.Option(help="Address of TensorBoard, which asks nobody for a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of TensorBoard; 0 takes a free one.")] = 6006,
    last: Annotated[int, typer.Option(min=1, max=1000, help="How many of the newest trainings are shown.")] = 20,
    logdir: Annotated[Path | None, typer.Option(help="An empty folder in which the event files stay.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Write the event files into --logdir and end.")] = False,
) -> None:
    """Look at trainings in TensorBoard: curves, weights, images, feature maps, graph, hyperparameters."""
    try:
        event_files = importlib.import_module("service.cli.event_files")  # which needs the extra
    except ImportError as error:
        typer.echo(
            f"TensorBoard is not installed ({error.name} is missing): pip install 'modelyard[tensorboard]'", err=True
        )
        raise typer.Exit(exits.USAGE) from None
    if once and logdir is None:
        typer.echo("--once writes files and ends; say where with --logdir.", err=True)
        raise typer.Exit(exits.USAGE)
    if logdir is not None and logdir.exists() and any(logdir.iterdir()):
        typer.echo(f"{logdir} is not empty; name a new folder, so that no other run is mixed with these.", err=True)
        raise typer.Exit(exits.USAGE)
    from service.client import calls

    try:
        address = calls.location(chosen(context, "url", url), os.environ)
    except ValueError as error:
        typer.echo(f"{error}.", err=True)
        raise typer.Exit(exits.USAGE) from None
    with ExitStack() as stack:
        folder = logdir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-tensorboard-")))
        follow = _Follower(
            event_files.Run, folder, url=address, key=chosen(context, "api_key", api_key), jobs=jobs or [], last=last
        )
        stack.callback(follow.close)
        follow.look()
        if once:
            typer.echo(f"{len(follow.runs)} jobs written to {folder}.")
            return
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", host]
        signal.signal(signal.SIGTERM, _leave)
        viewer = subprocess.Popen([*command, "--port", str(port), "--reload_interval", "5"])
        stack.callback(_end, viewer)
        try:
            while viewer.poll() is None:
                time.sleep(_LOOK_EVERY_S)
                follow.look_again()
        except KeyboardInterrupt:
            return
        raise typer.Exit(exits.FAILURE if viewer.returncode else exits.OK)


class _Follower:
    """The runs of a server, each followed until it has ended; new trainings are taken up as they come."""

    def __init__(self, run: Any, folder: Path, *, url: str, key: str | None, jobs: list[str], last: int) -> None:
        import httpx

        self._run = run
        self._folder = folder
        self._jobs = jobs
        self._last = last
        self._url = url
        self._client = httpx.Client(
            base_url=url, timeout=30, headers={"Authorization": f"Bearer {key}"} if key else None
        )
        self._silent = False
        """Whether the server was away when it was last asked, which has been said."""
        self.runs: dict[str, Any] = {}

    def look(self) -> None:
        """Bring every event file up to now."""
        for job_id in self._jobs or self._newest():
            if job_id not in self.runs:
                job = self.get(f"/v1/jobs/{job_id}")
                if job is None:
                    typer.echo(f"There is no job {job_id} at {self._url}.", err=True)
                    raise typer.Exit(exits.NOT_FOUND)
                self.runs[job_id] = self._run(self._folder, job, self.get)
            if not self.runs[job_id].ended:
                self.runs[job_id].update()

    def look_again(self) -> None:
        """The same, of a server that may be away for a while."""
        try:
            self.look()
        except typer.Exit as left:
            if left.exit_code != exits.UNREACHABLE:
                raise
        else:
            self._silent = False

    def close(self) -> None:
        """Close every file."""
        for run in self.runs.values():
            run.close()
        self._client.close()

    def get(self, path: str) -> Any:
        """The JSON at a path, or None where there is none (yet)."""
        import httpx

        try:
            answer = self._client.get(path)
        except httpx.HTTPError as error:
            if not self._silent:
                typer.echo(f"The server at {self._url} did not answer: {error}", err=True)
            self._silent = True
            raise typer.Exit(exits.UNREACHABLE) from None
        if answer.status_code in (404, 409, 422):
            return None
        if answer.is_error:
            typer.echo(f"The server at {self._url} answered {answer.status_code}: {answer.text[:300]}", err=True)
            raise typer.Exit(exits.NOT_ALLOWED if answer.status_code in (401, 403) else exits.FAILURE)
        return answer.json()

    def _newest(self) -> list[str]:
        """Ids of the newest trainings, the newest last; of every job that was shown before, too."""
        found: list[str] = []
        after = ""
        while len(found) < self._last:
            page = self.get(f"/v1/jobs?kind=train&limit={min(200, self._last - len(found))}{after}")
            found += [job["id"] for job in page["data"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        return list(dict.fromkeys([*self.runs, *reversed(found)]))


def _leave(*_: object) -> NoReturn:
    """End as after Ctrl-C: the viewer ends too, and a folder of our own goes."""
    raise KeyboardInterrupt


def _end(viewer: subprocess.Popen[bytes]) -> None:
    if viewer.poll() is None:
        viewer.terminate()
        try:
            viewer.wait(10)
        except subprocess.TimeoutExpired:
            viewer.kill()
            viewer.wait()
