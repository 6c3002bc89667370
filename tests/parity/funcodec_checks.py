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
    folder = codec_lm_hf.convert("funcodec", case.folder / "model.pth", workspace / "codec")
    model = codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval()
    if "full.segment1.codes" in case:
        check_segments(case, model)
        return
    with torch.no_grad():
        check_latents(case, model)
        if "ppg" in case:
            check_semantic(case, model)
        else:
            check_codec(case, model)
            check_decoding(case, model)
        check_losses(case, model)
        check_discriminator(case)
    check_training_step(case, model)


def channels_last(latents):
    return latents.transpose(1, 2)


def encoder_latents(model, audio):
    """What the encoder makes of normalised audio, without what semantic ids take off."""
    audio = audio / model._scale(audio, None)[..., None]
    return model.encoder(audio if model.analysis is None else model._planes(audio))


def check_latents(case: Case, model) -> None:
    audio = case.input("input_values")[:, None]
    scale = model._scale(audio, None)
    case.same("segment0.scale", scale, **FLOAT)
    if "frontend.features" in case:
        case.same("frontend.features", model._planes(audio / scale[..., None]), **FLOAT)
    case.same("segment0.latents", channels_last(encoder_latents(model, audio)), **FLOAT)


def check_semantic(case: Case, model) -> None:
    audio, ids = case["input_values"][:, None], case.input("ppg")
    steps = case["ppg_latents"].shape[1]
    case.same("ppg_latents", channels_last(model.semantic(ids, steps)), **FLOAT)
    output = model.encode(audio, semantic_ids=ids)
    case.same("codes", output.audio_codes.transpose(0, 1))
    quantized = model.quantizer.decode(output.audio_codes)
    case.same("quantized", channels_last(quantized), **FLOAT)
    case.same("decoder_input", channels_last(model._with_semantic(quantized, None, ids)), **FLOAT)
    decoded = model.decode(**output, semantic_ids=ids).audio_values
    if "inference.audio" in case:
        case.same("inference.audio", cut(decoded, case["inference.audio"]), **FLOAT)
    forward = model(audio, semantic_ids=ids).audio_values
    case.same("forward.recon_speech", forward, **FLOAT)
    torch.testing.assert_close(cut(decoded, forward), forward, **FLOAT)


def check_codec(case: Case, model) -> None:
    audio = case["input_values"][:, None]
    scale = model.encode(audio).audio_scales
    for name in case.names(""):
        match = re.fullmatch(r"(full|bw(\d+))\.segment0\.codes", name)
        if match is None:
            continue
        count = None if match[1] == "full" else quantizers_for(model.config, int(match[2]))
        output = model.encode(audio, num_quantizers=count)
        case.same(name, output.audio_codes.transpose(0, 1))
        quantized = model.quantizer.decode(output.audio_codes)
        case.same(f"{match[1]}.segment0.quantized", channels_last(quantized), **FLOAT)
        expected = case[f"{match[1]}.audio"]
        case.same(f"{match[1]}.audio", cut(model.decode(**output).audio_values, expected), **FLOAT)
    full = model.encode(audio)
    layers = zip(model.quantizer.layers, full.audio_codes.unbind(1), strict=True)
    case.same("full.sub_quants0", torch.stack([layer.decode(codes) for layer, codes in layers]), **FLOAT)
    plain = model.decode(full.audio_codes, audio_scales=torch.ones_like(scale)).audio_values
    case.same("full.audio_no_scale", cut(plain, case["full.audio_no_scale"]), **FLOAT)
    # The original's training step of a frequency domain takes lengths that it can rebuild only.
    whole = case.input("forward.input_values")[:, None] if "forward.input_values" in case else audio
    case.same("forward.recon_speech", model(whole).audio_values, **FLOAT)


@torch.no_grad()
def check_segments(case: Case, model) -> None:
    """Each segment's codes and gain, and the audio that the decoded segments are faded into."""
    audio = case.input("input_values")[:, None]
    output = model.encode(audio)
    # All rows are of one length; the last segment but one does not fill its slot.
    slots = zip(output.audio_codes.split(model._slot, -1), output.codes_mask[0].split(model._slot), strict=True)
    for index, (codes, real) in enumerate(slots):
        case.same(f"full.segment{index}.codes", codes[..., real].transpose(0, 1))
        case.same(f"segment{index}.scale", output.audio_scales[:, index : index + 1], **FLOAT)
    mask = torch.ones_like(audio[:, 0])
    case.same("full.audio", model.decode(**output, padding_mask=mask).audio_values, **FLOAT)


def quantizers_for(config, bits_per_second: int) -> int:
    """How many codebooks the original takes for a rate."""
    per_quantizer = math.log2(config.codebook_size) * config.sampling_rate / config.hop_length
    return max(1, math.floor(bits_per_second / per_quantizer))


def cut(audio, expected):
    """`inference()` cuts its audio to the input's length."""
    return audio[..., : expected.shape[-1]]


def check_decoding(case: Case, model) -> None:
    for tokens, audio in [("decode.tokens", "decode.audio"), ("decode.partial_tokens", "decode.partial_audio")]:
        codes = case.input(tokens).transpose(1, 2)
        case.same(audio, model.decode(codes, audio_scales=torch.ones(len(codes), 1)).audio_values, **FLOAT)
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
    funcodec_losses.check_losses(case)
    audio = funcodec_losses.waveforms(case)[1]
    latents = encoder_latents(model, audio)
    conditions = {"semantic_ids": case["ppg"]} if "ppg" in case else {}
    quantized = model.quantizer.decode(model.encode(audio, **conditions).audio_codes)
    if model.config.semantic_mode == "residual":
        # The semantic part is back in what the original compares here.
        quantized = model._with_semantic(quantized, None, case["ppg"])
    funcodec_losses.check_quantization(case, latents, quantized)


def check_discriminator(case: Case) -> None:
    config = DISCRIMINATOR.config_from_original(case.meta["config"]["discriminator_conf"])
    discriminator = load_original(DISCRIMINATOR, case.folder / "model.pth", config)
    for side in ("real", "fake"):
        output = discriminator(case.input(f"disc.{side}_input"))
        for part, (logits, maps) in enumerate(zip(output.logits, output.feature_maps, strict=True)):
            if config.parts[part]["kind"] == "period":
                logits = logits.flatten(1)
            case.same(f"disc.{side}.{part}.logits", logits, **FLOAT)
            means = torch.stack([feature_map.abs().mean() for feature_map in maps])
            case.same(f"disc.{side}.{part}.feat_abs_means", means, **FLOAT)
    fake, real = (discriminator(audio) for audio in funcodec_losses.waveforms(case))
    funcodec_losses.check_adversarial(case, real, fake)
