"""Which net of the catalogue a bare state_dict is of, told by the names and shapes of its tensors alone.

A net's params are read back from the tensors: each is changed a little to see which sizes follow it. What is proposed
agrees with every name and shape that was given. Knows no weights and imports no torch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from service.errors import ArchitectureInvalid, ArchitectureTooLarge
from service.schemas import catalogue
from service.schemas.architecture import parse, state_rows

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shape of each tensor by its name."""

MAX_TENSORS: Final = 20_000

_COUNTER: Final = "num_batches_tracked"
"""Files written before torch 0.4.1 have no such buffers."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A net of the catalogue that has just these tensors.

    Args:
        params: those of its params that are not as usual.
        ordered: whether the tensors stand in the net's own order too.
    """

    name: str
    params: Mapping[str, Any]
    ordered: bool

    @property
    def reference(self) -> dict[str, Any]:
        """The net as a request names it."""
        return {"catalogue": self.name, **({"params": dict(self.params)} if self.params else {})}

    @property
    def document(self) -> dict[str, Any]:
        """The net's authored document."""
        return catalogue.document(self.name, self.params)


def fingerprint(shapes: Shapes) -> list[Proposal]:
    """The nets of the catalogue that have tensors of these names and shapes, the one nearest to its usual form first.

    Args:
        shapes: names and shapes in the order of the file.
    """
    given = _counted(shapes)
    if not given or len(given) > MAX_TENSORS:
        return []
    pattern = _pattern(given)
    found: list[Proposal] = []
    for name in catalogue.names():
        if name != _CHAIN and pattern != _usual(name).pattern:
            continue
        params = _chain(given) if name == _CHAIN else _params(name, given)
        proposal = None if params is None else _proposed(name, params, given)
        if proposal is not None:
            found.append(proposal)
    return sorted(found, key=lambda proposal: len(proposal.params))


def _proposed(name: str, params: Mapping[str, Any], given: Shapes) -> Proposal | None:
    shapes = _shapes(name, params)
    if shapes is None or dict(shapes) != dict(given):
        return None
    usual = catalogue.document(name)["params"]
    changed = {param: value for param, value in params.items() if value != usual[param]}
    return Proposal(name, changed, list(shapes) == list(given))


def _counted(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape in shapes.items() if not key.endswith(_COUNTER)}


def _pattern(shapes: Shapes) -> frozenset[str]:
    """The names with every number left out: nets of one kind and of any depth have the same."""
    return frozenset(re.sub(r"\d+", "#", key) for key in shapes)


def _shapes(name: str, params: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """The tensors of a net with these params; None when there is no such net."""
    try:
        rows = state_rows(parse(catalogue.document(name, params)))
    except (ArchitectureInvalid, ArchitectureTooLarge):
        return None
    return _counted({key: row.shape for key, row in rows.items()})


@dataclass(frozen=True, slots=True)
class _Follows:
    """A size, or the number of tensors (`key` is None), that is `base + slope · (value - usual)`."""

    key: str | None
    axis: int
    base: int
    slope: int

    def value(self, usual: int, given: Shapes) -> int | None:
        if self.key is None:
            size = len(given)
        elif self.key in given and self.axis < len(given[self.key]):
            size = given[self.key][self.axis]
        else:
            return None
        steps, rest = divmod(size - self.base, self.slope)
        return None if rest else usual + steps


@dataclass(frozen=True, slots=True)
class _Usual:
    """What is known of a net before any tensors are seen."""

    pattern: frozenset[str]
    params: Mapping[str, int]
    follows: Mapping[str, tuple[_Follows, ...]]


@lru_cache(maxsize=64)
def _usual(name: str) -> _Usual:
    shapes = _shapes(name, {})
    assert shapes is not None
    params = {param: value for param, value in catalogue.document(name)["params"].items() if type(value) is int}
    follows = {param: _following(name, param, value, shapes) for param, value in params.items()}
    times = Counter((each.key, each.axis) for sizes in follows.values() for each in sizes)
    alone = {
        param: tuple(each for each in sizes if times[each.key, each.axis] == 1)[:_MOST_SIZES]
        for param, sizes in follows.items()
    }
    return _Usual(_pattern(shapes), params, alone)


_STEPS: Final = (1, 12, 16, 64)
"""How much a param is changed by: not every width fits the number of heads, nor every side the patches."""

_MOST_SIZES: Final = 8


def _following(name: str, param: str, usual: int, shapes: Shapes) -> list[_Follows]:
    """The sizes that change with one param."""
    for step in _STEPS:
        changed = _shapes(name, {param: usual + step})
        if changed is None or changed == shapes:
            continue
        if len(changed) != len(shapes):
            return [_Follows(None, 0, len(shapes), (len(changed) - len(shapes)) // step)]
        return [
            _Follows(key, axis, size, (changed[key][axis] - size) // step)
            for key, shape in shapes.items()
            for axis, size in enumerate(shape)
            if abs(changed[key][axis] - size) >= step
        ]
    return []


def _params(name: str, given: Shapes) -> dict[str, int]:
    """The params that these tensors tell of without contradiction."""
    usual = _usual(name)
    params: dict[str, int] = {}
    for param, follows in usual.follows.items():
        told = {each.value(usual.params[param], given) for each in follows}
        value = told.pop() if len(told) == 1 else None
        if value is not None and value > 0:
            params[param] = value
    if "image_size" in usual.params and _POSITIONS in given and len(given[_POSITIONS]) == 3:
        # a side is the root of how many patches there are: no size follows it in proportion
        params["image_size"] = math.isqrt(max(given[_POSITIONS][1] - 1, 0)) * params.get("patch_size", 1)
    return params


_POSITIONS: Final = "encoder.pos_embedding"

_CHAIN: Final = "mlp"
"""Its depth and every width may vary, so that they are read off one after the other."""


def _chain(given: Shapes) -> dict[str, Any] | None:
    """The params of a chain of Linear layers with a ReLU, and perhaps a Dropout, between them."""
    weights = [(int(key.split(".")[0]), shape) for key, shape in given.items() if re.fullmatch(r"\d{1,5}\.weight", key)]
    if 2 * len(weights) != len(given) or any(len(shape) != 2 for _, shape in weights):
        return None
    weights.sort()
    places, sizes = [place for place, _ in weights], [shape for _, shape in weights]
    dropped = len(places) > 1 and places[1] - places[0] == 3
    return {
        "in_features": sizes[0][1],
        "hidden": [shape[0] for shape in sizes[:-1]],
        "num_classes": sizes[-1][0],
        "dropout": 0.5 if dropped else 0.0,
    }
