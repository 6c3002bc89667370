"""How convolutions pad, and transposed ones that repeat the first step: as in torch, in streams and batches too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codec_lm_hf.modeling.layers.conv import PAD_MODES, Conv1d, ConvTranspose1d
from codec_lm_hf.modeling.layers.streaming import Stream, TimeContext

ATOL = 1e-5
examples = settings(max_examples=15, deadline=None, derandomize=True)
sizes = {"kernel": st.integers(1, 9), "stride": st.integers(1, 4), "steps": st.lists(st.integers(1, 40), min_size=1)}


def streamed(layer, x: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """`layer` over `x`: nothing at first, then chunks of the given sizes, and at last what is left."""
    stream, parts = Stream(), []
    for cut in [0, *cuts]:
        parts.append(layer(x[..., :cut], stream))
        x = x[..., cut:]
    stream.final = True
    return torch.cat([*parts, layer(x, stream)], dim=-1)


def same_in_streams_and_batches(layer, x: torch.Tensor, cuts: list[int], expected: torch.Tensor) -> None:
    """`expected` is what `layer` gives for `x` at once, in chunks, and beside a longer row."""
    torch.testing.assert_close(layer(x), expected, atol=ATOL, rtol=0)
    torch.testing.assert_close(streamed(layer, x, cuts), expected, atol=ATOL, rtol=0)
    longer = torch.randn(1, x.shape[1], x.shape[-1] + 7)
    time = TimeContext(torch.tensor([x.shape[-1], longer.shape[-1]]))
    ragged = layer(torch.cat([F.pad(x, (0, 7), value=9.0), longer]), time)
    assert time.lengths.tolist() == [expected.shape[-1], layer(longer).shape[-1]]
    torch.testing.assert_close(ragged[:1, :, : expected.shape[-1]], expected, atol=ATOL, rtol=0)


@examples
@given(**sizes)
def test_padding_of_a_whole_kernel(kernel, stride, steps):
    kernel = max(kernel, stride)
    layer = Conv1d(2, 3, kernel, stride=stride, padding=(kernel - 1, 0))
    x = torch.randn(1, 2, sum(steps))
    with torch.no_grad():
        expected = F.conv1d(F.pad(x, (kernel - 1, 0)), layer.conv.weight, layer.conv.bias, stride=stride)
        assert expected.shape[-1] == -(-x.shape[-1] // stride)
        same_in_streams_and_batches(layer, x, steps[:-1], expected)


@examples
@given(left=st.integers(0, 3), right=st.integers(0, 3), **sizes)
@example(left=2, right=1, kernel=1, stride=1, steps=[3, 4])
def test_padding_of_any_size(left, right, kernel, stride, steps):
    kernel = max(kernel, stride)
    layer = Conv1d(2, 3, kernel, stride=stride, padding=(left, right))
    x = torch.randn(1, 2, sum(steps) + kernel)
    with torch.no_grad():
        expected = F.conv1d(F.pad(x, (left, right)), layer.conv.weight, layer.conv.bias, stride=stride)
        same_in_streams_and_batches(layer, x, steps[:-1], expected)


@examples
@given(**sizes)
def test_the_first_step_repeated(kernel, stride, steps):
    kernel = stride + kernel
    layer = ConvTranspose1d(2, 3, kernel, stride=stride, pad_mode="replicate")
    x = torch.randn(1, 2, sum(steps))
    copies = -(-kernel // stride) - 1
    with torch.no_grad():
        whole = F.conv_transpose1d(
            F.pad(x, (copies, 0), mode="replicate"), layer.conv.weight, layer.conv.bias, stride=stride
        )
        expected = whole[..., copies * stride :][..., : x.shape[-1] * stride]
        same_in_streams_and_batches(layer, x, steps[:-1], expected)


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match=r"pad_mode must be one of \('constant', 'replicate'\), got 'reflect'"):
        ConvTranspose1d(1, 1, 4, stride=2, pad_mode="reflect")


@examples
@given(pad_mode=st.sampled_from(PAD_MODES), causal=st.booleans(), **sizes)
def test_padding_that_fills_the_last_stride(pad_mode, causal, kernel, stride, steps):
    """As EnCodec pads: a reflection of too few steps has zeros appended first, which are cut off again."""
    kernel = max(kernel, stride)
    layer = Conv1d(2, 3, kernel, stride=stride, causal=causal, pad_mode=pad_mode)
    x = torch.randn(1, 2, sum(steps))
    right = 0 if causal else (kernel - stride) // 2
    sides = (kernel - stride - right, right + -x.shape[-1] % stride)
    missing = max(0, max(sides) + 1 - x.shape[-1]) if pad_mode == "reflect" else 0
    padded = F.pad(F.pad(x, (0, missing)), sides, mode=pad_mode)
    with torch.no_grad():
        expected = F.conv1d(
            padded[..., : padded.shape[-1] - missing], layer.conv.weight, layer.conv.bias, stride=stride
        )
        same_in_streams_and_batches(layer, x, steps[:-1], expected)
