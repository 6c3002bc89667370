"""SpeechTokenizer's losses against the original; `speechtokenizer_checks.py` calls these."""

from __future__ import annotations

from codec_lm_hf.modeling.discriminators import CodecDiscriminator, DiscriminatorOutput
from codec_lm_hf.training.losses import (
    MultiScaleMelLoss,
    adversarial_loss,
    discriminator_loss,
    distillation_loss,
    feature_matching_loss,
    time_l1,
)
from tests.parity.harness import Case, maps_with_logits, parts_of

# The tolerances of case.json.
SPECTRUM = {"atol": 2e-5, "rtol": 1e-4}
LOSS = {"rtol": 1e-4}
KIND = "least_squares"
FAMILIES = {"mpd": "period", "msd": "scale", "mstftd": "stft"}


def mel_loss_of(case: Case, scale: int | None = None) -> MultiScaleMelLoss:
    """The weighted sum over the original's scales, each half as fine as the one before; or one of them."""
    meta, rate = case.meta["loss_config"], case.meta["config"]["sample_rate"]
    weights = meta["mel_loss_lambdas"]
    scales = range(len(weights)) if scale is None else [scale]
    return MultiScaleMelLoss(
        rate,
        [meta["win_size"] // 2**place for place in scales],
        [meta["num_mels"]] * len(scales),
        floor=1e-5,
        hop_lengths=[meta["hop_size"] // 2**place for place in scales],
        n_ffts=[meta["n_fft"] // 2**place for place in scales],
        scale_weights=weights if scale is None else [1.0],
        min_frequency=meta["fmin"],
        max_frequency=meta["fmax_for_loss"],
        mel_norm="slaney",
        padding="whole_hops",
        natural_log=True,
    )


def check_losses(case: Case) -> None:
    """Every loss that needs no discriminator."""
    target, audio = case.input("loss.x"), case.input("loss.x_hat")
    for name in case.names("loss.melspec."):
        spectrogram = mel_loss_of(case, int(name.rpartition(".")[2])).spectrograms[0]
        case.same(name, spectrogram.log(spectrogram(target))[:, 0], **SPECTRUM)
    for name in case.names("loss.mel."):
        case.same(name, mel_loss_of(case, int(name.rpartition(".")[2]))(audio, target), **LOSS)
    case.same("loss.mel_total", mel_loss_of(case)(audio, target), **LOSS)
    samples = min(audio.shape[-1], target.shape[-1])
    case.same("loss.recon", time_l1(audio[..., :samples], target[..., :samples]), **LOSS)
    features, teacher = case.input("distill.feature"), case.input("distill.target")
    case.same("distill.d_axis", distillation_loss(features, teacher), **LOSS)
    frames = min(features.shape[1], teacher.shape[1])
    difference = time_l1(features[:, :frames], teacher[:, :frames])
    similarity = distillation_loss(features, teacher, axis="time") - difference
    case.same("distill.t_axis_intended", difference + case.meta["loss_config"]["lambda_sim"] * similarity, **LOSS)


def check_adversarial(
    case: Case, discriminator: CodecDiscriminator, real: DiscriminatorOutput, fake: DiscriminatorOutput
) -> None:
    """The losses of each family of parts, from what the discriminator says of `disc.real` and `disc.fake`."""
    for family, kind in FAMILIES.items():
        ours, theirs = (parts_of(discriminator, output, kind) for output in (fake, real))
        case.same(f"loss.disc.{family}", discriminator_loss(KIND, theirs.logits, ours.logits, "sum"), **LOSS)
        case.same(f"loss.adv.{family}", adversarial_loss(KIND, ours.logits, "sum"), **LOSS)
        # The original counts the logits of the other two among their maps, and doubles the loss.
        maps = [side.feature_maps if family == "mstftd" else maps_with_logits(side) for side in (theirs, ours)]
        feature = feature_matching_loss(*maps, relative=False, reduction="sum")
        case.same(f"loss.feat.{family}", 2 * feature, **LOSS)
