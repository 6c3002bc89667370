"""DAC's losses against the original; `dac_checks.py` calls these."""

from __future__ import annotations

import torch

from codec_lm_hf.modeling.discriminators import DiscriminatorOutput
from codec_lm_hf.training.losses import (
    MultiScaleMelLoss,
    MultiScaleStftLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    si_sdr_loss,
    time_l1,
)
from codec_lm_hf.training.spectrograms import MelSpectrogram, Spectrogram
from tests.parity.harness import Case

# The tolerances of case.json.
SPECTRUM = {"atol": 2e-5, "rtol": 1e-4}
LOSS = {"rtol": 1e-4}
# librosa's filters.
MEL = {"mel_scale": "slaney", "mel_norm": "slaney", "padding": "reflect"}
KIND = "least_squares"


def check_losses(case: Case) -> None:
    """Every loss that needs no discriminator."""
    audio, target = case.input("loss.x"), case.input("loss.y")
    rate, meta = case.meta["config"]["sample_rate"], case.meta["loss_config"]
    case.same("loss.stft_mag", Spectrogram(256, padding="reflect")(audio), **SPECTRUM)
    matched = Spectrogram(256, padding="begun_hops").spectrum(audio)
    case.same("loss.stft_match_stride", torch.view_as_real(matched), **SPECTRUM)
    case.same("loss.mel_spec", MelSpectrogram(rate, 512, 40, **MEL)(audio), **SPECTRUM)
    mel = meta["mel"]
    assert set(mel["mel_fmin"]) == {0} and set(mel["mel_fmax"]) == {None}
    mel_loss = MultiScaleMelLoss(
        rate,
        mel["window_lengths"],
        mel["n_mels"],
        floor=mel["clamp_eps"],
        terms={"log": mel["pow"], "linear": mel["mag_weight"]},
        scale_weights=[1.0] * len(mel["n_mels"]),
        **MEL,
    )
    case.same("loss.mel", mel_loss(audio, target), **LOSS)
    sizes = meta["stft"]["window_lengths"]
    # The original takes the logarithm of squares: twice that of magnitudes.
    stft_loss = MultiScaleStftLoss(
        sizes,
        terms={"log": 2.0, "linear": 1.0},
        scale_weights=[1.0] * len(sizes),
        padding="reflect",
        log_floor=1e-5,
        natural_log=False,
    )
    case.same("loss.stft", stft_loss(audio, target), **LOSS)
    case.same("loss.l1", time_l1(audio, target), **LOSS)
    # The case calls the original as its other losses, estimate first; it takes the first argument for the target.
    case.same("loss.sisdr", si_sdr_loss(target, audio), **LOSS)


def check_adversarial(case: Case, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """The losses from what the discriminator says of `disc.real` and `disc.fake`."""
    case.same("loss.disc", discriminator_loss(KIND, real.logits, fake.logits, "sum"), **LOSS)
    case.same("loss.gen", adversarial_loss(KIND, fake.logits, "sum"), **LOSS)
    loss = feature_matching_loss(real.feature_maps, fake.feature_maps, relative=False, reduction="sum")
    case.same("loss.feat", loss, **LOSS)
