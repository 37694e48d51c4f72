"""The command: what it refuses to start, how it says so, and that it stays light."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from service import __version__
from tests.live import wait_for


def modelyard(*arguments: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        env=environment(folder, **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """As in a container: nothing is inherited but the path."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODELYARD_STORE": str(folder / "store"),
        **{f"MODELYARD_{name.upper()}": value for name, value in settings.items()},
    }


def test_a_public_address_is_refused_unless_the_operator_says_otherwise(tmp_path: Path) -> None:
    done = modelyard("serve", folder=tmp_path, host="0.0.0.0")  # noqa: S104  refused, which is the point

    assert done.returncode == 2
    assert "Refused to listen on 0.0.0.0" in done.stderr
    assert "MODELYARD_ALLOW_ANONYMOUS=1" in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_port_that_is_in_use_is_told_in_a_sentence_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = modelyard("serve", folder=tmp_path, port=str(port))

    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == (
        f"Port {port} of 127.0.0.1 is in use: another server listens there. Stop that one, or choose another port with "
        "--port; --port 0 takes a free one.\n"
    )
    assert not (tmp_path / "store").exists()


def test_the_settings_of_the_image_start_a_server_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"host": "0.0.0.0", "port": str(port), "allow_anonymous": "1", "drain_delay_s": "1"}  # noqa: S104
    server = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"],
        env=environment(tmp_path, **settings),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(ready, timeout=60)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)

        assert server.wait(30) == 0
        assert time.monotonic() - began >= 1  # the delay in which a balancer takes the server out
    finally:
        server.kill()
        server.wait()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = modelyard("serve", folder=tmp_path, job_slots="many")

    assert done.returncode == 2
    assert "MODELYARD_JOB_SLOTS" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_told(tmp_path: Path) -> None:
    done = modelyard("--version", folder=tmp_path)

    assert (done.returncode, done.stdout.strip()) == (0, f"modelyard {__version__}")


def test_the_command_imports_no_torch_until_it_serves(tmp_path: Path) -> None:
    script = "import sys, service.cli; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.split() == ["False", "False"]
