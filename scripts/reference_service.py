"""The reference of the running service: HTTP out of the application's OpenAPI document, settings, metrics.

Knows the application as a whole, and so imports torch; what a net or a training may say is told by scripts/reference.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_origin

from pydantic.fields import FieldInfo
from reference_words import Words, cell, listed, members_of, shown

from service.app import create_app
from service.cli.serving import serve
from service.settings import MIB, Settings
from service.telemetry import Metrics

_NOTE: Final = "<!-- Written by scripts/reference.py. Change the code instead, then run scripts/fix. -->"


def pages() -> dict[str, str]:
    """The text of every page, by its file name."""
    http = _Http(_openapi())
    return {
        "http.md": "\n".join(http.overview()),
        **{f"http/{_slug(tag['name'])}.md": "\n".join(http.page(tag)) for tag in http.tags},
        "http/documents.md": "\n".join(http.documents()),  # the last, since it tells what the others have named
        "settings.md": "\n".join(_settings()),
        "metrics.md": "\n".join(_metrics()),
    }


def _openapi() -> dict[str, Any]:
    """The document of a server without keys, over a store that is empty; no setting of this machine changes it."""
    with tempfile.TemporaryDirectory() as folder:
        return create_app(Settings.model_construct(store=Path(folder) / "store")).openapi()


# HTTP.

_OVERVIEW: Final = """\
# HTTP

{note}

The operations of the HTTP interface, from the OpenAPI document that a running server gives at `/openapi.json`; `/docs`
and `/redoc` show the same there, to try it out.

{groups}
- [Documents](http/documents.md): the members of every body and every answer

## What holds everywhere

- Bodies and answers are JSON in UTF-8. Members and query parameters that an operation does not know are refused.
- Errors are [`application/problem+json`](errors.md) with all mistakes at once.
- On a server with [keys](../guide/keys.md) a request brings one as `Authorization: Bearer msk_…` or
  `X-API-Key: msk_…`. Of the scopes predict, read, train, publish and admin each includes those before it.
- Lists come in pages: `{{"data": […], "next": …}}`. `next` is what `after` of the following request takes, and `null`
  at the end.
- What may be changed by several has an `ETag`, and a change names it in `If-Match`. Without it the answer is 428, with
  an old one 412.
- `Idempotency-Key` makes a repeated POST act once. `Prefer: wait=N` waits up to N seconds for the end of the work.
- Members may be added to answers; read those that you know.

## All operations

| operation | what it does | scope |
| --- | --- | --- |"""

_METHODS: Final = ("get", "post", "put", "patch", "delete")
_HERE: Final = "http/"


class _Http:
    """An OpenAPI document as pages, one a tag, and one of the schemas that they name."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.tags: list[dict[str, str]] = document["tags"]
        self._operations = [
            (method, path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if method in _METHODS
        ]
        self._schemas: dict[str, Any] = document["components"]["schemas"]
        self._named: set[str] = set()  # what was linked to, and must be told
        self._place = "documents.md"
        self._words = Words(refer=self._refer, choose=self._choose)

    def overview(self) -> Iterator[str]:
        """The page that lists every operation."""
        groups = "\n".join(
            f"- [{tag['name'].capitalize()}]({_HERE}{_slug(tag['name'])}.md): {_lower(tag['description'])}"
            for tag in self.tags
        )
        yield _OVERVIEW.format(note=_NOTE, groups=groups)
        for tag in self.tags:
            yield from self._rows(tag, f"{_HERE}{_slug(tag['name'])}.md")
        yield ""

    def page(self, tag: Mapping[str, str]) -> Iterator[str]:
        """The operations of one tag."""
        self._place = "documents.md"
        yield f"# HTTP: {tag['name']}\n\n{_NOTE}\n\n{tag['description']} [What holds everywhere](../http.md).\n"
        yield "| operation | what it does | scope |\n| --- | --- | --- |"
        yield from self._rows(tag, "")
        yield ""
        for method, path, operation in self._of(tag):
            yield from self._operation(method, path, operation)

    def documents(self) -> Iterator[str]:
        """Every schema that was named, and those that these name."""
        self._place = ""
        told: dict[str, list[str]] = {}
        while missing := sorted(self._named - told.keys()):
            told.update({name: list(self._schema(name)) for name in missing})
        yield f"# HTTP: documents\n\n{_NOTE}\n"
        yield "The members of bodies and answers, by the names that they have in `/openapi.json`.\n"
        for name in sorted(told, key=str.lower):
            yield f"## {name}\n"
            yield from told[name]

    def _of(self, tag: Mapping[str, str]) -> list[tuple[str, str, dict[str, Any]]]:
        return [one for one in self._operations if one[2]["tags"] == [tag["name"]]]

    def _rows(self, tag: Mapping[str, str], page: str) -> Iterator[str]:
        for method, path, operation in self._of(tag):
            name = f"{method.upper()} {path}"
            anchor = re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-")
            yield f"| [`{name}`]({page}#{anchor}) | {cell(operation['summary'])} | {_scope(operation)} |"

    def _operation(self, method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
        yield f"## {method.upper()} {path}\n"
        summary = operation["summary"]
        scope = _scope(operation)
        told = [f"**{summary}{'' if summary.endswith('?') else '.'}**", operation.get("description", "")]
        told.append("Needs no key." if scope == "none" else f"Scope {scope}.")
        yield " ".join(filter(None, told)) + "\n"
        if operation.get("parameters"):
            yield "| parameter | in | what it is |\n| --- | --- | --- |"
            yield from map(self._parameter, operation["parameters"])
            yield ""
        if "requestBody" in operation:
            yield from self._body(operation["requestBody"])
        yield from self._answers(operation["responses"])

    def _parameter(self, parameter: Mapping[str, Any]) -> str:
        schema = parameter["schema"]
        kinds = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        told = [self._words.say({"anyOf": kinds})]
        if parameter.get("description"):
            told[0] += f": {_lower(parameter['description'])}"
        if schema.get("examples"):
            told.append(f"such as `{schema['examples'][0]}`")
        if schema.get("default") is not None:
            told.append(f"{shown(schema['default'])} if not given")
        return f"| `{parameter['name']}` | {parameter['in']} | {cell('; '.join(told))} |"

    def _body(self, body: Mapping[str, Any]) -> Iterator[str]:
        forms: dict[str, list[str]] = {}  # what a body says, with the media types that say it
        for media, content in body["content"].items():
            forms.setdefault(self._content(content), []).append(f"`{media}`")
        told = "; ".join(f"{listed(media)}{f', {form}' if form else ''}" for form, media in forms.items())
        yield f"Body{'' if body.get('required') else ' (may be left out)'}: {told}.\n"
        for content in body["content"].values():
            examples = content.get("examples", {})
            for name, example in examples.items():
                if len(examples) > 1:
                    yield f"Example *{name}*:\n"
                yield f"```json\n{_json(example['value'])}\n```\n"

    def _answers(self, responses: Mapping[str, Any]) -> Iterator[str]:
        yield "| status | answer |\n| --- | --- |"
        problems = []
        for status, response in sorted(responses.items()):
            content = response.get("content", {})
            if "application/problem+json" in content:
                problems.append(status)
                continue
            forms = [
                f"`{media}`{f', {form}' if (form := self._content(one)) else ''}" for media, one in content.items()
            ]
            text = response["description"] if response["description"] not in _EMPTY else ""
            yield f"| {status} | {cell('. '.join(filter(None, [' or '.join(forms), text])) or 'nothing')} |"
        if problems:
            yield f"| {', '.join(problems)} | [a problem](../errors.md) |"
        yield ""

    def _content(self, content: Mapping[str, Any]) -> str:
        schema = content.get("schema", {})
        told = self._words.say(schema) if schema else ""
        return "" if told in _OBVIOUS else told

    def _schema(self, name: str) -> Iterator[str]:
        schema = self._schemas[name]
        if schema.get("description"):
            yield schema["description"].strip() + "\n"
        kinds = schema.get("anyOf") or schema.get("oneOf")
        if "properties" in schema:
            answer = schema.get("additionalProperties") is True
            yield (
                "| member | what it is |\n| --- | --- |"
                if answer
                else "| member | what it is | default |\n| --- | --- | --- |"
            )
            for member, field in members_of(schema, without=()).items():
                told = self._words.say(field)
                if field.get("description"):
                    told += f": {field['description'].rstrip('.')}"
                default = "required" if field["required"] else shown(field["default"]) if "default" in field else ""
                yield f"| `{member}` | {cell(' '.join(told.split()))} |{'' if answer else f' {cell(default)} |'}"
        elif kinds and all("$ref" in kind for kind in kinds):
            yield f"One of {listed(self._words.say(kind) for kind in kinds)}."
        elif "enum" in schema:
            yield f"One of {listed(f'`{word}`' for word in schema['enum'])}."
        else:
            yield "A JSON object."
        yield ""

    def _refer(self, name: str) -> tuple[str, str]:
        paged = re.fullmatch(r"PageView_(\w+)_", name)
        if paged:
            return f"a [page](../http.md#what-holds-everywhere) of {self._refer(paged[1])[1]}", "pages"
        self._named.add(name)
        link = f"[{name}]({self._place}#{name.lower()})"
        return link, link

    def _choose(self, kinds: Mapping[str, str]) -> tuple[str, str]:
        for known, place in _ELSEWHERE.items():
            if known in kinds:
                return place
        links = [self._refer(name.rpartition("/")[2])[0] for name in kinds.values()]
        told = " or ".join(dict.fromkeys(links))
        return told, told


_ELSEWHERE: Final = {
    "mse": ("an [objective](../training.md#objectives)", "[objectives](../training.md#objectives)"),
    "Adam": ("an [optimizer](../training.md#optimizers)", "[optimizers](../training.md#optimizers)"),
    "StepLR": ("a [scheduler](../training.md#schedulers)", "[schedulers](../training.md#schedulers)"),
    "kaiming_normal": ("an [initializer](../initial-weights.md)", "[initializers](../initial-weights.md)"),
}
"""Unions that another page tells whole, by one of their kinds."""

_EMPTY: Final = ("Successful Response", "OK", "Created", "Accepted", "No Content")
_OBVIOUS: Final = ("a text", "anything", "an object")


def _scope(operation: Mapping[str, Any]) -> str:
    needs = [words for need in operation.get("security", []) for words in need.values()]
    return f"`{needs[0][0]}`" if needs else "none"


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _lower(text: str) -> str:
    """A sentence as the rest of another one."""
    return (text[0].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text).rstrip(".")


def _json(value: Any, indent: int = 0, room: int = 100) -> str:
    """JSON in which what fits on a line stands on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= room or not isinstance(value, (dict, list)) or not value:
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {_json(one, indent + 2, room - len(name))}" for name, one in value.items()]
    else:
        parts = [_json(one, indent + 2) for one in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n" + ",\n".join(inner + part for part in parts) + f"\n{' ' * indent}{end}"


# Settings.

_SETTINGS: Final = """\
# Settings

{note}

What an operator may set. A flag of `modelyard serve` comes before the environment, that before `.env` in the working
directory, that before the TOML file named by `MODELYARD_CONFIG` (whose names are those below in lower case and without
the prefix), that before the default. `modelyard config show --origin` says what holds and where it comes from.

## Variables

| variable | default | meaning |
| --- | --- | --- |"""

_OF_MACHINE: Final = {
    "store": "`./models_store`",
    "job_slots": "1, or 2 from four cores on",
    "job_threads": "(cores − 1) ÷ slots, at least 1",
    "job_devices": "what `/dev/nvidia*` shows",
    "job_memory_bytes": "three quarters of the memory",
    "model_memory_bytes": "half of the memory",
    "max_bodies_bytes": "an eighth of the memory, at least 256 MiB",
}
"""Defaults that depend on the machine or the working directory."""

_ALSO: Final = {
    "workers": "[Several processes](../guide/operate.md#several-processes).",
    "grpc_port": "It needs the extra `grpc`: [gRPC](../guide/open-inference.md#grpc).",
    "database_url": "PostgreSQL needs the extra `postgres`.",
    "api_keys_file": "[The file](../guide/keys.md#the-file).",
    "api_keys": "It is read at the start only: [the file](../guide/keys.md#the-file).",
    "key_failures_per_minute": "[Quotas and wrong keys](../guide/keys.md#quotas-and-wrong-keys).",
    "oidc_issuer": "It needs the extra `oidc`: [tokens of a provider](../guide/keys.md#tokens-of-a-provider).",
    "max_connections": "Fewer where `ulimit -n` is below 1152.",
    "max_connections_per_address": "An IPv6 network of 64 bits is one address.",
    "allowed_hosts": "Others get 421.",
    "batch_mode": "[The same bits](../guide/batching.md#the-same-bits-whoever-rides-along).",
    "batch_target_s": "[Tuning](../guide/tuning.md#what-to-set).",
    "predict_max_wait_s": "[Tuning](../guide/tuning.md#what-to-set).",
    "reserve_bytes": "[When the disk is full](../guide/operate.md#when-the-disk-is-full).",
    "drain_delay_s": "[Stopping](../guide/operate.md#stopping).",
    "drain_timeout_s": "[Stopping](../guide/operate.md#stopping).",
}
"""What is to be known besides, and where a guide tells more."""


def _settings() -> Iterator[str]:
    yield _SETTINGS.format(note=_NOTE)
    flags = serve.__annotations__
    for name, field in Settings.model_fields.items():
        told = [field.description or ""]
        if bounds := _limits(field):
            told.append(f"{bounds}.")
        if name in flags:
            told.append(f"Flag `--{name.replace('_', '-')}`.")
        told.append(_ALSO.get(name, ""))
        default = _OF_MACHINE.get(name) or _default(name, field.default)
        yield f"| `MODELYARD_{name.upper()}` | {default} | {cell(' '.join(filter(None, told)))} |"
    yield ""


def _default(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    if name.endswith("_bytes") and value % MIB == 0:
        return f"{value // MIB} MiB" if value < 1024 * MIB else f"{value // (1024 * MIB)} GiB"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    return f"`{value:g}`" if isinstance(value, float) and value < 100_000 else f"`{value}`"


def _limits(field: FieldInfo) -> str:
    """The words that are taken, or the bounds of a number."""
    if get_origin(field.annotation) is Literal:
        words = [f"`{word}`" for word in field.annotation.__args__]  # type: ignore[union-attr]  # a Literal has them
        return f"One of {listed(words)}"
    found: dict[str, float] = {}
    for one in field.metadata:
        found |= {kind: getattr(one, kind) for kind in ("ge", "gt", "le") if getattr(one, kind, None) is not None}
    told = " ".join(f"{word} {_number(found[kind])}" for kind, word in _BOUNDS.items() if kind in found)
    return told[:1].upper() + told[1:]


_BOUNDS: Final = {"ge": "from", "gt": "above", "le": "to"}


def _number(value: float) -> str:
    return f"{int(value) // MIB} MiB" if value >= MIB and value % MIB == 0 else f"{value:g}"


# Metrics.

_METRICS: Final = """\
# Metrics

{note}

What `/metrics` answers, in Prometheus' text format. Times are in seconds and sizes in bytes. Counting begins with
the server. A histogram has `_bucket`, `_sum` and `_count` behind its name.
[Operate](../guide/operate.md) and [Tuning](../guide/tuning.md) tell which to look at.

Labels are bounded: `route` is the path's template, never the path; `model` and `version` become `other` for versions
after the first 200.

| metric | type | unit | labels | what it counts |
| --- | --- | --- | --- | --- |"""

_UNITS: Final = {"seconds": "seconds", "bytes": "bytes", "rows": "rows"}


def _metrics() -> Iterator[str]:
    yield _METRICS.format(note=_NOTE)
    for kind in vars(Metrics()).values():
        if not hasattr(kind, "describe"):
            continue
        family = next(iter(kind.describe()))
        name = family.name + ("_total" if family.type == "counter" else "")
        unit = next((word for end, word in _UNITS.items() if family.name.endswith(end)), "")
        described = getattr(kind, "_described", None)  # what our own counters know; the library's have `_labelnames`
        labels = described[2] if described else getattr(kind, "_labelnames", ())
        told = ", ".join(f"`{label}`" for label in labels)
        yield f"| `{name}` | {family.type} | {unit} | {told} | {cell(family.documentation)} |"
    yield ""
