"""DAC's losses against the original; `dac_checks.py` calls these."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

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
    window, hop = numbers(case, "loss.stft_mag", r"stft\((\d+), (\d+)\)")
    case.same("loss.stft_mag", Spectrogram(window, hop, padding="reflect")(audio), **SPECTRUM)
    matched = Spectrogram(window, hop, padding="begun_hops").spectrum(audio)
    case.same("loss.stft_match_stride", torch.view_as_real(matched), **SPECTRUM)
    bands, window, hop = numbers(case, "loss.mel_spec", r"(\d+) bands, (\d+)/(\d+)")
    case.same("loss.mel_spec", MelSpectrogram(rate, window, bands, hop_length=hop, **MEL)(audio), **SPECTRUM)
    case.same("loss.mel", mel_loss(rate, audio, target, **meta["mel"]), **LOSS)
    case.same("loss.stft", stft_loss(audio, target, **meta["stft"]), **LOSS)
    case.same("loss.l1", time_l1(audio, target), **LOSS)
    # The case calls the original as its other losses, estimate first; it takes the first argument for the target.
    case.same("loss.sisdr", si_sdr_loss(target, audio), **LOSS)


def numbers(case: Case, name: str, pattern: str) -> list[int]:
    """What the case says that a tensor was made with."""
    return [int(number) for number in re.search(pattern, case.meta["tensors"][name]).groups()]


def stft_loss(
    audio: Tensor,
    target: Tensor,
    window_lengths: Sequence[int] = (2048, 512),
    clamp_eps: float = 1e-5,
    mag_weight: float = 1.0,
    log_weight: float = 1.0,
    pow: float = 2.0,
    match_stride: bool = False,
) -> Tensor:
    """The original's `MultiScaleSTFTLoss` by its own arguments, of which it does not use the last."""
    loss = MultiScaleStftLoss(
        window_lengths,
        # A logarithm of powers is so many times that of magnitudes.
        terms={"log": pow * log_weight, "linear": mag_weight},
        scale_weights=[1.0] * len(window_lengths),
        padding="reflect",
        log_floor=clamp_eps,
        natural_log=False,
    )
    return loss(audio, target)


def mel_loss(
    rate: int,
    audio: Tensor,
    target: Tensor,
    n_mels: Sequence[int] = (150, 80),
    window_lengths: Sequence[int] = (2048, 512),
    clamp_eps: float = 1e-5,
    mag_weight: float = 1.0,
    log_weight: float = 1.0,
    pow: float = 2.0,
    match_stride: bool = False,
    mel_fmin: Sequence[float] = (0.0, 0.0),
    mel_fmax: Sequence[float | None] = (None, None),
) -> Tensor:
    """The original's `MelSpectrogramLoss` by its own arguments; as many scales as the shortest list has."""
    losses = [
        MultiScaleMelLoss(
            rate,
            [window],
            [bands],
            floor=clamp_eps,
            terms={"log": pow * log_weight, "linear": mag_weight},
            min_frequency=lowest,
            max_frequency=highest,
            **MEL,
        )
        for bands, window, lowest, highest in zip(n_mels, window_lengths, mel_fmin, mel_fmax, strict=False)
    ]
    return sum(loss(audio, target) for loss in losses)


def check_adversarial(case: Case, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """The losses from what the discriminator says of `disc.real` and `disc.fake`."""
    case.same("loss.disc", discriminator_loss(KIND, real.logits, fake.logits, "sum"), **LOSS)
    case.same("loss.gen", adversarial_loss(KIND, fake.logits, "sum"), **LOSS)
    loss = feature_matching_loss(real.feature_maps, fake.feature_maps, relative=False, reduction="sum")
    case.same("loss.feat", loss, **LOSS)
