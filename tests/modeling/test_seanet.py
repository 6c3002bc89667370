"""SEANet's options that go beyond EnCodec: LSTMs that read both ways, snake activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codec_lm_hf.modeling.layers.lstm import ResidualLSTM
from codec_lm_hf.modeling.layers.seanet import SeanetDecoder, SeanetEncoder
from codec_lm_hf.modeling.layers.snake import Snake
from codec_lm_hf.modeling.layers.streaming import Stream, TimeContext

OPTIONS = {
    "channels": 1,
    "dimension": 6,
    "num_filters": 4,
    "ratios": (4, 2),
    "num_residual_layers": 1,
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "compress": 2,
    "use_conv_shortcut": True,
    "num_lstm_layers": 2,
    "conv_options": {"causal": False, "pad_mode": "reflect", "norm_type": "weight_norm"},
}


def test_two_ways_are_two_lstms_and_the_input_is_added_to_both():
    torch.manual_seed(0)
    layer = ResidualLSTM(5, 1, bidirectional=True)
    there, back = nn.LSTM(5, 5), nn.LSTM(5, 5)
    own = layer.lstm.state_dict()
    there.load_state_dict({key: value for key, value in own.items() if "reverse" not in key})
    back.load_state_dict({key[: -len("_reverse")]: value for key, value in own.items() if "reverse" in key})
    x = torch.randn(2, 5, 9)
    steps = x.permute(2, 0, 1)
    expected = torch.cat([there(steps)[0] + steps, back(steps.flip(0))[0].flip(0) + steps], dim=-1)
    assert layer.out_channels == 10
    torch.testing.assert_close(layer(x), expected.permute(1, 2, 0))


def test_the_way_back_starts_at_each_rows_own_end():
    torch.manual_seed(0)
    layer, x = ResidualLSTM(5, 2, bidirectional=True), torch.randn(3, 5, 9)
    lengths = torch.tensor([4, 9, 1])
    together = layer(x, TimeContext(lengths))
    assert together.shape == (3, 10, 9)
    for row, length in enumerate(lengths.tolist()):
        alone = layer(x[row : row + 1, :, :length])
        torch.testing.assert_close(together[row : row + 1, :, :length], alone)


def test_two_ways_wait_for_the_end_of_a_stream():
    torch.manual_seed(0)
    layer, x, stream = ResidualLSTM(5, 2, bidirectional=True), torch.randn(2, 5, 9), Stream()
    for piece in (x[..., :4], x[..., 4:4], x[..., 4:7]):
        assert layer(piece, stream).shape == (2, 10, 0)
    stream.final = True
    torch.testing.assert_close(layer(x[..., 7:], stream), layer(x))


def test_snake_takes_the_place_of_elu_and_moves_no_layer():
    parts = [(SeanetEncoder, {}), (SeanetDecoder, {"trim_right_ratio": 1.0})]
    for kind, more in parts:
        plain, snake = kind(**OPTIONS, **more), kind(**OPTIONS, **more, activation="snake")
        added = {key: value.shape for key, value in snake.state_dict().items() if key not in plain.state_dict()}
        assert set(plain.state_dict()) <= set(snake.state_dict())
        assert added and all(key.endswith(".alpha") for key in added)
        elus = [name for name, layer in plain.named_modules() if isinstance(layer, nn.ELU)]
        assert elus == [name for name, layer in snake.named_modules() if isinstance(layer, Snake)]


def test_unknown_activation():
    with pytest.raises(ValueError, match="activation must be one of .*'relu'"):
        SeanetEncoder(**OPTIONS, activation="relu")
