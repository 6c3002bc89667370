"""VALL-E that is told which symbol each frame says: where it starts, goes on and ends, its losses, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st

from codec_lm_hf import ValleConfig
from codec_lm_hf.modeling.layers.alignment import NO_SYMBOL, frame_symbols
from codec_lm_hf.modeling.lm_base import NO_CODE
from tests.common.tiny_lm import TINY_LM

TEXT = torch.tensor([[1, 5, 6, 7, 2]])
DURATIONS = torch.tensor([[2, 1, 3, 0, 2]])
OPTIONS = {"do_sample": False, "return_dict_in_generate": True}


def tiny(**fields):
    return TINY_LM["valle-monotonic"].model(**fields)


def moving(*logits, **fields):
    """A model that goes on by 0, 1, ... symbols with these logits, whatever it hears."""
    model = tiny(**fields)
    model.ar.advance.weight.data.zero_()
    model.ar.advance.bias.data.fill_(-torch.inf)
    model.ar.advance.bias.data[: len(logits)] = torch.tensor(logits)
    return model


def codes(*shape):
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(0))


def spoken(model, **options):
    return model.generate(TEXT, **{"prompt_codes": codes(1, 3, 2), **OPTIONS, **options})


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 30))
def test_frames_say_each_symbol_for_its_duration(durations, columns):
    expected = [place for place, frames in enumerate(durations) for _ in range(frames)]
    expected = (expected + [NO_SYMBOL] * columns)[:columns]
    assert frame_symbols(torch.tensor([durations]), columns).tolist() == [expected]


# --- where speech goes on and ends -----------------------------------------------------------------------------------


def test_a_model_that_never_goes_on_is_made_to_and_ends_with_its_text():
    found = spoken(moving(9.0, 0.0, max_frames_per_symbol=4), advance_threshold=1.0)
    assert found.durations.tolist() == [[4, 4, 4, 4, 4]]
    assert found.sequences.shape == (1, 3, 20) and found.stopped.all()


def test_a_model_that_always_goes_on_says_each_symbol_once():
    assert spoken(moving(-9.0, 9.0)).durations.tolist() == [[1, 1, 1, 1, 1]]
    assert spoken(moving(-9.0, -9.0, 9.0)).durations.tolist() == [[1, 0, 1, 0, 1]]


def test_a_symbol_ends_when_it_has_probably_ended():
    """Of a probability that never reaches a half in a single frame, too."""
    for chance in (0.2, 0.4, 0.6):
        model = moving(math.log(1 - chance), math.log(chance))
        for threshold in (0.5, 0.8):
            frames = math.ceil(math.log(1 - threshold) / math.log(1 - chance))
            assert spoken(model, advance_threshold=threshold).durations.tolist() == [[frames] * 5]


def test_ends_of_symbols_can_be_drawn():
    model = moving(math.log(0.75), math.log(0.25), max_frames_per_symbol=1000)
    draws = [spoken(model, advance_threshold=None, seed=seed).durations for seed in range(40)]
    assert torch.equal(draws[3], spoken(model, advance_threshold=None, seed=3).durations)
    drawn = torch.cat(draws).float()
    # Geometric with mean 4 and standard deviation 3.5, 200 times.
    assert abs(drawn.mean() - 4) < 1 and drawn.std() > 2.5 and drawn.min() == 1


def test_the_last_symbol_is_held_for_the_least_and_broken_off_at_the_most():
    found = spoken(moving(-9.0, 9.0), min_new_tokens=8)
    assert found.durations.tolist() == [[1, 1, 1, 1, 4]] and found.stopped.all()
    found = spoken(moving(-9.0, 9.0), max_new_tokens=3)
    assert found.durations.tolist() == [[1, 1, 1, 0, 0]] and not found.stopped.any()


def test_rows_of_different_texts_end_with_their_own():
    text = torch.tensor([[1, 5, 6, 7, 2], [1, 5, 2, 0, 0]])
    model = moving(-9.0, 9.0, prepend_bos=True)
    found = model.generate(text, (text > 0).long(), **OPTIONS)
    assert found.durations.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert found.codes_mask.sum(1).tolist() == [5, 3]


def test_after_a_prompt_whose_text_is_known_speech_goes_on_where_that_ends():
    model = moving(-9.0, 9.0)
    known = torch.tensor([[1, 0, 2, 0, 0]])
    found = spoken(model, prompt_codes=codes(1, 3, 3), prompt_durations=known, output_logits=True)
    assert found.durations.tolist() == [[0, 0, 1, 1, 1]]
    whole = model(
        TEXT, labels=found.sequences, durations=found.durations, prompt_codes=codes(1, 3, 3), prompt_durations=known
    )
    torch.testing.assert_close(torch.stack(found.logits, 1)[:, :, 0], whole.logits[:, 2:], atol=2e-5, rtol=1e-4)


# --- what training sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepend_bos", [False, True])
def test_the_loss_is_that_of_codes_and_of_going_on(prepend_bos):
    model = tiny(prepend_bos=prepend_bos, train_stage="ar", advance_loss_weight=0.5)
    labels, prompt = codes(1, 3, 8), codes(1, 3, 2)
    found = model(TEXT, labels=labels, durations=DURATIONS, prompt_codes=prompt)
    first = 1 + prepend_bos
    assert found.logits.shape == (1, 8 + first, 20)
    # Each frame's symbol to the next one's, the one without frames passed over, and in the end past the text.
    moves = torch.tensor([0, 1, 1, 0, 0, 2, 0, 1])
    loss = torch.nn.functional.cross_entropy(found.logits[0, first:], labels[0, 0])
    loss = loss + 0.5 * torch.nn.functional.cross_entropy(found.advance_logits[0, first:], moves)
    torch.testing.assert_close(found.loss, loss)


def test_rows_with_and_without_a_prompt_share_a_batch():
    model = tiny(prepend_bos=True)
    labels, prompt = codes(2, 3, 8), codes(2, 3, 4)
    prompt[0, :, 2:], prompt[1] = NO_CODE, NO_CODE
    both = {"durations": DURATIONS.repeat(2, 1), "level": 1}
    together = model(TEXT.repeat(2, 1), labels=labels, prompt_codes=prompt, **both)
    one = {"durations": DURATIONS, "level": 1}
    losses = [
        model(TEXT, labels=labels[:1], prompt_codes=prompt[:1, :, :2], **one).loss,
        model(TEXT, labels=labels[1:], **one).loss,
    ]
    torch.testing.assert_close(together.loss, torch.stack(losses).mean())


def test_both_transformers_hear_which_symbol_a_frame_says():
    model = tiny()
    inputs = {"input_ids": TEXT, "labels": codes(1, 3, 8), "prompt_codes": codes(1, 3, 2), "level": 1}
    before, after = (model(**inputs, durations=torch.tensor([[2, 1, 3 - late, late, 2]])) for late in (0, 1))
    # The seventh input and the sixth frame are those of which another symbol is said.
    assert torch.equal(before.logits[:, :6], after.logits[:, :6])
    assert not torch.allclose(before.logits[:, 6], after.logits[:, 6])
    assert not torch.allclose(before.nar_logits[0][:, 5], after.nar_logits[0][:, 5])


def test_a_frame_is_told_the_neighbours_of_its_symbol_as_far_as_the_context_goes():
    other = TEXT.clone()
    other[0, 3] = 9
    valid = torch.ones_like(TEXT, dtype=torch.bool)
    for context, told in ((0, [False] * 2), (1, [False, True]), (2, [True, True])):
        aligned = tiny(alignment_context=context).ar.aligned
        same = (aligned(TEXT, valid) == aligned(other, valid)).all(-1)[0]
        assert [not same[place] for place in (1, 2)] == told
        assert same[-1] and not same[3]


def test_hidden_codes_are_hidden_in_training_alone():
    inputs = {"input_ids": TEXT, "durations": DURATIONS, "prompt_codes": codes(1, 3, 2)}
    seen = []
    for training in (True, False):
        model = tiny(code_dropout=0.999999, train_stage="ar").train(training)
        first, second = (model(**inputs, labels=labels).logits for labels in (codes(1, 3, 8), codes(1, 3, 8) * 0))
        seen.append(not torch.equal(first, second))
    assert seen == [False, True]


def test_a_recording_again_by_its_first_codebook():
    model = tiny()
    found = [
        model.continual(TEXT, codes(1, 3, 8), durations=durations)
        for durations in (DURATIONS, torch.tensor([[2, 1, 1, 2, 2]]))
    ]
    assert torch.equal(found[0][:, 0], codes(1, 3, 8)[:, 0, 4:]) and not torch.equal(*found)


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"durations": None}, "give durations: a model with monotonic_alignment"),
        ({"durations": DURATIONS[:, 1:]}, "durations must have the shape of input_ids"),
        ({"durations": DURATIONS.float()}, "durations must be integers"),
        ({"durations": DURATIONS + 1}, "add up to each row's frames; in row 0 they are 13 for 8"),
        ({"durations": torch.tensor([[2, -1, 3, 2, 2]])}, "durations must be 0 or more"),
        ({"durations": torch.tensor([[0, 3, 3, 0, 2]])}, "must give the first symbol a frame"),
        ({"durations": torch.tensor([[6, 0, 0, 0, 2]])}, "row 0 have 3 symbols in a row without a frame"),
        ({"prompt_durations": DURATIONS}, "prompt_durations must add up .* in row 0 they are 8 for 2"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1, 0]])}, "0 on the padding of a text"),
    ],
)
def test_durations_that_cannot_be(arguments, message):
    inputs = {"input_ids": TEXT, "labels": codes(1, 3, 8), "durations": DURATIONS, "prompt_codes": codes(1, 3, 2)}
    with pytest.raises(ValueError, match=message):
        tiny()(**{**inputs, **arguments})


def test_what_generation_refuses():
    with pytest.raises(ValueError, match="advance_threshold must be a probability above 0, or None to draw, got 0"):
        spoken(tiny(), advance_threshold=0)
    # The prompt's text would be said, too.
    with pytest.raises(ValueError, match=r"the texts of rows \[0\] begin with that of their prompt"):
        spoken(tiny(), prompt_text_lengths=torch.tensor([3]))
    plain = TINY_LM["valle"].model()
    with pytest.raises(ValueError, match="durations belong to models with monotonic_alignment"):
        plain(TEXT, labels=codes(1, 3, 8), durations=DURATIONS)
    with pytest.raises(ValueError, match="durations belong to models with monotonic_alignment"):
        plain.generate(TEXT, prompt_codes=codes(1, 3, 2), prompt_durations=DURATIONS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"monotonic_alignment": True}, "needs prefix_mode=4"),
        ({"monotonic_alignment": True, "prefix_mode": 4, "original_loss": True}, "original_loss=False"),
        ({"max_advance": 0}, "max_advance must be at least 1"),
        ({"alignment_context": -1}, "alignment_context and advance_loss_weight must be 0 or more"),
        ({"code_dropout": 1.0}, r"code_dropout in \[0, 1\)"),
    ],
)
def test_configurations_that_cannot_be(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        ValleConfig(**fields)
