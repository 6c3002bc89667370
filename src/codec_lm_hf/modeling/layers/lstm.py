"""Recurrent layers in the `(batch, channels, steps)` layout."""

from __future__ import annotations

from torch import Tensor, nn

from . import cpu_inference
from .streaming import Stream, TimeContext


class ResidualLSTM(nn.Module):
    """Unidirectional LSTM over time with its input added to its output, from a zero state.

    Args:
        channels: input, hidden and output size.
        num_layers: stacked layers.

    Source: `SLSTM` in `encodec/modules/lstm.py`.
    """

    batch_axis = 1  # of the state carried in a stream

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        if x.shape[-1] == 0:
            return x
        steps_first = x.permute(2, 0, 1)
        run = cpu_inference.lstm if cpu_inference.runs_lstm(x) else nn.LSTM.__call__
        streamed = isinstance(time, Stream)
        y, state = run(self.lstm, steps_first, time.take(self) if streamed else None)
        if streamed:
            time.keep(self, state)
        return (y + steps_first).permute(1, 2, 0)
