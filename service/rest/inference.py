"""Routes of prediction: a body in, the plane's answer out."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from service.dataplane import DataPlane
from service.errors import DeadlinePassed
from service.rest import bodies
from service.rest.bodies import declare
from service.rest.control import ModelName, VersionNumber, known_parameters
from service.schemas import examples, views
from service.schemas.versions import Manifest, Reference

_REQUEST: Final = TypeAdapter(views.PredictRequest)


def router(plane: DataPlane, *, json_bytes: int) -> APIRouter:
    """POST /predict and its longer forms."""
    routes = APIRouter(tags=["predict"], dependencies=[Depends(known_parameters)])
    answer: dict[int | str, dict[str, Any]] = {200: {"model": views.PredictionView}}

    async def predict(request: Request, reference: Reference | None) -> Response:
        started = time.monotonic()
        body = await bodies.read_bytes(request, limit=json_bytes)
        if len(body) < bodies.INLINE_BYTES:
            asked, parsed = _parse(body)
        else:
            asked, parsed = await asyncio.wrap_future(plane.submit(partial(_parse, body)))
        deadline = None if parsed.timeout_s is None else started + parsed.timeout_s
        work = plane.submit(
            partial(plane.predict, asked["inputs"], reference=reference, model=parsed.model, deadline=deadline)
        )
        remaining = None if deadline is None else deadline - time.monotonic()
        try:
            content, prediction = await asyncio.wait_for(asyncio.wrap_future(work), remaining)
        except TimeoutError:
            raise DeadlinePassed from None
        headers = {"Server-Timing": f"infer;dur={prediction.seconds * 1000:.3f}"}
        if isinstance(prediction.source, Manifest):
            headers["X-Model-Version"] = str(prediction.source.version)
        return Response(content, media_type="application/json", headers=headers)

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

    return routes


def _parse(body: bytes) -> tuple[dict[str, Any], views.PredictRequest]:
    """The body, and its members but the rows as a document: each row is looked at once, by the codec."""
    asked = bodies.parse_json(body, check=False)
    others = asked
    if isinstance(asked, dict) and isinstance(asked.get("inputs"), (list, dict)):
        others = {**asked, "inputs": []}
    bodies.check_finite(others)
    return asked, bodies.validate(_REQUEST, others)
