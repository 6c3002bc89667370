"""Processors of codec language models: texts and prompts in, waveforms out, with a codec or with codes alone."""

from __future__ import annotations

import string

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments

import codec_lm_hf
from codec_lm_hf import ValleConfig, ValleForConditionalGeneration, ValleProcessor
from codec_lm_hf.modeling.lm_base import NO_CODE
from codec_lm_hf.processing.text import graphemes, gruut, ipa, symbol_table
from tests.common.tiny import TINY

TEXTS = ["one two", "Three,  four!"]
BUNDLED = {"num_codebooks": 2, "codebook_size": 1024}


def processor(**fields):
    return ValleProcessor(ValleProcessor.symbols_of(TEXTS), **{**BUNDLED, **fields})


def codes(*lengths):
    return [torch.arange(2 * length).reshape(2, length) for length in lengths]


def speech(seconds=0.3, rate=16000):
    return np.sin(np.arange(int(seconds * rate)) / 20).astype(np.float32) * 0.3


def test_letters():
    assert graphemes(" Three,  Four!\n") == list("three,_four!")
    assert symbol_table(["ba", "ca"]) == ["<pad>", "<bos>", "<eos>", "a", "b", "c"]


def test_transcriptions():
    assert ipa(" tˈu ˌɛks, nˈiːd?") == ["t", "ˈu", "_", "ˌɛ", "k", "s", ",", "_", "n", "ˈiː", "d", "?"]
    ours = ValleProcessor(ValleProcessor.symbols_of(["tˈu"], "ipa"), "ipa")
    assert ours.symbols[3:] == ["_", "t", "ˈu"] and ours("tˈu")["input_ids"].tolist() == [[1, 4, 5, 2]]


def test_phonemes_by_gruut():
    pytest.importorskip("gruut", reason="the package gruut (extra gruut) is missing")
    assert gruut("Two  of 3, isn't it?") == ipa("tˈu əv θɹˈi, ˈɪzənt ˈɪt?")
    assert gruut("blorp")  # not in the lexicon
    assert gruut(" ") == gruut("...") == []
    # Of punctuation what is heard: pauses, and questions.
    marks = [symbol for symbol in gruut('"Wait!" (No...) Two; is it?! 3.') if symbol in string.punctuation]
    assert marks == [",", "_", ",", "_", ",", "_", "_", "?", "_"]


def test_a_stress_that_the_table_lacks_is_another_stress():
    ours = ValleProcessor(ValleProcessor.symbols_of(["ˈɔɪ u"], "ipa"), "ipa")
    assert ours("ˌɔɪ")["input_ids"].tolist() == ours("ˈɔɪ")["input_ids"].tolist() == ours("ɔɪ")["input_ids"].tolist()
    with pytest.raises(ValueError, match=r"symbols \['a', 'ˌɑ'\] are not in this processor's table"):
        ours("aˌɑ")


def test_the_bundled_model_can_say_prose():
    pytest.importorskip("gruut", reason="the package gruut (extra gruut) is missing")
    speaking = AutoProcessor.from_pretrained(codec_lm_hf.bundled("tts"))
    text = "Dr. Smith said: \"the employee's decoy - a £5.20 toy (or two) - has GONE!\" Hasn't it; on 3/4/2024?"
    assert speaking(text)["input_ids"].shape[1] > 80


def test_durations_are_those_of_their_own_text():
    """The border between two texts is the end of the one and the begin of the other."""
    batch = processor()(
        ["two", "one"],
        prompt_text=["one", ""],
        prompt_codes=codes(5, 5),
        target_codes=codes(6, 5),
        durations=[[2, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
        prompt_durations=[[1, 0, 2, 1, 1], []],
    )
    assert batch["durations"].tolist() == [[0, 0, 0, 0, 2, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0, 0]]
    assert batch["prompt_durations"].tolist() == [[1, 0, 2, 1, 1, 0, 0, 0, 0], [0] * 9]
    assert batch["input_ids"].shape == (2, 9)
    assert processor()("one", durations=[1, 2, 3, 4, 5])["durations"].tolist() == [[1, 2, 3, 4, 5]]


def test_a_prompt_s_text_can_stand_before_texts_of_one_word():
    ours = ValleProcessor(ValleProcessor.symbols_of(["one", "two"]), **BUNDLED)
    assert ours("one", prompt_text="two", prompt_codes=codes(3))["input_ids"].shape == (1, 2 + len("two_one"))


def test_texts_and_codes_become_a_batch():
    ours = processor()
    batch = ours(TEXTS, prompt_text=["two", ""], prompt_codes=codes(3, 5), target_codes=codes(4, 2))
    first = batch["input_ids"][0]
    assert [ours.symbols[place] for place in first] == ["<bos>", *"two_one_two", "<eos>"][: len(first)] + ["<pad>"] * (
        len(first) - 13
    )
    assert batch["prompt_text_lengths"].tolist() == [5, 2]
    assert batch["attention_mask"].sum(1).tolist() == [13, 14]
    assert batch["prompt_codes"].shape == (2, 2, 5) and (batch["prompt_codes"][0, :, 3:] == NO_CODE).all()
    assert torch.equal(batch["labels"][0], codes(4)[0]) and (batch["labels"][1, :, 2:] == NO_CODE).all()
    assert set(ours("one")) == {"input_ids", "attention_mask"}


def test_a_batch_of_rows_that_hold_different_things_is_refused():
    """What only some of them hold would be left out, or missed."""
    made = processor()
    rows = [
        {key: value[0] for key, value in made("one two", **given).items()}
        for given in ({}, {"prompt_codes": codes(4)})
    ]
    for order in (rows, rows[::-1]):
        with pytest.raises(
            ValueError, match=r"rows 0 and 1 differ in \['prompt_codes', 'prompt_text_lengths'\]: give"
        ):
            made.pad(order)


def test_it_is_saved_with_its_symbols_and_its_codec_by_name(tmp_path):
    ours = processor(codec_name="bundled:codec", codec_revision="main")
    ours.save_pretrained(tmp_path)
    ValleConfig(**BUNDLED).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is ValleProcessor
    assert loaded.to_dict() == ours.to_dict()
    assert loaded.symbols == ours.symbols and not (tmp_path / "codec").exists()
    # A name that holds on other machines too.
    assert loaded.codec_name == loaded.codec.name_or_path == "bundled:codec"
    assert loaded.codec.config.sampling_rate == 16000


def test_a_codec_without_a_repository_goes_with_it(tmp_path):
    ours = processor()
    ours.codec = AutoModel.from_pretrained(codec_lm_hf.bundled("codec"))
    ours.save_pretrained(tmp_path / "one")
    loaded = ValleProcessor.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    again = ValleProcessor.from_pretrained(tmp_path / "two")
    wave = speech()
    assert torch.equal(again.encode(wave, 16000)[0], ours.encode(wave, 16000)[0])


def test_audio_becomes_codes_and_codes_become_audio():
    ours = processor(codec_name=codec_lm_hf.bundled("codec"))
    waves = [speech(0.3), speech(0.5)]
    batch = ours(TEXTS, audio=waves, sampling_rate=16000)
    assert batch["prompt_codes"].shape[:2] == (2, 2)
    found = ours.batch_decode(batch["prompt_codes"])
    for wave, decoded, row in zip(waves, found, batch["prompt_codes"], strict=True):
        frames = int((row[0] != NO_CODE).sum())
        assert decoded.shape == (1, frames * ours.codec.config.hop_length)
        assert abs(decoded.shape[-1] - len(wave)) <= ours.codec.config.hop_length
        np.testing.assert_array_equal(ours.decode(row[:, :frames]), decoded)
    other_rate = ours("one", audio=speech(0.3, 8000), sampling_rate=8000)
    assert other_rate["prompt_codes"].shape[-1] == batch["prompt_codes"][0, 0].ne(NO_CODE).sum()


@pytest.mark.parametrize(
    "form", [lambda x: x, torch.Tensor.numpy, torch.Tensor.tolist, lambda x: x.numpy().astype(np.uint8)]
)
def test_codes_come_in_any_form(form):
    """As `encode` gives them, as a data set does, or stored in as few bytes as they need."""
    ours = processor(codec_name="bundled:codec")
    rows = codes(3, 5)
    batch = torch.stack([torch.nn.functional.pad(rows[0], (0, 2), value=NO_CODE), rows[1]])
    given = [form(row) for row in rows]
    for row, found, expected in zip(given, ours.batch_decode(given), ours.batch_decode(batch), strict=True):
        assert torch.equal(found, expected) and torch.equal(ours.decode(row), expected)
    assert torch.equal(ours(TEXTS, target_codes=given)["labels"], batch)
    for found, expected in zip(ours.decode(batch), ours.batch_decode(batch), strict=True):
        assert torch.equal(found, expected)
    padded = ours.pad([{"input_ids": [1, 2], "labels": row} for row in given])
    assert torch.equal(padded["labels"], batch) and torch.equal(ours.batch_decode(batch.numpy())[1], expected)


def test_codes_of_no_batch_are_refused():
    ours = processor(codec_name="bundled:codec")
    for rows in ([], [codes(3)[0], codes(3)[0][:1]], [codes(3)[0][None]]):
        with pytest.raises(ValueError, match=r"a list of codes must hold rows \(codebooks, frames\), .* got \["):
            ours.batch_decode(rows)
    with pytest.raises(ValueError, match=r"codes must be integers, got torch.float32"):
        ours.batch_decode([row.float() for row in codes(3, 5)])


@pytest.mark.parametrize(
    ("seconds", "rate", "message"),
    [
        (0.2, 16000, "prompt 0 lasts 0.2 s; .* 0.5 to 1 s .*: give a longer recording"),
        (1.5, 8000, "prompt 0 lasts 1.5 s; .* 0.5 to 1 s .*: cut it, as truncation=True does"),
        (0.7, -1, "sampling_rate=-1 Hz; expected the rate"),
    ],
)
def test_prompts_are_as_long_as_the_model_has_learnt_to_hear(seconds, rate, message):
    ours = processor(codec_name="bundled:codec", prompt_seconds=[0.5, 1.0])
    with pytest.raises(ValueError, match=message):
        ours("one", audio=speech(seconds, abs(rate)), sampling_rate=rate)


def test_longer_prompts_are_cut_where_asked_to():
    with pytest.raises(ValueError, match=r"prompt_seconds must be two numbers, from and to, got \[3, 1\]"):
        processor(prompt_seconds=[3, 1])
    ours, wave = processor(codec_name="bundled:codec", prompt_seconds=[0.5, 1.0]), speech(1.5)
    cut = ours(["one"] * 2, audio=[wave, wave[:12000]], sampling_rate=16000, truncation=True)["prompt_codes"]
    assert torch.equal(cut, ours(["one"] * 2, audio=[wave[:16000], wave[:12000]])["prompt_codes"])


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_codes_of_a_codec_that_normalises_sound_without_its_gains(seconds):
    codec = TINY["encodec-segments"].model()
    ours = processor(codebook_size=codec.config.codebook_size)
    ours.codec = codec
    found = ours.encode(speech(seconds, codec.config.sampling_rate))[0]
    heard = ours.decode(found)
    segments = codec.segments_of(found.shape[-1])
    with torch.no_grad():
        assert torch.equal(heard, codec.decode(found[None], torch.ones(1, segments)).audio_values[0])
    assert (segments == 1) == (seconds < 0.4)


def test_from_a_text_to_a_waveform_and_training_by_the_collator(tmp_path):
    ours = processor(codec_name=codec_lm_hf.bundled("codec"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ValleForConditionalGeneration(ValleConfig(**BUNDLED, **sizes))
    rows = [{key: value[0] for key, value in ours(text, target_codes=codes(9)).items()} for text in TEXTS]
    rows = [{key: row[key] for key in ("input_ids", "labels")} for row in rows]
    arguments = TrainingArguments(
        tmp_path, max_steps=2, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True
    )
    Trainer(model, arguments, train_dataset=rows, data_collator=ours.pad).train()
    batch = ours("one two", audio=speech(), sampling_rate=16000)
    waves = ours.batch_decode(model.eval().generate(**batch, max_new_tokens=5, min_new_tokens=5, seed=0))
    assert waves[0].shape == (1, 5 * ours.codec.config.hop_length) and waves[0].isfinite().all()
    assert ours.batch_decode(torch.empty(1, 2, 0, dtype=torch.long))[0].shape == (1, 0)


def test_a_trainer_saves_it_with_every_checkpoint(tmp_path):
    ours = processor()
    fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(ours.symbols)}
    model = ValleForConditionalGeneration(ValleConfig(**BUNDLED, **fields))
    special = {name: value for name, value in model.config.to_dict().items() if name.endswith("token_id")}
    rows = [{key: value[0] for key, value in ours(text, target_codes=codes(9)).items()} for text in TEXTS]
    arguments = TrainingArguments(tmp_path, max_steps=1, report_to=[], disable_tqdm=True, use_cpu=True)
    trainer = Trainer(model, arguments, ours.pad, rows, processing_class=ours)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert AutoProcessor.from_pretrained(folder).symbols == ours.symbols
    after = model.config.to_dict()
    assert {name: after[name] for name in after if name.endswith("token_id")} == special


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "  "}, "has nothing to say"),
        ({"text": "six"}, r"\['i', 's', 'x'\] are not in this processor's table"),
        ({"text": TEXTS, "prompt_text": ["one"]}, "1 prompt texts for 2 texts"),
        ({"text": TEXTS, "prompt_codes": codes(3)}, "prompt_codes: 1 for 2 texts"),
        ({"text": "one", "prompt_codes": codes(3), "audio": speech()}, "audio or codes, not both"),
        ({"text": "one", "target_codes": [torch.full((2, 3), 5000)]}, "labels must lie in 0..1023"),
        ({"text": "one", "target_codes": [torch.zeros(3, 3, dtype=torch.long)]}, "with 2 codebooks"),
        ({"text": "one", "audio": speech()}, "this processor has no codec"),
        ({"text": "one", "durations": [1, 1, 1]}, r"durations must have \[5\] numbers, .* got \[3\]"),
        ({"text": TEXTS, "durations": [[1] * 9]}, r"durations must have \[9, 14\] numbers"),
        ({"text": "one", "prompt_durations": [1, 1]}, r"prompt_durations must have \[0\] numbers"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processor()(**arguments)


def test_a_codec_that_does_not_fit_is_refused_with_both_sides_figures():
    codec = codec_lm_hf.bundled("codec")
    with pytest.raises(ValueError, match="has 8 codebooks of 1024 entries; the language model takes 9 of 1024"):
        processor(codec_name=codec, num_codebooks=9).codec  # noqa: B018
    with pytest.raises(ValueError, match="takes 2 of 64"):
        processor(codec_name=codec, codebook_size=64).codec  # noqa: B018
    with pytest.raises(ValueError, match="one of 'graphemes', 'phonemes', 'gruut', 'ipa', got 'runes'"):
        processor(frontend="runes")
