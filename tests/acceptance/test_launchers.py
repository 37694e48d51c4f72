"""Workers are started once a folder, hold its lock while they live, and outlive whoever started them."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.engine import data
from service.jobs.launchers import (
    ForkLauncher,
    InheritedLauncher,
    Launcher,
    WorkerHandle,
    _request,
    adopt,
    lock_folder,
    was_started,
)
from service.schemas import architecture as architectures
from service.schemas import examples
from service.schemas.datasets import Source
from service.schemas.jobs import parse_job
from service.schemas.judgement import require
from tests.fakes import FakeLauncher
from tests.live import wait_for

MIB = 1024 * 1024
Launch = Callable[..., tuple[Path, WorkerHandle]]


def training(root: Path, *, steps: int) -> dict[str, Any]:
    """A task as the supervisor writes it, with a dataset of its own: a worker may be reading the one before."""
    folder = Path(tempfile.mkdtemp(dir=root, prefix="dataset-"))
    spec, given = parse_job({**examples.TRAIN, "budget": {"steps": steps}})
    source: Any = TypeAdapter(Source).validate_python(examples.PARABOLA)
    manifest = data.materialize(source, folder, at="")
    assert isinstance(given, architectures.Architecture)
    judged = require(given).architecture
    assert judged is not None
    resolved = spec.model_dump(mode="json", exclude={"architecture", "dataset"})
    return {
        "job": "job_1",
        "kind": "train",
        "attempt": 1,
        "spec": {**resolved, "shuffle": False, "threads": 1, "architecture": architectures.canonical_form(judged)},
        "checkpoints": str(root / "checkpoints"),
        "dataset": {"id": "ds_1", "folder": str(folder), "manifest": manifest.model_dump(mode="json")},
    }


def importing(features: int) -> dict[str, Any]:
    layer = {"type": "Linear", "in_features": features, "out_features": features}
    document = {**examples.SEQUENTIAL, "inputs": [{"name": "x", "shape": ["B", features]}]}
    parsed = architectures.parse({**document, "root": {"type": "Sequential", "layers": [layer]}})
    spec = {"kind": "import", "architecture": architectures.canonical_form(parsed), "output": {"model": "m"}}
    return {"job": "job_1", "kind": "import", "attempt": 1, "spec": spec}


FOREVER = 100_000_000


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Makes attempt folders with a task."""
    count = iter(range(100))

    def make(task: dict[str, Any]) -> Path:
        folder = tmp_path / f"attempt-{next(count)}"
        folder.mkdir()
        (folder / "task.json").write_text(json.dumps(task))
        return folder

    return make


@pytest.fixture
def launch(launcher: Launcher, prepared: Callable[[dict[str, Any]], Path], tmp_path: Path) -> Iterator[Launch]:
    """Starts workers, a training without end by default, and ends them after the test."""
    handles: list[WorkerHandle] = []

    def start(task: dict[str, Any] | None = None, *, memory_bytes: int = 4096 * MIB) -> tuple[Path, WorkerHandle]:
        folder = prepared(task or training(tmp_path, steps=FOREVER))
        handle = launcher.launch(folder, threads=1, memory_bytes=memory_bytes)
        handles.append(handle)
        return folder, handle

    yield start
    for handle in handles:
        handle.signal(signal.SIGKILL)
        assert handle.ended(10)
        handle.close()


@pytest.fixture(scope="module")
def fork_launcher() -> Iterator[ForkLauncher]:
    launcher = ForkLauncher()
    launcher.ready()
    yield launcher
    launcher.close()


class LauncherContract:
    """What every launcher promises."""

    def test_a_worker_holds_the_lock_of_its_folder_until_it_ends(self, launch: Launch) -> None:
        folder, handle = launch()
        assert not handle.ended()
        assert lock_folder(folder) is None

        handle.signal(signal.SIGKILL)

        assert handle.ended(10)
        free = lock_folder(folder)
        assert free is not None
        os.close(free)

    def test_a_signal_to_a_worker_that_has_ended_is_no_error(self, launch: Launch) -> None:
        _, handle = launch()
        handle.signal(signal.SIGKILL)
        assert handle.ended(10)

        handle.signal(signal.SIGTERM)

    def test_a_folder_has_one_worker_once(self, launcher: Launcher, launch: Launch) -> None:
        folder, handle = launch()
        wait_for(lambda: was_started(folder))

        with pytest.raises(FileExistsError):  # while it lives
            launcher.launch(folder, threads=1, memory_bytes=MIB)
        handle.signal(signal.SIGKILL)
        assert handle.ended(10)
        with pytest.raises(FileExistsError):  # and afterwards
            launcher.launch(folder, threads=1, memory_bytes=MIB)

    def test_no_descriptor_is_left_open(self, launcher: Launcher, prepared: Any, tmp_path: Path) -> None:
        before = open_descriptors()

        for _ in range(3):
            folder = prepared(training(tmp_path, steps=FOREVER))
            handle = launcher.launch(folder, threads=1, memory_bytes=4096 * MIB)
            handle.signal(signal.SIGKILL)
            assert handle.ended(10)
            handle.close()
        if isinstance(launcher, FakeLauncher):
            launcher.end_all()
            launcher.workers.clear()

        assert open_descriptors() == before


class TestFakeLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Iterator[FakeLauncher]:
        launcher = FakeLauncher()
        yield launcher
        launcher.end_all()


class TestInheritedLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self, fork_launcher: ForkLauncher) -> Iterator[InheritedLauncher]:
        """Over another end of the socket to a fork server that is warm."""
        assert fork_launcher._socket is not None
        launcher = InheritedLauncher(fork_launcher._socket.dup())
        yield launcher
        launcher.close()

    def test_an_answer_to_a_request_that_was_given_up_is_passed_over(
        self, launcher: InheritedLauncher, launch: Launch, prepared: Any, tmp_path: Path
    ) -> None:
        folder = prepared(training(tmp_path, steps=1))
        lock = lock_folder(folder)
        assert lock is not None
        socket.send_fds(launcher._socket, [_request(folder, threads=1, memory_bytes=4096 * MIB)], [lock])
        os.close(lock)

        other, _ = launch()

        assert wait_for(lambda: was_started(other))
        assert wait_for(lambda: (folder / "result.json").exists())


class TestForkLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self, fork_launcher: ForkLauncher) -> ForkLauncher:
        return fork_launcher

    def test_a_worker_does_its_task_and_leaves_the_result_last(self, launch: Launch, tmp_path: Path) -> None:
        folder, handle = launch(training(tmp_path, steps=20))
        assert handle.ended(30)

        assert json.loads((folder / "result.json").read_bytes())["outcome"] == "done"
        assert wait_for(lambda: (folder / "exit").exists() and (folder / "exit").read_text()) == "0"
        assert sorted(path.name for path in folder.iterdir()) == [
            "events.jsonl", "exit", "lock", "output.log", "pid", "report.json", "result.json", "seen.json", "staged",
            "task.json",
        ]  # fmt: skip

    def test_a_living_worker_is_adopted_and_a_dead_one_is_not(self, launch: Launch, tmp_path: Path) -> None:
        folder, handle = launch()

        adopted = adopt(folder)
        assert adopted is not None
        assert adopted.pid == handle.pid
        adopted.signal(signal.SIGKILL)
        assert handle.ended(10)
        adopted.close()

        assert adopt(folder) is None
        assert adopt(tmp_path / "never-was") is None

    def test_a_lock_alone_is_nobody_to_adopt(self, tmp_path: Path) -> None:
        """The holder has not said its pid; that is no proof that it is dead, so nobody may take its place."""
        held = lock_folder(tmp_path)
        assert held is not None

        with pytest.raises(TimeoutError, match="has not said its pid"):
            adopt(tmp_path, timeout_s=0.05)

        os.close(held)

    def test_a_later_process_with_the_pid_of_a_dead_worker_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))

        assert adopt(tmp_path) is None

    def test_a_worker_told_to_stop_at_once_keeps_its_checkpoint(self, launch: Launch) -> None:
        folder, handle = launch()

        handle.signal(signal.SIGTERM)  # it has hardly been forked

        assert handle.ended(30)
        assert json.loads((folder / "result.json").read_bytes())["outcome"] == "stopped"
        assert {path.name for path in (folder.parent / "checkpoints").glob("*.json")} >= {"best.json"}

    def test_a_worker_has_no_descriptor_of_the_fork_server(self, launch: Launch) -> None:
        folder, handle = launch()
        wait_for((folder / "events.jsonl").exists)

        open_files = {str(entry.readlink()) for entry in Path(f"/proc/{handle.pid}/fd").iterdir()}

        assert {name for name in open_files if not name.startswith(str(folder.parent))} <= {os.devnull}

    def test_a_job_of_a_release_that_knew_less_is_done_all_the_same(self, launch: Launch, tmp_path: Path) -> None:
        task = training(tmp_path, steps=5)
        kept = {"objective", "optimizer", "budget", "seed", "architecture", "output", "preprocessing", "checkpoint"}
        task["spec"] = {name: value for name, value in task["spec"].items() if name in kept}

        folder, handle = launch(task)

        assert handle.ended(30)
        assert json.loads((folder / "result.json").read_bytes())["outcome"] == "done"

    def test_workers_outlive_a_killed_fork_server_and_the_next_launch_starts_another(
        self, launcher: ForkLauncher, launch: Launch, tmp_path: Path
    ) -> None:
        _, survivor = launch()
        killed = launcher.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)

        folder, handle = launch(training(tmp_path, steps=5))

        assert handle.ended(30)
        assert json.loads((folder / "result.json").read_bytes())["outcome"] == "done"
        assert launcher.pid != killed
        assert not survivor.ended()

    def test_the_fork_server_ends_with_its_launcher_and_workers_go_on(self, prepared: Any, tmp_path: Path) -> None:
        before = open_descriptors()
        launcher = ForkLauncher()
        handle = launcher.launch(prepared(training(tmp_path, steps=FOREVER)), threads=1, memory_bytes=4096 * MIB)
        pid = launcher.pid

        launcher.close()

        assert not Path(f"/proc/{pid}").exists()
        assert not handle.ended()
        with pytest.raises(OSError, match="closed"):
            launcher.launch(prepared(importing(1)), threads=1, memory_bytes=MIB)
        handle.signal(signal.SIGKILL)
        assert handle.ended(10)
        handle.close()
        assert open_descriptors() == before

    def test_a_worker_that_needs_more_memory_than_it_may_take_says_so(self, launch: Launch) -> None:
        folder, handle = launch(importing(16_000), memory_bytes=256 * MIB)  # a gigabyte of weights

        assert handle.ended(30)
        assert json.loads((folder / "error.json").read_bytes())["code"] == "out_of_memory"

    def test_the_least_memory_that_can_be_set_is_enough_for_a_small_job(self, launch: Launch, tmp_path: Path) -> None:
        folder, handle = launch(training(tmp_path, steps=5), memory_bytes=256 * MIB)

        assert handle.ended(30)
        assert (folder / "result.json").exists()

    @pytest.mark.parametrize("full", ["events.jsonl", "output.log"])
    def test_a_full_disk_is_told_of(self, full: str, launcher: ForkLauncher, prepared: Any, tmp_path: Path) -> None:
        task = training(tmp_path, steps=20)
        if full == "output.log":
            task["spec"]["optimizer"]["lr"] = 1e6  # has something to print
        folder = prepared(task)
        (folder / full).symlink_to("/dev/full")

        handle = launcher.launch(folder, threads=1, memory_bytes=4096 * MIB)

        assert handle.ended(30)
        handle.close()
        code = json.loads((folder / "error.json").read_bytes())["code"]
        assert code == ("disk_full" if full == "events.jsonl" else "non_finite_loss")
