"""The OpenAPI document: what FastAPI derives, the bodies that we read ourselves, and every operation's problems.

Knows schemas and routes; changes no behaviour.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from service import __version__
from service.rest.auth import METRICS, OPEN, need_of
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

On a server with API keys every operation needs a scope, which its `security` names. The scopes are predict, read,
train, publish and admin; each includes those before it.
"""

TAGS: Final = [
    {"name": "predict", "description": "Ask a version for answers."},
    {"name": "jobs", "description": "Train, import, evaluate, export."},
    {"name": "models", "description": "Versions and the aliases that point at them."},
    {"name": "data", "description": "Uploads and datasets."},
    {"name": "architectures", "description": "Documents that describe nets."},
    {"name": "open inference", "description": "The Open Inference Protocol v2, for clients that speak it."},
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
    "501": "An extension of the protocol that is not here.",
    "503": "Not now; see Retry-After.",
    "504": "The deadline passed.",
    "507": "The disk is full.",
}
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer msk_…`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`X-API-Key: msk_…`"},
}
_OF_KEYS: Final = {"401": "There is no valid API key.", "403": "The API key's scope is a lesser one."}
_OF_PROBES: Final = ("/livez", "/startupz", "/readyz", "/version", "/metrics")


def install(app: FastAPI, *, guarded: bool, open_metrics: bool = False) -> None:
    """Serve our OpenAPI document instead of FastAPI's own.

    Args:
        app: the application that is described.
        guarded: it asks for API keys; else they are described as what one may send and need not.
        open_metrics: it does not ask for one at `/metrics`.
    """

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _document(app)
            _secure(app.openapi_schema, guarded=guarded, without={METRICS} if open_metrics else set())
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


def _secure(document: dict[str, Any], *, guarded: bool, without: Set[str]) -> None:
    """Declare the scope of every operation, and what is answered without it."""
    document["components"]["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            need = OPEN if name in without else need_of(name)
            if need == OPEN:
                operation["security"] = []
                continue
            scopes = [] if need is None else [need.word]
            operation["security"] = [*({scheme: scopes} for scheme in _SCHEMES), *(() if guarded else ({},))]
            content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            told = {**_OF_KEYS, "429": _COMMON["429"]}
            for status, text in told.items():
                operation["responses"].setdefault(status, {"description": text, "content": content})


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    """Declare the problems that the operation can answer with."""
    declared = operation.setdefault("responses", {})
    has_body = "requestBody" in operation
    writes = method != "get"
    conditional = any(parameter["name"].lower() == "if-match" for parameter in operation.get("parameters", []))
    probe = path in _OF_PROBES
    protocol = path.startswith("/v2")  # which says 400 for all that is wrong with a request
    if protocol:
        declared.pop("422", None)
    applies = {
        "400": has_body or protocol,
        "404": has_body or "{" in path,
        "409": writes or path.endswith(("/artifact", "/figures/{figure}")),
        "412": conditional,
        "413": has_body,
        "415": has_body,
        "422": not probe and not protocol,
        "428": conditional,
        "429": writes,
        "503": not probe or "503" in declared,
        "501": path.endswith("/load"),
        "504": path.endswith(("predict", "/infer")),
        "507": writes,
    }
    for status, text in _COMMON.items():
        if applies[status]:
            problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            declared[status] = {"description": text, "content": problem}
