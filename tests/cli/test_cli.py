"""The commands, run as a user runs them, with a tiny codec where the weights do not matter."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from codec_lm_hf.bitstream.codes import CodesReader
from codec_lm_hf.cli import app, main
from codec_lm_hf.cli.encode import use_segments
from codec_lm_hf.processing.audio import load_audio, save_audio
from codec_lm_hf.registry import FAMILIES
from tests.common.tiny import TINY

runner = CliRunner()


def run(*arguments):
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    root = tmp_path_factory.mktemp("codecs")
    for name in ("encodec", "encodec-segments", "stft_codec", "hificodec", "speechtokenizer"):
        TINY[name].model().save_pretrained(root / name)
    return root


@pytest.fixture
def speech(tmp_path):
    path = tmp_path / "speech.wav"
    seconds = np.arange(30000) / 22050
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * seconds), 22050)
    return path


def test_list_names_every_family():
    output = run("list")
    for row in FAMILIES:
        assert row.name in output
        for preset in row.load("config").presets:
            assert preset in output


@pytest.mark.parametrize("name", ["encodec", "encodec-segments", "stft_codec"])
def test_encode_and_decode_give_back_the_length_in_the_codec_format(name, codecs, speech, tmp_path):
    codes, back = tmp_path / "speech.codes", tmp_path / "back.wav"
    run("encode", speech, "-o", codes, "--codec", codecs / name)
    run("decode", codes, "-o", back)
    config = TINY[name].config()
    audio, rate = soundfile.read(back, always_2d=True)
    assert rate == config.sampling_rate and audio.shape[1] == config.audio_channels
    assert len(audio) == pytest.approx(30000 / 22050 * rate, abs=2)
    assert "frames:" in run("info", codes)


def test_files_equal_the_api(codecs, speech, tmp_path):
    """What the command writes block by block is what `encode` gives for the whole recording."""
    import codec_lm_hf

    codes = tmp_path / "speech.codes"
    run("encode", speech, "-o", codes, "--codec", codecs / "encodec", "--bandwidth", 0.9)
    with codes.open("rb") as file:
        stored = np.concatenate([block for block, _ in CodesReader(file)], axis=1)
    model = codec_lm_hf.AutoCodecModel.from_pretrained(codecs / "encodec").eval()
    audio, _ = load_audio(speech, 24000, 1)
    ours = model.encode(torch.from_numpy(audio)[None], bandwidth=0.9).audio_codes[0].numpy()
    assert stored.shape == ours.shape
    assert (stored == ours).mean() > 0.99


def test_of_a_file_that_was_cut_short_what_is_there_is_coded(codecs, tmp_path):
    """Its header claims 25 seconds; nothing else may stand in for those that are gone."""
    path, codes = tmp_path / "cut.mp3", tmp_path / "cut.codes"
    save_audio(path, np.random.default_rng(0).standard_normal((1, 25 * 16000)) * 0.1, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run("encode", path, "--codec", codecs / "stft_codec")
    with codes.open("rb") as file:
        reader = CodesReader(file)
        frames = sum(block.shape[1] for block, _ in reader)
    left = load_audio(path)[0].shape[1]
    assert left < 13 * 16000 and (reader.samples, frames) == (left, -(-left // 320))


def test_folders(codecs, speech, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.wav", "deep/b.wav"):
        (folder / name).write_bytes(speech.read_bytes())
    run("encode", folder, "-o", tmp_path / "codes", "--codec", codecs / "stft_codec")
    (tmp_path / "codes" / "a.codes").rename(tmp_path / "codes" / "a.CODES")
    run("decode", tmp_path / "codes", "-o", tmp_path / "back")
    assert sorted(path.relative_to(tmp_path / "back").as_posix() for path in (tmp_path / "back").rglob("*.wav")) == [
        "a.wav",
        "deep/b.wav",
    ]


def test_bad_files_of_a_folder_are_named_and_the_others_done(codecs, speech, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.wav", np.nan)
    (folder / "b.wav").write_bytes(b"not audio")
    (folder / "c.wav").write_bytes(speech.read_bytes())
    # With the suffix .codes it is longer than names can be.
    (folder / f"{'b' * 250}.wav").write_bytes(speech.read_bytes())
    with pytest.raises(ValueError, match=r"3 of 4 .*:\n.*a.wav: .*NaN.*\n.*b.wav cannot be read.*\n.* too long"):
        run("encode", folder, "-o", tmp_path / "codes", "--codec", codecs / "stft_codec")
    assert [path.name for path in (tmp_path / "codes").iterdir()] == ["c.codes"]


def test_links_to_nothing_are_named_and_the_others_done(codecs, speech, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.wav").symlink_to("nowhere.wav")
    (folder / "b.wav").symlink_to(speech)
    with pytest.raises(ValueError, match=r"1 of 2 files were left out:\n.*a.wav is not a file"):
        run("encode", folder, "-o", tmp_path / "codes", "--codec", codecs / "stft_codec")
    assert [path.name for path in (tmp_path / "codes").iterdir()] == ["b.codes"]


def write(path, value):
    """A recording of floats that are all the same."""
    soundfile.write(path, np.full(3000, value, np.float32), 16000, subtype="FLOAT")


def command(*arguments, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "codec_lm_hf.cli", *map(str, arguments)], input=stdin, capture_output=True, check=False
    )


def test_standard_input_and_output(codecs, speech, tmp_path):
    encoded = command("encode", "-", "--codec", codecs / "encodec", stdin=speech.read_bytes())
    decoded = command("decode", "-", stdin=encoded.stdout)
    run("encode", speech, "-o", tmp_path / "x.codes", "--codec", codecs / "encodec")
    run("decode", tmp_path / "x.codes")
    assert encoded.stdout == (tmp_path / "x.codes").read_bytes(), encoded.stderr
    assert decoded.stdout == (tmp_path / "x.wav").read_bytes(), decoded.stderr


def test_damage_sends_nothing_to_standard_output(codecs, speech, tmp_path):
    run("encode", speech, "-o", tmp_path / "x.codes", "--codec", codecs / "encodec")
    damaged = bytearray((tmp_path / "x.codes").read_bytes())
    damaged[-30] ^= 1
    done = command("decode", "-", stdin=bytes(damaged))
    assert (done.returncode, done.stdout) == (2, b"") and b"checksum" in done.stderr


def test_links_are_written_through_and_not_replaced(codecs, speech, tmp_path):
    """As `/dev/stdout` is one, where the shell redirects it to a file."""
    link, file = tmp_path / "link.codes", tmp_path / "elsewhere" / "real.codes"
    file.parent.mkdir()
    link.symlink_to(file)
    run("encode", speech, "-o", link, "--codec", codecs / "stft_codec")
    assert link.is_symlink() and file.read_bytes()[:4] == b"CLMC"


def test_what_comes_through_a_pipe_is_read_as_a_file(codecs, speech, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    run("encode", speech, "-o", tmp_path / "x.codes", "--codec", codecs / "stft_codec")
    writer = subprocess.Popen(["sh", "-c", 'cat "$1" > "$2"', "-", speech, pipe])
    run("encode", pipe, "-o", tmp_path / "y.codes", "--codec", codecs / "stft_codec")
    assert writer.wait() == 0
    assert (tmp_path / "y.codes").read_bytes() == (tmp_path / "x.codes").read_bytes()


def test_devices_and_pipes_are_written_to_and_not_replaced(codecs, speech, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    run("encode", speech, "-o", pipe, "--codec", codecs / "stft_codec")
    assert reader.communicate()[0][:4] == b"CLMC" and pipe.is_fifo()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
def test_decodes_into_every_audio_format(suffix, codecs, speech, tmp_path):
    run("encode", speech, "--codec", codecs / "stft_codec")
    run("decode", speech.with_suffix(".codes"), "-o", tmp_path / f"back{suffix}")
    assert soundfile.info(tmp_path / f"back{suffix}").duration == pytest.approx(30000 / 22050, abs=0.1)


def test_a_codec_that_is_not_there_any_more_is_named(codecs, speech, tmp_path):
    shutil.copytree(codecs / "encodec", tmp_path / "moved" / "codec")
    run("encode", speech, "--codec", tmp_path / "moved" / "codec")
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    speech.unlink()
    with pytest.raises(ValueError, match=r"are by the codec '.*moved/codec', which is not here; name a copy of it"):
        run("decode", speech.with_suffix(".codes"))
    run("decode", speech.with_suffix(".codes"), "--codec", tmp_path / "elsewhere" / "codec")
    speech.unlink()
    with pytest.raises(ValueError, match="decode it with"):
        run("decode", speech.with_suffix(".codes"), "--codec", codecs / "stft_codec")


def test_a_codec_named_by_a_relative_path_is_found_from_elsewhere(codecs, speech, tmp_path, monkeypatch):
    """As it stands there, `codecs/encodec` could be a repository's id."""
    monkeypatch.chdir(codecs.parent)
    run("encode", speech, "-o", tmp_path / "x.codes", "--codec", f"{codecs.name}/encodec")
    monkeypatch.chdir(tmp_path)
    run("decode", tmp_path / "x.codes")
    assert f"codec: {codecs / 'encodec'}\n" in run("info", tmp_path / "x.codes")


def test_files_of_the_bundled_codec_name_it_wherever_it_is_installed(speech):
    run("encode", speech)
    output = run("info", speech.with_suffix(".codes"))
    assert "codec: bundled:codec" in output and "revision: None" in output
    run("decode", speech.with_suffix(".codes"), "-o", speech.with_name("back.wav"))


def test_decoding_replaces_no_recording_that_nobody_named(codecs, speech):
    """`encode x.wav` and `decode x.codes` write beside what they read; so for a folder."""
    run("encode", speech, "--codec", codecs / "stft_codec")
    before = speech.read_bytes()
    for source in (speech.with_suffix(".codes"), speech.parent):
        with pytest.raises(FileExistsError, match=r"speech.wav is there already .* say where to write with -o"):
            run("decode", source)
    assert speech.read_bytes() == before
    run("decode", speech.with_suffix(".codes"), "-o", speech)
    assert speech.read_bytes() != before


def test_a_folder_s_files_do_not_overwrite_each_other(codecs, tmp_path):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, np.zeros(100), 16000)
    with pytest.raises(ValueError, match=r"a.flac and .*a.wav would both be written to .*a.codes; rename one"):
        run("encode", tmp_path, "--codec", codecs / "stft_codec")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.flac", "a.wav"]


def test_the_suffix_may_be_in_capitals(codecs, speech, tmp_path):
    run("encode", speech, "-o", tmp_path / "x.CODES", "--codec", codecs / "stft_codec")
    run("decode", tmp_path / "x.CODES", "-o", tmp_path / "x.WAV")
    assert "stft_codec" in run("info", tmp_path / "x.CODES") and soundfile.info(tmp_path / "x.WAV").format == "WAV"


def test_a_folder_may_have_a_dot_in_its_name(codecs, speech, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(speech.read_bytes())
    run("encode", tmp_path / "in", "-o", tmp_path / "out.v1", "--codec", codecs / "stft_codec")
    assert (tmp_path / "out.v1" / "a.codes").is_file()


LONG = """
    import re, sys
    from pathlib import Path
    from codec_lm_hf.cli import app
    wav, codes, back, codec = sys.argv[1:]
    for arguments in (["encode", wav, "-o", codes, "--codec", codec], ["decode", codes, "-o", back]):
        app(arguments, standalone_mode=False)
        print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


# Not by `resource.getrusage`: that counts what the parent had when it forked.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, as Linux has it")
@pytest.mark.parametrize("name", ["stft_codec", "hificodec"])
def test_memory_does_not_grow_with_the_recording_and_progress_is_shown(name, codecs, tmp_path):
    """Megabytes at the peak of encoding and of decoding: the same for one minute and for three, so for an hour."""
    peaks = []
    files = [tmp_path / "long.wav", tmp_path / "long.codes", tmp_path / "back.wav", codecs / name]
    for minutes in (1, 3):
        noise = np.random.default_rng(0).standard_normal(minutes * 60 * 16000, np.float32) * 0.1
        soundfile.write(files[0], noise, 16000)
        code = [sys.executable, "-c", textwrap.dedent(LONG)]
        # A fixed threshold, so that large arrays go back at once: the peak is then that of what is in use.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run([*code, *map(str, files)], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        peaks.append([float(line) for line in done.stdout.split()])
        assert "100%" in done.stderr and "sample/s" in done.stderr and "B/s" in done.stderr
        assert soundfile.info(files[2]).duration == pytest.approx(minutes * 60, abs=0.01)
    # Two more minutes are 8 MB of float samples; whoever kept them would keep more than one copy.
    assert peaks[1] == pytest.approx(peaks[0], abs=12)


def test_codecs_that_look_at_the_whole_signal_code_long_files_in_segments(codecs, tmp_path):
    model = TINY["hificodec"].model().fuse()
    audio = np.random.default_rng(0).standard_normal(12 * 16000, np.float32) * 0.1
    audio = (audio.clip(-1, 1) * 32767).astype(np.int16)
    paths = [tmp_path / name for name in ("long.wav", "long.codes", "back.wav")]
    soundfile.write(paths[0], audio, 16000)
    run("encode", paths[0], "-o", paths[1], "--codec", codecs / "hificodec", "--segment-seconds", "5")
    model.config.chunk_length_s, model.config.overlap = 5.0, 0.01
    values = torch.from_numpy(audio / 32768).float()[None, None]
    expected = model.encode(values)
    with paths[1].open("rb") as file:
        found = np.concatenate([codes for codes, _ in CodesReader(file)], axis=1)
    np.testing.assert_array_equal(found, expected.audio_codes[0])
    run("decode", paths[1], "-o", paths[2])
    with torch.no_grad():
        decoded = model.decode(**expected, padding_mask=torch.ones_like(values[0])).audio_values[0, 0]
    np.testing.assert_allclose(soundfile.read(paths[2])[0], decoded, atol=1e-4)
    # What fits into one segment has the codes that it has without segments.
    model.config.chunk_length_s = None
    soundfile.write(paths[0], audio[:32000], 16000)
    run("encode", paths[0], "-o", paths[1], "--codec", codecs / "hificodec")
    with paths[1].open("rb") as file:
        found = np.concatenate([codes for codes, _ in CodesReader(file)], axis=1)
    np.testing.assert_array_equal(found, model.encode(values[..., :32000]).audio_codes[0])


def test_info_says_what_becomes_of_long_audio(codecs):
    expected = {
        "hificodec": "`codec-lm encode` codes segments of 30 s, with another result",
        "encodec-segments": "in segments of 0.4 s",
        "speechtokenizer": "`codec-lm encode` codes segments of 300 s, with another result",
        "stft_codec": "with the result of one piece",
    }
    for name, words in expected.items():
        assert words in run("info", codecs / name)


@pytest.mark.parametrize(
    ("name", "seconds"), [("hificodec", 30), ("speechtokenizer", 300), ("stft_codec", None), ("encodec-segments", 0.4)]
)
def test_segments_that_encode_takes_by_itself(name, seconds):
    model = TINY[name].model()
    use_segments(model, None)
    assert model.config.chunk_length_s == seconds


def test_info_of_a_language_model():
    output = run("info", "bundled:tts")
    for words in (
        "ValleForConditionalGeneration",
        "text to speech",
        "4 x 1024",
        "LyraCodecModel, 16000 Hz, 50 frames/s",
    ):
        assert words in output


def test_segments_are_refused_where_they_do_nothing(codecs, speech):
    for name, message in (("stft_codec", "streams with the same"), ("encodec-segments", "has segments of its own")):
        with pytest.raises(ValueError, match=message):
            run("encode", speech, "--codec", codecs / name, "--segment-seconds", "5")
    with pytest.raises(ValueError, match="does nothing for .dac"):
        run("encode", speech, "--format", "dac", "--segment-seconds", "5")


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda p: (p / "x.wav").write_bytes(b""), ["encode", "x.wav"], "x.wav cannot be read as audio"),
        (lambda p: (p / "x.wav").write_bytes(b"not audio"), ["encode", "x.wav"], "x.wav cannot be read as audio"),
        (lambda p: soundfile.write(p / "x.wav", np.zeros(0), 16000), ["encode", "x.wav"], "x.wav holds no samples"),
        (lambda p: soundfile.write(p / "x.wav", [0.0], 96000), ["encode", "x.wav"], "holds no samples at 24000 Hz"),
        (lambda p: write(p / "x.wav", 0), ["encode", "x.wav", "--format", "mp4"], "unknown format"),
        (
            lambda p: write(p / "x.wav", np.nan),
            ["encode", "x.wav"],
            "x.wav: input_values holds NaN or infinite samples",
        ),
        (lambda p: write(p / "x.wav", -np.inf), ["encode", "x.wav"], "holds NaN or infinite samples; clean"),
        (lambda p: write(p / "x.wav", 20000), ["encode", "x.wav"], "; expected floats in [-1, 1]: divide 16-bit"),
        (lambda p: write(p / "x.wav", 0), ["encode", "x.wav", "--bandwidth", "7"], "bandwidth=7 kbps is not offered"),
        (lambda p: write(p / "x.wav", 0), ["encode", "x.wav", "-o", ".", "--format", "codes"], "it is a folder"),
        (lambda p: write(p / "x.wav", 0), ["encode", "x.wav", "-o", "new/"], "cannot write new/: it is a folder"),
        (lambda p: None, ["decode", "x.codes", "-o", "new/"], "cannot write new/: it is a folder"),
        (lambda p: None, ["generate", "--text", "one", "-o", "new/"], "cannot write new/: it is a folder"),
        (
            lambda p: write(p / "x.wav", 0),
            ["encode", "x.wav", "--segment-seconds", "inf"],
            "--segment-seconds inf: give a number from 1 to below 86400",
        ),
        (
            lambda p: write(p / "x.wav", 0),
            ["encode", "x.wav", "--segment-seconds", "0.5"],
            "--segment-seconds 0.5: give a number from 1",
        ),
        (
            lambda p: write(p / "x.wav", 0),
            ["encode", "x.wav", "-o", "x.wav", "--format", "codes"],
            "x.wav would be replaced by what is made of it",
        ),
        (lambda p: (p / "empty").mkdir(), ["encode", "empty"], "empty holds no file to work on"),
        (
            lambda p: (p / "in").mkdir(),
            ["encode", "in", "-o", "-"],
            "in is a folder, and standard output takes one file",
        ),
        (lambda p: None, ["decode", "none.codes", "-o", "x.xyz"], "unknown audio format '.xyz'"),
        (lambda p: None, ["info", "none.codes"], "none.codes is not a file"),
        (lambda p: None, ["encode", "none.wav"], "none.wav is not a file"),
        (lambda p: (p / "x.codes").write_bytes(b"CLM"), ["decode", "x.codes"], "x.codes: the file "),
        (lambda p: (p / "x.codes").write_bytes(b"CLM"), ["info", "x.codes"], "x.codes: "),
        (lambda p: (p / "x.lyra").write_bytes(bytes(8)), ["info", "x.lyra"], ".lyra files have no header to show"),
        (lambda p: (p / "x.codes").write_bytes(b"RIFFxxxxxxxx"), ["decode", "x.codes"], "no .codes file"),
        (lambda p: None, ["convert", "nocodec", "--checkpoint", "a", "-o", "b"], "unknown family 'nocodec'"),
        (lambda p: None, ["convert", "encodec", "--checkpoint", "a.th", "-o", "b"], "a.th does not exist"),
        (lambda p: (p / "r.yaml").write_text("modle: {}"), ["train-codec", "r.yaml"], "unknown section 'modle'"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_file(prepare, arguments, message, tmp_path, monkeypatch, codecs, capfd):
    prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    extra = ["--codec", str(codecs / "encodec")] if arguments[0] in ("encode", "decode") else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["codec-lm", *arguments, *extra])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capfd.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_channels_beyond_two_are_mixed_down_for_mono_and_refused_for_stereo(codecs, tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros((9000, 3)), 16000)
    run("encode", tmp_path / "x.wav", "--codec", codecs / "stft_codec")
    with pytest.raises(ValueError, match="x.wav has 3 channels; expected 2. Mix it down first"):
        run("encode", tmp_path / "x.wav", "-o", tmp_path / "y.codes", "--codec", codecs / "encodec-segments")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.codes", "x.wav"]


def test_an_empty_recording_is_refused_by_a_codec_that_works_in_segments(codecs, tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros((0, 2)), 16000)
    with pytest.raises(ValueError, match="x.wav holds no samples"):
        run("encode", tmp_path / "x.wav", "--codec", codecs / "encodec-segments")


def test_damaged_weights_end_in_one_line(codecs, speech, tmp_path):
    shutil.copytree(codecs / "encodec", tmp_path / "codec")
    weights = tmp_path / "codec" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    done = command("encode", speech, "--codec", tmp_path / "codec")
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert b"are no complete safetensors file" in done.stderr and b"download or copy them again" in done.stderr


def test_a_full_disk_leaves_no_half_file(codecs, speech, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how: Full(path, "x") if how == ("xb",) else opened(path, *how))
    with pytest.raises(OSError, match="No space left"):
        run("encode", speech, "-o", tmp_path / "x.codes", "--codec", codecs / "stft_codec")
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"]


def test_names_may_be_as_long_as_they_can_be_and_the_umask_counts(codecs, tmp_path):
    name = "x" * (255 - len(".codes"))
    write(tmp_path / f"{name}.wav", 0)
    before = os.umask(0o077)
    try:
        run("encode", tmp_path / f"{name}.wav", "--codec", codecs / "stft_codec")
    finally:
        os.umask(before)
    assert (tmp_path / f"{name}.codes").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_stays_if_the_new_one_fails(codecs, tmp_path):
    (tmp_path / "x.codes").write_bytes(b"old")
    write(tmp_path / "bad.wav", np.nan)
    with pytest.raises(ValueError, match="NaN"):
        run("encode", tmp_path / "bad.wav", "-o", tmp_path / "x.codes", "--codec", codecs / "stft_codec")
    assert (tmp_path / "x.codes").read_bytes() == b"old"


def test_output_that_cannot_be_written(codecs, speech, tmp_path):
    done = command("encode", speech, "-o", tmp_path / "none" / "x.codes", "--codec", codecs / "encodec")
    assert done.returncode == 2 and "does not exist" in done.stderr.decode()
