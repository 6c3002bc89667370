"""Segments for codecs that look at the whole signal: each is coded alone, and decoded ones fade into each other."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from codec_lm_hf.configuration.funcodec import FunCodecConfig
from codec_lm_hf.configuration.hificodec import HifiCodecConfig
from tests.common.tiny import TINY

# All whose result at a frame depends on the whole signal: by norms over time, an LSTM in both directions, or padding.
WHOLE = ["hificodec", "funcodec", "funcodec-ds640", "funcodec-magphase", "funcodec-magangle", "speechtokenizer"]
every_whole = pytest.mark.parametrize("name", WHOLE)
SEGMENTS = {"chunk_length_s": 0.3, "overlap": 0.2}


def noise(samples):
    return torch.randn(1, 1, samples) * 0.1


@every_whole
def test_what_fits_into_one_segment_is_coded_as_without_segments(name):
    plain, segmented = TINY[name].model(), TINY[name].model(**SEGMENTS)
    audio = noise(segmented.config.chunk_stride)
    codes = segmented.encode(audio)
    assert torch.equal(codes.audio_codes, plain.encode(audio).audio_codes)
    assert torch.equal(segmented.decode(**codes).audio_values, plain.decode(**codes).audio_values)


@every_whole
def test_a_segment_does_not_know_of_the_others(name):
    """Its codes are those of its samples alone, so memory does not grow with the signal either."""
    plain, model = TINY[name].model(), TINY[name].model(**SEGMENTS)
    length, stride = model.config.chunk_length, model.config.chunk_stride
    audio = noise(5 * stride + 1234)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    codes = model.encode(audio)
    assert len(seen) == 6 and max(seen) <= length
    assert codes.audio_codes.shape[-1] == model._num_frames(audio.shape[-1])
    for index in range(6):
        alone = plain.encode(audio[..., index * stride : index * stride + length]).audio_codes
        start = index * model._slot
        assert torch.equal(codes.audio_codes[..., start : start + alone.shape[-1]], alone)


@every_whole
def test_decoded_segments_fade_into_each_other(name):
    """Outside of the overlaps a segment is as it is alone; inside, the next one grows evenly."""
    plain, model = TINY[name].model(), TINY[name].model(**SEGMENTS)
    length, stride, slot = model.config.chunk_length, model.config.chunk_stride, model._slot
    audio = noise(stride + length)
    codes = model.encode(audio)
    with torch.no_grad():
        joined = model.decode(**codes).audio_values[0, 0]
        first, second = (
            plain.decode(
                codes.audio_codes[..., index * slot : (index + 1) * slot],
                None if codes.audio_scales is None else codes.audio_scales[:, index : index + 1],
            ).audio_values[0, 0]
            for index in range(2)
        )
    torch.testing.assert_close(joined[:stride], first[:stride])
    torch.testing.assert_close(joined[len(first) : 2 * stride], second[len(first) - stride : stride])
    a, b = first[stride:], second[: len(first) - stride]
    share = torch.arange(1, len(a) + 1) / (len(a) + 1)
    torch.testing.assert_close(joined[stride : len(first)], a + share * (b - a), atol=1e-6, rtol=1e-4)


@every_whole
def test_the_audios_mask_says_which_codes_are_real(name):
    model = TINY[name].model(**SEGMENTS)
    stride = model.config.chunk_stride
    for samples in (10, stride, stride + 10, model.config.chunk_length + 10, 3 * stride + 777):
        lengths = torch.tensor([4 * stride, samples])
        mask = torch.arange(4 * stride) < lengths[:, None]
        audio = torch.randn(2, 1, 4 * stride) * 0.1
        codes = model.encode(audio, mask)
        assert torch.equal(model._codes_mask(lengths, codes.audio_codes.shape[-1]), codes.codes_mask)
        with torch.no_grad():
            decoded = model.decode(codes.audio_codes, codes.audio_scales, padding_mask=mask).audio_values
            assert torch.equal(decoded, model.decode(**codes, padding_mask=mask).audio_values)


@pytest.mark.parametrize("name", ["encodec-segments", "dac-latent", *WHOLE])
@pytest.mark.parametrize("overlap", [0.2, 0.6])
def test_a_row_fades_by_its_own_segments(name, overlap):
    """Those of a row that fills no first segment are shorter, and so are the weights that it fades by."""
    model = TINY[name].model(chunk_length_s=0.3, overlap=overlap)
    length, stride = model.config.chunk_length, model.config.chunk_stride
    lengths = [length + 2 * stride, (stride + length) // 2, stride + 1]
    audio = torch.randn(3, model.config.audio_channels, lengths[0]) * 0.1
    mask = torch.arange(lengths[0]) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        decoded = model.decode(**model.encode(audio, mask), padding_mask=mask).audio_values
        for row, samples in enumerate(lengths):
            codes = model.encode(audio[row : row + 1, :, :samples])
            alone = model.decode(**codes, padding_mask=mask[row : row + 1, :samples]).audio_values
            torch.testing.assert_close(decoded[row, :, :samples], alone[0], atol=2e-5, rtol=1e-4)


def test_a_norm_by_the_gain_of_the_whole_signal_needs_no_segments():
    """Tiles give the same codes, since the gain is measured before; only a live stream does not know it."""
    model = TINY["funcodec-causal"].model(normalize=True)
    assert model.tileable and not model.streamable
    audio = noise(20000)
    model.whole_seconds = 1e9
    whole = model.encode(audio)
    expected = model.decode(**whole).audio_values
    model.whole_seconds, model.tile_seconds = 0, 0.1
    assert torch.equal(model.encode(audio).audio_codes, whole.audio_codes)
    torch.testing.assert_close(model.decode(**whole).audio_values, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["encodec-segments", "dac-latent", *WHOLE])
def test_padding_may_be_longer_than_a_segment(name):
    """As that of a feature extractor with `padding="max_length"` is: there is nothing to code in it."""
    model = TINY[name].model(**SEGMENTS)
    length, stride = model.config.chunk_length, model.config.chunk_stride
    lengths, samples = torch.tensor([length + 100, 1000]), 4 * stride
    audio = torch.randn(2, model.config.audio_channels, samples) * 0.1
    mask = torch.arange(samples) < lengths[:, None]
    tight = lengths.max()
    with torch.no_grad():
        expected = model.encode(audio[..., :tight], mask[:, :tight])
        codes = model.encode(audio, mask)
        frames = expected.audio_codes.shape[-1]
        assert codes.audio_codes.shape[-1] == model._num_frames(samples)
        assert torch.equal(codes.audio_codes[..., :frames], expected.audio_codes)
        assert not codes.audio_codes[..., frames:].any() and not codes.codes_mask[:, frames:].any()
        decoded = model.decode(**codes, padding_mask=mask).audio_values
        audio_tight = model.decode(**expected, padding_mask=mask[:, :tight]).audio_values
    torch.testing.assert_close(decoded[..., :tight], audio_tight)
    assert not decoded[..., tight:].any()


def test_a_row_begins_in_its_first_segment():
    """And goes on in the next one, though the end of a segment may be padding."""
    model = TINY["encodec-segments"].model()
    slot = model._slot
    codes, scales = torch.zeros(2, 2, 3 * slot, dtype=torch.long), torch.ones(2, 3)
    for segment in (0, 1):
        mask = torch.ones(2, 3 * slot, dtype=torch.bool)
        mask[1, segment * slot : (segment + 1) * slot] = False
        with pytest.raises(ValueError, match="codes_mask has padding before or between real frames"):
            model.decode(codes, scales, codes_mask=mask)


def test_gaps_between_segments_are_refused():
    model = TINY["hificodec"].model(chunk_length_s=0.3007, overlap=0.0)
    audio = noise(20000)
    codes = model.encode(audio).audio_codes
    ragged = torch.arange(20000) < torch.tensor([[1000], [20000]])
    for decode in (
        lambda: model.decode(codes),
        lambda: model.decode(codes, padding_mask=torch.ones(1, 20000)),
        lambda: model(audio),
        lambda: model(audio.repeat(2, 1, 1), ragged),
    ):
        with pytest.raises(ValueError, match="of 4811 samples decodes to 4800, .*: set overlap to at least"):
            decode()


def test_only_gaps_after_full_segments_are_refused():
    """Within one segment nothing stands after the gap; at the end of a row, a part of a segment may be short."""
    model = TINY["hificodec"].model(chunk_length_s=0.3007, overlap=0.0)
    mask = torch.arange(20000) < torch.tensor([[1000], [4811]])
    with torch.no_grad():
        decoded = model(noise(20000).repeat(2, 1, 1), mask).audio_values
    assert decoded[1, 0, 4799] and not decoded[1, 0, 4811:].any()
    model = TINY["hificodec"].model(chunk_length_s=0.3007, overlap=0.5)
    samples = model.config.chunk_stride + 1
    with torch.no_grad():
        assert model(noise(samples)).audio_values.shape[-1] == samples


def test_segments_are_checked():
    with pytest.raises(StrictDataclassError, match="chunk_length_s needs overlap"):
        HifiCodecConfig(chunk_length_s=1.0)
    with pytest.raises(StrictDataclassError, match="overlap \\(1\\) a share from 0 to below 1"):
        HifiCodecConfig(chunk_length_s=1.0, overlap=1.0)
    with pytest.raises(StrictDataclassError, match="must be a frame of 320 samples or more"):
        HifiCodecConfig(chunk_length_s=0.001, overlap=0.1)
    with pytest.raises(StrictDataclassError, match="leave out semantic_mode or chunk_length_s"):
        FunCodecConfig(chunk_length_s=1.0, overlap=0.1, semantic_mode="addition")
    model = TINY["funcodec"].model(**SEGMENTS).train()
    with pytest.raises(ValueError, match="give one segment at a time: at most 4800 samples, got 5000"):
        model(noise(5000))
