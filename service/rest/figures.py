"""Routes of figures: Plotly JSON of jobs and versions. They convert, call the gallery, convert back."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.responses import Response

from service import figures
from service.figures import Figure, Wish
from service.jobs.gallery import Gallery
from service.rest.control import JobId, ModelName, VersionNumber, json_response, known_parameters
from service.schemas import views

FigureName = Annotated[str, Path(pattern=r"^[a-z]{1,20}$", examples=["loss"], description=", ".join(figures.names()))]
Points = Annotated[int, Query(ge=2, le=100_000, description="At most so many points of a curve.")]
Part = Annotated[
    views.PartOfRows | None, Query(description="The rows whose answers are drawn; by default those held out.")
]
LayerPath = Annotated[
    str | None, Query(max_length=255, description="Of `features`: the layer. Of `weights`: only what lies under it.")
]
Seen = Annotated[str | None, Header(alias="If-None-Match", max_length=200, description="The ETag that is known.")]

_FIGURE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": views.FigureView},
    304: {"description": "It is as it was."},
}
_LISTING: Final[dict[int | str, dict[str, Any]]] = {200: {"model": views.PageView[views.FigureEntryView]}}
_ABOUT: Final = (
    "`data` and `layout` as plotly.js and `plotly.graph_objects.Figure` take them. What is drawn from a net is kept "
    "with its checkpoints, as it learns."
)


def router(gallery: Gallery) -> APIRouter:
    """All routes of figures."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(known_parameters)])

    @routes.get("/jobs/{job_id:job}/figures", summary="Its figures", tags=["jobs"], responses=_LISTING)
    def of_job(job_id: JobId) -> Response:
        return _listing(gallery.of_job(job_id), f"/v1/jobs/{job_id}/figures")

    @routes.get(
        "/jobs/{job_id:job}/figures/{figure}",
        summary="One of its figures",
        description=_ABOUT,
        tags=["jobs"],
        responses=_FIGURE,
    )
    def figure_of_job(
        job_id: JobId,
        figure: FigureName,
        points: Points = 1000,
        part: Part = None,
        layer: LayerPath = None,
        known: Seen = None,
    ) -> Response:
        return _answer(gallery.figure_of_job(job_id, figure, Wish(points, part, layer)), known)

    @routes.get("/models/{name}/versions/{number}/figures", summary="Its figures", tags=["models"], responses=_LISTING)
    def of_version(name: ModelName, number: VersionNumber) -> Response:
        return _listing(gallery.of_version(name, number), f"/v1/models/{name}/versions/{number}/figures")

    @routes.get(
        "/models/{name}/versions/{number}/figures/{figure}",
        summary="One of its figures",
        description=_ABOUT,
        tags=["models"],
        responses=_FIGURE,
    )
    def figure_of_version(
        name: ModelName,
        number: VersionNumber,
        figure: FigureName,
        points: Points = 1000,
        part: Part = None,
        layer: LayerPath = None,
        known: Seen = None,
    ) -> Response:
        return _answer(gallery.figure_of_version(name, number, figure, Wish(points, part, layer)), known)

    return routes


def _listing(entries: list[dict[str, Any]], path: str) -> Response:
    return json_response({"data": [{**entry, "url": f"{path}/{entry['name']}"} for entry in entries], "next": None})


def _answer(figure: Figure, known: str | None) -> Response:
    """The figure with the digest of its bytes, or 304 where that is known."""
    content = orjson.dumps(figure)
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Cache-Control": "no-cache"}
    if known is not None and (headers["ETag"] in known or known.strip() == "*"):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/json")
