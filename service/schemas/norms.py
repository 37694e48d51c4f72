"""Normalisation over the batch, over a row, or over neighbouring channels. Knows no torch."""

# ruff: noqa: D102 - what an overriding method does stands once, at `Leaf`
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from service.schemas.leaf import Leaf, known
from service.schemas.shapes import (
    Flag,
    Mismatch,
    Positive,
    Probability,
    Real,
    Row,
    Size,
    SizeOrAuto,
    SizesOrAuto,
    divided,
    elements,
    expect_channels,
    ranked,
    shown,
)


def _statistics(features: int) -> dict[str, Row]:
    return {"running_mean": (features,), "running_var": (features,), "num_batches_tracked": ()}


class _BatchNorm(Leaf):
    guessed = "num_features"
    ranks: ClassVar[tuple[int, ...]]
    shape: ClassVar[str]

    if TYPE_CHECKING:
        num_features: SizeOrAuto
        affine: Flag
        track_running_stats: Flag

    def guess(self, row: Row) -> Any:
        return row[0] if len(row) in self.ranks else None

    def parameters(self) -> dict[str, Row]:
        features = known(self.num_features)
        return {"weight": (features,), "bias": (features,)} if self.affine else {}

    def buffers(self) -> dict[str, Row]:
        return _statistics(known(self.num_features)) if self.track_running_stats else {}

    def output(self, row: Row) -> Row:
        if len(row) not in self.ranks:
            raise Mismatch(
                f"{self.type} takes {self.shape}, but gets {shown(row)}.", expected=self.shape, got=shown(row), then=row
            )
        expect_channels(row, known(self.num_features), self.type, "num_features", row)
        return row

    def remarks(self) -> Iterator[str]:
        if not self.track_running_stats:
            yield f"{self.type} without track_running_stats makes each answer depend on the rows that come with it."


class BatchNorm1d(_BatchNorm):
    """Normalises each channel of [B, C] or [B, C, L] over the batch, and in eval by what it has learnt."""

    ranks = (1, 2)
    shape = "[B, C] or [B, C, L]"
    type: Literal["BatchNorm1d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability | None = 0.1
    affine: Flag = True
    track_running_stats: Flag = True


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of [B, C, H, W] over the batch, and in eval by what it has learnt."""

    ranks = (3,)
    shape = "[B, C, H, W]"
    type: Literal["BatchNorm2d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability | None = 0.1
    affine: Flag = True
    track_running_stats: Flag = True


class BatchNorm3d(_BatchNorm):
    """Normalises each channel of [B, C, D, H, W] over the batch, and in eval by what it has learnt."""

    ranks = (4,)
    shape = "[B, C, D, H, W]"
    type: Literal["BatchNorm3d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability | None = 0.1
    affine: Flag = True
    track_running_stats: Flag = True


class SyncBatchNorm(_BatchNorm):
    """A BatchNorm of any rank, as training on several devices leaves it; on one device it is a BatchNorm."""

    ranks = tuple(range(1, 8))
    shape = "[B, C, …]"
    type: Literal["SyncBatchNorm"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability | None = 0.1
    affine: Flag = True
    track_running_stats: Flag = True


class _InstanceNorm(_BatchNorm):
    def remarks(self) -> Iterator[str]:
        return iter(())

    def output(self, row: Row) -> Row:
        super().output(row)
        if elements(row[1:]) == 1:
            raise Mismatch(
                f"{self.type} normalises over the places of a channel, and {shown(row)} has one place.",
                got=shown(row),
                then=row,
            )
        return row


class InstanceNorm1d(_InstanceNorm):
    """Normalises each channel of each row of [B, C, L]."""

    ranks = (2,)
    shape = "[B, C, L]"
    type: Literal["InstanceNorm1d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability = 0.1
    affine: Flag = False
    track_running_stats: Flag = False


class InstanceNorm2d(_InstanceNorm):
    """Normalises each channel of each row of [B, C, H, W]."""

    ranks = (3,)
    shape = "[B, C, H, W]"
    type: Literal["InstanceNorm2d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability = 0.1
    affine: Flag = False
    track_running_stats: Flag = False


class InstanceNorm3d(_InstanceNorm):
    """Normalises each channel of each row of [B, C, D, H, W]."""

    ranks = (4,)
    shape = "[B, C, D, H, W]"
    type: Literal["InstanceNorm3d"]
    num_features: SizeOrAuto
    eps: Positive = 1e-5
    momentum: Probability = 0.1
    affine: Flag = False
    track_running_stats: Flag = False


class GroupNorm(Leaf):
    """Normalises groups of channels of each row."""

    guessed = "num_channels"
    type: Literal["GroupNorm"]
    num_groups: Size
    num_channels: SizeOrAuto
    eps: Positive = 1e-5
    affine: Flag = True

    @field_validator("num_channels")
    @classmethod
    def _groups_divide(cls, channels: Any, info: Any) -> Any:
        groups = info.data.get("num_groups")
        if groups and isinstance(channels, int):
            divided(groups, {"num_channels": channels}, "num_channels")
        return channels

    def guess(self, row: Row) -> Any:
        return row[0] if row else None

    def parameters(self) -> dict[str, Row]:
        channels = known(self.num_channels)
        return {"weight": (channels,), "bias": (channels,)} if self.affine else {}

    def output(self, row: Row) -> Row:
        if not row:
            raise Mismatch(f"GroupNorm takes [B, C, …], but gets {shown(row)}.", expected="[B, C, …]", got=shown(row))
        expect_channels(row, known(self.num_channels), self.type, "num_channels", row)
        if elements(row) == self.num_groups:
            raise Mismatch(
                f"Each of the {self.num_groups} groups of {shown(row)} has one element, which would become 0.",
                field="num_groups",
                then=row,
            )
        return row


class _LastDimensions(Leaf):
    guessed = "normalized_shape"

    if TYPE_CHECKING:
        normalized_shape: SizesOrAuto

    def guess(self, row: Row) -> Any:
        return row[-1:] or None

    def _normalized(self) -> Row:
        if self.normalized_shape == "auto":
            raise Mismatch("This size is not known: nothing comes before it.", code="unresolved")
        return self.normalized_shape

    def output(self, row: Row) -> Row:
        wanted = self._normalized()
        if row[len(row) - len(wanted) :] != wanted or len(wanted) > len(row):
            expected = "[B, …, " + ", ".join(map(str, wanted)) + "]"
            raise Mismatch(
                f"{self.type} expects {expected} and gets {shown(row)}.",
                field="normalized_shape",
                expected=expected,
                got=shown(row),
                then=row,
            )
        return row


class LayerNorm(_LastDimensions):
    """Normalises the last dimensions of each row."""

    type: Literal["LayerNorm"]
    normalized_shape: SizesOrAuto
    eps: Positive = 1e-5
    elementwise_affine: Flag = True
    bias: Flag = True

    def parameters(self) -> dict[str, Row]:
        if not self.elementwise_affine:
            return {}
        shape = self._normalized()
        return {"weight": shape, "bias": shape} if self.bias else {"weight": shape}


class RMSNorm(_LastDimensions):
    """Divides the last dimensions of each row by their root mean square."""

    type: Literal["RMSNorm"]
    normalized_shape: SizesOrAuto
    eps: Positive | None = None
    elementwise_affine: Flag = True

    def parameters(self) -> dict[str, Row]:
        return {"weight": self._normalized()} if self.elementwise_affine else {}


class LocalResponseNorm(Leaf):
    """Divides by the neighbouring channels' squares, as AlexNet did."""

    type: Literal["LocalResponseNorm"]
    size: Size
    alpha: Real = 1e-4
    beta: Real = 0.75
    k: Real = 1.0

    def output(self, row: Row) -> Row:
        if len(row) < 2:
            raise Mismatch(f"LocalResponseNorm takes [B, C, L, …], but gets {shown(row)}.", got=shown(row), then=row)
        return row

    def flops(self, row: Row, out: Row) -> int:
        return elements(out) * self.size


class CrossMapLRN2d(Leaf):
    """LocalResponseNorm of [B, C, H, W], as Lua Torch had it."""

    type: Literal["CrossMapLRN2d"]
    size: Size
    alpha: Real = 1e-4
    beta: Real = 0.75
    k: Real = 1.0

    def output(self, row: Row) -> Row:
        ranked(row, 2, self.type, channels=True)
        return row

    def flops(self, row: Row, out: Row) -> int:
        return elements(out) * self.size
