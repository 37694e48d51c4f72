"""Routes of prediction: a body in, the plane's answer out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from service.dataplane import DataPlane
from service.inference.batcher import Explained
from service.keys import Guard
from service.rest import bodies
from service.rest.auth import principal_of
from service.rest.bodies import declare
from service.rest.control import AliasName, ModelName, VersionNumber, json_response, known_parameters
from service.schemas import examples, views
from service.schemas.versions import Reference

_REQUEST: Final = TypeAdapter(views.PredictRequest)


def router(plane: DataPlane, *, guard: Guard, json_bytes: int) -> APIRouter:
    """POST /predict and its longer forms."""
    routes = APIRouter(tags=["predict"], dependencies=[Depends(known_parameters)])
    answer: dict[int | str, dict[str, Any]] = {200: {"model": views.PredictionView}}

    def charging(request: Request) -> Callable[[int], None]:
        """Counts rows against the caller's quota, unless the short way has done so before it handed on."""
        if guard.open or request.scope.get("modelyard.charged"):
            return lambda _: None
        return partial(guard.charge, principal_of(request))

    async def predict(request: Request, reference: Reference | None) -> Response:
        started = time.monotonic()
        body = await bodies.read_bytes(request, limit=json_bytes)
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
            charge=charging(request),
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
        found = [{"version": version, **comparison.view()} for version, comparison in plane.shadows(name, alias)]
        return json_response({"model": name, "alias": alias, "shadows": found})

    return routes


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
            {"version": version, "mergeable": mergeable, "groups": [_group(each) for each in groups]}
            for version, mergeable, groups in plane.batching(name)
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
