"""Linear layers for few rows and of half precision give what torch's do; those of eight bits, within the rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codec_lm_hf.modeling.layers import cpu_inference
from codec_lm_hf.modeling.layers.linear import Float16Linear, Int8Linear, Linear, to_float16, to_int8
from tests.common.weights import needs_x86


def layers(features: int, outputs: int, bias: bool = True) -> tuple[nn.Linear, Int8Linear]:
    torch.manual_seed(0)
    linear = nn.Linear(features, outputs, bias=bias)
    return linear, Int8Linear(linear)


@given(st.integers(1, 60), st.booleans(), st.sampled_from([None, slice(3, 20)]))
@settings(deadline=None, max_examples=40)
def test_any_number_of_rows_gives_what_torch_does(rows, bias, outputs):
    torch.manual_seed(0)
    layer = Linear(48, 24, bias=bias)
    x = torch.randn(rows, 1, 48)
    expected = nn.functional.linear(x, layer.weight, layer.bias)[..., outputs or slice(None)]
    with torch.no_grad():
        found = layer(x, outputs)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # And with gradients to the last bit, which in a product depends on how many outputs it has.
    rest = slice(None) if outputs is None else outputs
    bias = None if layer.bias is None else layer.bias[rest]
    assert torch.equal(layer(x, outputs), nn.functional.linear(x, layer.weight[rest], bias))


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ways", [{}, {"_BY_COLUMNS": range(2, 7)}, {"_BY_PARTS": range(2, 4)}])
def test_every_way_of_every_cpu_gives_what_torch_does(rows, bias, ways, monkeypatch):
    for name, value in ({"_BY_COLUMNS": (), "_BY_PARTS": (), "_LARGE_VALUES": 0, "_PART_VALUES": 100} | ways).items():
        monkeypatch.setattr(cpu_inference, name, value)
    torch.manual_seed(0)
    layer, x = Linear(48, 25, bias=bias), torch.randn(rows, 1, 48)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


@needs_x86
@given(st.integers(0, 40), st.booleans(), st.sampled_from([None, slice(16), slice(16, None), slice(3, 20)]))
@settings(deadline=None, max_examples=40)
def test_weights_in_half_precision_give_what_they_do_in_float32(rows, bias, outputs):
    torch.manual_seed(0)
    layer, x = Linear(24, 48, bias=bias, parts=3), torch.randn(rows, 2, 24)
    assert not Float16Linear.possible(layer), "these would have to be rounded"
    layer.half().float()
    assert Float16Linear.possible(layer)
    packed = copy.deepcopy(Float16Linear(layer))
    with torch.no_grad():
        torch.testing.assert_close(packed(x, outputs), layer(x, outputs), atol=1e-5, rtol=1e-5)
        assert packed(x.bfloat16(), outputs).dtype == torch.bfloat16


@needs_x86
def test_every_number_of_half_precision_is_kept():
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.half).float()
    finite = every[every.isfinite()].view(-1, 16)
    layer = nn.Linear(*finite.shape[::-1], bias=False)
    layer.weight = nn.Parameter(finite)
    assert torch.equal(Float16Linear(layer)(torch.eye(16)).t(), finite)


@needs_x86
def test_only_weights_that_half_precision_holds_are_packed():
    model = nn.Sequential(nn.Linear(16, 16).half().float(), nn.Linear(16, 16), nn.Linear(16, 16).double())
    to_float16(model)
    assert [type(layer) for layer in model] == [Float16Linear, nn.Linear, nn.Linear]
    assert model[0].nbytes == 2 * 16 * 16


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_results_lie_within_the_rounding(features, outputs, rows, bias):
    """Half a step of each weight, and bfloat16's eight bits of inputs, weights and results."""
    linear, small = layers(features, outputs, bias)
    x = torch.randn(rows, features)
    with torch.no_grad():
        expected, found = linear(x), small(x)
        steps = small.scale.float()[:, None].expand_as(linear.weight)
        rounding = x.abs() @ (0.51 * steps + 2**-7 * linear.weight.abs()).t() + 2**-7 * expected.abs() + 1e-6
    assert ((found - expected).abs() <= rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_equal_many(dtype):
    """Another kernel takes few rows; each row is alone in what it gets."""
    _, small = layers(64, 48)
    small.to(dtype)
    x = torch.randn(40, 64).to(torch.bfloat16).to(dtype)
    with torch.no_grad():
        many, few = small(x), torch.cat([small(row[None]) for row in x])
    torch.testing.assert_close(few.float(), many.float(), atol=2e-2, rtol=2e-2)
    assert few.dtype == many.dtype == dtype


def test_some_outputs_only():
    _, small = layers(32, 24)
    x = torch.randn(2, 3, 32)
    assert torch.equal(small(x, slice(8, 16)), small(x)[..., 8:16])


def test_a_quarter_of_the_memory():
    model = nn.Sequential(nn.Linear(64, 64), nn.ModuleDict({"inside": nn.Linear(64, 64)}), nn.LayerNorm(64))
    before = sum(value.nbytes for value in model.state_dict().values())
    to_int8(model)
    assert sum(value.nbytes for value in model.state_dict().values()) < 0.3 * before
    assert type(model[0]) is Int8Linear and type(model[1]["inside"]) is Int8Linear
