"""AudioDec's losses against the original; `audiodec_checks.py` calls these."""

from __future__ import annotations

import math

import torch

from codec_lm_hf.modeling.discriminators import DiscriminatorOutput
from codec_lm_hf.training.losses import (
    MultiScaleMelLoss,
    MultiScaleStftLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    shape_loss,
)
from tests.parity.harness import Case, maps_with_logits

# The tolerances of case.json.
LOSS = {"atol": 1e-4, "rtol": 1e-3}
# The defaults of the original's constructors, where a configuration does not say.
ADVERSARIAL = {"average_by_discriminators": True, "loss_type": "mse"}
KINDS = {"mse": "least_squares", "hinge": "hinge"}
FEATURES = {"average_by_layers": True, "average_by_discriminators": True, "include_final_outputs": False}
MEL = {"num_mels": 80, "fmin": 80, "fmax": 7600, "log_base": 10.0}


def check_losses(case: Case) -> None:
    """Every loss that needs no discriminator."""
    audio, target = case.input("disc.fake_input"), case.input("disc.real_input")
    settings = case.meta["config"]["autoencoder"]
    mel, stft = MEL | settings["mel_loss_params"], settings["stft_loss_params"]
    # The floor is Parallel WaveGAN's, which AudioDec builds on; the case is too loud to show it.
    mel_loss = MultiScaleMelLoss(
        mel["fs"],
        mel["win_lengths"],
        [mel["num_mels"]] * len(mel["win_lengths"]),
        floor=1e-10,
        hop_lengths=mel["hop_sizes"],
        n_ffts=mel["fft_sizes"],
        min_frequency=mel["fmin"] or 0,
        max_frequency=mel["fmax"],
        mel_scale="slaney",
        mel_norm="slaney",
        padding="reflect",
        natural_log=True,
    )
    first, unit = mel_loss.spectrograms[0], math.log(mel["log_base"] or math.e)
    case.same("mel.real", first.log(first(target)).flatten(0, 1) / unit, **LOSS)
    case.same("loss.mel", mel_loss(audio, target) / unit, **LOSS)
    for name, term in {"loss.stft_sc": "convergence", "loss.stft_mag": "log"}.items():
        stft_loss = MultiScaleStftLoss(
            stft["win_lengths"],
            stft["hop_sizes"],
            stft["fft_sizes"],
            terms={term: 1.0},
            padding="reflect",
            power_floor=1e-7,
        )
        case.same(name, stft_loss(audio, target), **LOSS)
    case.same("loss.shape", shape_loss(audio, target, settings["shape_loss_params"]["winlen"]), **LOSS)


def check_adversarial(case: Case, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """The losses from what the discriminator says of `disc.real_input` and `disc.fake_input`."""
    config = case.meta["config"]["autoencoder"]
    settings = [ADVERSARIAL | config[f"{who}_adv_loss_params"] for who in ("generator", "discriminator")]
    (our_kind, ours), (kind, theirs) = (
        (KINDS[params["loss_type"]], "mean" if params["average_by_discriminators"] else "sum") for params in settings
    )
    case.same("loss.gen_adv", adversarial_loss(our_kind, fake.logits, ours), **LOSS)
    # The original gives the halves of the discriminator's loss on their own; the first is what passing for real costs.
    passing = adversarial_loss(kind, real.logits, theirs)
    case.same("loss.dis_real", passing, **LOSS)
    case.same("loss.dis_fake", discriminator_loss(kind, real.logits, fake.logits, theirs) - passing, **LOSS)


def check_features(case: Case, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """Feature matching on `disc.real_input` and `disc.fake_input`."""
    settings = FEATURES | case.meta["config"]["autoencoder"]["feat_match_loss_params"]
    final = settings["include_final_outputs"]
    sides = [maps_with_logits(side) if final else side.feature_maps for side in (real, fake)]
    layers, parts = ("mean" if settings[f"average_by_{what}"] else "sum" for what in ("layers", "discriminators"))
    each = [feature_matching_loss([r], [f], relative=False, reduction=layers) for r, f in zip(*sides, strict=True)]
    case.same("loss.feat_match", getattr(torch.stack(each), parts)(), **LOSS)
