"""Initial weights as documents: how a parameter is filled before training, by torch.nn.init's names and defaults.

Knows no torch and no layer; `engine.build` fills tensors by these documents.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.document import Document
from service.schemas.shapes import Positive, Real, counted


class Constant(Document):
    """Every element is `value`."""

    type: Literal["constant"]
    value: Real


class Filled(Document):
    """Zeros, ones, the identity matrix, or the identity of a convolution."""

    type: Literal["zeros", "ones", "eye", "dirac"]


class Normal(Document):
    """N(mean, std²)."""

    type: Literal["normal"]
    mean: Real = 0.0
    std: Positive = 1.0


class TruncatedNormal(Document):
    """N(mean, std²) between `a` and `b`."""

    type: Literal["trunc_normal"]
    mean: Real = 0.0
    std: Positive = 1.0
    a: Real = -2.0
    b: Real = 2.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.b <= self.a:
            raise PydanticCustomError("greater_than", "b is larger than a.")
        return self


class Uniform(Document):
    """U[a, b)."""

    type: Literal["uniform"]
    a: Real = 0.0
    b: Real = 1.0

    @field_validator("b")
    @classmethod
    def _above_a(cls, b: float, info: Any) -> float:
        if b < info.data.get("a", b):
            raise PydanticCustomError("greater_than_equal", "b is at least a.")
        return b


class Xavier(Document):
    """Glorot and Bengio (2010)."""

    type: Literal["xavier_uniform", "xavier_normal"]
    gain: Positive = 1.0


class Kaiming(Document):
    """He et al. (2015)."""

    type: Literal["kaiming_uniform", "kaiming_normal"]
    a: Real = 0.0
    mode: Literal["fan_in", "fan_out"] = "fan_in"
    nonlinearity: Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"] = "leaky_relu"


class Orthogonal(Document):
    """Saxe et al. (2013)."""

    type: Literal["orthogonal"]
    gain: Positive = 1.0


def _named(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


_Document = Annotated[
    Constant | Filled | Normal | TruncatedNormal | Uniform | Xavier | Kaiming | Orthogonal, Field(discriminator="type")
]
_Name = Literal[
    "zeros",
    "ones",
    "eye",
    "dirac",
    "normal",
    "trunc_normal",
    "uniform",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
    "orthogonal",
]
Initializer = Annotated[_Document, BeforeValidator(_named, json_schema_input_type=_Name | _Document)]
"""One way to fill a tensor; `"normal"` is short for `{"type": "normal"}`."""

MATRICES: Final = frozenset({"eye", "dirac", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal",
                             "orthogonal"})  # fmt: skip
"""Those that need a tensor of two dimensions at least; "eye" needs two exactly, "dirac" three to five."""

_PATTERN: Final = re.compile(r"(?:\*\*|[A-Za-z0-9_*]{1,64})(?:\.(?:\*\*|[A-Za-z0-9_*]{1,64}))*")


def _read_pattern(value: object) -> Any:
    if isinstance(value, str) and len(value) <= 512 and _PATTERN.fullmatch(value):
        return value
    raise PydanticCustomError(
        "pattern", 'Expected a pattern of dotted names such as "features.*.weight" or "**.bias".', {}
    )


Pattern = Annotated[str, BeforeValidator(_read_pattern)]
"""Dotted names in which `*` stands for any letters within one name and `**` for any number of names."""


MAX_MATCHES: Final = 500_000
"""Patterns times names: more are refused before any is tried."""


def matches(pattern: str, name: str) -> bool:
    """Whether a dotted name fits a pattern.

    In time that grows with the product of both lengths at most, whatever the pattern is.
    """
    steps = name.split(".")
    reached = {0}  # places in `steps` that the pattern's beginning can end at
    for part in _parts(pattern):
        if part == "**":
            reached = set(range(min(reached), len(steps) + 1))
        else:
            reached = {place + 1 for place in reached if place < len(steps) and _fits(part, steps[place])}
        if not reached:
            return False
    return len(steps) in reached


@lru_cache(maxsize=1024)
def _parts(pattern: str) -> tuple[str, ...]:
    """The pattern's names; two `**` in a row are one."""
    parts: list[str] = []
    for part in pattern.split("."):
        if part != "**" or parts[-1:] != ["**"]:
            parts.append(part)
    return tuple(parts)


def _fits(part: str, step: str) -> bool:
    """Whether one name fits one part, in which `*` stands for any letters: the pieces between stars, leftmost first."""
    first, *rest = part.split("*")
    if not rest:
        return part == step
    *middle, last = rest
    if not step.startswith(first) or not step.endswith(last) or len(step) < len(first) + len(last):
        return False
    at, end = len(first), len(step) - len(last)
    for piece in middle:
        found = step.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


class InitRule(Document):
    """Fill every parameter whose key matches; later rules win.

    `layers` narrows it to layers of these types.
    """

    match: Pattern
    layers: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,64}$")], ...] | None, counted(1, 64)
    ] = None
    init: Initializer


class Tie(Document):
    """Two keys of the state_dict that are one tensor: `to` becomes what `from` is."""

    from_: Annotated[str, StringConstraints(max_length=1024), Field(alias="from")]
    to: Annotated[str, StringConstraints(max_length=1024)]
