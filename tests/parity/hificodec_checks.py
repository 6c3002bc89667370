"""HiFi-Codec against the original: codec, the quantizer's gradients, discriminators and their losses."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import codec_lm_hf
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import load_original
from codec_lm_hf.modeling.discriminators import DiscriminatorOutput
from tests.parity import hificodec_losses as losses
from tests.parity.harness import Case, maps_with_logits, parts_of

# The tolerances of case.json.
FLOAT = {"atol": 1e-4, "rtol": 1e-3}


def check(case: Case, workspace: Path) -> None:
    checkpoint, discriminator = only(case, "HiFi-Codec-*", "g_*"), only(case, "do_*")
    narrowed = {name: case.meta["config"].get(name) for name in ("latent_dim", "encoder_base_channels")}
    config = json.loads((case.folder / "config.json").read_text())
    config |= {name: width for name, width in narrowed.items() if width is not None}
    folder = codec_lm_hf.convert("hificodec", checkpoint, workspace / "codec", config=config)
    model = codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval()
    with torch.no_grad():
        check_codec(case, model)
        if discriminator is not None:
            check_discriminator(case, discriminator)
    check_training(case, model)


def only(case: Case, *patterns: str) -> Path | None:
    """The one file of such a name; training counts its files by steps."""
    paths = [path for pattern in patterns for path in case.folder.glob(pattern)]
    assert len(paths) <= 1
    return paths[0] if paths else None


def check_codec(case: Case, model) -> None:
    audio = case.input("input_values")[:, None]
    case.same("latents", model._encode_latents(audio), **FLOAT)
    codes = model.encode(audio).audio_codes
    case.same("codes", codes.transpose(1, 2))
    case.same("embed", model.quantizer.decode(codes), **FLOAT)
    case.same("quantized_first_layer", model.quantizer.decode(codes[:, : model.config.num_code_groups]), **FLOAT)
    case.same("audio", model.decode(codes).audio_values, **FLOAT)
    if "audio_from_quantized" in case:
        case.same("audio_from_quantized", model._decode_latents(case["quantized"]), **FLOAT)


def check_training(case: Case, model) -> None:
    if "latents" not in case:
        return
    latents = case["latents"].clone().requires_grad_()
    output = model.quantizer(latents)
    settings = case.meta["config"]["json"]
    loss = settings["codebook_loss_lambda"] * output.codebook_loss
    loss = loss + settings["commitment_loss_lambda"] * output.commitment_loss
    case.same("quantized", output.quantized.detach(), **FLOAT)
    case.same("loss.quantizer", loss.detach(), **FLOAT)
    case.same("train.loss", loss.detach(), **FLOAT)
    if "train.output_weight" not in case:
        return
    ((output.quantized * case.input("train.output_weight")).sum() + 10 * loss).backward()
    case.same("train.grad_latents", latents.grad, **FLOAT)
    for index, layer in enumerate(model.quantizer.layers):
        level, group = divmod(index, model.config.num_code_groups)
        name = f"train.grad.quantizer_modules{'2' * level}.{group}.embedding.weight"
        case.same(name, layer.codebook.embed.grad, **FLOAT)


def check_discriminator(case: Case, checkpoint: Path) -> None:
    widths = case.meta["config"]["discriminator_widths"]
    config = {"mpd": {"ch": widths["period"]}, "msd": {"ch": widths["scale"]}, "mstftd": widths["mstftd"]}
    model = load_original(DISCRIMINATOR, checkpoint, DISCRIMINATOR.config_from_original(config))
    if "disc.real_input" not in case:
        return
    real, fake = (model(case.input(f"disc.{side}_input")) for side in ("real", "fake"))
    losses.check_adversarial(case, model, real, fake)
    for family, kind in losses.FAMILIES.items():
        check_scores(case, family, *(parts_of(model, side, kind) for side in (real, fake)))


def check_scores(case: Case, family: str, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    # The original counts the logits of all but the spectral parts among the feature maps, and flattens them.
    maps = real.feature_maps if family == "mstftd" else maps_with_logits(real)
    for index in range(len(real.logits)):
        for side, output in (("real", real), ("fake", fake)):
            logits = output.logits[index]
            case.same(
                f"disc.{family}.{side}.{index}.score", logits if family == "mstftd" else logits.flatten(1), **FLOAT
            )
        means = torch.stack([feature_map.abs().mean() for feature_map in maps[index]])
        case.same(f"disc.{family}.real.{index}.feat_abs_means", means, **FLOAT)
