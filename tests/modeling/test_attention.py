"""Masks of segments, attention by products, positions, norms under a condition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, EncoderDecoderCache, LlamaConfig, StaticCache, T5Config
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama
from transformers.models.t5.modeling_t5 import T5Attention

from codec_lm_hf.modeling.layers.adaptive_norm import AdaptiveLayerNorm
from codec_lm_hf.modeling.layers.attention import biased, eager_attention, segment_mask
from codec_lm_hf.modeling.layers.positions import (
    RelativePositions,
    ScaledPositions,
    interleaved_positions,
    rotate,
    rotation,
)
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
@pytest.mark.parametrize("positions", [None, "rotary", "relative"])
@torch.no_grad()
def test_pieces_of_any_length_equal_one_pass(norm_first, adaptive, cross, positions):
    torch.manual_seed(0)
    layer = {"num_heads": 2, "feedforward": 12, "norm_first": norm_first, "cross_attention": cross}
    model = Transformer(8, 2, final_norm=norm_first, adaptive=adaptive, positions=positions, **layer).eval()
    x, memory = torch.randn(2, 9, 8), torch.randn(2, 4, 8) if cross else None
    condition = torch.randn(1, 1, 8) if adaptive else None
    mask = segment_mask([(3, "full"), (6, "causal")])
    # The second segment counts from its own begin.
    places = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5]])
    whole = model(x, mask, condition, memory, places=places)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if cross else DynamicCache()
    parts = []
    for start, end in ((0, 3), (3, 4), (4, 9)):
        seen = mask[:, :, start:end, :end]
        memory = memory if start == 0 else None
        inputs = {"condition": condition, "memory": memory, "past_key_values": cache, "places": places[:, :end]}
        parts.append(model(x[:, start:end], seen, **inputs))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "relative"])
@torch.no_grad()
def test_the_empty_places_of_a_static_cache_are_not_seen(positions):
    torch.manual_seed(0)
    model = Transformer(8, 2, num_heads=2, feedforward=12, positions=positions).eval()
    x, mask, places = torch.randn(2, 5, 8), segment_mask([(5, "causal")]), torch.arange(5)[None]
    sizes = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    cache = StaticCache(sizes, max_cache_len=9)
    first = model(x[:, :3], mask[..., :3, :3], past_key_values=cache, places=places[:, :3])
    rest = model(x[:, 3:], mask[..., 3:, :], past_key_values=cache, places=places)
    torch.testing.assert_close(torch.cat([first, rest], 1), model(x, mask, places=places), atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize("adjacent", [False, True])
def test_rotary_positions_are_those_of_the_models_that_have_them(adjacent):
    torch.manual_seed(0)
    queries, keys, places = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.tensor([[3, 4, 5, 0, 1]])
    found = [rotate(x, rotation(places, 8), adjacent) for x in (queries, keys)]
    if adjacent:
        angles = modeling_gptj.create_sinusoidal_positions(6, 8)[places]
        sin, cos = angles.chunk(2, -1)
        expected = [
            modeling_gptj.apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2) for x in (queries, keys)
        ]
    else:
        config = LlamaConfig(hidden_size=24, num_attention_heads=3)
        turn = modeling_llama.LlamaRotaryEmbedding(config)(queries, places)
        expected = modeling_llama.apply_rotary_pos_emb(queries, keys, *turn)
    torch.testing.assert_close(found, list(expected))


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_relative_positions_are_those_of_t5(causal):
    torch.manual_seed(0)
    theirs = T5Attention(T5Config(d_model=8, d_kv=4, num_heads=2, is_decoder=causal), has_relative_attention_bias=True)
    ours = RelativePositions(2, causal=causal)
    ours.bias.weight.copy_(theirs.relative_attention_bias.weight)
    seen = torch.ones(300, 300, dtype=torch.bool).tril(0 if causal else 300)
    found, expected = ours(torch.arange(300)[None], 300), theirs.compute_bias(300, 300)
    assert torch.equal(found[..., seen], expected[..., seen])
    assert torch.equal(ours(torch.arange(300)[None], 2), found[:, :, -2:])


@torch.no_grad()
def test_a_bias_of_scores_is_the_same_in_both_kinds_of_attention():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 4, 5, 8)
    bias = biased(torch.randn(1, 4, 5, 5), segment_mask([(5, "causal")]))
    found, weights = eager_attention(torch.nn.Identity().eval(), queries, keys, values, bias)
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    assert not weights.triu(1).any()


def test_a_norm_under_a_condition():
    torch.manual_seed(0)
    norm, x, condition = AdaptiveLayerNorm(4), torch.randn(2, 3, 4), torch.randn(1, 1, 4)
    scale, shift = norm.projection(condition).chunk(2, -1)
    torch.testing.assert_close(norm(x, condition), scale * torch.nn.functional.layer_norm(x, (4,)) + shift)
