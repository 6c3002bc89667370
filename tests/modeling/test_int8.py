"""The int8 layers: fixed-point products against plain integers, rounding, blocks, streams, fusing, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lm_hf.modeling.layers.int8 import (
    FixedPoint,
    Int8Add,
    Int8Conv1d,
    Int8ConvTranspose1d,
    Int8Grid,
    Int8LeakyReLU,
    OrderedConv1d,
)
from codec_lm_hf.modeling.layers.prepared import Prepared
from codec_lm_hf.modeling.layers.streaming import Stream

INT32 = st.integers(-(2**31) + 1, 2**31 - 1)


def multiply_by_quantized_multiplier(x: int, real: float) -> int:
    """`QuantizeMultiplier` and `MultiplyByQuantizedMultiplier` of TensorFlow Lite, in integers without limits."""
    fraction, exponent = math.frexp(real)
    mantissa = math.floor(fraction * 2**31 + 0.5)
    product = (x << max(0, exponent)) * mantissa
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = abs(product + nudge) // 2**31 * (1 if product + nudge >= 0 else -1)
    shift = max(0, -exponent)
    mask = 2**shift - 1
    return (high >> shift) + ((high & mask) > (mask >> 1) + (high < 0))


@settings(derandomize=True, max_examples=300)
@given(x=INT32, real=st.floats(1e-9, 0.999999999))
def test_fixed_point_product(x, real):
    ours = FixedPoint.of(torch.tensor(real, dtype=torch.float64)).times(torch.tensor(x))
    assert int(ours) == multiply_by_quantized_multiplier(x, real)


@settings(derandomize=True, max_examples=100)
@given(x=st.integers(-255, 255), real=st.floats(1.0, 500.0))
def test_fixed_point_product_with_a_factor_above_one(x, real):
    ours = FixedPoint.of(torch.tensor(real, dtype=torch.float64)).times(torch.tensor(x))
    assert int(ours) == multiply_by_quantized_multiplier(x, real)


def grid_with(scale: float, zero_point: int) -> Int8Grid:
    grid = Int8Grid(1, 1)
    grid.scale.fill_(scale)
    grid.zero_point.fill_(zero_point)
    return grid


def test_grid_rounds_halves_away_from_zero_and_stops_at_its_ends():
    grid = grid_with(0.5, 20)
    x = torch.tensor([[0.25, -0.25, 0.24999, 0.75, -0.75, 100.0, -100.0]])
    assert grid.to_integers(x).tolist() == [[1, -1, 0, 2, -2, 107, -148]]
    assert grid.limit(x).tolist()[0][-2:] == [53.5, -74.0]


@settings(derandomize=True, max_examples=50)
@given(scale=st.floats(1e-3, 20), zero_point=st.integers(-128, 127))
def test_numbers_on_a_grid_stay_where_they_are(scale, zero_point):
    grid = grid_with(scale, zero_point)
    integers = torch.arange(-128, 128)[None] - zero_point
    assert torch.equal(grid.to_integers(grid.to_reals(integers)), integers.float())


def layers(arithmetic: str) -> dict:
    torch.manual_seed(0)
    made = {
        "conv": Int8Conv1d(8, 12, 3, arithmetic, groups=2, dilation=2),
        "strided": Int8Conv1d(8, 12, 4, arithmetic, stride=2),
        "depthwise": Int8Conv1d(8, 8, 3, arithmetic, groups=8, bias=False),
        "transposed": Int8ConvTranspose1d(8, 12, 4, 2, groups=2, block=2, arithmetic=arithmetic),
        "leaky relu": Int8LeakyReLU(0.3, arithmetic),
    }
    return {name: layer.eval() for name, layer in made.items()}


LAYERS = list(layers("integer"))
ROWS = 0.9 * torch.randn(3, 8, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_integers_are_within_a_few_steps_of_floating_point(name):
    integer, clamped = (layers(arithmetic)[name](ROWS) for arithmetic in ("integer", "clamped"))
    step = 2.0**-4
    assert torch.equal(integer / step, (integer / step).round()) or name == "transposed"
    assert 0 < (integer - clamped).abs().max() <= 3 * step


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_fused_layer_gives_the_same_integers_and_forgets_when_it_must(name):
    layer = layers("integer")[name]
    before = layer(ROWS)
    for part in filter(lambda part: isinstance(part, Prepared), layer.modules()):
        part.fuse()
    assert torch.equal(layer(ROWS), before)
    layer.grid.scale.mul_(2)
    layer.load_state_dict(layer.state_dict())
    assert not torch.equal(layer(ROWS), before)
    layer.fuse()
    doubled = layer(ROWS)
    layer.grid.scale.mul_(0.5)
    layer.train().eval()
    assert torch.equal(layer(ROWS), before) and not torch.equal(doubled, before)


@torch.no_grad()
def test_transposed_convolution_rounds_what_overlaps_between_blocks_in_a_stream_too():
    layer = layers("integer")["transposed"]
    stream = Stream()
    pieces = [layer(piece, stream) for piece in ROWS.split([2, 10, 28], dim=-1)]
    torch.testing.assert_close(torch.cat(pieces, -1), layer(ROWS), atol=0, rtol=0)
    blocks = ROWS.unfold(-1, 2, 2).transpose(1, 2).flatten(0, 1)
    parts = layer.integer_output(blocks).unflatten(0, (3, 20))
    expected = parts[:, 4, :, :4].clone()
    expected[..., :2] += parts[:, 3, :, 4:] - layer.conv.bias[:, None]
    assert torch.equal(layer(ROWS)[..., 16:20], expected)


@torch.no_grad()
def test_add_in_integers():
    layer = Int8Add("integer").eval()
    layer.input_grid.scale.fill_(0.07)
    layer.skip_grid.scale.fill_(0.19)
    layer.grid.scale.fill_(0.23)
    layer.grid.zero_point.fill_(-5)
    x, skip = (torch.arange(-128, 128).float()[None] * scale for scale in (0.07, 0.19))
    expected = ((x + skip.flip(1)) / 0.23).round().clamp(-123, 132)
    assert ((layer(x, skip.flip(1)) / layer.grid.scale).round() - expected).abs().max() <= 1


@torch.no_grad()
def test_ordered_sums_do_not_depend_on_batch_or_chunk():
    torch.manual_seed(0)
    layer = OrderedConv1d(32, 16, 3, groups=2, arithmetic="integer").eval()
    x = torch.randn(4, 32, 50)
    whole = layer(x)
    torch.testing.assert_close(whole, OrderedConv1d.forward(layer.train(), x))
    layer.eval()
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), whole)
    stream = Stream()
    assert torch.equal(torch.cat([layer(piece, stream) for piece in x.split(7, dim=-1)], -1), whole)


def test_training_has_gradients():
    for layer in layers("integer").values():
        x = ROWS.clone().requires_grad_()
        layer.train()(x).sum().backward()
        assert x.grad.abs().sum() > 0


def test_a_kernel_beyond_the_next_block_is_refused():
    with pytest.raises(ValueError, match="beyond the next block of 1 steps"):
        Int8ConvTranspose1d(4, 4, 6, 2, groups=1, block=1, arithmetic="integer")
