"""MusicGen's processor: texts by T5's tokenizer, stereo over a mono codec, melodies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from codec_lm_hf import MusicGenLMForConditionalGeneration, MusicGenLMProcessor
from tests.common.tiny_lm import TINY_LM
from tests.common.tiny_text import tiny_text_encoder, tiny_tokenizer

TEXTS = ["a calm piano tune", "dogs", ""]
GREEDY = {"do_sample": False, "max_new_tokens": 8}


def tone(samples, pitch=440, rate=800, channels=1):
    wave = np.sin(2 * np.pi * pitch * np.arange(samples) / rate).astype(np.float32) * 0.5
    return np.stack([wave * (0.5 if side else 1) for side in range(channels)])


# --- texts -----------------------------------------------------------------------------------------------------------


def test_texts_are_what_the_tokenizer_says_and_an_empty_one_is_masked():
    _, processor = TINY_LM["musicgen"].pair()
    batch = processor(TEXTS)
    expected = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert batch["attention_mask"].sum(1).tolist() == [5, 2, 0]
    for nothing in ("", None, [None]):
        batch = processor(nothing)
        assert batch["input_ids"].tolist() == [[processor.tokenizer.eos_token_id]]
        assert batch["attention_mask"].tolist() == [[0]]


def test_without_a_text_guidance_has_nothing_to_do():
    model, processor = TINY_LM["musicgen"].pair()
    guided, free = (model.generate(**processor(""), **GREEDY, guidance_scale=scale) for scale in (3.0, 1.0))
    assert torch.equal(guided, free)
    assert not torch.equal(guided, model.generate(**processor("dogs"), **GREEDY, guidance_scale=3.0))


@pytest.mark.parametrize("masked", [True, False])
def test_padding_of_texts_counts_as_in_the_original_or_not_at_all(masked):
    model, processor = TINY_LM["musicgen"].pair()
    model.config.mask_text_padding = masked
    logits = [
        model(**processor(texts), labels=torch.zeros(len(texts), 4, 5, dtype=torch.long)).logits
        for texts in (["dogs"], ["dogs", "a calm piano tune"])
    ]
    assert torch.allclose(logits[0][0], logits[1][0], atol=1e-6) == masked


def test_the_text_encoder_is_found_by_its_name_and_is_no_part_of_the_model(tmp_path):
    tiny_text_encoder().save_pretrained(tmp_path / "t5")
    tiny_tokenizer().save_pretrained(tmp_path / "t5")
    model = TINY_LM["musicgen"].model(text_encoder_name=str(tmp_path / "t5"))
    processor = MusicGenLMProcessor.from_config(model.config)
    codes = model.generate(**processor(TEXTS), **GREEDY)
    assert not [name for name in model.state_dict() if "text_encoder" in name]
    model.save_pretrained(tmp_path / "lm")
    processor.save_pretrained(tmp_path / "lm")
    names = {path.name for path in (tmp_path / "lm").iterdir()}
    assert not names & {"text_encoder", "tokenizer.json"}
    loaded = MusicGenLMForConditionalGeneration.from_pretrained(tmp_path / "lm")
    again = AutoProcessor.from_pretrained(tmp_path / "lm")
    assert torch.equal(loaded.generate(**again(TEXTS), **GREEDY), codes)


def test_what_reads_texts_is_missed_by_name():
    with pytest.raises(ValueError, match="this processor has no tokenizer: make it with text_encoder_name="):
        MusicGenLMProcessor()("dogs")
    model = TINY_LM["musicgen"].model(text_encoder_name=None)
    with pytest.raises(ValueError, match="this model has no text encoder: give its configuration a text_encoder_name"):
        model.generate(torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="the text encoder is 16 wide; the model takes 12"):
        model.text_encoder = tiny_text_encoder(16)


# --- stereo ----------------------------------------------------------------------------------------------------------


def test_codebooks_of_stereo_alternate_between_left_and_right():
    _, processor = TINY_LM["musicgen-stereo"].pair()
    waves = [tone(160, channels=2), tone(100, 300, channels=2)]
    codes = processor(["", ""], audio=waves, sampling_rate=800)["prompt_codes"]
    heard = processor.batch_decode(codes)
    for wave, row, decoded in zip(waves, codes, heard, strict=True):
        frames = int((row[0] >= 0).sum())
        for side in range(2):
            alone = torch.from_numpy(wave[None, side : side + 1])
            expected = processor.codec.encode(alone).audio_codes[0]
            assert torch.equal(row[side::2, :frames], expected)
            audio = processor.codec.decode(expected[None]).audio_values[0, 0]
            torch.testing.assert_close(decoded[side], audio)
    assert [wave.shape for wave in heard] == [(2, 160), (2, 112)]
    assert processor.batch_decode(torch.empty(1, 8, 0, dtype=torch.long))[0].shape == (2, 0)
    with pytest.raises(ValueError, match="as many codebooks for each side; got 3"):
        processor.batch_decode(codes[:, :3])


def test_a_stereo_codec_of_a_mono_model_is_refused():
    _, processor = TINY_LM["musicgen"].pair()
    processor.codec.config.audio_channels = 2
    with pytest.raises(ValueError, match="has 2 channels; the language model's audio has 1"):
        processor.codec = processor.codec


# --- melodies --------------------------------------------------------------------------------------------------------


def test_melodies_are_mixed_down_converted_and_masked():
    _, processor = TINY_LM["musicgen-melody"].pair()
    melodies = [tone(1600, 200, 16000), tone(2000, 300, 16000, channels=2), None]
    assert processor(["", "", ""], melody=melodies)["melody_values"].shape == (3, 1, 2000)
    batch = processor(["", "", ""], melody=melodies, sampling_rate=16000)
    assert batch["melody_mask"].sum(1).tolist() == [80, 100, 0]
    inner = slice(20, 80)  # the filter of the conversion rings at both ends
    np.testing.assert_allclose(batch["melody_values"][1, 0, inner], tone(100, 300)[0, inner] * 0.75, atol=0.02)
    assert not batch["melody_values"][2].any()


@pytest.mark.parametrize("frames", [8, 70])
def test_a_batch_of_melodies_plays_what_each_does_alone(frames):
    """Also longer than a window, where each goes round in a circle of its own."""
    model, processor = TINY_LM["musicgen-melody"].pair()
    melodies = [tone(300), tone(500, 330), None]
    together = model.generate(**processor(TEXTS, melody=melodies), do_sample=False, max_new_tokens=frames)
    for row, (text, melody) in enumerate(zip(TEXTS, melodies, strict=True)):
        given = processor(text) if melody is None else processor(text, melody=melody)
        alone = model.generate(**given, do_sample=False, max_new_tokens=frames)
        assert torch.equal(together[row], alone[0])
    assert len({tuple(row.flatten().tolist()) for row in together}) == 3


def test_melodies_that_do_not_fit_are_refused():
    model, processor = TINY_LM["musicgen-melody"].pair()
    with pytest.raises(ValueError, match="melody: 1 for 2 texts"):
        processor(["", ""], melody=tone(100))
    with pytest.raises(ValueError, match="NaN"):
        processor("", melody=tone(100) * np.nan)
    given = processor("", melody=tone(100))
    with pytest.raises(ValueError, match=r"melody_mask \(1, 9\), for 1 rows"):
        model.generate(**{**given, "melody_mask": torch.ones(1, 9)})
    other, _ = TINY_LM["musicgen"].pair()
    with pytest.raises(ValueError, match="takes no melody: its num_chroma is 0"):
        other.generate(**given)
