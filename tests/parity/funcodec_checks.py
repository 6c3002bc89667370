"""FunCodec against the original: codec, training step of the quantizer, discriminators, losses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

import codec_lm_hf
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import load_original
from tests.parity import funcodec_losses
from tests.parity.harness import Case

# The tolerance of case.json.
FLOAT = {"atol": 1e-4, "rtol": 1e-3}


def check(case: Case, workspace: Path) -> None:
    # The configuration is read from the config.yaml beside the weights, as in a released directory.
    (weights,) = case.folder.glob("*.pth")
    folder = codec_lm_hf.convert("funcodec", weights, workspace / "codec")
    model = codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval()
    with torch.no_grad():
        check_latents(case, model)
        if "ppg" in case:
            check_semantic(case, model)
        else:
            check_codec(case, model)
            check_decoding(case, model)
        if case.names("forward.recon_speech"):
            check_losses(case, model)
        if case.names("disc."):
            check_discriminator(case, weights)
    if case.names("train."):
        check_training_step(case, model)


def channels_last(latents):
    return latents.transpose(1, 2)


def same_if_recorded(case: Case, name: str, value, **tolerance) -> None:
    if name in case:
        case.same(name, value, **tolerance)


def gains(model, audio):
    """RMS of each row, `(batch, 1)`; ones where the model leaves audio as loud as it is."""
    return model._scale(audio, None) if model.config.normalize else torch.ones(len(audio), 1)


def segments_of(model, audio):
    """What is coded at once: the segments, or all of the audio."""
    if model.config.chunk_length is None:
        return [audio]
    starts = range(0, audio.shape[-1], model.config.chunk_stride)
    return [audio[..., start : start + model.config.chunk_length] for start in starts]


def network_input(model, audio):
    """What the encoder reads of audio that is normalised."""
    if model.analysis is None:
        return audio
    planes = model._planes(audio)
    return planes.flatten(1, 2) if model.config.frequency_ratios is None else planes


def encoder_latents(model, audio):
    """What the encoder makes of audio once normalised, without what semantic ids take off."""
    return model.encoder(network_input(model, audio / gains(model, audio)[..., None]))


def check_latents(case: Case, model) -> None:
    audio = case.input("input_values")[:, None]
    for index, segment in enumerate(segments_of(model, audio)):
        scale = gains(model, segment)
        same_if_recorded(case, f"segment{index}.scale", scale, **FLOAT)
        if index == 0:
            features = network_input(model, segment / scale[..., None])
            same_if_recorded(case, "frontend.features", features, **FLOAT)
        same_if_recorded(case, f"segment{index}.latents", channels_last(encoder_latents(model, segment)), **FLOAT)


def semantic_ids(case: Case):
    """The ids, which the original also takes as scores `(batch, steps, kinds)`."""
    given = case.input("ppg")
    return given.argmax(-1) if given.ndim == 3 else given


def check_semantic(case: Case, model) -> None:
    audio, ids = case["input_values"][:, None], semantic_ids(case)
    output = model.encode(audio, semantic_ids=ids)
    if "ppg_latents" in case:
        steps = case["ppg_latents"].shape[1]
        whole = model._whole_frames(audio, None)
        case.same("ppg_latents", channels_last(model.semantic(ids, steps, whole)), **FLOAT)
    same_if_recorded(case, "codes", output.audio_codes.transpose(0, 1))
    quantized = model.quantizer.decode(output.audio_codes)
    same_if_recorded(case, "quantized", channels_last(quantized), **FLOAT)
    given = model._with_semantic(quantized, None, ids, model._whole_frames(audio, None))
    same_if_recorded(case, "decoder_input", channels_last(given), **FLOAT)
    mask = torch.ones_like(audio[:, 0])
    decoded = model.decode(**output, padding_mask=mask, semantic_ids=ids).audio_values
    same_if_recorded(case, "inference.audio", decoded, **FLOAT)
    same_if_recorded(case, "forward.recon_speech", model(audio, semantic_ids=ids).audio_values, **FLOAT)
    torch.testing.assert_close(decoded, model(audio, semantic_ids=ids).audio_values, **FLOAT)


def by_segment(model, output, audio):
    """Codes `(batch, codebooks, frames)` of each segment; all rows are of one length."""
    if output.codes_mask is None:
        return output.audio_codes.split(model._slot if model.config.chunk_length else audio.shape[-1], -1)
    slots = zip(output.audio_codes.split(model._slot, -1), output.codes_mask[0].split(model._slot), strict=True)
    # A segment may not fill its slot, also before the last one.
    return [codes[..., real] for codes, real in slots]


def check_codec(case: Case, model) -> None:
    """Codes, audio and what lies between, at every rate that the case has."""
    audio = case["input_values"][:, None]
    mask = torch.ones_like(audio[:, 0])
    for rate in sorted({name.split(".")[0] for name in case.names("") if re.match(r"(full|bw\d+)\.", name)}):
        count = None if rate == "full" else quantizers_for(case, model, int(rate.removeprefix("bw")))
        output = model.encode(audio, num_quantizers=count)
        for index, codes in enumerate(by_segment(model, output, audio)):
            same_if_recorded(case, f"{rate}.segment{index}.codes", codes.transpose(0, 1))
            quantized = channels_last(model.quantizer.decode(codes))
            same_if_recorded(case, f"{rate}.segment{index}.quantized", quantized, **FLOAT)
            layers = zip(model.quantizer.layers, codes.unbind(1), strict=False)
            parts = torch.stack([layer.decode(part) for layer, part in layers])
            same_if_recorded(case, f"{rate}.sub_quants{index}", parts, **FLOAT)
        plain = None if output.audio_scales is None else torch.ones_like(output.audio_scales)
        for name, scales in ((f"{rate}.audio", output.audio_scales), (f"{rate}.audio_no_scale", plain)):
            if name in case:
                decoded = model.decode(output.audio_codes, scales, mask, output.codes_mask).audio_values
                case.same(name, cut(decoded, case[name]), **FLOAT)
    if "forward.recon_speech" in case:
        # The original's training step of a frequency domain takes lengths that it can rebuild only.
        whole = case.input("forward.input_values")[:, None] if "forward.input_values" in case else audio
        case.same("forward.recon_speech", model(whole).audio_values, **FLOAT)


def quantizers_for(case: Case, model, bits_per_second: int) -> int:
    """How many codebooks the original takes for a rate."""
    options = case.meta["config"]["quantizer_conf"]
    frame_rate = options.get("sampling_rate", 24_000) / options.get("encoder_hop_length", 320)
    count = math.floor(bits_per_second / (math.log2(model.config.codebook_size) * frame_rate))
    return min(max(1, count), model.config.num_quantizers)


def cut(audio, expected):
    """`inference()` cuts its audio to the input's length, and does not fill it up to that."""
    return audio[..., : expected.shape[-1]]


def check_decoding(case: Case, model) -> None:
    for kind in ("", "partial_"):
        if f"decode.{kind}tokens" in case:
            codes = case.input(f"decode.{kind}tokens").transpose(1, 2)
            scales = torch.ones(len(codes), 1) if model.config.normalize else None
            same_if_recorded(
                case, f"decode.{kind}audio", model.decode(codes, audio_scales=scales).audio_values, **FLOAT
            )
    if "decode.audio_from_embeddings" in case:
        latents = model.quantizer.decode(case["decode.tokens"].transpose(1, 2))
        case.same("decode.audio_from_embeddings", model._decode_latents(latents), **FLOAT)


def check_training_step(case: Case, model) -> None:
    quantizer = model.quantizer.train()
    latents = channels_last(case["segment0.latents"]).clone().requires_grad_()
    output = quantizer(latents)
    case.same("train.codes", output.codes.transpose(0, 1))
    case.same("train.quantized", channels_last(output.quantized.detach()), **FLOAT)
    case.same("train.commit_loss", output.commitment_loss.detach(), **FLOAT)
    weighted = (channels_last(output.quantized) * case.input("train.output_weight")).sum()
    (gradient,) = torch.autograd.grad(weighted + output.commitment_loss, latents)
    case.same("train.grad_latents", channels_last(gradient), **FLOAT)
    for name in case.names("train.after."):
        buffer = name.removeprefix("train.after.")
        case.same(name, torch.stack([getattr(layer.codebook, buffer) for layer in quantizer.layers]), **FLOAT)


def check_losses(case: Case, model) -> None:
    """The losses of the original's training forward in evaluation, but for those of the discriminator."""
    audio = funcodec_losses.waveforms(case)[1]
    error = supervision = torch.zeros(())
    for segment in segments_of(model, audio):
        latents = encoder_latents(model, segment)
        added = 0.0
        if model.config.semantic_mode in ("residual", "addition"):
            added = model.semantic(semantic_ids(case), latents.shape[-1], model._whole_frames(segment, None))
        taken_off = added if model.config.semantic_mode == "residual" else 0.0
        quantized = model.quantizer.decode(model.quantizer.encode(latents - taken_off))
        # The semantic part is in what the original compares here.
        error = error + (quantized + added - latents).square().mean().square()
        if model.config.semantic_mode == "supervision":
            first = model.quantizer.layers[0]
            logits = model.classifier(first.decode(first.encode(latents)))
            supervision = supervision + model.classifier.loss(logits, semantic_ids(case))
    same_if_recorded(case, "gen.ppg_supervision_loss", supervision[None], **FLOAT)
    funcodec_losses.check_losses(case)
    funcodec_losses.check_quantization(case, error)


def check_discriminator(case: Case, weights: Path) -> None:
    config = DISCRIMINATOR.config_from_original(case.meta["config"]["discriminator_conf"])
    discriminator = load_original(DISCRIMINATOR, weights, config)
    for side in ("real", "fake"):
        if f"disc.{side}_input" not in case:
            continue
        output = discriminator(case.input(f"disc.{side}_input"))
        for part, (logits, maps) in enumerate(zip(output.logits, output.feature_maps, strict=True)):
            if config.parts[part]["kind"] == "period":
                logits = logits.flatten(1)
            same_if_recorded(case, f"disc.{side}.{part}.logits", logits, **FLOAT)
            means = torch.stack([feature_map.abs().mean() for feature_map in maps])
            same_if_recorded(case, f"disc.{side}.{part}.feat_abs_means", means, **FLOAT)
    if "forward.recon_speech" in case:
        fake, real = (discriminator(audio) for audio in funcodec_losses.waveforms(case))
        funcodec_losses.check_adversarial(case, real, fake)
