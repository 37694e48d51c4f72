"""What tests measured, told at the end; checkpoints that real releases of torch wrote; and a browser with a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from service.schemas import examples
from tests.browser import opened
from tests.corpus import corpus
from tests.corpus.corpus import Written
from tests.live import Server, run_job

MEASURED = "measured"


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line with a figure, to be shown at the end of the run, of which process ever it was."""
    return lambda line: record_property(MEASURED, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured: what tests print is only shown of those that fail."""
    reports = [one for found in terminalreporter.stats.values() for one in found if isinstance(one, pytest.TestReport)]
    calls = sorted((one for one in reports if one.when == "call"), key=lambda one: one.nodeid)
    lines = [str(line) for one in calls for name, line in one.user_properties if name == MEASURED]
    if lines:
        terminalreporter.write_sep("=", "measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Written]:
    """Every small case by writer ("debian", "today"), name and format."""
    cases = corpus.write(tmp_path_factory.mktemp("corpus"))
    return {(case.path.parent.name, case.name, case.format): case for case in cases}


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Written]]:
    """Nets of torchvision 0.14; a gigabyte, so it is removed afterwards."""
    folder = tmp_path_factory.mktemp("nets")
    yield corpus.write(folder, "nets")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two versions of one model and one of another, which the tests of a file share."""
    found = Server(tmp_path_factory.mktemp("dashboard") / "store").start()
    found.port = int(found.url.rpartition(":")[2])
    with found.client() as client:
        run_job(client, examples.TRAIN)
        run_job(client, {**examples.TRAIN, "seed": 2, "output": {"model": "quadratic"}})
        run_job(client, examples.CLASSIFY)
    yield found
    assert found.stop() == 0


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """The driver: while it lives, this process has a running event loop, so it ends with its file."""
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    assert chromium, "these tests need the Debian package chromium"
    found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
    yield found
    found.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page of the shared server in a context of its own."""
    with opened(browser, server.url) as found:
        yield found
