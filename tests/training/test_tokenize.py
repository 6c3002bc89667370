"""Recordings to a data set of codes: complete, the codec's own codes, and the same whatever happened in between."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from codec_lm_hf.cli import app
from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.processing.audio import AudioFileError, load_audio
from codec_lm_hf.training.data import collate_codes
from codec_lm_hf.training.labelled import labelled_dataset, labelled_folder, load_labelled
from codec_lm_hf.training.tokenize import INFO, _batches, ids_of, read_header, tokenize
from tests.common.tiny import TINY

PROJECT = Path(__file__).parents[2]
SECONDS = [0.3, 2.6, 0.011, 1.0, 2.2, 0.3, 1.7]
CODECS = ["stft_codec", "encodec", "encodec-segments", "hificodec"]


def write_noise(path: Path, seconds: float, rate: int = 16000, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(max(1, round(seconds * rate)))
    soundfile.write(path, 0.2 * noise, rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven recordings of all lengths and of two rates, in two folders, with speakers and some texts."""
    root = tmp_path_factory.mktemp("audio")
    rows = []
    for number, seconds in enumerate(SECONDS):
        name = f"{'ab'[number % 2]}/{number}.wav"
        write_noise(root / name, seconds, [16000, 22050][number % 3 == 1], number)
        rows.append({"file_name": name, "speaker": number % 3, "text": f"number {number}" if number % 2 else None})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="module")
def models():
    return {name: TINY[name].model() for name in CODECS}


def rows_of(output: Path, **options):
    """The data set, read as a user reads it."""
    files = str(output / "*.parquet")
    cache = str(output.parent / "cache")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache, **options)


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def alone(model, path: Path, count: int | None = None):
    audio, _ = load_audio(path, model.config.sampling_rate, model.config.audio_channels)
    return audio, model.encode(torch.from_numpy(audio)[None], num_quantizers=count)


# --- what is in it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_batches", [False, True])
@pytest.mark.parametrize("name", CODECS)
def test_rows_are_what_each_recording_gives_alone(name, whole_batches, folder, models, tmp_path):
    model = models[name]
    before = model.whole_seconds
    report = tokenize(model, labelled_folder(folder), tmp_path / "out", whole_batches=whole_batches)
    assert (report.written, report.present, report.skipped) == (len(SECONDS), 0, {})
    assert report.seconds == pytest.approx(sum(SECONDS), abs=0.01)
    assert model.whole_seconds == before
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"{'ab'[number % 2]}/{number}.wav" for number in range(len(SECONDS))]
    for row in rows:
        audio, expected = alone(model, folder / row["id"])
        assert torch.equal(torch.tensor(row["codes"]), expected.audio_codes[0])
        assert row["num_frames"] == expected.audio_codes.shape[-1]
        assert round(row["duration"] * model.config.sampling_rate) == audio.shape[-1]
        assert ("scales" in row) == model.config.normalize
        if model.config.normalize:
            torch.testing.assert_close(torch.tensor(row["scales"]), expected.audio_scales[0])


def test_texts_and_other_columns_are_kept(folder, models, tmp_path):
    tokenize(models["stft_codec"], labelled_folder(folder), tmp_path / "out", num_quantizers=2)
    rows = rows_of(tmp_path / "out")
    assert rows.features["codes"] == datasets.List(datasets.List(datasets.Value("int16")))
    assert rows["speaker"][:] == [0, 1, 2, 0, 1, 2, 0]
    assert rows["text"][:] == [None, "number 1", None, "number 3", None, "number 5", None]
    assert {len(codes) for codes in rows["codes"]} == {2}


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_at_another_speed_recordings_are_those_of_other_speakers(speed, folder, models, tmp_path):
    model = models["stft_codec"]
    report = tokenize(model, labelled_folder(folder), tmp_path / "out", speed=speed, speaker_column="speaker")
    assert report.seconds == pytest.approx(sum(SECONDS) / speed, abs=0.01)
    rows = rows_of(tmp_path / "out")
    assert rows["speaker"][:] == [f"{speaker} x{speed}" for speaker in (0, 1, 2, 0, 1, 2, 0)]
    for row in rows:
        audio, _ = load_audio(folder / row["id"], model.config.sampling_rate / speed, model.config.audio_channels)
        expected = model.encode(torch.from_numpy(audio)[None])
        assert torch.equal(torch.tensor(row["codes"]), expected.audio_codes[0])
        assert row["duration"] == pytest.approx(SECONDS[int(row["id"][2])] / speed, abs=1e-3)
    with pytest.raises(ValueError, match=f"with speed {speed}; those of .* would have speed 1.0"):
        tokenize(model, labelled_folder(folder), tmp_path / "out")
    with pytest.raises(ValueError, match="there is no column 'voice'; the recordings have"):
        tokenize(model, labelled_folder(folder), tmp_path / "new", speed=speed, speaker_column="voice")


def test_a_large_codebook_takes_wider_integers(folder, tmp_path):
    model = TINY["stft_codec"].model(codebook_size=40000, num_quantizers=1)
    tokenize(model, labelled_folder(folder), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows.features["codes"] == datasets.List(datasets.List(datasets.Value("int32")))
    assert max(max(codes[0]) for codes in rows["codes"]) >= 1 << 15


def test_the_data_set_names_its_codec(folder, models, tmp_path):
    models["stft_codec"].save_pretrained(tmp_path / "codec")
    model = type(models["stft_codec"]).from_pretrained(tmp_path / "codec").eval()
    tokenize(model, labelled_folder(folder), tmp_path / "out", num_quantizers=3)
    header = read_header(tmp_path / "out")
    assert (header.codec, header.num_codebooks, header.codebook_size) == (str(tmp_path / "codec"), 3, 64)
    header.check_codec(model)
    with pytest.raises(ValueError, match="decode it with"):
        header.check_codec(models["encodec"])
    info = json.loads((tmp_path / "out" / INFO).read_text())
    assert info["frame_rate"] == 50 and info["columns"]["text"] == "string"
    for path in (tmp_path / "out").glob("*.parquet"):
        assert json.loads(pq.read_schema(path).metadata[b"codec_lm_hf"])["fingerprint"] == header.fingerprint
    with pytest.raises(FileNotFoundError, match="no data set made by codec-lm tokenize"):
        read_header(folder)


def test_it_is_read_whole_streamed_and_by_its_folder(folder, models, tmp_path):
    for split in ("train", "validation"):
        tokenize(models["stft_codec"], labelled_folder(folder), tmp_path / "codes" / split, shard_rows=3)
    whole = rows_of(tmp_path / "codes" / "train")
    assert list(rows_of(tmp_path / "codes" / "train", streaming=True)) == list(whole)
    both = datasets.load_dataset(str(tmp_path / "codes"), cache_dir=str(tmp_path / "cache"))
    assert list(both) == ["train", "validation"] and list(both["validation"]) == list(whole)
    assert whole.with_format("torch")[1]["codes"].shape == (4, whole[1]["num_frames"])


def test_a_batch_of_rows_is_what_the_codec_decodes(folder, models, tmp_path):
    model = models["stft_codec"]
    tokenize(model, labelled_folder(folder), tmp_path / "out")
    rows = list(rows_of(tmp_path / "out"))[:4]
    batch = collate_codes(rows)
    assert batch["codes_mask"].sum(-1).tolist() == [row["num_frames"] for row in rows]
    decoded = model.decode(**batch).audio_values
    for row, audio in zip(rows, decoded, strict=True):
        expected = model.decode(**alone(model, folder / row["id"])[1]).audio_values[0]
        torch.testing.assert_close(audio[:, : expected.shape[-1]], expected, atol=2e-5, rtol=1e-4)
    assert "codes_mask" not in collate_codes([rows[0], rows[0]])


# --- what it is made of ----------------------------------------------------------------------------------------------


def test_a_folder_without_metadata_has_the_texts_beside_the_files(models, tmp_path):
    for name in ("x.wav", "deep/y.flac"):
        write_noise(tmp_path / "in" / name, 0.2)
    (tmp_path / "in" / "deep" / "y.txt").write_text(" why\n")
    tokenize(models["stft_codec"], load_labelled(tmp_path / "in"), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [(row["id"], row["text"]) for row in rows] == [("deep/y.flac", "why"), ("x.wav", None)]


def test_metadata_speaks_for_its_folder_only(tmp_path):
    for name in ("train/a.wav", "train/unlisted.wav", "loose/b.wav", "test/sub/c.wav"):
        write_noise(tmp_path / name, 0.1)
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a.wav", "take": 1}')
    with (tmp_path / "test" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], ["sub/c.wav", "see"]])
    recordings = labelled_folder(tmp_path)
    assert list(recordings.ids) == ["test/sub/c.wav", "train/a.wav", "loose/b.wav"]
    assert recordings.labels([0, 1, 2]).to_pydict() == {"text": ["see", None, None], "take": [None, 1, None]}


def test_what_is_wrong_with_metadata_is_said(tmp_path):
    write_noise(tmp_path / "a.wav", 0.1)
    line = '{"file_name": "a.wav", "take": %s}\n'
    (tmp_path / "metadata.jsonl").write_text(line % "1" + line % "2")
    with pytest.raises(ValueError, match="a.wav is listed more than once"):
        labelled_folder(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(line % "1" + '{"file_name": "b.wav", "take": "two"}')
    with pytest.raises(ValueError, match="column 'take' mixes types"):
        labelled_folder(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(line % 10**30)
    with pytest.raises(ValueError, match="column 'take' .* or numbers are too large"):
        labelled_folder(tmp_path)
    with pytest.raises(ValueError, match="has no splits.*name a folder below it"):
        load_labelled(tmp_path, split="train")
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "a.txt").write_bytes("Straße".encode("latin-1"))
    with pytest.raises(ValueError, match="a.txt must be text in UTF-8, but invalid .* at byte 4; convert it"):
        labelled_folder(tmp_path)


def test_columns_that_no_file_can_hold_are_refused_before_the_work(models, tmp_path):
    write_noise(tmp_path / "a.wav", 0.1)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "notes": {}}')
    with pytest.raises(ValueError, match="columns cannot be written as Parquet: .*'notes' with no child"):
        tokenize(models["stft_codec"], labelled_folder(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf"), 1e-300, 1e300])
def test_a_speed_is_one_that_can_be_played(speed, folder, models, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"speed={speed} must lie from 0.1 to 10")):
        tokenize(next(iter(models.values())), labelled_folder(folder), tmp_path / "out", speed=speed)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def table(folder):
    """A data set as the Hub has them: audio as bytes, a column of classes, and names that we use, too."""
    features = {
        "id": datasets.Value("string"),
        "audio": datasets.Audio(),
        "speaker": datasets.ClassLabel(names=["ann", "bob"]),
    }
    rows = [
        {"id": f"u{number}", "audio": {"bytes": path.read_bytes(), "path": path.name}, "speaker": number % 2}
        for number, path in enumerate(sorted(folder.rglob("*.wav"))[:3])
    ]
    columns = {name: [row[name] for row in rows] for name in features}
    kinds = {"audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "speaker": pa.int64()}
    arrow = pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
    return datasets.Dataset(arrow.replace_schema_metadata(datasets.Features(features).arrow_schema.metadata))


def test_a_data_set_keeps_its_columns_and_is_known_by_its_rows(table, folder, models, tmp_path):
    model = models["stft_codec"]
    tokenize(model, labelled_dataset(table), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows["id"][:] == ["0", "1", "2"] and rows["source_id"][:] == ["u0", "u1", "u2"]
    assert rows.features["speaker"].int2str(rows["speaker"][:]) == ["ann", "bob", "ann"]
    assert "audio" not in rows.features
    for row, path in zip(rows, sorted(folder.rglob("*.wav")), strict=False):
        assert torch.equal(torch.tensor(row["codes"]), alone(model, path)[1].audio_codes[0])


@pytest.mark.parametrize("name", ["stft_codec", "encodec-segments"])
def test_scales_are_the_codec_s_also_where_it_has_none(name, table, models, tmp_path):
    tokenize(models[name], labelled_dataset(table.rename_column("speaker", "scales")), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows["source_scales"][:] == [0, 1, 0] and ("scales" in rows.features) == (name != "stft_codec")


def test_a_name_that_is_taken_twice_is_refused(table, models, tmp_path):
    twice = table.rename_column("speaker", "source_id")
    with pytest.raises(ValueError, match="columns id, source_id one is to become source_NAME"):
        tokenize(models["stft_codec"], labelled_dataset(twice), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_sets_are_found_by_their_path(table, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub").mkdir()
    table.to_parquet(tmp_path / "hub" / "train.parquet")
    table.select([0]).to_parquet(tmp_path / "hub" / "test.parquet")
    datasets.DatasetDict(train=table).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="has the splits train, test: choose one"):
        load_labelled(tmp_path / "hub")
    for place in ("hub", "saved"):
        found = load_labelled(tmp_path / place, split="train")
        assert found.labels([2, 0])["id"].to_pylist() == ["u2", "u0"]
        assert found.audio([1])[0][1].read() == table.with_format("arrow")[1]["audio"][0].as_py()["bytes"]
    with pytest.raises(ValueError, match=r"no column 'sound'"):
        load_labelled(tmp_path / "hub", split="train", column="sound")


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """Two good recordings between five bad ones, of which the last has no sample at a codec's rate."""
    root = tmp_path / "damaged"
    for name in ("b.wav", "e.wav"):
        write_noise(root / name, 0.3)
    (root / "a.wav").write_text("not audio")
    soundfile.write(root / "c.wav", np.zeros(0), 16000)
    soundfile.write(root / "d.wav", np.array([0.1, np.nan], np.float32), 16000, subtype="FLOAT")
    soundfile.write(root / "f.wav", np.array([0.1, 20000], np.float32), 16000, subtype="FLOAT")
    soundfile.write(root / "g.wav", np.zeros(1), 96000)
    return root


def test_a_bad_file_is_named(damaged, models, tmp_path):
    with pytest.raises(AudioFileError, match=r"a\.wav cannot be read as audio.*--skip-bad"):
        tokenize(models["stft_codec"], labelled_folder(damaged), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [INFO]


@pytest.mark.parametrize("shard_rows", [1, 2, 100])
def test_bad_files_are_skipped_and_tried_again(shard_rows, damaged, models, tmp_path):
    def run():
        options = {"shard_rows": shard_rows, "skip_bad": True}
        return tokenize(models["stft_codec"], labelled_folder(damaged), tmp_path / "out", **options)

    report = run()
    assert (report.written, sorted(Path(name).name[0] for name in report.skipped)) == (2, list("acdfg"))
    assert "NaN" in report.skipped[str(damaged / "d.wav")]
    before = contents(tmp_path / "out")
    assert len(run().skipped) == 5 and contents(tmp_path / "out") == before
    write_noise(damaged / "a.wav", 0.2)
    report = run()
    assert (report.written, report.present, len(report.skipped)) == (1, 2, 4)
    assert ids_of(tmp_path / "out") == {"a.wav", "b.wav", "e.wav"}


@pytest.mark.parametrize("name", CODECS)
def test_what_would_not_fit_into_memory_is_named_before_it_is_tried(name, folder, models, tmp_path):
    """A codec that looks at the whole signal and has no segments; others take long recordings piece by piece."""
    model, recordings = models[name], labelled_folder(folder)
    too_long = {"b/1.wav", "a/4.wav"} if name == "hificodec" else set()
    if too_long:
        with pytest.raises(AudioFileError, match=r"HifiCodecModel looks at all .*batch_seconds, 2 s.*--skip-bad"):
            tokenize(model, recordings, tmp_path / "out", batch_seconds=2)
    report = tokenize(model, recordings, tmp_path / "out", batch_seconds=2, skip_bad=True)
    assert set(report.skipped) == {str(folder / place) for place in too_long}
    assert ids_of(tmp_path / "out") == set(recordings.ids) - too_long
    report = tokenize(model, recordings, tmp_path / "out", batch_seconds=3)
    assert report.written == len(too_long) and ids_of(tmp_path / "out") == set(recordings.ids)


# --- again, further, elsewhere ---------------------------------------------------------------------------------------


def test_a_later_run_does_what_is_new_and_nothing_else(models, tmp_path):
    model = models["stft_codec"]
    for number in (1, 2, 4):
        write_noise(tmp_path / "in" / f"{number}.wav", 0.3, seed=number)
    tokenize(model, labelled_folder(tmp_path / "in"), tmp_path / "out", shard_rows=2)
    before = contents(tmp_path / "out")
    for number in (0, 3, 5):
        write_noise(tmp_path / "in" / f"{number}.wav", 0.3, seed=number)
    report = tokenize(model, labelled_folder(tmp_path / "in"), tmp_path / "out", shard_rows=2)
    assert (report.written, report.present) == (3, 3)
    after = contents(tmp_path / "out")
    assert before.items() < after.items()
    rows = rows_of(tmp_path / "out")
    assert sorted(rows["id"][:]) == [f"{number}.wav" for number in range(6)]
    for row in rows:
        assert torch.equal(torch.tensor(row["codes"]), alone(model, tmp_path / "in" / row["id"])[1].audio_codes[0])


def test_another_codec_or_another_setting_is_refused_by_name(folder, models, tmp_path):
    recordings = labelled_folder(folder)
    tokenize(models["stft_codec"], recordings, tmp_path / "out", num_quantizers=2)
    before = contents(tmp_path / "out")
    other = TINY["stft_codec"].model()
    with torch.no_grad():
        next(module for name, module in other.named_modules() if name.endswith("codebook")).embed.add_(1)
    unlabelled = labelled_dataset(datasets.Dataset.from_dict({"audio": [str(folder / "a" / "0.wav")]}))
    for model, source, count, message in (
        (other, recordings, 2, "with fingerprint .* would have fingerprint"),
        (models["encodec"], recordings, 2, "with fingerprint"),
        (models["stft_codec"], recordings, 3, "with num_codebooks 2; those of .* would have num_codebooks 3"),
        (models["stft_codec"], unlabelled, 2, "with columns .*speaker.* would have columns"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenize(model, source, tmp_path / "out", count)
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / INFO).unlink()
    with pytest.raises(ValueError, match="holds shards but no dataset_info.json"):
        tokenize(models["stft_codec"], recordings, tmp_path / "out", 2)


def test_a_damaged_shard_is_named(folder, models, tmp_path):
    tokenize(models["stft_codec"], labelled_folder(folder), tmp_path / "out")
    (shard,) = (tmp_path / "out").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{shard} is damaged .*delete it and run again"):
        tokenize(models["stft_codec"], labelled_folder(folder), tmp_path / "out")


@given(
    durations=st.lists(st.floats(0.01, 50), min_size=1, max_size=30),
    limit=st.floats(1, 60),
)
@settings(max_examples=50, deadline=None)
def test_batches_hold_every_recording_once_and_little_padding(durations, limit):
    groups = _batches(dict(enumerate(durations)), limit)
    assert sorted(place for group in groups for place in group) == list(range(len(durations)))
    longest = [max(durations[place] for place in group) for group in groups]
    assert longest == sorted(longest)
    for group in groups:
        assert len(group) == 1 or len(group) * max(durations[place] for place in group) <= limit


KILLED = """
    import os, signal, sys
    from codec_lm_hf.cli import app
    replace, written = os.replace, []

    def killing(source, target):
        if str(target).endswith(".parquet"):
            written.append(target)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = killing
    app(sys.argv[1:])
"""


def test_killed_and_resumed_equals_uninterrupted_and_so_do_two_processes(folder, models, tmp_path):
    """Killed as the third of seven shards is about to appear; resumed by one process, and elsewhere by two."""
    models["stft_codec"].save_pretrained(tmp_path / "codec")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path])}

    def arguments(name: str) -> list[str]:
        return ["tokenize", str(folder), "-o", str(tmp_path / name), "--codec", str(tmp_path / "codec"),
                "--shard-rows", "1"]  # fmt: skip

    def start(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path
        )

    done = CliRunner().invoke(app, arguments("whole"))
    assert done.exit_code == 0 and "7 recordings coded" in done.output, done.output
    whole = contents(tmp_path / "whole")
    assert len(whole) == len(SECONDS) + 1

    killed = start("-c", textwrap.dedent(KILLED), *arguments("resumed"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    left = contents(tmp_path / "resumed")
    assert len([name for name in left if name.endswith(".parquet")]) == 2
    assert [name for name in left if name.endswith(".partial")]
    done = CliRunner().invoke(app, arguments("resumed"))
    assert done.exit_code == 0 and "5 recordings coded" in done.output and "2 were there" in done.output, done.output
    assert contents(tmp_path / "resumed") == whole

    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = start(*launch, "-m", "codec_lm_hf.cli", *arguments("shared"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("7 recordings coded") == 1
    assert contents(tmp_path / "shared") == whole


def test_while_one_run_is_at_work_another_is_refused_and_takes_nothing_away(folder, tmp_path, monkeypatch):
    model, recordings, output = TINY["stft_codec"].model(), labelled_folder(folder), tmp_path / "out"
    refused = []

    def meanwhile(*args, **kwargs):
        (output / ".codes-000000-x.parquet.y.partial").touch()
        with pytest.raises(BlockingIOError, match=f"another run is writing to {output}: wait for its end, or name"):
            tokenize(model, recordings, output, shard_rows=2)
        refused.append((output / ".codes-000000-x.parquet.y.partial").exists())
        return type(model).encode(model, *args, **kwargs)

    monkeypatch.setattr(model, "encode", meanwhile)
    tokenize(model, recordings, output, shard_rows=3)
    monkeypatch.undo()
    assert refused and all(refused)
    assert ids_of(output) == set(recordings.ids) and len(list(output.glob("codes-*.parquet"))) == 3
    # Now that nobody is at work, it is what a killed run left.
    assert tokenize(model, recordings, output, shard_rows=2).present == len(SECONDS)
    assert not list(output.glob(".*"))


def test_a_full_disk_leaves_no_half_shard(folder, models, tmp_path, monkeypatch):
    def full(table, file, **options):
        file.write(b"PAR1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        tokenize(models["stft_codec"], labelled_folder(folder), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [INFO]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_reports_what_it_did(damaged, tmp_path):
    arguments = ["tokenize", str(damaged), "-o", str(tmp_path / "out"), "--bandwidth", "1.0", "--skip-bad"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "2 recordings coded" in done.output and "5 skipped" in done.output
    assert f"skipped: {damaged / 'c.wav'} holds no samples" in done.output
    header = read_header(tmp_path / "out")
    assert (header.codec, header.num_codebooks) == ("bundled:codec", 2)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        CliRunner().invoke(app, ["tokenize", str(tmp_path), "-o", str(tmp_path / "out")], catch_exceptions=False)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_does_what_it_says(tmp_path, monkeypatch):
    """Its first command and its Python, one after the other; its columns are those that are written."""
    page = (PROJECT / "docs" / "tokenize.md").read_text()
    audio, rate = soundfile.read(SPEECH)
    (tmp_path / "recordings").mkdir()
    for name, seconds in (("a", 2), ("b", 1)):
        soundfile.write(tmp_path / "recordings" / f"{name}.wav", audio[: seconds * rate], rate)
        (tmp_path / "recordings" / f"{name}.txt").write_text(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (command,) = re.findall(r"^    codec-lm (.*)$", page, re.M)
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == 0 and "2 recordings coded" in done.output, done.output
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "docs/tokenize.md", "exec"), scope)
    assert scope["batch"]["audio_codes"].shape == (2, 4, 100)
    assert scope["batch"]["codes_mask"].sum(-1).tolist() == [100, 50]
    assert scope["audio"].shape == (2, 1, 2 * rate)
    columns = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert set(rows_of(tmp_path / "codes").features) == {*columns, "text"} - {"scales"}


def test_what_is_neither_here_nor_reachable_is_named():
    with pytest.raises(ConnectionError, match="nowhere is no folder of audio here, and as a data set of the Hub"):
        load_labelled("nowhere")
