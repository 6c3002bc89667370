"""Recurrent layers in the `(batch, channels, steps)` layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init

from . import cpu_inference
from .streaming import Stream, TimeContext, lengths_of


class LSTM(nn.RNNBase):
    """`torch.nn.LSTM` under another name: `torch.compile` refuses that class, but not what it calls.

    In training it stays out of graphs, which would have a copy of it for every step.
    """

    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args
    permute_hidden = nn.LSTM.permute_hidden

    def __init__(self, *args, **kwargs) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def forward(self, x: Tensor | PackedSequence, state: tuple[Tensor, Tensor] | None = None) -> tuple:
        """As of `torch.nn.LSTM`."""
        return (self._out_of_graph if self.training else self._run)(x, state)

    _run = nn.LSTM.forward
    _out_of_graph = torch.compiler.disable(nn.LSTM.forward)

    def reset(self) -> None:
        """Initialize as transformers does with LSTMs."""
        for name, parameter in self.named_parameters():
            if name.startswith("weight"):
                init.xavier_uniform_(parameter)
            else:
                init.zeros_(parameter)


class ResidualLSTM(nn.Module):
    """LSTM over time with its input added to its output, from a zero state.

    Args:
        channels: input and hidden size.
        num_layers: stacked layers.
        bidirectional: a second LSTM reads each row from its end. The output then has twice the channels, the input is
            added to both halves, and a stream gets nothing before its final chunk.

    Source: `SLSTM` in `encodec/modules/lstm.py`; for both directions in `speechtokenizer/modules/lstm.py`.
    """

    batch_axis = 1  # of the state carried in a stream

    def __init__(self, channels: int, num_layers: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = LSTM(channels, channels, num_layers, bidirectional=bidirectional)
        self.waits_for_end = bidirectional
        self.out_channels = channels * (1 + bidirectional)
        self._packed: cpu_inference.PackedLSTM | None = None

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """`x` `(batch, channels, steps)` to `(batch, out_channels, steps)`."""
        if self.waits_for_end:
            return self._both_ways(x, time)
        if x.shape[-1] == 0:
            return x
        steps_first = x.permute(2, 0, 1)
        streamed = isinstance(time, Stream)
        y, state = self._run(steps_first, time.take(self) if streamed else None)
        if streamed:
            time.keep(self, state)
        return (y + steps_first).permute(1, 2, 0)

    def fuse(self) -> None:
        """Lay out the weights as the CPU's library reads them, once, for inference."""
        self._packed = cpu_inference.PackedLSTM(self.lstm) if cpu_inference.PackedLSTM.possible(self.lstm) else None

    def _run(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs and last state for `x` `(steps, batch, channels)`."""
        # For one step of one row, even calling oneDNN takes longer.
        if self._packed is not None and len(x) * x.shape[1] > 1 and self._packed.serves(self.lstm, x):
            return self._packed(x, state)
        if cpu_inference.runs_lstm(x) and not self.lstm.bidirectional:
            return cpu_inference.lstm(self.lstm, x, state)
        return self.lstm(x, state)

    def _both_ways(self, x: Tensor, time: TimeContext | None) -> Tensor:
        steps_first, lengths = x.permute(2, 0, 1), lengths_of(time)
        if isinstance(time, Stream):
            waiting = (*(time.take(self) or ()), steps_first)
            if not time.final:
                time.keep(self, waiting)
                return x.new_zeros(len(x), self.out_channels, 0)
            steps_first = torch.cat(waiting)
        if lengths is None:
            y, _ = self._run(steps_first)
        else:
            # Packed, so that the way back starts at each row's own end and not in its padding.
            packed = pack_padded_sequence(steps_first, lengths.cpu(), enforce_sorted=False)
            y, _ = pad_packed_sequence(self.lstm(packed)[0], total_length=x.shape[-1])
        return (y + steps_first.repeat(1, 1, 2)).permute(1, 2, 0)
