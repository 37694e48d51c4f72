"""What most of these tests need: versions that are there."""

from __future__ import annotations

from typing import Any

import pytest

from service.schemas import examples
from tests.live import Server, run_job


@pytest.fixture(scope="session")
def quadratic(shared_server: Server) -> dict[str, Any]:
    """The job that trained quadratic/1, the champion."""
    with shared_server.client() as client:
        return run_job(client, examples.TRAIN)


@pytest.fixture(scope="session")
def clouds(shared_server: Server) -> dict[str, Any]:
    """The job that trained clouds/1, a classifier without an alias."""
    with shared_server.client() as client:
        return run_job(client, examples.CLASSIFY)


@pytest.fixture(scope="session")
def kernel(shared_server: Server) -> dict[str, Any]:
    """The job that imported kernel/1, which takes images of 5 × 5."""
    with shared_server.client() as client:
        return run_job(client, examples.IMPORT)
