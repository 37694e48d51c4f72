"""What computes a version's net when it answers: what a request may ask for, and what the manifest records.

Knows no torch; how an engine is chosen, built and opened stands in `engine/engines`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from service.schemas.document import Document

Layout: TypeAlias = Literal["contiguous", "channels_last"]
"""How the numbers of pictures and of convolutions' weights lie in memory: a channel after the other, or a pixel after
the other with all its channels."""

LAYOUTS: Final[tuple[Layout, ...]] = ("contiguous", "channels_last")

TOLERANCE: Final = 1e-4
"""How near the answers of an engine, or of another layout, must come to those of the plan, relative to the largest."""


class Eager(Document):
    """The plan of torch's own functions. `auto` takes the layout that pays for such a net, by a fixed rule."""

    type: Literal["eager"]
    layout: Layout | Literal["auto"] = "auto"


class OnnxRuntime(Document):
    """ONNX Runtime, with a file that the job writes. Takes the extra `onnx` where the server runs."""

    type: Literal["onnxruntime"]


class AotInductor(Document):
    """Native code that torch's compiler makes of the net in the job. Takes g++ where the server runs."""

    type: Literal["aot_inductor"]


Engine = Annotated[Eager | OnnxRuntime | AotInductor, Field(discriminator="type")]

EAGER: Final = Eager(type="eager")
"""What serves where nothing is asked for."""


class EngineRecord(Document):
    """What serves a version, decided when it was made.

    `layout` is that of the plan, which answers the golden rows and stands in where the engine's file cannot be used;
    `file` is what another engine opens, `deviation` its largest difference from the plan on the golden rows, relative
    to the largest answer, and `built_with` what it was made by and for.
    """

    type: Literal["eager", "onnxruntime", "aot_inductor"] = "eager"
    layout: Layout = "contiguous"
    file: str | None = None
    deviation: float | None = None
    built_with: dict[str, str] = Field(default={})
