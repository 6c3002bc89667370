"""`.dac` files: what is written is read, by the original too; damage and hostile content end in an error."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import codec_lm_hf
from codec_lm_hf.bitstream import dac
from codec_lm_hf.bitstream.dac_container import DacFile, read, write
from codec_lm_hf.bitstream.errors import BitstreamError
from codec_lm_hf.cli import app
from codec_lm_hf.modeling.layers.streaming import Unpadded
from codec_lm_hf.processing.loudness import integrated_loudness
from tests.common.tiny import TINY

MODEL = TINY["dac"].model()
RATE = MODEL.config.sampling_rate
FILE = DacFile(np.arange(24).reshape(2, 3, 4), 4, 150, 16000, -20.5, True)


def noise(samples: int, channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, samples))).astype(np.float32)


def same(left: DacFile, right: DacFile) -> bool:
    return np.array_equal(left.codes, right.codes) and replace(left, codes=None) == replace(right, codes=None)


def saved(content) -> bytes:
    """Any object in the container, as numpy writes it."""
    stream = io.BytesIO()
    np.save(stream, np.array(content, dtype=object), allow_pickle=True)
    return stream.getvalue()


def parts(**changes) -> dict:
    """What a file of FILE holds, with other metadata (or, under `codes`, other codes)."""
    content = np.load(io.BytesIO(write(FILE)), allow_pickle=True)[()]
    if "codes" in changes:
        content["codes"] = changes.pop("codes")
    return content | {"metadata": content["metadata"] | changes}


class TestContainer:
    def test_what_is_written_is_read(self):
        assert same(read(write(FILE)), FILE)

    def test_the_original_reads_it_as_any_numpy_file(self):
        content = np.load(io.BytesIO(write(FILE)), allow_pickle=True)[()]
        assert content["codes"].dtype == np.uint16 and content["codes"].shape == (2, 3, 4)
        assert content["metadata"].pop("input_db").dtype == np.float32
        assert content["metadata"] == {
            "original_length": 150,
            "sample_rate": 16000,
            "chunk_length": 4,
            "channels": 2,
            "padding": True,
            "dac_version": "1.0.0",
        }

    def test_numpy_1_s_names_are_known_and_any_memory_order(self):
        data = saved(parts(codes=np.asfortranarray(FILE.codes.astype(np.uint16))))
        assert same(read(data), FILE)
        older = data.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
        if older == data:
            pytest.skip("this numpy writes the older name itself")
        # The frame's length counts the byte that the older name is shorter.
        start = older.index(b"\x80\x04\x95") + 3
        length = int.from_bytes(older[start : start + 8], "little") - 1
        assert same(read(older[:start] + length.to_bytes(8, "little") + older[start + 8 :]), FILE)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "this is no .dac file"),
            (b"RIFF....WAVE", "this is no .dac file"),
            (write(FILE)[:-20], "damaged, or holds what no .dac file does: pickle data was truncated"),
            (write(FILE)[:100], "header is missing or damaged"),
            (saved({"a": 1}), "holds no dict of codes and metadata"),
            (saved([1, 2]), "holds an array and not a dict"),
            (saved(parts(dac_version="2.0.0")), "version '2.0.0'; this program reads version '1.0.0'"),
            (saved(parts(dac_version=None)), "version a NoneType"),
            (saved(parts(codes=FILE.codes[0])), r"shape \(3, 4\)"),
            (saved(parts(codes=FILE.codes - 5)), "codes are a int64 array"),
            (saved(parts(codes=[1, 2])), "codes is no array of numbers"),
            (saved(parts(codes=FILE.codes.astype(object))), "codes is no array of numbers"),
            (saved(parts(original_length=-1)), "original_length is no positive number"),
            (saved(parts(sample_rate=1e4)), "sample_rate is no positive number"),
            (saved(parts(channels=1)), "only files of one recording"),
            (saved(parts(input_db=np.array([np.nan], np.float32))), "make no sense"),
            (saved(parts(padding=1)), "make no sense"),
        ],
    )
    def test_other_content_is_refused(self, data, message):
        with pytest.raises(BitstreamError, match=message):
            read(data)

    @pytest.mark.parametrize("call", [(os.system, "touch {}"), (exec, "open({!r}, 'w')"), (getattr, "{}", "x")])
    def test_nothing_is_executed(self, call, tmp_path):
        target = tmp_path / "executed"
        function, *arguments = call

        class Hostile:
            def __reduce__(self):
                return function, tuple(argument.format(str(target)) for argument in arguments)

        with pytest.raises(BitstreamError, match="holds what no .dac file does: it asks for"):
            read(saved(parts(input_db=Hostile())))
        assert not target.exists()

    def test_an_array_of_made_up_addresses_is_refused(self):
        """numpy would take these bytes for pointers to objects."""

        class Address:
            def __reduce__(self):
                reconstruct, arguments, _ = np.zeros(1).__reduce__()
                return reconstruct, arguments, (1, (1,), np.dtype([("f", object)]), False, b"A" * 8)

        with pytest.raises(BitstreamError, match="input_db is no array of numbers"):
            read(saved(parts(input_db=Address())))

    @settings(derandomize=True, max_examples=300, deadline=None)
    @given(data=st.data())
    def test_any_damage_is_a_file_or_an_error(self, data):
        content = bytearray(write(FILE))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            file = read(bytes(content))
        except BitstreamError:
            return
        assert file.codes.ndim == 3 and file.original_length > 0


class TestCompression:
    @pytest.mark.parametrize("samples", [1, 100, 3999, 4000, 16000])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_audio_comes_back_in_its_length(self, samples, channels):
        audio = noise(samples, channels)
        data = dac.compress(MODEL, audio)
        file = read(data)
        assert file.padding and file.codes.shape == (channels, 4, -(-samples // MODEL.config.hop_length))
        decoded = dac.decompress(data, MODEL)
        assert decoded.shape == audio.shape and decoded.dtype == np.float32

    def test_loudness_comes_back(self):
        data = dac.compress(MODEL, noise(16000))
        assert read(data).input_db == pytest.approx(integrated_loudness(noise(16000), RATE), abs=1e-4)
        decoded = dac.decompress(data, MODEL)
        assert integrated_loudness(decoded, RATE) == pytest.approx(read(data).input_db, abs=0.01)

    def test_level_of_the_input_does_not_change_the_codes(self):
        loud, quiet = (read(dac.compress(MODEL, gain * noise(8000))) for gain in (0.5, 0.25))
        assert np.mean(loud.codes == quiet.codes) > 0.99
        assert loud.input_db - quiet.input_db == pytest.approx(20 * np.log10(2), abs=1e-4)
        plain = read(dac.compress(MODEL, noise(8000), normalize_db=None))
        expected = MODEL.encode(torch.from_numpy(noise(8000))[None]).audio_codes[0]
        assert np.array_equal(plain.codes[0], expected.numpy())

    def test_few_codebooks(self):
        assert read(dac.compress(MODEL, noise(4000), num_quantizers=2)).codes.shape[1] == 2
        rate = MODEL.config.bandwidths[2]
        assert read(dac.compress(MODEL, noise(4000), bandwidth=rate)).codes.shape[1] == 3

    @pytest.mark.parametrize("samples", [4001, 9999, 16000])
    def test_long_audio_is_coded_in_windows(self, samples):
        audio = noise(samples)
        data = dac.compress(MODEL, audio, window_seconds=0.25)
        file = read(data)
        # 4000 samples of a window less what either end lacks.
        advance = 4000 - 2 * dac.delay(MODEL)
        assert not file.padding and file.codes.shape[-1] == -(-samples // advance) * file.chunk_length
        assert dac.decompress(data, MODEL).shape == audio.shape

    def test_audio_as_long_as_the_window_is_coded_at_once(self):
        """2.01 s times 16 kHz are less than 32160 samples in floating point; 32160 samples are 2.01 s."""
        assert read(dac.compress(MODEL, noise(32_160), window_seconds=2.01)).padding

    def test_without_padding_is_offline_where_the_ends_are_far(self):
        hop, reach, stride = MODEL.config.hop_length, 0, 1
        for conv in dac._convolutions(MODEL.encoder):
            reach += conv.pad_left * stride
            stride *= conv.stride
        audio = torch.from_numpy(noise(100 * hop))[None]
        # As many zeros in front as make the offline frames begin where those without padding do.
        first = -(-reach // hop)
        with torch.no_grad():
            offline = MODEL._encode_latents(torch.nn.functional.pad(audio, (first * hop - reach, 0)))
            inner = MODEL._encode_latents(audio, Unpadded())
            decoded = MODEL._decode_latents(offline)
            shorter = MODEL._decode_latents(offline, Unpadded())
        assert 0 < inner.shape[-1] < 100 - first
        torch.testing.assert_close(offline[..., first : first + inner.shape[-1]], inner, atol=2e-5, rtol=1e-4)
        cut = (decoded.shape[-1] - shorter.shape[-1]) // 2
        assert 0 < cut < dac.delay(MODEL)
        torch.testing.assert_close(decoded[..., cut : cut + shorter.shape[-1]], shorter, atol=2e-5, rtol=1e-4)

    @pytest.mark.parametrize(
        ("preset", "samples"),
        [("dac_16khz", 5264), ("dac_24khz", 5264), ("dac_44khz", 7904), ("dac_44khz_16kbps", 7904)],
    )
    def test_delay_of_the_published_models(self, preset, samples):
        with torch.device("meta"):
            model = codec_lm_hf.DacCodecModel(codec_lm_hf.DacCodecConfig.from_preset(preset))
        assert dac.delay(model) == samples

    def test_other_rates(self):
        pytest.importorskip("julius", reason="julius is not installed")
        audio = noise(22050)
        data = dac.compress(MODEL, audio, sampling_rate=22050)
        assert read(data).sampling_rate == 22050
        assert dac.decompress(data, MODEL).shape == audio.shape

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sampling_rate": 0}, "audio of 0 Hz cannot be converted to 16000 Hz"),
            ({"sampling_rate": 1_000_003}, "cannot be converted to 16000 Hz here; resample it first"),
            ({"window_seconds": 0.05}, "a window of 0.05 s leaves nothing"),
            ({"num_quantizers": 9}, "this model has 1 to 4 quantizers"),
        ],
    )
    def test_wrong_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            dac.compress(MODEL, noise(4000), **options)

    @pytest.mark.parametrize(
        ("audio", "message"),
        [
            (noise(100)[0], "must have shape"),
            (noise(0), "hold samples"),
            (noise(100) * np.nan, "NaN or infinite"),
            ((noise(100) * 1000).astype(np.int16), "divide 16-bit samples"),
        ],
    )
    def test_what_is_no_audio(self, audio, message):
        with pytest.raises(ValueError, match=message):
            dac.compress(MODEL, audio)

    def test_other_codecs_are_refused(self):
        other = TINY["encodec"].model()
        for call in (lambda: dac.compress(other, noise(100)), lambda: dac.decompress(write(FILE), other)):
            with pytest.raises(ValueError, match="this codec is a EncodecCodecModel"):
                call()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"codes": np.full((1, 4, 4), 64)}, "a code of 64, where codebooks have 64 entries"),
            ({"codes": np.zeros((1, 5, 4), int)}, "has 5 codebooks, and the codec 4"),
            ({"original_length": 1 << 30}, "claims 1073741824 samples"),
            ({"padding": False, "chunk_length": 2}, "make no audio here"),
            ({"padding": False, "chunk_length": 3}, "make no audio here"),
        ],
    )
    def test_files_that_do_not_fit(self, changes, message):
        file = DacFile(np.zeros((1, 4, 4), int), 4, 160, RATE, -20.0, True)
        with pytest.raises(BitstreamError, match=message):
            dac.decompress(write(replace(file, **changes)), MODEL)


class TestCommands:
    def test_encode_info_decode(self, tmp_path):
        MODEL.save_pretrained(tmp_path / "codec")
        soundfile.write(tmp_path / "x.wav", noise(90_000, 2).T, RATE)
        runner = CliRunner()

        def run(*arguments, **options):
            arguments = [str(argument) for argument in arguments]
            result = runner.invoke(app, arguments, catch_exceptions=False, **options)
            assert result.exit_code == 0, result.output
            return result.output

        codec = ("--codec", tmp_path / "codec")
        run("encode", tmp_path / "x.wav", "-o", tmp_path / "x.dac", *codec)
        shown = run("info", tmp_path / "x.dac")
        assert "channels: 2" in shown and "padding: False" in shown and "original_length: 90000" in shown
        run("decode", tmp_path / "x.dac", "-o", tmp_path / "back.wav", *codec)
        run("decode", "-", "-o", tmp_path / "piped.wav", *codec, input=(tmp_path / "x.dac").read_bytes())
        audio, rate = soundfile.read(tmp_path / "back.wav", always_2d=True)
        assert audio.shape == (90_000, 2) and rate == RATE
        assert (tmp_path / "piped.wav").read_bytes() == (tmp_path / "back.wav").read_bytes()
        with pytest.raises(ValueError, match="name them with --codec"):
            run("decode", tmp_path / "x.dac", "-o", tmp_path / "y.wav")
