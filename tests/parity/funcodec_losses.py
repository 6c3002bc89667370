"""FunCodec's losses against the original; `funcodec_checks.py` calls these."""

from __future__ import annotations

import torch
from torch import Tensor

from codec_lm_hf.modeling.discriminators import DiscriminatorOutput
from codec_lm_hf.training.losses import (
    MultiScaleMelLoss,
    MultiScaleStftLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    time_l1,
)
from tests.parity.harness import Case

# The tolerances of case.json.
LOSS = {"atol": 1e-4, "rtol": 1e-3}
KIND = "hinge"
# Of each loss: the name of its weight in the original's configuration, and the original's default.
WEIGHTS = {
    "gen.generator_recon_loss": ("recon_loss_weight", 1.0),
    "gen.generator_multi_spectral_recon_loss": ("multi_spectral_recon_loss_weight", 1.0),
    "gen.generator_adv_loss": ("adversarial_loss_weight", 1 / 9),
    "gen.generator_feat_match_loss": ("feat_match_loss_weight", 100 / 9),
    "gen.generator_commit_loss": ("commit_loss_weight", 1.0),
    "gen.generator_enc_quant_loss": ("enc_quant_loss_weight", 1.0),
    "gen.ppg_supervision_loss": (None, 1.0),
}
# Of models that no recipe trains; the cases have them off.
UNUSED = ("gen.context_loss", "gen.context_pred_acc")


def waveforms(case: Case) -> tuple[Tensor, Tensor]:
    """What the original's training forward made, and what it was given: `(batch, 1, samples)` each."""
    given = "forward.input_values" if "forward.input_values" in case else "input_values"
    return case["forward.recon_speech"], case[given][:, None]


def check_losses(case: Case) -> None:
    """Every loss that needs neither a discriminator nor the codec."""
    audio, target = waveforms(case)
    case.same("gen.generator_recon_loss", time_l1(audio, target)[None], **LOSS)
    settings = case.meta["config"]["model_conf"]
    case.same("gen.generator_multi_spectral_recon_loss", spectral_loss(settings, audio, target)[None], **LOSS)
    terms = [settings.get(key, default) * case[name] for name, (key, default) in WEIGHTS.items() if name in case]
    case.same("gen.generator_loss", torch.stack(terms).sum(0), **LOSS)
    for name in UNUSED:
        if name in case:
            case.same(name, torch.zeros(1))


def spectral_loss(settings: dict, audio: Tensor, target: Tensor) -> Tensor:
    if settings.get("multi_spectral_recon_loss_weight", 1.0) == 0:
        return torch.zeros(())
    sizes = [2**power for power in settings.get("multi_spectral_window_powers_of_two", range(5, 11))]
    # The original's FFT is this long whatever the window.
    options = {"n_ffts": [1024] * len(sizes), "terms": {"log": 1.0, "log_square": 1.0}}
    options |= {"padding": "whole_hops", "power": 2}
    bands = [settings.get("multi_spectral_n_mels", 64)] * len(sizes)
    librosa = {"mel_scale": "slaney", "mel_norm": "slaney"}
    rate = settings.get("target_sample_hz", 24_000)
    loss = MultiScaleMelLoss(rate, sizes, bands, floor=1e-5, **librosa, **options)(audio, target)
    if settings.get("use_power_spec_loss", False):
        stft_loss = MultiScaleStftLoss(sizes, log_floor=1e-5, natural_log=False, **options)
        loss = 0.5 * loss + 0.5 * stft_loss(audio, target)
    return loss


def check_quantization(case: Case, error: Tensor) -> None:
    """What the original says of its quantizer in evaluation.

    Its squared mean square error is a figure in the log only: with straight-through values its gradient is zero.
    """
    case.same("gen.generator_enc_quant_loss", error[None], **LOSS)
    case.same("gen.generator_commit_loss", torch.zeros(1))


def check_adversarial(case: Case, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """The losses from what the discriminator says of `waveforms`, not of `disc.real_input` and `disc.fake_input`."""
    case.same("disc.loss", discriminator_loss(KIND, real.logits, fake.logits)[None], **LOSS)
    case.same("gen.generator_adv_loss", adversarial_loss(KIND, fake.logits)[None], **LOSS)
    start = max(0, case.meta["config"]["model_conf"].get("feat_match_layer_start", 0))
    compared = [[maps[start:] for maps in side.feature_maps] for side in (real, fake)]
    loss = feature_matching_loss(*compared, relative=False)
    case.same("gen.generator_feat_match_loss", loss[None], **LOSS)
