"""The `.lyra` format: packets of one frame, no header; damage ends in an error or a warning."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from codec_lm_hf.bitstream.errors import BitstreamError
from codec_lm_hf.bitstream.lyra import compress, decompress, pack, packet_size, to_pcm16, unpack
from codec_lm_hf.cli import app
from tests.common.tiny import TINY

MODEL = TINY["soundstream_lyra"].model()
HOP = MODEL.config.hop_length


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((1, samples))).astype(np.float32)


def test_packets_of_the_program_have_the_documented_size():
    assert [packet_size(count) for count in (16, 30, 46)] == [8, 15, 23]


def test_first_codebook_is_in_the_highest_bits_of_the_first_byte():
    codes = np.array([[6, 1], [4, 2], [15, 3]])
    assert pack(codes) == bytes([0x64, 0xF0, 0x12, 0x30])


def test_packet_of_the_original_test_data():
    """`two_encoded_packets_16khz.lyra` is two of these at 6 kbps and two bytes that are no packet any more."""
    data = (bytes([0x64]) + bytes(15)) * 2
    with pytest.warns(UserWarning, match="2 bytes beyond the last of 2 packets of 15 bytes are dropped"):
        codes = unpack(data, 30)
    assert codes.shape == (30, 2)
    assert codes[:, 0].tolist() == [6, 4] + 28 * [0]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(data=st.data())
def test_codes_come_back(data):
    count, frames = data.draw(st.integers(1, 46)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(0, 16, (count, frames))
    packed = pack(codes)
    assert len(packed) == frames * packet_size(count)
    assert np.array_equal(unpack(packed, count), codes)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(data=st.binary(max_size=100), count=st.integers(1, 4))
@pytest.mark.filterwarnings("ignore:.*bytes beyond the last")
def test_any_bytes_are_audio_or_an_error(data, count):
    if len(data) < packet_size(count):
        with pytest.raises(BitstreamError, match="less than a packet"):
            decompress(data, MODEL, count)
        return
    audio = decompress(data, MODEL, count)
    assert audio.shape == (1, len(data) // packet_size(count) * HOP)
    assert np.isfinite(audio).all()


def test_audio_is_coded_in_whole_frames():
    audio = noise(10 * HOP + HOP - 1)
    data = compress(MODEL, audio, 3)
    assert len(data) == 10 * packet_size(3)
    with torch.no_grad():
        codes = MODEL.encode(torch.from_numpy(audio[None, :, : 10 * HOP]), num_quantizers=3).audio_codes
        expected = MODEL.decode(codes).audio_values[0]
    assert np.array_equal(unpack(data, 3), codes[0])
    np.testing.assert_allclose(decompress(data, MODEL, 3), expected, atol=2e-5)


def test_rates_name_the_same_packets_as_counts():
    audio = noise(4 * HOP)
    data = compress(MODEL, audio, bandwidth=0.4)
    assert data == compress(MODEL, audio, 2)
    assert np.array_equal(decompress(data, MODEL, bandwidth=0.4), decompress(data, MODEL, 2))


def test_refusals():
    with pytest.raises(BitstreamError, match=r"does not say its rate; .* \(0.2, 0.4, 0.8 kbps\)"):
        decompress(b"12345678", MODEL)
    with pytest.raises(BitstreamError, match="0 bytes are less than a packet, which has 1 with 2 codes"):
        decompress(b"", MODEL, 2)
    with pytest.raises(ValueError, match="is not offered by this model"):
        decompress(b"12345678", MODEL, bandwidth=0.3)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"num_quantizers={count}, but this model has 1 to 4"):
            decompress(b"12345678", MODEL, count)
    with pytest.raises(ValueError, match="319 samples are less than a frame"):
        compress(MODEL, noise(HOP - 1))
    other = TINY["encodec"].model()
    for call in (lambda: compress(other, noise(HOP)), lambda: decompress(b"12345678", other, 1)):
        with pytest.raises(ValueError, match="hold codes of 16 values, and this codec's codebooks have 64 entries"):
            call()


def test_samples_are_cut_off_towards_zero():
    audio = np.array([0.5, 1.9 / 32768, -1.9 / 32768, 2.0, -2.0], np.float32)
    assert to_pcm16(audio).tolist() == [16384, 1, -1, 32767, -32768]


def test_commands(tmp_path):
    codec, speech, packets, back = (tmp_path / name for name in ("codec", "in.wav", "in.lyra", "out.wav"))
    MODEL.save_pretrained(codec)
    soundfile.write(speech, noise(7 * HOP + 5)[0], MODEL.config.sampling_rate)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    assert run("encode", speech, "-o", packets, "--codec", codec, "--bandwidth", 0.4).exit_code == 0
    assert packets.stat().st_size == 7 * packet_size(2)
    assert run("decode", packets, "-o", back, "--codec", codec, "--bandwidth", 0.4).exit_code == 0
    samples, rate = soundfile.read(back, dtype="int16")
    assert rate == MODEL.config.sampling_rate
    ours = to_pcm16(decompress(packets.read_bytes(), MODEL, 2))[0].astype(int)
    assert np.abs(samples - ours).max() <= 1
    assert "does not say its rate" in str(run("decode", packets, "-o", back, "--codec", codec).exception)
