"""The OpenAPI document: what FastAPI derives, the bodies that we read ourselves, and every operation's problems.

Knows schemas and routes; changes no behaviour.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from service import __version__
from service.rest.problems import MEDIA_TYPE
from service.schemas import catalogue, views
from service.schemas.datasets import DatasetRequest
from service.schemas.diff import DiffRequest
from service.schemas.edits import EditRequest
from service.schemas.jobs import JobSpec

DESCRIPTION: Final = """\
Train, version and serve PyTorch models as data: a typed architecture document and a state_dict, never a pickled class.

Three calls lead from nothing to a prediction: `POST /v1/jobs`, `GET /v1/jobs/{id}`, `POST /predict`.
Errors are `application/problem+json` (RFC 9457) everywhere, with every mistake of a request at once.
"""

TAGS: Final = [
    {"name": "predict", "description": "Ask a version for answers."},
    {"name": "jobs", "description": "Train, import, evaluate, export."},
    {"name": "models", "description": "Versions and the aliases that point at them."},
    {"name": "data", "description": "Uploads and datasets."},
    {"name": "architectures", "description": "Documents that describe nets."},
    {"name": "health", "description": "Probes, version and metrics."},
]

_DOCUMENT: Final[dict[str, Any]] = {
    "title": "Architecture document",
    "description": "Its whole JSON Schema stands at /v1/architectures/schema; or the name of a net of the catalogue.",
    "type": "object",
    "anyOf": [
        {
            "required": ["schema", "inputs", "root"],
            "properties": {
                "schema": {"const": "arch/1"},
                "inputs": {"type": "array", "items": {"type": "object"}, "minItems": 1},
                "root": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}},
            },
        },
        {
            "required": ["catalogue"],
            "properties": {"catalogue": {"enum": list(catalogue.names())}, "params": {"type": "object"}},
            "additionalProperties": False,
        },
    ],
}

_BODIES: Final[dict[str, Any]] = {
    "JobRequest": JobSpec,
    "EditRequest": EditRequest,
    "DatasetRequest": DatasetRequest,
    "DiffRequest": DiffRequest,
    "PredictRequest": views.PredictRequest,
    "AliasRequest": views.AliasRequest,
    "RollbackRequest": views.RollbackRequest,
    "Notes": views.Notes,
    "JobPatch": views.JobPatch,
    "RetryRequest": views.RetryRequest,
    "PromoteRequest": views.PromoteRequest,
    "Problem": views.Problem,
}

_COMMON: Final = {
    "400": "The body is not well-formed.",
    "404": "There is no such resource.",
    "409": "The state of the resource does not allow this.",
    "412": "If-Match named another state.",
    "413": "The body is too large.",
    "415": "The body has another content type.",
    "422": "The request is well-formed but wrong; `errors` lists every mistake.",
    "428": "If-Match is missing.",
    "429": "Too much waits already; see Retry-After.",
    "503": "Not now; see Retry-After.",
    "504": "The deadline passed.",
    "507": "The disk is full.",
}
_OF_PROBES: Final = ("/livez", "/startupz", "/readyz", "/version", "/metrics")


def install(app: FastAPI) -> None:
    """Serve our OpenAPI document instead of FastAPI's own."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="Modelyard", version=__version__, description=DESCRIPTION, routes=app.routes, tags=TAGS
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["AnyDocument"] = {
        "title": "Any JSON object",
        "description": "A wrong document is this operation's normal input.",
        "type": "object",
    }
    schemas["ArchitectureDocument"] = _DOCUMENT
    for name, kind in _BODIES.items():
        schema: dict[str, Any] = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _describe(path, method, operation)
    return document


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    """Declare the problems that the operation can answer with."""
    declared = operation.setdefault("responses", {})
    has_body = "requestBody" in operation
    writes = method != "get"
    conditional = any(parameter["name"].lower() == "if-match" for parameter in operation.get("parameters", []))
    probe = path in _OF_PROBES
    applies = {
        "400": has_body,
        "404": has_body or "{" in path,
        "409": writes or path.endswith("/artifact"),
        "412": conditional,
        "413": has_body,
        "415": has_body,
        "422": not probe,
        "428": conditional,
        "429": writes,
        "503": not probe or "503" in declared,
        "504": path.endswith("predict"),
        "507": writes,
    }
    for status, text in _COMMON.items():
        if applies[status]:
            problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            declared[status] = {"description": text, "content": problem}
