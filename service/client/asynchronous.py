"""The client for asyncio and trio: each operation of the HTTP interface is one method.

`synchronous.py` is written from this file by scripts/client.py; change this one. What both share stands in `calls`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal, Self, TypeVar

import anyio
import httpx
from httpx_sse import EventSource

from service.client import calls, dialects, files, recipes, refusals, rows, tensors
from service.client.answers import Alias, Dataset, Job, Model, Prediction, Version
from service.client.calls import Call, Retry
from service.client.progress import Bar
from service.client.streams import Follower, identify
from service.errors import DatasetRefused, InvalidInput, NotFound, ServiceError
from service.schemas import views
from service.schemas.versions import DEFAULT_ALIAS, Reference, parse_reference

T = TypeVar("T")
Body = Mapping[str, Any] | Any
"""A request: plain values, or a pydantic document of `service.schemas`."""
Page = views.PageView
_TIDYING_S: Final = 5.0
"""Seconds after which what a refused or cancelled training has left on a server that does not answer stays there."""


class AsyncClient:
    """A client of one server.

    Args:
        url: the server's address; by default MODELYARD_URL, else http://127.0.0.1:8000.
        api_key: by default MODELYARD_API_KEY.
        timeout_s: how long an answer may take, in seconds; calls that wait for work take longer by what they wait.
        retry: how often lost and refused calls are sent again. Only calls that do no harm twice are repeated when
            nobody knows whether they arrived; calls that create carry an Idempotency-Key, so they are among them.
        http: an httpx client, or what is shaped like one, that sends the requests; it is not closed here. Its
            `base_url` counts where no `url` is given.
        transport: an httpx transport for a client of its own.
        app: an ASGI application to talk to without a socket. Its lifespan is the caller's business.

    Raises:
        ValueError: the address is none.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retry: Retry | None = None,
        http: Any = None,
        transport: httpx.AsyncBaseTransport | None = None,
        app: Any = None,
    ) -> None:
        if http is not None and url is None:
            url = str(getattr(http, "base_url", "")) or None
        self.url = calls.location(url, os.environ)
        self.timeout_s = timeout_s
        self._retry = Retry() if retry is None else retry
        key = api_key if api_key is not None else os.environ.get("MODELYARD_API_KEY")
        self._headers = {"User-Agent": calls.user_agent()} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._owned = http is None
        if app is not None:
            transport = httpx.ASGITransport(app)
        self._http: Any = http or httpx.AsyncClient(transport=transport, trust_env=not calls.is_loopback(self.url))
        self.architectures = AsyncArchitectures(self)
        self.uploads = AsyncUploads(self)
        self.datasets = AsyncDatasets(self)
        self.jobs = AsyncJobs(self)
        self.models = AsyncModels(self)
        self.versions = AsyncVersions(self)
        self.aliases = AsyncAliases(self)
        self.v2 = AsyncOpenInference(self)
        self.server = AsyncServer(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owned:
            await self._http.aclose()

    async def train(
        self,
        model: str,
        data: Any,
        target: str | None = None,
        *,
        inputs: Sequence[str] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        task: recipes.Task = "auto",
        architecture: Body | None = None,
        alias: str | None = DEFAULT_ALIAS,
        if_better: bool = False,
        epochs: int = recipes.EPOCHS,
        minutes: float = recipes.MINUTES,
        lr: float = recipes.LEARNING_RATE,
        batch_size: int | None = None,
        seed: int = 0,
        weigh_classes: bool = False,
        engine: str | None = None,
        missing_texts: Sequence[str] = (),
        skip_unlabelled: bool = False,
        delimiter: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
        shape: Sequence[int] | None = None,
    ) -> Job:
        """Train a net on a table or on arrays, by the rules of the command `train`; what they leave out is warned of.

        Args:
            model: the model that gets a new version.
            data: the path of a file (CSV, TSV, JSON lines, Parquet), a pandas table, a list of objects by column name,
                or a pair of inputs and targets: numpy arrays, torch tensors, pandas tables, lists. Arrays with rows of
                a shape, such as pictures, need an `architecture`.
            target: the column that is to be learnt.
            inputs: the only columns to learn from; by default all others that are fit for it.
            include: columns to learn from all the same that would be left out.
            exclude: columns to leave out.
            task: "auto", "classes" or "numbers": what the target is.
            architecture: a document; by default the catalogue's mlp.
            alias: the alias that gets the version; None for none.
            if_better: the alias moves only to a version that is better, by accuracy or r2 on held-out rows.
            epochs: so many at most.
            minutes: so long at most.
            lr: the learning rate.
            batch_size: rows of a step; by default after their number.
            seed: of weights, order and split.
            weigh_classes: a class of few rows counts as much as one of many.
            engine: what answers for the version.
            missing_texts: cells of a CSV file that are missing values too.
            skip_unlabelled: rows whose target has no value are left out, with a warning; by default they are refused.
            delimiter: what parts the values of a CSV file; by default as its first line has it.
            decimal: the decimal mark in a CSV file; by default as its numbers have it.
            thousands: the mark between thousands in a CSV file, "none" for none; by default as its numbers have it.
            encoding: of a CSV file; by default UTF-8, UTF-16 or Windows-1252, as its bytes have it.
            shape: the shape of a row that lies flat in the columns, such as [1, 8, 8], for an `architecture` that takes
                such rows.

        Returns:
            The job, for `jobs.wait` and `jobs.watch`; `predict` takes it, too.

        Raises:
            ValueError: the data are none of these, or an argument does not fit them.
            InvalidInput: the server does not take the table, or the request that was made of it.
        """
        if if_better and not alias:
            raise ValueError("if_better needs an alias that it may move")
        reading = dialects.reading_of(
            delimiter=delimiter, decimal=decimal, thousands=thousands, encoding=encoding, missing_texts=missing_texts
        )
        words, decided = recipes.AsWarnings(), task
        if isinstance(data, (str, PathLike)):
            path = Path(data)
            kind = dialects.TABLES.get(path.suffix.lower())
            if kind is None or target is None:
                known = f"{path.name} is no table: these are {', '.join(dialects.TABLES)}"
                raise ValueError(known if kind is None else "say which column is to be learnt, as `target`")
            table, learnt = await anyio.to_thread.run_sync(dialects.table_of, path, kind, reading), target
        elif (archive := await anyio.to_thread.run_sync(rows.archive_of, data, task)) is not None:
            if architecture is None or inputs:
                way = "say the net that takes such rows, as `architecture`" if not inputs else "they have no columns"
                raise ValueError(f"the inputs are rows of a shape: {way}")
            (content, names, decided), learnt = archive, "y"
            told = {"type": "npz", "inputs": "x"} | ({} if names is None else {"classes": names})
            table = dialects.Table(model, told, content, "application/octet-stream")
        else:
            lines, learnt = await anyio.to_thread.run_sync(rows.lines_of, data, target)
            table = dialects.Table(model, {"type": "jsonl"}, lines, "application/jsonl")
        recipe = recipes.Recipe(
            target=learnt,
            inputs=inputs,
            include=include,
            exclude=exclude,
            task=decided,
            architecture=calls.document(architecture),
            epochs=epochs,
            minutes=minutes,
            lr=lr,
            batch_size=batch_size,
            seed=seed,
            weigh_classes=weigh_classes,
        )
        words.read(table)
        upload = (await self.uploads.add(table.content, media_type=table.media_type)).id
        source = {**table.source, "upload": upload, **({"unlabelled": "skip"} if skip_unlabelled else {})}
        source |= {} if shape is None else {"shape": list(shape)}
        plan = None
        try:
            plan = await self.plan(source, recipe, name=Path(table.name).stem[:63].lower())
            output = recipes.output_of(plan.request, model, alias=alias, if_better=if_better, engine=engine)
            return await self.jobs.submit({**plan.request, "output": output})
        except BaseException as error:
            if isinstance(error, InvalidInput):
                recipes.say_in_python(error, guessed=plan if task == "auto" else None)
            with anyio.move_on_after(_TIDYING_S, shield=True):  # a cancelled task could not ask for anything
                await self.discard(upload)
            raise

    async def plan(
        self, source: Mapping[str, Any], recipe: recipes.Recipe, *, name: str, words: recipes.Words | None = None
    ) -> recipes.Plan:
        """The dataset and the request that the rules of `train` make of an uploaded table.

        Args:
            source: what the table is read as, without its target and its inputs.
            recipe: what is to be learnt of it.
            name: of the dataset.
            words: how what is found in the table is told.

        Raises:
            InvalidInput: the server does not take the table.
        """
        words = words or recipes.AsWarnings()
        made = {**source, "target": recipe.target, "inputs": list(recipe.inputs or ()) or source.get("inputs", "*")}
        try:
            found = await self._dataset(made, name)
        except DatasetRefused as refused:
            if not recipes.keeps_missing(refused):
                raise recipes.explained(refused, recipe, words) from None
            await self.discard(made["upload"], datasets_only=True)
            made["missing"] = "keep"
            found = await self._explained(made, name, recipe, words)
        known = [column.name for column in recipes.inputs_of(found)]
        for option, names in (("exclude", recipe.exclude), ("include", recipe.include)):
            absent = [one for one in names if one not in known]
            if absent:
                words.absent(option, absent, known)
        odd = recipes.odd_columns(found, recipe.taken)
        if odd:
            words.odd(odd)
        about = [one for one in found.warnings if not any(recipes.is_about(one, column) for column in recipe.exclude)]
        words.warned(about)
        reasons = {} if recipe.inputs else recipes.unfit(found, {*recipe.include, *recipe.exclude})
        if reasons:
            words.left_out(reasons)
        for told in recipes.wide_told(found, recipe.include):
            words.wide(told)
        left_out = {*recipe.exclude, *reasons}
        if left_out:
            made["inputs"] = [column for column in known if column not in left_out]
            await self.datasets.delete(found.id)
            if not made["inputs"]:
                raise recipes.nothing_left(known)
            found = await self._explained(made, name, recipe, words)
        if recipe.task == "numbers" and recipes.target_of(found).dtype == "text":
            words.texts(recipe.target)
        classes = recipes.may_be_class(found, recipe.task)
        if classes:
            profile = await self.datasets.profile(found.id)
            target = next(column for column in profile.columns if column.get("role") == "target")
            classes = recipes.is_class(found, recipe.task, target)
            odd_sizes = recipes.rare_told(target)
            if odd_sizes is None and not recipe.weigh_classes:
                odd_sizes = recipes.unequal_told(profile, words)
            if classes and odd_sizes is not None:
                words.rare(odd_sizes)
        if recipe.weigh_classes and not classes:
            words.numbers(recipe.target)
        return recipes.Plan(found, made, recipes.request_of(found, recipe, classes=classes))

    async def _explained(
        self, source: Mapping[str, Any], name: str, recipe: recipes.Recipe, words: recipes.Words
    ) -> Dataset:
        """The dataset of a source, whose refusal is told with what to do about it."""
        try:
            return await self._dataset(source, name)
        except DatasetRefused as refused:
            raise recipes.explained(refused, recipe, words) from None

    async def _dataset(self, source: Mapping[str, Any], name: str) -> Dataset:
        """The dataset of a source when it has been read, however long that takes."""
        found = await self.datasets.add(source, name=name, wait_s=600)
        while found.state == "processing":
            await anyio.sleep(1.0)
            found = await self.datasets.get(found.id)
        if found.state == "failed":
            raise refusals.of_problem({**(found.error or {}), "code": DatasetRefused.code})
        return found

    async def discard(self, upload: str, *, datasets_only: bool = False) -> None:
        """Remove an upload, and what was made of it: a refused dataset too is kept until it is deleted.

        A server that does not answer is given up after some five seconds; `modelyard store gc` removes what stays.
        """
        patience = Retry(attempts=2, most_s=_TIDYING_S / 2)
        with suppress(ServiceError):  # this is tidying: what went wrong before is what people have to know
            brisk = AsyncClient(self.url, timeout_s=_TIDYING_S / 2, retry=patience, http=self._http)
            brisk._headers = self._headers
            for made in (await brisk.datasets.list(limit=200)).data:
                if made.source.get("upload") == upload:
                    with suppress(NotFound):  # an attempt whose answer was lost had removed it
                        await brisk.datasets.delete(made.id)
            if not datasets_only:
                await brisk.uploads.delete(upload)

    async def predict(
        self, model: str | Job | Version, inputs: Any, *, timeout_s: float | None = None, priority: int | None = None
    ) -> Prediction:
        """Ask a version.

        Args:
            model: name (its alias champion, else the newest version), name@alias or name/3; or the id of a job; or
                what `train` or `versions.get` answered.
            inputs: rows: lists, objects by column name, a numpy array, a torch tensor, a pandas table, of which columns
                that the version does not take are left out with a warning; or an object with the rows of each input.
            timeout_s: seconds after which the server answers that it was too late.
            priority: 0 to 9.
        """
        body = {"model": _asked(model), **_question(inputs, timeout_s, priority)}
        return await self.ask(Call("POST", "/predict", Prediction, body=body, repeatable=True), inputs)

    def each(self, listing: Callable[..., Awaitable[Page[T]]], *about: Any, **filters: Any) -> AsyncIterator[T]:
        """Everything in a collection, page by page: `client.each(client.jobs.list, state="failed")`."""
        return _each(listing, about, filters)

    def watch(
        self, *jobs: str | views.JobSummary, states: bool = True, after: int | None = None
    ) -> AsyncGenerator[views.EventView, None]:
        """The events of several jobs in one stream, which ends with the loop that reads it.

        Args:
            jobs: everything of these is told.
            states: the states of all jobs are told.
            after: begin after this event; by default with what happens from now on.
        """
        topics = (["jobs"] if states else []) + [f"job:{identify(job)}" for job in jobs]
        call: Call[None] = Call("GET", "/v1/events", None, query={"topics": ",".join(topics)})
        return self.follow(call, after=after)

    # What the groups below use, and programs that need an operation which has no method yet.

    async def ask(self, call: Call[Prediction], inputs: Any) -> Prediction:
        """Send a prediction; of a pandas table without the columns that the version does not take."""
        if not rows.is_table(inputs):
            return await self.send(call)
        left_out: list[str] = []
        while True:
            try:
                answer = await self.send(call)
                break
            except InvalidInput as refused:
                absent, more = rows.missing_columns(refused), rows.unknown_columns(refused)
                if absent:
                    raise rows.without_columns(refused, absent, [*left_out, *more]) from None
                if not more:
                    rows.name_odd_cells(refused, call.body["inputs"])
                    raise
                left_out += more
                call = replace(call, body={**call.body, "inputs": rows.without(call.body["inputs"], more)})
        if left_out:
            warnings.warn(f"left out, since the model does not take them: {', '.join(left_out)}", stacklevel=3)
        return answer

    async def send(self, call: Call[T]) -> T:
        """Send a request and read its answer.

        Raises:
            ServiceError: the class that the answer's problem names.
            Unreachable: nobody answers.
            UnexpectedAnswer: what answers is not this service.
        """
        return call.read(await self._answer(call))

    async def download(self, call: Call[Any], to: str | PathLike[str] | None) -> bytes | None:
        """The bytes of an answer, or None when they went to the file `to`; their digest is that of the answer.

        Raises:
            DigestMismatch: it is not; no file is left.
        """
        if to is None:
            response = await self._answer(call)
            return files.checked(response.content, response.headers.get("repr-digest", ""))
        attempts = calls.Attempts(call, self._retry, self.url)
        with files.Download(to) as file:
            while True:
                asked = replace(call, headers={**call.headers, **file.headers()})
                response = await self._answer(asked, whole=False)
                try:
                    file.begin(response.headers, partial=response.status_code == 206)
                    async for piece in response.aiter_bytes():
                        file.write(piece)
                    return None
                except httpx.TransportError as error:
                    pause = attempts.lost(error)
                finally:
                    await response.aclose()
                await anyio.sleep(pause)

    async def follow(
        self, call: Call[None], *, after: int | None = None, job: str | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[views.EventView, None]:
        """Events as they come, each once; a stream that is lost is asked for again after the last event.

        Args:
            call: the operation whose answer is the stream.
            after: begin after this event.
            job: the stream is of this one job and ends with it.
            timeout_s: about how many seconds it may take.

        Raises:
            DeadlinePassed: it took longer.
            Unreachable: the stream was lost, and for a minute nobody answered.
        """
        follower = Follower(call, after=after, job=job, retry=self._retry, now=time.monotonic, timeout_s=timeout_s)
        while not follower.ended:
            try:
                response = await self._answer(follower.call(), whole=False, read_s=follower.patience_s())
                source: Any = EventSource(response)
                try:
                    async with aclosing(source.aiter_sse()) as messages:
                        async for message in messages:
                            event = follower.take(message)
                            if event is not None:
                                yield event
                finally:
                    await response.aclose()
                pause = follower.broke()
                if follower.quiet and job is not None and (await self.jobs.get(job)).ended:
                    return  # all of it was told before
            except (httpx.TransportError, ServiceError) as error:
                pause = follower.failed(error, self.url)
            await anyio.sleep(pause)

    async def _answer(self, call: Call[Any], *, whole: bool = True, read_s: float | None = None) -> httpx.Response:
        """The successful answer to a call, sent as often as it takes; the body is read if it is wanted whole."""
        attempts = calls.Attempts(call, self._retry, self.url)
        while True:
            try:
                response: httpx.Response = await self._http.send(self._request(call, read_s), stream=True)
                try:
                    if whole or not response.is_success:
                        await response.aread()
                finally:
                    if whole or not response.is_success:
                        await response.aclose()
            except httpx.TransportError as error:
                pause = attempts.lost(error)
            else:
                if response.is_success:
                    return response
                pause = attempts.refused(response)
            await anyio.sleep(pause)

    def _request(self, call: Call[Any], read_s: float | None) -> httpx.Request:
        read = read_s if read_s is not None else self.timeout_s + (call.wait_s or 0)
        content = call.content() if call.source is None else call.source.async_pieces()
        request: httpx.Request = self._http.build_request(
            call.method,
            self.url + call.url,
            params=call.parameters() or None,
            headers={**self._headers, **call.all_headers()},
            content=content,
            timeout=httpx.Timeout(self.timeout_s, read=read),
        )
        return request


@asynccontextmanager
async def _bar(progress: bool | Callable[[views.EventView], None]) -> AsyncIterator[Callable[[views.EventView], None]]:
    """What is told of each event: nothing, a caller's function, or a bar in the terminal or notebook."""
    if progress is True:
        with Bar() as bar:
            yield bar
    elif progress is False:
        yield lambda _event: None
    else:
        yield progress


async def _each(
    listing: Callable[..., Awaitable[Page[T]]], about: tuple[Any, ...], filters: dict[str, Any]
) -> AsyncIterator[T]:
    after = None
    while True:
        page = await listing(*about, **filters, after=after)
        for item in page.data:
            yield item
        if page.next is None:
            return
        after = page.next


def _asked(model: str | Job | Version) -> str:
    if isinstance(model, Job):
        return model.id
    return model.reference if isinstance(model, Version) else model


def _question(inputs: Any, timeout_s: float | None, priority: int | None) -> dict[str, Any]:
    if isinstance(inputs, (str, PathLike)):
        raise rows.no_rows(inputs)
    asked = {"inputs": rows.rows_of(inputs), "timeout_s": timeout_s, "priority": priority}
    return {name: value for name, value in asked.items() if value is not None}


class _Group:
    """Operations on one kind of resource."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client


class AsyncArchitectures(_Group):
    """Documents that describe nets."""

    async def validate(self, document: Body, *, drawing: bool = False) -> views.Validation:
        """Every mistake of a document at once, or its layers with shapes, parameters, FLOPs and memory.

        Args:
            document: which.
            drawing: also the net as a Mermaid flowchart.
        """
        call: Call[views.Validation] = Call(
            "POST",
            "/v1/architectures/validate",
            views.Validation,
            query={"drawing": True} if drawing else {},
            body=calls.document(document),
            repeatable=True,
        )
        return await self._client.send(call)

    async def edit(self, edits: Body) -> views.EditView:
        """Surgery on a version's or a document's net: `{"from": …, "edits": […], "dry_run": true}`."""
        body = calls.document(edits)
        call: Call[views.EditView] = Call("POST", "/v1/architectures/edit", views.EditView, body=body, repeatable=True)
        return await self._client.send(call)

    async def diff(self, a: Body, b: Body) -> views.DiffView:
        """What differs from `a` to `b`: each a document, the digest of a stored one, or `{"model", "version"}`."""
        body = {"a": calls.document(a), "b": calls.document(b)}
        call: Call[views.DiffView] = Call("POST", "/v1/architectures/diff", views.DiffView, body=body, repeatable=True)
        return await self._client.send(call)

    async def schema(self) -> dict[str, Any]:
        """The JSON Schema of the document."""
        return await self._client.send(Call("GET", "/v1/architectures/schema", dict[str, Any]))

    async def add(self, document: Body) -> views.ArchitectureView:
        """Keep a document; equal ones are one, by their digest."""
        body = calls.document(document)
        call: Call[views.ArchitectureView] = Call(
            "POST", "/v1/architectures", views.ArchitectureView, body=body, repeatable=True
        )
        return await self._client.send(call)

    async def list(self, *, limit: int | None = None, after: str | None = None) -> Page[views.ArchitectureView]:
        """A page of the stored documents."""
        query = {"limit": limit, "after": after}
        return await self._client.send(Call("GET", "/v1/architectures", Page[views.ArchitectureView], query=query))

    async def catalogue(self) -> Page[views.CatalogueView]:
        """The well-known nets and their params."""
        return await self._client.send(Call("GET", "/v1/architectures/catalogue", Page[views.CatalogueView]))

    async def net(self, name: str) -> dict[str, Any]:
        """A well-known net's document."""
        call: Call[dict[str, Any]] = Call(
            "GET", "/v1/architectures/catalogue/{name}", dict[str, Any], at={"name": name}
        )
        return await self._client.send(call)

    async def get(self, digest: str) -> views.ArchitectureView:
        """A stored document."""
        call: Call[views.ArchitectureView] = Call(
            "GET", "/v1/architectures/{digest}", views.ArchitectureView, at={"digest": digest}
        )
        return await self._client.send(call)

    async def read(self, digest: str, view: views.Reading) -> str:
        """A stored document in one form, as text: Python, a Mermaid flowchart, a table; or JSON."""
        at, query = {"digest": digest}, {"view": view}
        return await self._client.send(Call("GET", "/v1/architectures/{digest}", str, at=at, query=query))

    async def delete(self, digest: str) -> None:
        """Forget a document that nothing uses."""
        await self._client.send(Call("DELETE", "/v1/architectures/{digest}", None, at={"digest": digest}))


class AsyncUploads(_Group):
    """Bytes in staging, for datasets and imports."""

    async def add(
        self, source: str | PathLike[str] | bytes | BinaryIO, *, media_type: str | None = None
    ) -> views.UploadView:
        """Send a file's bytes as they are, in pieces; the server checks their digest.

        Args:
            source: a path, bytes, or a file opened for reading bytes.
            media_type: by default after the file's suffix.
        """
        file = await anyio.to_thread.run_sync(files.Source, source, media_type)
        return await self._client.send(Call("POST", "/v1/uploads", views.UploadView, source=file))

    async def list(self, *, limit: int | None = None, after: str | None = None) -> Page[views.UploadView]:
        """A page of the uploads."""
        query = {"limit": limit, "after": after}
        return await self._client.send(Call("GET", "/v1/uploads", Page[views.UploadView], query=query))

    async def get(self, upload: str) -> views.UploadView:
        """An upload."""
        return await self._client.send(
            Call("GET", "/v1/uploads/{upload_id}", views.UploadView, at={"upload_id": upload})
        )

    async def delete(self, upload: str) -> None:
        """Delete an upload."""
        await self._client.send(Call("DELETE", "/v1/uploads/{upload_id}", None, at={"upload_id": upload}))


class AsyncDatasets(_Group):
    """Immutable tables of examples."""

    async def add(
        self, source: Body, *, name: str | None = None, wait_s: float | None = None, key: str | None = None
    ) -> Dataset:
        """Make a dataset of a source: a generator, rows, or an uploaded file.

        Args:
            source: such as `{"type": "csv", "upload": "up_…", "target": "y"}`.
            name: a name to find it by.
            wait_s: seconds to wait for a large file to be read; after that its state is `processing`.
            key: an Idempotency-Key; by default a new one.
        """
        body = {"source": calls.document(source)} | ({} if name is None else {"name": name})
        headers = {"Idempotency-Key": key or calls.new_key()}
        return await self._client.send(
            Call("POST", "/v1/datasets", Dataset, body=body, headers=headers, repeatable=True, wait_s=wait_s)
        )

    async def list(self, *, limit: int | None = None, after: str | None = None) -> Page[Dataset]:
        """A page of the datasets."""
        query = {"limit": limit, "after": after}
        return await self._client.send(Call("GET", "/v1/datasets", Page[Dataset], query=query))

    async def get(self, dataset: str) -> Dataset:
        """A dataset."""
        return await self._client.send(Call("GET", "/v1/datasets/{dataset_id}", Dataset, at={"dataset_id": dataset}))

    async def delete(self, dataset: str) -> None:
        """Delete a dataset that no waiting job uses."""
        await self._client.send(Call("DELETE", "/v1/datasets/{dataset_id}", None, at={"dataset_id": dataset}))

    async def preview(self, dataset: str, *, limit: int | None = None) -> views.PreviewView:
        """Its first rows."""
        at, query = {"dataset_id": dataset}, {"limit": limit}
        return await self._client.send(
            Call("GET", "/v1/datasets/{dataset_id}/preview", views.PreviewView, at=at, query=query)
        )

    async def profile(self, dataset: str) -> views.ProfileView:
        """Each column's type, range and distribution, and what may spoil a training."""
        return await self._client.send(
            Call("GET", "/v1/datasets/{dataset_id}/profile", views.ProfileView, at={"dataset_id": dataset})
        )


class AsyncJobs(_Group):
    """Training, evaluating, importing, exporting. Where a job is asked for, its id or the job itself will do."""

    async def submit(self, request: Body, *, wait_s: float | None = None, key: str | None = None) -> Job:
        """Start a job.

        Args:
            request: the job's request, such as `{"kind": "train", …}`, or `service.schemas.jobs.TrainSpec`.
            wait_s: answer when the job has ended, or after so many seconds.
            key: an Idempotency-Key; by default a new one. With the same key and request there is one job.
        """
        body = calls.document(request)
        headers = {"Idempotency-Key": key or calls.new_key()}
        return await self._client.send(
            Call("POST", "/v1/jobs", Job, body=body, headers=headers, repeatable=True, wait_s=wait_s)
        )

    async def examine(self, request: Body) -> views.ExaminationView:
        """What a request would come to, without starting anything: plan, memory, time, warnings with their mends."""
        call: Call[views.ExaminationView] = Call(
            "POST",
            "/v1/jobs",
            views.ExaminationView,
            query={"dry_run": True},
            body=calls.document(request),
            repeatable=True,
            wait_s=60,
        )
        return await self._client.send(call)

    async def list(
        self,
        *,
        state: str | None = None,
        model: str | None = None,
        kind: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Page[views.JobSummary]:
        """A page of the jobs, the newest first."""
        query = {"state": state, "model": model, "kind": kind, "limit": limit, "after": after}
        return await self._client.send(Call("GET", "/v1/jobs", Page[views.JobSummary], query=query))

    async def get(self, job: str | views.JobSummary) -> Job:
        """A job as it is now."""
        return await self._client.send(Call("GET", "/v1/jobs/{job_id}", Job, at=_job(job)))

    async def update(
        self,
        job: str | views.JobSummary,
        *,
        priority: int | None = None,
        labels: dict[str, str] | None = None,
        if_match: str | None = None,
    ) -> Job:
        """Change priority or labels.

        Args:
            job: an id; or a job, which must then be as it was seen.
            priority: −100 to 100.
            labels: all of them.
            if_match: the ETag that was seen.

        Raises:
            PreconditionFailed: it has changed since it was seen.
        """
        body = {"priority": priority, "labels": labels}
        body = {name: value for name, value in body.items() if value is not None}
        tag = if_match or getattr(job, "etag", None) or (await self.get(job)).etag
        headers = {"If-Match": tag}
        return await self._client.send(
            Call("PATCH", "/v1/jobs/{job_id}", Job, at=_job(job), headers=headers, body=body)
        )

    async def delete(self, job: str | views.JobSummary) -> None:
        """Forget a job that has ended; its version stays."""
        await self._client.send(Call("DELETE", "/v1/jobs/{job_id}", None, at=_job(job)))

    async def cancel(self, job: str | views.JobSummary) -> Job:
        """Stop a job for good; it keeps its best checkpoint."""
        return await self._client.send(Call("POST", "/v1/jobs/{job_id}/cancel", Job, at=_job(job), repeatable=True))

    async def pause(self, job: str | views.JobSummary) -> Job:
        """Stop a job for now."""
        return await self._client.send(Call("POST", "/v1/jobs/{job_id}/pause", Job, at=_job(job), repeatable=True))

    async def resume(self, job: str | views.JobSummary) -> Job:
        """Let a paused job go on."""
        return await self._client.send(Call("POST", "/v1/jobs/{job_id}/resume", Job, at=_job(job), repeatable=True))

    async def retry(self, job: str | views.JobSummary, *, from_start: bool = False) -> Job:
        """Try a failed or cancelled job again, from its newest checkpoint or from the start."""
        body = {"from": "start"} if from_start else {}
        return await self._client.send(
            Call("POST", "/v1/jobs/{job_id}/retry", Job, at=_job(job), body=body, repeatable=True)
        )

    async def promote(
        self,
        job: str | views.JobSummary,
        output: Body | None = None,
        *,
        wait_s: float | None = None,
        key: str | None = None,
    ) -> Job:
        """Publish the best checkpoint of a job that has made no version; the answer is the job that does it."""
        body = {} if output is None else {"output": calls.document(output)}
        headers = {"Idempotency-Key": key or calls.new_key()}
        call: Call[Job] = Call(
            "POST",
            "/v1/jobs/{job_id}/promote",
            Job,
            at=_job(job),
            headers=headers,
            body=body,
            repeatable=True,
            wait_s=wait_s,
        )
        return await self._client.send(call)

    async def replay(self, job: str | views.JobSummary, *, wait_s: float | None = None, key: str | None = None) -> Job:
        """Train again and compare; the answer is the new job."""
        headers = {"Idempotency-Key": key or calls.new_key()}
        call: Call[Job] = Call(
            "POST", "/v1/jobs/{job_id}/replay", Job, at=_job(job), headers=headers, repeatable=True, wait_s=wait_s
        )
        return await self._client.send(call)

    async def events(
        self, job: str | views.JobSummary, *, after: int | None = None, limit: int | None = None
    ) -> Page[views.EventView]:
        """A page of what has happened to a job; `watch` goes on as it happens."""
        query = {"after": after, "limit": limit}
        return await self._client.send(
            Call("GET", "/v1/jobs/{job_id}/events", Page[views.EventView], at=_job(job), query=query)
        )

    def watch(
        self, job: str | views.JobSummary, *, after: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[views.EventView, None]:
        """A job's events as they happen, from the first on, each once; ends with the job. Lost streams are resumed.

        Args:
            job: whose events.
            after: begin after this event.
            timeout_s: about how many seconds it may take; DeadlinePassed after that.
        """
        call: Call[None] = Call("GET", "/v1/jobs/{job_id}/events", None, at=_job(job))
        return self._client.follow(call, after=after, job=identify(job), timeout_s=timeout_s)

    async def wait(
        self,
        job: str | views.JobSummary,
        *,
        timeout_s: float | None = None,
        progress: bool | Callable[[views.EventView], None] = False,
        check: bool = True,
    ) -> Job:
        """Wait for a job's end.

        Args:
            job: which.
            timeout_s: about how many seconds at most. A paused job does not end.
            progress: True shows a bar; a function is called with each event.
            check: raise when the job did not succeed.

        Raises:
            JobFailed: it failed or was cancelled; `failure` says why.
            DeadlinePassed: it goes on after `timeout_s`.
        """
        async with _bar(progress) as tell, aclosing(self.watch(job, timeout_s=timeout_s)) as events:
            async for event in events:
                tell(event)
        found = await self.get(job)
        failure = refusals.failure(found)
        if check and failure is not None:
            raise failure
        return found

    async def metrics(self, job: str | views.JobSummary, *, points: int | None = None) -> views.MetricsView:
        """Its curves, with at most so many points each."""
        return await self._client.send(
            Call("GET", "/v1/jobs/{job_id}/metrics", views.MetricsView, at=_job(job), query={"points": points})
        )

    async def logs(self, job: str | views.JobSummary) -> str:
        """What its workers printed."""
        return await self._client.send(Call("GET", "/v1/jobs/{job_id}/logs", str, at=_job(job)))

    async def checkpoints(self, job: str | views.JobSummary) -> Page[views.CheckpointView]:
        """The checkpoints that it keeps."""
        return await self._client.send(
            Call("GET", "/v1/jobs/{job_id}/checkpoints", Page[views.CheckpointView], at=_job(job))
        )

    async def artifact(self, job: str | views.JobSummary, to: str | PathLike[str] | None = None) -> bytes | None:
        """The file that an export made: its bytes, or None when they went to the file `to`."""
        return await self._client.download(Call("GET", "/v1/jobs/{job_id}/artifact", bytes, at=_job(job)), to)

    async def figures(self, job: str | views.JobSummary) -> Page[views.FigureEntryView]:
        """The figures that there are, and why others are not."""
        return await self._client.send(
            Call("GET", "/v1/jobs/{job_id}/figures", Page[views.FigureEntryView], at=_job(job))
        )

    async def figure(
        self,
        job: str | views.JobSummary,
        figure: str,
        *,
        points: int | None = None,
        part: views.PartOfRows | None = None,
        layer: str | None = None,
    ) -> views.FigureView:
        """A figure, as plotly takes it: `plotly.graph_objects.Figure(found.data, found.layout)`.

        Args:
            figure: its name, such as loss, fit, decision or confusion.
            points: at most so many of a curve.
            part: the rows whose answers are drawn.
            layer: of feature maps and weights: the layer.
        """
        call: Call[views.FigureView] = Call(
            "GET",
            "/v1/jobs/{job_id}/figures/{figure}",
            views.FigureView,
            at={**_job(job), "figure": figure},
            query={"points": points, "part": part, "layer": layer},
        )
        return await self._client.send(call)


class AsyncModels(_Group):
    """Names with versions."""

    async def list(self, *, limit: int | None = None, after: str | None = None) -> Page[Model]:
        """A page of the models."""
        return await self._client.send(Call("GET", "/v1/models", Page[Model], query={"limit": limit, "after": after}))

    async def get(self, name: str) -> Model:
        """A model."""
        return await self._client.send(Call("GET", "/v1/models/{name}", Model, at={"name": name}))

    async def update(
        self,
        model: str | Model,
        *,
        notes: str | None = None,
        tags: dict[str, str] | None = None,
        if_match: str | None = None,
    ) -> Model:
        """Change notes or tags; a model that is given, instead of its name, must be as it was seen."""
        name = model if isinstance(model, str) else model.model
        tag = if_match or (None if isinstance(model, str) else model.etag) or (await self.get(name)).etag
        return await self._client.send(
            Call(
                "PATCH",
                "/v1/models/{name}",
                Model,
                at={"name": name},
                headers={"If-Match": tag},
                body=_notes(notes, tags),
            )
        )

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a model with all its versions; `force` also where an alias points at one."""
        await self._client.send(Call("DELETE", "/v1/models/{name}", None, at={"name": name}, query=_force(force)))

    async def predict(
        self, name: str, inputs: Any, *, timeout_s: float | None = None, priority: int | None = None
    ) -> Prediction:
        """Ask a model's champion, else its newest version; `client.predict` takes any reference."""
        body = _question(inputs, timeout_s, priority)
        return await self._client.ask(
            Call("POST", "/v1/models/{name}/predict", Prediction, at={"name": name}, body=body, repeatable=True), inputs
        )

    async def signature(self, reference: str) -> views.ModelSignatureView:
        """What a version takes and answers, also for a key that may only predict.

        Args:
            reference: name (its alias champion, else the newest version), name@alias or name/3.

        Raises:
            InvalidName: it is no reference.
            NotFound: there is no such version.
        """
        wanted = parse_reference(reference)
        version = wanted.alias if wanted.version is None else str(wanted.version)
        at, query = {"name": wanted.model}, {"version": version}
        return await self._client.send(
            Call("GET", "/v1/models/{name}/signature", views.ModelSignatureView, at=at, query=query)
        )

    async def compare(self, name: str, a: int | str, b: int | str) -> views.CompareView:
        """Two versions side by side; each a number or an alias."""
        query = {"a": str(a), "b": str(b)}
        return await self._client.send(
            Call("GET", "/v1/models/{name}/compare", views.CompareView, at={"name": name}, query=query)
        )

    async def batching(self, name: str) -> views.BatchingView:
        """How the predictions of a model are batched in the server's process."""
        return await self._client.send(Call("GET", "/v1/models/{name}/batching", views.BatchingView, at={"name": name}))

    async def loaded(self) -> views.LoadedView:
        """The versions that are loaded in the server's process, with its budget."""
        return await self._client.send(Call("GET", "/v1/loaded", views.LoadedView))


class AsyncVersions(_Group):
    """What jobs have made: a net, its weights, and where they come from."""

    async def list(self, name: str, *, limit: int | None = None, after: str | None = None) -> Page[Version]:
        """A page of a model's versions."""
        query = {"limit": limit, "after": after}
        return await self._client.send(
            Call("GET", "/v1/models/{name}/versions", Page[Version], at={"name": name}, query=query)
        )

    async def get(self, name: str, number: int) -> Version:
        """A version."""
        return await self._client.send(
            Call("GET", "/v1/models/{name}/versions/{number}", Version, at=_version(name, number))
        )

    async def resolve(self, reference: str) -> Version:
        """The version that a reference means: name (its alias champion, else the newest), name@alias or name/3.

        Raises:
            InvalidName: it is no reference.
            NotFound: there is no such version.
        """
        wanted: Reference = parse_reference(reference)
        number = wanted.version
        if number is None:
            model = await self._client.models.get(wanted.model)
            number = model.aliases.get(wanted.alias or DEFAULT_ALIAS)
            if number is None and wanted.alias is None:
                number = model.latest
        if number is None:
            raise NotFound(f"There is no version {reference}.", hint="`modelyard models show` lists those that are.")
        return await self.get(wanted.model, number)

    async def update(
        self,
        name: str,
        number: int,
        *,
        notes: str | None = None,
        tags: dict[str, str] | None = None,
        if_match: str | None = None,
    ) -> Version:
        """Change notes or tags, which is all that can change of a version."""
        tag = if_match or (await self.get(name, number)).etag
        call: Call[Version] = Call(
            "PATCH",
            "/v1/models/{name}/versions/{number}",
            Version,
            at=_version(name, number),
            headers={"If-Match": tag},
            body=_notes(notes, tags),
        )
        return await self._client.send(call)

    async def delete(self, name: str, number: int, *, force: bool = False) -> None:
        """Delete a version; `force` also where an alias points at it."""
        await self._client.send(
            Call("DELETE", "/v1/models/{name}/versions/{number}", None, at=_version(name, number), query=_force(force))
        )

    async def predict(
        self, name: str, number: int, inputs: Any, *, timeout_s: float | None = None, priority: int | None = None
    ) -> Prediction:
        """Ask a version."""
        call: Call[Prediction] = Call(
            "POST",
            "/v1/models/{name}/versions/{number}/predict",
            Prediction,
            at=_version(name, number),
            body=_question(inputs, timeout_s, priority),
            repeatable=True,
        )
        return await self._client.ask(call, inputs)

    async def python(self, name: str, number: int) -> str:
        """Its net as the Python that one would write."""
        return await self._client.send(
            Call("GET", "/v1/models/{name}/versions/{number}/python", str, at=_version(name, number))
        )

    async def architecture(self, name: str, number: int) -> dict[str, Any]:
        """Its document."""
        call: Call[dict[str, Any]] = Call(
            "GET", "/v1/models/{name}/versions/{number}/architecture", dict[str, Any], at=_version(name, number)
        )
        return await self._client.send(call)

    async def read(self, name: str, number: int, view: views.Reading) -> str:
        """Its document in one form, as text."""
        call: Call[str] = Call(
            "GET",
            "/v1/models/{name}/versions/{number}/architecture",
            str,
            at=_version(name, number),
            query={"view": view},
        )
        return await self._client.send(call)

    async def weights(
        self,
        name: str,
        number: int,
        to: str | PathLike[str] | None = None,
        *,
        format: Literal["pt", "safetensors"] = "pt",
    ) -> bytes | None:
        """Its state_dict: the bytes, or None when they went to the file `to`. The digest is checked."""
        call: Call[bytes] = Call(
            "GET",
            "/v1/models/{name}/versions/{number}/weights",
            bytes,
            at=_version(name, number),
            query={"format": format},
        )
        return await self._client.download(call, to)

    async def bundle(self, name: str, number: int, to: str | PathLike[str] | None = None) -> bytes | None:
        """All of it in one zip file: the bytes, or None when they went to the file `to`. The digest is checked."""
        call: Call[bytes] = Call("GET", "/v1/models/{name}/versions/{number}/bundle", bytes, at=_version(name, number))
        return await self._client.download(call, to)

    async def load(
        self, name: str, number: int, *, dry_run: bool | None = None, pin: bool | None = None
    ) -> views.LoadView:
        """Load a version before its first request.

        Args:
            name: the model.
            number: the version.
            dry_run: only say what would go for it.
            pin: True keeps it for good, False ends that; None leaves it as it is.

        Raises:
            MemoryFull: nothing that may go would make room.
        """
        call: Call[views.LoadView] = Call(
            "POST",
            "/v1/models/{name}/versions/{number}/load",
            views.LoadView,
            at=_version(name, number),
            query={"dry_run": dry_run, "pin": pin},
            repeatable=True,
        )
        return await self._client.send(call)

    async def unload(self, name: str, number: int) -> views.UnloadView:
        """Let a version go, and wait until it has answered what it has begun; the next request loads it again."""
        call: Call[views.UnloadView] = Call(
            "POST",
            "/v1/models/{name}/versions/{number}/unload",
            views.UnloadView,
            at=_version(name, number),
            repeatable=True,
        )
        return await self._client.send(call)

    async def verify(self, name: str, number: int) -> views.VerifyView:
        """Whether its files still have the digests of its manifest."""
        call: Call[views.VerifyView] = Call(
            "POST",
            "/v1/models/{name}/versions/{number}/verify",
            views.VerifyView,
            at=_version(name, number),
            repeatable=True,
        )
        return await self._client.send(call)

    async def figures(self, name: str, number: int) -> Page[views.FigureEntryView]:
        """The figures that there are, and why others are not."""
        return await self._client.send(
            Call(
                "GET",
                "/v1/models/{name}/versions/{number}/figures",
                Page[views.FigureEntryView],
                at=_version(name, number),
            )
        )

    async def figure(
        self,
        name: str,
        number: int,
        figure: str,
        *,
        points: int | None = None,
        part: views.PartOfRows | None = None,
        layer: str | None = None,
    ) -> views.FigureView:
        """A figure, as plotly takes it: `plotly.graph_objects.Figure(found.data, found.layout)`.

        Args:
            figure: its name, such as loss, fit, decision or confusion.
            points: at most so many of a curve.
            part: the rows whose answers are drawn.
            layer: of feature maps and weights: the layer.
        """
        call: Call[views.FigureView] = Call(
            "GET",
            "/v1/models/{name}/versions/{number}/figures/{figure}",
            views.FigureView,
            at={**_version(name, number), "figure": figure},
            query={"points": points, "part": part, "layer": layer},
        )
        return await self._client.send(call)


class AsyncAliases(_Group):
    """Names that point at versions."""

    async def get(self, name: str, alias: str = DEFAULT_ALIAS) -> Alias:
        """Where an alias points."""
        return await self._client.send(Call("GET", "/v1/models/{name}/aliases/{alias}", Alias, at=_alias(name, alias)))

    async def set(
        self,
        name: str,
        alias: str,
        version: int,
        *,
        canary: Body | None = None,
        shadow: Sequence[int] = (),
        guard: Body | None = None,
        reason: str | None = None,
        if_match: str | None = None,
    ) -> Alias:
        """Point an alias at a version; without it, make it.

        Args:
            name: the model.
            alias: the alias.
            version: where it should point.
            canary: another version that answers a part of the requests.
            shadow: versions that compute the same rows unseen and are compared.
            guard: what takes the canary back.
            reason: why, for its history.
            if_match: the ETag that was seen; by default that of the moment of this call.

        Raises:
            PreconditionFailed: somebody else moved or made it meanwhile.
        """
        headers = {"If-Match": if_match}
        if if_match is None:
            try:
                headers = {"If-Match": (await self.get(name, alias)).etag}
            except NotFound:
                headers = {"If-None-Match": "*"}
        told = {
            "canary": calls.document(canary),
            "shadow": list(shadow),
            "guard": calls.document(guard),
            "reason": reason,
        }
        body = {"version": version, **{name: value for name, value in told.items() if value not in (None, [])}}
        call: Call[Alias] = Call(
            "PUT",
            "/v1/models/{name}/aliases/{alias}",
            Alias,
            at=_alias(name, alias),
            headers=headers,
            body=body,
            repeatable=False,  # the second would find its own change
        )
        return await self._client.send(call)

    async def delete(self, name: str, alias: str, *, if_match: str | None = None) -> None:
        """Remove an alias."""
        tag = if_match or (await self.get(name, alias)).etag
        call: Call[None] = Call(
            "DELETE",
            "/v1/models/{name}/aliases/{alias}",
            None,
            at=_alias(name, alias),
            headers={"If-Match": tag},
            repeatable=False,
        )
        await self._client.send(call)

    async def history(
        self, name: str, alias: str = DEFAULT_ALIAS, *, limit: int | None = None, after: str | None = None
    ) -> Page[views.AliasChangeView]:
        """A page of where an alias pointed, the newest first."""
        call: Call[Page[views.AliasChangeView]] = Call(
            "GET",
            "/v1/models/{name}/aliases/{alias}/history",
            Page[views.AliasChangeView],
            at=_alias(name, alias),
            query={"limit": limit, "after": after},
        )
        return await self._client.send(call)

    async def shadows(self, name: str, alias: str = DEFAULT_ALIAS) -> views.ShadowsView:
        """What the shadows of an alias made of the rows that it answered."""
        path = "/v1/models/{name}/aliases/{alias}/shadow"
        return await self._client.send(Call("GET", path, views.ShadowsView, at=_alias(name, alias)))

    async def rollback(
        self, name: str, alias: str = DEFAULT_ALIAS, *, reason: str | None = None, if_match: str | None = None
    ) -> Alias:
        """Point an alias where it pointed before."""
        tag = if_match or (await self.get(name, alias)).etag
        call: Call[Alias] = Call(
            "POST",
            "/v1/models/{name}/aliases/{alias}/rollback",
            Alias,
            at=_alias(name, alias),
            headers={"If-Match": tag},
            body={} if reason is None else {"reason": reason},
        )
        return await self._client.send(call)


class AsyncOpenInference(_Group):
    """The Open Inference Protocol v2, in its own words. A version is a number or an alias."""

    async def server(self) -> dict[str, Any]:
        """Name, release and extensions."""
        return await self._client.send(Call("GET", "/v2", dict[str, Any]))

    async def live(self) -> None:
        """Answers while the server lives."""
        await self._client.send(Call("GET", "/v2/health/live", None))

    async def ready(self) -> None:
        """Answers while the server takes work; Draining otherwise."""
        await self._client.send(Call("GET", "/v2/health/ready", None))

    async def names(self) -> dict[str, Any]:
        """The names of the models."""
        return await self._client.send(Call("GET", "/v2/models", dict[str, Any]))

    async def ready_model(self, name: str, version: str | int | None = None) -> None:
        """Answers when the version can be asked."""
        await self._client.send(Call("GET", _slot("/ready", version), None, at=_slots(name, version)))

    async def metadata(self, name: str, version: str | int | None = None) -> dict[str, Any]:
        """The tensors that a version takes and answers."""
        return await self._client.send(Call("GET", _slot("", version), dict[str, Any], at=_slots(name, version)))

    async def config(self, name: str, version: str | int | None = None) -> dict[str, Any]:
        """How a version is served."""
        return await self._client.send(Call("GET", _slot("/config", version), dict[str, Any], at=_slots(name, version)))

    async def statistics(self, name: str | None = None, version: str | int | None = None) -> dict[str, Any]:
        """Counts and times of what was asked."""
        path = "/v2/models/stats" if name is None else _slot("/stats", version)
        at = {} if name is None else _slots(name, version)
        return await self._client.send(Call("GET", path, dict[str, Any], at=at))

    async def infer(self, name: str, inputs: Mapping[str, Any], version: str | int | None = None) -> dict[str, Any]:
        """Ask with arrays that travel as bytes: the way for large ones.

        Args:
            name: of the model.
            inputs: an array for each input, by its name; numpy arrays, torch tensors on the CPU, or lists.
            version: a number or an alias; by default champion, else the newest.

        Returns:
            A numpy array for each output, by its name.
        """
        content, headers = tensors.encode(inputs)
        call: Call[dict[str, Any]] = Call(
            "POST",
            _slot("/infer", version),
            tensors.decode,
            at=_slots(name, version),
            headers=headers,
            raw=content,
            repeatable=True,
        )
        return await self._client.send(call)

    async def index(self, *, ready: bool | None = None) -> list[dict[str, Any]]:
        """Every version with its state."""
        body = {} if ready is None else {"ready": ready}
        return await self._client.send(
            Call("POST", "/v2/repository/index", list[dict[str, Any]], body=body, repeatable=True)
        )

    async def load(self, name: str) -> None:
        """Load a model now, not with its first request."""
        await self._client.send(Call("POST", "/v2/repository/models/{name}/load", None, at={"name": name}, body={}))

    async def unload(self, name: str) -> None:
        """Let a model go from memory."""
        await self._client.send(Call("POST", "/v2/repository/models/{name}/unload", None, at={"name": name}, body={}))


class AsyncServer(_Group):
    """The server itself."""

    async def live(self) -> dict[str, Any]:
        """Whether the process answers."""
        return await self._client.send(Call("GET", "/livez", dict[str, Any]))

    async def started(self) -> dict[str, Any]:
        """Whether it has started."""
        return await self._client.send(Call("GET", "/startupz", dict[str, Any]))

    async def ready(self) -> dict[str, Any]:
        """Whether it takes work; Draining if not yet or no more."""
        return await self._client.send(Call("GET", "/readyz", dict[str, Any]))

    async def version(self) -> dict[str, Any]:
        """What runs there."""
        return await self._client.send(Call("GET", "/version", dict[str, Any]))

    async def metrics(self) -> str:
        """Its metrics in Prometheus's format."""
        return await self._client.send(Call("GET", "/metrics", str))

    async def problem(self, code: str) -> str:
        """The page about a problem's code, as HTML."""
        return await self._client.send(Call("GET", "/problems/{code}", str, at={"code": code}))

    async def openapi(self) -> dict[str, Any]:
        """The description of every operation."""
        return await self._client.send(Call("GET", "/openapi.json", dict[str, Any]))


def _job(job: str | views.JobSummary) -> dict[str, str | int]:
    return {"job_id": identify(job)}


def _version(name: str, number: int) -> dict[str, str | int]:
    return {"name": name, "number": number}


def _slot(tail: str, version: str | int | None) -> str:
    return f"/v2/models/{{name}}{'' if version is None else '/versions/{version}'}{tail}"


def _slots(name: str, version: str | int | None) -> dict[str, str | int]:
    return {"name": name} if version is None else {"name": name, "version": version}


def _alias(name: str, alias: str) -> dict[str, str | int]:
    return {"name": name, "alias": alias}


def _force(force: bool) -> dict[str, bool]:
    return {"force": True} if force else {}


def _notes(notes: str | None, tags: dict[str, str] | None) -> dict[str, Any]:
    return {name: value for name, value in {"notes": notes, "tags": tags}.items() if value is not None}
