"""The one place where parts are chosen: settings in, a running application out.

Lifespan and wiring, nothing else; every rule lives in what is wired here.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import torch
from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi_standalone_docs import StandaloneDocs
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.controlplane import ControlPlane, Resources
from service.dashboard import pages
from service.dataplane import DataPlane
from service.errors import ValidationFailed
from service.inference.batcher import Policy
from service.inference.codec import Limits as PredictionLimits
from service.inference.runtime import Runtime
from service.jobs.gallery import Gallery
from service.jobs.launchers import ForkLauncher, Launcher
from service.jobs.queue import JobQueue
from service.jobs.supervisor import Rules, Supervisor
from service.keys import Guard
from service.oidc import Verifier
from service.openinference import OpenInference
from service.rest import control, fast, figures, health, inference, open_inference, openapi, problems
from service.rest.auth import Authorize
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
        NotFound, ValidationFailed: the keys cannot be read, or are wrong.
    """
    settings = settings or Settings()
    lifecycle = lifecycle or Lifecycle()
    metrics = Metrics()
    guard = Guard(
        file=settings.api_keys_file,
        inline=settings.api_keys,
        failures_per_minute=settings.key_failures_per_minute,
        tokens=_tokens(settings),
        on_refusal=lambda reason: metrics.refusals.labels(reason).inc(),
    )
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
        policy=Policy(
            max_rows=settings.batch_rows,
            queue_rows=settings.predict_queue_rows,
            max_wait_s=settings.predict_max_wait_s,
            target_s=settings.batch_target_s,
            fixed_rows=settings.batch_fixed_rows if settings.batch_mode == "reproducible" else None,
        ),
    )

    view = OpenInference(
        data,
        models,
        rows=settings.max_rows,
        elements=settings.max_elements,
        phase=lambda: "" if lifecycle.phase is Phase.READY else f"The server is {lifecycle.phase.value}.",
    )
    grpc = None if settings.grpc_port is None else _grpc(view, settings, guard=guard, metrics=metrics)

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
            if grpc is not None:
                await stack.enter_async_context(grpc)
            lifecycle.phase = Phase.READY
            yield
            lifecycle.drain()

    app = Application(
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
    app.include_router(inference.router(data, guard=guard, json_bytes=settings.max_json_bytes))
    app.include_router(control.router(plane, lifecycle=lifecycle, limits=limits))
    app.include_router(open_inference.router(view, guard=guard, max_bytes=settings.max_json_bytes))
    app.include_router(figures.router(Gallery(root, queue=queue, models=models)))
    app.include_router(health.router(lifecycle, metrics=metrics, healthy=supervisor.alive))
    app.include_router(pages.router())
    problems.install(app)
    openapi.install(app, guarded=not guard.open, open_metrics=settings.metrics_public)
    app.add_middleware(Authorize, guard=guard, routes=app, open_metrics=settings.metrics_public)
    app.add_middleware(Observe, metrics=metrics, allowed_hosts=settings.allowed_hosts)
    lanes = [
        *fast.predict_lanes(data, json_bytes=settings.max_json_bytes),
        *open_inference.lanes(view, max_bytes=settings.max_json_bytes),
    ]
    app.front = fast.FastPath(
        app.framework, lanes=lanes, guard=guard, metrics=metrics, allowed_hosts=settings.allowed_hosts
    )
    return app


def _grpc(
    view: OpenInference, settings: Settings, *, guard: Guard, metrics: Metrics
) -> AbstractAsyncContextManager[None]:
    """The server of gRPC; its packages are an extra.

    Raises:
        ValidationFailed: they are not installed.
    """
    try:
        from service.grpc.servicer import Front
    except ImportError as error:
        detail = "MODELYARD_GRPC_PORT is set, but the packages of gRPC are not installed: take modelyard[grpc]."
        raise ValidationFailed(detail) from error
    front = Front(view, guard=guard, metrics=metrics, max_bytes=settings.max_json_bytes)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    certificate = None
    if settings.tls_certfile is not None and settings.tls_keyfile is not None:
        certificate = settings.tls_keyfile, settings.tls_certfile

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        await front.start(f"{host}:{settings.grpc_port}", certificate=certificate)
        try:
            yield
        finally:
            await front.stop(settings.drain_timeout_s)

    return running()


class Application(FastAPI):
    """The framework's application with the short way in front of it: around the framework it costs least."""

    front: ASGIApp | None = None

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by the framework's routes."""
        await super().__call__(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await (self.front or self.framework)(scope, receive, send)


def _tokens(settings: Settings) -> Verifier | None:
    """What verifies the provider's tokens, where there is one."""
    if settings.oidc_issuer is None:
        return None
    return Verifier(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience or "",
        jwks_file=settings.oidc_jwks_file,
        claim=settings.oidc_claim,
        prefix=settings.oidc_prefix,
    )


def _recover(database: Database, models: ModelStore, datasets: DatasetStore, uploads: UploadStore) -> None:
    """Take the store over: fence earlier owners off, then finish or sweep what they left."""
    database.own()
    models.recover()
    datasets.recover()
    uploads.recover()
    IdempotencyStore(database).sweep()
