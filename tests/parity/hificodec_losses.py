"""HiFi-Codec's losses against the original; `hificodec_checks.py` calls these. Its cases hold no mel spectra."""

from __future__ import annotations

from codec_lm_hf.modeling.discriminators import CodecDiscriminator, DiscriminatorOutput
from codec_lm_hf.training.losses import adversarial_loss, discriminator_loss, feature_matching_loss
from tests.parity.harness import Case, maps_with_logits, parts_of

# The tolerances of case.json.
LOSS = {"atol": 1e-4, "rtol": 1e-3}
KIND = "least_squares"
FAMILIES = {"mpd": "period", "msd": "scale", "mstftd": "stft"}


def check_adversarial(
    case: Case, discriminator: CodecDiscriminator, real: DiscriminatorOutput, fake: DiscriminatorOutput
) -> None:
    """The losses of each family of parts, from what is said of `disc.real_input` and `disc.fake_input`."""
    for family, kind in FAMILIES.items():
        ours, theirs = (parts_of(discriminator, output, kind) for output in (fake, real))
        case.same(f"loss.{family}.disc", discriminator_loss(KIND, theirs.logits, ours.logits, "sum"), **LOSS)
        case.same(f"loss.{family}.gen", adversarial_loss(KIND, ours.logits, "sum"), **LOSS)
        # The original counts the logits of the other two among their maps, and doubles the loss.
        maps = [side.feature_maps if family == "mstftd" else maps_with_logits(side) for side in (theirs, ours)]
        feature = feature_matching_loss(*maps, relative=False, reduction="sum")
        case.same(f"loss.{family}.feature", 2 * feature, **LOSS)
