"""Routes of prediction: a body in, the plane's answer out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Final

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from service.dataplane import DataPlane
from service.inference.batcher import Explained
from service.inference.runtime import Preflight, Resident
from service.keys import Guard
from service.rest import bodies
from service.rest.auth import principal_of
from service.rest.bodies import Room, Share, declare
from service.rest.control import AliasName, ModelName, VersionNumber, json_response, known_parameters
from service.schemas import examples, views
from service.schemas.versions import Reference

_REQUEST: Final = TypeAdapter(views.PredictRequest)


def router(plane: DataPlane, *, guard: Guard, json_bytes: int, room: Room) -> APIRouter:
    """POST /predict and its longer forms, and what is told of batching and of loaded versions.

    Args:
        plane: answers.
        guard: whose quotas are charged.
        json_bytes: of a body.
        room: for large bodies.
    """
    routes = APIRouter(tags=["predict"], dependencies=[Depends(known_parameters)])
    answer: dict[int | str, dict[str, Any]] = {200: {"model": views.PredictionView}}

    async def predict(request: Request, reference: Reference | None) -> Response:
        with room.share() as share, guard.charging(principal_of(request)) as charge:
            return await counted(request, reference, share, charge)

    async def counted(
        request: Request, reference: Reference | None, share: Share, charge: Callable[[int], None]
    ) -> Response:
        started = time.monotonic()
        body = await bodies.read_bytes(request, limit=json_bytes, share=share)
        if len(body) < bodies.INLINE_BYTES:
            asked, parsed = _parse(body)
        else:
            asked, parsed = await asyncio.wrap_future(plane.submit(partial(_parse, body)))
        deadline = None if parsed.timeout_s is None else started + parsed.timeout_s
        answered = await plane.predict(
            asked["inputs"],
            reference=reference,
            model=parsed.model,
            deadline=deadline,
            priority=parsed.priority or 0,
            charge=charge,
        )
        headers = {"Server-Timing": answered.timing.decode()}
        if answered.version is not None:
            headers["X-Model-Version"] = str(answered.version)
        return Response(answered.body, media_type="application/json", headers=headers)

    @routes.post(
        "/predict",
        summary="Predict",
        description=(
            "`model` is a reference: name (its alias champion, else the newest version), name@alias or name/3; or the "
            "id of a job: its version, or while there is none the best checkpoint that it keeps, which a warning says."
        ),
        responses=answer,
        openapi_extra=declare("PredictRequest", examples={"rows": examples.PREDICT}),
    )
    async def short(request: Request) -> Response:
        return await predict(request, None)

    @routes.post(
        "/v1/models/{name}/predict",
        summary="Predict with a model",
        responses=answer,
        openapi_extra=declare("PredictRequest", examples={"rows": {"inputs": [[0.5], [0.7]]}}),
    )
    async def with_model(request: Request, name: ModelName) -> Response:
        return await predict(request, Reference(name))

    @routes.post(
        "/v1/models/{name}/versions/{number}/predict",
        summary="Predict with a version",
        responses=answer,
        openapi_extra=declare("PredictRequest", examples={"rows": {"inputs": [[0.5], [0.7]]}}),
    )
    async def with_version(request: Request, name: ModelName, number: VersionNumber) -> Response:
        return await predict(request, Reference(name, version=number))

    @routes.get(
        "/v1/models/{name}/batching",
        summary="How predictions are batched",
        description=(
            "What the batcher has measured of each version that this process has loaded, what is waiting, and why the "
            "last forward pass had the rows that it had."
        ),
        responses={200: {"model": views.BatchingView}},
    )
    def batching(name: ModelName) -> Response:
        plane.require(name)
        return json_response(_explained(plane, name))

    @routes.get(
        "/v1/models/{name}/aliases/{alias}/shadow",
        summary="How shadows differ",
        description=(
            "What the shadow versions of an alias made of the rows that it answered, since it was set so or this "
            "process began. Rows disagree by label, or where there are no labels by any number."
        ),
        responses={200: {"model": views.ShadowsView}},
    )
    def shadow(name: ModelName, alias: AliasName) -> Response:
        found = [{"version": version, **comparison.view()} for version, comparison in plane.trials.report(name, alias)]
        return json_response({"model": name, "alias": alias, "shadows": found})

    @routes.get(
        "/v1/loaded",
        summary="Which versions are loaded",
        description="In this process: the one that was asked longest ago comes first, and goes first for another.",
        responses={200: {"model": views.LoadedView}},
    )
    def loaded() -> Response:
        found = [{**_resident(one), "in_flight": requests} for one, requests in plane.residents()]
        total = sum(one["size_bytes"] for one in found)
        return json_response({"budget_bytes": plane.budget_bytes, "loaded_bytes": total, "data": found})

    @routes.post(
        "/v1/models/{name}/versions/{number}/load",
        summary="Load a version",
        description=(
            "Versions are loaded by their first request; this does it before. `dry_run` only says what would go for "
            "it. `pin` keeps it: it never goes to make room, and every later start of a server loads it."
        ),
        responses={200: {"model": views.LoadView}},
    )
    async def load(
        name: ModelName,
        number: VersionNumber,
        dry_run: Annotated[bool, Query(description="Change nothing.")] = False,
        pin: Annotated[bool | None, Query(description="Pin it, or end that; not given leaves it.")] = None,
    ) -> Response:
        before = await run_sync(plane.preflight, name, number)
        if dry_run:
            return json_response(_flight(before))
        after = await run_sync(partial(plane.keep, name, number, pinned=pin, everywhere=True))
        evicts = () if before.loaded else before.evicts
        return json_response(_flight(replace(after, evicts=evicts)))

    @routes.post(
        "/v1/models/{name}/versions/{number}/unload",
        summary="Unload a version",
        description=(
            "Pinned or not. Requests that it has begun are answered, which this waits for; the next one loads it again."
        ),
        responses={200: {"model": views.UnloadView}},
    )
    async def unload(name: ModelName, number: VersionNumber) -> Response:
        return json_response(
            {"model": name, "version": number, "drained": await plane.unload(name, number, everywhere=True)}
        )

    return routes


def _flight(told: Preflight) -> dict[str, Any]:
    return {
        "model": told.model,
        "version": told.version,
        "loaded": told.loaded,
        "pinned": told.pinned,
        "size_bytes": told.size_bytes,
        "budget_bytes": told.budget_bytes,
        "loaded_bytes": told.loaded_bytes,
        "evicts": [_resident(one) for one in told.evicts],
        "fits": told.fits,
        "detail": told.sentence(),
    }


def _resident(one: Resident) -> dict[str, Any]:
    return {"model": one.model, "version": one.version, "size_bytes": one.size_bytes, "pinned": one.pinned}


def _explained(plane: DataPlane, name: str) -> dict[str, Any]:
    policy = plane.policy
    return {
        "model": name,
        "mode": "fast" if policy.fixed_rows is None else "reproducible",
        "max_rows": policy.max_rows,
        "fixed_rows": policy.fixed_rows,
        "queue_rows": policy.queue_rows,
        "max_wait_s": policy.max_wait_s,
        "target_s": policy.target_s,
        "inline_s": policy.inline_s,
        "versions": [
            {
                "version": version,
                "mergeable": mergeable,
                "engine": engine,
                "groups": [_group(each) for each in groups],
            }
            for version, mergeable, engine, groups in plane.batching(name)
        ],
    }


def _group(explained: Explained) -> dict[str, Any]:
    last = explained.last
    return {
        "curve": [
            {"rows": point.rows, "seconds": point.seconds, "samples": point.samples} for point in explained.curve
        ],
        "most_rows": explained.most_rows,
        "waiting_requests": explained.waiting_requests,
        "waiting_rows": explained.waiting_rows,
        "room_rows": explained.room_rows,
        "running_rows": explained.running_rows,
        "waits_for_s": explained.waits_for_s,
        "rows_per_s": explained.rows_per_s,
        "arriving_rows_per_s": explained.arriving_rows_per_s,
        "batches": explained.batches,
        "rows": explained.rows,
        "refused": explained.refused,
        "expired": explained.expired,
        "last": None
        if last is None
        else {
            "closed": last.closed.value,
            "requests": last.requests,
            "rows": last.rows,
            "waited_s": last.waited_s,
            "ran_s": last.ran_s,
            "in_thread": last.in_thread,
        },
    }


def _parse(body: bytes) -> tuple[dict[str, Any], views.PredictRequest]:
    """The body, and its members but the rows as a document: each row is looked at once, by the codec."""
    asked = bodies.parse_json(body, check=False)
    others = asked
    if isinstance(asked, dict) and isinstance(asked.get("inputs"), (list, dict)):
        others = {**asked, "inputs": []}
    bodies.check_finite(others)
    return asked, bodies.validate(_REQUEST, others)
