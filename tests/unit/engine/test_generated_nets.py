"""Documents of the whole language, generated: what is foretold of a net is what torch has, and no mistake is an error
of ours.

`GENERATED=20` in the environment makes twenty times as many.
"""

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from service.app import create_app
from service.engine import checkpoint
from service.engine.build import DTYPES, build, complete
from service.engine.plan import compile_plan
from service.schemas.architecture import Architecture, authored, canonical_form, digest_of, state_rows
from service.schemas.judgement import Judgement, judge, require
from service.schemas.python_source import python_source
from service.settings import Settings
from tests.documents import CLASSES, LONGEST, damaged, documents, renamed
from tests.fakes import FakeLauncher
from tests.problems import assert_sentence

TIMES = int(os.environ.get("GENERATED", "1"))
UNHURRIED = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
]


def generated(count: int) -> settings:
    return settings(deadline=None, max_examples=count * TIMES, suppress_health_check=UNHURRIED)


class Net:
    """A generated document, judged and built, with numbers in its buffers that a mistake would show."""

    def __init__(self, raw: Any) -> None:
        self.judgement: Judgement = require(raw)
        assert self.judgement.architecture is not None
        assert self.judgement.summary is not None
        self.architecture: Architecture = self.judgement.architecture
        self.summary = self.judgement.summary
        torch.manual_seed(1)
        self.module: nn.Module = build(self.architecture).eval()
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.uniform_(0.5, 1.5)

    def inputs(self, rows: int, *, seed: int = 2) -> list[Tensor]:
        return inputs_of(self.architecture, rows, SIZES, seed=seed)

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return several(self.module(*[x.clone() for x in inputs]))


SIZES = {"T": LONGEST - 1, "H": 9, "W": 10}
"""What the sizes that vary are: none of them what the judge tries first."""


def inputs_of(architecture: Architecture, rows: int, sizes: Any, *, seed: int = 2) -> list[Tensor]:
    torch.manual_seed(seed)
    found = []
    for spec in architecture.inputs:
        shape = [rows, *(sizes[size] if isinstance(size, str) else size for size in spec.shape[1:])]
        if spec.dtype.startswith("float"):
            found.append(torch.randn(shape, dtype=DTYPES[spec.dtype]))
        else:
            low = 1 if spec.name == "lengths" else 0
            found.append(torch.randint(low, min(CLASSES, LONGEST), shape).to(DTYPES[spec.dtype]))
    return found


def several(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def assert_equal(wanted: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> None:
    assert len(wanted) == len(got)
    for one, other in zip(wanted, got, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


# Right ones.


@generated(80)
@given(documents())
def test_the_judge_foretells_what_torch_builds_and_gives(raw):
    """Parameters, and the shape and dtype of every output for batches of 2 and 3 and sizes that the judge never saw."""
    net = Net(raw)

    assert net.summary["parameters"] == sum(parameter.numel() for parameter in net.module.parameters())

    for rows in (2, 3):
        with torch.no_grad():
            results = net.run(*net.inputs(rows))
        assert len(results) == len(net.summary["outputs"])
        for result, spec in zip(results, net.summary["outputs"], strict=True):
            wanted = [{**SIZES, "B": rows}.get(size, size) for size in spec["shape"]]
            assert result.dim() == len(wanted)
            assert all(size in (have, "?") for size, have in zip(wanted, result.shape, strict=True)), wanted
            assert result.dtype == DTYPES[spec["dtype"]]


@generated(60)
@given(raw=documents())
def test_a_state_dict_is_foretold_and_makes_the_same_net(tmp_path_factory: pytest.TempPathFactory, raw: Any) -> None:
    net = Net(raw)
    state = net.module.state_dict()

    assert [(key, row.shape, DTYPES[row.dtype]) for key, row in state_rows(net.architecture).items()] == [
        (key, tuple(value.shape), value.dtype) for key, value in state.items()
    ]

    path = tmp_path_factory.getbasetemp() / "generated.pt"
    checkpoint.save(path, state)
    twin = build(net.architecture, device="meta").eval()
    checkpoint.load_weights(twin, path)
    complete(twin, net.architecture)
    inputs = net.inputs(3)

    assert checkpoint.weights_digest(twin.state_dict()) == checkpoint.weights_digest(state)
    assert len(list(twin.parameters())) == len(list(net.module.parameters()))
    with torch.no_grad():
        assert_equal(net.run(*inputs), several(twin(*inputs)))


@generated(80)
@given(documents())
def test_a_net_has_one_digest_in_every_form(raw):
    judgement = require(raw)
    assert judgement.architecture is not None
    form = canonical_form(judgement.architecture)

    for same in (form, json.loads(json.dumps(form)), authored(judgement.architecture), renamed(raw)):
        assert require(same).digest == judgement.digest
    assert digest_of(judgement.architecture) == judgement.digest
    assert canonical_form(require(form).architecture) == form  # type: ignore[arg-type] # `require` gives one


@generated(80)
@given(documents())
def test_a_plan_gives_the_bits_of_the_module(raw):
    net = Net(raw)
    inputs = net.inputs(3)
    with torch.inference_mode():
        plan = compile_plan(net.architecture, net.module)
        wanted = net.run(*inputs)
        for _ in range(2):  # the second call meets what the first has left
            assert_equal(wanted, several(plan(*[x.clone() for x in inputs])))


@generated(80)
@given(documents())
def test_rows_alone_give_what_they_give_among_others(raw):
    net = Net(raw)
    inputs = net.inputs(3)
    with torch.no_grad():
        together = net.run(*inputs)
        for row in range(3):
            alone = net.run(*[x[row : row + 1] for x in inputs])
            for one, all_rows in zip(alone, together, strict=True):
                most = max(1.0, all_rows.abs().max().item()) if all_rows.numel() else 1.0
                assert torch.allclose(one, all_rows[row : row + 1], rtol=0, atol=1e-5 * most, equal_nan=True)


@generated(60)
@given(documents())
def test_the_class_for_reading_has_the_same_keys_and_outputs(raw):
    net = Net(raw)
    names: dict[str, Any] = {}
    exec(compile(python_source(net.architecture), "net.py", "exec"), names)  # noqa: S102 - our own words, in a test
    read: nn.Module = names["net"].eval()
    state = net.module.state_dict()

    assert [(key, value.shape) for key, value in read.state_dict().items()] == [
        (key, value.shape) for key, value in state.items()
    ]

    read.load_state_dict(state)
    inputs = net.inputs(2)
    with torch.no_grad():
        assert_equal(net.run(*inputs), several(read(*inputs)))


# Wrong ones.

MOST = 20_000_000
"""Parameters, or operations for a row, of a net that is run here."""


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # the judge calls it odd too
@generated(400)
@given(damaged())
def test_a_damaged_document_gives_entries_or_a_net_that_torch_runs(raw):
    judgement = judge(raw)

    if judgement.architecture is None:
        assert judgement.errors
        assert all(entry.detail and re.fullmatch(r"(/.*)?", entry.pointer, re.DOTALL) for entry in judgement.errors)
        return
    assert judgement.summary is not None
    if judgement.summary["parameters"] > MOST or judgement.summary["flops"] > MOST:
        return
    module = build(judgement.architecture).eval()
    state = module.state_dict()
    assert [(key, row.shape) for key, row in state_rows(judgement.architecture).items()] == [
        (key, tuple(value.shape)) for key, value in state.items()
    ]
    sizes = judgement.sizes
    inputs = inputs_of(judgement.architecture, 2, sizes)
    for spec, x in zip(judgement.architecture.inputs, inputs, strict=True):
        if not spec.dtype.startswith("float"):
            x.fill_(1 if spec.name == "lengths" else 0)  # tables may have become small
    with torch.no_grad():
        results = several(module(*inputs))
    for result, spec in zip(results, judgement.summary["outputs"], strict=True):
        wanted = [{**sizes, "B": 2}.get(size, size) for size in spec["shape"]]
        assert len(wanted) == result.dim()
        assert all(size in (have, "?") for size, have in zip(wanted, result.shape, strict=True)), wanted
        assert result.dtype == DTYPES[spec["dtype"]]


Validate = Callable[[Any], httpx.Response]


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Validate]:
    """The call of the whole application, in this process."""
    threads = torch.get_num_threads()
    app = create_app(Settings(store=tmp_path_factory.mktemp("app") / "store"), launcher=FakeLauncher())
    lifespan = app.router.lifespan_context(app)
    with asyncio.Runner() as runner:
        runner.run(lifespan.__aenter__())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

        def call(document: Any) -> httpx.Response:
            body = json.dumps(document, ensure_ascii=False).encode()
            headers = {"Content-Type": "application/json"}
            return runner.run(client.post("/v1/architectures/validate", content=body, headers=headers))

        yield call
        runner.run(client.aclose())
        runner.run(lifespan.__aexit__(None, None, None))
    torch.set_num_threads(threads)


@generated(250)
@given(raw=damaged())
def test_validating_a_damaged_document_is_always_answered(validate: Validate, raw: Any) -> None:
    answer = validate(raw)

    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["valid"] == (not told["errors"]) == (told["digest"] is not None) == (told["summary"] is not None)
    for entry in [*told["errors"], *told["warnings"]]:
        assert_entry_is_told(entry)


def assert_entry_is_told(entry: dict[str, Any]) -> None:
    """A place, a code and a sentence; what to do about it stands in the sentence where there is no hint."""
    assert re.fullmatch(r"(/.*)?", entry["pointer"], re.DOTALL), entry
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry["code"]), entry
    assert_sentence(entry["detail"])
    assert len(entry.get("got", "")) <= 64, entry


@generated(40)
@given(raw=documents())
def test_validating_a_right_document_tells_what_the_judge_says(validate: Validate, raw: Any) -> None:
    told = validate(raw).json()
    judgement = judge(raw)

    assert (told["valid"], told["digest"]) == (True, judgement.digest)
    assert told["summary"]["parameters"] == (judgement.summary or {})["parameters"]
