"""The client: every operation of the HTTP interface as a method, for programs, notebooks and the command.

    from service.client import Client

    with Client() as client:
        job = client.jobs.submit({"kind": "train", …})
        client.jobs.wait(job, progress=True)
        print(client.predict("quadratic", [[0.5], [0.7]]).outputs)

`AsyncClient` has the same methods to be awaited. Answers are the documents of `service.schemas.views`, refusals the
classes of `service.errors`. Imports neither torch nor the server.
"""

from service.client.answers import Alias, Dataset, Job, Model, Prediction, Version
from service.client.asynchronous import AsyncClient
from service.client.calls import Retry
from service.client.refusals import (
    BadRequest,
    HeadersTooLarge,
    InternalError,
    MethodNotAllowed,
    MisdirectedRequest,
    RequestRefused,
    RequestTimeout,
    UnexpectedAnswer,
    Unreachable,
)
from service.client.synchronous import Client

__all__ = [
    "Alias",
    "AsyncClient",
    "BadRequest",
    "Client",
    "Dataset",
    "HeadersTooLarge",
    "InternalError",
    "Job",
    "MethodNotAllowed",
    "MisdirectedRequest",
    "Model",
    "Prediction",
    "RequestRefused",
    "RequestTimeout",
    "Retry",
    "UnexpectedAnswer",
    "Unreachable",
    "Version",
]
