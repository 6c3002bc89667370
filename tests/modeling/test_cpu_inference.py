"""The faster arithmetic of CPU inference against torch's own, and that it notices changed weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from codec_lm_hf.modeling.layers import cpu_inference
from codec_lm_hf.modeling.layers.conv import Conv1d, ConvTranspose1d
from codec_lm_hf.modeling.layers.lstm import ResidualLSTM


def channels_last(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@torch.no_grad()
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    out_channels=st.integers(1, 9),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    extra=st.integers(0, 12) | st.integers(cpu_inference._FEW_WINDOWS - 2, cpu_inference._FEW_WINDOWS + 2),
    bias=st.booleans(),
    layout=st.sampled_from([Tensor.contiguous, channels_last]),
)
def test_convolution_is_torchs(batch, channels, out_channels, kernel, stride, dilation, extra, bias, layout):
    x = layout(torch.randn(batch, channels, (kernel - 1) * dilation + 1 + extra))
    weight, shift = torch.randn(out_channels, channels, kernel), torch.randn(out_channels) if bias else None
    expected = F.conv1d(x, weight, shift, stride, 0, dilation)
    packed = cpu_inference.pack(weight).transpose(1, 2)
    torch.testing.assert_close(cpu_inference.convolve(x, weight, shift, stride, dilation), expected)
    torch.testing.assert_close(cpu_inference.convolve(x, packed, shift, stride, dilation), expected)


@torch.no_grad()
@pytest.mark.parametrize("steps", [0, 1, 40_000])  # the last does not fit the parts that stay in the cache
@pytest.mark.parametrize("layout", [Tensor.contiguous, channels_last])
def test_activations_are_torchs(steps, layout):
    x = layout(torch.randn(2, 3, steps) * 10)
    alpha = torch.rand(1, 3, 1) + 0.5
    torch.testing.assert_close(cpu_inference.elu(x), F.elu(x), atol=2e-7, rtol=1e-6)
    torch.testing.assert_close(cpu_inference.snake(x, alpha, 1 / alpha), x + (alpha * x).sin() ** 2 / alpha)
    assert cpu_inference.elu(x).stride() == x.stride()


@torch.no_grad()
def test_convolution_of_nothing_is_nothing():
    assert cpu_inference.convolve(torch.zeros(2, 3, 0), torch.randn(4, 3, 1), None, 1, 1).shape == (2, 4, 0)


def test_elu_of_extremes():
    extremes = torch.tensor([-torch.inf, -1e30, -0.0, 0.0, 1e30, torch.inf]).view(1, 1, -1)
    with torch.no_grad():
        assert cpu_inference.elu(extremes).flatten().tolist() == F.elu(extremes).flatten().tolist()
        assert cpu_inference.elu(torch.full((1, 1, 1), torch.nan)).isnan().all()


@torch.no_grad()
@pytest.mark.skipif(not cpu_inference.PackedLSTM.possible(nn.LSTM(1, 1)), reason="this torch is built without oneDNN")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_packed_lstm_is_bit_equal(bidirectional, batch):
    layers = nn.LSTM(8, 8, 2, bidirectional=bidirectional)
    packed = cpu_inference.PackedLSTM(layers)
    x = torch.randn(20, 8, batch).transpose(1, 2)
    state = tuple(torch.randn(2, 4 if bidirectional else 2, batch, 8))
    for start in (None, state):
        expected, got = layers(x, start), packed(x, start)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1][0], expected[1][0]) and torch.equal(got[1][1], expected[1][1])


@torch.no_grad()
def test_fused_lstm_notices_changed_weights_and_copies():
    x = torch.randn(1, 8, 30)
    layer = ResidualLSTM(8, 2)
    layer.fuse()
    copied, pickled = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    assert torch.equal(copied(x), layer(x)) and torch.equal(pickled(x), layer(x))
    before = layer(x)
    layer.lstm.weight_hh_l1.mul_(0.5)
    assert not torch.equal(layer(x), before)
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))
    layer.double()
    torch.testing.assert_close(layer(x.double()), copy.deepcopy(layer)(x.double()))


def test_models_can_be_fused_in_inference_mode():
    """Where torch does not count changes, nothing is packed."""
    with torch.inference_mode():
        layer = ResidualLSTM(8, 2)
        expected = layer(torch.ones(1, 8, 30))
        layer.fuse()
        torch.testing.assert_close(layer(torch.ones(1, 8, 30)), expected)


def by_optimizer(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(layer.parameters(), lr=0.1).step()


def by_state(layer: nn.Module) -> None:
    layer.load_state_dict({key: value + 0.1 for key, value in layer.state_dict().items()})


def by_data(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.data.copy_(parameter.data + 0.1)


def by_new_data(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.data = parameter.data + 0.1


@pytest.mark.parametrize("change", [by_optimizer, by_state, by_data, by_new_data])
@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
def test_folded_weight_follows_its_parameters(kind, change):
    layer = kind(6, 5, 4, stride=2, norm_type="weight_norm").eval()
    x = torch.randn(1, 6, 20)
    with torch.no_grad():
        layer(x)
    change(layer)
    expected = layer(x).detach()  # with a gradient, the weight is computed from its parameters
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(copy.deepcopy(layer)(x), expected)


def test_folded_weight_is_computed_once_and_dropped_in_training():
    layer = Conv1d(6, 5, 3, norm_type="weight_norm").eval()
    with torch.no_grad():
        first = layer.inference_weight
        assert layer.inference_weight is first
        assert layer.train().inference_weight is not first


@torch.no_grad()
def test_a_thread_that_comes_while_another_folds_the_weight_gets_the_same(monkeypatch):
    """Neither a weight that is not there yet nor, after a change, the one before."""
    layer, pack, met = Conv1d(6, 5, 3, norm_type="weight_norm").eval(), cpu_inference.pack, []

    def packed_while_another_comes(weight):
        if not met:
            met.append(None)
            met.append(layer.inference_weight)
        return pack(weight)

    monkeypatch.setattr(cpu_inference, "pack", packed_while_another_comes)
    for _ in range(2):
        met.clear()
        torch.testing.assert_close(layer.inference_weight, layer.conv.weight)
        torch.testing.assert_close(met[1], layer.conv.weight)
        by_state(layer)
