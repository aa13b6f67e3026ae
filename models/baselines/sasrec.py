"""SASRec (Kang and McAuley, 2018): causal self-attention over the session's items, with learnt places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.baselines.sequence import CAP, SequenceModel, SequenceSettings


class SelfAttention(nn.Module):
    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.places = nn.Parameter(torch.randn(CAP, dim) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, settings.heads, 2 * dim, settings.dropout, batch_first=True, norm_first=True
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D) -> (B, L, D); causal, so the padding at the end is never seen
        length = x.shape[1]
        x = x * x.shape[-1] ** 0.5 + self.places[:length]
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        for layer in self.layers:
            x = layer(x, src_mask=causal, is_causal=True)
        return self.norm(x)


class SASRec(SequenceModel):
    def __init__(self, settings: SequenceSettings = SequenceSettings(layers=2), seed: int = 0) -> None:
        super().__init__(SelfAttention, settings, seed)
