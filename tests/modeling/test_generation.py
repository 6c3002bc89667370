"""The loop of `generate`: what each slot's scores depend on, and music longer than a window."""

from __future__ import annotations

import pytest
import torch
from transformers.generation import logits_process as processors

from codec_lm_hf.modeling import code_patterns
from tests.common.tiny_lm import TINY_LM, random_codes, rows

FLOATS = {"atol": 1e-5, "rtol": 1e-5}
DETAILS = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


def inputs_of(name, model, prompts=(3, 3, 3)):
    case = TINY_LM[name]
    given, _ = case.prompts(case.batch([9, 9, 9]))
    given["prompt_codes"] = random_codes(model.config, list(prompts))
    return given


# --- scores ----------------------------------------------------------------------------------------------------------


def speech_before_each_step(model, prompt, found):
    """The only slot's codes. The prompt, another utterance, is not among them."""
    for row, codes in enumerate(found.sequences):
        for step in range(int(found.codes_mask[row].sum())):
            yield row, 0, step, codes[0, :step]


def music_before_each_step(model, prompt, found):
    """Each slot's codes, those of the prompt too, and what stands in empty places."""
    codes = torch.cat([prompt, found.sequences], dim=-1)
    pattern = code_patterns.delay(codes.shape[-1], model.config.delays)
    first = pattern.first_step(prompt.shape[-1])
    for row, sequence in enumerate(pattern.build(codes, model.config.special_id)):
        for slot, ids in enumerate(sequence):
            for step in range(len(found.scores)):
                yield row, slot, step, ids[: first + step]


HISTORIES = {"valle": speech_before_each_step, "musicgen": music_before_each_step}
SAMPLING = {"do_sample": True, "seed": 3, "max_new_tokens": 12, "guidance_scale": 1.0, "top_k": 0}


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"min_p": 0.6}, lambda: processors.MinPLogitsWarper(0.6)),
        ({"top_k": 4}, lambda: processors.TopKLogitsWarper(4)),
        ({"top_p": 0.4}, lambda: processors.TopPLogitsWarper(0.4)),
        ({"typical_p": 0.4}, lambda: processors.TypicalLogitsWarper(0.4)),
        ({"epsilon_cutoff": 0.04}, lambda: processors.EpsilonLogitsWarper(0.04)),
        ({"temperature": 0.3}, lambda: processors.TemperatureLogitsWarper(0.3)),
        ({"repetition_penalty": 1.7}, lambda: processors.RepetitionPenaltyLogitsProcessor(1.7)),
        ({"no_repeat_ngram_size": 1}, lambda: processors.NoRepeatNGramLogitsProcessor(1)),
        ({"no_repeat_ngram_size": 2}, lambda: processors.NoRepeatNGramLogitsProcessor(2)),
        ({"suppress_tokens": [3, 4]}, lambda: processors.SuppressTokensLogitsProcessor([3, 4])),
        ({"bad_words_ids": [[5], [1, 2]]}, lambda: processors.NoBadWordsLogitsProcessor([[5], [1, 2]])),
        ({"sequence_bias": {(7,): 2.0}}, lambda: processors.SequenceBiasLogitsProcessor({(7,): 2.0})),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_scores_of_a_slot_depend_on_its_own_past(name, options, expected):
    model = TINY_LM[name].model()
    given = inputs_of(name, model)
    found, prompt = model.generate(**given, **{**SAMPLING, **options}, **DETAILS), given["prompt_codes"]
    checked = changed = 0
    for row, slot, step, history in HISTORIES[name](model, prompt, found):
        logits, scores = found.logits[step][row, slot], found.scores[step][row, slot]
        alone = torch.nn.functional.pad(logits, (0, 1), value=-torch.inf)  # the id of empty places
        alone = expected()(history[None], alone[None])[0, : len(logits)]
        torch.testing.assert_close(scores, alone, **FLOATS)
        checked, changed = checked + 1, changed + (not torch.equal(scores, logits))
    assert checked > 20 and changed


def test_nothing_is_said_twice_in_a_codebook():
    model = TINY_LM["musicgen"].model()
    codes = model.generate(**inputs_of("musicgen", model), do_sample=False, max_new_tokens=15, no_repeat_ngram_size=1)
    assert all(len(set(slot.tolist())) == 15 for row in codes for slot in row)


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["musicgen", "musicgen-melody"])
def test_windows_are_what_prompts_make_by_hand(name):
    """45 frames in windows of 20: each goes on from the last 8 of the one before, under its part of the melody."""
    model = TINY_LM[name].model()
    given = inputs_of(name, model)
    del given["prompt_codes"]
    windows = {"window": 20, "stride": 12}
    found = model.generate(**given, do_sample=False, max_new_tokens=45, **windows)
    melody, by_hand = given.pop("melody_values", None), torch.empty(3, 4, 0, dtype=torch.long)
    for start, new in [(0, 20), (12, 12), (24, 12), (36, 1)]:
        prompt = {} if start == 0 else {"prompt_codes": by_hand[..., start:]}
        if melody is not None:
            prompt["melody_values"] = model._melody_from(melody, start, 20)
        by_hand = torch.cat([by_hand, model.generate(**given, **prompt, do_sample=False, max_new_tokens=new)], dim=-1)
    assert torch.equal(found, by_hand)


def test_of_a_long_prompt_the_end_is_heard():
    model = TINY_LM["musicgen"].model()
    given = inputs_of("musicgen", model, prompts=(30, 30, 30))
    windows = {"do_sample": False, "window": 20, "stride": 12}
    found = model.generate(**given, max_new_tokens=9, **windows)
    # Windows begin at 0, 12, 24: the second one has two frames to add, the third the rest.
    prompt = given.pop("prompt_codes")
    first = model.generate(**given, prompt_codes=prompt[..., 12:], do_sample=False, max_new_tokens=2)
    codes = torch.cat([prompt, first], dim=-1)
    second = model.generate(**given, prompt_codes=codes[..., 24:], do_sample=False, max_new_tokens=7)
    assert torch.equal(found, torch.cat([first, second], dim=-1))


@pytest.mark.parametrize("windows", [{}, {"window": 12, "stride": 7}], ids=["whole", "windows"])
@pytest.mark.parametrize("name", ["musicgen", "musicgen-stereo", "musicgen-melody"])
def test_rows_of_other_prompts_play_what_each_plays_alone(name, windows):
    """Up to the last codebook of the last frame, beside which nothing stands there."""
    torch.manual_seed(1)
    model = TINY_LM[name].model_class(TINY_LM[name].config()).eval()
    given = inputs_of(name, model, prompts=(3, 9, 1))
    options = {"do_sample": False, "max_new_tokens": 8, **windows}
    together = model.generate(**given, **options)
    for row in range(3):
        assert torch.equal(model.generate(**rows(given, row), **options)[0], together[row])


class _After:
    """Stops all rows after so many calls."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, ids, scores, **kwargs):
        self.calls -= 1
        return torch.full((len(ids),), self.calls <= 0)


class _Heard(list):
    """A streamer that keeps what it gets."""

    put = list.append

    def end(self):
        pass


@pytest.mark.parametrize("calls", [14, 15, 16])
def test_whoever_stops_a_window_keeps_the_frames_before_it(calls):
    """The first has 12 frames, 9 of them new, in 12 steps; the next one begins in the middle of its last frames."""
    model, heard = TINY_LM["musicgen"].model(), _Heard()
    given = inputs_of("musicgen", model)
    options = {"do_sample": False, "max_new_tokens": 20, "window": 12, "stride": 7}
    found = model.generate(**given, **options, stopping_criteria=[_After(calls)], streamer=heard)
    assert found.shape[-1] == {14: 9, 15: 9, 16: 10}[calls]
    assert torch.equal(torch.cat(heard, dim=-1), found)
    assert torch.equal(found, model.generate(**given, **options)[..., : found.shape[-1]])


def test_no_step_looks_further_back_than_its_window():
    model, lengths = TINY_LM["musicgen"].model(), []
    model.transformer.register_forward_hook(
        lambda _, args, given, __: lengths.append(given["past_key_values"].get_seq_length()), with_kwargs=True
    )
    given = inputs_of("musicgen", model)
    model.generate(**given, do_sample=False, max_new_tokens=60, window=20, stride=12)
    # What stands before the first code, and the delay of the last codebook.
    assert len(lengths) > 60 and max(lengths) <= 20 + max(model.config.delays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 21}, "stride must be in 1..20, the window; got 21"),
        ({"stride": 0}, "stride must be in 1..20"),
        ({"stride": 12.5}, "stride must be a whole number of frames, got 12.5"),
        ({"prompt_codes": torch.zeros(2, 4, 3, dtype=torch.long)}, "prompt_codes has 2 rows, the text 3"),
        ({"prompt_codes": torch.full((3, 4, 3), 20)}, "prompt_codes must lie in 0..19"),
    ],
)
def test_windows_and_prompts_that_cannot_be(options, message):
    model = TINY_LM["musicgen"].model()
    with pytest.raises(ValueError, match=message):
        model.generate(**{**inputs_of("musicgen", model), "window": 20, "stride": 12, **options})
