"""Recordings in, crops out: whatever the files are, and the same ones again for the same seed and epoch."""

from __future__ import annotations

import itertools
import json
import logging

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from codec_lm_hf.processing.audio import AudioFileError
from codec_lm_hf.training.data import (
    Augmentation,
    ClipDataset,
    CropDataset,
    Noise,
    StreamCropDataset,
    collate,
    find_recordings,
    recordings_of,
)
from tests.training.helpers import write_noise, write_recordings

RATE = 16000


def tone(seconds=1.0, rate=RATE, hertz=440.0, level=0.3):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def mixed(tmp_path):
    """Readable files of several formats, and four that are none."""
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    soundfile.write(tmp_path / "b.flac", np.stack([tone(1.5, 44100), -tone(1.5, 44100)], 1), 44100)
    soundfile.write(tmp_path / "c.ogg", tone(0.5, 8000), 8000)
    (tmp_path / "text.wav").write_text("not audio")
    whole = (tmp_path / "b.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[:20])
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    broken = tone()
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    return tmp_path


def test_bad_files_are_counted_and_named_and_the_others_used(mixed, caplog):
    with caplog.at_level(logging.WARNING):
        data = CropDataset(find_recordings(mixed), RATE, 1, 4000)
    assert [name.rsplit("/")[-1] for name in data.bad] == ["cut.flac", "empty.wav", "nan.wav", "text.wav"]
    assert "4 of 7 files could not be read" in caplog.text
    for name in data.bad:
        assert name in caplog.text
    assert len(data.recordings) == 3


@pytest.mark.parametrize("snr", [0.0, 10.0])
def test_noise_lies_under_a_crop_at_the_ratio_asked_for_and_not_in_the_target_of_its_share(tmp_path, snr):
    recordings = find_recordings(write_recordings(tmp_path / "speech", 4))
    noise = Noise(find_recordings(write_noise(tmp_path / "noise")), RATE, 1, (snr, snr), denoise_share=0.5)
    crops = CropDataset(recordings, RATE, 1, 3200, noise=noise)
    items = [crops[index] for index in range(8)]
    assert {bool(item["denoise"]) for item in items} == {True, False}
    for item in items:
        under = item["input_values"] - item["target_values"]
        if item["denoise"]:
            ratio = item["target_values"].square().mean() / under.square().mean()
            assert 10 * ratio.log10() == pytest.approx(snr, abs=1e-3)
        else:
            assert not under.any()
    batch = collate(items[:3])
    assert batch["target_values"].shape == batch["input_values"].shape and batch["denoise"].shape == (3,)


def test_a_share_that_is_none_is_refused(tmp_path):
    recordings = find_recordings(write_noise(tmp_path / "noise"))
    with pytest.raises(ValueError, match=r"denoise_share must be between 0 and 1, got 1\.5"):
        Noise(recordings, RATE, 1, denoise_share=1.5)


def test_only_bad_files_is_an_error(tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(AudioFileError, match="none of the 1 files"):
        CropDataset(find_recordings(tmp_path), RATE, 1, 4000)


def test_every_rate_becomes_the_codec_rate(mixed):
    lengths = [audio.shape[-1] for audio in CropDataset(find_recordings(mixed), RATE, 1, 4000).recordings]
    assert lengths == [RATE, pytest.approx(1.5 * RATE, abs=2), pytest.approx(0.5 * RATE, abs=2)]


def test_resampling_keeps_the_pitch(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0, 44100, 1000.0), 44100)
    (audio,) = CropDataset(find_recordings(tmp_path), RATE, 1, 4000).recordings
    spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[-1])))
    assert np.argmax(spectrum) * RATE / audio.shape[-1] == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("channels", [1, 2])
def test_channels_become_those_of_the_codec(tmp_path, channels):
    soundfile.write(tmp_path / "mono.wav", tone(), RATE)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(), 0 * tone()], 1), RATE)
    mono, stereo = CropDataset(find_recordings(tmp_path), RATE, channels, 4000).recordings
    assert mono.shape == stereo.shape == (channels, RATE)
    loudest = [int(np.abs(row).max()) for row in stereo]
    assert loudest == (
        [pytest.approx(0.15 * 32768, rel=0.01)] if channels == 1 else [pytest.approx(9830, rel=0.01), 0]
    )


def test_metadata_chooses_the_files(tmp_path):
    write_recordings(tmp_path, 3)
    rows = [{"file_name": "2.wav", "text": "two"}, {"file_name": "0.wav"}, {"file_name": "missing.wav"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert [path.name for path in find_recordings(tmp_path)] == ["2.wav", "0.wav", "missing.wav"]
    data = CropDataset(find_recordings(tmp_path), RATE, 1, 3200)
    assert len(data.recordings) == 2 and data.bad == [str(tmp_path / "missing.wav")]


@pytest.mark.parametrize("line", ['{"name": "0.wav"}', '{"file_name": "0.wav"', '["0.wav"]'])
def test_broken_metadata_is_named_with_its_line(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.wav"}\n' + line)
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2.*file_name"):
        find_recordings(tmp_path)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_audio_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / name)):
        find_recordings(tmp_path / name)


def test_crops_are_a_function_of_seed_epoch_and_index(tmp_path):
    folder = write_recordings(tmp_path, 3, seconds=1.0)

    def crop(seed, epoch, index):
        data = CropDataset(find_recordings(folder), RATE, 1, 3200, Augmentation((-30, -10)), seed)
        data.set_epoch(epoch)
        for other in (2, 0, 1):
            data[other]
        return data[index]["input_values"]

    assert torch.equal(crop(0, 3, 1), crop(0, 3, 1))
    for other in ((1, 3, 1), (0, 4, 1), (0, 3, 2)):
        assert not torch.equal(crop(0, 3, 1), crop(*other))


def test_an_epoch_is_about_all_of_the_audio(tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(3.1), RATE)
    soundfile.write(tmp_path / "short.wav", tone(0.1), RATE)
    data = CropDataset(find_recordings(tmp_path), RATE, 1, RATE, repeat=2)
    assert list(data.owner) == [0] * 6 + [1] * 2
    assert data[7]["input_values"].shape == (1, RATE)
    assert not data[7]["input_values"][:, 1600:].any()


def test_crops_come_from_the_whole_recording(tmp_path):
    ramp = np.arange(RATE) / RATE - 0.5
    soundfile.write(tmp_path / "ramp.wav", ramp, RATE)
    data = CropDataset(find_recordings(tmp_path), RATE, 1, RATE - 4)
    starts = set()
    for epoch in range(60):
        data.set_epoch(epoch)
        starts.add(round(float(data[0]["input_values"][0, 0] + 0.5) * RATE))
    assert starts == {0, 1, 2, 3, 4}


def test_loudness_is_drawn_between_the_limits_and_never_clips():
    quiet = tone(level=0.01)[None].astype(np.float32)
    levels = []
    for seed in range(50):
        audio = Augmentation((-40, -20))(quiet, np.random.default_rng(seed))
        levels.append(20 * np.log10(np.sqrt(np.mean(audio**2))))
    assert -40 <= min(levels) < -37 and -23 < max(levels) <= -20
    spiky = np.zeros((1, 1000), np.float32)
    spiky[0, 500] = 0.5
    assert np.abs(Augmentation((-3, -3))(spiky, np.random.default_rng(0))).max() == pytest.approx(0.95)
    silence = np.zeros((1, 1000), np.float32)
    assert not Augmentation((-20, -10))(silence, np.random.default_rng(0)).any()


def test_clips_are_whole_and_collate_masks_their_padding(tmp_path):
    for name, seconds in (("a", 0.5), ("b", 0.2), ("c", 2.0)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds), RATE)
    data = ClipDataset(find_recordings(tmp_path), RATE, 1, RATE)
    assert [clip["input_values"].shape[-1] for clip in data] == [8000, 3200, 16000]
    batch = collate([data[0], data[1]])
    assert batch["input_values"].shape == (2, 1, 8000)
    assert batch["padding_mask"].sum(-1).tolist() == [8000, 3200]
    assert not batch["input_values"][1, :, 3200:].any()
    assert "padding_mask" not in collate([data[0], data[0]])


# --- data sets of the datasets library -----------------------------------------------------------------------------


@pytest.fixture
def parquet(mixed, tmp_path, monkeypatch):
    """A data set as the Hub stores it: files' bytes in parquet; of five rows one is no audio and one is missing."""
    # datasets waits five seconds at the end of every pass over streamed parquet.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    names = ["a.wav", "b.flac", "c.ogg", "text.wav"]
    rows = [{"bytes": (mixed / name).read_bytes(), "path": name} for name in names] + [None]
    features = {"info": {"features": {"audio": {"_type": "Audio"}}}}
    table = pa.table({"audio": pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))})
    path = tmp_path / "train.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return {"path": "parquet", "data_files": str(path), "split": "train", "cache_dir": str(tmp_path / "cache")}


def test_a_table_is_read_like_a_folder(parquet, mixed):
    data = CropDataset(recordings_of(datasets.load_dataset(**parquet)), RATE, 1, 4000)
    files = CropDataset([mixed / name for name in ("a.wav", "b.flac", "c.ogg")], RATE, 1, 4000)
    assert data.bad == ["text.wav", "row 4"]
    for ours, theirs in zip(data.recordings, files.recordings, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_missing_column_is_named(parquet):
    with pytest.raises(ValueError, match=r"no column 'sound'.*\['audio'\]"):
        recordings_of(datasets.load_dataset(**parquet), "sound")


def take(stream, count):
    return [item["input_values"] for item in itertools.islice(stream, count)]


def test_a_stream_skips_bad_rows_shuffles_and_never_ends(parquet):
    rows = datasets.load_dataset(**parquet, streaming=True)
    stream = StreamCropDataset(rows, RATE, 1, 4000, seed=1)
    crops = take(stream, 30)
    assert len(stream.bad) == 2 and "text.wav" in stream.bad
    assert all(crop.shape == (1, 4000) for crop in crops)
    assert all(torch.equal(one, other) for one, other in zip(crops, take(stream, 30), strict=True))
    others = take(StreamCropDataset(rows, RATE, 1, 4000, seed=2), 30)
    assert not all(torch.equal(one, other) for one, other in zip(crops, others, strict=True))
    # b.flac, a tone and its negative, is silent in mono: once in each epoch of three crops, at different places.
    silent = [place for place, crop in enumerate(crops) if not crop.any()]
    assert [place // 3 for place in silent] == list(range(10))
    assert len({place % 3 for place in silent}) > 1


def test_a_stream_without_audio_ends_with_an_error(parquet):
    rows = datasets.load_dataset(**parquet, streaming=True).skip(3)
    with pytest.raises(AudioFileError, match="no readable recording"):
        next(iter(StreamCropDataset(rows, RATE, 1, 4000)))


def test_loading_processes_share_a_stream(parquet):
    rows = datasets.load_dataset(**parquet).select([0, 2, 2, 0]).to_iterable_dataset(num_shards=2)
    stream = StreamCropDataset(rows, RATE, 1, 4000)
    loader = DataLoader(stream, batch_size=2, num_workers=2, collate_fn=collate)
    first, second = (batch["input_values"] for batch in itertools.islice(loader, 2))
    assert first.shape == second.shape == (2, 1, 4000)
    assert not torch.equal(first, second)


def test_loading_processes_for_which_a_stream_has_no_part_leave_it_to_the_others(parquet):
    stream = StreamCropDataset(datasets.load_dataset(**parquet, streaming=True), RATE, 1, 4000)
    loader = DataLoader(stream, batch_size=2, num_workers=2, collate_fn=collate)
    assert [batch["input_values"].shape for batch in itertools.islice(loader, 4)] == [(2, 1, 4000)] * 4


def test_loading_processes_that_stay_hear_of_the_next_epoch(tmp_path):
    data = CropDataset(find_recordings(write_recordings(tmp_path, 3, seconds=1.0)), RATE, 1, 3200)
    loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True, collate_fn=collate)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        expected = torch.stack([data[place]["input_values"] for place in range(4)])
        assert torch.equal(next(iter(loader))["input_values"], expected)
