"""Masks of segments, attention by products, positions, norms under a condition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, EncoderDecoderCache

from codec_lm_hf.modeling.layers.adaptive_norm import AdaptiveLayerNorm
from codec_lm_hf.modeling.layers.attention import eager_attention, segment_mask
from codec_lm_hf.modeling.layers.positions import ScaledPositions, interleaved_positions
from codec_lm_hf.modeling.layers.transformer import Transformer


def test_a_prefix_is_seen_by_what_follows_and_sees_itself_only():
    mask = segment_mask([(2, "full"), (3, "causal")])[0, 0].int().tolist()
    assert mask == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    valid = torch.tensor([[True, False, True], [True, True, True]])
    mask = segment_mask([(2, "full"), (1, "causal")], valid)
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["full", "causal"])), min_size=1, max_size=4))
def test_everything_sees_all_earlier_segments_and_no_later_one(segments):
    mask, start = segment_mask(segments)[0, 0], 0
    for length, kind in segments:
        rows = mask[start : start + length]
        assert rows[:, :start].all() and not rows[:, start + length :].any()
        own = rows[:, start : start + length]
        assert torch.equal(own, own.new_ones(length, length).tril() if kind == "causal" else torch.ones_like(own))
        start += length


def test_attention_by_products_equals_torchs():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 4, 5, 8)
    mask = segment_mask([(2, "full"), (3, "causal")])
    module = torch.nn.Identity().eval()
    found, weights = eager_attention(module, queries, keys, values, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    assert not weights[..., ~mask[0, 0]].any()


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("cross", [True, False])
@torch.no_grad()
def test_pieces_of_any_length_equal_one_pass(norm_first, adaptive, cross):
    torch.manual_seed(0)
    layer = {"num_heads": 2, "feedforward": 12, "norm_first": norm_first, "cross_attention": cross}
    model = Transformer(8, 2, final_norm=norm_first, adaptive=adaptive, **layer).eval()
    x, memory = torch.randn(2, 9, 8), torch.randn(2, 4, 8) if cross else None
    condition = torch.randn(1, 1, 8) if adaptive else None
    mask = segment_mask([(3, "full"), (6, "causal")])
    whole = model(x, mask, condition, memory)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if cross else DynamicCache()
    parts = []
    for start, end in ((0, 3), (3, 4), (4, 9)):
        seen = mask[:, :, start:end, :end]
        parts.append(model(x[:, start:end], seen, condition, memory if start == 0 else None, past_key_values=cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


def test_positions_may_restart_within_a_row():
    found = interleaved_positions(torch.tensor([[0, 3]]), 4, 100.0)
    expected = [math.sin(3), math.cos(3), math.sin(0.3), math.cos(0.3)]
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1, 0, 1], expected]]))
    positions = ScaledPositions(trainable=False)
    positions.alpha.data.fill_(2)
    assert not positions.alpha.requires_grad
    added = positions(torch.zeros(1, 4, 4), torch.tensor([[0, 1, 0, 1]]))
    assert torch.equal(added[:, :2], added[:, 2:])
    torch.testing.assert_close(added[0, :2], 2 * interleaved_positions(torch.arange(2), 4))


def test_a_norm_under_a_condition():
    torch.manual_seed(0)
    norm, x, condition = AdaptiveLayerNorm(4), torch.randn(2, 3, 4), torch.randn(1, 1, 4)
    scale, shift = norm.projection(condition).chunk(2, -1)
    torch.testing.assert_close(norm(x, condition), scale * torch.nn.functional.layer_norm(x, (4,)) + shift)
