"""The function of every operation of the forward language, over the tensors that it takes.

A step's numbers and constants are in its function. Knows steps and torch; which value goes where is for `build` and
`plan` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, assert_never

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from service.schemas import steps
from service.schemas.operation import tidy
from service.schemas.steps import Operation

Function: TypeAlias = Callable[..., Any]

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
"""torch's name of every dtype that documents have."""


def follows_training(step: Operation) -> bool:
    """Whether a step computes something else while training."""
    return isinstance(step, steps.Dropout) or (isinstance(step, steps.Attention) and step.dropout_p > 0)


def function_of(step: Operation, *, training: bool = False) -> Function:
    """What a step computes, as a function of its values in their order.

    Args:
        training: as it is while training.
    """
    match step:
        case steps.Dropout(p=p):
            return (lambda x: F.dropout(x, p)) if training else (lambda x: x)
        case steps.Attention():
            return _attention(step, step.dropout_p if training else 0.0)
        case steps.Arithmetic() | steps.Comparison() | steps.Where():
            return _with_numbers(_FUNCTIONS[step.op], step.inputs)
        case (
            steps.MatMul()
            | steps.Negative()
            | steps.Activation()
            | steps.Function()
            | steps.Magnitude()
            | steps.Extremum()
            | steps.LogicalNot()
            | steps.Logical()
            | steps.ExpandBatch()
            | steps.Embed()
            | steps.Pooled()
        ):
            return _FUNCTIONS[step.op]
        case steps.Gelu(approximate=approximate):
            return lambda x: F.gelu(x, approximate=approximate)
        case steps.LeakyRelu(negative_slope=slope):
            return lambda x: F.leaky_relu(x, slope)
        case steps.Elu(alpha=alpha):
            return lambda x: F.elu(x, alpha)
        case steps.Softplus(beta=beta, threshold=threshold):
            return lambda x: F.softplus(x, beta, threshold)
        case steps.Power(exponent=exponent):
            power = tidy(exponent)  # a whole exponent keeps whole numbers whole
            return lambda x: torch.pow(x, power)
        case steps.Clamp():
            low, high = (None if bound is None else tidy(bound) for bound in (step.min, step.max))
            return lambda x: torch.clamp(x, low, high)
        case steps.Cast(dtype=name):
            dtype = DTYPES[name]
            return lambda x: x.to(dtype)
        case steps.MaskedFill(value=value):
            fill = float("-inf") if value == "-inf" else tidy(value)
            return lambda x, mask: x.masked_fill(mask, fill)
        case steps.Softmax(op=op, dim=dim):
            function, along = _FUNCTIONS[op], 1 if dim is None else dim
            return lambda x: function(x, along)
        case _:
            return _of_dimensions(step)


_OfDimensions: TypeAlias = (
    steps.Flatten
    | steps.Reshape
    | steps.Unflatten
    | steps.Permute
    | steps.Transpose
    | steps.Squeeze
    | steps.Unsqueeze
    | steps.Join
    | steps.Chunk
    | steps.Split
    | steps.GetItem
    | steps.Flip
    | steps.Roll
    | steps.Reduce
    | steps.Spread
    | steps.Norm
    | steps.Product
    | steps.ArgExtremum
    | steps.CumSum
    | steps.Normalize
    | steps.LayerNorm
    | steps.OneHot
    | steps.Positions
    | steps.CausalMask
    | steps.PaddingMask
    | steps.MaxPool1d
    | steps.MaxPool2d
    | steps.AvgPool1d
    | steps.AvgPool2d
    | steps.AdaptivePool1d
    | steps.AdaptivePool2d
    | steps.Pad
    | steps.Interpolate
    | steps.PixelShuffle
    | steps.PixelUnshuffle
)


def _of_dimensions(step: _OfDimensions) -> Function:
    match step:
        case steps.Flatten(start_dim=start, end_dim=end):
            return lambda x: torch.flatten(x, start, end)
        case steps.Reshape(shape=shape):
            return lambda x: x.reshape(x.shape[0], *shape)
        case steps.Unflatten(dim=dim, sizes=sizes):
            return lambda x: x.unflatten(dim, sizes)
        case steps.Permute(dims=dims):
            return lambda x: x.permute(dims)
        case steps.Transpose(dim0=dim0, dim1=dim1):
            return lambda x: x.transpose(dim0, dim1)
        case steps.Squeeze(dim=dim):
            return lambda x: x.squeeze(dim)
        case steps.Unsqueeze(dim=dim):
            return lambda x: x.unsqueeze(dim)
        case steps.Join(op=op, dim=dim):
            join = _FUNCTIONS[op]
            return lambda *values: join(values, dim)
        case steps.Chunk(chunks=chunks, dim=dim):
            return lambda x: torch.chunk(x, chunks, dim)
        case steps.Split(split_size_or_sections=sections, dim=dim):
            parts = sections if isinstance(sections, int) else list(sections)
            return lambda x: torch.split(x, parts, dim)
        case steps.GetItem(index=index):
            indices = tuple(item if isinstance(item, int) else slice(*item) for item in index)
            return lambda x: x[indices]
        case steps.Flip(dims=dims):
            return lambda x: torch.flip(x, dims)
        case steps.Roll(shifts=shifts, dims=dims):
            return lambda x: torch.roll(x, shifts, dims)
        case steps.OneHot(num_classes=classes):
            return lambda x: F.one_hot(x, classes)
        case steps.Positions(dim=dim):
            return lambda x: torch.arange(x.shape[dim], device=x.device)
        case steps.CausalMask(dim=dim):
            return lambda x: torch.ones(x.shape[dim], x.shape[dim], dtype=torch.bool, device=x.device).triu(1)
        case steps.PaddingMask(dim=dim):
            return lambda lengths, like: _from(lengths, like.shape[dim])
        case (
            steps.Reduce()
            | steps.Spread()
            | steps.Norm()
            | steps.Product()
            | steps.ArgExtremum()
            | steps.CumSum()
            | steps.Normalize()
            | steps.LayerNorm()
        ):
            return _reducing(step)
        case _:
            return _resampling(step)


def _reducing(
    step: steps.Reduce
    | steps.Spread
    | steps.Norm
    | steps.Product
    | steps.ArgExtremum
    | steps.CumSum
    | steps.Normalize
    | steps.LayerNorm,
) -> Function:
    match step:
        case steps.Reduce(op=op, dim=dims, keepdim=keepdim):
            reduction = _FUNCTIONS[op]
            return lambda x: reduction(x, dims, keepdim)
        case steps.Spread(op=op, dim=dims, correction=correction, keepdim=keepdim):
            spread = _FUNCTIONS[op]
            return lambda x: spread(x, dims, correction=correction, keepdim=keepdim)
        case steps.Norm(p=p, dim=dims, keepdim=keepdim):
            return lambda x: torch.linalg.vector_norm(x, p, dims, keepdim)
        case steps.Product(dim=dim, keepdim=keepdim):
            return lambda x: torch.prod(x, dim, keepdim)
        case steps.ArgExtremum(op=op, dim=dim, keepdim=keepdim):
            place_of = _FUNCTIONS[op]
            return lambda x: place_of(x, dim, keepdim)
        case steps.CumSum(dim=dim):
            return lambda x: torch.cumsum(x, dim)
        case steps.Normalize(p=p, dim=dim, eps=eps):
            return lambda x: F.normalize(x, p, dim, eps)
        case steps.LayerNorm(normalized_shape=shape, eps=eps):
            return lambda x: F.layer_norm(x, shape, None, None, eps)
        case _:
            assert_never(step)


def _resampling(
    step: steps.MaxPool1d
    | steps.MaxPool2d
    | steps.AvgPool1d
    | steps.AvgPool2d
    | steps.AdaptivePool1d
    | steps.AdaptivePool2d
    | steps.Pad
    | steps.Interpolate
    | steps.PixelShuffle
    | steps.PixelUnshuffle,
) -> Function:
    match step:
        case steps.MaxPool1d(op=op) | steps.MaxPool2d(op=op):
            pool: Function = _FUNCTIONS[op]
            kernel, stride, padding = step.kernel_size, step.stride, step.padding
            dilation, ceil_mode = step.dilation, step.ceil_mode
            return lambda x: pool(x, kernel, stride, padding, dilation, ceil_mode)
        case steps.AvgPool1d(op=op) | steps.AvgPool2d(op=op):
            mean: Function = _FUNCTIONS[op]
            kernel, stride, padding = step.kernel_size, step.stride or step.kernel_size, step.padding
            ceil_mode, include = step.ceil_mode, step.count_include_pad
            return lambda x: mean(x, kernel, stride, padding, ceil_mode, include)
        case steps.AdaptivePool1d(op=op, output_size=size) | steps.AdaptivePool2d(op=op, output_size=size):
            adaptive: Function = _FUNCTIONS[op]
            return lambda x: adaptive(x, size)
        case steps.Pad(pad=pad, mode=mode):
            value = tidy(step.value) if mode == "constant" else None
            return lambda x: F.pad(x, pad, mode, value)
        case steps.Interpolate(mode=mode, align_corners=align):
            # one number stands for every dimension, in torch's words too
            wanted: Any = step.size
            scale: Any = step.scale_factor
            wanted, scale = (given[0] if given and len(given) == 1 else given for given in (wanted, scale))
            return lambda x: F.interpolate(x, wanted, scale, mode, align)
        case steps.PixelShuffle(upscale_factor=factor):
            return lambda x: F.pixel_shuffle(x, factor)
        case steps.PixelUnshuffle(downscale_factor=factor):
            return lambda x: F.pixel_unshuffle(x, factor)
        case _:
            assert_never(step)


def _with_numbers(function: Function, inputs: tuple[str | int | float, ...]) -> Function:
    """A function of the values alone among inputs of which some are numbers."""
    if all(isinstance(item, str) for item in inputs):
        return function
    match inputs:
        case (str(), (int() | float()) as number):
            return lambda x: function(x, number)
        case ((int() | float()) as number, str()):
            return lambda x: function(number, x)
        case (str(), str(), (int() | float()) as number):
            return lambda mask, x: function(mask, x, number)
        case (str(), (int() | float()) as number, str()):
            return lambda mask, x: function(mask, number, x)
        case _:
            raise ValueError("one of the inputs to choose from is a value")  # the document has seen to it


def _attention(step: steps.Attention, dropout: float) -> Function:
    causal, scale = step.is_causal, step.scale
    if len(step.inputs) == 4:
        return lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, dropout, causal, scale=scale)


def _expanded(constant: Tensor, like: Tensor) -> Tensor:
    return constant.expand(like.shape[0], *constant.shape[1:])


# Lengths: [B] beside sequences [B, T, …].


def _from(lengths: Tensor, size: int) -> Tensor:
    """[B, T], true from each length on."""
    return torch.arange(size, device=lengths.device) >= lengths[:, None]


def _padding(x: Tensor, lengths: Tensor) -> Tensor:
    """The same with as many dimensions as `x`."""
    mask = _from(lengths, x.shape[1])
    return mask.reshape(*mask.shape, *[1] * (x.dim() - 2))


def _masked_mean(x: Tensor, lengths: Tensor) -> Tensor:
    lengths = lengths.clamp(1, x.shape[1])
    total = x.masked_fill(_padding(x, lengths), 0).sum(1)
    return total / lengths.reshape(-1, *[1] * (x.dim() - 2))


def _masked_max(x: Tensor, lengths: Tensor) -> Tensor:
    lengths = lengths.clamp(1, x.shape[1])
    return x.masked_fill(_padding(x, lengths), float("-inf")).amax(1)


def _last_valid(x: Tensor, lengths: Tensor) -> Tensor:
    return x[torch.arange(x.shape[0], device=x.device), lengths.clamp(1, x.shape[1]) - 1]


_FUNCTIONS: Final[Mapping[str, Function]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "matmul": torch.matmul,
    "neg": torch.neg,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "selu": F.selu,
    "mish": F.mish,
    "softsign": F.softsign,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "abs": torch.abs,
    "square": torch.square,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "logical_not": torch.logical_not,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "where": torch.where,
    "expand_batch": _expanded,
    "embedding": F.embedding,
    "masked_mean": _masked_mean,
    "masked_max": _masked_max,
    "last_valid": _last_valid,
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "cat": torch.cat,
    "stack": torch.stack,
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
    "var": torch.var,
    "std": torch.std,
    "argmax": torch.argmax,
    "argmin": torch.argmin,
    "max_pool1d": F.max_pool1d,
    "max_pool2d": F.max_pool2d,
    "avg_pool1d": F.avg_pool1d,
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool1d": F.adaptive_avg_pool1d,
    "adaptive_max_pool1d": F.adaptive_max_pool1d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
}
