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
# Of the published recipes, as are the names.
WEIGHTS = {
    "recon_loss": 1.0,
    "multi_spectral_recon_loss": 1.0,
    "adv_loss": 1 / 9,
    "feat_match_loss": 100 / 9,
    "commit_loss": 1.0,
    "enc_quant_loss": 1.0,
}
# Of models that no recipe trains; the cases have them off.
UNUSED = ("gen.context_loss", "gen.context_pred_acc", "gen.ppg_supervision_loss")


def waveforms(case: Case) -> tuple[Tensor, Tensor]:
    """What the original's training forward made, and what it was given: `(batch, 1, samples)` each."""
    given = "forward.input_values" if "forward.input_values" in case else "input_values"
    return case["forward.recon_speech"], case[given][:, None]


def check_losses(case: Case) -> None:
    """Every loss that needs neither a discriminator nor the codec."""
    audio, target = waveforms(case)
    case.same("gen.generator_recon_loss", time_l1(audio, target)[None], **LOSS)
    settings = case.meta["config"]["model_conf"]
    sizes = [2**power for power in settings["multi_spectral_window_powers_of_two"]]
    # The original's FFT is this long whatever the window.
    options = {"n_ffts": [1024] * len(sizes), "terms": {"log": 1.0, "log_square": 1.0}}
    options |= {"padding": "whole_hops", "power": 2}
    bands = [settings["multi_spectral_n_mels"]] * len(sizes)
    librosa = {"mel_scale": "slaney", "mel_norm": "slaney"}
    mel_loss = MultiScaleMelLoss(settings["target_sample_hz"], sizes, bands, floor=1e-5, **librosa, **options)
    loss = mel_loss(audio, target)
    if settings["use_power_spec_loss"]:
        stft_loss = MultiScaleStftLoss(sizes, log_floor=1e-5, natural_log=False, **options)
        loss = 0.5 * loss + 0.5 * stft_loss(audio, target)
    case.same("gen.generator_multi_spectral_recon_loss", loss[None], **LOSS)
    terms = [weight * case[f"gen.generator_{name}"] for name, weight in WEIGHTS.items()]
    case.same("gen.generator_loss", torch.stack(terms).sum(0), **LOSS)
    for name in UNUSED:
        if name in case:
            case.same(name, torch.zeros(1))


def check_quantization(case: Case, latents: Tensor, quantized: Tensor) -> None:
    """What the original says of its quantizer in evaluation, from the latents and what the decoder makes of them.

    The squared mean square error is a figure in the log only: with straight-through values its gradient is zero.
    """
    case.same("gen.generator_enc_quant_loss", (quantized - latents).square().mean().square()[None], **LOSS)
    case.same("gen.generator_commit_loss", torch.zeros(1))


def check_adversarial(case: Case, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """The losses from what the discriminator says of `waveforms`, not of `disc.real_input` and `disc.fake_input`."""
    case.same("disc.loss", discriminator_loss(KIND, real.logits, fake.logits)[None], **LOSS)
    case.same("gen.generator_adv_loss", adversarial_loss(KIND, fake.logits)[None], **LOSS)
    loss = feature_matching_loss(real.feature_maps, fake.feature_maps, relative=False)
    case.same("gen.generator_feat_match_loss", loss[None], **LOSS)
