"""Orders of codes: what holds for all of them. `tests/parity` compares them with audiocraft's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codec_lm_hf.modeling import code_patterns

FILL = 9999


@st.composite
def patterns(draw):
    """Any pattern of at most 6 streams and 12 frames."""
    frames, streams = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    delays = draw(st.lists(st.integers(0, 5), min_size=streams, max_size=streams))
    kind = draw(st.sampled_from(["delay", "parallel", "unroll", "coarse_first", "grouped", "flatten"]))
    if kind == "delay":
        return code_patterns.delay(frames, delays, draw(st.integers(0, 3)), draw(st.integers(0, 2)))
    if kind == "unroll":
        return code_patterns.unroll(frames, range(streams), delays)
    if kind == "coarse_first":
        return code_patterns.coarse_first(frames, streams, delays[1:])
    if kind == "grouped":
        size = draw(st.sampled_from([size for size in range(1, streams + 1) if streams % size == 0]))
        return code_patterns.grouped(frames, streams, size)
    return getattr(code_patterns, kind)(frames, streams)


def _codes(pattern, batch=2):
    return torch.randint(0, 1000, (batch, *pattern.steps.shape), generator=torch.Generator().manual_seed(0))


@given(patterns())
def test_revert_undoes_build(pattern):
    codes = _codes(pattern)
    assert torch.equal(pattern.revert(pattern.build(codes, FILL), FILL), codes)


@given(patterns())
def test_every_code_has_a_place_of_its_own_and_the_rest_is_filled(pattern):
    sequence = pattern.build(_codes(pattern), FILL)
    assert int(pattern.mask.sum()) == pattern.steps.numel()
    assert torch.equal(sequence != FILL, pattern.mask.expand_as(sequence))
    assert bool((sequence[..., 0] == FILL).all())


@given(patterns(), st.integers(1, 40))
def test_a_cut_sequence_gives_the_codes_it_holds(pattern, steps):
    codes = _codes(pattern)
    cut = pattern.revert(pattern.build(codes, FILL)[..., :steps], FILL)
    assert torch.equal(cut, torch.where(pattern.steps < steps, codes, FILL))
    complete = pattern.complete_frames(steps)
    assert torch.equal(cut[..., :complete], codes[..., :complete])


@given(patterns())
def test_logits_of_a_perfect_model_give_the_codes_back(pattern):
    codes = _codes(pattern) % 7
    labels = pattern.labels(pattern.build(codes, 0))
    logits = torch.nn.functional.one_hot(labels.clamp(min=0), 7).float()
    reverted, predicted = pattern.revert_logits(logits)
    assert torch.equal(reverted.argmax(-1), codes) and bool(predicted.all())
    assert torch.equal((labels != -100).sum((1, 2)), torch.full((2,), codes[0].numel()))


def test_streams_that_are_all_late_are_valid_to_the_last_but_for_what_they_differ_by():
    """As audiocraft counts; a delay of all leaves empty steps at the beginning."""
    for pattern in (code_patterns.delay(5, [2, 3]), code_patterns.coarse_first(5, 3, [2, 3])):
        assert pattern.valid_length == pattern.length - 1
    assert code_patterns.unroll(5, [0, 1], [2, 3]).valid_length == code_patterns.unroll(5, [0, 1], [2, 3]).length - 1


def test_more_flat_frames_than_there_are_leave_nothing_late():
    pattern, all_flat = code_patterns.delay(4, [0, 1], flatten_first=9), code_patterns.flatten(4, 2)
    assert torch.equal(pattern.steps, all_flat.steps)
    assert (pattern.length, pattern.valid_length) == (all_flat.length, all_flat.valid_length)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: code_patterns.delay(0, [0]), "at least one"),
        (lambda: code_patterns.delay(3, [0, -1]), "zero or more"),
        (lambda: code_patterns.unroll(3, [0, 1, 1], [0, 1, 2]), "one delay"),
        (lambda: code_patterns.coarse_first(3, 3, [1]), "2 later streams"),
        (lambda: code_patterns.grouped(3, 5, 2), "divide the 5 streams"),
        (lambda: code_patterns.grouped(3, 4, 0), "got 0"),
        (lambda: code_patterns.parallel(3, 2).build(torch.zeros(1, 3, 3), 0), "shape"),
        (lambda: code_patterns.parallel(3, 2).first_step(3), "0..2"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
