"""HiFi-GAN's parts: streams and ragged batches equal whole signals; padding as in torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codec_lm_hf.modeling.layers.conv import PAD_MODES, Conv1d, TimeGroupNorm
from codec_lm_hf.modeling.layers.hifigan import (
    HifiGanFusion,
    HifiGanGenerator,
    HifiGanGroupedBlock,
    HifiGanResidualBlock,
)
from codec_lm_hf.modeling.layers.streaming import Stream, TimeContext

OPTIONS = {
    "fused": {"paired": True},
    "one convolution a step": {"paired": False},
    "grouped": {"groups": 3, "kernel_sizes": (5,), "dilations": ((1, 3),)},
    "odd": {"up_kernel_sizes": (7, 5), "kernel_sizes": (3, 7)},
}


def generator(causal: bool, **changes) -> HifiGanGenerator:
    torch.manual_seed(0)
    fields = {
        "ratios": (4, 3),
        "up_kernel_sizes": (8, 7),
        "kernel_sizes": (3, 7),
        "dilations": ((1, 3), (2, 5)),
        **changes,
    }
    options = {"causal": causal, "norm_type": "weight_norm"}
    return HifiGanGenerator(4, 8, conv_options=options, up_options=options, **fields).eval()


def written_out(model: HifiGanGenerator, x: torch.Tensor) -> torch.Tensor:
    """The non-causal, fused generator of the paper, in torch's own functions."""

    def same(conv: Conv1d, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, conv.conv.weight, conv.conv.bias, padding="same", dilation=conv.conv.dilation)

    x = same(model.first, x)
    for stage in model.stages:
        up = stage.up.conv
        padding = (up.kernel_size[0] - up.stride[0]) // 2
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), up.weight, up.bias, stride=up.stride, padding=padding)
        results = []
        for block in stage.blocks.blocks:
            y = x
            for step in block.steps:
                first, second = step.convs
                y = y + same(second, F.leaky_relu(same(first, F.leaky_relu(y, 0.1)), 0.1))
            results.append(y)
        x = torch.stack(results).mean(0)
    return same(model.last, F.leaky_relu(x, 0.01)).tanh()


def streamed(model: nn.Module, x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    stream, pieces = Stream(), []
    for piece in x.split(sizes, dim=-1):
        pieces.append(model(piece, stream))
    stream.final = True
    return torch.cat([*pieces, model(x[..., :0], stream)], -1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_generator_in_a_stream(name, causal, data):
    model = generator(causal, **OPTIONS[name])
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    x = torch.randn(2, 4, sum(sizes), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(streamed(model, x, sizes), model(x), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_generator_on_rows_of_different_lengths(name):
    model = generator(False, **OPTIONS[name])
    x = torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(1))
    time = TimeContext(torch.tensor([11, 6]))
    y = model(x, time)
    alone = model(x[1:, :, :6])
    assert time.lengths.tolist() == [y.shape[-1], alone.shape[-1]]
    torch.testing.assert_close(y[1:, :, : alone.shape[-1]], alone, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["fused", "odd"])
@torch.no_grad()
def test_generator_is_the_papers(name):
    model = generator(False, **OPTIONS[name])
    x = torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(x), written_out(model, x), atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_grouped_block_is_blocks_side_by_side():
    torch.manual_seed(0)
    grouped = HifiGanGroupedBlock(4, 3, (1, 3), groups=2)
    x, results = torch.randn(1, 4, 9), []
    for group in range(2):
        alone, rows = HifiGanResidualBlock(4, 3, (1, 3)), slice(4 * group, 4 * group + 4)
        alone.load_state_dict({name: value[rows] for name, value in grouped.block.state_dict().items()})
        results.append(alone(x))
    expected = F.conv1d(torch.cat(results, 1), grouped.join.conv.weight)
    torch.testing.assert_close(grouped(x), expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_norms_between_blocks_act_on_the_running_sum():
    torch.manual_seed(0)
    fusion = HifiGanFusion(8, (3, 5), ((1,), (1,)), norm_channels=4)
    x = torch.randn(2, 8, 7)
    first, second = (block(x) for block in fusion.blocks)
    expected = F.group_norm(F.group_norm(first, 2, eps=1e-6) + second, 2, eps=1e-6) / 2
    torch.testing.assert_close(fusion(x), expected, atol=1e-6, rtol=1e-4)


def test_several_kernels_have_blocks_of_grouped_convolutions_side_by_side():
    """As AudioDec's code builds them, which has grouped blocks for one kernel only."""
    fusion = generator(True, groups=2, ratios=(3,), up_kernel_sizes=(6,)).stages[0].blocks
    assert isinstance(fusion, HifiGanFusion)
    assert {conv.groups for conv in fusion.modules() if isinstance(conv, nn.Conv1d)} == {2}


def test_an_odd_width_is_halved_downwards():
    model = HifiGanGenerator(4, 13, (2, 2), (4, 4), (3,), ((1,),), conv_options={}, up_options={})
    assert [stage.up.conv.weight.shape[:2] for stage in model.stages] == [(13, 6), (6, 3)]


@torch.no_grad()
def test_norm_over_time_ignores_padding_and_refuses_streams():
    norm = TimeGroupNorm(6, groups=3, eps=1e-6)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 6, 9)
    y = norm(x, torch.tensor([9, 4]))
    torch.testing.assert_close(y[0], norm(x)[0])
    torch.testing.assert_close(y[1, :, :4], norm(x[1:, :, :4])[0])
    fusion = HifiGanFusion(8, (3, 5), ((1,), (1,)), norm_channels=4)
    with pytest.raises(ValueError, match="cannot be streamed"):
        fusion(torch.randn(1, 8, 5), Stream())


@settings(max_examples=30, deadline=None)
@given(
    kernel_size=st.integers(2, 9),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4),
    pad_mode=st.sampled_from(PAD_MODES),
    data=st.data(),
)
@torch.no_grad()
def test_convolution_with_given_padding(kernel_size, stride, padding, pad_mode, data):
    """As torch's own: a last incomplete stride is dropped, in a batch and in a stream too."""
    kernel_size, padding = max(kernel_size, stride), min(padding, kernel_size - 1)
    conv = Conv1d(3, 2, kernel_size, stride=stride, padding=padding, pad_mode=pad_mode)
    lengths = data.draw(st.lists(st.integers(kernel_size + padding, 40), min_size=2, max_size=2))
    x = torch.randn(2, 3, max(lengths))

    def expected(row: int) -> torch.Tensor:
        padded = F.pad(x[row : row + 1, :, : lengths[row]], (padding, padding), mode=pad_mode)
        return F.conv1d(padded, conv.conv.weight, conv.conv.bias, stride=stride)

    time = TimeContext(torch.tensor(lengths))
    y = conv(x, time)
    for row in range(2):
        assert time.lengths[row] == expected(row).shape[-1]
        torch.testing.assert_close(y[row : row + 1, :, : time.lengths[row]], expected(row), atol=1e-6, rtol=1e-4)
    whole, sizes = x[:1, :, : lengths[0]], []
    while sum(sizes) < lengths[0]:
        sizes.append(data.draw(st.integers(1, lengths[0] - sum(sizes))))
    torch.testing.assert_close(streamed(conv, whole, sizes), expected(0), atol=1e-6, rtol=1e-4)
