"""Recordings into batches, and every refusal with the value, the expectation and a way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lm_hf import CodecFeatureExtractor

MONO, STEREO = CodecFeatureExtractor(1, 16000), CodecFeatureExtractor(2, 16000)


def tone(samples, channels=None):
    wave = 0.5 * np.sin(np.arange(samples) / 9)
    return wave if channels is None else np.stack([wave] * channels)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=4), stereo=st.booleans())
def test_a_batch_holds_every_recording_at_the_left_and_says_where_it_ends(lengths, stereo):
    recordings = [tone(length, 2 if stereo else None) for length in lengths]
    batch = (STEREO if stereo else MONO)(recordings, sampling_rate=16000, return_tensors="pt")
    assert batch["input_values"].shape == (len(lengths), 1 + stereo, max(lengths))
    assert batch["input_values"].dtype == torch.float32
    for row, (recording, length) in enumerate(zip(recordings, lengths, strict=True)):
        assert batch["padding_mask"][row].tolist() == [1] * length + [0] * (max(lengths) - length)
        np.testing.assert_array_equal(batch["input_values"][row, :, :length], np.atleast_2d(recording).astype("f4"))
        assert not batch["input_values"][row, :, length:].any()


@pytest.mark.parametrize(
    "form", [lambda x: x, lambda x: x.tolist(), lambda x: [x], torch.from_numpy, lambda x: x[None]]
)
def test_one_recording_comes_in_any_form(form):
    batch = MONO(form(tone(300)), sampling_rate=16000, return_tensors="np")
    assert batch["input_values"].shape == (1, 1, 300)


def test_cutting_and_padding_to_a_length():
    batch = MONO([tone(300), tone(100)], padding="max_length", max_length=200, truncation=True, return_tensors="np")
    assert batch["input_values"].shape == (2, 1, 200)
    assert batch["padding_mask"].sum(1).tolist() == [200, 100]
    assert MONO([tone(300), tone(100)], padding=None)["padding_mask"].sum(1).tolist() == [300, 100]
    assert MONO(tone(300), pad_to_multiple_of=320, return_tensors="np")["input_values"].shape == (1, 1, 320)


def test_another_rate_is_converted_where_it_is_asked_for():
    batch = MONO(tone(4800), sampling_rate=48000, resample=True, return_tensors="pt")
    assert batch["input_values"].shape == (1, 1, 1600)


@pytest.mark.parametrize(
    ("extractor", "audio", "options", "message"),
    [
        (MONO, np.zeros(0), {}, "recording 0 holds no samples; leave it out"),
        (MONO, [tone(5), np.zeros(0)], {}, "recording 1 holds no samples"),
        (MONO, [], {}, "empty list; give at least one recording"),
        (MONO, np.array([0.0, np.nan]), {}, "recording 0 holds NaN or infinite samples; clean it first"),
        (MONO, [tone(5), np.array([0.0, -np.inf])], {}, "recording 1 holds NaN or infinite"),
        (MONO, tone(9), {"sampling_rate": 44100}, "sampling_rate=44100 Hz, but .* 16000 Hz; pass resample=True"),
        (MONO, tone(9, 2), {}, r"recording 0 has 2 channels; this codec takes 1: average its channels"),
        (STEREO, tone(9), {}, r"recording 0 has 1 channels; this codec takes 2: repeat it"),
        (STEREO, tone(9, 3), {}, "recording 0 has 3 channels; this codec takes 2"),
        (MONO, tone(9, 5).T, {}, "recording 0 has 9 channels; this codec takes 1"),
        (MONO, tone(900, 2).T, {}, r"It looks like \(samples, channels\): transpose it"),
        (MONO, np.zeros((1, 1, 9)), {}, r"recording 0 has shape \(1, 1, 9\); expected \(samples,\)"),
        (MONO, np.array(0.5), {}, r"recording 0 has shape \(\)"),
        (MONO, (tone(9) * 32767).astype(np.int16), {}, "recording 0 is int16; .* divide 16-bit samples by 32768"),
        (MONO, tone(99) * 32767, {}, r"recording 0 peaks at 16\d\d\d; expected floats in \[-1, 1\]"),
        (MONO, np.array(["a"]), {}, "recording 0 is <U1; expected floats"),
        (MONO, tone(9), {"sampling_rate": 0}, "sampling_rate=0 Hz"),
        (MONO, tone(9), {"sampling_rate": 0, "resample": True}, "sampling_rate=0 Hz"),
        (MONO, tone(9), {"sampling_rate": -8000, "resample": True}, "sampling_rate=-8000 Hz"),
    ],
)
def test_what_is_no_audio_is_refused(extractor, audio, options, message):
    with pytest.raises(ValueError, match=message):
        extractor(audio, **options)


@pytest.mark.parametrize("name", ["sample_rate", "resmaple", "return_attention_mask"])
def test_an_argument_that_there_is_not_is_refused(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        MONO(tone(9), **{name: 44100})


def test_a_hot_recording_is_taken():
    assert MONO(tone(9) * 3, return_tensors="pt")["input_values"].abs().max() > 1
