"""HiFi-Codec's losses against the original; `hificodec_checks.py` calls these. Its cases hold no mel spectra."""

from __future__ import annotations

from codec_lm_hf.modeling.discriminators import DiscriminatorOutput
from codec_lm_hf.training.losses import adversarial_loss, discriminator_loss, feature_matching_loss
from tests.parity.harness import Case, maps_with_logits

# The tolerances of case.json.
LOSS = {"atol": 1e-4, "rtol": 1e-3}
KIND = "least_squares"
# The original doubles the feature loss.
FEATURE_WEIGHT = 2.0


def check_adversarial(case: Case, family: str, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """The losses of a family of parts, `mpd`, `msd` or `mstftd`, on `disc.real_input` and `disc.fake_input`."""
    case.same(f"loss.{family}.disc", discriminator_loss(KIND, real.logits, fake.logits, "sum"), **LOSS)
    case.same(f"loss.{family}.gen", adversarial_loss(KIND, fake.logits, "sum"), **LOSS)


def check_features(case: Case, family: str, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> None:
    """Feature matching of a family of parts; the original counts the logits of `mpd` and `msd` among their maps."""
    sides = [maps_with_logits(side) if family != "mstftd" else side.feature_maps for side in (real, fake)]
    loss = feature_matching_loss(*sides, relative=False, reduction="sum")
    case.same(f"loss.{family}.feature", FEATURE_WEIGHT * loss, **LOSS)
