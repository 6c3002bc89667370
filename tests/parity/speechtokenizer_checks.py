"""SpeechTokenizer against the original: codec, spans of codebooks, features, a training step; losses in their file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

import codec_lm_hf
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import load_original
from codec_lm_hf.modeling.discriminators import DiscriminatorOutput
from codec_lm_hf.modeling.layers.lstm import ResidualLSTM
from codec_lm_hf.training.losses import distillation_loss
from tests.parity.harness import Case, maps_with_logits, parts_of
from tests.parity.speechtokenizer_losses import FAMILIES, check_adversarial, check_losses

# The tolerances of case.json.
AUDIO = {"atol": 2e-5, "rtol": 1e-4}
GRADIENT = {"atol": 1e-6, "rtol": 1e-3}
LOSS = {"atol": 0.0, "rtol": 1e-4}
DISCRIMINATOR_TOLERANCE = {"atol": 1e-6, "rtol": 1e-3}


def check(case: Case, workspace: Path) -> None:
    model = converted(case, workspace).eval()
    with torch.no_grad():
        check_codec(case, model)
        check_spans(case, model)
        check_forward(case, model)
        if "slstm.x" in case:
            check_lstm(case, model)
        if "discriminator_config" in case.meta:
            check_discriminator(case)
    check_losses(case)
    check_training_step(case, converted(case, workspace / "training").train(), model)


def converted(case: Case, workspace: Path):
    config = case.folder / "config.json"
    assert json.loads(config.read_text()) == case.meta["config"]
    checkpoint = case.folder / "SpeechTokenizer.pt"
    folder = codec_lm_hf.convert("speechtokenizer", checkpoint, workspace / "codec", config=config)
    return codec_lm_hf.AutoCodecModel.from_pretrained(folder)


def check_codec(case: Case, model) -> None:
    audio = case.input("input_values")
    case.same("encoder_out", model._encode_latents(audio), **AUDIO)
    codes = model.encode(audio).audio_codes
    case.same("codes", codes.transpose(0, 1))
    case.same("audio", model.decode(codes).audio_values, **AUDIO)
    case.same("quantized", model.quantizer.decode(codes), **AUDIO)
    for name in case.names("codes.nq"):
        count = int(name[len("codes.nq") :])
        fewer = model.encode(audio, num_quantizers=count).audio_codes
        case.same(name, fewer.transpose(0, 1))
        case.same(f"audio.nq{count}", model.decode(fewer).audio_values, **AUDIO)
    for name in case.names("short"):
        length, what = re.fullmatch(r"short(\d+)\.(.+)", name).groups()
        codes = model.encode(audio[:1, :, : int(length)]).audio_codes
        if what == "codes":
            case.same(name, codes.transpose(0, 1))
        else:
            case.same(name, model.decode(codes).audio_values, **AUDIO)


def check_spans(case: Case, model) -> None:
    """`st` is our `first_quantizer`; `n_q` the end of a span, not its length."""
    audio, codes = case.input("input_values"), case["codes"].transpose(0, 1)
    for name in case.names("codes.st"):
        first, end = (int(number) for number in re.fullmatch(r"codes\.st(\d+)\.nq(\d+)", name).groups())
        span = model.encode(audio, num_quantizers=end - first, first_quantizer=first).audio_codes
        case.same(name, span.transpose(0, 1))
        if f"audio{name[5:]}" in case:
            audio_of_span = model.decode(span, first_quantizer=first).audio_values
            case.same(f"audio{name[5:]}", audio_of_span, **AUDIO)
    for name in case.names("audio.layers"):
        first, last = (int(number) for number in re.fullmatch(r"audio\.layers(\d+)to(\d+)", name).groups())
        span = model.decode(codes[:, first : last + 1], first_quantizer=first)
        case.same(name, span.audio_values, **AUDIO)


def check_forward(case: Case, model) -> None:
    """The original's forward() does not cut its audio; ours does, so what it decodes is compared beside it."""
    audio, codes = case.input("input_values"), case["codes"].transpose(0, 1)
    for name in case.names("forward."):
        count, what = re.fullmatch(r"forward\.(?:nq(\d+)\.)?(audio|feature|commit_loss)", name).groups()
        output = model(audio, num_quantizers=None if count is None else int(count))
        if what == "audio":
            case.same(name, whole_decoded(case, name, model, output), **AUDIO)
        elif what == "feature":
            case.same(name, output.semantic_features, **AUDIO)
            torch.testing.assert_close(model.semantic_features(output.audio_codes[:, :1]), output.semantic_features)
        else:
            # Out of training the original's loss is zero, ours is not there.
            assert case.input(name) == 0
            assert output.commitment_loss is None
    for name in case.names("forward_feature."):
        index = int(re.fullmatch(r"forward_feature\.(?:sel)?(\d+)", name)[1])
        case.same(name, model.quantizer.decode(codes[:, index : index + 1], first=index), **AUDIO)


def whole_decoded(case: Case, name: str, model, output):
    """Audio of all frames of `output`, after checking that `output.audio_values` is its beginning."""
    samples = case["input_values"].shape[-1]
    torch.testing.assert_close(output.audio_values.detach(), case[name][..., :samples], **AUDIO)
    return model.decode(output.audio_codes).audio_values


def check_lstm(case: Case, model) -> None:
    (lstm,) = [layer for layer in model.encoder.modules() if isinstance(layer, ResidualLSTM)]
    case.same("slstm.y", lstm(case.input("slstm.x")), **AUDIO)


def check_training_step(case: Case, model, untrained) -> None:
    """One forward pass in training mode: its outputs are those of the codebooks before it, then these move."""
    prefix = "train.before.vq.layers."
    for name in case.names(prefix):
        layer, buffer = name[len(prefix) :].split("._codebook.")
        case.same(name, getattr(model.quantizer.layers[int(layer)].codebook, buffer))
    audio = case.input("input_values").clone().requires_grad_()
    output = model(audio)
    with torch.no_grad():
        case.same("train.audio", whole_decoded(case, "train.audio", untrained, output), **AUDIO)
    case.same("train.commit_loss", output.commitment_loss.detach(), **LOSS)
    case.same("train.feature", output.semantic_features.detach(), **AUDIO)
    distillation = distillation_loss(output.semantic_features, case.input("train.semantic"))
    case.same("train.distill_loss", distillation.detach(), **LOSS)
    (gradient,) = torch.autograd.grad(output.commitment_loss, audio, retain_graph=True)
    case.same("train.grad_commit", gradient, **GRADIENT)
    (gradient,) = torch.autograd.grad(distillation, audio)
    case.same("train.grad_distill", gradient, **GRADIENT)
    prefix = "train.after.vq.layers."
    for name in case.names(prefix):
        layer, buffer = name[len(prefix) :].split("._codebook.")
        case.same(name, getattr(model.quantizer.layers[int(layer)].codebook, buffer), **AUDIO)


def check_discriminator(case: Case) -> None:
    config = DISCRIMINATOR.config_from_original(case.meta["discriminator_config"])
    model = load_original(DISCRIMINATOR, case.folder / "discriminators.pt", config)
    real, fake = (model(case.input(f"disc.{side}")) for side in ("real", "fake"))
    for family, kind in FAMILIES.items():
        check_parts(case, family, *(parts_of(model, side, kind) for side in (real, fake)))
    check_adversarial(case, model, real, fake)


def check_parts(case: Case, family: str, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """The original flattens the logits of all but the spectral parts, and counts them among the feature maps."""
    spectral = family == "mstftd"
    for side, output in (("real", real), ("fake", fake)):
        for index, logits in enumerate(output.logits):
            scores = logits if spectral else logits.flatten(1)
            case.same(f"disc.{family}.{index}.{side}", scores, **DISCRIMINATOR_TOLERANCE)
    for index, maps in enumerate(real.feature_maps if spectral else maps_with_logits(real)):
        for place, feature_map in enumerate(maps):
            case.same(f"disc.{family}.{index}.fmap.{place}", feature_map, **DISCRIMINATOR_TOLERANCE)
