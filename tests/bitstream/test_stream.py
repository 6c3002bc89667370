"""Block by block, every codec gives what it gives for the whole; damage ends in an error, never in noise."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec_lm_hf.bitstream import stream
from codec_lm_hf.bitstream.codes import CodesHeader, CodesReader, CodesWriter
from codec_lm_hf.bitstream.errors import BitstreamError
from codec_lm_hf.bitstream.stream import decode_blocks, encode_blocks, trimmed
from tests.common.tiny import TINY

MODELS = {name: case.model() for name, case in TINY.items()}
every_codec = pytest.mark.parametrize("name", TINY)
examples = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@every_codec
@examples
@given(samples=st.integers(1, 60000), block=st.integers(3000, 30000), count=st.integers(1, 4), seed=st.integers(0, 9))
def test_blocks_joined_equal_the_whole(name, samples, block, count, seed):
    model = MODELS[name]
    audio = np.random.default_rng(seed).standard_normal((model.config.audio_channels, samples), np.float32) * 0.1
    with torch.no_grad():
        whole = model.encode(torch.from_numpy(audio)[None], num_quantizers=count)
        whole_audio = model.decode(whole.audio_codes, whole.audio_scales).audio_values[0].numpy()
    with pytest.MonkeyPatch.context() as patch:
        # Three segments of the codecs that have segments.
        patch.setattr(stream, "_SECONDS", 3 * (model.config.chunk_length_s or 0.1))
        pieces = list(encode_blocks(model, np.split(audio, range(block, samples, block), axis=1), count))
        decoded = np.concatenate(list(decode_blocks(model, pieces)), axis=1)
    np.testing.assert_array_equal(np.concatenate([codes for codes, _ in pieces], axis=1), whole.audio_codes[0])
    if whole.audio_scales is not None:
        np.testing.assert_array_equal(np.concatenate([scales for _, scales in pieces]), whole.audio_scales[0])
    np.testing.assert_allclose(decoded, whole_audio, atol=2e-5, rtol=1e-4)


@every_codec
def test_half_precision(name):
    model = TINY[name].model().to(torch.bfloat16)
    audio = np.random.default_rng(0).standard_normal((model.config.audio_channels, 9000), np.float32) * 0.1
    pieces = list(encode_blocks(model, [audio]))
    codes = torch.from_numpy(np.concatenate([codes for codes, _ in pieces], axis=1))[None]
    scales = None if pieces[0][1] is None else torch.from_numpy(np.concatenate([scales for _, scales in pieces]))[None]
    expected = MODELS[name].decode(codes, scales).audio_values.shape[-1]
    assert sum(block.shape[1] for block in decode_blocks(model, pieces)) == expected


@every_codec
@pytest.mark.parametrize("samples", [1, 3998, 4000, 60000])
def test_files_decode_to_the_length_of_their_audio(name, samples):
    model, file = MODELS[name], io.BytesIO()
    audio = np.random.default_rng(0).standard_normal((model.config.audio_channels, samples), np.float32) * 0.1
    writer = CodesWriter(file, CodesHeader.of(model))
    for codes, scales in encode_blocks(model, [audio]):
        writer.write(codes, scales)
    writer.close(samples)
    reader = CodesReader(io.BytesIO(file.getvalue()))
    assert sum(block.shape[1] for block in trimmed(decode_blocks(model, reader), reader)) == samples


@pytest.fixture(scope="module")
def recording():
    """A `.codes` file of the tiny STFT codec, and its audio."""
    model = MODELS["stft_codec"]
    file = io.BytesIO()
    writer = CodesWriter(file, CodesHeader.of(model))
    for codes, scales in encode_blocks(model, [np.random.default_rng(0).standard_normal((1, 5000), np.float32) * 0.1]):
        writer.write(codes, scales)
    writer.close(5000)
    return file.getvalue(), decoded(file.getvalue())


def decoded(data: bytes) -> np.ndarray:
    reader = CodesReader(io.BytesIO(data))
    reader.header.check_codec(MODELS["stft_codec"])
    return np.concatenate(list(trimmed(decode_blocks(MODELS["stft_codec"], reader), reader)), axis=1)


def test_the_length_is_that_of_the_audio(recording):
    assert recording[1].shape == (1, 5000)


@pytest.mark.parametrize("kept", [0, 1])
def test_missing_blocks_are_noticed(kept):
    """Each block has a checksum, and none of them says how many there are."""
    model, file = MODELS["stft_codec"], io.BytesIO()
    writer = CodesWriter(file, CodesHeader.of(model))
    for _ in range(kept):
        writer.write(np.zeros((model.config.num_codebooks, 10), int))
    writer.close(20 * model.config.hop_length)
    with pytest.raises(BitstreamError, match=r"of the \d+ that there should be: blocks are missing"):
        decoded(file.getvalue())


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_never_become_audio(recording, data):
    """Any bytes replaced, cut out or put in: an error, unless the file is what it was."""
    original, audio = recording
    start = data.draw(st.integers(0, len(original) - 1))
    end = data.draw(st.integers(start, min(len(original), start + 40)))
    damaged = original[:start] + data.draw(st.binary(max_size=40)) + original[end:]
    try:
        result = decoded(damaged)
    except BitstreamError:
        return
    assert damaged == original
    np.testing.assert_array_equal(result, audio)
