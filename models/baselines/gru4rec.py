"""GRU4Rec (Hidasi and others, 2016 and 2018): a recurrent network over the session's items."""

from __future__ import annotations

from torch import Tensor, nn

from models.baselines.sequence import SequenceModel, SequenceSettings


class Recurrent(nn.Module):
    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        self.gru = nn.GRU(settings.dim, settings.dim, settings.layers, batch_first=True)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D) -> (B, L, D); what pads the end is never looked at
        return self.dropout(self.gru(x)[0])


class GRU4Rec(SequenceModel):
    def __init__(self, settings: SequenceSettings = SequenceSettings(), seed: int = 0) -> None:
        super().__init__(Recurrent, settings, seed)
