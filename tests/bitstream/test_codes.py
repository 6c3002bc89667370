"""The `.codes` format: any codes survive, and no damage goes unnoticed."""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_lm_hf.bitstream.codes import CodesHeader, CodesReader, CodesWriter, pack_codes, unpack_codes
from codec_lm_hf.bitstream.errors import BitstreamError
from codec_lm_hf.modeling.quantization import Codebook
from tests.common.tiny import TINY


def header(codebooks=3, size=1000):
    return CodesHeader("codec", None, "0" * 16, 16000, 1, 320, codebooks, size)


def written(blocks, samples=4321, **options):
    file = io.BytesIO()
    writer = CodesWriter(file, header(**options))
    for codes, scales in blocks:
        writer.write(codes, scales)
    writer.close(samples)
    return file.getvalue()


def read(data):
    reader = CodesReader(io.BytesIO(data))
    return list(reader), reader


@given(
    size=st.integers(1, 5000),
    codebooks=st.integers(1, 9),
    frames=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_round_trip(size, codebooks, frames, seed):
    rng = np.random.default_rng(seed)
    blocks = [(rng.integers(0, size, (codebooks, count)), rng.random(2, np.float32)) for count in frames]
    back, reader = read(written(blocks, size=size, codebooks=codebooks))
    assert reader.samples == 4321 and reader.header.codebook_size == size
    for (codes, scales), (ours, our_scales) in zip(blocks, back, strict=True):
        np.testing.assert_array_equal(codes, ours)
        np.testing.assert_array_equal(scales, our_scales)


def test_packing_is_most_significant_bit_first():
    assert pack_codes(np.array([[0b1000000001], [0b0000000011]]), 10) == bytes([0b10000000, 0b01000000, 0b00110000])
    np.testing.assert_array_equal(unpack_codes(bytes([0b10000000, 0b01000000, 0b00110000]), 10, 2, 1), [[513], [3]])


def sample():
    rng = np.random.default_rng(0)
    return written([(rng.integers(0, 1000, (3, 20)), None), (rng.integers(0, 1000, (3, 7)), None)])


@pytest.mark.parametrize("length", range(len(sample())))
def test_every_truncation_is_noticed(length):
    with pytest.raises(BitstreamError, match="cut short|checksum|not understood|no .codes file"):
        read(sample()[:length])


@given(position=st.integers(0, len(sample()) * 8 - 1))
@settings(max_examples=300, deadline=None)
def test_every_flipped_bit_is_noticed(position):
    data = bytearray(sample())
    data[position // 8] ^= 1 << position % 8
    with pytest.raises(BitstreamError):
        read(bytes(data))


@pytest.mark.parametrize("more", [b"\0", sample()])
def test_what_follows_the_end_is_noticed(more):
    with pytest.raises(BitstreamError, match="something follows the end of the codes, as where files were joined"):
        read(sample() + more)


@given(junk=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_junk_is_refused(junk):
    for data in (junk, b"CLMC" + junk, b"CLMC\x01" + junk):
        with pytest.raises(BitstreamError):
            read(data)


def test_writer_refuses_codes_that_do_not_fit():
    writer = CodesWriter(io.BytesIO(), header())
    with pytest.raises(ValueError, match=r"shape \(3, frames\)"):
        writer.write(np.zeros((2, 5), int))
    with pytest.raises(ValueError, match="0..999, found 1000..1000"):
        writer.write(np.full((3, 5), 1000))
    with pytest.raises(ValueError, match="0..999, found -1..-1"):
        writer.write(np.full((3, 5), -1))
    with pytest.raises(ValueError, match="must be integers, got float64"):
        writer.write(np.zeros((3, 5)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_codebooks", 10**9, r"num_codebooks must be an integer in 1..64, got 1000000000"),
        ("num_codebooks", 0, "num_codebooks must be"),
        ("codebook_size", -5, "codebook_size must be"),
        ("sampling_rate", 16000.5, "sampling_rate must be"),
        ("hop_length", None, "hop_length must be"),
        ("channels", True, "channels must be"),
        ("codec", 7, "codec must be a text"),
        ("revision", 7, "revision must be a text"),
    ],
)
def test_a_header_that_lies_is_refused_though_its_checksum_is_right(field, value, message):
    """Also because it would ask for much memory."""
    text = json.dumps({**asdict(header()), field: value}).encode()
    start = b"CLMC" + struct.pack("<BI", 1, len(text)) + text
    with pytest.raises(BitstreamError, match=message):
        read(start + struct.pack("<I", zlib.crc32(start)))


def test_a_header_without_end_is_refused():
    start = b"CLMC" + struct.pack("<BI", 1, 60000) + b"[" * 60000
    with pytest.raises(BitstreamError, match="the header is not understood"):
        read(start + struct.pack("<I", zlib.crc32(start)))


def test_another_codec_is_refused():
    ours, other = TINY["encodec"].model(), TINY["encodec"].model()
    other.quantizer.layers[0].codebook.embed += 1
    with pytest.raises(BitstreamError, match="has other codebooks"):
        CodesHeader.of(ours).check_codec(other)
    CodesHeader.of(ours).check_codec(ours)
    for field, value in (("sampling_rate", 8000), ("channels", 2), ("hop_length", 100), ("codebook_size", 32)):
        with pytest.raises(BitstreamError, match=f"this file has {field} {value}"):
            replace(CodesHeader.of(ours), **{field: value}).check_codec(ours)
    with pytest.raises(BitstreamError, match="this file has 5 codebooks"):
        replace(CodesHeader.of(ours), num_codebooks=5).check_codec(ours)
    assert CodesHeader.of(ours.to(torch.bfloat16)).fingerprint == CodesHeader.of(TINY["encodec"].model()).fingerprint


def test_the_fingerprint_is_of_all_codebooks():
    """Those that follow running means, and those that are learnt by gradient."""
    for name in ("encodec", "hificodec"):
        model = TINY[name].model()
        before = CodesHeader.of(model).fingerprint
        codebook = [module for module in model.modules() if isinstance(module, Codebook)][-1]
        with torch.no_grad():
            codebook.embed[0, 0] += 1
        assert CodesHeader.of(model).fingerprint != before, name
