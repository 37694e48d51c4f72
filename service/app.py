"""The one place where parts are chosen: settings in, a running application out.

Lifespan and wiring, nothing else; every rule lives in what is wired here.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import torch
from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi_standalone_docs import StandaloneDocs

from service import __version__
from service.controlplane import ControlPlane, Resources
from service.dataplane import DataPlane
from service.inference.codec import Limits as PredictionLimits
from service.inference.runtime import Runtime
from service.jobs.launchers import ForkLauncher, Launcher
from service.jobs.queue import JobQueue
from service.jobs.supervisor import Rules, Supervisor
from service.rest import control, health, inference, openapi, problems
from service.rest.health import Lifecycle, Phase
from service.rest.middleware import Observe
from service.settings import Settings
from service.store.architectures import ArchitectureStore
from service.store.database import Database
from service.store.datasets import DatasetStore
from service.store.files import StoreLock, make_folder
from service.store.idempotency import IdempotencyStore
from service.store.models import ModelStore
from service.store.uploads import UploadStore
from service.telemetry import Metrics


def create_app(
    settings: Settings | None = None, *, lifecycle: Lifecycle | None = None, launcher: Launcher | None = None
) -> FastAPI:
    """An application over the store of `settings`; its lifespan takes the store's lock, recovers and starts the
    supervisor.

    Raises:
        StoreLocked: (at start) another server holds the store.
    """
    settings = settings or Settings()
    lifecycle = lifecycle or Lifecycle()
    metrics = Metrics()
    root = settings.store
    make_folder(root, parents=True)
    lock = StoreLock(root / "LOCK")
    lock.acquire()
    database = Database(settings.database_url or f"sqlite:///{root / 'modelyard.sqlite3'}")
    models = ModelStore(root, database)
    datasets = DatasetStore(root, database, reserve_bytes=settings.reserve_bytes)
    uploads = UploadStore(root, database, max_bytes=settings.max_upload_bytes, reserve_bytes=settings.reserve_bytes)
    architectures = ArchitectureStore(database)
    queue = JobQueue(database)
    launcher = launcher or ForkLauncher()
    supervisor = Supervisor(
        root,
        queue=queue,
        models=models,
        datasets=datasets,
        architectures=architectures,
        launcher=launcher,
        rules=Rules(
            slots=settings.job_slots,
            threads=settings.job_threads,
            attempts=settings.job_attempts,
            memory_bytes=settings.job_memory_bytes,
            timeout_s=settings.job_timeout_s,
            stall_s=settings.job_stall_s,
            devices=settings.job_devices,
        ),
        metrics=metrics,
    )
    plane = ControlPlane(
        root,
        queue=queue,
        models=models,
        datasets=datasets,
        uploads=uploads,
        architecture_store=architectures,
        launcher=launcher,
        resources=Resources(
            threads=settings.job_threads,
            memory_bytes=settings.job_memory_bytes,
            max_queued=settings.max_queued_jobs,
            reserve_bytes=settings.reserve_bytes,
            devices=settings.job_devices,
        ),
        wake=supervisor.wake,
    )
    runtime = Runtime(models, budget_bytes=settings.model_memory_bytes, metrics=metrics)
    data = DataPlane(
        models,
        queue,
        root,
        runtime,
        limits=PredictionLimits(rows=settings.max_rows, elements=settings.max_elements),
        metrics=metrics,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        torch.set_num_threads(1)  # more threads make small nets slower under load, and other bits than the golden rows'
        async with AsyncExitStack() as stack:
            stack.callback(lock.release)
            stack.callback(database.close)
            stack.callback(launcher.close)
            stack.callback(plane.close)
            stack.callback(data.close)
            await run_sync(_recover, database, models, datasets, uploads)
            supervisor.start()
            stack.push_async_callback(run_sync, supervisor.stop, settings.drain_timeout_s)
            await run_sync(plane.warm)
            gc.collect()
            gc.freeze()  # torch's objects: going through them at each full collection takes 0.2 s of every large body
            lifecycle.on_drain(partial(supervisor.drain, settings.drain_timeout_s))
            lifecycle.phase = Phase.READY
            yield
            lifecycle.drain()

    app = FastAPI(
        title="Modelyard",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    StandaloneDocs(app)
    limits = control.Limits(
        document_bytes=settings.max_document_bytes,
        json_bytes=settings.max_json_bytes,
        upload_bytes=settings.max_upload_bytes,
    )
    app.include_router(inference.router(data, json_bytes=settings.max_json_bytes))
    app.include_router(control.router(plane, lifecycle=lifecycle, limits=limits))
    app.include_router(health.router(lifecycle, metrics=metrics, healthy=supervisor.alive))
    problems.install(app)
    openapi.install(app)
    app.add_middleware(Observe, metrics=metrics, allowed_hosts=settings.allowed_hosts)
    return app


def _recover(database: Database, models: ModelStore, datasets: DatasetStore, uploads: UploadStore) -> None:
    """Take the store over: fence earlier owners off, then finish or sweep what they left."""
    database.own()
    models.recover()
    datasets.recover()
    uploads.recover()
    IdempotencyStore(database).sweep()
