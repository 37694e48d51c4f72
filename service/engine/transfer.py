"""Weights of a net that begins with those of another: taken over where tensors fit, reshaped by policy, else drawn;
and tensors that are frozen.

Knows tensors and weight maps, and nothing of edits, files or stores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Final, assert_never

import torch
from torch import Tensor, nn

from service.errors import CheckpointRefused, Entry
from service.schemas.architecture import StateRow
from service.schemas.edits import Kept, Reshaped, WeightMap, frozen
from service.schemas.surgery import Policy


def transfer(source: Mapping[str, Tensor], fresh: Mapping[str, Tensor], weights: WeightMap) -> dict[str, Tensor]:
    """The state_dict of an edited net.

    Args:
        source: the state_dict of the net before its edits.
        fresh: the state_dict of the edited net as it was built, drawn from the seed; not changed.
        weights: where each of its tensors comes from.

    Returns:
        A tensor for every key of `fresh`, in its order. Kept tensors are the source's own, not copies.

    Raises:
        CheckpointRefused: the source is not the net that the map was made for.
    """
    kept = {each.to: each.from_ for each in weights.kept}
    reshaped = {each.key: each for each in weights.reshaped}
    missing = [key for key in (*kept.values(), *(each.from_ for each in weights.reshaped)) if key not in source]
    if missing:
        errors = [Entry("", "missing", f"The source lacks {key!r}.") for key in missing[:20]]
        raise CheckpointRefused(_OTHER, reason="keys", errors=errors)
    found: dict[str, Tensor] = {}
    for key, tensor in fresh.items():
        if key in kept:
            found[key] = source[kept[key]]
        elif key in reshaped:
            found[key] = _reshaped(source[reshaped[key].from_], tensor, reshaped[key].policy)
        else:
            found[key] = tensor
        if (found[key].shape, found[key].dtype) != (tensor.shape, tensor.dtype):
            wanted, got = f"{list(tensor.shape)}", f"{list(found[key].shape)}"
            entry = Entry("", "shapes", f"The source's {key!r} has another shape.", expected=wanted, got=got)
            raise CheckpointRefused(_OTHER, reason="shapes", errors=[entry])
    return found


_OTHER: Final = "The source's weights are not those that the map was made for."


def by_key(source: Mapping[str, StateRow], wanted: Mapping[str, StateRow]) -> WeightMap:
    """What becomes of every tensor when one net begins with the weights of another.

    Args:
        source: the tensors of the net whose weights are there.
        wanted: of the net that begins with them.

    Returns:
        `kept` are those with the same key, shape and type; where only the key is the same, the tensor is `reshaped` by
        the policy "reinit", which draws it anew.
    """
    kept, reshaped, new = [], [], []
    for key, row in wanted.items():
        other = source.get(key)
        if other is not None and (other.shape, other.dtype) == (row.shape, row.dtype):
            kept.append(Kept(from_=key, to=key))
        elif other is not None and other.dtype == row.dtype:
            reshaped.append(Reshaped(key=key, from_=key, from_shape=other.shape, to_shape=row.shape, policy="reinit"))
        else:
            new.append(key)
    taken = {each.to for each in kept} | {each.key for each in reshaped}
    dropped = tuple(key for key in source if key not in taken)
    return WeightMap(kept=tuple(kept), reshaped=tuple(reshaped), new=tuple(new), dropped=dropped)


def freeze(module: nn.Module, keys: Collection[str]) -> None:
    """Hold tensors of a net as they are while the others are trained.

    Parameters among them get no gradient. A layer whose running statistics are among them computes as in evaluation,
    whatever mode the net is in: else the statistics of a BatchNorm would move with the batches.

    Args:
        keys: keys of the net's state_dict.
    """
    for key, parameter in module.named_parameters():
        if key in keys:
            parameter.requires_grad_(False)
    for path, layer in module.named_modules():
        statistics = [name for name, _ in layer.named_buffers(prefix=path, recurse=False) if "running_" in name]
        if statistics and all(name in keys for name in statistics):
            layer.register_forward_pre_hook(_as_in_evaluation)


def frozen_keys(module: nn.Module, globs: Sequence[str], *, statistics: bool) -> tuple[str, ...]:
    """The keys of a net's state_dict that globs freeze.

    Args:
        globs: as `schemas.edits.frozen` takes them.
        statistics: whether running statistics of norm layers are among them; else parameters alone.
    """
    keys = tuple(module.state_dict()) if statistics else tuple(name for name, _ in module.named_parameters())
    return frozen(keys, globs)


def fingerprint(module: nn.Module, keys: Collection[str]) -> str:
    """The digest of tensors of a net: of their names, types, shapes and values, in the order of their names."""
    state = module.state_dict()
    digest = hashlib.sha256()
    for key in sorted(keys):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return "sha256:" + digest.hexdigest()


def _as_in_evaluation(layer: nn.Module, _: object) -> None:
    layer.eval()


def _reshaped(old: Tensor, fresh: Tensor, policy: Policy) -> Tensor:
    """A tensor of the shape of `fresh` made of `old`, which has as many dimensions."""
    match policy:
        case "reinit":
            return fresh
        case "slice":
            return old[tuple(slice(size) for size in fresh.shape)].clone()
        case "pad":
            padded = fresh.clone()
            padded[: old.shape[0]] = 0  # what is added to old rows adds nothing to their outputs
            padded[tuple(slice(size) for size in old.shape)] = old
            return padded
        case "mean_channels":
            mean = old.mean(dim=1, keepdim=True)  # [out, 1, …]
            return mean.expand(fresh.shape).clone()
        case _:
            assert_never(policy)
