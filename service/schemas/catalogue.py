"""The catalogue: well-known nets as authored documents that come with the package, made one's own by their params.

Names, order and shapes of the image nets' tensors are torchvision's, and so are the rules for their first weights.
Knows no layer and no shape; which net a state_dict is of is for `fingerprints`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from service.errors import ArchitectureInvalid, Entry, NotFound, shorten
from service.schemas.document import nearest_hint, pointer
from service.schemas.expressions import is_constant

REFERENCE: Final = "catalogue"
"""The member by which a reference to a net of the catalogue is told from a document."""

AUTO: Final = "auto"
"""In the place of one of `OF_DATA`, in a training's request: as its data have it."""

OF_DATA: Final = ("in_features", "in_channels", "num_classes")
"""Params that the data of a training can say."""


@dataclass(frozen=True, slots=True)
class Unsized:
    """A reference to a net some of whose sizes are left to the data of a training."""

    reference: Mapping[str, Any]
    left: tuple[str, ...]
    """The params that are left to the data."""

    def sized(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """The reference with these sizes; those that are not among them are the net's usual ones."""
        params = {param: value for param, value in self.reference["params"].items() if param not in self.left}
        return {**self.reference, "params": {**params, **sizes}}


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The names of the nets."""
    found = (entry.name for entry in files("service").joinpath("catalogue").iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in found if name.endswith(".json")))


def document(name: str, params: Mapping[str, Any] | None = None, *, prefix: str = "") -> dict[str, Any]:
    """A net's authored document with other values for some of its params.

    Args:
        prefix: the pointer to what names the net in the request's body.

    Raises:
        NotFound: there is no net of this name.
        ArchitectureInvalid: a param is unknown, or its value of another kind.
    """
    if name not in names():
        raise NotFound(
            f"The catalogue has no net {shorten(name)}.",
            hint=nearest_hint(name, names()) or f"It has: {', '.join(names())}.",
        )
    raw: dict[str, Any] = json.loads(_text(name))
    errors: list[Entry] = []
    for param, value in (params or {}).items():
        at = pointer(["params", param], prefix)
        if param not in raw["params"]:
            errors.append(
                Entry(
                    at,
                    "unknown-param",
                    f"`{name}` has no param {shorten(param)}.",
                    hint=nearest_hint(str(param), raw["params"]) or f"It has: {', '.join(raw['params'])}.",
                    got=shorten(param),
                )
            )
        elif not is_constant(value) or not _is_like(value, raw["params"][param]):
            wanted = _kind(raw["params"][param])
            hint = _ONLY_TRAININGS if value == AUTO and param in OF_DATA else None
            detail = f"`{param}` is {wanted}."
            errors.append(Entry(at, "wrong-type", detail, hint=hint, expected=wanted, got=shorten(value)))
        else:
            raw["params"][param] = value
    if errors:
        raise ArchitectureInvalid(errors=errors)
    return raw


_ONLY_TRAININGS: Final = 'Write the number: "auto" is for the architecture of a training, whose data say it.'


def unsized(raw: object) -> Unsized | None:
    """A reference that leaves sizes to the data of a training; None for everything else, also for one that is wrong."""
    if not is_reference(raw):
        return None
    assert isinstance(raw, Mapping)
    name, params = raw[REFERENCE], raw.get("params")
    if name not in names() or not isinstance(params, Mapping):
        return None
    known = document(name)["params"]
    left = tuple(param for param in OF_DATA if params.get(param) == AUTO and param in known)
    return Unsized(raw, left) if left else None


def hint_for(text: str) -> str | None:
    """What to send instead of a net's bare name, which a text in the place of a document may be."""
    name = text.strip().lower()
    return f'The catalogue has it: send {{"catalogue": "{name}"}}.' if name in names() else None


def is_reference(raw: object) -> bool:
    """Whether JSON values name a net of the catalogue: `{"catalogue": "resnet18", "params": {…}}`."""
    return isinstance(raw, Mapping) and REFERENCE in raw and "schema" not in raw


def referred(raw: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """The document that a reference names.

    Raises:
        ArchitectureInvalid: the reference is wrong: the name, its params, or another member.
    """
    name, params = raw[REFERENCE], raw.get("params", {})
    errors = [
        Entry(
            pointer([member], prefix),
            "unknown-member",
            "This member is not known here.",
            hint='A net of the catalogue is named by "catalogue" and "params" alone.',
        )
        for member in raw
        if member not in (REFERENCE, "params")
    ]
    if not isinstance(params, Mapping):
        detail = "The params are an object."
        errors.append(Entry(prefix + "/params", "wrong-type", detail, expected="an object", got=shorten(params)))
        params = {}
    try:
        found = document(name if isinstance(name, str) else shorten(name), params, prefix=prefix)
    except NotFound:
        errors.append(
            Entry(
                f"{prefix}/{REFERENCE}",
                "unknown-net",
                f"The catalogue has no net {shorten(name)}.",
                hint=nearest_hint(str(name), names()) or f"It has: {', '.join(names())}.",
                got=shorten(name),
            )
        )
    except ArchitectureInvalid as refused:
        errors += refused.errors
    if errors:
        raise ArchitectureInvalid(errors=errors)
    return found


@lru_cache(maxsize=64)
def _text(name: str) -> str:
    return files("service").joinpath("catalogue", f"{name}.json").read_text(encoding="utf-8")


def _is_like(value: Any, usual: Any) -> bool:
    return _kind(value) == _kind(usual) or (type(usual) is float and type(value) is int)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a whole number" if isinstance(value, int) else "a number"
