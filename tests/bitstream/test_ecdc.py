"""The `.ecdc` format: EnCodec's own files, written bit for bit; damage ends in an error and never in a hang."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codec_lm_hf import EncodecEntropyLMConfig, EncodecEntropyLMModel
from codec_lm_hf.bitstream import ecdc
from codec_lm_hf.bitstream.arithmetic import TOTAL, ArithmeticDecoder, ArithmeticEncoder, cumulative_tables
from codec_lm_hf.bitstream.errors import BitstreamError
from codec_lm_hf.conversion_scripts.encodec import CONVERTER
from codec_lm_hf.conversion_scripts.engine import load_original
from tests.common.tiny import TINY
from tests.parity.harness import Case, find_cases

ODD = {"sampling_rate": 8000, "upsampling_ratios": (4, 3, 2), "target_bandwidths": (8.0,), "chunk_length_s": 0.1}
MODELS = {
    "mono": TINY["encodec"].model(original_name="encodec_24khz"),
    "segments": TINY["encodec-segments"].model(original_name="encodec_48khz", chunk_length_s=0.1),
    # Here the original's own reader counts other frames than its writer.
    "rate is no multiple of the hop": TINY["encodec-segments"].model(original_name="encodec_48khz", **ODD),
}


def entropy_model(size: int = 64) -> EncodecEntropyLMModel:
    torch.manual_seed(1)
    config = EncodecEntropyLMConfig(
        num_codebooks=4,
        codebook_size=size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        past_context=9,
        initializer_range=0.5,
    )
    return EncodecEntropyLMModel(config).eval()


LM = entropy_model()


def audio_for(model, samples: int) -> np.ndarray:
    rng = np.random.default_rng(samples)
    return (0.1 * rng.standard_normal((model.config.audio_channels, samples))).astype(np.float32)


@pytest.mark.parametrize("lm", [None, LM], ids=["plain", "lm"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("samples", [1, 1189, 3000])
def test_round_trip(name, samples, lm):
    model = MODELS[name]
    audio = audio_for(model, samples)
    data = ecdc.compress(model, audio, num_quantizers=3, lm=lm)
    header = ecdc.read_header(data)
    assert (header.model_name, header.samples) == (model.config.original_name, samples)
    assert (header.num_codebooks, header.uses_lm) == (3, lm is not None)
    with torch.no_grad():
        encoded = model.encode(torch.from_numpy(audio)[None], num_quantizers=3)
        expected = model.decode(**encoded).audio_values[0, :, :samples].numpy()
    decoded = ecdc.decompress(data, model, lm)
    assert decoded.shape == audio.shape and decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, expected, atol=1e-6)
    _, segments = ecdc.decode_codes(data, model, lm)
    codes = encoded.audio_codes[0]
    codes = codes if encoded.codes_mask is None else codes[:, encoded.codes_mask[0]]
    np.testing.assert_array_equal(np.concatenate(segments, axis=1), codes)


@pytest.mark.parametrize(("case", "bandwidth"), [("causal_mono", 3.6), ("segmented_stereo", 2.1)])
def test_bytes_equal_the_original_program(case, bandwidth):
    folder = next(path for path in find_cases() if path.parts[-2:] == ("encodec", case))
    config = CONVERTER.config_from_original(Case(folder).meta["config"])
    model = load_original(CONVERTER, folder / f"{case}.th", config)
    audio, _ = soundfile.read(folder / "ecdc_input.wav", dtype="float32", always_2d=True)
    assert ecdc.compress(model, audio.T, bandwidth) == (folder / "no_lm.ecdc").read_bytes()


def test_layout_of_a_file():
    """Header as Python's JSON writes it; codes least significant bit first, frame by frame."""
    data = ecdc.compress(MODELS["mono"], np.zeros((1, 320), np.float32), num_quantizers=2)
    text = b'{"m": "encodec_24khz", "al": 320, "nc": 2, "lm": false}'
    assert data.startswith(b"ECDC\x00" + struct.pack(">I", len(text)) + text)
    assert ecdc._pack(np.array([[0b000001, 0b100000], [0b000011, 0b111111]]), 6) == bytes(
        [0b11000001, 0b00000000, 0b11111110]
    )


def test_the_lm_pays_where_it_knows_the_codes():
    model = MODELS["mono"]
    silence = np.zeros((1, 32000), np.float32)
    with torch.no_grad():
        codes = model.encode(torch.from_numpy(silence)[None]).audio_codes
    lm = entropy_model().train()
    optimizer = torch.optim.Adam(lm.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        lm(labels=codes).loss.backward()
        optimizer.step()
    plain = ecdc.compress(model, silence)
    small = ecdc.compress(model, silence, lm=lm.eval())
    assert len(small) < 0.6 * len(plain)
    np.testing.assert_array_equal(ecdc.decompress(small, model, lm), ecdc.decompress(plain, model))


# --- the coder -----------------------------------------------------------------------------------------------------


def tables_of(seed: int, count: int, symbols: int, sharpness: float) -> torch.Tensor:
    """Random tables that end at 2**24 or before, as nearly all do."""
    logits = sharpness * torch.randn(count, symbols, generator=torch.Generator().manual_seed(seed))
    tables = cumulative_tables(logits.softmax(-1))
    widths = tables.diff(dim=-1, prepend=tables.new_zeros(count, 1))
    widths.scatter_add_(1, widths.argmax(-1, keepdim=True), (TOTAL - tables[:, -1:]).clamp(max=0))
    return widths.cumsum(-1)


@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=3),
    symbols=st.integers(2, 300),
    sharpness=st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    likely=st.booleans(),
)
@example(seed=0, lengths=[175], symbols=2, sharpness=100.0, likely=False)
@settings(max_examples=60, deadline=None)
def test_coder_round_trip(seed, lengths, symbols, sharpness, likely):
    """Streams one behind the other come back, and take about as many bits as information theory says."""
    rng = np.random.default_rng(seed)
    streams, data = [], b""
    for length in lengths:
        tables = tables_of(seed, length, symbols, sharpness)
        widths = tables.diff(dim=-1, prepend=tables.new_zeros(length, 1))
        codes = widths.argmax(-1).tolist() if likely else rng.integers(0, symbols, length).tolist()
        encoder, bits, rounding = ArithmeticEncoder(), 0.0, 0.0
        for code, table in zip(codes, tables.tolist(), strict=True):
            start = table[code - 1] if code else 0
            encoder.push(start, table[code])
            width = table[code] - start
            bits -= math.log2(width / TOTAL)
            # The coder's range is whole numbers, and at least TOTAL: a width may come out one smaller or larger.
            rounding += -math.log2(1 - 1 / max(width, 2))
        part = encoder.finish()
        assert abs(8 * len(part) - bits) <= 40 + rounding
        streams.append((codes, tables.tolist()))
        data += part
    position = 0
    for codes, tables in streams:
        decoder = ArithmeticDecoder(data, position)
        assert [decoder.pull(table) for table in tables] == codes
        position = decoder.finish()
    assert position == len(data)


@given(junk=st.binary(max_size=60), seed=st.integers(0, 99), sharpness=st.sampled_from([0.0, 3.0, 100.0]))
@settings(max_examples=100, deadline=None)
def test_coder_on_junk(junk, seed, sharpness):
    """Any bytes decode to symbols in range, or to an error."""
    decoder = ArithmeticDecoder(junk)
    with pytest.raises(BitstreamError):
        for table in tables_of(seed, 500, 50, sharpness).tolist():
            assert 0 <= decoder.pull(table) < 50
        raise BitstreamError("read to the end")


def test_every_symbol_keeps_a_place_in_the_table():
    for probabilities in (torch.tensor([1.0, 0.0, 0.0]), torch.full((1024,), 1 / 1024), torch.zeros(5)):
        table = cumulative_tables(probabilities)
        assert table.diff(prepend=table.new_zeros(1)).min() >= 2
        assert table[-1] <= TOTAL


def test_an_interval_that_only_grows_is_refused():
    """The symbol in the very middle, again and again: its bounds differ in their first bit, so none settles."""
    encoder = ArithmeticEncoder()
    with pytest.raises(BitstreamError, match="interval grew to 70 bits"):
        for _ in range(3):
            encoder.push(TOTAL // 2 - 1, TOTAL // 2 + 1)


# Made of probabilities that add up to more than 1 in float32; and symbols that the original, too, cannot read back.
BEYOND, UNREADABLE = [1921926, 16702694, TOTAL + 1], [2, 0, 2, 2, 2, 2, 2, 0, 1, 1, 1, 0]


def test_tables_that_end_beyond_the_range():
    encoder = ArithmeticEncoder()
    for code in UNREADABLE:
        encoder.push(BEYOND[code - 1] if code else 0, BEYOND[code])
    assert encoder.overflowed
    decoder = ArithmeticDecoder(encoder.finish())
    with pytest.raises(BitstreamError):
        assert [decoder.pull(BEYOND) for _ in UNREADABLE] == UNREADABLE
        raise AssertionError("these symbols come back; find others that do not")


def test_no_file_is_written_that_cannot_be_read(monkeypatch):
    # The last float bits, and with them such a table, differ from machine to machine, so this one is put in place.
    monkeypatch.setattr(ecdc, "cumulative_tables", lambda probabilities: torch.tensor([BEYOND]))
    lm = EncodecEntropyLMModel(EncodecEntropyLMConfig(num_codebooks=1, codebook_size=3, hidden_size=8)).eval()
    with pytest.raises(BitstreamError, match="Compress without the language model"):
        ecdc._pack_with_lm(np.array([UNREADABLE]), lm)
    readable = np.array([[2, 1, 1, 0, 1, 2]])
    assert ecdc._reads_back(ecdc._pack_with_lm(readable, lm), readable, lm)


# --- damage --------------------------------------------------------------------------------------------------------


def sample(name: str, lm=None) -> bytes:
    return ecdc.compress(MODELS[name], audio_for(MODELS[name], 1500), num_quantizers=2, lm=lm)


SAMPLES = {(name, lm is not None): sample(name, lm) for name in ("mono", "segments") for lm in (None, LM)}
KINDS = [pytest.param(*key, id=f"{key[0]}-{'lm' if key[1] else 'plain'}") for key in SAMPLES]


@pytest.mark.parametrize(("name", "uses_lm"), KINDS)
def test_every_truncation_is_noticed(name, uses_lm):
    data = SAMPLES[name, uses_lm]
    for length in range(len(data)):
        with pytest.raises(BitstreamError, match="cut short|no .ecdc file|not zero|no symbol"):
            ecdc.decode_codes(data[:length], MODELS[name], LM)


@pytest.mark.parametrize(("name", "uses_lm"), KINDS)
@given(position=st.integers(0, 10**6), also=st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_flipped_bits_end_in_an_error_or_in_codes(name, uses_lm, position, also):
    """There is no checksum, so some damage is only heard; but nothing hangs, and what comes back is in range."""
    data = bytearray(SAMPLES[name, uses_lm])
    for place in (position, also):
        data[place // 8 % len(data)] ^= 1 << place % 8
    try:
        header, segments = ecdc.decode_codes(bytes(data), MODELS[name], LM)
    except BitstreamError:
        return
    assert all(codes.min() >= 0 and codes.max() < 64 for codes in segments)
    audio = ecdc.decompress(bytes(data), MODELS[name], LM)
    assert audio.shape == (MODELS[name].config.audio_channels, header.samples)


@given(junk=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_junk_is_refused(junk):
    for data in (junk, b"ECDC" + junk, b"ECDC\x00" + junk, file_with(junk)):
        with pytest.raises(BitstreamError):
            ecdc.decompress(data, MODELS["mono"], LM)


def file_with(text: bytes | dict, payload: bytes = b"") -> bytes:
    text = json.dumps(text).encode() if isinstance(text, dict) else text
    return b"ECDC\x00" + struct.pack(">I", len(text)) + text + payload


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=5), st.lists(st.integers())
)


@given(
    fields=st.fixed_dictionaries(
        {
            "m": st.just("encodec_24khz") | VALUES,
            "al": st.integers(1, 2000) | VALUES,
            "nc": st.integers(1, 4) | VALUES,
            "lm": st.booleans() | VALUES,
        }
    ),
    payload=st.binary(max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_any_header_is_read_or_refused(fields, payload):
    try:
        header, segments = ecdc.decode_codes(file_with(fields, payload), MODELS["mono"], LM)
    except BitstreamError:
        return
    assert segments[0].shape == (header.num_codebooks, -(-header.samples // 320))


GOOD = {"m": "encodec_24khz", "al": 320, "nc": 2, "lm": False}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no .ecdc file"),
        (b"RIFFxxxxxxxx", "no .ecdc file"),
        (b"ECDC\x01" + bytes(20), "version 1"),
        (b"ECDC\x00\xff\xff\xff\xff" + bytes(20), "claims 4294967295 bytes"),
        (file_with(b"{"), "not understood"),
        (file_with(b"\xff\xfe{"), "not understood"),
        (file_with(b"[" * 60000), "not understood"),
        (file_with(b"[]"), "JSON list, not an object"),
        (file_with({}), "'m' is 'None'"),
        (file_with({**GOOD, "al": 0}), "'al' is '0'"),
        (file_with({**GOOD, "al": 320.0}), "'al' is '320.0'"),
        (file_with({**GOOD, "al": True}), "'al' is 'True'"),
        (file_with({**GOOD, "nc": -1}), "'nc' is '-1'"),
        (file_with({**GOOD, "lm": 0}), "'lm' is '0'"),
        (file_with({**GOOD, "m": "dac"}, b"xx"), "written by 'dac', and the codec given is 'encodec_24khz'"),
        (file_with({**GOOD, "nc": 5}, b"xxxx"), "5 codes per frame, and the codec 4"),
        (file_with(GOOD, b"x"), "cut short"),
        (file_with(GOOD, b"x\xff"), "not zero"),
        (file_with(GOOD, b"x\x00x"), "1 bytes are left"),
        (file_with({**GOOD, "lm": True}, b"xxxx"), "written with a language model"),
    ],
)
def test_what_is_wrong_is_said(data, message):
    with pytest.raises(BitstreamError, match=message):
        ecdc.decompress(data, MODELS["mono"])


@pytest.mark.parametrize("name", ["mono", "segments"])
@pytest.mark.parametrize("uses_lm", [False, True])
@pytest.mark.parametrize("samples", [10**9, 10**18, 10**4000])
def test_huge_claims_cost_nothing(name, uses_lm, samples):
    model = MODELS[name]
    fields = {"m": model.config.original_name, "al": samples, "nc": 4, "lm": uses_lm}
    payload = struct.pack(">f", 0.1) + np.random.default_rng(0).bytes(200)
    with pytest.raises(BitstreamError):
        ecdc.decompress(file_with(fields, payload), model, LM)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_senseless_scales_are_refused(scale):
    data = bytearray(SAMPLES["segments", False])
    size = ecdc.read_header(bytes(data)).size
    data[size : size + 4] = struct.pack(">f", scale)
    with pytest.raises(BitstreamError, match="scale of a segment"):
        ecdc.decompress(bytes(data), MODELS["segments"])


def test_codes_beyond_the_codebook_are_refused():
    model = TINY["encodec"].model(original_name="encodec_24khz", codebook_size=50)
    with pytest.raises(BitstreamError, match="a code of 63, where codebooks have 50 entries"):
        ecdc.decompress(file_with({**GOOD, "nc": 1}, b"\x3f"), model)


# --- use -----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    model, audio = MODELS["mono"], np.zeros((1, 320), np.float32)
    with pytest.raises(ValueError, match="this codec is a StftCodecModel: use .codes"):
        ecdc.compress(TINY["stft_codec"].model(), audio)
    with pytest.raises(ValueError, match="set config.original_name"):
        ecdc.compress(TINY["encodec"].model(), audio)
    with pytest.raises(ValueError, match=r"shape \(channels, samples\), got \(320,\)"):
        ecdc.compress(model, audio[0])
    with pytest.raises(ValueError, match="float in"):
        ecdc.compress(model, np.zeros((1, 320), np.int16))
    with pytest.raises(ValueError, match="7 kbps is not offered"):
        ecdc.compress(model, audio, 7.0)
    with pytest.raises(ValueError, match="4 codebooks of 32 entries; this file needs 4 of 64"):
        ecdc.compress(model, audio, lm=entropy_model(32))
    with pytest.raises(ValueError, match="4 codebooks of 32 entries; this file needs 2 of 64"):
        ecdc.decompress(SAMPLES["mono", True], model, entropy_model(32))
    with pytest.raises(ValueError, match=r"call lm.eval\(\)"):
        ecdc.compress(model, audio, lm=entropy_model().train())


def test_native_checkpoints_bear_the_original_names(tmp_path):
    from transformers import EncodecConfig

    from codec_lm_hf import EncodecCodecConfig

    EncodecConfig().save_pretrained(tmp_path)
    assert EncodecCodecConfig.from_pretrained(tmp_path).original_name == "encodec_24khz"
