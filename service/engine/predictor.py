"""A version as a function: raw rows in, the net's answers in the target's units out.

The worker makes a version's golden rows with it and the server answers with it, so both run the very same steps. Knows
a folder's files and their meaning; knows no store, no alias and no request.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from service.engine import build, checkpoint, lookups, plan
from service.engine.preprocessing import Preprocessor
from service.errors import MAX_ENTRIES, Entry, ServiceError, ShapeMismatch, ValidationFailed, shorten
from service.schemas import architecture as architectures
from service.schemas.architecture import Architecture
from service.schemas.document import pointer
from service.schemas.engines import Layout
from service.schemas.judgement import require
from service.schemas.preprocessing import Preprocessing
from service.schemas.versions import BatchIndependence

Array = npt.NDArray[Any]

ARCHITECTURE: Final = "architecture.json"
WEIGHTS: Final = "weights.pt"
PREPROCESSING: Final = "preprocessing.json"
GOLDEN: Final = "golden.pt"

_WARM_S: Final = 0.1
_WARM_NUMBERS: Final = 2**22
"""So long, and with so many numbers, further sizes of forward passes are tried."""

RELATIVE_TOLERANCE: Final = 1e-4
"""How near golden rows must come on another torch build or processor; on the same one they must be equal."""


INDEPENDENT: Final = 1e-4
"""How near the answer to a row alone must come to its answer among others, relative to the largest answer."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Raw rows of one input: numbers [N, …], and category codes [N, m] where a table has texts (−1 = unseen).

    `sent` are the rows as a request has them, and `at` is the pointer to them, for mistakes that show late. `bounded`
    says that no number is beyond the dtype that the signature names: then nobody need look for that again.
    """

    numbers: Array
    codes: Array | None = None
    sent: Sequence[Any] = ()
    at: str = "/inputs"
    bounded: bool = False


class Predictor:
    """A net with its preprocessing, ready to answer."""

    def __init__(self, architecture: Architecture, preprocessing: Preprocessing, module: nn.Module) -> None:
        self.architecture = architecture
        self.preprocessor = Preprocessor(preprocessing)
        self.module = module.eval()
        self.layout: Layout = "contiguous"
        self.engine = "eager"
        self.plan = plan.compile_plan(architecture, self.module)
        self._dtypes = [getattr(torch, spec.dtype) for spec in architecture.inputs]
        # Where numbers go to the net as they are: numpy's name of the dtype, which it casts to at less cost.
        self._passing = [
            spec.dtype if spec.dtype in ("float32", "float64") and self.preprocessor.part(place).passes else None
            for place, spec in enumerate(architecture.inputs)
        ]
        self._pointers = [pointer(["inputs", spec.name]) for spec in architecture.inputs]

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", layout: Layout = "contiguous") -> Predictor:
        """The version in `folder`: built on meta, its weights mapped and assigned.

        Args:
            layout: how the weights of convolutions shall lie; those that lie otherwise are copied.

        Raises:
            CheckpointRefused: the weights do not fit the architecture.
        """
        architecture = architectures.parse(json.loads((folder / ARCHITECTURE).read_bytes()))
        preprocessing = Preprocessing.model_validate_json((folder / PREPROCESSING).read_bytes())
        module = build.build(architecture, device="meta")
        checkpoint.load_weights(module, folder / WEIGHTS, device=device)
        build.complete(module, architecture)
        if layout == "channels_last":
            _lay_channels_last(module)
        made = cls(architecture, preprocessing, module)
        made.layout = layout
        return made

    def by(self, engine: plan.Plan, *, name: str) -> Predictor:
        """The same version with another function in the place of its plan; `name` is what it is called."""
        other = copy.copy(self)
        other.plan, other.engine = engine, name
        return other

    def run(self, rows: Sequence[Rows]) -> list[Tensor]:
        """The answers [N, …] to raw rows, one tensor for each output.

        Raises:
            ShapeMismatch: the net cannot take rows of these sizes (possible where its shape has free sizes).
            ValidationFailed: the net looks numbers up that its tables do not have.
        """
        with torch.inference_mode():
            inputs = [
                torch.from_numpy(part.numbers.astype(self._passing[place], copy=False))
                if part.bounded and self._passing[place]
                else self.preprocessor.part(place).inputs(
                    part.numbers, part.codes, dtype=dtype, at=self._pointers[place] if len(rows) > 1 else "/inputs"
                )
                for place, (part, dtype) in enumerate(zip(rows, self._dtypes, strict=True))
            ]
            try:
                answer = self.plan(*inputs)
            except (RuntimeError, IndexError) as error:
                self._refuse_beyond(rows, inputs)
                raise ShapeMismatch(
                    "The net cannot take these rows.",
                    errors=[
                        Entry(
                            "/inputs",
                            "shape-mismatch",
                            str(error).splitlines()[0][:300],
                            hint="Send rows of other sizes; see the version's signature.",
                        )
                    ],
                ) from error
            outputs = [answer] if isinstance(answer, Tensor) else list(answer)
            if self.preprocessor.scales_target:
                outputs = [self.preprocessor.invert_target(output) for output in outputs]
        return outputs

    def _refuse_beyond(self, rows: Sequence[Rows], inputs: Sequence[Tensor]) -> None:
        """Name the numbers that are beyond a table of the net, if it is these that it has failed at."""
        found = lookups.beyond(self.architecture, self.module, inputs)
        if not found:
            return
        told: dict[Entry, None] = {}
        for one in found:
            if len(told) >= MAX_ENTRIES:
                break
            part, tensor = rows[one.input], inputs[one.input]
            if one.place is None:
                size = "x".join(map(str, tensor.shape[1:]))
                detail = f"A row of {size} is too long: `{one.table}` has {one.rows} positions."
                told[Entry(part.at, "out-of-range", detail, expected=f"at most {one.rows}", got=size)] = None
                continue
            number = shorten(tensor[one.place].item())
            at = self.preprocessor.part(one.input).pointer_to(part.numbers, part.sent, one.place, at=part.at)
            if number == str(one.number):
                detail, expected = f"{number} is beyond the {one.rows} rows of `{one.table}`.", f"0 to {one.rows - 1}"
            else:
                detail = f"{number} leads to {one.number}, which is beyond the {one.rows} rows of `{one.table}`."
                expected = f"a number that leads to 0 to {one.rows - 1}"
            told[Entry(at, "out-of-range", detail, expected=expected, got=number)] = None
        raise ValidationFailed(
            "The net has no rows for these numbers.", errors=list(told), more=max(0, len(found) - len(told))
        )

    def drawn(self, count: int) -> list[Rows]:
        """Rows that the net can take, for a version without data: always the same ones.

        Args:
            count: how many.

        Raises:
            ShapeMismatch: none of the rows tried can be taken.
        """
        sizes = require(self.architecture).sizes
        smallest = min([8, *sizes.values()])
        # Whole numbers may be places in a table of any length, or lengths: those that are too large are refused.
        for largest in (smallest, 1, 0):
            generator = torch.Generator().manual_seed(0)
            rows = []
            for spec, dtype in zip(self.architecture.inputs, self._dtypes, strict=True):
                shape = [count, *(sizes[size] if isinstance(size, str) else size for size in spec.shape[1:])]
                if dtype.is_floating_point:
                    numbers = torch.randn(shape, generator=generator).to(dtype)
                else:
                    numbers = torch.randint(min(largest, 1), largest + 1, shape, generator=generator).to(dtype)
                rows.append(Rows(numbers.numpy()))
            try:
                self.run(rows)
            except (ShapeMismatch, ValidationFailed) as error:
                if largest:
                    continue
                raise ShapeMismatch(error.message, errors=error.errors) from error
            return rows
        raise AssertionError("unreachable")

    def independence(self, golden: Mapping[str, Any]) -> BatchIndependence:
        """Whether the answer to a row depends on the rows that ride with it, tried with the weights as they are.

        Every golden row is asked alone; what may differ from its answer among the others is the last bits of sums,
        which kernels add up in another order for another number of rows.

        Args:
            golden: what `golden` gave.
        """
        rows, together = rows_of(golden), golden["outputs"]
        count = len(rows[0].numbers)
        worst = 0.0
        for place in range(count):
            part = slice(place, place + 1)
            for whole, alone in zip(together, self.run([_sliced(each, part) for each in rows]), strict=True):
                if alone.shape != whole[part].shape:
                    return BatchIndependence(independent=False, deviation=None, rows=count)
                scale = whole.double().abs().nan_to_num(0.0, 0.0, 0.0).max().clamp(min=1e-6)
                apart = ((alone.double() - whole[part].double()).abs() / scale).nan_to_num(0.0, 0.0, 0.0)
                worst = max(worst, apart.max().item() if apart.numel() else 0.0)
        return BatchIndependence(independent=count > 1 and worst <= INDEPENDENT, deviation=worst, rows=count)

    # -- golden rows --------------------------------------------------------------------------------------------------

    def golden(self, rows: Sequence[Rows]) -> dict[str, Any]:
        """Rows with their answers, as plain data for `checkpoint.save`."""
        return {
            "build": build_of_torch(),
            "inputs": [
                {
                    "numbers": torch.from_numpy(np.ascontiguousarray(part.numbers)),
                    "codes": None if part.codes is None else torch.from_numpy(np.ascontiguousarray(part.codes)),
                }
                for part in rows
            ],
            "outputs": [output.clone() for output in self.run(rows)],
        }

    def timed(self, golden: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
        """Rows, and seconds for which they keep a processor busy: of one golden row, and of all of them."""
        rows = rows_of(golden)
        found = []
        for count in sorted({1, len(rows[0].numbers)}):
            part = [_sliced(each, slice(0, count)) for each in rows]
            least, until = math.inf, time.thread_time() + 0.05
            for _ in range(5):
                started = time.thread_time()
                self.run(part)
                ended = time.thread_time()
                least = min(least, ended - started)
                if ended > until:
                    break
            found.append((count, least))
        return tuple(found)

    def warm(self, golden: Mapping[str, Any], *, most: int) -> tuple[int, ...]:
        """Run once with 2, 4, 8 … rows, so that no later forward pass is the first of its size.

        What they take is not told: once is not enough to know it.

        Args:
            golden: what `golden` gave; its rows are repeated.
            most: the most rows; fewer where a tenth of a second is over before.

        Returns:
            The sizes that were run.
        """
        rows = rows_of(golden)
        known = len(rows[0].numbers)
        width = max(1, sum(part.numbers.size for part in rows) // known)
        sizes: list[int] = []
        until, count, took = time.thread_time() + _WARM_S, 2, 0.0
        while count <= most and count * width <= _WARM_NUMBERS and time.thread_time() + 2 * took < until:
            places = np.arange(count) % known
            part = [Rows(each.numbers[places], None if each.codes is None else each.codes[places]) for each in rows]
            started = time.thread_time()
            try:
                self.run(part)
            except (ServiceError, RuntimeError):  # it takes no other numbers of rows than it was tried with
                break
            took = time.thread_time() - started
            sizes.append(count)
            count *= 2
        return tuple(sizes)

    def deviation(self, golden: Mapping[str, Any]) -> str | None:
        """How the answers to golden rows differ from the recorded ones, or None when they come out again.

        On the build that recorded them they must be equal bit for bit, on another within RELATIVE_TOLERANCE.
        """
        rows = rows_of(golden)
        same_build = golden["build"] == build_of_torch()
        for place, (now, then) in enumerate(zip(self.run(rows), golden["outputs"], strict=True)):
            if now.shape != then.shape or now.dtype != then.dtype:
                return f"output {place} has shape {list(now.shape)} instead of {list(then.shape)}"
            if torch.equal(now, then) or (now.isnan() & then.isnan() | (now == then)).all():
                continue
            if same_build or not torch.allclose(now, then, rtol=RELATIVE_TOLERANCE, atol=1e-6, equal_nan=True):
                worst = (now.double() - then.double()).abs().max().item()
                return f"output {place} differs by up to {worst:g}"
        return None


def _lay_channels_last(module: nn.Module) -> None:
    """Turn the weights of convolutions over pictures; what such a convolution gives lies as they do, and so does what
    pooling and normalising make of it. Tensors stay the ones they are, so that tied ones stay tied."""
    for layer in module.modules():
        weight = layer._parameters.get("weight") if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) else None
        if weight is not None:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def rows_of(golden: Mapping[str, Any]) -> list[Rows]:
    """The rows that `golden` was given."""
    return [
        Rows(part["numbers"].numpy(), None if part["codes"] is None else part["codes"].numpy())
        for part in golden["inputs"]
    ]


def _sliced(rows: Rows, part: slice) -> Rows:
    return Rows(rows.numbers[part], None if rows.codes is None else rows.codes[part])


def build_of_torch() -> dict[str, str]:
    """What the bits of an answer depend on beside the document and the weights."""
    return {"torch": str(torch.__version__), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
