"""Checkpoints that real releases of torch wrote, once a session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.corpus import corpus
from tests.corpus.corpus import Written


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
