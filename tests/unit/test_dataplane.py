"""What the data plane makes of the answers of a forward pass, apart from the server that it runs in."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from service.dataplane import _outputs
from service.inference.runtime import Answers, Slice


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(7, 1), (7, 3), (7,), (7, 2, 2), (7, 0)], ids=str)
def test_rows_that_were_written_together_are_what_each_request_would_have_got_alone(
    dtype: str, shape: tuple[int, ...]
) -> None:
    numbers = np.random.default_rng(0).normal(0, 1e6, shape).astype(dtype)
    if dtype != "int64" and numbers.size:
        numbers.reshape(-1)[[0, 3, 6]] = [np.nan, np.inf, 1e-30]
    answers = Answers(
        {"output": numbers}, probabilities=None, labels=None, classes=None, rows=7, infer_s=0.0, cost_s=None
    )
    answers.requests = 3
    for start, stop in ((0, 1), (1, 5), (5, 7)):
        alone = orjson.dumps(numbers[start:stop], option=orjson.OPT_SERIALIZE_NUMPY)

        assert _outputs(Slice(answers, start, stop, ())) == alone
