"""Audio files in and out."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import soundfile

from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.processing.audio import (
    EXTENSIONS,
    AudioFileError,
    audio_files,
    load_audio,
    open_audio,
    read_blocks,
    save_audio,
    to_format,
)


def tone(samples=4800, channels=1):
    return np.stack([0.5 * np.sin(np.arange(samples) * 0.05 * (1 + channel)) for channel in range(channels)])


@pytest.mark.parametrize("suffix", EXTENSIONS)
def test_every_format_comes_back(suffix, tmp_path):
    path = tmp_path / f"tone{suffix}"
    save_audio(path, tone(), 48000)
    audio, rate = load_audio(path)
    assert (audio.dtype, audio.shape[0], rate) == (np.float32, 1, 48000)
    lossless = suffix not in (".ogg", ".oga", ".mp3", ".opus")
    assert audio.shape[1] == 4800 or not lossless
    assert np.abs(audio[:, :4000] - tone()[:, :4000]).max() < (1e-4 if lossless else 0.2)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("container", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("FLAC", "PCM_16")])
def test_blocks_are_what_one_read_gives(container, subtype):
    """Also of MP3 files at few kbps, whose frames hold parts of many later ones."""
    speech, rate = soundfile.read(SPEECH)
    data = io.BytesIO()
    with soundfile.SoundFile(data, "w", rate, 1, subtype, format=container, compression_level=0.99) as file:
        file.write(speech)
    data.seek(0)
    whole, _ = soundfile.read(data, dtype="float32")
    data.seek(0)
    with open_audio(data, "speech") as file:
        blocks = list(read_blocks(file, rate))
    assert len(blocks) > 2
    np.testing.assert_allclose(np.concatenate(blocks, axis=1)[0], whole, atol=1e-6)


def test_rate_and_channels_are_converted_on_request(tmp_path):
    path = tmp_path / "tone.wav"
    save_audio(path, tone(channels=2), 48000)
    mono, rate = load_audio(path, 16000, 1)
    assert mono.shape == (1, 1600) and rate == 16000
    stereo, _ = to_format(mono, 16000, None, 2)
    np.testing.assert_array_equal(stereo[0], stereo[1])
    assert load_audio(io.BytesIO(path.read_bytes()), channels=1)[0].shape == (1, 4800)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.wav cannot be read as audio"),
        (b"RIFF1234WAVE", "x.wav cannot be read as audio"),
        (b"not audio at all", r"x.wav cannot be read as audio: Format not recognised\.$"),
    ],
)
def test_what_is_no_audio_file_is_named(content, message, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match=message):
        load_audio(path)


def test_missing_and_empty_files_and_too_many_channels(tmp_path):
    with pytest.raises(AudioFileError, match=r"there is no file .*none\.wav\."):
        load_audio(tmp_path / "none.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(AudioFileError, match="empty.wav holds no samples"):
        load_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "one.wav", np.zeros(1), 48000)
    assert load_audio(tmp_path / "one.wav")[0].shape == (1, 1)
    with pytest.raises(AudioFileError, match="one.wav holds no samples at 16000 Hz"):
        load_audio(tmp_path / "one.wav", 16000)
    soundfile.write(tmp_path / "three.wav", np.zeros((9, 3)), 16000)
    with pytest.raises(AudioFileError, match="three.wav has 3 channels; expected 2. Mix it down first"):
        load_audio(tmp_path / "three.wav", channels=2)


def test_minutes_of_audio_are_written_in_pieces(tmp_path, monkeypatch):
    """In one, libsndfile's Vorbis encoder overruns the stack and ends the program."""
    written, write = [], soundfile.SoundFile.write

    def counting(file, data):
        written.append(len(data))
        write(file, data)

    monkeypatch.setattr(soundfile.SoundFile, "write", counting)
    save_audio(tmp_path / "long.ogg", np.zeros((2, 300000)), 8000)
    assert sum(written) == 300000 and max(written) <= 1 << 16
    assert load_audio(tmp_path / "long.ogg")[0].shape == (2, 300000)


def test_a_length_that_the_header_leaves_open_is_refused(tmp_path):
    """As FLAC from a pipe has it: the last 36 bits of these eight bytes are the number of samples."""
    path = tmp_path / "piped.flac"
    save_audio(path, tone(), 16000)
    data = bytearray(path.read_bytes())
    data[18:26] = (int.from_bytes(data[18:26], "big") >> 36 << 36).to_bytes(8, "big")
    path.write_bytes(data)
    with pytest.raises(AudioFileError, match="piped.flac does not say how long it is, as FLAC files from a pipe"):
        load_audio(path)


@pytest.mark.parametrize("name", ["none/x.wav", "x.unknown", "folder.wav"])
def test_what_cannot_be_written_leaves_no_half_file(name, tmp_path):
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AudioFileError, match="x.wav cannot|folder.wav cannot|unknown audio format '.unknown'; choose"):
        save_audio(tmp_path / name, tone(), 16000)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_there_stays_if_the_new_one_fails(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(b"old")
    with pytest.raises(AudioFileError, match="x.wav cannot be written"):
        save_audio(path, tone(), -1)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_audio_files_are_found_at_any_depth_but_for_hidden_ones(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    for name in ("b.WAV", "deep/a.flac", "notes.txt", "._b.WAV", ".cache/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in audio_files(tmp_path)] == ["b.WAV", "a.flac"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="links and pipes as Unix has them")
def test_links_to_folders_are_followed_once_and_pipes_are_no_files(tmp_path):
    corpus, folder = tmp_path / "corpus", tmp_path / "in"
    for place in (corpus, folder / "own"):
        place.mkdir(parents=True)
        (place / "a.wav").touch()
    os.mkfifo(folder / "pipe.wav")
    for name, target in {
        "linked": corpus,
        "own/back": folder,
        "gone.wav": "nowhere",
        ".hidden": corpus,
        "one.wav": corpus / "a.wav",
    }.items():
        (folder / name).symlink_to(target)
    (corpus / "across").symlink_to(folder)
    found = [path.relative_to(folder).as_posix() for path in audio_files(folder)]
    assert found == ["gone.wav", "linked/a.wav", "one.wav", "own/a.wav"]
