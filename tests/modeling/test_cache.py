"""The cache that is written in place holds what transformers' own does."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GenerationConfig

from codec_lm_hf import ValleConfig
from codec_lm_hf.modeling.layers import cache as cache_module
from codec_lm_hf.modeling.layers.cache import GrowingCache, new_cache


def pieces(steps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(2, 2, 3, steps, 4, generator=torch.Generator().manual_seed(seed)).unbind(0))


def assert_same(cache: GrowingCache, expected: DynamicCache) -> None:
    assert cache.get_seq_length() == expected.get_seq_length()
    for (keys, values, _), (other_keys, other_values, _) in zip(cache, expected, strict=True):
        assert torch.equal(keys, other_keys) and torch.equal(values, other_values)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 5))
def test_any_pieces_give_what_copies_give(lengths, cropped):
    cache, expected = GrowingCache(), DynamicCache()
    for seed, steps in enumerate(lengths):
        for layer in range(2):
            given_pieces = pieces(steps, seed + layer)
            found = cache.update(*given_pieces, layer)
            other = expected.update(*given_pieces, layer)
            assert torch.equal(found[0], other[0]) and torch.equal(found[1], other[1])
        if cropped < steps:
            cache.crop(-cropped)
            expected.crop(-cropped)
    assert_same(cache, expected)


def test_steps_are_written_where_the_others_lie():
    cache = GrowingCache()
    keys, _ = cache.update(*pieces(5, 0), 0)
    for seed in range(1, 9):
        after, _ = cache.update(*pieces(1, seed), 0)
        assert after.data_ptr() == keys.data_ptr()
    more, _ = cache.update(*pieces(cache_module._ROOM, 9), 0)
    assert more.data_ptr() != keys.data_ptr() and torch.equal(more[..., :5, :], keys)


def test_rows_that_were_picked_go_on_alone():
    cache, expected = GrowingCache(), DynamicCache()
    for one in (cache, expected):
        one.update(*pieces(5, 0), 0)
        one.batch_select_indices(torch.tensor([1]))
        one.update(*(part[:1] for part in pieces(2, 1)), 0)
    assert_same(cache, expected)
    cache.reset()
    keys, _ = cache.update(*pieces(3, 2), 0)
    assert torch.equal(keys, pieces(3, 2)[0])


def test_gradients_go_through():
    cache = GrowingCache()
    keys, values = (part.requires_grad_() for part in pieces(3, 0))
    cache.update(keys, values, 0)
    sum(part.sum() for part in cache.update(*pieces(1, 1), 0)).backward()
    assert keys.grad.eq(1).all() and values.grad.eq(1).all()


def test_a_memory_has_a_cache_of_its_own():
    config, options = ValleConfig(), GenerationConfig(use_cache=True)
    assert isinstance(new_cache(config, options, 5, memory=3).self_attention_cache, GrowingCache)
    assert isinstance(new_cache(config, options, 5), GrowingCache)
    options.cache_implementation = "static"
    both = new_cache(config, options, 5, memory=3)
    assert (both.self_attention_cache.get_max_length(), both.cross_attention_cache.get_max_length()) == (5, 3)
    assert new_cache(config, GenerationConfig(use_cache=False), 5) is None
