"""What FunCodec has of its own: semantic ids, structured dropout, audio shorter than its spectra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError

from codec_lm_hf import FunCodecConfig, FunCodecModel
from codec_lm_hf.modeling.funcodec import planes_of
from codec_lm_hf.modeling.layers.stft import Stft
from tests.common.tiny import TINY, TinyCase

FIELDS = TINY["funcodec"].fields
MODES = {
    "residual": {"semantic_mode": "residual"},
    "addition": {"semantic_mode": "addition", "semantic_downsampling_conv": False},
    "concat": {"semantic_mode": "concat"},
}


def semantic_model(mode):
    return TinyCase("funcodec", {**FIELDS, **MODES[mode], "semantic_vocab_size": 12}).model()


every_mode = pytest.mark.parametrize("mode", MODES)


@every_mode
def test_rows_with_semantic_ids_do_not_depend_on_their_padding(mode):
    model = semantic_model(mode)
    lengths, steps = [3000, 1200], [19, 6]
    audio = torch.randn(2, 1, 3000) * 0.1
    mask = torch.arange(3000) < torch.tensor(lengths)[:, None]
    ids = torch.randint(0, 12, (2, 19))
    ids[1, 6:] = -1
    with torch.no_grad():
        codes = model.encode(audio, mask, semantic_ids=ids)
        decoded = model.decode(**codes, padding_mask=mask, semantic_ids=ids).audio_values
        torch.testing.assert_close(model(audio, mask, semantic_ids=ids).audio_values, decoded)
        for row, (length, count) in enumerate(zip(lengths, steps, strict=True)):
            own = {"semantic_ids": ids[row : row + 1, :count]}
            alone = model.encode(audio[row : row + 1, :, :length], **own)
            frames = alone.audio_codes.shape[-1]
            assert torch.equal(codes.audio_codes[row, :, :frames], alone.audio_codes[0])
            audio_alone = model.decode(**alone, padding_mask=mask[row : row + 1, :length], **own).audio_values
            torch.testing.assert_close(decoded[row, :, :length], audio_alone[0], atol=2e-5, rtol=1e-4)


@every_mode
def test_training_reaches_every_weight_that_semantic_ids_bring(mode):
    model = semantic_model(mode).train()
    model(torch.randn(2, 1, 3000) * 0.1, semantic_ids=torch.randint(0, 12, (2, 20))).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
    assert model.semantic.embedding.weight.grad.abs().sum() > 0


@every_mode
def test_a_last_frame_that_audio_does_not_fill_has_no_ids_of_its_own(mode):
    """As in the original, which cuts what it made of the ids at the whole hops of the audio."""
    model = semantic_model(mode)
    audio, ids = torch.randn(1, 1, 8 * model.config.hop_length + 1) * 0.1, torch.randint(0, 12, (1, 30))
    vectors = model.semantic(ids, 9, torch.tensor([8]))
    torch.testing.assert_close(vectors[..., :8], model.semantic(ids, 9)[..., :8])
    torch.testing.assert_close(vectors[..., 8], vectors[..., 7])
    with torch.no_grad():
        codes = model.encode(audio, semantic_ids=ids)
        decoded = model.decode(**codes, padding_mask=torch.ones_like(audio[:, 0]), semantic_ids=ids).audio_values
        told = model.decode(**codes, semantic_ids=ids, whole_frames=torch.tensor([8])).audio_values
        assert torch.equal(decoded, told[..., : audio.shape[-1]])
        assert not torch.equal(told, model.decode(**codes, semantic_ids=ids).audio_values)


@every_mode
def test_semantic_ids_matter(mode):
    model = semantic_model(mode)
    audio, ids = torch.randn(1, 1, 3000) * 0.1, torch.zeros(1, 20, dtype=torch.long)
    with torch.no_grad():
        codes = model.encode(audio, semantic_ids=ids)
        same = torch.equal(codes.audio_codes, model.encode(audio, semantic_ids=ids + 5).audio_codes)
        assert same == (mode != "residual")
        first, second = (model.decode(**codes, semantic_ids=ids + shift).audio_values for shift in (0, 5))
    assert not torch.allclose(first, second)


def supervised(**fields):
    fields = {"semantic_mode": "supervision", "semantic_vocab_size": 12, **fields}
    return TinyCase("funcodec", {**FIELDS, "quantizer_dropout": 0.0, **fields}).model().train()


def encoder_gradients(model, audio, ids):
    torch.manual_seed(0)
    output = model(audio, semantic_ids=ids)
    output.loss.backward()
    return output, [parameter.grad for parameter in model.encoder.parameters()]


def test_supervision_is_a_classifier_of_the_first_codebook_in_training():
    audio, ids = torch.randn(2, 1, 3000) * 0.1, torch.randint(0, 12, (2, 20))
    output, followed = encoder_gradients(supervised(), audio, ids)
    frames = output.audio_codes.shape[-1]
    assert output.semantic_logits.shape == (2, 12, frames)
    cross_entropy = F.cross_entropy(output.semantic_logits[..., :10], ids[:, ::2][:, :frames])
    without = supervised(semantic_mode=None)
    missing = without.load_state_dict(supervised().state_dict(), strict=False)
    assert missing.missing_keys == [] and all(key.startswith("classifier.") for key in missing.unexpected_keys)
    alone, plain = encoder_gradients(without, audio, None)
    torch.testing.assert_close(output.loss, alone.loss + cross_entropy)
    # How far the encoder follows the classifier is a number of its own.
    unmoved = encoder_gradients(supervised(semantic_gradient_scale=0.0), audio, ids)[1]
    half = encoder_gradients(supervised(semantic_gradient_scale=0.5), audio, ids)[1]
    for all_of_it, half_of_it, none, other in zip(followed, half, unmoved, plain, strict=True):
        torch.testing.assert_close(none, other)
        torch.testing.assert_close(half_of_it - other, (all_of_it - other) / 2, atol=1e-6, rtol=1e-3)
    assert any(not torch.allclose(one, other) for one, other in zip(followed, plain, strict=True))


def test_supervision_does_not_depend_on_padding_and_codes_need_no_ids():
    model = supervised()
    mask = torch.arange(3000) < torch.tensor([3000, 1200])[:, None]
    audio, ids = torch.randn(2, 1, 3000) * 0.1, torch.randint(0, 12, (2, 19))
    ids[1, 7:] = -1
    both = model(audio, mask, semantic_ids=ids)
    frames = int(both.codes_mask[1].sum())
    # Of the second row four frames have ids.
    scores = torch.cat([both.semantic_logits[0].t(), both.semantic_logits[1, :, :4].t()])
    expected = F.cross_entropy(scores, torch.cat([ids[0, ::2], ids[1, :7:2]]))
    torch.testing.assert_close(model.classifier.loss(both.semantic_logits, ids, both.codes_mask), expected)
    model = supervised()
    alone = model(audio[1:, :, :1200], semantic_ids=ids[1:, :7])
    torch.testing.assert_close(both.semantic_logits[1, :, :frames], alone.semantic_logits[0], atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="'supervision' needs semantic_ids"):
        model(audio)
    model.eval()
    assert model(audio, mask).audio_values.shape == audio.shape


def test_too_few_ids_repeat_the_last_and_too_many_are_cut():
    model = semantic_model("addition")
    ids = torch.tensor([[3, 0, 7, 0, 5]])
    found = model.semantic(ids, 5)[0].t()
    table = model.semantic.embedding.weight
    assert torch.equal(found, table[[3, 7, 5, 5, 5]])
    assert torch.equal(model.semantic(ids, 2)[0].t(), table[[3, 7]])


def test_semantic_ids_are_checked():
    model = semantic_model("residual")
    audio = torch.randn(2, 1, 1000) * 0.1
    good = torch.zeros(2, 6, dtype=torch.long)
    with pytest.raises(ValueError, match="needs semantic_ids"):
        model.encode(audio)
    for ids, message in [
        (good[:1], "has 1 rows, but the batch has 2"),
        (good + 12, "must lie in 0..11 .*found 12"),
        (good - 2, "must begin with an id"),
        (torch.tensor([[0, -1, 0], [0, 0, 0]]), "pad shorter rows with -1 at the right"),
        (good.float(), "must be integers of shape"),
        (good[..., :0], "must begin with an id"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.encode(audio, semantic_ids=ids)


def test_a_codec_without_semantic_ids_does_not_take_other_conditions():
    with pytest.raises(TypeError, match="speaker"):
        TINY["funcodec"].model().encode(torch.randn(1, 1, 1000) * 0.1, speaker=torch.zeros(1))


def test_a_semantic_codec_cannot_be_streamed():
    fields = {**TINY["funcodec-causal"].fields, "semantic_mode": "addition"}
    assert not TinyCase("funcodec", fields).model().streamable


def test_a_step_of_training_draws_one_of_the_choices():
    model = TinyCase("funcodec", {**FIELDS, "quantizer_choices": (1, 3, 8)}).model().train()
    audio = torch.randn(2, 1, 1000) * 0.1
    drawn = {model(audio).audio_codes.shape[1] for _ in range(12)}
    assert drawn == {1, 3}
    assert model(audio, num_quantizers=4).audio_codes.shape[1] == 4


@pytest.mark.parametrize("samples", [1, 159, 160, 15963])
def test_spectra_set_the_lengths(samples):
    """Frames are the original's; audio whose length is known is as long as the input, its end silent."""
    fields = {**TINY["funcodec-magphase"].fields, "window_size": 512, "stft_hop_length": 160}
    fields |= {"frequency_ratios": (4, 8, 8), "upsampling_ratios": (2, 1, 1)}
    model = TinyCase("funcodec", fields).model()
    audio = torch.randn(1, 1, samples) * 0.1
    codes = model.encode(audio)
    frames = -(-(samples // 160 + 1) // 2)
    assert codes.audio_codes.shape[-1] == frames
    made = frames * 320 - 160
    assert model.decode(**codes).audio_values.shape[-1] == made
    rebuilt = model(audio).audio_values
    assert rebuilt.shape == audio.shape and not rebuilt[..., made:].any() and rebuilt[..., :made].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domain": "mel"}, "domain must be one of"),
        ({"frequency_ratios": (4, 4, 4, 4)}, "need a domain of spectra"),
        ({"domain": "stft", "frequency_ratios": (4, 4)}, "one stride for each stage"),
        ({"domain": "stft", "frequency_ratios": (4, 4, 4, 2)}, "must be half of window_size"),
        ({"encoder_group_ratio": 1}, "group ratios need frequency_ratios"),
        ({"quantizer_choices": (0, 4)}, "must be numbers from 1 on"),
        ({"semantic_mode": "ptts"}, "semantic_mode must be one of"),
        ({"audio_channels": 2}, "FunCodec is mono"),
    ],
)
def test_configurations_that_make_no_sense(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        FunCodecConfig(**fields)


def test_published_sizes():
    """Parameters of encoder and decoder, in the original's table of models 14.85 M for the time domain."""
    config = FunCodecConfig.from_preset("audio_codec-encodec-en-libritts-16k-nq32ds320")
    with torch.device("meta"):
        model = FunCodecModel(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(14.85e6, rel=1e-3)
    assert (config.frame_rate, config.bandwidths[0], config.bandwidths[-1]) == (50, 0.5, 16.0)


def test_angles_do_not_hang_on_the_sign_of_a_zero():
    """The first window is mirrored at its middle, so its spectrum is real; an FFT leaves rounding errors beside it."""
    torch.manual_seed(0)
    spectrum = Stft(128, 32, centred=True)(torch.randn(1, 1, 640))
    real, imaginary = spectrum.chunk(2, dim=1)
    assert (imaginary[..., 0].abs() < 1e-6 * real[..., 0].abs().max()).all() and (real[..., 0] < 0).any()
    other_signs = torch.cat([real, torch.cat([-imaginary[..., :1], imaginary[..., 1:]], dim=-1)], dim=1)
    angles = planes_of(spectrum, "mag_angle", robust_angles=True)[:, 1]
    others = planes_of(other_signs, "mag_angle", robust_angles=True)[:, 1]
    torch.testing.assert_close(others, angles, atol=0, rtol=0)
    torch.testing.assert_close(angles[:, 1:-1, 1:], torch.atan2(imaginary, real)[:, 1:-1, 1:])
