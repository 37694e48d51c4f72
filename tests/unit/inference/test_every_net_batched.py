"""Every net of the catalogue through the real queue: whatever rides along, each row gets the answer it gets alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine import build
from service.engine.predictor import Predictor, Rows
from service.inference.batcher import Batch, Policy
from service.inference.codec import Limits
from service.inference.dispatch import Dispatcher, Request
from service.inference.runtime import Loaded, Slice, Trial, Work
from service.schemas import catalogue
from service.schemas.judgement import require
from service.schemas.preprocessing import NONE
from service.schemas.versions import Signature, TensorSpec

LIMITS = Limits(rows=4096, elements=16_000_000)
ROWS = 8
FIXED = 4
STEPS: Any = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, ROWS - 1), st.integers(0, 2), st.booleans()), min_size=2, max_size=7
)
"""Requests: so many rows from this one on, of this priority, and whether the loop turns before the next one."""

SMALL: dict[str, dict[str, Any]] = {
    "alexnet": {"num_classes": 3},
    "lstm_text": {"vocab": 20, "emb": 8, "hidden": 8, "depth": 1},
    "mlp": {"in_features": 6, "hidden": [16, 16], "num_classes": 3},
    "transformer_text": {"vocab": 20, "max_length": 8, "d": 8, "heads": 2, "depth": 1, "feedforward": 8},
    "vit_b_16": {"num_classes": 3, "image_size": 32, "d": 16, "depth": 1, "heads": 2, "mlp": 16},
}
RESNET = {"num_classes": 3, "depths": [1, 1, 1, 1], "widths": [8, 8, 16, 16]}
VGG = {"num_classes": 3, "widths": [4, 4, 8, 8, 8]}
SIZES = {"alexnet": 64, "vgg": 32, "resnet": 32}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loaded(document: dict[str, Any], size: int | None = None) -> tuple[Loaded, list[Rows]]:
    """A net as it is served, and rows for it; that rows are independent of each other is tried as at publication."""
    architecture = require(document).architecture
    assert architecture is not None
    torch.manual_seed(0)
    module = build.build(architecture)
    predictor = Predictor(architecture, NONE, module)
    rows = predictor.drawn(ROWS)
    if size is not None:
        generator = np.random.default_rng(0)
        rows = [Rows(generator.standard_normal((ROWS, 3, size, size), dtype=np.float32))]
    inputs = tuple(TensorSpec(name=each.name, dtype=each.dtype, shape=each.shape) for each in architecture.inputs)
    outputs = (TensorSpec(name="output", dtype="float32", shape=("B",)),)
    made = Loaded(
        Trial("job_0", 1, 1),
        predictor,
        signature=Signature(inputs=inputs, outputs=outputs),
        size_bytes=1,
        samples=[Rows(part.numbers[:4]) for part in rows],
    )
    made.mergeable = predictor.independence(predictor.golden([Rows(part.numbers[:4]) for part in rows])).independent
    return made, rows


def work(made: Loaded, rows: list[Rows], places: Any) -> Work:
    named = {spec.name: part.numbers[places] for spec, part in zip(made.signature.inputs, rows, strict=True)}
    return made.check(named, limits=LIMITS)


async def asked(made: Loaded, rows: list[Rows], steps: list[Any], policy: Policy, sizes: list[int]) -> list[Any]:
    """The answers to requests that come one after the other while others are computed."""

    def run(batch: Batch[Request]) -> tuple[list[Any], float | None]:
        sizes.append(len(batch.members))
        return made.run([member.work for member in batch.members], limits=LIMITS, fixed_rows=policy.fixed_rows)

    dispatcher = Dispatcher(policy, run)
    futures = []
    try:
        for count, start, priority, turn in steps:
            part = work(made, rows, (start + np.arange(count)) % ROWS)
            future = asyncio.get_running_loop().create_future()
            key, now = made.key(part), time.monotonic()  # type: ignore[arg-type]  # arrays that were checked
            request = Request(key, count, part, future, arrived=now, priority=priority, mergeable=made.mergeable)
            dispatcher.submit(request)
            futures.append(future)
            if turn:
                await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(*futures), 60)
    finally:
        dispatcher.close()


def narrow(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """A net of the catalogue, with fewer neurons where its params do not say how many."""
    text = json.dumps(catalogue.document(name, params))
    found: dict[str, Any] = json.loads(text.replace("4096", "64"))
    return found


@pytest.mark.parametrize("name", catalogue.names())
def test_batched_answers_are_those_of_rows_alone_under_random_interleavings(name: str) -> None:
    params = SMALL.get(name, VGG if name.startswith("vgg") else RESNET)
    size = next((size for start, size in SIZES.items() if name.startswith(start)), None)
    made, rows = loaded(narrow(name, params), size)
    alone = [made.run([work(made, rows, [at])], limits=LIMITS)[0][0] for at in range(ROWS)]
    exact = [made.run([work(made, rows, [at])], limits=LIMITS, fixed_rows=FIXED)[0][0] for at in range(ROWS)]
    large = max(float(np.abs(output_of(one)).max()) for one in alone)
    merged: list[int] = []

    assert made.mergeable

    @settings(max_examples=examples(name), deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=STEPS, threaded=st.booleans(), reproducible=st.booleans())
    def interleaved(steps: list[Any], threaded: bool, reproducible: bool) -> None:
        policy = Policy(
            inline_s=0.0 if threaded else 60.0,
            target_s=60.0,
            max_wait_s=60.0,
            fixed_rows=FIXED if reproducible else None,
        )
        found = asyncio.run(asked(made, rows, steps, policy, merged))
        for (count, start, _, _), answer in zip(steps, found, strict=True):
            given_back = output_of(answer)
            for at in range(count):
                place = (start + at) % ROWS
                if reproducible:
                    assert np.array_equal(given_back[at], output_of(exact[place])[0])
                else:  # float32 has seven digits: beyond 1, one in a million is relative
                    apart = np.abs(given_back[at] - output_of(alone[place])[0]).max()
                    assert apart <= 1e-6 * max(1.0, large)

    interleaved()
    assert max(merged) > 1  # some have really ridden together


def output_of(answer: Any) -> Any:
    assert isinstance(answer, Slice), answer
    [output] = answer.outputs().values()
    return output


def examples(name: str) -> int:
    """How many interleavings are tried: a run by night asks for more."""
    chosen = settings().max_examples
    return chosen if chosen > 100 else 12 if name in SMALL and name != "alexnet" else 6


def test_a_net_of_which_nobody_has_shown_that_its_rows_are_independent_never_gets_company() -> None:
    made, rows = loaded({"catalogue": "mlp", "params": SMALL["mlp"]})
    made.mergeable = False
    sizes: list[int] = []
    steps = [(2, 0, 0, False), (2, 2, 0, False), (3, 1, 0, True), (2, 0, 0, False)]
    found = asyncio.run(asked(made, rows, steps, Policy(inline_s=60.0), sizes))

    assert sizes == [1, 1, 1, 1]
    for (count, start, _, _), answer in zip(steps, found, strict=True):
        places = (start + np.arange(count)) % ROWS
        assert np.array_equal(output_of(answer), output_of(made.run([work(made, rows, places)], limits=LIMITS)[0][0]))
