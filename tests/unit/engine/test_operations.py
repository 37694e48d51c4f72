"""Every operation of the forward language: it computes what one would write in torch, and what the judge foretold."""

import itertools
import json
import random
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from pydantic import TypeAdapter, ValidationError

from service.engine.build import build, confirm
from service.engine.operations import DTYPES, function_of
from service.schemas.architecture import canonical_form
from service.schemas.judgement import Judgement, require
from service.schemas.shapes import Mismatch, TensorSpec
from service.schemas.steps import BY_OPERATION, OPERATIONS, Step

INPUTS: dict[str, tuple[list[Any], str]] = {
    "x": (["B", 3, 4], "float32"),
    "y": (["B", 3, 4], "float32"),
    "image": (["B", 4, 6, 6], "float32"),
    "q": (["B", 2, 5, 4], "float32"),
    "ids": (["B", 3], "int64"),
    "mask": (["B", 3, 4], "bool"),
    "lengths": (["B"], "int64"),
}
FREE: dict[str, list[int]] = {"table": [5, 4], "token": [1, 1, 4], "row": [4], "matrix": [4, 2], "one": []}

ACTIVATIONS = ("relu", "relu6", "silu", "hardswish", "hardsigmoid", "selu", "mish", "softsign", "logsigmoid", "tanh")
FUNCTIONS = ("sigmoid", "exp", "sin", "cos", "erf", "abs", "square")
ROOTS = ("log", "sqrt", "rsqrt")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def of_x(function: Callable[..., Any], first: Callable[..., Any] = lambda x: x) -> Callable[[Any], Any]:
    return lambda v: function(first(v.x))


def compared(op: str) -> Callable[[Any], Any]:
    return lambda v: getattr(v.x, f"__{op}__")(v.y)


SAMPLES: dict[str, Callable[[Any], Any]] = {
    "x + y": lambda v: v.x + v.y,
    "1 + x * row": lambda v: 1 + v.x * v.row,
    "x - y": lambda v: v.x - v.y,
    "1 - x": lambda v: 1 - v.x,
    "x * y * 0.5": lambda v: v.x * v.y * 0.5,
    "x / y + 1 / (x * x + 1)": lambda v: v.x / v.y + 1 / (v.x * v.x + 1),
    "ids + one": lambda v: v.ids + v.one,
    "ids / 2 + ids * 3": lambda v: v.ids / 2 + v.ids * 3,
    "x @ transpose(y, 1, 2)": lambda v: v.x @ v.y.transpose(1, 2),
    "x @ matrix": lambda v: v.x @ v.matrix,
    "-x": lambda v: -v.x,
    "gelu(x) + gelu(x, approximate='tanh')": lambda v: F.gelu(v.x) + F.gelu(v.x, approximate="tanh"),
    "leaky_relu(x, 0.2)": lambda v: F.leaky_relu(v.x, 0.2),
    "elu(x, 0.5)": lambda v: F.elu(v.x, 0.5),
    "softplus(x, 2)": lambda v: F.softplus(v.x, 2),
    **{f"{name}(x)": of_x(getattr(F, name)) for name in ACTIVATIONS},
    **{f"{name}(x)": of_x(getattr(torch, name)) for name in FUNCTIONS},
    **{f"{name}(exp(x))": of_x(getattr(torch, name), torch.exp) for name in ROOTS},
    "pow(x, 2) + pow(exp(x), -0.5)": lambda v: v.x**2 + v.x.exp() ** -0.5,
    "pow(ids, 2)": lambda v: v.ids**2,
    "pow(ids, 0.5)": lambda v: v.ids**0.5,
    "clamp(x, min=0)": lambda v: v.x.clamp(min=0),
    "clamp(x, -0.5, 0.5)": lambda v: v.x.clamp(-0.5, 0.5),
    "clamp(ids, max=2)": lambda v: v.ids.clamp(max=2),
    "clamp(ids, max=1.5)": lambda v: v.ids.clamp(max=1.5),
    "cast(ids)": lambda v: v.ids.float(),
    'cast(x, "int64")': lambda v: v.x.long(),
    'cast(mask, dtype="uint8")': lambda v: v.mask.to(torch.uint8),
    "softmax(x, -1) + log_softmax(y, dim=1)": lambda v: v.x.softmax(-1) + v.y.log_softmax(1),
    "transpose(softmax(transpose(x, 0, 1), dim=0), 0, 1)": lambda v: v.x.softmax(1),
    "flatten(x)": lambda v: v.x.flatten(1),
    "reshape(x, 2, -1)": lambda v: v.x.reshape(v.x.shape[0], 2, -1),
    "unflatten(x, 2, (2, -1))": lambda v: v.x.unflatten(2, (2, 2)),
    "permute(x, 0, 2, 1)": lambda v: v.x.permute(0, 2, 1),
    "transpose(x, 1, -1)": lambda v: v.x.transpose(1, -1),
    "squeeze(unsqueeze(x, 1), 1)": lambda v: v.x,
    "cat(expand_batch(token, x), x, dim=1)": lambda v: torch.cat([v.token.expand(len(v.x), -1, -1), v.x], 1),
    "cat([x, y], -1)": lambda v: torch.cat([v.x, v.y], -1),
    "stack([x, y], dim=1)": lambda v: torch.stack([v.x, v.y], 1),
    "chunk(x, 2, dim=2)": lambda v: v.x.chunk(2, 2),
    "chunk(x, 2, dim=1)": lambda v: v.x.chunk(2, 1),
    "split(x, 2, dim=1)": lambda v: v.x.split(2, 1),
    "split(x, [1, 3], dim=-1)": lambda v: v.x.split([1, 3], -1),
    "x[:, -1] + x[:, 0, :]": lambda v: v.x[:, -1] + v.x[:, 0],
    "flip(x, 1, 2)": lambda v: v.x.flip(1, 2),
    "roll(x, (1, -2), (1, 2))": lambda v: v.x.roll((1, -2), (1, 2)),
    "mean(x, dim=1) + sum(x, 1)": lambda v: v.x.mean(1) + v.x.sum(1),
    "amax(x, (1, 2), keepdim=True) * amin(x, -1, keepdim=True)": lambda v: v.x.amax((1, 2), True) * v.x.amin(-1, True),
    "var(x, -1)": lambda v: v.x.var(-1),
    "std(x, (1, 2), correction=0, keepdim=True)": lambda v: v.x.std((1, 2), correction=0, keepdim=True),
    "norm(x, dim=-1)": lambda v: v.x.norm(dim=-1),
    "norm(x, 1, dim=(1, 2), keepdim=True)": lambda v: v.x.norm(1, dim=(1, 2), keepdim=True),
    "prod(x, 1)": lambda v: v.x.prod(1),
    "argmax(x, -1) + argmin(x, dim=-1)": lambda v: v.x.argmax(-1) + v.x.argmin(-1),
    "cumsum(x, 1)": lambda v: v.x.cumsum(1),
    "normalize(x, dim=-1)": lambda v: F.normalize(v.x, dim=-1),
    "layer_norm(x, 4)": lambda v: F.layer_norm(v.x, (4,)),
    "layer_norm(x, [3, 4], eps=0.1)": lambda v: F.layer_norm(v.x, (3, 4), eps=0.1),
    "minimum(x, y) + maximum(x, row)": lambda v: torch.minimum(v.x, v.y) + torch.maximum(v.x, v.row),
    "where(gt(x, 0), x, y)": lambda v: torch.where(v.x > 0, v.x, v.y),
    "where(mask, x, 0) + where(mask, 1, x)": lambda v: torch.where(v.mask, v.x, 0) + torch.where(v.mask, 1, v.x),
    **{f"{op}(x, y)": compared(op) for op in COMPARISONS},
    "eq(ids, 0)": lambda v: v.ids == 0,
    "logical_not(mask)": lambda v: ~v.mask,
    "logical_and(mask, gt(x, 0))": lambda v: v.mask & (v.x > 0),
    "logical_or(mask, lt(x, 0))": lambda v: v.mask | (v.x < 0),
    "masked_fill(x, mask, -1e9)": lambda v: v.x.masked_fill(v.mask, -1e9),
    "softmax(masked_fill(x @ transpose(x, 1, 2), causal_mask(x), '-inf'), dim=-1)": lambda v: (
        (v.x @ v.x.transpose(1, 2)).masked_fill(torch.ones(3, 3).triu(1) == 1, float("-inf")).softmax(-1)
    ),
    "max_pool1d(x, 2) + avg_pool1d(x, 2, count_include_pad=False)": lambda v: (
        F.max_pool1d(v.x, 2) + F.avg_pool1d(v.x, 2)
    ),
    "max_pool2d(image, 3, stride=2, padding=1)": lambda v: F.max_pool2d(v.image, 3, 2, 1),
    "avg_pool2d(image, (2, 1), ceil_mode=True)": lambda v: F.avg_pool2d(v.image, (2, 1), ceil_mode=True),
    "adaptive_avg_pool1d(x, 2) + adaptive_max_pool1d(x, 2)": lambda v: (
        F.adaptive_avg_pool1d(v.x, 2) + F.adaptive_max_pool1d(v.x, 2)
    ),
    "adaptive_avg_pool2d(image, 1)": lambda v: F.adaptive_avg_pool2d(v.image, 1),
    "adaptive_max_pool2d(image, (2, None))": lambda v: F.adaptive_max_pool2d(v.image, (2, 6)),
    "pad(x, (1, 2))": lambda v: F.pad(v.x, (1, 2)),
    "pad(x, (-1, 1, 0, 2), value=0.5)": lambda v: F.pad(v.x, (-1, 1, 0, 2), value=0.5),
    "pad(image, (1, 1, 2, 2), mode='reflect')": lambda v: F.pad(v.image, (1, 1, 2, 2), "reflect"),
    "pad(x, (1, 1), 'circular')": lambda v: F.pad(v.x, (1, 1), "circular"),
    "interpolate(image, scale_factor=1.5)": lambda v: F.interpolate(v.image, scale_factor=1.5),
    "interpolate(image, (3, 8), mode='bilinear', align_corners=True)": lambda v: F.interpolate(
        v.image, (3, 8), mode="bilinear", align_corners=True
    ),
    "interpolate(x, 7, mode='linear')": lambda v: F.interpolate(v.x, 7, mode="linear"),
    "pixel_shuffle(image, 2)": lambda v: F.pixel_shuffle(v.image, 2),
    "pixel_unshuffle(image, 3)": lambda v: F.pixel_unshuffle(v.image, 3),
    "embedding(ids, table)": lambda v: F.embedding(v.ids, v.table),
    "one_hot(ids, 5)": lambda v: F.one_hot(v.ids, 5),
    "x + embedding(positions(x), table)": lambda v: v.x + v.table[:3],
    "padding_mask(lengths, x)": lambda v: torch.arange(3) >= v.lengths[:, None],
    "masked_mean(x, lengths)": lambda v: torch.stack(
        [row[:length].sum(0) / length for row, length in zip(v.x, v.lengths, strict=True)]
    ),
    "masked_max(x, lengths)": lambda v: torch.stack(
        [row[:length].amax(0) for row, length in zip(v.x, v.lengths, strict=True)]
    ),
    "last_valid(x, lengths)": lambda v: v.x[torch.arange(len(v.x)), v.lengths - 1],
    "scaled_dot_product_attention(q, q, q, is_causal=True)": lambda v: F.scaled_dot_product_attention(
        v.q, v.q, v.q, is_causal=True
    ),
    "scaled_dot_product_attention(q, q, q, logical_not(causal_mask(q, dim=2)), 0.5, scale=0.3)": lambda v: (
        F.scaled_dot_product_attention(v.q, v.q, v.q, ~(torch.ones(5, 5).triu(1) == 1), scale=0.3)
    ),
    "scaled_dot_product_attention(x, x, x, attn_mask=(x @ transpose(y, 1, 2)))": lambda v: (
        F.scaled_dot_product_attention(v.x, v.x, v.x, v.x @ v.y.transpose(1, 2))
    ),
    "dropout(x, 0.5)": lambda v: v.x,
}


def used(expression: str, names: Any) -> list[str]:
    return [name for name in names if re.search(rf"\b{name}\b", expression)]


def judged(expression: str, *, local: str | None = None) -> Judgement:
    names = used(expression, INPUTS)
    lines = [f"return {expression}"] if local is None else [f"{local} = {expression}", f"return {local}"]
    layers = [
        {"name": name, "type": "Parameter", "shape": FREE[name], "init": "ones" if name == "one" else "normal"}
        for name in used(expression, FREE)
    ]
    return require(
        {
            "schema": "arch/1",
            "inputs": [{"name": name, "shape": INPUTS[name][0], "dtype": INPUTS[name][1]} for name in names],
            "root": {"type": "Graph", "inputs": names, "layers": layers, "forward": lines},
        }
    )


def tensor(shape: list[int], dtype: str, seed: int, *, low: int = 0, high: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.startswith("float"):
        return torch.randn(shape, generator=generator, dtype=DTYPES[dtype])
    high = 2 if dtype == "bool" else high
    return torch.randint(low, high, shape, generator=generator).to(DTYPES[dtype])


def several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("expression", SAMPLES)
def test_an_operation_computes_what_one_would_write_in_torch(expression):
    judgement = judged(expression)
    assert judgement.architecture is not None
    assert judgement.summary is not None
    confirm(judgement.architecture)
    module = build(judgement.architecture).eval()
    free = {name: getattr(module, name).detach() for name in used(expression, FREE)}
    for batch in (2, 3):
        names = used(expression, INPUTS)
        inputs = {
            name: tensor([batch, *INPUTS[name][0][1:]], INPUTS[name][1], place, low=int(name == "lengths"))
            for place, name in enumerate(names)
        }
        found = several(module(*inputs.values()))
        wanted = several(SAMPLES[expression](SimpleNamespace(**inputs, **free)))

        for out, by_hand, foretold in zip(found, wanted, judgement.summary["outputs"], strict=True):
            assert ["B", *out.shape[1:]] == foretold["shape"]
            assert out.dtype is DTYPES[foretold["dtype"]]
            if "masked_mean" in expression:  # by hand here row by row, in another order of addition
                assert torch.allclose(out, by_hand, atol=1e-6)
            else:
                assert torch.equal(out, by_hand)
        for row in range(batch):
            alone = several(module(*[value[row : row + 1] for value in inputs.values()]))
            for together, single in zip(found, alone, strict=True):
                assert torch.allclose(together[row : row + 1].double(), single.double(), atol=1e-6)


@pytest.mark.parametrize("expression", SAMPLES)
def test_the_names_of_values_leave_no_trace_and_the_stored_form_means_the_same(expression):
    judgement = judged(expression)
    architecture = judgement.architecture
    assert architecture is not None

    assert judged(expression, local="other").digest == judgement.digest
    again = require(json.loads(json.dumps(canonical_form(architecture))))
    assert again.digest == judgement.digest
    assert again.summary == judgement.summary


def test_every_operation_has_a_sample():
    roots: list[Any] = [getattr(judged(expression).architecture, "root", None) for expression in SAMPLES]
    ops = {step.op for root in roots for step in root.steps}

    assert [op for op in OPERATIONS if op not in ops] == []


def test_dropout_of_attention_follows_train_and_eval():
    judgement = judged("scaled_dot_product_attention(q, q, q, dropout_p=0.5)")
    assert judgement.architecture is not None
    module = build(judgement.architecture)
    q = tensor([2, 2, 5, 4], "float32", 0)

    assert torch.equal(module.eval()(q), F.scaled_dot_product_attention(q, q, q))
    torch.manual_seed(0)
    ours = module.train()(q)
    torch.manual_seed(0)
    assert torch.equal(ours, F.scaled_dot_product_attention(q, q, q, dropout_p=0.5))


def test_a_padded_sequence_pools_as_if_it_were_not_padded():
    """What stands in the padding does not matter, not even when it is no number."""
    x, lengths = tensor([2, 3, 4], "float32", 0), torch.tensor([2, 3])
    x[0, 2] = float("nan")
    for op in ("masked_mean", "masked_max", "last_valid"):
        judgement = judged(f"{op}(x, lengths)")
        assert judgement.architecture is not None
        pool = build(judgement.architecture)

        assert torch.equal(pool(x, lengths)[:1], pool(x[:1, :2], lengths[:1]))
        # lengths that no sequence has count as the nearest
        assert torch.equal(pool(x, torch.tensor([1, 9])), pool(x, torch.tensor([0, 3])))


# Whatever a step says of whatever it is given.

_DIMS = (-3, -2, -1, 0, 1, 2, 3, 4)
_EACH = 40
STEP: TypeAdapter[Any] = TypeAdapter(Step)


def one_of(chance: random.Random, *choices: Any) -> Any:
    return chance.choice(choices)


def constants(op: str, chance: random.Random) -> dict[str, Any]:
    """Constants for an operation, right and wrong ones."""
    dim, dims, flag = chance.choice(_DIMS), chance.sample(_DIMS, chance.randint(1, 2)), chance.random() < 0.5
    places = chance.choice(list(itertools.permutations(range(chance.randint(1, 4)))))
    match op:
        case "pow":
            return {"exponent": one_of(chance, 2, 0.5, -1, 0, 200)}
        case "clamp":
            return one_of(chance, {"min": 0}, {"max": 1.5}, {"min": -1, "max": 300}, {"min": 0.5, "max": 2})
        case "cast":
            return {"dtype": chance.choice(list(DTYPES))}
        case "softmax" | "log_softmax":
            return {"dim": one_of(chance, *_DIMS, None)}
        case "flatten":
            return {"start_dim": dim, "end_dim": chance.choice(_DIMS)}
        case "reshape":
            return {"shape": one_of(chance, [-1], [2, -1], [1, -1, 1], [4], [2, 2], [0])}
        case "unflatten":
            return {"dim": dim, "sizes": one_of(chance, [2, -1], [-1], [2, 2], [1, 4], [0, 2], [-1, -1])}
        case "permute":
            return {"dims": list(places)}
        case "transpose":
            return {"dim0": dim, "dim1": chance.choice(_DIMS)}
        case "squeeze" | "unsqueeze" | "cat" | "stack" | "cumsum" | "positions" | "causal_mask" | "padding_mask":
            return {"dim": dim}
        case "chunk":
            return {"chunks": chance.randint(1, 4), "dim": dim}
        case "split":
            return {"split_size_or_sections": one_of(chance, 1, 2, 3, [1, 1], [1, 2], [2, 2], [3]), "dim": dim}
        case "getitem":
            parts = (0, -1, 2, [None, None, None], [1, None, None], [None, None, 2])
            return {"index": [chance.choice(parts) for _ in range(chance.randint(1, 3))]}
        case "flip":
            return {"dims": dims}
        case "roll":
            return {"shifts": [chance.randint(-2, 5) for _ in dims], "dims": dims}
        case "mean" | "sum" | "amax" | "amin":
            return {"dim": dims, "keepdim": flag}
        case "norm":
            return {"dim": dims, "keepdim": flag, "p": one_of(chance, 0, 1, 2, 3.5)}
        case "var" | "std":
            return {"dim": dims, "keepdim": flag, "correction": chance.randint(0, 2)}
        case "prod" | "argmax" | "argmin":
            return {"dim": dim, "keepdim": flag}
        case "normalize":
            return {"dim": dim, "p": one_of(chance, 1, 2)}
        case "layer_norm":
            return {"normalized_shape": one_of(chance, [2], [4], [2, 4], [3, 4], [1])}
        case "masked_fill":
            return {"value": one_of(chance, "-inf", 0, 1, 0.5, 300, -1)}
        case "max_pool1d" | "max_pool2d" | "avg_pool1d" | "avg_pool2d":
            return {"kernel_size": chance.randint(1, 3), "stride": one_of(chance, None, 1, 2), "ceil_mode": flag}
        case "adaptive_avg_pool1d" | "adaptive_max_pool1d":
            return {"output_size": chance.randint(1, 3)}
        case "adaptive_avg_pool2d" | "adaptive_max_pool2d":
            return {"output_size": one_of(chance, 1, [2, None], 3)}
        case "pad":
            pad = one_of(chance, [1, 1], [0, 2], [1, 1, 1, 1], [-1, 0], [2, 2, 0, 1, 1, 0], [-4, 1], [3, 0], [1] * 8)
            return {"pad": pad, "mode": one_of(chance, "constant", "constant", "reflect", "replicate", "circular")}
        case "interpolate":
            to = one_of(chance, {"size": 2}, {"size": [3, 2]}, {"scale_factor": 1.5}, {"scale_factor": [2, 0.5]})
            return {**to, "mode": one_of(chance, "nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic")}
        case "pixel_shuffle":
            return {"upscale_factor": one_of(chance, 1, 2)}
        case "pixel_unshuffle":
            return {"downscale_factor": one_of(chance, 1, 2)}
        case "one_hot":
            return {"num_classes": 300}
        case "scaled_dot_product_attention":
            return {"is_causal": flag}
        case _:
            return {}


def specs(op: str, count: int, chance: random.Random) -> list[TensorSpec]:
    """What an operation might be given: anything, or something like what it wants."""
    given = [any_spec(chance)]
    given += [like(given[0], chance) for _ in range(count - 1)]
    if chance.random() < 0.3:
        return given
    first = given[0]
    lengths = TensorSpec((), "int64")
    match op:
        case "masked_fill":
            given[1] = TensorSpec(given[1].row, "bool", given[1].batch)
        case "where":
            given[0] = TensorSpec(first.row, "bool", first.batch)
        case "embedding":
            given = [TensorSpec(first.row, "int64", first.batch), TensorSpec((4, 3), "float32", None)]
        case "one_hot":
            given = [TensorSpec(first.row, "int64", first.batch)]
        case "padding_mask":
            given[0] = lengths
        case "masked_mean" | "masked_max" | "last_valid":
            given[1] = lengths
        case "expand_batch":
            given[0] = TensorSpec((1, *first.row), first.dtype, None)
        case "scaled_dot_product_attention":
            given[:3] = [TensorSpec(first.row, "float32", first.batch)] * 3
        case "matmul":
            place = one_of(chance, 0, 1, None)
            given = [TensorSpec((2, 4), "float32", place), TensorSpec((4, 3), "float32", one_of(chance, None, place))]
        case _:
            pass
    return given


def any_spec(chance: random.Random) -> TensorSpec:
    row = tuple(one_of(chance, 1, 2, 3, 4, 4, 4) for _ in range(chance.randint(0, 4)))
    batch = one_of(chance, 0, 0, 0, 0, None, 1, 2)
    dtype = one_of(chance, *["float32"] * 6, *DTYPES)
    return TensorSpec(row, dtype, batch if batch is None else min(batch, len(row)))


def like(spec: TensorSpec, chance: random.Random) -> TensorSpec:
    if chance.random() < 0.25:
        return any_spec(chance)
    row, batch = list(spec.row), spec.batch
    if row and chance.random() < 0.3:
        row[chance.randrange(len(row))] = 1
    if chance.random() < 0.2:
        row, batch = row[chance.randrange(len(row) + 1) :], None
    return TensorSpec(tuple(row), spec.dtype if chance.random() < 0.8 else chance.choice(list(DTYPES)), batch)  # type: ignore[arg-type] # every key is a DType


@pytest.mark.parametrize("op", OPERATIONS)
def test_what_a_step_allows_torch_does_row_by_row(op):
    """Right and wrong uses: a step refuses with a sentence, or foretells shape and dtype and mixes no rows."""
    chance = random.Random(op)
    kind = BY_OPERATION[op]
    allowed = refused = 0
    for _ in range(_EACH):
        count = kind.tensors or chance.randint(1, 3)
        given: list[Any] = list(specs(op, count, chance))
        names: list[Any] = [f"v{place}" for place in range(count)]
        if op in {"add", "sub", "mul", "div", "eq", "lt", "ge", "where"} and chance.random() < 0.3:
            given[-1] = names[-1] = one_of(chance, 0, 1, 0.5, -1, 300)
        try:
            step = STEP.validate_python({"op": op, "inputs": names, **constants(op, chance)})
        except ValidationError:
            refused += 1
            continue
        try:
            foretold = several(step.output(given))
        except Mismatch:
            refused += 1
            continue
        allowed += 1
        assert step.flops(given, foretold[0]) >= 0
        check_against_torch(step, [item for item in given if isinstance(item, TensorSpec)], foretold)
    assert allowed
    assert refused or op in {"cast", "logical_not"}  # which take anything


def check_against_torch(step: Any, given: list[TensorSpec], foretold: tuple[TensorSpec, ...]) -> None:
    function = function_of(step)
    for batch in (2, 3):
        tensors = [
            tensor([batch if size is None else size for size in spec.sizes], spec.dtype, place)
            for place, spec in enumerate(given)
        ]
        together = several(function(*tensors))
        for spec, out in zip(foretold, together, strict=True):
            assert list(out.shape) == [batch if size is None else size for size in spec.sizes], (step, given)
            assert out.dtype is DTYPES[spec.dtype], (step, given)
        for row in range(batch):
            alone = several(function(*[_row(t, spec, row) for t, spec in zip(tensors, given, strict=True)]))
            for spec, out, single in zip(foretold, together, alone, strict=True):
                part = _row(out, spec, row)
                assert part.shape == single.shape
                assert torch.allclose(part.double(), single.double(), atol=1e-6, rtol=1e-5, equal_nan=True), step


def _row(value: torch.Tensor, spec: TensorSpec, row: int) -> torch.Tensor:
    return value if spec.batch is None else value.narrow(spec.batch, row, 1)
