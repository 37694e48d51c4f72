"""The reference of errors: problems, failures of jobs, reasons of refused checkpoints, warnings.

All words of the tables are the code's own: `service/errors.py` has the sentences, `service/rest/problems.py` the status
and the remedy of each problem, `service/client/refusals.py` the classes that a client raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reference_words import cell

from service import errors
from service.client.refusals import by_code
from service.rest import problems

_NOTE: Final = "<!-- Written by scripts/reference.py. Change the code instead, then run scripts/fix. -->"


def pages() -> dict[str, str]:
    """The text of the page, by its file name."""
    return {"errors.md": "\n".join(_errors())}


_ERRORS: Final = """\
# Errors

{note}

Every error answer is `application/problem+json` (RFC 9457):

```json
{{
  "type": "/problems/shape-mismatch",
  "title": "Shape mismatch",
  "status": 422,
  "detail": "The values do not have the shape that is expected.",
  "instance": "/predict",
  "code": "shape-mismatch",
  "request_id": "0f6d5c0e1b8f4d0f9d3c3b1f5a1d2e3f",
  "errors": [
    {{
      "pointer": "/inputs/0",
      "code": "shape-mismatch",
      "detail": "Here are 2 values, but 1 are expected.",
      "expected": "a list of shape [1]",
      "got": "a list of 2"
    }}
  ]
}}
```

Decide by `code`; it is stable. `title` is the code in words, `type` an address of this server that explains it.
`errors` lists the mistakes, at most {entries}, and `more` counts the rest. Each has its place, its own code, a
sentence, and what to do about it in `hint` or what would be right in `expected`. `got` is a short rendering of what
was there, never the whole input. `limit` names the limit that was met and its value. Answers 429, and 503 that will
pass, have `Retry-After`.

Mistakes are looked for in stages, and all of one stage come at once:

1. The body by itself: unknown, missing and wrong members, bad names, and an architecture with its shapes. Shapes are
   judged when the architecture has no other mistake.
2. What the body names: models, versions, datasets, uploads and stored architectures.
3. The data: every wrong value that is found, with its place.
4. Whether data, architecture, objective and preprocessing agree.

Of a job's request the first three come together: its data are read though other members are wrong, unless what is wrong
is where the data come from. The fourth comes with them where nothing but names is wrong. Where the mistakes are of
several kinds, the problem is `validation-failed`, and each entry keeps its own code.

A `pointer` is an RFC 6901 pointer into the body; `""` is all of it. Outside the body it begins with `/path`, `/query`
or `/header`: `/query/limit`, `/header/if-match`. Query parameters that an operation does not have are refused too.

`X-Request-ID` is on every answer, and is `request_id` here. Send your own (letters, digits and `-`, at most 64) to find
the request again in your logs and in ours.

What cannot be read as an HTTP request at all never becomes one: a broken request line or header is answered with 400,
and the connection is closed.

## Problem codes

The [client](../guide/client.md) raises the class of the last column. It is of `service.errors`, or of `service.client`
where it says so.

| code | status | what it means | what to do | class |
| --- | --- | --- | --- | --- |"""

_FAILURES: Final = """
## Failure codes

A failed job has one of these in `error.code`, with a sentence, and where they are known a hint, the epoch and the step.

| code | what it means | what to do |
| --- | --- | --- |"""

_REASONS: Final = """
## Reasons of a refused checkpoint

Weights that come with the request are compared with the architecture before the job is taken, so what does not fit is
the answer 422 `checkpoint-refused`, with every key in `errors`. A job fails with `checkpoint_refused` for what only its
worker can see, and with `unsafe_checkpoint` for `code`; the job's `error.reason` is then one of these:

| reason | what it means |
| --- | --- |"""

_WARNINGS: Final = """
## Warnings

What is odd, and is done all the same, is an entry of `warnings`: like a mistake it has a `pointer`, a `code`, a
sentence, and often a `hint`. Warnings of an architecture and of a dataset are told with each job that uses it, too; a
job's are in its answer and in its [dry run](../guide/jobs.md#ask-first). An event is of the type `warning`. A dry run
may also have the code of a problem or of a failure, for what would refuse the job or end its first steps.

| code | told with | what it means |
| --- | --- | --- |"""


def _errors() -> Iterator[str]:
    yield _ERRORS.format(note=_NOTE, entries=errors.MAX_ENTRIES)
    for code, (status, text) in sorted(problems.catalogue().items(), key=lambda item: (item[1][0], item[0])):
        remedy = problems.REMEDIES[code]
        yield f"| `{code}` | {status} | {cell(text)} | {cell(remedy)} | {_raised(code)} |"
    yield _FAILURES
    for code, (meaning, remedy) in errors.FAILURE_CODES.items():
        yield f"| `{code}` | {cell(meaning)} | {cell(remedy)} |"
    yield _REASONS
    for reason, meaning in errors.CHECKPOINT_REASONS.items():
        yield f"| `{reason}` | {cell(meaning)} |"
    yield _WARNINGS
    for code, (place, meaning) in errors.WARNINGS.items():
        yield f"| `{code}` | {place} | {cell(meaning)} |"
    yield ""


def _raised(code: str) -> str:
    kind = by_code()[code]
    return f"`{kind.__name__}`" if kind.__module__ == errors.__name__ else f"`client.{kind.__name__}`"
