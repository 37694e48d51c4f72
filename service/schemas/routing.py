"""What an alias does beside pointing: a canary that gets a share, shadows that are only compared, a guard over both.

Knows no store and no request.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from service.schemas.document import Document

Version = Annotated[int, Field(ge=1, le=999_999_999)]


class Canary(Document):
    """A version that answers a share of the requests that name the alias."""

    version: Version
    percent: Annotated[float, Field(gt=0, le=100)] = Field(description="Share of the requests, in percent.")


class Guard(Document):
    """When the newest version behind an alias is taken back without anybody's doing.

    It watches the canary or, without one, the version itself: over its last `requests` answers.
    """

    requests: Annotated[int, Field(ge=10, le=100_000)] = Field(
        100, description="Answers over which is judged; nothing is decided before there are so many."
    )
    error_rate: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Share of failed answers above which the version is taken back; a client's mistake is none."
    )
    latency_s: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        None, description="Mean seconds from request to answer above which the version is taken back."
    )

    @model_validator(mode="after")
    def _guards_something(self) -> Self:
        if self.error_rate is None and self.latency_s is None:
            raise PydanticCustomError("invalid", "A guard needs an error_rate, a latency_s, or both.")
        return self


class Routing(Document):
    """What an alias does beside pointing at its version."""

    canary: Canary | None = None
    shadow: Annotated[tuple[Version, ...], Field(max_length=4)] = Field(
        (), description="Versions that compute the same rows afterwards and are compared; nobody sees their answers."
    )
    guard: Guard | None = None

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that it needs, the alias's own aside."""
        return (*((self.canary.version,) if self.canary else ()), *self.shadow)

    def without(self, version: int) -> Routing:
        """The same without a version that is about to go."""
        canary = None if self.canary is not None and self.canary.version == version else self.canary
        shadow = tuple(one for one in self.shadow if one != version)
        return self.model_copy(update={"canary": canary, "shadow": shadow})

    def view(self) -> dict[str, Any]:
        """As the API shows it."""
        return self.model_dump(mode="json")


PLAIN = Routing()
"""An alias that only points."""
