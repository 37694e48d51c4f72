"""Classes of torch.nn where a document says more than torch does, or less: each under torch's own name.

Their parameters, keys and numbers are torch's. Knows no documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class _Lengths(nn.RNNBase):
    """A recurrent layer whose forward takes the rows' true lengths, so that no direction reads padding.

    On the meta device it answers with shapes alone: torch would unroll it over time, 11 s for 512 steps.
    """

    cells = 1
    """How many states it keeps."""

    def __init__(self, *, dropout: float = 0.0, num_layers: int = 1, **rest: Any) -> None:
        # With one layer there is nothing to drop out between, of which torch would warn.
        super().__init__(dropout=dropout if num_layers > 1 else 0.0, num_layers=num_layers, **rest)
        self.dropout = dropout

    def forward(self, input: Tensor, hx: Any = None, lengths: Tensor | None = None) -> Any:
        """What torch's class gives; past a row's length its outputs are zero, and its last state is that at its end.

        Args:
            input: [B, T, features] with `batch_first`, else [T, B, features].
            lengths: [B]; those below 1 count as 1 and those above T as T, so that no row can fail the others.
        """
        if input.is_meta:
            return self._shapes(input)
        if lengths is None:
            return super().forward(input, hx)
        longest = input.shape[1 if self.batch_first else 0]
        within = lengths.detach().to("cpu", torch.int64).clamp(1, longest)
        packed = pack_padded_sequence(input, within, self.batch_first, enforce_sorted=False)
        out, state = super().forward(packed, hx)
        return pad_packed_sequence(out, self.batch_first, total_length=longest)[0], state

    def _shapes(self, input: Tensor) -> Any:
        directions = 2 if self.bidirectional else 1
        width = self.proj_size or self.hidden_size
        rows = input.shape[0 if self.batch_first else 1]
        out = input.new_empty(*input.shape[:2], width * directions)
        h = input.new_empty(self.num_layers * directions, rows, width)
        if self.cells == 1:
            return out, h
        return out, (h, input.new_empty(self.num_layers * directions, rows, self.hidden_size))


class RNN(_Lengths, nn.RNN):  # type: ignore[misc]  # torch writes its overloads for packed sequences, `_Lengths` packs
    """torch.nn.RNN."""


class GRU(_Lengths, nn.GRU):  # type: ignore[misc]  # as RNN
    """torch.nn.GRU."""


class LSTM(_Lengths, nn.LSTM):  # type: ignore[misc]  # as RNN
    """torch.nn.LSTM."""

    cells = 2


class FractionalMaxPool2d(nn.FractionalMaxPool2d):
    """torch.nn.FractionalMaxPool2d, whose windows lie in their middle places while predicting.

    torch's own lie at random even then, so that the same row would get other answers each time.
    """

    def forward(self, input: Tensor) -> Any:
        """What torch's class gives for [B, C, H, W]."""
        return _pooled(self, nn.FractionalMaxPool2d.forward, input, 2)


class FractionalMaxPool3d(nn.FractionalMaxPool3d):
    """torch.nn.FractionalMaxPool3d, whose windows lie in their middle places while predicting."""

    def forward(self, input: Tensor) -> Any:
        """What torch's class gives for [B, C, D, H, W]."""
        return _pooled(self, nn.FractionalMaxPool3d.forward, input, 3)


def _pooled(module: nn.FractionalMaxPool2d | nn.FractionalMaxPool3d, forward: Any, input: Tensor, n: int) -> Any:
    if module.training:
        return forward(module, input)
    channels = input.shape[:-n] if input.dim() == n + 2 else (1, input.shape[0])
    size, ratio = module.output_size, module.output_ratio
    function: Any = nn.functional.fractional_max_pool2d if n == 2 else nn.functional.fractional_max_pool3d
    middle = input.new_full((*channels, n), 0.5)
    return function(input, module.kernel_size, size, ratio, module.return_indices, _random_samples=middle)


class TransformerEncoder(nn.TransformerEncoder):
    """torch.nn.TransformerEncoder without nested tensors.

    With them what stands in padded places depends on the other rows of the batch.
    """

    def __init__(self, encoder_layer: nn.TransformerEncoderLayer, num_layers: int, norm: nn.Module | None) -> None:
        super().__init__(encoder_layer, num_layers, norm, enable_nested_tensor=False)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """What torch's class gives; on meta it does not look into the mask, which has no values there."""
        causal = False if src.is_meta and is_causal is None else is_causal
        return super().forward(src, mask, src_key_padding_mask, causal)


class TransformerDecoder(nn.TransformerDecoder):
    """torch.nn.TransformerDecoder, which on meta does not look into the mask."""

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """What torch's class gives."""
        causal = False if tgt.is_meta and tgt_is_causal is None else tgt_is_causal
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return super().forward(tgt, memory, *masks, causal, memory_is_causal)


class Transformer(nn.Transformer):
    """torch.nn.Transformer of the two above."""

    def __init__(
        self,
        *,
        d_model: int,
        nhead: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        layer_norm_eps: float,
        bias: bool,
        **rest: Any,
    ) -> None:
        # In torch's order, so that a seed gives torch's weights.
        members = {"d_model": d_model, "nhead": nhead, "layer_norm_eps": layer_norm_eps, "bias": bias, **rest}
        first = nn.TransformerEncoderLayer(**members)
        norm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        encoder = TransformerEncoder(first, num_encoder_layers, norm)
        second = nn.TransformerDecoderLayer(**members)
        norm = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        decoder = TransformerDecoder(second, num_decoder_layers, norm)
        super().__init__(
            **members,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            custom_encoder=encoder,
            custom_decoder=decoder,
        )


OURS: Final[Mapping[str, type[nn.Module]]] = {
    kind.__name__: kind
    for kind in (
        RNN,
        GRU,
        LSTM,
        FractionalMaxPool2d,
        FractionalMaxPool3d,
        TransformerEncoder,
        TransformerDecoder,
        Transformer,
    )
}
"""The classes above by torch's names; any other layer is torch's own class."""
