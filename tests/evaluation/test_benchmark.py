"""The codec benchmark: what it measures, on codecs whose results are known, and the script as a user runs it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import codec_lm_hf
from codec_lm_hf.evaluation import judges
from codec_lm_hf.evaluation.benchmark import (
    QUALITY_COLUMNS,
    Coded,
    ModelCoder,
    OpusCoder,
    Recording,
    Speaker,
    SpeechJudge,
    digit_strings,
    markdown_table,
    measure_quality,
    read_recordings,
)

from ..common.tiny import TINY
from ..common.tiny_lm import TEXTS, TINY_LM

PROJECT = Path(__file__).parents[2]
SPEECH = Path(codec_lm_hf.__file__).parent / "demo" / "speech.flac"

needs_judges = pytest.mark.skipif(
    not judges.available(),
    reason="the judges are not installed: pip install '.[judge]' && pip install --no-deps resemblyzer==0.1.4",
)
needs_opus = pytest.mark.skipif(
    shutil.which("opusenc") is None or shutil.which("opusdec") is None,
    reason="opusenc and opusdec are not installed: apt install opus-tools",
)


@pytest.fixture(scope="module")
def speech() -> Recording:
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    return Recording("speech.flac", audio[: 3 * rate], rate)


class Attenuator:
    """A codec with known results: half the level, 1 kbps and a quarter more on disk, 10 x and 20 x real time."""

    name = "attenuator"

    def __call__(self, recording: Recording) -> Coded:
        seconds = len(recording.audio) / recording.sampling_rate
        return Coded(0.5 * recording.audio, 1000 * seconds, round(1250 * seconds), seconds / 10, seconds / 20)


def noise(seconds: float, name: str = "noise", rate: int = 16000, **kwargs) -> Recording:
    values = 0.1 * np.random.default_rng(len(name)).standard_normal(round(seconds * rate))
    return Recording(name, values.astype(np.float32), rate, **kwargs)


# --- recordings ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    lines = []
    for place in range(10):
        name = f"{place // 5}_{place}.wav"
        soundfile.write(tmp_path / name, np.full((80, 2), 0.05 * place), 8000, subtype="PCM_16")
        lines.append(json.dumps({"file_name": name, "text": f"text {place}", "speaker": str(place // 5)}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_recordings_carry_text_and_speaker_of_the_metadata(folder):
    recordings = read_recordings(folder)
    assert len(recordings) == 10
    last = recordings[-1]
    assert (last.name, last.text, last.speaker, last.sampling_rate) == ("1_9.wav", "text 9", "1", 8000)
    assert last.audio.shape == (80,) and last.audio[0] == pytest.approx(0.45, abs=1e-4)


def test_a_limit_takes_some_of_every_part(folder):
    assert [recording.name for recording in read_recordings(folder, 4)] == ["0_0.wav", "0_2.wav", "1_5.wav", "1_7.wav"]
    assert len(read_recordings(folder, 99)) == 10
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        read_recordings(folder, 0)


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no audio files; give a folder"):
        read_recordings(tmp_path)


# --- quality -------------------------------------------------------------------------------------------------------


def test_rates_and_speeds_are_sums_over_all_recordings_and_metrics_are_means():
    recordings = [noise(1), noise(3, "longer")]
    row = measure_quality(Attenuator(), recordings, {"length": lambda audio, target, rate: len(audio) / rate})
    assert row["name"] == "attenuator" and row["seconds"] == 4
    assert row["kbps"] == pytest.approx(1) and row["kbps_on_disk"] == pytest.approx(1.25)
    assert row["encode_speed"] == pytest.approx(10) and row["decode_speed"] == pytest.approx(20)
    assert row["log_mel_distance"] == pytest.approx(20 * math.log10(2), abs=0.01)
    assert row["length"] == 2 and [one["length"] for one in row["recordings"]] == [1, 3]


def test_what_cannot_be_measured_is_counted_and_not_averaged():
    row = measure_quality(Attenuator(), [noise(1), noise(0.1, "too short")])
    assert row["not_measured"]["stoi"] == 1 and row["recordings"][1]["stoi"] is None
    assert row["stoi"] == row["recordings"][0]["stoi"]
    only = measure_quality(Attenuator(), [noise(0.1)])
    assert only["stoi"] is None
    json.dumps([row, only], allow_nan=False)


@pytest.mark.parametrize("name", ["stft_codec", "encodec", "encodec-segments"])
def test_a_codec_of_any_rate_and_channels_is_measured_at_the_recordings_own(name, speech):
    model = TINY[name].model().eval()
    for count in (1, model.config.num_codebooks):
        coder = ModelCoder(model, count, name)
        coded = coder(speech)
        assert coded.audio.shape == speech.audio.shape and coded.audio.dtype == np.float32
        assert coder.name == f"{name}, {count} x 64"
        seconds = len(speech.audio) / speech.sampling_rate
        # Segments overlap and the last one is padded, so their codes take a little more.
        expected = count * 6 * model.config.frame_rate * seconds
        assert expected * 0.99 <= coded.payload_bits <= expected * 1.1
        assert coded.payload_bits < coded.disk_bits
        assert coded.encode_seconds > 0 and coded.decode_seconds > 0


def test_the_audio_is_that_of_the_model():
    import torch

    model = TINY["stft_codec"].model().eval()
    recording = noise(1)
    with torch.no_grad():
        expected = model(torch.from_numpy(recording.audio)[None, None], num_quantizers=2).audio_values[0, 0].numpy()
    np.testing.assert_allclose(ModelCoder(model, 2, "tiny")(recording).audio, expected, atol=1e-6)


def test_more_quantizers_than_the_model_has_are_refused():
    with pytest.raises(ValueError, match="tiny has 1 to 4 quantizers, not 5"):
        ModelCoder(TINY["stft_codec"].model(), 5, "tiny")


@needs_opus
def test_opus_is_aligned_and_its_real_rate_is_reported(speech):
    row = measure_quality(OpusCoder(16), [speech])
    assert row["name"] == "Opus at 16 kbps"
    assert 12 < row["kbps"] < row["kbps_on_disk"] < 24
    # A shift by a few milliseconds would leave nothing of this.
    assert row["si_sdr"] > 5 and row["stoi"] > 0.9


def test_missing_programs_are_named_with_the_way_out(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="opusenc and opusdec not found: install opus-tools"):
        OpusCoder(6)


def test_the_table_leaves_out_what_nobody_measured():
    rows = [{"name": "a", "kbps": 4.0, "stoi": 0.91234}, {"name": "b", "kbps": 2.0, "stoi": None}]
    assert markdown_table(rows, QUALITY_COLUMNS).splitlines() == [
        "| codec | kbps | STOI |",
        "| --- | ---: | ---: |",
        "| a | 4.00 | 0.912 |",
        "| b | 2.00 | - |",
    ]


# --- words and voices ----------------------------------------------------------------------------------------------


@needs_judges
@pytest.mark.parametrize(
    ("heard", "text"),
    [
        ("158 pounds and 50 pence.", "one hundred fifty eight pounds and fifty pence"),
        ("£158.50", "one hundred fifty eight pounds and fifty pence"),
        ("091811.", "zero nine one eight one one"),
        ("On October 24th, 1990!", "on october twenty fourth nineteen ninety"),
        ("770-59", "seven seven oh, five nine"),
        ("4,842", "four thousand eight hundred forty two"),
        ("39.2 inches", "thirty nine point two inches"),
        ("9:20 a.m.", "nine twenty a m"),
        ("Don’t stop, 50%?", "don't stop fifty percent"),
    ],
)
def test_a_numeral_counts_as_right_however_it_is_written(heard, text):
    assert judges.word_errors(heard, text) == (0, len(text.split()))


@needs_judges
def test_words_that_sound_as_a_number_does_are_no_errors_by_sound():
    assert judges.word_errors("Ate too on.", "eight two one") == (3, 3)
    assert judges.word_errors("Ate too on.", "eight two one", by_sound=True) == (1, 3)
    assert judges.word_errors("4 U", "for you", by_sound=True) == (1, 2)


@needs_judges
def test_word_errors_are_insertions_deletions_and_substitutions():
    assert judges.word_errors("You the cat sits on a", "The cat sat on a mat.") == (3, 6)
    assert judges.word_errors("", "The cat") == (2, 2)
    assert judges.word_errors("1" * 400, "one") == (399, 1)
    with pytest.raises(ValueError, match="holds no word"):
        judges.word_errors("something", "?!")


def test_a_clip_does_not_vouch_for_its_own_speaker():
    # Two speakers along two axes; clip 2 says it is "b" but sounds like "a".
    originals = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]], float)
    speakers = ["a", "a", "b", "b", "b"]
    assert judges.nearest_speakers(originals, originals, speakers) == ["a", "a", "a", "b", "b"]
    # Resynthesis that turns every voice into "b".
    assert judges.nearest_speakers(np.tile([0.0, 1.0], (5, 1)), originals, speakers) == ["b"] * 5
    assert judges.nearest_speakers(originals[:3], originals[:3], ["a", "a", "b"])[2] is None


@pytest.fixture
def spoken():
    levels = {"a1": 0.1, "a2": 0.2, "b1": 0.4, "b2": 0.44}
    return [
        Recording(name, np.full(8000, level, np.float32), 16000, "one two", name[0]) for name, level in levels.items()
    ]


@needs_judges
def test_the_judge_counts_words_and_speakers(spoken):
    def recognise(audio, rate):
        return "one two" if audio.max() >= 0.1 else "one"

    def embed(audio, rate):
        return np.array([1.0, 0.0]) if audio.max() < 0.25 else np.array([0.0, 1.0])

    judge = SpeechJudge(spoken, recognise, embed)
    originals, coded = judge(None), judge(Attenuator())
    assert (originals["name"], coded["name"]) == ("originals", "attenuator")
    assert (originals["wer"], originals["exact"]) == (0, 1)
    assert (originals["speaker_nearest"], originals["speaker_cosine"]) == (1, 1)
    # At half the level one word of a1 is lost, and both clips of "b" sound like "a".
    assert (coded["wer"], coded["exact"]) == (1 / 8, 3 / 4)
    assert (coded["speaker_nearest"], coded["speaker_cosine"]) == (0.5, 0.5)
    assert [row["nearest_speaker"] for row in coded["recordings"]] == ["a"] * 4
    assert coded["recordings"][0]["heard"] == "one"
    assert coded["kinds"] == {}


@needs_judges
def test_the_judge_tells_kinds_of_texts_apart(spoken):
    kinds = ["digits", "digits", "time", "time"]
    judge = SpeechJudge(
        [dataclasses.replace(one, kind=kind) for one, kind in zip(spoken, kinds, strict=True)],
        lambda audio, rate: "one two" if audio.max() >= 0.4 else "one",
        lambda audio, rate: np.array([1.0]),
    )
    assert judge(None)["kinds"] == {"digits": 0.5, "time": 0.0}


def test_a_model_says_texts_in_voices_of_other_recordings(spoken):
    model, processor = TINY_LM["valle-monotonic"].pair()
    heard, whole = [], model.generate

    def generate(**given):
        heard.append((given["prompt_codes"].shape[-1], given["seed"]))
        return whole(**given)

    model.generate = generate
    speaker = Speaker(model, processor, spoken, 0.2, "tiny", seed=3, max_new_tokens=6)
    text = TEXTS[0]
    said = [speaker(dataclasses.replace(one, text=text)) for one in spoken]
    assert [one.seconds for one in said] == [6 / 50] * 4 and all(len(one.audio) == 0.12 * 16000 for one in said)
    # A fifth of a second of 50 frames.
    assert heard == [(10, 3), (10, 4), (10, 5), (10, 6)]
    assert {name: prompt.name for name, prompt in speaker.prompts.items()} == {
        "a1": "a2",
        "a2": "a1",
        "b1": "b2",
        "b2": "b1",
    }
    with pytest.raises(ValueError, match="'a' has one recording only"):
        Speaker(model, processor, spoken[:1], 0.2, "tiny")


def test_strings_of_digits_in_the_voices_of_recordings(spoken):
    strings = digit_strings(spoken, 9)
    assert [one.speaker for one in strings] == [*"aabb"] * 2 + ["a"] and {one.kind for one in strings} == {"digits"}
    assert strings[4].audio is spoken[0].audio and len({one.name for one in strings}) == 9
    said = [one.text.split() for one in digit_strings(spoken, 200)]
    assert {word for words in said for word in words} == set(judges.DIGITS)
    assert {len(words) for words in said} == {3, 4, 5, 6, 7}
    assert digit_strings(spoken, 9)[3].text == strings[3].text != digit_strings(spoken, 9, seed=1)[3].text


def test_words_and_voices_need_a_transcript(spoken):
    with pytest.raises(ValueError, match="noise has no text or no speaker.*metadata.jsonl"):
        SpeechJudge([*spoken, noise(1)], None, None)


@needs_judges
def test_the_real_judges_hear_words_voice_and_damage(speech):
    heard = judges.Recogniser()(speech.audio, speech.sampling_rate)
    assert len(heard.split()) >= 4
    embed = judges.SpeakerEncoder()
    voice = embed(speech.audio, speech.sampling_rate)
    assert voice.shape == (256,) and np.linalg.norm(voice) == pytest.approx(1, abs=1e-5)
    rest, rate = soundfile.read(SPEECH, dtype="float32", start=len(speech.audio))
    assert voice @ embed(rest, rate) > voice @ embed(noise(3).audio, 16000) + 0.1
    assert np.isfinite(embed(np.zeros(16000, np.float32), 16000)).all()
    visqol = judges.Visqol()
    noisy = speech.audio + 0.01 * np.random.default_rng(0).standard_normal(len(speech.audio)).astype(np.float32)
    same, worse = (visqol(audio, speech.audio, speech.sampling_rate) for audio in (speech.audio, noisy))
    assert same > 4 > worse >= 1
    assert math.isnan(visqol(speech.audio[:800], speech.audio[:800], speech.sampling_rate))


@pytest.mark.parametrize(
    ("judge", "package", "way"),
    [
        (judges.Visqol, "visqol", r"pip install 'codec-lm-hf\[judge\]'"),
        (judges.Recogniser, "moonshine_voice", r"pip install 'codec-lm-hf\[judge\]'"),
        (
            judges.SpeakerEncoder,
            "resemblyzer",
            r"pip install 'codec-lm-hf\[judge\]' && pip install --no-deps resemblyzer",
        ),
        (lambda: judges.word_errors("a", "a"), "jiwer", r"pip install 'codec-lm-hf\[judge\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(judge, package, way, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"{package}: {way}"):
        judge()


# --- the script ----------------------------------------------------------------------------------------------------


def test_the_script_writes_a_report_and_a_table(tmp_path, speech):
    TINY["stft_codec"].model().save_pretrained(tmp_path / "tiny")
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.flac", speech.audio[:24000], speech.sampling_rate)
    command = [sys.executable, PROJECT / "benchmarks/codec_quality.py", tmp_path / "clips", "--output", "report.json"]
    command += ["--codec", f"{tmp_path / 'tiny'}:4,1", "--codec", tmp_path / "tiny"]
    # Without any program on the path Opus is left out, and the script says so.
    environment = os.environ | {"PATH": "", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    # Without numbers: every rate that the codec was made for.
    assert [row["name"] for row in report["quality"]] == [f"tiny, {count} x 64" for count in (4, 1, 4, 3, 2, 1)]
    assert report["quality"][0]["kbps"] == pytest.approx(4 * 6 * 50 / 1000)
    assert "| tiny, 4 x 64 | 1.20 |" in run.stdout
    assert "left out: Opus: opusenc and opusdec not found" in run.stdout
