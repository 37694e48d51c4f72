"""What tests measured, told at the end; and checkpoints that real releases of torch wrote, once a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.corpus import corpus
from tests.corpus.corpus import Written

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
