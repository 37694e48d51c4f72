"""The one place where parts are chosen: settings in, a running application out.

Lifespan and wiring, nothing else; every rule lives in what is wired here.
"""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import torch
from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi_standalone_docs import StandaloneDocs
from starlette.types import Receive, Scope, Send

from service import __version__
from service.company import Company, end_readers, follow
from service.controlplane.plane import ControlPlane
from service.controlplane.planning import Resources
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
from service.rest.bodies import LARGE_BYTES, Room
from service.rest.health import Lifecycle, Phase
from service.rest.middleware import Hosts, Observe
from service.rest.tracing import OFF, Tracing, tracing
from service.settings import Settings
from service.siblings import LEADER, Seat
from service.store.architectures import ArchitectureStore
from service.store.database import Database
from service.store.datasets import DatasetStore
from service.store.files import StoreLock, make_folder
from service.store.idempotency import IdempotencyStore
from service.store.models import ModelStore
from service.store.uploads import UploadStore
from service.telemetry import Metrics


def create_app(
    settings: Settings | None = None,
    *,
    lifecycle: Lifecycle | None = None,
    launcher: Launcher | None = None,
    seat: Seat | None = None,
) -> Application:
    """An application over the store of `settings`; its lifespan takes the store's lock, recovers and starts the
    supervisor.

    Args:
        settings: by default those of the environment.
        lifecycle: of the server, shared with who stops it.
        launcher: starts the workers; by default with a fork server of its own.
        seat: the place of this process among several, whose parent holds the lock; only the first runs the jobs.

    Raises:
        StoreLocked: (at start) another server holds the store.
        NotFound, ValidationFailed: the keys cannot be read, or are wrong.
    """
    settings = settings or Settings()
    lifecycle = lifecycle or Lifecycle()
    metrics = Metrics()
    spans = tracing(os.environ)
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
    if seat is None:
        lock.acquire()
    staging = None if seat is None else root / "staging" / f"process-{seat.place}"
    leads = seat is None or seat.leads
    database = Database(settings.database, epoch=None if seat is None else seat.epoch)
    models = ModelStore(root, database)
    datasets = DatasetStore(root, database, reserve_bytes=settings.reserve_bytes, staging=staging)
    uploads = UploadStore(
        root,
        database,
        max_bytes=settings.max_upload_bytes,
        reserve_bytes=settings.reserve_bytes,
        staging=staging,
    )
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
        wake=supervisor.wake if leads or seat is None else partial(seat.tell, "wake", only=LEADER),
        on_queued=(lambda _: None) if spans is None else spans.jobs(queue),
        staging=staging,
    )
    runtime = Runtime(
        models,
        budget_bytes=settings.model_memory_bytes,
        metrics=metrics,
        warm_rows=settings.batch_rows,
    )
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
        on_answer=None if spans is None else spans.answered,
    )

    view = OpenInference(
        data,
        models,
        rows=settings.max_rows,
        elements=settings.max_elements,
        phase=lambda: "" if lifecycle.phase is Phase.READY else f"The server is {lifecycle.phase.value}.",
    )
    room = Room(settings.max_bodies_bytes)
    grpc = None
    if settings.grpc_port is not None:
        grpc = _grpc(view, settings, guard=guard, metrics=metrics, room=room, spans=spans, shared=seat is not None)
    company = None if seat is None else Company(seat, queue, supervisor, data, view, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        torch.set_num_threads(1)  # more threads make small nets slower under load, and other bits than the golden rows'
        async with AsyncExitStack() as stack:
            stack.callback(lock.release)
            stack.callback(database.close)
            stack.callback(launcher.close)
            stack.callback(plane.close)
            stack.callback(data.close)
            if seat is None:
                await run_sync(database.own)
            if company is not None:
                await stack.enter_async_context(company.listening())
            if seat is not None and not seat.first:
                await run_sync(follow, root / "staging" / f"process-{seat.place}", datasets, models, leads)
            elif leads:
                await run_sync(_recover, root, database, models, datasets, uploads)
            if leads:
                await run_sync(partial(supervisor.start, sweep=seat is None or seat.first))
            stack.push_async_callback(run_sync, supervisor.stop, settings.drain_timeout_s)
            await run_sync(plane.warm)
            await run_sync(data.warm)
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
        telemetry=OFF if spans is None else spans.config,
    )
    StandaloneDocs(app)
    limits = control.Limits(
        document_bytes=settings.max_document_bytes,
        json_bytes=settings.max_json_bytes,
        upload_bytes=settings.max_upload_bytes,
    )
    app.include_router(inference.router(data, guard=guard, json_bytes=settings.max_json_bytes, room=room))
    prepare = data.prepare if company is None else company.prepare
    app.include_router(control.router(plane, lifecycle=lifecycle, limits=limits, prepare=prepare))
    sizes = {"json_bytes": settings.max_json_bytes, "binary_bytes": settings.max_binary_bytes}
    app.include_router(open_inference.router(view, guard=guard, room=room, **sizes))
    app.include_router(figures.router(Gallery(root, queue=queue, models=models)))
    if company is None:
        app.include_router(health.router(lifecycle, metrics=metrics, healthy=supervisor.alive))
    else:
        app.include_router(
            health.router(lifecycle, metrics=metrics, healthy=company.healthy, all_metrics=company.metrics)
        )
    app.include_router(pages.router())
    problems.install(app)
    openapi.install(app, guarded=not guard.open, open_metrics=settings.metrics_public)
    app.add_middleware(Authorize, guard=guard, routes=app, open_metrics=settings.metrics_public)
    unnamed = "allowed_hosts" not in settings.model_fields_set
    local = guard.open and unnamed and not settings.public and not settings.trusted_proxies
    hosts = Hosts(settings.allowed_hosts, local=local)
    app.add_middleware(Observe, metrics=metrics, hosts=hosts)
    lanes = [
        *fast.predict_lanes(data, json_bytes=min(settings.max_json_bytes, LARGE_BYTES)),
        *open_inference.lanes(view, **sizes),
    ]
    if spans is None:
        app.front = fast.FastPath(app.framework, lanes=lanes, guard=guard, metrics=metrics, hosts=hosts)
    else:  # the framework makes the spans, so the short way begins behind it
        app.add_middleware(
            fast.FastPath,
            lanes=spans.lanes(lanes),
            guard=guard,
            metrics=metrics,
            hosts=hosts,
        )
        spans.install(app)
    return app


def _grpc(
    view: OpenInference,
    settings: Settings,
    *,
    guard: Guard,
    metrics: Metrics,
    room: Room,
    spans: Tracing | None,
    shared: bool,
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
    front = Front(
        view,
        guard=guard,
        metrics=metrics,
        max_bytes=settings.max_json_bytes,
        room=room,
        spans=spans,
        handshake_s=settings.header_timeout_s,
        body_s=settings.body_timeout_s,
        body_bytes_per_s=settings.body_bytes_per_s,
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    certificate = None
    if settings.tls_certfile is not None and settings.tls_keyfile is not None:
        certificate = settings.tls_keyfile, settings.tls_certfile

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        await front.start(f"{host}:{settings.grpc_port}", certificate=certificate, shared=shared)
        try:
            yield
        finally:
            await front.stop(settings.drain_timeout_s)

    return running()


class Application(FastAPI):
    """The framework's application with the short way in front of it: around the framework it costs least."""

    front: fast.FastPath | None = None

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


def _recover(root: Path, database: Database, models: ModelStore, datasets: DatasetStore, uploads: UploadStore) -> None:
    """Finish, end or sweep what an earlier server left."""
    staging = root / "staging"
    for folder in (staging, *staging.glob("process-*")):  # the earlier one may have had several processes
        end_readers(folder)
    models.recover()
    datasets.recover()
    uploads.recover()
    IdempotencyStore(database).sweep()
